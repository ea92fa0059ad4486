"""The recipe of DiffusionPID: canvases, its exact numbers, what it measures of a known model, and its checks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from softmix.cond import Cond, CondSpec
from softmix.data import DataError, Report, load
from softmix.data.store import Data, make
from softmix.info import InformationMaps
from softmix.posterior import Normal
from softmix.process import VP
from softmix.recipe import diffusion_pid as recipe
from softmix.recipe.canvases import COPY, INDEPENDENT, Canvases
from softmix.recipe.exact_information import at_points, exact, rule
from softmix.recipe.frame import Numbers, row
from softmix.rng import Rng

F64 = torch.float64
SIDE, CLASSES = 2, 3


def shades(n: int = 60) -> Data:
    """Images of 2 x 2 pixels, each of one value, which is its class."""
    labels = torch.arange(n) % CLASSES
    values = (60 * labels + 60).to(torch.uint8)[:, None, None, None].expand(n, 1, SIDE, SIDE).clone()
    return make("shades", values, labels, ("a", "b", "c"), Report(read=n))


# canvases


def test_a_canvas_has_two_pictures_with_their_labels(device: torch.device) -> None:
    data = shades()
    index = torch.arange(40)
    for copies, kind in ((0.0, INDEPENDENT), (1.0, COPY)):
        x, cond = Canvases(data, copies).batch(index, Rng(3, 40))
        assert cond.label is not None and x.shape == (40, 1, SIDE, 2 * SIDE)
        value = (60 * cond.label[:, :2] + 60) / 127.5 - 1
        assert torch.allclose(x[:, 0, 0, 0], value[:, 0]) and torch.allclose(x[:, 0, 0, -1], value[:, 1])
        assert torch.equal(cond.label[:, 0], index % CLASSES) and bool((cond.label[:, 2] == kind).all())
        assert torch.equal(x[..., :SIDE], x[..., SIDE:]) == bool(kind)
    # the right picture is drawn from all of the data
    _, cond = Canvases(data, 0.0).batch(torch.zeros(3000).long(), Rng(0, 3000))
    assert cond.label is not None
    shares = torch.bincount(cond.label[:, 1], minlength=CLASSES) / 3000
    assert float((shares - 1 / CLASSES).abs().max()) < 0.035


def test_half_of_the_canvases_are_copies_and_an_item_does_not_depend_on_its_batch() -> None:
    source, n = Canvases(shades()), 4000
    index = torch.arange(n) % len(source)
    x, cond = source.batch(index, Rng(0, n))
    assert cond.label is not None
    assert float(cond.label[:, 2].double().mean()) == pytest.approx(0.5, abs=0.03)
    one, own = source.batch(index[7:8], Rng(0, [7]))
    assert torch.equal(one[0], x[7]) and own.label is not None and torch.equal(own.label[0], cond.label[7])
    assert source.cond == CondSpec((("left", 3), ("right", 3), ("kind", 2))) and source.shape == (1, 2, 4)
    assert source.fingerprint != Canvases(shades(), 0.25).fingerprint and len(source) == 60


def test_canvases_of_other_data_are_refused() -> None:
    data = shades()
    bare = make("bare", data.values, None, (), Report(read=60))
    for wrong in (bare, load("toy:grid")):
        with pytest.raises(DataError, match="canvases are made of images with labels"):
            Canvases(wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="copies is a share"):
        Canvases(data, 1.5)


# exact numbers


def test_the_known_figures_of_two_components() -> None:
    """At -1.5: -11.307 nats of i_s and 6.981 of i_o; in the mean over the component 0.63272 of both."""
    standard, orthogonal, known = at_points(torch.tensor([-1.5, 0.3], dtype=F64), 64, 100)
    right = torch.distributions.Normal(1.0, 0.5).log_prob(torch.tensor(-1.5, dtype=F64)) - known[0]
    law = (torch.distributions.Normal(1.0, 0.5), torch.distributions.Normal(-1.0, 0.5))
    both = torch.stack([each.log_prob(torch.tensor(-1.5, dtype=F64)) for each in law]).logsumexp(0) - math.log(2)
    assert float(right) == pytest.approx(float(both), abs=1e-12)
    assert torch.allclose(standard, known, rtol=0, atol=1e-4)
    assert float(standard[0]) == pytest.approx(-11.307, abs=1e-3)
    assert float(orthogonal[0]) == pytest.approx(6.981, abs=1e-3)
    x, weights = rule(60, 1)
    for each in at_points(1 + x[:, 0] / 2, 60, 80):
        assert float(each @ weights) == pytest.approx(0.63272, abs=1e-4)


def test_all_exact_numbers_are_right_to_a_thousandth() -> None:
    found = exact(0, 3, 14, 60)
    assert found["standard", "error of two labels"] < 1e-3 and found["standard", "error of parts"] < 1e-3
    assert found["orthogonal", "error of two labels"] > 0.1 and found["orthogonal", "error of parts"] > 0.1
    assert found["standard", "nats in the mean"] == pytest.approx(found["law", "nats in the mean"], abs=1e-3)
    for part, bits in (("redundant", 0.6783), ("synergy", 0.3568)):
        assert found["standard", f"linear, {part}, bits"] == pytest.approx(bits, abs=1e-3)
        assert found["law", f"linear, {part}, bits"] == pytest.approx(bits, abs=1e-4)


# what is measured of a model


class Known:
    """The exact denoiser of canvases of `shades` with noise of variance 0.3^2 on each pixel: a mixture, in which each
    half has its own label, and in copies the two are one."""

    process, shape, var = VP(), (1, SIDE, 2 * SIDE), 0.09
    cond = Canvases(shades()).cond

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Normal:
        assert isinstance(cond, Cond) and cond.label is not None
        pairs = torch.cartesian_prod(torch.arange(CLASSES), torch.arange(CLASSES)).to(xt.device)
        shade = (60 * pairs + 60) / 127.5 - 1
        means = shade[:, None, None, :].repeat_interleave(SIDE, 3).expand(-1, 1, SIDE, -1).to(xt)
        columns = cond.label[:, None, :2]
        fits = ((columns < 0) | (columns == pairs)).all(2)
        fits = fits & ((cond.label[:, 2:] == INDEPENDENT) | (pairs[:, 0] == pairs[:, 1]))
        alpha, sigma = (part.reshape(-1, 1, 1, 1).to(xt) for part in self.process.levels(t))
        seen = alpha**2 * self.var + sigma**2
        off = xt[:, None] - alpha[:, None] * means
        logs = -(off**2 / (2 * seen[:, None])).flatten(2).sum(2)
        share = logs.masked_fill(~fits, -torch.inf).softmax(1)
        mean = torch.einsum("bk,kchw->bchw", share, means)
        return Normal(mean + alpha * self.var / seen * (xt - alpha * mean), self.var * sigma**2 / seen)


def blurred(n: int = 240) -> Data:
    """`shades` with the noise of `Known`, to 8 bits."""
    data = shades(n)
    noise = 0.3 * Rng(2, n).normal((n, 1, SIDE, SIDE))
    values = ((data.x0() + noise + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return make("blurred", values, data.labels, data.classes, Report(read=n))


@pytest.fixture(scope="module")
def of_known() -> recipe.Results:
    return recipe.measured(Known(), blurred(), 0, 200, 16)  # type: ignore[arg-type]


def test_the_left_label_acts_on_the_left_half(of_known: recipe.Results) -> None:
    """The exact denoiser: of i_o exactly all given the other label; of i_s too."""
    for name in (recipe.STANDARD, recipe.ORTHOGONAL):
        assert of_known[name, "share on the left"] > 0.999
        assert of_known[name, "share on the left, authors' levels"] > 0.999
        assert of_known[recipe.WRONG, f"share on the left, {name}"] > 0.999


def test_the_nats_of_labels_are_those_of_the_law(of_known: recipe.Results) -> None:
    """p(y | x) by the density of the four pixels, 0.91 nats. The noise levels WITHIN leave out 0.13 of them. Over 8
    seeds the mean of 200 canvases has a standard deviation of 0.045, and of a wrong label 0.28."""
    data = blurred(600)
    x, labels = data.x0().double().flatten(1), data.labels
    assert labels is not None
    shade = (60 * torch.arange(CLASSES) + 60).double() / 127.5 - 1
    logs = -((x[:, None] - shade[:, None]) ** 2).sum(2) / (2 * Known.var)
    known = float(math.log(CLASSES) + logs.log_softmax(1).gather(1, labels[:, None]).mean())
    assert of_known[recipe.MOST, "nats of a label"] == pytest.approx(math.log(3))
    for metric in ("nats given the other", "nats of the left label, independent"):
        for name in (recipe.STANDARD, recipe.ORTHOGONAL):
            assert of_known[name, metric] == pytest.approx(known - 0.13, abs=0.2)
    assert of_known[recipe.WRONG, f"nats given the other, {recipe.STANDARD}"] < -4
    assert of_known[recipe.WRONG, f"nats given the other, {recipe.ORTHOGONAL}"] > 4


def test_labels_of_copies_are_all_redundant_and_those_of_independent_pictures_half(of_known: recipe.Results) -> None:
    """R = i(y1, y2) of copies, in each estimator. Of independent pictures the larger one of two is redundant, 0.73 of
    both by i_s and 0.66 by i_o, with standard deviations of 0.014 and 0.005 over 8 seeds."""
    for name in (recipe.STANDARD, recipe.ORTHOGONAL):
        assert of_known[name, "redundant share, copies"] == pytest.approx(1, abs=1e-6)
        assert of_known[name, "synergy nats, copies"] == pytest.approx(0, abs=1e-6)
        assert of_known[name, "shared nats, copies"] == pytest.approx(of_known[name, "redundant nats, copies"])
        assert 0.5 <= of_known[name, "redundant share, independent"] < 0.8
        assert of_known[name, "shared nats, independent"] == pytest.approx(0, abs=1e-4)
        both = of_known[name, "redundant nats, independent"] / of_known[name, "redundant share, independent"]
        assert of_known[name, "redundant nats, independent"] + of_known[name, "synergy nats, independent"] >= both


def test_the_largest_information_names_the_label(of_known: recipe.Results) -> None:
    """The law itself names 0.92 of the labels, and i_s 0.896, with a standard deviation of 0.014 over 8 seeds. The
    orthogonal estimator takes a false one."""
    left, pair = (of_known[recipe.STANDARD, f"accuracy, {what}"] for what in ("left", "pair"))
    assert left > 0.84 and pair == pytest.approx(left**2, abs=0.08)
    assert of_known[recipe.ORTHOGONAL, "accuracy, left"] < 0.3


def test_the_share_is_that_of_the_sizes_of_the_mean_map() -> None:
    given = torch.tensor([[[3.0, -1.0, 0.5, 0.0]], [[-1.0, -3.0, 0.5, 0.0]]], dtype=F64)
    maps = InformationMaps(*(torch.zeros(2, 1, 4) for _ in range(3)), given, given.flip(2), "standard")
    assert recipe.share_on_the_left(maps) == pytest.approx(3 / 3.5)


def test_a_wrong_label_is_never_the_right_one() -> None:
    cond = Cond(label=torch.arange(300)[:, None].expand(-1, 3) % 3)
    wrong = recipe.with_wrong_left(cond, 3, Rng(0, 300)).label
    assert wrong is not None and cond.label is not None
    assert not bool((wrong[:, 0] == cond.label[:, 0]).any()) and torch.equal(wrong[:, 1:], cond.label[:, 1:])
    assert torch.bincount((wrong[:, 0] - cond.label[:, 0]) % 3).tolist() == pytest.approx([0, 150, 150], abs=40)


def test_canvases_of_a_kind_are_spread_over_the_data() -> None:
    """One of every 15 items, none twice; each of its kind."""
    for kind in (INDEPENDENT, COPY):
        x, cond = recipe.canvases_of(load("digits", split="test"), kind, 24, Rng(0, 24))
        assert cond.label is not None and bool((cond.label[:, 2] == kind).all())
        assert len(torch.unique(x[..., :8].flatten(1), dim=0)) == 24
        assert torch.equal(x[..., :8], x[..., 8:]) == (kind == COPY)


def test_a_training_of_a_few_steps_is_measured() -> None:
    """All rows of the table, finite; the training has the labels, of which three in ten are dropped."""
    found = recipe.learned(0, "digits", 0, 8, 256, 4, 2)
    assert {name for name, _ in found} == set(recipe._LEARNED) and all(map(math.isfinite, found.values()))
    config = recipe.configuration(load("digits"), 8, 256, 0)
    assert config.denoise.classes and config.denoise.drop == 0.3 and config.steps == 4


def test_the_control_is_the_same_network_before_its_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are those of i_s; its weights are others than those of the training."""
    weights = []

    def counted(model: torch.nn.Module, *rest: object) -> recipe.Results:
        weights.append(torch.cat([each.detach().flatten() for each in model.parameters()]))
        value = float(len(weights))
        return {(recipe.STANDARD, "a"): value, (recipe.ORTHOGONAL, "a"): 10 + value, (recipe.WRONG, "b"): 20 + value}

    monkeypatch.setattr(recipe, "measured", counted)
    found = recipe.learned(0, "digits", 0, 8, 256, 4, 2)
    s, o, w, u = recipe.STANDARD, recipe.ORTHOGONAL, recipe.WRONG, recipe.UNTRAINED
    assert found == {(s, "a"): 1.0, (o, "a"): 11.0, (w, "b"): 21.0, (u, "a"): 2.0}
    assert weights[0].shape == weights[1].shape and not torch.equal(weights[0], weights[1])


