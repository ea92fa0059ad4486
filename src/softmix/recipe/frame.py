"""The frame of every recipe. Arms are measured once for each seed; checks make the verdict.

An arm is one line of the table: a solver, a training, a control, the truth. What is measured of it for one seed can be
kept in a folder and is then not measured again, so that a run that was cut off goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeVar

import torch

from ..data import DataError
from ..version import __version__
from .paper import Outcome, Paper, Role, Scale, Verdict, VerdictRow

Say = Callable[[str], None]
Results = Mapping[tuple[str, str], float]
Job = TypeVar("Job")
Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Arms:
    """One arm, or several that share their work, on one set of data.

    roles : the part of each arm in the argument, in the order of the table.
    measure(seed, **settings) : a number for each (arm, metric). It draws from nothing but `seed`.
    quick, full : the settings at either scale; None where it does not run.
    seeds : how many at full scale, from 0 on; quick scale takes the first.
    needs() : raises DataError where data are not installed: then the arms are left out, with a sentence.
    """

    roles: Mapping[str, Role]
    measure: Callable[..., Results]
    data: str = ""
    quick: Mapping[str, Any] | None = None
    full: Mapping[str, Any] | None = None
    seeds: int = 5
    needs: Callable[[], object] | None = None

    def runs(self, scale: Scale) -> list[Run]:
        """One for each seed."""
        settings = self.quick if scale is Scale.quick else self.full
        seeds = range(1 if scale is Scale.quick else self.seeds)
        return [] if settings is None else [Run(self, seed, settings) for seed in seeds]


def arm(
    name: str,
    role: Role,
    measure: Callable[..., Mapping[str, float]],
    data: str = "",
    quick: Mapping[str, Any] | None = None,
    full: Mapping[str, Any] | None = None,
    seeds: int = 5,
    needs: Callable[[], object] | None = None,
) -> Arms:
    """One arm alone, whose `measure` gives a number for each metric; the rest as in `Arms`."""
    return Arms({name: role}, partial(_named, name, measure), data, quick, full, seeds, needs)


def _named(name: str, measure: Callable[..., Mapping[str, float]], seed: int, **settings: Any) -> Results:
    return {(name, metric): value for metric, value in measure(seed, **settings).items()}


@dataclass(frozen=True, eq=False)
class Run:
    """Arms with one seed and their settings."""

    arms: Arms
    seed: int
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        names = list(self.arms.roles)
        return f"{names[0] if len(names) == 1 else self.arms.data or f'{len(names)} arms'}, seed {self.seed}"

    def __call__(self) -> Results:
        """Measures. Raises ValueError for an arm without a role."""
        found = self.arms.measure(self.seed, **self.settings)
        strange = {name for name, _ in found} - set(self.arms.roles)
        if strange:
            raise ValueError(f"{', '.join(sorted(strange))}: measured, but among the roles are {list(self.arms.roles)}")
        return found

    def file(self, out: Path) -> Path:
        """Where its numbers are kept: the name has a digest of data, roles, settings, seed and softmix's version. What
        else the arms do is the recipe's own: after a change of a recipe, take another folder."""
        said = [__version__, self.arms.data, dict(self.arms.roles), dict(self.settings), self.seed]
        digest = hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()[:12]
        readable = "".join(c if c.isalnum() else "-" for c in str(self))[:60]
        return out / f"{readable}-{digest}.json"

    def keep(self, out: Path, found: Results) -> None:
        """Whole or not at all: what a run that was cut off leaves is never read."""
        path = self.file(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}.part")
        values = [{"arm": name, "metric": metric, "value": value} for (name, metric), value in found.items()]
        said = {"run": str(self), "settings": dict(self.settings), "values": values}
        aside.write_text(json.dumps(said, indent=1, default=str), encoding="utf-8")
        aside.replace(path)

    def kept(self, out: Path | None) -> Results | None:
        """What `keep` wrote; None where it did not. Raises DataError for a file that another hand has damaged."""
        if out is None or not self.file(out).exists():
            return None
        try:
            values = json.loads(self.file(out).read_text(encoding="utf-8"))["values"]
            return {(each["arm"], each["metric"]): float(each["value"]) for each in values}
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(f"{self.file(out)}: these are no numbers of `{self}` ({error}); delete the file") from None


Spread = Callable[[Callable[[Any], Any], Sequence[Any], Say], Iterator[tuple[Any, Any]]]


def one_by_one(work: Callable[[Job], Made], jobs: Sequence[Job], say: Say) -> Iterator[tuple[Job, Made]]:
    """Each job and what became of it, in this process."""
    for job in jobs:
        made = work(job)
        say(f"{job}: done")
        yield job, made


