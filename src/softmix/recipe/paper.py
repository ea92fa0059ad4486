"""What a paper, a verdict and its rows are."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal

import torch

from ..bibliography import REFERENCES, Reference
from ..version import __version__


class Scale(Enum):
    """quick: under two minutes on two cores. full: what the claim deserves."""

    quick = "quick"
    full = "full"


@dataclass(frozen=True)
class Paper(Reference):
    """A paper of the collection with its claim in one sentence."""

    claim: str

    @classmethod
    def of(cls, name: str, claim: str) -> Paper:
        """The paper of this name in the bibliography."""
        return cls(**asdict(REFERENCES[name]), claim=claim)


Role = Literal["ours", "baseline", "rival", "control", "oracle", "floor"]
Outcome = Literal["holds", "holds in part", "does not hold here"]


@dataclass(frozen=True)
class VerdictRow:
    """One number: whose, of what kind, which metric, its mean and spread (standard deviation over seeds), on which
    data, where a verdict rests on several."""

    name: str
    role: Role
    metric: str
    value: float
    spread: float
    seeds: int
    data: str = ""


def _machine() -> dict[str, str | int]:
    return {
        "softmix": __version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
    }


@dataclass(frozen=True)
class Verdict:
    """What came out, with all numbers that it rests on, and where it was run."""

    claim: str
    verdict: Outcome
    why: str
    rows: tuple[VerdictRow, ...]
    seconds: float
    machine: Mapping[str, str | int] = field(default_factory=_machine)

    @classmethod
    def load(cls, path: Path) -> Verdict:
        """What `save` wrote."""
        kept = json.loads(path.read_text())
        return cls(**kept | {"rows": tuple(VerdictRow(**each) for each in kept["rows"])})

    def table(self) -> str:
        """The rows as text, a table for each data: one line for each name, one column for each metric."""
        return "\n\n".join(
            (f"{data}\n" if data else "") + _table([row for row in self.rows if row.data == data])
            for data in dict.fromkeys(row.data for row in self.rows)
        )

    def save(self, path: Path) -> None:
        """As JSON: claim, verdict, why, rows, and the machine."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def _table(rows: Sequence[VerdictRow]) -> str:
    metrics = list(dict.fromkeys(row.metric for row in rows))
    names = list(dict.fromkeys((row.role, row.name) for row in rows))
    # Frechet distances run from less than 1 to hundreds
    cells = {
        (row.name, row.metric): _number(row.value) + (f"±{_number(row.spread)}" if row.seeds > 1 else "")
        for row in rows
    }
    lines = [["", "", *metrics]]
    lines += [[role, name, *(cells.get((name, metric), "") for metric in metrics)] for role, name in names]
    return align(lines)


def _number(value: float) -> str:
    if 0 < abs(value) < 1e-3:
        return f"{value:.0e}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def align(lines: Sequence[Sequence[str]]) -> str:
    """Cells in columns: the first two to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