# checks


def made_up(**changed: float) -> Numbers:
    """Rows of a claim that holds; `changed` replaces a number."""
    s, o, u, w = recipe.STANDARD, recipe.ORTHOGONAL, recipe.UNTRAINED, recipe.WRONG
    numbers: dict[tuple[str, str], list[float]] = {
        (s, "share on the left"): [0.93],
        (o, "share on the left"): [0.91],
        (u, "share on the left"): [0.5],
        (w, f"nats given the other, {s}"): [-5.0],
        (w, f"nats given the other, {o}"): [4.0],
        (s, "accuracy, pair"): [0.8],
        (o, "accuracy, pair"): [0.02],
        (u, "accuracy, pair"): [0.01],
        (recipe.MOST, "nats of a label"): [2.3],
        (s, "redundant nats, copies"): [2.3, 2.1],
        (s, "redundant nats, independent"): [1.2, 1.4],
        (s, "redundant share, copies"): [0.98],
        (s, "redundant share, independent"): [0.55],
        (s, "shared nats, copies"): [1.9],
        (s, "shared nats, independent"): [0.1],
        (s, "nats of the left label, copies"): [2.2],
        (s, "nats of the left label, independent"): [1.8],
        (s, "nats at -1.5"): [-11.3069],
        (o, "nats at -1.5"): [6.981],
        (recipe.LAW, "nats at -1.5"): [-11.3069],
        (s, "nats in the mean"): [0.63272],
        (o, "nats in the mean"): [0.63272],
        (recipe.LAW, "nats in the mean"): [0.63272],
        (s, "error of two labels"): [1e-5],
        (s, "error of parts"): [1e-5],
        (s, "linear, redundant, bits"): [0.6783],
        (s, "linear, synergy, bits"): [0.3568],
        (recipe.LAW, "linear, redundant, bits"): [0.6783],
        (recipe.LAW, "linear, synergy, bits"): [0.3568],
    }
    rows = {
        key: [changed[name]] * len(each) if (name := "/".join(key)) in changed else each
        for key, each in numbers.items()
    }
    return Numbers([row(name, "ours", metric, values, "x") for (name, metric), values in rows.items()])


