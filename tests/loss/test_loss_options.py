"""Every default, weight and option of the losses, against their formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from softmix.loss import (
    LOSSES,
    WEIGHTS,
    Energy,
    Importance,
    Likelihood,
    PublishedSquare,
    Square,
    Stage,
    loss_of,
    mixture_gain,
    mixture_learnable,
    weight,
)
from softmix.loss.energy import power
from softmix.loss.likelihood import step_variance
from softmix.posterior import Implicit, ImplicitMean, Normal, Point, Posterior
from softmix.process import VE, VP, Flow, Gaussian, Noised
from softmix.rng import Rng

F64 = torch.float64
THREE = pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)
TIMES = torch.tensor([0.2, 0.5, 0.8], dtype=F64)


def noised(process: Gaussian | None = None, shape: tuple[int, ...] = (2, 2)) -> Noised:
    return (process or VP()).noise(Rng(0, 3, "x0").normal((3, *shape), F64), TIMES, Rng(1, 3))


def soft(given: Noised, mean: float | None = None) -> Implicit:
    """Draws tanh(eta) / 2, and an optional constant mean."""
    shape = tuple(given.x0.shape[1:])
    head = lambda eta: eta.tanh() / 2  # noqa: E731
    if mean is None:
        return Implicit(head, 3, shape, given.x0)
    return ImplicitMean(head, 3, shape, given.x0, lambda: torch.full_like(given.x0, mean))


# defaults


def test_the_defaults_are_the_documented_ones() -> None:
    assert Square() == Square("eps") and PublishedSquare() == PublishedSquare("eps")
    assert Energy() == Energy(beta=1.0, m=4, lam=1.0, weight="eps", mean=1.0)
    assert Likelihood() == Likelihood(ratio=0.5)
    assert Importance() == Importance(k=16, ratio=0.5, tau=0.0, temper=1.0)
    assert (Square(), PublishedSquare(), Energy(), Importance(), Likelihood()) == LOSSES


def test_which_losses_are_proper_for_draws() -> None:
    assert [loss.proper for loss in LOSSES] == [False, False, True, False, True]
    assert not Energy(lam=0.5).proper and not Energy(beta=2.0).proper and Energy(beta=0.5).proper


# weights


def weights_by_hand(logsnr: float) -> dict[str, float]:
    snr = math.exp(logsnr)
    return {
        "x0": 1.0,
        "eps": snr,
        "v": 1 + snr,
        "flow": (1 + math.sqrt(snr)) ** 2,
        "edm": 1 / 0.5**2 + snr,
        "min-snr": min(snr, 5.0),
        "snr-half": math.sqrt(snr),
    }


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weight_is_its_formula_at_every_noise_level(name: str) -> None:
    for logsnr in (-7.0, 0.0, 1.5, math.log(4.5), math.log(5.5), 6.0):
        found = float(weight(name, torch.tensor(logsnr, dtype=F64)))  # type: ignore[arg-type]
        assert found == pytest.approx(weights_by_hand(logsnr)[name], rel=1e-12)


@pytest.mark.parametrize("name", WEIGHTS)
@THREE
def test_every_squared_error_takes_its_weight(process: Gaussian, name: str) -> None:
    given = noised(process)
    w = torch.tensor([weights_by_hand(float(process.logsnr(t)))[name] for t in TIMES], dtype=F64)
    error = (0.3 - given.x0).square().flatten(1).mean(1)
    posterior = Point(torch.full_like(given.x0, 0.3))
    assert torch.allclose(Square(name)(posterior, given, Rng(2, 3)), w * error, rtol=1e-6)  # type: ignore[arg-type]
    assert torch.allclose(PublishedSquare(name)(posterior, given, Rng(2, 3)), w * error, rtol=1e-6)  # type: ignore[arg-type]


def test_the_published_loss_uses_a_draw_and_the_usual_one_the_mean() -> None:
    given = noised()
    posterior = soft(given, 0.3)
    draw = (posterior.sample(Rng(2, 3)) - given.x0).square().flatten(1).mean(1)
    assert torch.allclose(PublishedSquare("x0")(posterior, given, Rng(2, 3)), draw)
    mean = (0.3 - given.x0).square().flatten(1).mean(1)
    assert torch.allclose(Square("x0")(posterior, given, Rng(2, 3)), mean)


# the energy score


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("m", [2, 5])
def test_the_energy_score_is_its_double_sum(beta: float, lam: float, m: int) -> None:
    given = noised()
    draws = soft(given).draws(m, Rng(2, 3))

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().flatten(1).mean(1) ** (beta / 2)

    near = sum(distance(draws[j], given.x0) for j in range(m)) / m
    apart = sum(distance(draws[j], draws[k]) for j in range(m) for k in range(m) if j != k)
    right = given.logsnr.exp() ** (beta / 2) * (near - lam / (2 * m * (m - 1)) * apart)
    found = Energy(beta=beta, m=m, lam=lam)(soft(given), given, Rng(2, 3))
    assert torch.allclose(found, right, rtol=1e-4, atol=1e-5)


def test_the_energy_score_has_four_draws_by_default() -> None:
    given = noised()
    assert torch.equal(Energy()(soft(given), given, Rng(2, 3)), Energy(m=4)(soft(given), given, Rng(2, 3)))
    assert not torch.equal(Energy()(soft(given), given, Rng(2, 3)), Energy(m=3)(soft(given), given, Rng(2, 3)))


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_weight_of_the_energy_score_has_power_half_beta(name: str) -> None:
    """Times w^(beta / 2), so that a name means the same scale of error as in squared error."""
    given = noised()
    plain = Energy(beta=0.8, weight="x0")(soft(given), given, Rng(2, 3))
    found = Energy(beta=0.8, weight=name)(soft(given), given, Rng(2, 3))  # type: ignore[arg-type]
    w = torch.tensor([weights_by_hand(float(level))[name] for level in given.logsnr], dtype=F64)
    assert torch.allclose(found, w**0.4 * plain, rtol=1e-5)


@pytest.mark.parametrize("mean", [0.0, 0.5, 1.0, 3.0])
def test_the_energy_score_adds_the_weighted_error_of_the_mean(mean: float) -> None:
    given = noised()
    alone = Energy(weight="v")(soft(given), given, Rng(2, 3))
    both = Energy(weight="v", mean=mean)(soft(given, 0.3), given, Rng(2, 3))
    error = Square("v")(Point(torch.full_like(given.x0, 0.3)), given, Rng(2, 3))
    assert torch.allclose(both - alone, mean * error, rtol=1e-5, atol=1e-6)


def test_with_weight_0_the_mean_is_not_computed() -> None:
    given, asked = noised(), list[int]()
    believed = ImplicitMean(lambda eta: eta, 3, (2, 2), given.x0, lambda: asked.append(1) or given.x0)  # type: ignore[func-returns-value]
    Energy(mean=0.0)(believed, given, Rng(2, 3))
    assert not asked


def test_the_distance_0_has_a_finite_gradient() -> None:
    nothing = torch.zeros(2, 3, 4, dtype=F64, requires_grad=True)
    length = power(nothing, 1.0)
    assert 0 < float(length.detach().max()) <= 1.1e-4
    (slope,) = torch.autograd.grad(length.sum(), nothing)
    assert slope.isfinite().all()


# likelihoods


@THREE
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.9])
def test_the_variance_of_a_step_is_one_over_dsnr(process: Gaussian, ratio: float) -> None:
    snr = process.logsnr(ratio * TIMES).exp() - process.logsnr(TIMES).exp()
    assert torch.allclose(step_variance(process, TIMES, ratio), 1 / snr, rtol=1e-9)


@pytest.mark.parametrize("ratio", [0.5, 0.8])
def test_the_likelihood_is_of_x0_with_the_noise_of_the_step(ratio: float) -> None:
    """-log N(y; m, v + 1 / dSNR) / D, with y from the given rng."""
    given, mean, v = noised(), 0.3, 0.4
    var = step_variance(VP(), TIMES, ratio)[:, None, None]
    y = given.x0 + var.sqrt() * Rng(2, 3).normal((3, 2, 2), F64)
    right = 0.5 * ((y - mean) ** 2 / (v + var) + (2 * math.pi * (v + var)).log()).flatten(1).mean(1)
    posterior = Normal(torch.full_like(given.x0, mean), torch.full((1,), v, dtype=F64))
    assert torch.allclose(Likelihood(ratio=ratio)(posterior, given, Rng(2, 3)), right, rtol=1e-9)
    if ratio == 0.5:
        assert torch.allclose(Likelihood()(posterior, given, Rng(2, 3)), right, rtol=1e-9)


def importance_by_hand(given: Noised, k: int, ratio: float, tau: float, temper: float) -> Tensor:
    var, rng = step_variance(VP(), TIMES, ratio)[:, None, None], Rng(2, 3)
    y = given.x0 + var.sqrt() * rng.normal((3, 2, 2), F64)
    draws = soft(given).draws(k, rng)
    total = var + tau**2
    each = -0.5 * ((y - draws) ** 2 / total + (2 * math.pi * total).log()).flatten(2).sum(2)
    return -temper * ((each / temper).exp().mean(0)).log() / 4


@pytest.mark.parametrize("k", [1, 3, 16])
@pytest.mark.parametrize("ratio", [0.5, 0.8])
@pytest.mark.parametrize("tau", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("temper", [1.0, 4.0])
def test_the_importance_bound_is_its_sum(k: int, ratio: float, tau: float, temper: float) -> None:
    given = noised()
    found = Importance(k=k, ratio=ratio, tau=tau, temper=temper)(soft(given), given, Rng(2, 3))
    assert torch.allclose(found, importance_by_hand(given, k, ratio, tau, temper), rtol=1e-6)


# steps at which a mixture is learnable


@THREE
def test_the_mixture_gain_is_dsnr_times_the_spread(process: Gaussian) -> None:
    grid, spread = torch.tensor([0.9, 0.6, 0.3], dtype=F64), torch.tensor([0.5, 2.0])
    snr = (process.alpha(grid) / process.sigma(grid)) ** 2
    assert torch.allclose(mixture_gain(process, grid, spread), torch.stack([snr[1] - snr[0], snr[2] - snr[1]]) * spread)


@pytest.mark.parametrize("k", [2, 5])
def test_a_mixture_is_learnable_above_a_gain_of_one_over_k_minus_one(k: int) -> None:
    grid = torch.tensor([0.9, 0.6], dtype=F64)
    edge = 1 / ((k - 1) * float(mixture_gain(VP(), grid, torch.ones(1))))
    for share, pays in ((0.98, False), (1.02, True)):
        assert bool(mixture_learnable(VP(), grid, torch.tensor([share * edge], dtype=F64), k)[0]) == pays


# arguments of a loss


class RecordingDenoiser:
    """A denoiser that records its calls."""

    def __init__(self) -> None:
        self.process, self.told = VP(), list[Tensor | None]()

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        self.told.append(cond)
        return Point(xt)


def test_loss_of_passes_the_condition() -> None:
    given = VP().noise(torch.zeros(3, 2), TIMES, Rng(0, 3), cond=torch.tensor([4, 5, 6]))
    listening = RecordingDenoiser()
    found = loss_of(Square("x0"), listening, given, Rng(0, 3))
    assert listening.told == [given.cond] and torch.allclose(found, given.xt.square().mean(1))


def test_loss_of_passes_the_stage() -> None:
    seen: list[Stage] = []

    class Noting:
        def ask(self, denoiser: object, noised: Noised, rng: Rng, stage: Stage) -> Tensor:
            seen.append(stage)
            return torch.zeros(len(noised.t))

    stage = Stage(0.7)
    loss_of(Noting(), RecordingDenoiser(), noised(), Rng(0, 3), stage)
    loss_of(Noting(), RecordingDenoiser(), noised(), Rng(0, 3))
    assert seen[0] is stage and seen[1] == Stage(0.0, None)
