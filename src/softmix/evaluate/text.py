"""Format numbers and tables for a terminal, and find the best value of a column."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from .evaluation import Evaluation, EvaluationRow
from .spread import LatentSpread

SHARES = frozenset({"precision", "recall", "coverage", "class_tv", "copied", "not_finite"})

# The best value of a column has the smallest badness. An unbiased distance below 0 is no better than one above 0, and
# the best ratio is 1. A metric that is missing here has no best value.
_BADNESS: dict[str, Callable[[float], float]] = {
    "frechet": lambda v: v,
    "kernel": abs,
    "precision": lambda v: -v,
    "recall": lambda v: -v,
    "density": lambda v: abs(v - 1),
    "coverage": lambda v: -v,
    "nearest_ratio": lambda v: abs(v - 1),
    "class_tv": lambda v: v,
    "sliced_wasserstein": lambda v: v,
    "psnr": lambda v: -v,
}

_COLUMNS = (
    "frechet",
    "kernel",
    "precision",
    "recall",
    "class_tv",
    "nearest_ratio",
    "sliced_wasserstein",
    "psnr",
    "not_finite",
    "seconds",
)

COLLAPSED = 0.02
CARRIES = (0.85, 1.15)


def floor_of(evaluation: Evaluation) -> EvaluationRow | None:
    """The first row of real items."""
    return next((row for row in evaluation.rows if row.is_floor), None)


def floor_first(rows: Sequence[EvaluationRow]) -> list[EvaluationRow]:
    """The rows of real items first, then the others in their order."""
    return sorted(rows, key=lambda row: not row.is_floor)


def need_rows(evaluation: Evaluation) -> None:
    """Raise ValueError if an evaluation holds no row."""
    if not evaluation.rows:
        raise ValueError(
            f"there is nothing to report: the evaluation {evaluation.title!r} has no rows; "
            "evaluate the model at one number of steps at least"
        )


def number(value: float) -> str:
    """Three significant digits; from 1,000 on whole numbers with commas."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return "0" if value == 0 else f"{value:#.3g}".removesuffix(".")


def with_error(value: float, error: float | None) -> str:
    """value ± error: two digits of the error, and the same number of decimals for the value."""
    if error is None or not math.isfinite(error) or error <= 0 or not math.isfinite(value):
        return number(value)
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{number(value)} ± {number(error)}" if decimals > 6 else f"{value:.{decimals}f} ± {error:.{decimals}f}"


def cell(values: Mapping[str, float], key: str, missing: str = "-") -> str:
    """One metric of a row in the format of its column."""
    value = values.get(key)
    if value is None:
        return missing
    if key in SHARES:
        return f"{value:.3f}"
    if key == "seconds":
        return f"{value:.2f}" if value < 10 else f"{value:,.0f}"
    return with_error(value, values.get(f"{key}_se"))


def best(rows: Sequence[EvaluationRow], key: str) -> list[EvaluationRow]:
    """The sampled rows with the best printed value of a metric; an empty list if all are equal or there is only one."""
    badness = _BADNESS.get(key)
    sampled = [row for row in rows if not row.is_floor and math.isfinite(row.values.get(key, math.nan))]
    if badness is None or len(sampled) < 2:
        return []
    winner = min(sampled, key=lambda row: badness(row.values[key]))
    winners = [row for row in sampled if _printed(row, key) == _printed(winner, key)]
    return winners if len(winners) < len(sampled) else []


def _printed(row: EvaluationRow, key: str) -> str:
    return cell({key: row.values[key]}, key)


def table(evaluation: Evaluation) -> str:
    """Format an evaluation for a terminal: a header line, the floor, then one line for each row of samples.

    A column is shown if any row has it. Raises ValueError if there are no rows.
    """
    need_rows(evaluation)
    keys = [key for key in _COLUMNS if any(key in row.values for row in evaluation.rows)]
    head = ["", *(_head(key, evaluation.rows) for key in keys)]
    lines = [[row.name, *(cell(row.values, key) for key in keys)] for row in floor_first(evaluation.rows)]
    return _aligned([head, *lines])


def row_line(row: EvaluationRow) -> str:
    """Format a row as one line, to be printed before the others are finished: name, distances and seconds."""
    known = [key for key in ("frechet", "kernel", "not_finite", "seconds") if key in row.values]
    return f"{row.name}: " + ", ".join(f"{key} {cell(row.values, key)}" for key in known)


def _head(key: str, rows: Sequence[EvaluationRow]) -> str:
    return f"{key} ± se" if any(f"{key}_se" in row.values for row in rows) else key


def spread_table(spread: LatentSpread) -> str:
    """Format rho at each noise level for a terminal, with the true spread as its weight, the total and a verdict."""
    if not spread.logsnr:
        raise ValueError("there is nothing to report: the spread of the latent was measured at no noise level")
    levels = zip(spread.logsnr, spread.rho, spread.truth, strict=True)
    lines = [[f"{level:g}", f"{rho:.3f}", number(truth)] for level, rho, truth in levels]
    grid = _aligned([["logsnr", "rho", "true spread"], *lines, ["total", f"{spread.total:.3f}", ""]])
    return f"{grid}\n{spread_verdict(spread)}"


def spread_verdict(spread: LatentSpread) -> str:
    """State the total of rho in a sentence, and add a second one if it is only a lower bound."""
    bound = " (A lower bound: the true spread was taken from the model's own error on held-out data.)"
    return spread_sentence(spread) + (bound if spread.by == "residual" else "")


def spread_sentence(spread: LatentSpread) -> str:
    """State the total of rho in a sentence."""
    total = spread.total
    if math.isnan(total):
        return "There is nothing to carry: the true spread is 0."
    if total < COLLAPSED:
        return f"Collapsed: the latent carries {total:.3f} of the true spread, so the draws are one mean."
    if total < CARRIES[0]:
        return f"Carries part: {total:.2f} of the true spread is in the latent."
    if total <= CARRIES[1]:
        return f"Carries the spread: {total:.2f} of the true one is in the latent."
    return f"Too wide: the latent spreads {total:.2f} times as much as the truth."


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_line(line, widths) for line in lines)


def _line(line: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(line, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in rest)]).rstrip()
