"""The frame of every recipe: arms are measured for each seed, and checks of the numbers give the verdict.

An arm is one line of the table: a sampler, a trained model, a control, the exact answer. The numbers of each seed can
be saved in a folder. An interrupted run then continues with the numbers that are missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeVar

import torch

from ..data import DataError
from ..version import __version__
from .paper import Outcome, Paper, Role, Scale, Verdict, VerdictRow

Progress = Callable[[str], None]
# the number of each (arm, metric)
Results = Mapping[tuple[str, str], float]
Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Arms:
    """One arm, or several that share their work, on one data set.

    roles       : the role of each arm, in the order of the table.
    measure     : (seed, **settings) -> a number for each (arm, metric). All randomness comes from `seed`.
    data        : the name of the data set in the table.
    quick, full : the settings at each scale; None for a scale at which the arms do not run.
    seeds       : the number of seeds at full scale, from 0 on. Quick scale takes the first.
    needs       : raises DataError if data are not installed. The arms are then left out, and progress says why.
    """

    roles: Mapping[str, Role]
    measure: Callable[..., Results]
    data: str = ""
    quick: Mapping[str, Any] | None = None
    full: Mapping[str, Any] | None = None
    seeds: int = 5
    needs: Callable[[], object] | None = None

    def runs(self, scale: Scale) -> list[ArmsRun]:
        """One run for each seed."""
        settings = self.quick if scale is Scale.quick else self.full
        seeds = range(1 if scale is Scale.quick else self.seeds)
        return [] if settings is None else [ArmsRun(self, seed, settings) for seed in seeds]


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
    """A single arm. Its `measure` returns a number for each metric; all other parameters are those of `Arms`."""
    return Arms({name: role}, partial(_named, name, measure), data, quick, full, seeds, needs)


def _named(name: str, measure: Callable[..., Mapping[str, float]], seed: int, **settings: Any) -> Results:
    return {(name, metric): value for metric, value in measure(seed, **settings).items()}


@dataclass(frozen=True, eq=False)
class ArmsRun:
    """Arms with one seed and their settings."""

    arms: Arms
    seed: int
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        names = list(self.arms.roles)
        return f"{names[0] if len(names) == 1 else self.arms.data or f'{len(names)} arms'}, seed {self.seed}"

    def __call__(self) -> Results:
        """Measure the arms. Raises ValueError for an arm without a role."""
        results = self.arms.measure(self.seed, **self.settings)
        unknown = {name for name, _ in results} - set(self.arms.roles)
        if unknown:
            raise ValueError(
                f"{', '.join(sorted(unknown))}: measured, but among the roles are {list(self.arms.roles)}; add a role"
            )
        return results

    def file(self, out: Path) -> Path:
        """The file of its numbers.

        The name has a digest of data, roles, settings, seed and the version of softmix. It does not know the code of
        `measure`: after a change of a recipe, take another folder.
        """
        identity = [__version__, self.arms.data, dict(self.arms.roles), dict(self.settings), self.seed]
        digest = hashlib.sha256(json.dumps(identity, default=str).encode()).hexdigest()[:12]
        readable = "".join(c if c.isalnum() else "-" for c in str(self))[:60]
        return out / f"{readable}-{digest}.json"

    def save(self, out: Path, results: Results) -> None:
        """Write the numbers as a whole: a write that was interrupted leaves a file of another name."""
        path = self.file(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}.part")
        values = [{"arm": name, "metric": metric, "value": value} for (name, metric), value in results.items()]
        about = {"run": str(self), "data": self.arms.data, "roles": dict(self.arms.roles)}
        record = about | {"settings": dict(self.settings), "values": values}
        aside.write_text(json.dumps(record, indent=1, default=str), encoding="utf-8")
        aside.replace(path)

    def saved(self, out: Path | None) -> Results | None:
        """The numbers that `save` wrote, or None. Raises DataError for a damaged file."""
        if out is None or not self.file(out).exists():
            return None
        try:
            return _results(json.loads(self.file(out).read_text(encoding="utf-8")))
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(
                f"{self.file(out)}: no numbers of `{self}` can be read ({error}); delete the file"
            ) from None


def _results(record: Mapping[str, Any]) -> Results:
    return {(each["arm"], each["metric"]): float(each["value"]) for each in record["values"]}


# how runs are executed: `one_by_one` or `in_processes`
Execute = Callable[[Callable[[Any], Any], Sequence[Any], Progress], Iterator[tuple[Any, Any]]]


def one_by_one(work: Callable[[Job], Result], jobs: Sequence[Job], progress: Progress) -> Iterator[tuple[Job, Result]]:
    """Each job with its result, in this process."""
    for job in jobs:
        result = work(job)
        progress(f"{job}: done")
        yield job, result


def in_processes(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    progress: Progress,
    workers: int | None = None,
    threads: int = 1,
) -> Iterator[tuple[Job, Result]]:
    """Each job with its result, in the order in which they end.

    workers : the number of processes; by default the number of threads of torch.
    threads : the threads of each process on the CPU. Choose more than one if the jobs share a GPU, because there are
        then fewer jobs than cores.

    Work and jobs are sent to other processes: `work` must be a function at the top of its file.
    """
    if not jobs:
        return
    # several processes whose threads spin while they wait take the cores from each other
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    began, workers = time.perf_counter(), workers or max(1, torch.get_num_threads())
    workers, spawn = min(workers, len(jobs)), get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (threads,)) as pool:
        futures = {pool.submit(work, job): job for job in jobs}
        try:
            for count, future in enumerate(as_completed(futures), 1):
                result = future.result()
                minutes = (time.perf_counter() - began) / 60
                progress(f"{futures[future]}: done ({count} of {len(jobs)}, {minutes:.0f} minutes)")
                yield futures[future], result
        except BaseException:
            # else the pool would finish every job that waits before the error is seen
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def rows_of(
    runs: Sequence[ArmsRun], progress: Progress, out: Path | None = None, execute: Execute = one_by_one
) -> list[VerdictRow]:
    """Measure the runs: a row for each arm and metric, over the seeds.

    out     : a folder. Numbers saved there are not measured again, and new ones are saved there.
    execute : `one_by_one` or `in_processes`.
    """
    results = {run: saved for run in runs if (saved := run.saved(out)) is not None}
    missing = [run for run in runs if run not in results]
    absent = {needs for needs in dict.fromkeys(run.arms.needs for run in missing) if needs and _fails(needs, progress)}
    for run, measured in execute(ArmsRun.__call__, [run for run in missing if run.arms.needs not in absent], progress):
        if out is not None:
            run.save(out, measured)
        results[run] = measured
    return _rows((run.arms.roles, run.arms.data, results[run]) for run in runs if run in results)


def full_rows(arms: Iterable[Arms], progress: Progress, out: Path) -> list[VerdictRow]:
    """The rows of arms at full scale, several at a time. out : the folder of their numbers."""
    return rows_of([run for each in arms for run in each.runs(Scale.full)], progress, out, in_processes)


def rows_in(folder: Path) -> list[VerdictRow]:
    """The rows of all runs that are saved in a folder. A run that was saved twice, by two versions, counts once: the
    newer file."""
    files = sorted(folder.glob("*.json"), key=lambda path: (path.stat().st_mtime, path.name))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    newest = {record["run"]: record for record in records}
    return _rows((record["roles"], record["data"], _results(record)) for _, record in sorted(newest.items()))


def _rows(runs: Iterable[tuple[Mapping[str, Role], str, Results]]) -> list[VerdictRow]:
    """A row for each arm and metric of (roles, data, results) of all seeds."""
    each: dict[tuple[str, Role, str, str], list[float]] = {}
    for roles, data, results in runs:
        for (name, metric), value in results.items():
            each.setdefault((name, roles[name], metric, data), []).append(value)
    return [row(*key[:3], values, key[3]) for key, values in each.items()]


def _fails(needs: Callable[[], object], progress: Progress) -> bool:
    """Whether data are missing, and a line of progress if they are."""
    try:
        needs()
    except DataError as error:
        progress(f"some arms are left out: {error}")
        return True
    return False


def row(name: str, role: Role, metric: str, each: Sequence[float], data: str) -> VerdictRow:
    """One number of a verdict: the mean and standard deviation of its values over seeds."""
    return VerdictRow(name, role, metric, mean(each), stdev(each) if len(each) > 1 else 0.0, len(each), data)


class Numbers(Mapping[tuple[str, str], float]):
    """The numbers that checks read: value[arm, metric] is the mean over seeds.

    Raises ValueError for an (arm, metric) that has two rows.
    """

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
        """The standard deviation over seeds, 0 for a single seed."""
        return self._rows[name, metric].spread

    def line(self, name: str, kind: str, counts: Sequence[float]) -> list[float]:
        """The numbers `kind@count` of an arm, for each count."""
        return [self[name, f"{kind}@{count:g}"] for count in counts]


# sentences, each with whether it is true
Checks = Callable[[Numbers], Mapping[str, bool]]
Decide = Callable[[Numbers, Mapping[str, bool]], Outcome]


def first_check_decides(value: Numbers, outcomes: Mapping[str, bool]) -> Outcome:
    """The first check is the claim. If it fails the claim does not hold; if another one fails it holds in part."""
    first, *others = outcomes.values()
    if not first:
        return "does not hold here"
    return "holds" if all(others) else "holds in part"


def judged(
    paper: Paper, rows: Sequence[VerdictRow], checks: Checks, began: float, decide: Decide = first_check_decides
) -> Verdict:
    """The verdict of the checks on the rows. began : time.perf_counter() at the start of the measurements."""
    value = Numbers(rows)
    outcomes = checks(value)
    why = "; ".join(("" if true else "NOT: ") + text for text, true in outcomes.items())
    return Verdict(paper.claim, decide(value, outcomes), why, tuple(rows), time.perf_counter() - began)


@dataclass(frozen=True)
class Study:
    """The `run` of a recipe: its arms over their seeds, and the verdict of the checks.

    checks  : Numbers -> sentences, each with whether it is true. The first is the claim.
    arms    : in the order of the table.
    decide  : the outcome, from the numbers and the checks.
    execute : `one_by_one` or `in_processes`.
    """

    paper: Paper
    checks: Checks
    arms: Sequence[Arms]
    decide: Decide = first_check_decides
    execute: Execute = one_by_one

    def __call__(self, scale: Scale, progress: Progress, out: Path | None = None) -> Verdict:
        """Run the study. out : a folder to save numbers in, and to continue from."""
        began = time.perf_counter()
        runs = [run for arms in self.arms for run in arms.runs(scale)]
        rows = rows_of(runs, progress, out / self.paper.name if out else None, self.execute)
        return judged(self.paper, rows, self.checks, began, self.decide)


@dataclass(frozen=True)
class Trained:
    """Rows of trainings, at full scale only.

    data    : the name of the data set in the table.
    roles   : the role of each row.
    measure : (folder, progress) -> the rows. Trainings and their numbers stay in the folder.
    """

    data: str
    roles: Mapping[str, Role]
    measure: Callable[[Path, Progress], Sequence[VerdictRow]]

    @classmethod
    def of(cls, data: str, make: Callable[[Path], Sequence[Arms]]) -> Trained:
        """Arms whose trainings stay in a folder, with all of their rows. make : the folder -> the arms."""
        roles = {name: role for arms in make(Path()) for name, role in arms.roles.items()}
        return cls(data, roles, lambda folder, progress: full_rows(make(folder), progress, folder / "measured"))

    def rows(self, folder: Path, progress: Progress) -> list[VerdictRow]:
        """The rows, under the name of the data. Raises ValueError for a row without a role."""
        rows = self.measure(folder, progress)
        unknown = {row.name for row in rows} - set(self.roles)
        if unknown:
            raise ValueError(f"{', '.join(sorted(unknown))}: measured, but among the roles are {list(self.roles)}")
        return [replace(row, data=self.data, role=self.roles[row.name]) for row in rows]


@dataclass(frozen=True)
class TrainedStudy(Study):
    """A study with trainings: they run at full scale, before its arms, because they take hours.

    trained : in the order of the table.
    """

    trained: Sequence[Trained] = ()

    def __call__(self, scale: Scale, progress: Progress, out: Path | None = None) -> Verdict:
        """Run the study. out : a folder for trainings and numbers, by default runs/reproduce-NAME."""
        began, rows = time.perf_counter(), []
        if scale is Scale.full:
            folder = out or Path("runs") / f"reproduce-{self.paper.name}"
            rows = [row for each in self.trained for row in each.rows(folder, progress)]
        exact = super().__call__(scale, progress, out)
        return judged(self.paper, [*exact.rows, *rows], self.checks, began, self.decide)
