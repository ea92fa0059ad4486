"""Draw curves as SVG for a page. The style sheet of the page gives the colours."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Matplotlib knows no CSS variables. So it draws in unused colours, which are replaced by variables afterwards. One
# drawing is then legible on a light and on a dark page.
_INK = "#123456"
_SERIES = tuple(f"#1234a{k}" for k in range(6))
_MARKERS = ("o", "s", "^", "D", "v", "P")
SIGNS = ("●", "■", "▲", "◆", "▼", "✚")
COLOURS = len(_SERIES)

_NO_METADATA: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.7,
    "lines.markersize": 5,
    "path.simplify": False,
}
_MOST_POINTS = 300
# Above this ratio a linear axis would hide the smaller values.
_WIDE = 15

Scale = Literal["share", "distance", "signed"]


@dataclass(frozen=True)
class Curve:
    """One curve of a chart.

    series : decides colour and marker.
    error : half the height of each error bar, or None.
    """

    series: int
    x: tuple[float, ...]
    y: tuple[float, ...]
    error: tuple[float, ...] | None = None


def by_steps(
    name: str, alt: str, lines: Sequence[Curve], floors: Sequence[tuple[int | None, float]], scale: Scale = "distance"
) -> str:
    """Draw a metric against the number of steps.

    floors : dashed levels, each of one series, or of all (None).
    scale : "share" has an axis from 0 to 1. "distance" has an axis from 0, or a logarithmic one if the range is wide.
        "signed" is like "distance", but linear around 0 within the errors.
    """

    def draw(axes: Axes) -> None:
        for series, level in floors:
            axes.axhline(level, color=_INK if series is None else _colour(series), ls=(0, (4, 3)), lw=1.1, alpha=0.75)
        for line in lines:
            axes.errorbar(line.x, line.y, yerr=line.error, capsize=2.5, elinewidth=1, **_style(line))
        _steps_axis(axes, sorted({x for line in lines for x in line.x}))
        _value_axis(axes, lines, [level for _, level in floors], scale)

    return _svg(name, alt, draw)


def by_logsnr(name: str, alt: str, lines: Sequence[Curve]) -> str:
    """Draw rho against logsnr, with the truth at 1 and collapse at 0."""

    def draw(axes: Axes) -> None:
        for level, text in ((0.0, "collapsed"), (1.0, "truth")):
            axes.axhline(level, color=_INK, lw=0.9, ls=(0, (4, 3)), alpha=0.75)
            axes.text(1.02, level, text, transform=axes.get_yaxis_transform(), va="center")
        for line in lines:
            axes.plot(line.x, line.y, **_style(line))
        axes.set_ylim(-0.08, max(1.2, *(1.1 * y for line in lines for y in line.y)))
        axes.set_xlabel("logsnr  (noise on the left, clean on the right)")
        axes.set_ylabel("rho")
        axes.margins(x=0.04)

    return _svg(name, alt, draw, (4.8, 2.8))


def by_noise(name: str, alt: str, value: str, lines: Sequence[Curve]) -> str:
    """Draw a value against logsnr, from 0 on, with a line for each series. value : the label of its axis."""

    def draw(axes: Axes) -> None:
        for line in lines:
            axes.plot(line.x, line.y, color=_colour(line.series), lw=1.6)
        axes.axhline(0, color=_INK, lw=0.7, alpha=0.5)
        axes.set_xlabel("logsnr  (noise on the left, clean on the right)")
        axes.set_ylabel(value)
        axes.margins(x=0.02)

    return _svg(name, alt, draw, (6.4, 3.0))


def by_training(name: str, alt: str, lines: Sequence[Curve]) -> str:
    """Draw the loss against the training step; long logs as means over blocks."""

    def draw(axes: Axes) -> None:
        for line in lines:
            short = _thinned(line)
            axes.plot(short.x, short.y, color=_colour(line.series), lw=1.4)
        if _span([y for line in lines for y in line.y]) > _WIDE:
            _log_axis(axes)
        axes.set_xlabel("training step")
        axes.set_ylabel("loss")
        axes.margins(x=0.01)

    return _svg(name, alt, draw, (4.8, 2.5))


def _colour(series: int) -> str:
    return _SERIES[series % COLOURS]


def _style(line: Curve) -> dict[str, Any]:
    return {"color": _colour(line.series), "marker": _MARKERS[line.series % COLOURS], "clip_on": False, "zorder": 3}


def _steps_axis(axes: Axes, steps: Sequence[float]) -> None:
    axes.set_xscale("log", base=2)
    powers = [step for step in steps if math.log2(step).is_integer()]
    ticks = steps if len(steps) <= 7 else powers or [steps[0], steps[-1]]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(steps[0] / 1.25, steps[-1] * 1.25)
    axes.set_xlabel("steps")


def _value_axis(axes: Axes, lines: Sequence[Curve], floors: Sequence[float], scale: Scale) -> None:
    axes.grid(axis="y", color=_INK, alpha=0.13, lw=0.6)
    axes.set_axisbelow(True)
    values = [y for line in lines for y in line.y]
    if scale == "share":
        axes.set_ylim(0, 1)
    elif scale == "signed" and _span([abs(y) for y in values if y]) > _WIDE:
        _signed_axis(axes, lines, floors)
    elif scale == "distance" and _span([*values, *floors]) > _WIDE:
        _log_axis(axes)
    else:
        axes.set_ylim(bottom=min(0.0, *axes.get_ylim()))


def _span(values: Sequence[float]) -> float:
    """The largest value over the smallest; 1 if a value is not positive or there is none."""
    return max(values) / min(values) if values and min(values) > 0 else 1.0


def _log_axis(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _signed_axis(axes: Axes, lines: Sequence[Curve], floors: Sequence[float]) -> None:
    """An axis that is logarithmic on both sides of 0 and linear within the errors."""
    from matplotlib.ticker import FixedLocator, NullLocator

    points = [(y, e) for line in lines for y, e in zip(line.y, line.error or [0.0] * len(line.y), strict=True)]
    sizes = [abs(y) for y, _ in points if y]
    straight = max(min(sizes), *(e for _, e in points))
    top = axes.get_ylim()[1]
    axes.set_yscale("symlog", linthresh=straight)
    powers = range(math.floor(math.log10(straight)), math.ceil(math.log10(max(sizes))) + 1)
    ticks = [t for power in powers for digit in (1, 3) if (t := digit * 10.0**power) >= straight]
    axes.yaxis.set_major_locator(FixedLocator([0.0, *ticks, *(-t for t in ticks)]))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(min(-0.3 * straight, *(1.2 * (y - e) for y, e in points), *(1.2 * level for level in floors)), top)


def _thinned(line: Curve) -> Curve:
    block = math.ceil(len(line.x) / _MOST_POINTS)
    return Curve(line.series, _block_means(line.x, block), _block_means(line.y, block))


def _block_means(values: tuple[float, ...], block: int) -> tuple[float, ...]:
    parts = [values[k : k + block] for k in range(0, len(values), block)]
    return tuple(sum(part) / len(part) for part in parts)


def _svg(name: str, alt: str, draw: Callable[[Axes], None], size: tuple[float, float] = (4.0, 2.6)) -> str:
    """Draw on axes of `size` inches.

    name : unique on the page.
    alt : a text for readers who cannot see the drawing.
    """
    import matplotlib
    from matplotlib.figure import Figure

    text = io.StringIO()
    with matplotlib.rc_context():
        # The user's own matplotlib settings would change the bytes.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_STYLE, "svg.hashsalt": name})
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(text, format="svg", transparent=True, metadata=_NO_METADATA)
    return _inlined(text.getvalue(), name, alt)


def _inlined(svg: str, name: str, alt: str) -> str:
    """Turn an SVG file into an element of a page: no prologue, unique identifiers, colours from the style sheet."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    for k, colour in enumerate(_SERIES):
        svg = svg.replace(colour, f"var(--s{k})")
    svg = svg.replace(_INK, "currentColor")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
