"""Write one or several evaluations as a single html file. The template is `report.html.j2`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import plot, text
from .evaluation import Evaluation, EvaluationRow
from .files import write_whole_file
from .image_grid import ReportEntry, grids_by_caption, nearest_pairs
from .page import need_extra, render
from .spread import LatentSpread

# Title and meaning of each column. The metrics in `_CURVES` are drawn too, in that order.
_METRICS = {
    "frechet": (
        "Fréchet distance",
        "between Gaussians fitted to the features; ± one standard error; lower is better",
    ),
    "kernel": ("Kernel distance", "unbiased, 0 for samples of the truth; bars are one standard error; lower is better"),
    "recall": ("Recall", "share of the real items that the samples reach; higher is better"),
    "precision": ("Precision", "share of the samples that lie among real items; higher is better"),
    "sliced_wasserstein": ("Sliced Wasserstein distance", "in units of the data; lower is better"),
    "class_tv": ("Class imbalance", "total variation from the shares of the real classes; lower is better"),
    "psnr": ("PSNR", "of samples against the items that their conditions belong to, in decibels; higher is better"),
    "density": ("Density", "real neighbourhoods around a sample; 1 is right"),
    "coverage": ("Coverage", "share of the real items with a sample in their neighbourhood; higher is better"),
    "nearest": ("Nearest", "median distance to the nearest training item, in units of x0"),
    "nearest_ratio": ("Nearest ratio", "the same over that of new real items; 1 is right"),
    "copied": ("Copied", "share of samples as near to a training item as the nearest 1 % of new real items"),
    "not_finite": ("Not finite", "share of the samples with a value that is not finite; nothing else is measured then"),
    "seconds": ("Seconds", "to draw all samples"),
}
_CURVES = ("frechet", "kernel", "recall", "precision", "sliced_wasserstein", "class_tv")
# The imbalance of classes is also a share, but its good values are small, so it has no axis from 0 to 1.
_SCALES: dict[str, plot.Scale] = {"recall": "share", "precision": "share", "kernel": "signed"}
_HIDDEN = frozenset({"frechet_se", "kernel_se"})
# Numbers can be compared only if these facts are equal.
_COMPARABLE = ("features", "samples", "data")


@dataclass(frozen=True)
class _Chart:
    title: str
    hint: str
    svg: str


@dataclass(frozen=True)
class _Summary:
    """The summary of an evaluation at the top of the page."""

    entry: ReportEntry
    best: str
    row: str
    floor: str
    spread: str


@dataclass(frozen=True)
class _TableRow:
    """A row of the table. Each cell is (text, whether it is the best of its column)."""

    name: str
    is_floor: bool
    cells: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class _RowGroup:
    """The rows of one evaluation in the table. entry is None for a floor that all evaluations share."""

    entry: ReportEntry | None
    lines: tuple[_TableRow, ...]


def write_report(path: Path, evaluations: Sequence[Evaluation]) -> Path:
    """Write one self-contained html file with pictures, curves, tables, and the facts that they depend on.

    path : the html file.
    evaluations : one or several. Several stand side by side, and each has its own curve in every chart. Use one sampler
        in each, so that a curve has one value for a number of steps.

    The same evaluations give the same bytes. Returns `path`.

    Raises ValueError if there is no evaluation, or one without rows. Raises ImportError if matplotlib or Jinja2 is
    missing; they belong to the extra `report`.
    """
    need_extra("report.html")
    if not evaluations:
        raise ValueError("there is nothing to report: no evaluation was given; give one for each model at least")
    for evaluation in evaluations:
        text.need_rows(evaluation)
    page = render("report.html.j2", _context(_entries(evaluations)))
    write_whole_file(path, page.encode())
    return path


def _entries(evaluations: Sequence[Evaluation]) -> list[ReportEntry]:
    seen: Counter[str] = Counter()
    entries = []
    for series, evaluation in enumerate(evaluations):
        seen[evaluation.title] += 1
        again = seen[evaluation.title]
        entries.append(ReportEntry(evaluation.title + (f" ({again})" if again > 1 else ""), series, evaluation))
    return entries


def _context(entries: list[ReportEntry]) -> dict[str, object]:
    columns = _columns(entries)
    return {
        "title": " · ".join(entry.name for entry in entries),
        "entries": entries,
        "several": len(entries) > 1,
        "warnings": _warnings(entries),
        "summaries": [_summary(entry) for entry in entries],
        "pictures": grids_by_caption(entries),
        "charts": _charts(entries),
        "spread": _spread_chart(entries),
        "verdicts": [(entry, _verdict(entry.evaluation.latent_spread)) for entry in entries],
        "columns": [_METRICS.get(column, (column.replace("_", " "), "")) for column in columns],
        "groups": _row_groups(entries, columns),
        "pairs": [figure for entry in entries if (figure := nearest_pairs(entry)) is not None],
        "ratios": [(entry, ratio) for entry in entries if (ratio := _ratio(entry.evaluation))],
        "floor_is_training": any(_floor_is_training(entry.evaluation) for entry in entries),
        "loss": _loss_chart(entries),
        "shared_facts": _shared_facts(entries),
        "facts": [(entry, own) for entry in entries if (own := _own_facts(entry, entries))],
    }


def _warnings(entries: list[ReportEntry]) -> list[str]:
    facts = [entry.evaluation.facts for entry in entries]
    differ = [name for name in _COMPARABLE if len({fact.get(name) for fact in facts}) > 1]
    return [f"The evaluations differ in “{name}”; their numbers cannot be compared with each other." for name in differ]


def _summary(entry: ReportEntry) -> _Summary:
    rows = entry.evaluation.rows
    winner = next(iter(text.best(rows, "frechet") or _measured(rows, "frechet") or rows))
    floor = text.floor_of(entry.evaluation)
    spread = entry.evaluation.latent_spread
    return _Summary(
        entry,
        text.cell(winner.values, "frechet"),
        winner.name,
        text.cell(floor.values, "frechet", "") if floor else "",
        text.spread_sentence(spread) if spread else "",
    )


# -- curves


def _measured(rows: Iterable[EvaluationRow], metric: str) -> list[EvaluationRow]:
    """The rows of samples that have the metric, by the number of steps."""
    usable = [row for row in rows if not row.is_floor and math.isfinite(row.values.get(metric, math.nan))]
    return sorted(usable, key=lambda row: row.steps or 0)


def _charts(entries: list[ReportEntry]) -> list[_Chart]:
    return [chart for metric in _CURVES if (chart := _chart(metric, entries)) is not None]


def _chart(metric: str, entries: list[ReportEntry]) -> _Chart | None:
    lines = [line for entry in entries if (line := _line(metric, entry)) is not None]
    if not lines:
        return None
    title, hint = _METRICS[metric]
    alt = f"{title} against the number of steps"
    svg = plot.by_steps(metric, alt, lines, _floors(metric, entries), _SCALES.get(metric, "distance"))
    return _Chart(title, hint, svg)


def _line(metric: str, entry: ReportEntry) -> plot.Curve | None:
    rows = [row for row in _measured(entry.evaluation.rows, metric) if row.steps]
    if not rows:
        return None
    errors = tuple(row.values.get(f"{metric}_se", 0.0) for row in rows)
    error = tuple(e if math.isfinite(e) else 0.0 for e in errors) if any(errors) else None
    steps = tuple(float(row.steps or 0) for row in rows)
    return plot.Curve(entry.series, steps, tuple(row.values[metric] for row in rows), error)


def _floors(metric: str, entries: list[ReportEntry]) -> list[tuple[int | None, float]]:
    """The floor of each evaluation, or one of nobody's where all are equal."""
    rows = [
        (entry.series, row.values.get(metric, math.nan))
        for entry in entries
        if (row := text.floor_of(entry.evaluation))
    ]
    levels = [(series, level) for series, level in rows if math.isfinite(level)]
    alike = len({level for _, level in levels}) == 1
    return [(None, levels[0][1])] if alike else list(levels)