S, R = recipe.STANDARD, recipe.ORTHOGONAL


@pytest.mark.parametrize(
    ("change", "value", "failed"),
    [
        (f"{S}/share on the left", 0.89, {0}),
        (f"{S}/share on the left", 0.4, {0, 2}),
        (f"{R}/share on the left", 0.89, {1}),
        (f"{recipe.WRONG}/nats given the other, {S}", 0.1, {3}),
        (f"{recipe.WRONG}/nats given the other, {R}", -0.1, {3}),
        (f"{S}/accuracy, pair", 0.015, {4}),
        (f"{R}/accuracy, pair", 0.9, {4}),
        (f"{recipe.UNTRAINED}/accuracy, pair", 0.9, {4}),
        # copies have 2.2, independent pictures a spread of 0.14
        (f"{S}/redundant nats, independent", 2.0, {5}),
        (f"{S}/redundant nats, copies", 1.5, {5}),
        (f"{S}/redundant share, copies", 0.5, {6}),
        (f"{S}/shared nats, independent", 2.0, {7}),
        (f"{S}/shared nats, copies", -0.1, {7}),
        (f"{S}/nats of the left label, copies", 2.4, {8}),
        (f"{S}/nats of the left label, independent", 2.4, {8}),
        (f"{S}/nats at -1.5", -11.3, {9}),
        (f"{R}/nats at -1.5", -11.3069, {9}),
        (f"{S}/nats in the mean", 0.64, {10}),
        (f"{R}/nats in the mean", 0.62, {10}),
        (f"{S}/error of two labels", 0.002, {11}),
        (f"{S}/error of parts", 0.002, {11}),
        (f"{S}/linear, redundant, bits", 0.676, {12}),
        (f"{S}/linear, synergy, bits", 0.36, {12}),
    ],
)
def test_each_check_follows_its_number(change: str, value: float, failed: set[int]) -> None:
    assert all(recipe.checks(made_up()).values())
    outcomes = list(recipe.checks(made_up(**{change: value})).values())
    assert {k for k, true in enumerate(outcomes) if not true} == failed


def test_chance_is_one_pair_of_all() -> None:
    """With a label of 2.3 nats an accuracy of 0.015 is above chance, and one of 0.009 is not, even against nothing."""
    nothing = {f"{R}/accuracy, pair": 0.0, f"{recipe.UNTRAINED}/accuracy, pair": 0.0}
    for accuracy, true in ((0.015, True), (0.009, False)):
        assert list(recipe.checks(made_up(**nothing, **{f"{S}/accuracy, pair": accuracy})).values())[4] == true
