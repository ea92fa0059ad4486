"""`latent_spread` against closed forms, with an oracle and without one."""

import math

import pytest
import torch
from torch import Tensor

from softmix.evaluate import LatentSpread, latent_spread, spread_table
from softmix.evaluate.spread import LEVELS
from softmix.posterior import Implicit, Normal, Point
from softmix.process import VP

pytestmark = pytest.mark.usefixtures("on_device")

SD = 0.5


class Exact:
    """x0 ~ N(0, 0.5^2): the posterior at logsnr l has the variance v = 1 / (1 / 0.25 + e^l / 1) per element.

    kind : "law" gives a Normal, "mean" a Point, "draws" an Implicit without a mean.
    width : width of the draws, relative to the truth.
    """

    def __init__(self, kind: str, width: float = 1.0, shift: float = 0.0):
        self.process, self.kind, self.width, self.shift = VP(), kind, width, shift
        self.seen: list[tuple[float, int]] = []

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None):
        level = float(self.process.logsnr(torch.as_tensor(t)))
        self.seen.append((level, len(xt)))
        alpha = math.sqrt(1 / (1 + math.exp(-level)))
        var = variance(level)
        mean = xt * var * math.exp(level) / alpha
        if cond is not None:
            mean = mean + self.shift * cond.reshape(-1, *[1] * (xt.ndim - 1))
        if self.kind == "law":
            return Normal(mean, torch.full_like(mean, var * self.width**2))
        if self.kind == "mean":
            return Point(mean)
        return Implicit(lambda eta: mean + self.width * math.sqrt(var) * eta, len(xt), tuple(xt.shape[1:]), xt)


def variance(level: float) -> float:
    """Of x0 ~ N(0, SD^2) given x_t: x_t / alpha is x0 with noise of variance e^-level."""
    return 1 / (1 / SD**2 + math.exp(level))


def items(count: int = 2000) -> Tensor:
    return SD * torch.randn(count, 3, generator=torch.Generator().manual_seed(0))


def test_the_exact_posterior_has_rho_1_at_every_level():
    found = latent_spread(Exact("draws"), items(), oracle=Exact("law"))
    assert found.logsnr == LEVELS == (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
    assert found.by == "oracle"
    assert found.truth == pytest.approx([variance(level) for level in LEVELS], rel=1e-4)
    # 2000 items of 3 values with 16 draws each know a variance to 0.5 %
    assert found.spread == pytest.approx([variance(level) for level in LEVELS], rel=0.025)
    assert found.total == pytest.approx(1, abs=0.02)


def test_draws_half_as_wide_have_rho_a_quarter():
    found = latent_spread(Exact("draws", 0.5), items(), oracle=Exact("law"))
    assert found.rho == pytest.approx([0.25] * len(LEVELS), rel=0.025)
    assert found.total == pytest.approx(0.25, rel=0.02)


def test_a_normal_posterior_has_a_spread_and_a_point_has_none():
    assert latent_spread(Exact("law", 0.5), items(), oracle=Exact("law")).total == pytest.approx(0.25, rel=0.02)
    flat = latent_spread(Exact("mean"), items(), oracle=Exact("law"))
    assert flat.spread == (0.0,) * len(LEVELS)
    assert flat.total == 0


@pytest.mark.parametrize("kind", ["law", "mean"])
def test_without_an_oracle_the_truth_is_the_error_of_the_mean(kind):
    found = latent_spread(Exact(kind), items())
    assert found.by == "residual"
    # the mean of 6000 squares is known to sqrt(2 / 6000)
    assert found.truth == pytest.approx([variance(level) for level in LEVELS], rel=0.08)


@pytest.mark.parametrize("m", [2, 16])
def test_a_mean_of_few_draws_does_not_count_its_own_spread(m):
    """E |x0 - mean of m draws|^2 is v + v / m: with m = 2 half as much again."""
    found = latent_spread(Exact("draws"), items(), m=m)
    assert found.truth == pytest.approx([variance(level) for level in LEVELS], rel=0.1)
    assert sum(found.truth) == pytest.approx(sum(map(variance, LEVELS)), rel=0.05)


def test_each_level_uses_its_own_logsnr_and_every_item_once():
    model = Exact("draws")
    latent_spread(model, items(10), levels=(-3.0, 1.5), batch=4)
    assert [count for _, count in model.seen] == [4, 4, 2] * 2
    assert [level for level, _ in model.seen] == pytest.approx([-3.0] * 3 + [1.5] * 3, abs=1e-4)


def test_the_batch_does_not_matter_and_the_seed_does():
    some = items(50)
    whole, parts = latent_spread(Exact("draws"), some), latent_spread(Exact("draws"), some, batch=7)
    assert parts.spread == pytest.approx(whole.spread, rel=1e-5)
    assert parts.truth == pytest.approx(whole.truth, rel=1e-5)
    other = latent_spread(Exact("draws"), some, seed=1)
    assert other.spread[3] != pytest.approx(whole.spread[3], rel=1e-4)
    assert other.truth[3] != pytest.approx(whole.truth[3], rel=1e-4)


def test_each_level_has_its_own_noise():
    """Otherwise the errors of neighbouring levels would be equal."""
    found = latent_spread(Exact("mean"), items(20), levels=(0.0, 0.0))
    assert found.truth[0] == found.truth[1]
    near = latent_spread(Exact("mean"), items(20), levels=(0.0, 0.001))
    assert near.truth[1] != pytest.approx(near.truth[0], rel=0.01)


def test_each_item_keeps_its_own_condition():
    """A shift of 2 for every label 1 adds 4 to the squared error of those items, here half of them."""
    labels = torch.arange(40) % 2
    plain = latent_spread(Exact("mean", shift=2.0), items(40), cond=torch.zeros(40), levels=(0.0,))
    labelled = latent_spread(Exact("mean", shift=2.0), items(40), cond=labels, levels=(0.0,), batch=9)
    by_hand = latent_spread(Exact("mean", shift=2.0), items(40), cond=labels, levels=(0.0,))
    assert labelled.truth == pytest.approx(by_hand.truth, rel=1e-5)
    assert labelled.truth[0] == pytest.approx(plain.truth[0] + 2, abs=0.8)


def test_without_a_true_spread_rho_is_0_and_the_total_is_nan():
    none = LatentSpread((0.0, 2.0), (0.1, 0.1), (0.0, 0.0), "residual")
    assert none.rho == (0.0, 0.0)
    assert math.isnan(none.total)
    assert "nothing to carry" in spread_table(none)


def test_the_total_weighs_levels_by_their_true_spread():
    found = LatentSpread((0.0, 2.0), (0.9, 0.0), (1.0, 0.5), "oracle")
    assert found.rho == (0.9, 0.0)
    assert found.total == pytest.approx(0.6)


def test_a_negative_estimate_of_the_truth_becomes_0():
    """With one item, the correction by the draws' own spread may be larger than the squared error."""
    one = items(1)[:, :1]
    truths = [latent_spread(Exact("draws", 4.0), one, m=2, seed=seed, levels=(0.0,)).truth[0] for seed in range(30)]
    assert min(truths) == 0
    assert max(truths) > 0


def test_the_default_number_of_draws():
    some = items(20)
    usual = latent_spread(Exact("draws"), some, levels=(0.0,))
    assert (
        usual
        == latent_spread(Exact("draws"), some, levels=(0.0,), m=16)
        != latent_spread(Exact("draws"), some, levels=(0.0,), m=15)
    )
