"""The report of one or several evaluations as a single html file; `report.html.j2` is its page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from pathlib import Path

from . import plot, text
from .carried import Carried
from .evaluation import Evaluation, Row
from .sheet import Key, pairs, sheets
from .stored import write_aside

_TEMPLATE = "report.html.j2"

# What each column is called, and what its number says; those in `_CURVES` are drawn, in that order.
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
    "density": ("Density", "real neighbourhoods around a sample; 1 is right"),
    "coverage": ("Coverage", "share of the real items with a sample in their neighbourhood; higher is better"),
    "nearest": ("Nearest", "median distance to the nearest training item, in units of x0"),
    "nearest_ratio": ("Nearest ratio", "the same over that of new real items; 1 is right"),
    "copied": ("Copied", "share of samples as near to a training item as the nearest 1 % of new real items"),
    "not_finite": ("Not finite", "share of the samples with a value that is not finite; nothing else is measured then"),
    "seconds": ("Seconds", "to draw all samples"),
}
_CURVES = ("frechet", "kernel", "recall", "precision", "sliced_wasserstein", "class_tv")
# The imbalance of classes is a share as well, but one that is small when all is well.
_SCALES: dict[str, plot.Scale] = {"recall": "share", "precision": "share", "kernel": "signed"}
_HIDDEN = frozenset({"frechet_se", "kernel_se"})
# Numbers measured under different ones of these cannot be compared.
_YARDSTICKS = ("features", "samples", "data")


@dataclass(frozen=True)
class _Chart:
    title: str
    hint: str
    svg: str


@dataclass(frozen=True)
class _Tile:
    """What is said of an evaluation at the top."""

    key: Key
    best: str
    where: str
    floor: str
    carried: str


@dataclass(frozen=True)
class _Line:
    """A row of the table: cells are (text, whether it is the best of its column)."""

    name: str
    is_floor: bool
    cells: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class _Block:
    """Rows of the table that belong together; key is None for a floor that all share."""

    key: Key | None
    lines: tuple[_Line, ...]


def write_report(path: Path, evaluations: Sequence[Evaluation]) -> Path:
    """Writes one html file that needs nothing else: pictures, curves, tables and what they depend on.

    Several evaluations stand side by side, a line of each curve for each (one sampler in each, so that a line
    has one value at a number of steps). The same evaluations give the same bytes. Returns `path`.
    Raises ValueError if there is no evaluation or one without rows, ImportError with a sentence if matplotlib or Jinja2
    is missing: they are an extra.
    """
    _need_the_extra()
    if not evaluations:
        raise ValueError("there is nothing to report: no evaluation was given; give one for each model at least")
    for evaluation in evaluations:
        text.need_rows(evaluation)
    page = _render(_context(_keys(evaluations)))
    write_aside(path, page.encode())
    return path


def _need_the_extra() -> None:
    missing = []
    for module, name in (("matplotlib", "matplotlib"), ("jinja2", "Jinja2")):
        try:
            import_module(module)
        except ImportError:
            missing.append(name)
    if missing:
        raise ImportError(
            f"report.html is drawn and written by matplotlib and Jinja2, and {' and '.join(missing)} "
            f'cannot be imported: pip install "softmix[report]"'
        )


def _render(context: dict[str, object]) -> str:
    from jinja2 import Environment, StrictUndefined

    source = files("softmix.evaluate").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(context)


def _keys(evaluations: Sequence[Evaluation]) -> list[Key]:
    seen: Counter[str] = Counter()
    keys = []
    for series, evaluation in enumerate(evaluations):
        seen[evaluation.title] += 1
        again = seen[evaluation.title]
        keys.append(Key(evaluation.title + (f" ({again})" if again > 1 else ""), series, evaluation))
    return keys


def _context(keys: list[Key]) -> dict[str, object]:
    columns = _columns(keys)
    return {
        "title": " · ".join(key.name for key in keys),
        "keys": keys,
        "several": len(keys) > 1,
        "warnings": _warnings(keys),
        "tiles": [_tile(key) for key in keys],
        "pictures": sheets(keys),
        "charts": _charts(keys),
        "carried": _carried_chart(keys),
        "verdicts": [(key, _verdict(key.evaluation.carried)) for key in keys],
        "columns": [_METRICS.get(column, (column.replace("_", " "), "")) for column in columns],
        "blocks": _blocks(keys, columns),
        "pairs": [figure for key in keys if (figure := pairs(key)) is not None],
        "ratios": [(key, said) for key in keys if (said := _ratio(key.evaluation))],
        "floor_is_training": any(_floor_is_training(key.evaluation) for key in keys),
        "loss": _loss_chart(keys),
        "shared_facts": _shared_facts(keys),
        "facts": [(key, own) for key in keys if (own := _own_facts(key, keys))],
    }


def _warnings(keys: list[Key]) -> list[str]:
    facts = [key.evaluation.facts for key in keys]
    differ = [name for name in _YARDSTICKS if len({fact.get(name) for fact in facts}) > 1]
    return [f"The evaluations differ in “{name}”; their numbers cannot be compared with each other." for name in differ]


def _tile(key: Key) -> _Tile:
    rows = key.evaluation.rows
    winner = next(iter(text.best(rows, "frechet") or _measured(rows, "frechet") or rows))
    floor = text.floor_of(key.evaluation)
    carried = key.evaluation.carried
    return _Tile(
        key,
        text.cell(winner.values, "frechet"),
        winner.name,
        text.cell(floor.values, "frechet", "") if floor else "",
        text.found(carried) if carried else "",
    )


# -- curves


def _measured(rows: Iterable[Row], metric: str) -> list[Row]:
    """The rows of samples that have the metric, by the number of steps."""
    usable = [row for row in rows if not row.is_floor and math.isfinite(row.values.get(metric, math.nan))]
    return sorted(usable, key=lambda row: row.steps or 0)


def _charts(keys: list[Key]) -> list[_Chart]:
    return [chart for metric in _CURVES if (chart := _chart(metric, keys)) is not None]


def _chart(metric: str, keys: list[Key]) -> _Chart | None:
    lines = [line for key in keys if (line := _line(metric, key)) is not None]
    if not lines:
        return None
    title, hint = _METRICS[metric]
    about = f"{title} against the number of steps"
    svg = plot.by_steps(metric, about, lines, _floors(metric, keys), _SCALES.get(metric, "distance"))
    return _Chart(title, hint, svg)


def _line(metric: str, key: Key) -> plot.Line | None:
    rows = [row for row in _measured(key.evaluation.rows, metric) if row.steps]
    if not rows:
        return None
    errors = tuple(row.values.get(f"{metric}_se", 0.0) for row in rows)
    error = tuple(e if math.isfinite(e) else 0.0 for e in errors) if any(errors) else None
    steps = tuple(float(row.steps or 0) for row in rows)
    return plot.Line(key.series, steps, tuple(row.values[metric] for row in rows), error)


def _floors(metric: str, keys: list[Key]) -> list[tuple[int | None, float]]:
    """The floor of each evaluation, or one of nobody's where all are equal."""
    rows = [(key.series, row.values.get(metric, math.nan)) for key in keys if (row := text.floor_of(key.evaluation))]
    levels = [(series, level) for series, level in rows if math.isfinite(level)]
    alike = len({level for _, level in levels}) == 1
    return [(None, levels[0][1])] if alike else list(levels)


