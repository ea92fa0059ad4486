"""Axes and lines of the curves, on matplotlib's own axes."""

import pytest
from matplotlib.figure import Figure

from softmix.evaluate import plot
from softmix.evaluate.plot import Curve


def drawn(monkeypatch, draw) -> object:
    """The axes that a chart was drawn on."""
    seen = []

    def keep(name, about, draw, size=(4.0, 2.6)):
        axes = Figure(figsize=size).add_subplot()
        draw(axes)
        seen.append((name, about, axes, size))
        return "<svg/>"

    monkeypatch.setattr(plot, "_svg", keep)
    assert draw() == "<svg/>"
    return seen[0]


def steps(monkeypatch, lines, floors=(), scale="distance"):
    return drawn(monkeypatch, lambda: plot.by_steps("m", "about m", lines, floors, scale))[2]


NEAR = Curve(0, (1.0, 2.0, 4.0), (3.0, 2.0, 1.5), (0.5, 0.25, 0.125))


def test_a_line_has_its_values_colour_marker_and_error_bars(monkeypatch):
    axes = steps(monkeypatch, [NEAR, Curve(1, (1.0, 4.0), (2.0, 1.0))])
    first, second = (container.lines[0] for container in axes.containers)
    assert first.get_xdata().tolist() == [1, 2, 4]
    assert first.get_ydata().tolist() == [3, 2, 1.5]
    assert (first.get_color(), second.get_color()) == ("#1234a0", "#1234a1")
    assert (first.get_marker(), second.get_marker()) == ("o", "s")
    (bars,) = axes.containers[0].lines[2]
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[2.5, 3.5], [1.75, 2.25], [1.375, 1.625]]
    assert not axes.containers[1].has_yerr
    assert plot._style(Curve(6, (), ()))["color"] == "#1234a0"
    assert plot._style(Curve(7, (), ()))["marker"] == "s"


def test_floors_are_dashed_in_the_colour_of_their_series(monkeypatch):
    axes = steps(monkeypatch, [NEAR], [(None, 0.5), (2, 0.75)])
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [(line.get_ydata()[0], line.get_color()) for line in dashed] == [(0.5, "#123456"), (0.75, "#1234a2")]


def test_the_axis_of_steps_is_logarithmic_with_a_tick_at_each(monkeypatch):
    axes = steps(monkeypatch, [NEAR, Curve(1, (3.0, 8.0), (1.0, 1.0))])
    assert axes.get_xscale() == "log"
    assert axes.get_xticks().tolist() == [1, 2, 3, 4, 8]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "3", "4", "8"]
    assert axes.get_xlim() == pytest.approx((1 / 1.25, 10))
    assert axes.get_xlabel() == "steps"


@pytest.mark.parametrize(
    ("numbers", "ticks"),
    [
        (range(1, 8), list(range(1, 8))),
        (range(1, 9), [1, 2, 4, 8]),
        ((3, 5, 6, 7, 9, 10, 11, 12), [3, 12]),
    ],
)
def test_many_steps_have_fewer_ticks(monkeypatch, numbers, ticks):
    numbers = tuple(map(float, numbers))
    assert steps(monkeypatch, [Curve(0, numbers, (1.0,) * len(numbers))]).get_xticks().tolist() == ticks


def test_shares_run_from_0_to_1_and_distances_from_0(monkeypatch):
    assert steps(monkeypatch, [NEAR], scale="share").get_ylim() == (0, 1)
    axes = steps(monkeypatch, [NEAR])
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] == 0
    assert steps(monkeypatch, [Curve(0, (1.0, 2.0), (-1.0, 2.0))], scale="signed").get_ylim()[0] < -1


@pytest.mark.parametrize(("low", "scale"), [(0.21, "linear"), (0.19, "log")])
def test_from_fifteen_times_on_a_distance_is_logarithmic(monkeypatch, low, scale):
    assert steps(monkeypatch, [Curve(0, (1.0, 2.0), (3.0, low))]).get_yscale() == scale
    assert steps(monkeypatch, [NEAR], [(None, low)]).get_yscale() == scale
    assert steps(monkeypatch, [Curve(0, (1.0, 2.0), (3.0, 0.0))]).get_yscale() == "linear", "0 has no logarithm"
    loss = drawn(monkeypatch, lambda: plot.by_training("l", "about l", [Curve(0, (1.0, 2.0), (3.0, low))]))[2]
    assert loss.get_yscale() == scale


def test_signed_values_that_span_much_are_logarithmic_on_both_sides(monkeypatch):
    line = Curve(0, (1.0, 2.0, 4.0), (30.0, 0.4, -0.1), (1.0, 0.05, 0.2))
    axes = steps(monkeypatch, [line], [(None, -0.05)], "signed")
    assert axes.get_yscale() == "symlog"
    # straight within the largest error, 1
    assert axes.yaxis.get_transform().linthresh == 1
    ticks = [1, 3, 10, 30, 100, 300]
    assert axes.get_yticks().tolist() == [0, *ticks, *(-tick for tick in ticks)]
    assert axes.get_ylim()[0] == pytest.approx(min(-0.3, 1.2 * (-0.1 - 0.2)))
    assert steps(monkeypatch, [Curve(0, (1.0, 2.0), (3.0, -1.0))], scale="signed").get_yscale() == "linear"


def test_rho_is_shown_between_collapse_and_truth(monkeypatch):
    name, about, axes, size = drawn(
        monkeypatch, lambda: plot.by_logsnr("rho", "about rho", [Curve(3, (-4.0, 0.0), (0.5, 1.4))])
    )
    assert (name, about, size) == ("rho", "about rho", (4.8, 2.8))
    assert axes.get_ylim() == pytest.approx((-0.08, 1.54))
    assert [text.get_text() for text in axes.texts] == ["collapsed", "truth"]
    assert [line.get_ydata()[0] for line in axes.lines[:2]] == [0, 1]
    assert axes.lines[2].get_ydata().tolist() == [0.5, 1.4]
    assert axes.lines[2].get_color() == "#1234a3"
    assert "logsnr" in axes.get_xlabel()
    low = drawn(monkeypatch, lambda: plot.by_logsnr("rho", "", [Curve(0, (-4.0,), (0.5,))]))[2]
    assert low.get_ylim()[1] == pytest.approx(1.2)


def test_a_long_log_is_means_over_blocks(monkeypatch):
    line = Curve(1, tuple(map(float, range(700))), tuple(float(k % 2) for k in range(700)))
    axes = drawn(monkeypatch, lambda: plot.by_training("loss", "about", [line]))[2]
    # blocks of 3: 700 points in at most 300
    assert len(axes.lines[0].get_xdata()) == 234
    assert axes.lines[0].get_xdata()[:2].tolist() == [1, 4]
    assert axes.lines[0].get_ydata()[:2].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert axes.lines[0].get_xdata()[-1] == 699
    assert axes.lines[0].get_color() == "#1234a1"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training step", "loss")
    short = Curve(0, tuple(map(float, range(300))), (1.0,) * 300)
    assert len(drawn(monkeypatch, lambda: plot.by_training("l", "", [short]))[2].lines[0].get_xdata()) == 300


def test_the_page_sees_what_it_is_called():
    svg = plot.by_training("loss", 'a "loss" & more', [Curve(0, (1.0, 2.0), (1.0, 2.0))])
    assert svg.startswith('<svg role="img" aria-label="a &quot;loss&quot; &amp; more"')
    assert 'id="loss-' in svg
    assert plot.SIGNS[: plot.COLOURS] == ("●", "■", "▲", "◆", "▼", "✚")