def in_processes(
    work: Callable[[Job], Made], jobs: Sequence[Job], say: Say, workers: int | None = None
) -> Iterator[tuple[Job, Made]]:
    """Each job and what became of it, as they end, `workers` at a time on one thread each; by default as many as torch
    has threads. work and jobs are sent to other processes: work stands at the top of its file."""
    if not jobs:
        return
    # several processes whose threads spin while they wait take the cores from each other
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    began, workers = time.perf_counter(), workers or max(1, torch.get_num_threads())
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn"), initializer=_alone) as pool:
        futures = {pool.submit(work, job): job for job in jobs}
        try:
            for count, future in enumerate(as_completed(futures), 1):
                made = future.result()
                minutes = (time.perf_counter() - began) / 60
                say(f"{futures[future]}: done ({count} of {len(jobs)}, {minutes:.0f} minutes)")
                yield futures[future], made
        except BaseException:
            # else the pool would finish every job that waits before the error is seen
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _alone() -> None:
    torch.set_num_threads(1)


def rows_of(runs: Sequence[Run], say: Say, out: Path | None = None, spread: Spread = one_by_one) -> list[VerdictRow]:
    """A row for each arm and metric, over the seeds. What is kept in `out` is not measured again.

    spread : `one_by_one` or `in_processes`.
    """
    found = {run: kept for run in runs if (kept := run.kept(out)) is not None}
    todo = [run for run in runs if run not in found]
    absent = {need for need in dict.fromkeys(run.arms.needs for run in todo) if need and not _there(need, say)}
    for run, results in spread(Run.__call__, [run for run in todo if run.arms.needs not in absent], say):
        if out is not None:
            run.keep(out, results)
        found[run] = results
    each: dict[tuple[str, Role, str, str], list[float]] = {}
    for run in runs:
        for (name, metric), value in found.get(run, {}).items():
            each.setdefault((name, run.arms.roles[name], metric, run.arms.data), []).append(value)
    return [row(*key[:3], values, key[3]) for key, values in each.items()]


def _there(need: Callable[[], object], say: Say) -> bool:
    try:
        need()
    except DataError as error:
        say(f"some arms are left out: {error}")
        return False
    return True


def row(name: str, role: Role, metric: str, each: Sequence[float], data: str) -> VerdictRow:
    """One number of a verdict, from its values over seeds."""
    return VerdictRow(name, role, metric, mean(each), stdev(each) if len(each) > 1 else 0.0, len(each), data)


class Numbers(Mapping[tuple[str, str], float]):
    """What checks look at: value[arm, metric] is the mean over seeds. Raises ValueError for one that stands twice."""

    def __init__(self, rows: Sequence[VerdictRow]):
        self._rows: dict[tuple[str, str], VerdictRow] = {}
        for each in rows:
            if other := self._rows.get((each.name, each.metric)):
                raise ValueError(f"{each.name}: {each.metric} is on {other.data!r} and on {each.data!r}: rename one")
            self._rows[each.name, each.metric] = each

    def __getitem__(self, key: tuple[str, str]) -> float:
        return self._rows[key].value

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def spread(self, name: str, metric: str) -> float:
        """The standard deviation over seeds, 0 for one."""
        return self._rows[name, metric].spread

    def line(self, name: str, kind: str, counts: Sequence[float]) -> list[float]:
        """An arm's `kind@count` at each count."""
        return [self[name, f"{kind}@{count:g}"] for count in counts]


Checks = Callable[[Numbers], Mapping[str, bool]]
Rule = Callable[[Numbers, Mapping[str, bool]], Outcome]


def by_the_first(value: Numbers, outcomes: Mapping[str, bool]) -> Outcome:
    """The first check is the claim itself; the others say whether it is what it seems."""
    first, *others = outcomes.values()
    if not first:
        return "does not hold here"
    return "holds" if all(others) else "holds in part"


def judged(
    paper: Paper, rows: Sequence[VerdictRow], checks: Checks, began: float, rule: Rule = by_the_first
) -> Verdict:
    """The verdict that the checks make of the rows. began : time.perf_counter() before the first."""
    value = Numbers(rows)
    outcomes = checks(value)
    why = "; ".join(("" if true else "NOT: ") + text for text, true in outcomes.items())
    return Verdict(paper.claim, rule(value, outcomes), why, tuple(rows), time.perf_counter() - began)


@dataclass(frozen=True)
class Study:
    """A recipe's `run`: its arms over their seeds, and the verdict of the checks.

    checks : for the table, sentences and whether they are true; the first is the claim.
    """

    paper: Paper
    checks: Checks
    arms: Sequence[Arms]
    rule: Rule = by_the_first
    spread: Spread = one_by_one

    def __call__(self, scale: Scale, say: Say, out: Path | None = None) -> Verdict:
        """out : a folder in which what is measured is kept, and taken up again."""
        began = time.perf_counter()
        runs = [run for arms in self.arms for run in arms.runs(scale)]
        rows = rows_of(runs, say, out / self.paper.name if out else None, self.spread)
        return judged(self.paper, rows, self.checks, began, self.rule)