def _carried_chart(keys: list[Key]) -> str:
    lines = [
        plot.Line(key.series, tuple(carried.logsnr), tuple(carried.rho))
        for key in keys
        if (carried := key.evaluation.carried) is not None and carried.logsnr
    ]
    return plot.by_logsnr("carried", "Carried spread rho against logsnr", lines) if lines else ""


def _verdict(carried: Carried | None) -> str:
    return text.verdict(carried) if carried else "No latent that spreads: the model believes in points."


def _loss_chart(keys: list[Key]) -> str:
    logs = [(key.series, [p for p in key.evaluation.curves.get("loss", ()) if math.isfinite(p[1])]) for key in keys]
    lines = [plot.Line(series, tuple(x for x, _ in log), tuple(y for _, y in log)) for series, log in logs if log]
    return plot.by_training("loss", "Training loss against the training step", lines) if lines else ""


# -- tables


def _columns(keys: list[Key]) -> list[str]:
    names = dict.fromkeys(name for key in keys for row in key.evaluation.rows for name in row.values)
    known = [name for name in _METRICS if name in names and name != "seconds"]
    rest = [name for name in names if name not in _METRICS and name not in _HIDDEN]
    return [*known, *rest, *(["seconds"] if "seconds" in names else [])]


def _blocks(keys: list[Key], columns: list[str]) -> list[_Block]:
    all_rows = [row for key in keys for row in key.evaluation.rows]
    best = {column: {id(row) for row in text.best(all_rows, column)} for column in columns}

    def line(row: Row) -> _Line:
        cells = tuple((text.cell(row.values, column), id(row) in best[column]) for column in columns)
        return _Line(row.name, row.is_floor, cells)

    floors = [text.floor_of(key.evaluation) for key in keys]
    shared = floors[0] if len(keys) > 1 and all(floor == floors[0] for floor in floors) else None
    blocks = [_Block(None, (line(shared),))] if shared else []
    for key in keys:
        rows = [row for row in text.floor_first(key.evaluation.rows) if row != shared]
        blocks.append(_Block(key, tuple(line(row) for row in rows)))
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


def _shared_facts(keys: list[Key]) -> list[tuple[str, str]]:
    first, *others = (key.evaluation.facts for key in keys)
    return [(name, said) for name, said in first.items() if others and all(o.get(name) == said for o in others)]


def _own_facts(key: Key, keys: list[Key]) -> list[tuple[str, str]]:
    shared = {name for name, _ in _shared_facts(keys)}
    return [(name, said) for name, said in key.evaluation.facts.items() if name not in shared]