def _spread_chart(entries: list[ReportEntry]) -> str:
    lines = [
        plot.Curve(entry.series, tuple(spread.logsnr), tuple(spread.rho))
        for entry in entries
        if (spread := entry.evaluation.latent_spread) is not None and spread.logsnr
    ]
    return plot.by_logsnr("spread", "Spread rho of the latent against logsnr", lines) if lines else ""


def _verdict(spread: LatentSpread | None) -> str:
    return text.spread_verdict(spread) if spread else "No latent that spreads: the model believes in points."


def _loss_chart(entries: list[ReportEntry]) -> str:
    logs = [
        (entry.series, [p for p in entry.evaluation.curves.get("loss", ()) if math.isfinite(p[1])]) for entry in entries
    ]
    lines = [plot.Curve(series, tuple(x for x, _ in log), tuple(y for _, y in log)) for series, log in logs if log]
    return plot.by_training("loss", "Training loss against the training step", lines) if lines else ""


# -- tables


def _columns(entries: list[ReportEntry]) -> list[str]:
    names = dict.fromkeys(name for entry in entries for row in entry.evaluation.rows for name in row.values)
    known = [name for name in _METRICS if name in names and name != "seconds"]
    rest = [name for name in names if name not in _METRICS and name not in _HIDDEN]
    return [*known, *rest, *(["seconds"] if "seconds" in names else [])]


def _row_groups(entries: list[ReportEntry], columns: list[str]) -> list[_RowGroup]:
    all_rows = [row for entry in entries for row in entry.evaluation.rows]
    best = {column: {id(row) for row in text.best(all_rows, column)} for column in columns}

    def line(row: EvaluationRow) -> _TableRow:
        cells = tuple((text.cell(row.values, column), id(row) in best[column]) for column in columns)
        return _TableRow(row.name, row.is_floor, cells)

    floors = [text.floor_of(entry.evaluation) for entry in entries]
    shared = floors[0] if len(entries) > 1 and all(floor == floors[0] for floor in floors) else None
    blocks = [_RowGroup(None, (line(shared),))] if shared else []
    for entry in entries:
        rows = [row for row in text.floor_first(entry.evaluation.rows) if row != shared]
        blocks.append(_RowGroup(entry, tuple(line(row) for row in rows)))
    return blocks


def _ratio(evaluation: Evaluation) -> str:
    """The last nearest ratio in words, and the share of copies where it was counted."""
    row = next(iter(reversed(_measured(evaluation.rows, "nearest_ratio"))), None)
    if row is None:
        return ""
    copied = f", copied {text.cell(row.values, 'copied')}" if "copied" in row.values else ""
    return f"nearest ratio {text.cell(row.values, 'nearest_ratio')}{copied} at {row.name}"


def _floor_is_training(evaluation: Evaluation) -> bool:
    floor = text.floor_of(evaluation)
    return floor is not None and floor.values.get("nearest") == 0


# -- facts


def _shared_facts(entries: list[ReportEntry]) -> list[tuple[str, str]]:
    first, *others = (entry.evaluation.facts for entry in entries)
    return [(name, value) for name, value in first.items() if others and all(o.get(name) == value for o in others)]


def _own_facts(entry: ReportEntry, entries: list[ReportEntry]) -> list[tuple[str, str]]:
    shared = {name for name, _ in _shared_facts(entries)}
    return [(name, value) for name, value in entry.evaluation.facts.items() if name not in shared]
