"""The recipe of restoration: its measurements, its control, its exact posterior, and one small run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from softmix import Cond, Rng
from softmix.data import Degraded, load
from softmix.denoiser import Network, SoftHead
from softmix.loss import FeatureEnergy, FeatureExtractor, Stage, loss_of
from softmix.loss.square import squared_error
from softmix.net import UNetSpec
from softmix.posterior import ImplicitMean, Point
from softmix.process import VP
from softmix.recipe import restoration
from softmix.recipe.restoration import KnownLaw, OneOfThree, OwnNoise, measurements
from softmix.train import Denoise, read_run

F64 = torch.float64


def images(n: int, size: int = 8) -> Tensor:
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(0), dtype=F64) * 2 - 1


def clean(kind: restoration.Measurement, x0: Tensor) -> Tensor:
    """The image of y without noise."""
    return kind.image(x0.flatten(1) @ kind.matrix.T)


def test_half_has_the_upper_half_and_says_which() -> None:
    for size, rows in ((8, 4), (7, 4)):
        x0 = images(3, size)
        values, seen = clean(measurements(size)[0], x0).unbind(1)
        assert torch.equal(values[:, :rows], x0[:, 0, :rows]) and not values[:, rows:].any()
        assert bool((seen[:, :rows] == 1).all()) and not seen[:, rows:].any()


def test_coarse_has_the_means_of_cells() -> None:
    x0 = images(3)
    values, seen = clean(measurements(8)[1], x0).unbind(1)
    means = torch.nn.functional.avg_pool2d(x0, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.allclose(values, means[:, 0], atol=1e-12) and bool((seen == 1).all())
    assert measurements(8)[1].matrix.shape == (4, 64) and measurements(14)[1].matrix.shape == (16, 196)


def test_blurred_is_a_gaussian_blur_that_keeps_a_constant() -> None:
    kind = measurements(16)[2]
    assert torch.allclose(clean(kind, torch.ones(1, 1, 16, 16, dtype=F64))[:, 0], torch.ones(1, 16, 16, dtype=F64))
    point = torch.zeros(1, 1, 16, 16, dtype=F64)
    point[0, 0, 8, 7] = 1
    spread = clean(kind, point)[0, 0]
    # far from the border the weights are those of a normal law with a standard deviation of 2 pixels
    assert float(spread[8, 9] / spread[8, 7]) == pytest.approx(math.exp(-0.5), rel=0.01)
    assert float(spread[10, 9] / spread[8, 7]) == pytest.approx(math.exp(-1), rel=0.02)


def test_the_noise_of_a_measurement_has_its_standard_deviation() -> None:
    x0 = torch.zeros(2000, 1, 8, 8, dtype=F64)
    for kind, sd in zip(measurements(8), (0.05, 0.05, 0.1), strict=True):
        y = kind.observe(x0, Rng(0, 2000))
        assert y.shape == (2000, len(kind.matrix)) and float(y.std()) == pytest.approx(sd, rel=0.03)
        assert torch.allclose(kind.observe(x0[7:8], Rng(0, [7])), y[7:8], atol=1e-12)


def test_each_measurement_is_taken_of_a_third_of_the_items() -> None:
    x0 = torch.ones(3000, 1, 8, 8)
    y = OneOfThree(8)(x0, Rng(1, 3000))
    hidden = y[:, 1].flatten(1).min(1).values == 0
    cells = (y[:, 0, 0, 0] == y[:, 0, 1, 1]) & ~hidden
    # a standard deviation of 0.009
    assert float(hidden.float().mean()) == pytest.approx(1 / 3, abs=0.04)
    assert float(cells.float().mean()) == pytest.approx(1 / 3, abs=0.04)
    # a product of matrices may round an item alone otherwise
    assert torch.allclose(OneOfThree(8)(x0[5:6], Rng(1, [5])), y[5:6], atol=1e-6)


class Seen:
    """A denoiser that returns x_t itself as its draw, and notes what it was asked."""

    def __init__(self) -> None:
        self.process, self.asked = VP(), []  # type: ignore[var-annotated]

    def __call__(self, xt: Tensor, t: Tensor, cond: Cond | None = None) -> ImplicitMean:
        self.asked.append((xt, t, cond))
        return ImplicitMean(lambda eta: xt.expand(len(eta), *xt.shape), len(xt), (2,), xt, lambda: 0.5 * xt)


def noised(n: int = 10) -> tuple[object, Stage]:
    process, x0 = VP(), images(n).float()
    cond = Cond(image=OneOfThree(8)(x0, Rng(2, n)))
    t = torch.linspace(0.05, 1, n, dtype=F64)
    network = Network(process, UNetSpec(width=8, depth=1), SoftHead(scale=0.0), (1, 8, 8))
    extractor = FeatureExtractor(network.requires_grad_(False), 0.05, x0)
    return process.noise(x0, t, Rng(3, n), cond), Stage(1.0, extractor)  # type: ignore[arg-type]


def test_the_control_gives_each_draw_of_an_item_its_own_noise() -> None:
    loss, (items, stage), seen = OwnNoise(m=3), noised(), Seen()
    loss_of(loss, seen, items, Rng(4, 10), stage)  # type: ignore[arg-type]
    mean, *draws = seen.asked
    assert len(draws) == 3 and float(seen.process.logsnr(mean[1]).min()) >= loss.until - 1e-6
    for xt, t, cond in draws:
        assert float(seen.process.logsnr(t).max()) <= loss.until + 1e-6 and torch.equal(t, draws[0][1])
        assert cond is not None and torch.equal(cond.image, items.cond.image[: len(xt)])  # type: ignore[attr-defined]
    states = torch.stack([xt for xt, _, _ in draws]).flatten(2)
    assert float(states.std(0).mean()) == pytest.approx(0.85, abs=0.1)


def test_the_score_of_the_control_is_that_of_its_draws() -> None:
    loss = OwnNoise(m=2, features=0.0, pixels=1.0, high=0.0, blank=1.0)
    (items, stage), seen = noised(), Seen()
    value = loss_of(loss, seen, items, Rng(4, 10), stage)  # type: ignore[arg-type]
    (low, t, _), (first, _, _), (second, _, _) = seen.asked
    x0 = items.x0  # type: ignore[attr-defined]
    length = lambda x: x.flatten(1).square().mean(1).sqrt()  # noqa: E731
    score = (length(first - x0) + length(second - x0)) / 2 - length(first - second) / 2
    error = squared_error(0.5 * low, items.at(t), "v")  # type: ignore[attr-defined]
    assert torch.allclose(value, error + score, atol=1e-4)


def test_before_the_second_part_the_control_is_the_feature_score() -> None:
    items, _ = noised()
    values = [loss_of(each, Seen(), items, Rng(4, 10)) for each in (OwnNoise(), FeatureEnergy())]  # type: ignore[arg-type]
    assert torch.equal(*values)


def test_the_known_law_is_that_of_digits_and_its_posterior_is_calibrated() -> None:
    truth, n = KnownLaw(), 150
    x0 = truth.held_out(n)
    digits = load("digits").x0().flatten(1).double()
    law = restoration.law_of_digits()
    assert torch.allclose(law.mean, digits.mean(0), atol=0.05)
    for kind, of, y, rng in restoration._held_out_pairs(truth, 0, n):
        assert torch.equal(of, x0)
        draws = truth.exact(restoration.DRAWS, kind, y, 1)
        found = restoration.scores(draws, x0, rng)
        assert found["inside 50"] == pytest.approx(0.5, abs=0.05) and found["inside 90"] == pytest.approx(0.9, abs=0.03)
        assert found["spread/error"] == pytest.approx(1, abs=0.08)
        assert abs(truth.compare(draws, kind, y, 2)["energy distance"]) < 0.05
        # the draws fit y: what is seen has the noise of the measurement alone
        off = draws.flatten(2).double() @ kind.matrix.T - y
        assert float(off.std()) < 1.5 * kind.sd


def test_a_row_is_trained_and_measured_and_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoration, "COUNTS", (1, 2))
    found = restoration.train_and_measure("soft mixture", "digits", tmp_path, 0, 128, 8)
    arm = "soft mixture by soft-adams"
    expected = {f"{kind.name} crps@{count}" for kind in measurements(8) for count in (1, 2)}
    assert expected <= {metric for name, metric in found if name == arm}
    assert all(math.isfinite(value) for value in found.values())
    task = read_run(restoration.training_folder(tmp_path, "soft mixture", "digits", 128, 0) / "run").config.task
    assert isinstance(task, Denoise) and task.drop == 0
    again = restoration.train_and_measure("soft mixture", "digits", tmp_path, 0, 128, 8)
    assert dict(again) == found


@pytest.mark.parametrize("name", list(restoration.TRAININGS))
def test_every_row_is_a_configuration_of_a_conditional_model(name: str) -> None:
    source = Degraded(load("digits", limit=50), OneOfThree(8))
    config = restoration.TRAININGS[name].change(restoration.base(source.shape, UNetSpec(), 640, 0), source.shape)
    assert config.task.cond_spec(source).image == 2
    eta = getattr(config.task.head, "scale", None)
    assert (eta == 0.0) == ("eta = 0" in name)


def test_what_is_compared_has_noise_of_its_own() -> None:
    """Of perfect draws of a black image: without the noise nothing could be ranked."""
    n = 200
    black = -torch.ones(n, 1, 4, 4)
    found = restoration.scores(black.expand(restoration.DRAWS, n, 1, 4, 4), black, Rng(3, n))
    assert found["crps"] == pytest.approx(restoration.NOISE / math.sqrt(math.pi), rel=0.05)
    assert found["inside 50"] == pytest.approx(0.5, abs=0.04) and found["inside 90"] == pytest.approx(0.9, abs=0.02)
    assert found["spread/error"] == pytest.approx(1, abs=0.04) and found["unevenness"] < 0.04
    assert found["psnr"] == math.inf
    far = restoration.scores(black.expand(restoration.DRAWS, n, 1, 4, 4) + 5, black, Rng(3, n))
    assert far["unevenness"] == pytest.approx(1, abs=1e-12)


class Answer:
    """A denoiser whose x0 is the image of its condition."""

    process, shape = VP(), (1, 8, 8)

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Point:
        assert isinstance(cond, Cond) and cond.image is not None
        return Point(cond.image[:, :1])


def test_each_draw_belongs_to_its_measurement() -> None:
    way = restoration.TRAININGS["plain"].ways[0]
    for kind in measurements(8):
        y = kind.observe(images(7).float(), Rng(0, 7))
        draws = restoration._drawn(way, 2, Answer(), kind, y, 0)
        assert draws.shape == (restoration.DRAWS, 7, 1, 8, 8)
        assert torch.allclose(draws, kind.shown(y).expand_as(draws), atol=1e-5)


def test_the_control_is_refused_where_it_would_not_do_what_it_says() -> None:
    (items, stage), seen = noised(), Seen()
    with pytest.raises(ValueError, match="a condition and mean = 1"):
        loss_of(OwnNoise(mean=0.5), seen, items, Rng(4, 10), stage)  # type: ignore[arg-type]
    without = replace(items, cond=None)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="a condition and mean = 1"):
        loss_of(OwnNoise(), seen, without, Rng(4, 10), stage)  # type: ignore[arg-type]


def test_held_out_images_are_not_those_that_settings_were_chosen_on(tmp_path: Path) -> None:
    case = restoration.OfImages("digits", tmp_path)
    real = load("digits", split="test").x0()
    assert torch.equal(case.held_out(120), real[240:])
    with pytest.raises(ValueError, match="361 held-out images were asked for, and digits has 360"):
        case.held_out(361)
