"""Given levels, and an ensemble of denoisers: the best of several at each noise level."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softmix.denoiser import Denoiser, PerLevel, adjusted
from softmix.info import GaussianReference, GivenLevels, Levels, at_levels, best_per_level, curve, density
from softmix.oracle import correlated, gaussian
from softmix.posterior import HasMean, Point, Posterior, need
from softmix.process import VP, Flow
from softmix.rng import Rng

F64 = torch.float64
LEVELS = tuple(torch.linspace(-6, 10, 17).tolist())


def wrong(denoiser: Denoiser, low: float, high: float, by: float = 0.3) -> Denoiser:
    """Wrong by a constant at the levels from low to high."""

    def change(posterior: Posterior, xt: Tensor, t: Tensor | float) -> Point:
        level = float(denoiser.process.logsnr(t).reshape(-1)[0])  # type: ignore[attr-defined]
        return Point(need(posterior, HasMean, "test").mean + (by if low < level < high else 0.0))

    return adjusted(change)(denoiser)


def test_each_level_takes_the_denoiser_with_the_least_error() -> None:
    problem = correlated()
    own = problem.denoiser()
    early, late = wrong(own, 2.5, 99.0), wrong(own, -99.0, 2.5)
    found = best_per_level([early, late], problem.sample(400, Rng(0, 400)), Rng(1, 400), LEVELS)
    assert found.which.tolist() == [0 if level <= 2 else 1 for level in LEVELS]
    assert found.process is own.process
    # halfway to the next level, which is 3, the ensemble changes
    xt = torch.randn(3, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    for level, right in ((2.45, early), (2.55, late), (-9.0, early), (12.0, late)):
        t = float(VP().time(level))
        assert torch.equal(need(found(xt, t), HasMean, "test").mean, need(right(xt, t), HasMean, "test").mean)


def test_an_ensemble_is_as_good_as_the_exact_denoiser_that_its_parts_make_up() -> None:
    """Each part is wrong at some levels, by 0.3 in each element. The ensemble is not."""
    problem = correlated()
    own = GaussianReference.of(problem.law.mean, problem.law.covariance)
    x, levels = problem.sample(300, Rng(0, 300)), Levels(3.0, 2.0)
    parts = [wrong(problem.denoiser(), 2.5, 99.0), wrong(problem.denoiser(), -99.0, 2.5)]
    joined = best_per_level(parts, problem.sample(400, Rng(5, 400)), Rng(6, 400), LEVELS)
    nats = [density(each, x, Rng(1, 300), own, levels, n=32).mean for each in (problem.denoiser(), joined, *parts)]
    assert nats[1] == pytest.approx(nats[0], abs=1e-9)
    assert min(nats[2:]) > nats[0] + 0.5


def test_an_ensemble_refuses_what_does_not_fit() -> None:
    one, other = gaussian().denoiser(), gaussian(process=Flow()).denoiser()
    levels, first = torch.tensor([0.0, 1.0]), torch.tensor([0, 0])
    with pytest.raises(ValueError, match="one process"):
        PerLevel([one, other], levels, first)
    with pytest.raises(ValueError, match="no denoiser"):
        best_per_level([], torch.zeros(2, 2, dtype=F64), Rng(0, 2), LEVELS)
    with pytest.raises(ValueError, match="rising levels"):
        PerLevel([one], levels.flip(0), first)
    with pytest.raises(ValueError, match="rising levels"):
        PerLevel([one], levels, first[:1])
    with pytest.raises(ValueError, match="numbers of 1"):
        PerLevel([one], levels, first + 1)
    both = PerLevel([one, one], levels, torch.tensor([0, 1]))
    mixed = VP().time(torch.tensor([0.0, 1.0], dtype=F64))
    with pytest.raises(ValueError, match="one time"):
        both(torch.zeros(2, 2, dtype=F64), mixed)


def test_given_levels_are_asked_once_each() -> None:
    problem = gaussian()
    x = problem.sample(5, Rng(0, 5))
    asked = [
        (at.number, at.logsnr, at.rows) for at in at_levels(VP(), x, Rng(1, 5), GivenLevels((3.0, -2.0)), 2, batch=3)
    ]
    assert asked == [(0, 3.0, slice(0, 3)), (0, 3.0, slice(3, 6)), (1, -2.0, slice(0, 3)), (1, -2.0, slice(3, 6))]
    with pytest.raises(ValueError, match="2 are given"):
        GivenLevels((3.0, -2.0)).draw(3)
    with pytest.raises(ValueError, match="finite"):
        GivenLevels(())
    own = GaussianReference.of(problem.law.mean, problem.law.covariance)
    with pytest.raises(ValueError, match="found -40"):
        curve(problem.denoiser(), x, Rng(1, 5), own, (0.0, -40.0))
    # the last level of the process is one of its levels, whatever its time rounds to
    last = float(VP().logsnr(1.0))
    assert curve(problem.denoiser(), x, Rng(1, 5), own, (last,)).model.isfinite().all()
