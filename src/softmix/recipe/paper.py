"""A paper, its verdict, and the rows of a verdict."""

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
    """How much a recipe computes.

    quick : under two minutes on two cores.
    full  : enough samples, counts and seeds to judge the claim.
    """

    quick = "quick"
    full = "full"


@dataclass(frozen=True)
class Paper(Reference):
    """A paper with its claim in one sentence."""

    claim: str

    @classmethod
    def of(cls, name: str, claim: str) -> Paper:
        """The paper of this name in the bibliography."""
        return cls(**asdict(REFERENCES[name]), claim=claim)


Role = Literal["ours", "baseline", "rival", "control", "oracle", "floor"]
Outcome = Literal["holds", "holds in part", "does not hold here"]


@dataclass(frozen=True)
class VerdictRow:
    """One number of a verdict.

    name   : of the arm.
    role   : of the arm in the argument.
    metric : for example "frechet@4", at 4 evaluations.
    value  : the mean over seeds.
    spread : the standard deviation over seeds, 0 for a single one.
    seeds  : the number of seeds.
    data   : the data set, if a verdict has several.
    """

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
    """The outcome of a recipe.

    claim   : of the paper.
    verdict : the outcome.
    why     : the checks, each as a sentence; "NOT: " marks those that failed.
    rows    : all numbers.
    seconds : the duration of the run.
    machine : versions, threads and processor of the run.
    """

    claim: str
    verdict: Outcome
    why: str
    rows: tuple[VerdictRow, ...]
    seconds: float
    machine: Mapping[str, str | int] = field(default_factory=_machine)

    @classmethod
    def load(cls, path: Path) -> Verdict:
        """Read the file that `save` wrote."""
        saved = json.loads(path.read_text())
        return cls(**saved | {"rows": tuple(VerdictRow(**each) for each in saved["rows"])})

    def table(self) -> str:
        """The rows as text, a table for each data set: one line for each arm, one column for each metric."""
        return "\n\n".join(
            (f"{data}\n" if data else "") + _table([row for row in self.rows if row.data == data])
            for data in dict.fromkeys(row.data for row in self.rows)
        )

    def save(self, path: Path) -> None:
        """Write it as JSON."""
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
    """Cells in columns: the first two columns align left, the others right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
