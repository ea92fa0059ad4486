"""The logs of a run: log.jsonl, and speed.jsonl for the values that depend on the clock."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

LOG, SPEED = "log.jsonl", "speed.jsonl"


def write_atomically(place: Path, text: str) -> None:
    """Write a small file. At every instant it is the old file or the new one."""
    aside = place.with_name(place.name + ".tmp")
    with open(aside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(place)


def log_of(run: Path, name: str = LOG) -> list[dict[str, Any]]:
    """Read the lines of a run's log. A line that is cut off or damaged is left out."""
    if not (run / name).exists():
        return []
    lines = []
    for text in (run / name).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def drop_after(out: Path, step: int) -> None:
    """Remove the log lines of the steps after `step`, which will be taken again."""
    for name in (LOG, SPEED):
        if (out / name).exists():
            lines = [json.dumps(line) for line in log_of(out, name) if line["step"] <= step]
            write_atomically(out / name, "".join(line + "\n" for line in lines))


def append(out: Path, name: str, line: dict[str, object]) -> None:
    """Add a line to a log."""
    with open(out / name, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
