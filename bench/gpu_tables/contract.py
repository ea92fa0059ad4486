"""The contract of a table, and the settings that all tables share."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from clock import seconds_each

from softmix.data import Data, DataError, Report, load
from softmix.data.store import make
from softmix.net import UNetSpec
from softmix.train import Config, preset

Row = dict[str, Any]
PEER = Path(__file__).parent.parent / "peer.py"


@dataclass(frozen=True)
class Bench:
    """The settings of one run of the program.

    device : of all work.
    quick : small networks and batches, and nothing that takes long. It shows that the program runs, and no speed.
    seconds : the length of the measurement of a row.
    python : the Python of the environment that has the other libraries.
    folder : for the runs of the tables.
    """

    device: torch.device
    quick: bool
    seconds: float
    python: Path = Path(sys.executable)
    folder: Path = Path("runs/gpu")

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def net(self) -> UNetSpec:
        """The network of the training tables: 1.8 million parameters for images of 28 x 28."""
        return UNetSpec(width=16, depth=1) if self.quick else UNetSpec(width=64, depth=1)

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes of the training tables, the most important first."""
        return (8, 4) if self.quick else (512, 64)

    def each(self, call: Callable[[], object], warm: int = 3) -> float:
        """The seconds of a call."""
        return seconds_each(call, self.device, self.seconds, 1 if self.quick else warm)

    def free(self) -> None:
        """Give back the memory of trainers that are no longer used."""
        gc.collect()
        if self.gpu:
            torch.cuda.empty_cache()

    def config(self, batch: int, **changes: Any) -> Config:
        """The plain configuration of the training tables."""
        base = preset("plain", (1, 28, 28)).but(net=self.net, batch=batch, steps=10**6, precision="bf16")
        return base.but(**changes)

    def images(self, count: int = 60_000, side: int = 28) -> Data:
        """The first images of Fashion-MNIST; noise with labels in ten classes if they are not installed."""
        try:
            return load("fashion-mnist", size=side, limit=count)
        except DataError:
            generator = torch.Generator().manual_seed(0)
            values = torch.randint(0, 256, (count, 1, side, side), dtype=torch.uint8, generator=generator)
            classes = tuple(map(str, range(10)))
            return make("noise", values, torch.arange(count) % 10, classes, Report(read=count))


@dataclass(frozen=True)
class Table:
    """A table of the program.

    title : what it shows, with the units.
    note : the conditions that a reader must know.
    rows : yields its rows one after another. A row may end the table early: the program stops it at its budget.
    budget : the seconds after which no further row is begun.
    """

    title: str
    note: str
    rows: Callable[[Bench], Iterator[Row]]
    budget: float = 60.0


@dataclass
class Outcome:
    """The rows of a table, and a sentence if it was not finished."""

    title: str
    note: str
    rows: list[Row] = field(default_factory=list)
    problem: str = ""
    seconds: float = 0.0

    def markdown(self) -> str:
        """The table, with its note. Columns are in the order in which rows name them."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        lines = [f"### {self.title}", "", self.note, ""]
        if self.rows:
            lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
            lines += ["| " + " | ".join(cell(row.get(name, "")) for name in columns) + " |" for row in self.rows]
        if self.problem:
            lines += ["", f"Not complete: {self.problem}"]
        return "\n".join(lines) + "\n"

    def record(self) -> dict[str, Any]:
        return asdict(self)


def cell(value: object) -> str:
    """A number with three digits or more; a text as it is; empty for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def line_of(row: Row) -> str:
    """A row as one line of progress."""
    return "  " + ", ".join(f"{name} {cell(value)}" for name, value in row.items() if cell(value))


def measured(table: Table, bench: Bench, factor: float, look: Callable[[Outcome], None]) -> Outcome:
    """Run a table. An error ends it with a sentence, and so does the end of its budget.

    factor : of the budget.
    look : called after each row.
    """
    outcome, began, limit = Outcome(table.title, table.note), time.perf_counter(), table.budget * factor
    try:
        for row in table.rows(bench):
            outcome.rows.append(row)
            outcome.seconds = time.perf_counter() - began
            look(outcome)
            if outcome.seconds > limit:
                outcome.problem = f"the budget of {limit:.0f} s ended after this row; more may follow"
                break
    except Exception as error:  # one table that fails must not take the others with it
        outcome.problem = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
    bench.free()
    return outcome


def peer(bench: Bench, arguments: Sequence[object], seconds: float) -> Iterator[Row]:
    """The lines that bench/peer.py prints, as they come. The last row has `problem` if it failed.

    seconds : the program is ended after this time.
    """
    command = [str(bench.python), str(PEER), *map(str, arguments), "--device", str(bench.device)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
        output, problem = done.stdout, ""
        if done.returncode:
            problem = done.stderr.strip() or f"it ended with code {done.returncode}"
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        problem = f"ended after {seconds:.0f} s"
    for line in output.splitlines():
        if line.startswith("{"):
            yield json.loads(line)
    if "ModuleNotFoundError" in problem:
        yield {"problem": "not installed"}
    elif problem:
        yield {"problem": " ".join(problem.strip().splitlines()[-1:])[:200]}
