"""Particles over masked paths: their weights, their law, and the number of particles that it needs."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from softmix.cond import Cond
from softmix.measure import token_particles
from softmix.oracle import MeasuredTokens, measured_tokens
from softmix.posterior import Point
from softmix.process import VP, Masked
from softmix.rng import Rng
from softmix.sampler import SamplerError, WeightedSamples, drive, unmask
from softmix.sampler.drive import finish

pytestmark = pytest.mark.usefixtures("on_device")
F64 = torch.float64
EYE = torch.eye(4, dtype=F64)


def problem() -> MeasuredTokens:
    """The chain of 4,096 sequences with six measured numbers. exp(entropy) of p(x | y) is 9."""
    return measured_tokens(Masked(4), count=6, sd=1.0)


def small(sd: float = 0.7) -> MeasuredTokens:
    """A chain of 81 sequences."""
    return measured_tokens(Masked(3), 3, 4, sd=sd)


def first_y(measured: MeasuredTokens) -> Tensor:
    y = measured.draw(1, Rng(0, 1))[1].value
    assert y is not None
    return y


def particles(
    seed: int, n: int, threshold: float = 0.5, steps: int = 6, measured: MeasuredTokens | None = None
) -> WeightedSamples:
    measured = measured or problem()
    likelihood, codes = measured.likelihood(first_y(measured)), torch.eye(measured.problem.mask, dtype=F64)
    return token_particles(measured.problem.denoiser(), likelihood, codes, n, steps, Rng(seed, n), threshold=threshold)


def total_variation(runs: list[WeightedSamples], measured: MeasuredTokens | None = None) -> float:
    """Of the average of the weighted frequencies of all runs, from the law given y."""
    measured = measured or problem()
    right = measured.given(first_y(measured)).probabilities[0]
    found = torch.zeros_like(right)
    for each in runs:
        found.index_add_(0, measured.number(each.x), each.probability / len(runs))
    return 0.5 * float((found - right).abs().sum())


def test_without_resampling_they_are_draws_of_the_model_with_the_weights_of_the_likelihood() -> None:
    measured, n = problem(), 64
    found, model = particles(3, n, threshold=0.0), measured.problem.denoiser()
    order = partial(unmask, confidence="random")
    x = measured.process.prior((n, 6), Rng(3, n))
    assert torch.equal(found.x, finish(drive(model, order, x, measured.process.grid(6), Rng(3, n))))
    assert torch.allclose(found.log_weight, measured.likelihood(first_y(measured))(measured.vectors(found.x)))
    assert found.calls == 6


@pytest.mark.parametrize("threshold", [0.5, 1.0])
def test_the_mean_weight_is_unbiased_for_the_evidence(threshold: float) -> None:
    """100 runs of 32 particles, within 4 standard errors, which are 3 % with noise of 1.5."""
    measured = small(sd=1.5)
    right = float(measured.log_evidence(first_y(measured)))
    ratio = torch.tensor([math.exp(particles(s, 32, threshold, 4, measured).log_z - right) for s in range(100)])
    error = float(ratio.std()) / 10
    assert abs(float(ratio.mean()) - 1) < 4 * error < 0.15


def test_256_particles_have_the_law_given_y() -> None:
    """60 runs: a total variation of 0.036, where as many exact draws as the runs have effective ones are at 0.023 to
    0.029. The prior is at 0.66."""
    runs = [particles(seed, 256) for seed in range(60)]
    assert total_variation(runs) < 0.05
    assert sum(each.effective_size for each in runs) > 60 * 80


def test_few_particles_are_biased_towards_the_law_without_y() -> None:
    """120 runs of 2 and 8 of 32 on a chain of 81 sequences."""
    measured = small()
    few = total_variation([particles(seed, 2, steps=4, measured=measured) for seed in range(120)], measured)
    more = total_variation([particles(seed, 32, steps=4, measured=measured) for seed in range(8)], measured)
    assert few > 1.5 * more


def test_resampling_keeps_more_particles_than_weights_alone() -> None:
    """The effective size of 256, mean of 10 runs."""
    kept, alone = (
        sum(particles(seed, 256, threshold).effective_size for seed in range(10)) / 10 for threshold in (0.5, 0.0)
    )
    assert kept > 1.4 * alone


def test_in_few_steps_the_law_is_that_of_the_steps_and_not_of_the_chain() -> None:
    """Two tokens of a step are drawn independently. 15 runs in 2 and in 6 steps."""
    two = [particles(seed, 256, steps=2) for seed in range(15)]
    six = [particles(seed, 256) for seed in range(15)]
    assert total_variation(two) > 2 * total_variation(six)


def test_one_condition_serves_all_particles() -> None:
    """A model that is given y needs no likelihood: equal weights, and the law given y. TV of 4,000 exact draws 0.03."""
    measured, n = small(), 4000
    cond, codes = Cond(value=first_y(measured)), torch.eye(3, dtype=F64)
    flat = token_particles(measured.denoiser(), lambda x: 0 * x.sum((1, 2)), codes, n, 4, Rng(0, n), cond=cond)
    assert flat.effective_size == pytest.approx(n) and flat.log_z == pytest.approx(0, abs=1e-12)
    assert total_variation([flat], measured) < 0.05


def test_a_likelihood_of_0_at_the_mean_hides_no_token() -> None:
    """It is 1 for signs and 0 between them: the mean of two signs is 0, and yet the draws are equally likely."""
    signs = torch.tensor([[1.0], [-1.0]], dtype=F64)
    chain = measured_tokens(Masked(2), 2, 3).problem

    def likelihood(x: Tensor) -> Tensor:
        return torch.where(x.abs().amin((1, 2)) > 0.99, 0.0, -torch.inf)

    found = token_particles(chain.denoiser(), likelihood, signs, 4000, 3, Rng(0, 4000))
    assert found.effective_size == pytest.approx(4000)
    p = (found.x[:, 0].bincount(minlength=2) / 4000).tolist()
    assert p == pytest.approx(chain.first.tolist(), abs=0.04)


def test_what_cannot_serve_is_refused() -> None:
    model, flat = problem().problem.denoiser(), lambda x: 0 * x.sum((1, 2))
    for bad in ({"n": 0}, {"steps": 0}, {"threshold": 1.5}, {"threshold": -0.1}):
        settings = {"n": 4, "steps": 2, "threshold": 0.5, **bad}
        with pytest.raises(ValueError, match="both numbers must be at least 1, and the threshold from 0 to 1"):
            token_particles(model, flat, EYE, rng=Rng(0, 4), **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="4 particles were asked for, and the rng has 5 streams"):
        token_particles(model, flat, EYE, 4, 2, Rng(0, 5))
    with pytest.raises(ValueError, match=r"the likelihood gave shape \[4, 4\] for 4 items"):
        token_particles(model, lambda x: x.sum(1), EYE, 4, 2, Rng(0, 4))
    for value in (-math.inf, math.nan):
        with pytest.raises(ValueError, match="of 4 particles none has a finite log weight"):
            token_particles(model, lambda x, v=value: torch.full((4,), v), EYE, 4, 2, Rng(0, 4))  # type: ignore[misc]
    with pytest.raises(SamplerError, match="token_particles needs the probabilities of 3 tokens"):
        token_particles(model, flat, torch.eye(3), 4, 2, Rng(0, 4))

    class Other:
        process = VP()

        def __call__(self, xt: Tensor, t: object, cond: object = None) -> Point:
            return Point(xt.double())

    with pytest.raises(SamplerError, match="token_particles unmasks tokens, and VP has none"):
        token_particles(Other(), flat, EYE, 4, 2, Rng(0, 4))
    Other.process = Masked(4)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"a Other has no shape: give shape=\(L,\)"):
        token_particles(Other(), flat, EYE, 4, 2, Rng(0, 4))
    with pytest.raises(SamplerError, match="found a Point: give a model of tokens"):
        token_particles(Other(), flat, EYE, 4, 2, Rng(0, 4), shape=(6,))
