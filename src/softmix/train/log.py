"""What a run writes down as it goes: log.jsonl; and what depends on the clock, speed.jsonl."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

LOG, SPEED = "log.jsonl", "speed.jsonl"


def write(place: Path, text: str) -> None:
    """Writes a small file so that it is the old one or the new one at every instant."""
    aside = place.with_name(place.name + ".tmp")
    with open(aside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(place)


def log_of(run: Path, name: str = LOG) -> list[dict[str, Any]]:
    """The lines of a run's log, without what is no line of it: the last may be cut off, and a file may be damaged."""
    if not (run / name).exists():
        return []
    found = []
    for line in (run / name).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            found.append(value)
    return found


def forget(out: Path, step: int) -> None:
    """Drops the lines of steps that will be taken again."""
    for name in (LOG, SPEED):
        if (out / name).exists():
            lines = [json.dumps(line) for line in log_of(out, name) if line["step"] <= step]
            write(out / name, "".join(line + "\n" for line in lines))


def add(out: Path, name: str, line: dict[str, object]) -> None:
    with open(out / name, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
