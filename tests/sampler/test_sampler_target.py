"""Samplers of a density: weights are right on average, exactly, and gradients are those of the loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from softmix.denoiser import Control, density_slope
from softmix.net import MLPSpec
from softmix.oracle import correlated, funnel, mixture_target
from softmix.process import StationaryOU, reference_step
from softmix.rng import Rng
from softmix.sampler import (
    WeightedSamples,
    annealed_importance_samples,
    controlled_path,
    importance_samples,
    langevin_samples,
    path_grid,
    with_fixed_parameters,
)
from softmix.sampler.weighted import log_normal

pytestmark = pytest.mark.usefixtures("on_device")
F64 = torch.float64
Z = 3.7
PROCESS = StationaryOU(1.3)


def gaussian(mean: float = 0.4, sd: float = 0.9) -> Callable[[Tensor], Tensor]:
    """log of Z N(x; mean, sd^2 I)."""
    return lambda x: math.log(Z) + log_normal(x - mean, sd)


class Nodes:
    """In the place of random numbers: the nodes of Gauss and Hermite's rule in all normal numbers of a path."""

    def __init__(self, draws: int, nodes: int):
        points, weights = (
            torch.from_numpy(part).to(torch.empty(0).device) for part in np.polynomial.hermite_e.hermegauss(nodes)
        )
        self._columns = torch.cartesian_prod(*[points] * draws).reshape(-1, draws)
        self.weights = torch.cartesian_prod(*[weights / weights.sum()] * draws).reshape(-1, draws).prod(1)
        self._next = 0

    def __len__(self) -> int:
        return len(self.weights)

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self._next += 1
        return self._columns[:, self._next - 1].reshape(shape)


def free(y: Tensor, t: float, slope: Tensor) -> Tensor:
    return 0.7 * torch.tanh(y - 0.5) + 0.4 * t - 0.1 * slope


def random_control(shape: tuple[int, ...]) -> Control:
    torch.manual_seed(3)
    made = Control(PROCESS, MLPSpec(width=16, depth=1, frequencies=0), shape).double()
    for layer in (made.net.leave, made.gain):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return made


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", ["zero", "free", "network"])
def test_the_mean_weight_is_z_for_any_control_and_number_of_steps(steps: int, name: str) -> None:
    """By quadrature over all noise of a path: no sampling error."""
    controls = {"zero": lambda y, t, slope: torch.zeros_like(y), "free": free, "network": random_control((1,))}
    rng = Nodes(steps + 1, {1: 80, 2: 40, 3: 24}[steps])
    with torch.no_grad():
        _, log_weight = controlled_path(
            *(controls[name], gaussian(), PROCESS, (1,), path_grid(PROCESS, steps), rng),  # type: ignore[arg-type]
            dtype=F64,
        )
    assert float(rng.weights @ log_weight.exp()) == pytest.approx(Z, rel={1: 1e-8, 2: 1e-5, 3: 1e-3}[steps])
    if name != "zero":
        assert float(log_weight.std()) > 0.1


def test_the_mean_of_the_weighted_ends_is_that_of_the_target() -> None:
    rng = Nodes(3, 40)
    x, log_weight = controlled_path(free, gaussian(), PROCESS, (1,), path_grid(PROCESS, 2), rng, dtype=F64)  # type: ignore[arg-type]
    share = rng.weights * log_weight.exp() / Z
    assert float(share @ x[:, 0]) == pytest.approx(0.4, abs=1e-5)
    assert float(share @ x[:, 0] ** 2) == pytest.approx(0.4**2 + 0.9**2, abs=1e-4)


def test_the_mean_weight_is_z_in_many_dimensions() -> None:
    """4 standard errors of 100,000 paths in 4 dimensions, 16 steps."""
    x, log_weight = controlled_path(
        *(free, gaussian(), PROCESS, (2, 2), path_grid(PROCESS, 16), Rng(0, 100_000)), dtype=F64
    )
    w = log_weight.exp()
    assert x.shape == (100_000, 2, 2)
    assert abs(float(w.mean()) - Z) < 4 * float(w.std()) / len(w) ** 0.5


def best_of_shifted(
    mean: float, steps: int, theta: Tensor | float | None = None
) -> Callable[[Tensor, float, Tensor], Tensor]:
    """The best control for N(mean, scale^2 I): alpha at the end of the step, times the mean. Exact for any steps."""
    after = dict(pairwise(path_grid(PROCESS, steps)))
    size = mean if theta is None else theta

    def control(y: Tensor, t: float, slope: Tensor) -> Tensor:
        return float(PROCESS.alpha(after[t])) * size * torch.ones_like(y)

    return control


@pytest.mark.parametrize("steps", [1, 5, 40])
def test_the_best_control_has_weights_without_spread(steps: int) -> None:
    """All of log w but log Z is the signal that the chain begins without: a0 m . y0 / s^2 - a0^2 |m|^2 / (2 s^2)."""
    mean, s = 0.8, PROCESS.scale
    _, log_weight = controlled_path(
        *(best_of_shifted(mean, steps), gaussian(mean, s), PROCESS, (3,), path_grid(PROCESS, steps), Rng(0, 200)),
        dtype=F64,
    )
    y0, a0 = s * Rng(0, 200).normal((200, 3), F64), float(PROCESS.alpha(1.0))
    rest = a0 * mean * y0.sum(1) / s**2 - 3 * (a0 * mean) ** 2 / (2 * s**2)
    assert torch.allclose(log_weight - math.log(Z), rest, rtol=0, atol=1e-11)
    assert float(log_weight.std()) < 1e-3


def test_the_best_control_of_a_narrow_target_loses_its_spread_with_more_steps() -> None:
    """u = s^2 grad log p_t + y. The variance of log w falls as 1 / K: measured orders 1.02 to 1.13 over three seeds."""
    mean, sd = 0.5, 0.6

    def control(y: Tensor, t: float, slope: Tensor) -> Tensor:
        alpha, sigma = (float(part) for part in PROCESS.levels(t))
        return y - PROCESS.scale**2 * (y - alpha * mean) / ((alpha * sd) ** 2 + sigma**2)

    spreads = []
    for steps in (16, 64, 256):
        grid = path_grid(PROCESS, steps)
        _, log_weight = controlled_path(control, gaussian(mean, sd), PROCESS, (2,), grid, Rng(1, 4000), dtype=F64)
        spreads.append(float(log_weight.var()))
        assert float(log_weight.exp().mean()) == pytest.approx(Z, abs=4 * float(log_weight.exp().std()) / 4000**0.5)
    orders = [math.log(a / b, 4) for a, b in pairwise(spreads)]
    assert all(abs(order - 1) < 0.2 for order in orders), orders


# gradients


def gradient(noise_term: object, theta: Tensor, n: int, seed: int = 0) -> Tensor:
    """d(-log w) / d theta of each path for u = theta_0 + theta_1 y, [n, 2]."""
    rng = Rng(seed, n)
    each = theta.expand(n, 2).clone().requires_grad_()

    def control(y: Tensor, t: float, slope: Tensor) -> Tensor:
        return each[:, :1] + each[:, 1:] * y

    _, log_weight = controlled_path(
        *(control, gaussian(), PROCESS, (2,), path_grid(PROCESS, 6), rng, noise_term),  # type: ignore[arg-type]
        dtype=F64,
    )
    return torch.autograd.grad(-log_weight.sum(), each)[0]


def loss_by_hand(theta: Tensor, fixed: Tensor, n: int) -> Tensor:
    """The loss of each path, with parameters of their own in the term with the noise."""
    rng, s = Rng(0, n), PROCESS.scale
    y, total = s * rng.normal((n, 2), F64), torch.zeros(n, dtype=F64)
    for t, after in pairwise(path_grid(PROCESS, 6)):
        keep, b = reference_step(PROCESS, t, after)
        u, other, z = theta[0] + theta[1] * y, fixed[0] + fixed[1] * y, rng.normal((n, 2), F64)
        total = total + (b**2 * u**2 / (2 * s**2) + b * other * z / s).sum(1)
        y = keep * y + b**2 * u + s * b * z
    return total + log_normal(y, s) - gaussian()(y)


@pytest.mark.parametrize("fixed", [True, False])
def test_the_gradient_is_the_derivative_of_the_loss(fixed: bool) -> None:
    """Against differences of the loss that is written out here, with the second parameters fixed or moved along."""
    theta, h = torch.tensor([0.3, -0.2], dtype=F64), 1e-5
    found = gradient(with_fixed_parameters if fixed else None, theta, 50)
    for k in range(2):
        move = torch.zeros(2, dtype=F64)
        move[k] = h
        ends = [loss_by_hand(theta + sign * move, theta if fixed else theta + sign * move, 50) for sign in (1, -1)]
        assert torch.allclose(found[:, k], (ends[0] - ends[1]) / (2 * h), atol=1e-7)


def test_both_forms_of_the_noise_term_have_one_value_and_one_mean_gradient() -> None:
    """4 standard errors of the difference over 40,000 paths; the two differ path by path."""
    theta = torch.tensor([0.3, -0.2], dtype=F64)
    full, fixed = (gradient(term, theta, 40_000) for term in (None, with_fixed_parameters))
    difference = full - fixed
    assert (difference.mean(0).abs() < 4 * difference.std(0) / 200).all()
    assert (difference.std(0) > 0.1).all()
    u, y, z = (Rng(k, 5).normal((5, 2), F64) for k in range(3))
    y.requires_grad_()
    v = u * y
    assert torch.allclose(with_fixed_parameters(v, y, z), (v * z).sum(1))


def test_with_fixed_parameters_the_gradient_vanishes_at_the_best_control() -> None:
    mean, steps, n = 0.8, 5, 100
    theta = torch.full((n, 1), mean, dtype=F64).requires_grad_()
    for term, still in ((with_fixed_parameters, True), (None, False)):
        _, log_weight = controlled_path(
            *(best_of_shifted(mean, steps, theta), gaussian(mean, PROCESS.scale), PROCESS, (3,)),
            *(path_grid(PROCESS, steps), Rng(0, n), term),  # type: ignore[arg-type]
            dtype=F64,
        )
        (found,) = torch.autograd.grad(log_weight.sum(), theta)
        assert (float(found.abs().max()) < 1e-9) is still


def test_a_path_is_a_function_of_its_item_and_needs_times_from_1_to_0() -> None:
    grid = path_grid(PROCESS, 4)
    whole = controlled_path(free, gaussian(), PROCESS, (2,), grid, Rng(5, 6), dtype=F64)
    one = controlled_path(free, gaussian(), PROCESS, (2,), grid, Rng(5, [3]), dtype=F64)
    assert all(torch.allclose(a[3:4], b, rtol=1e-13) for a, b in zip(whole, one, strict=True))
    for bad in ((0.9, 0.0), (1.0, 0.1), (1.0,)):
        with pytest.raises(ValueError, match="fall from 1 to 0"):
            controlled_path(free, gaussian(), PROCESS, (2,), bad, Rng(0, 3))
    with pytest.raises(ValueError, match="s < t"):
        controlled_path(free, gaussian(), PROCESS, (2,), (1.0, 0.4, 0.6, 0.0), Rng(0, 3))


# weighted samples


def weighted(n: int = 1000) -> WeightedSamples:
    return importance_samples(gaussian(0.4, 0.9), (2,), n, Rng(0, n), 1.3, F64)


def test_the_numbers_of_weights_are_those_of_their_definitions() -> None:
    found = weighted()
    w = found.log_weight.exp()
    assert found.log_z == pytest.approx(math.log(float(w.mean())))
    assert found.elbo == pytest.approx(float(w.log().mean()))
    assert found.elbo < found.log_z
    assert found.effective_size == pytest.approx(float(w.sum() ** 2 / (w**2).sum()))
    mean = (w[:, None] * found.x).sum(0) / w.sum()
    assert torch.allclose(found.mean, mean)
    assert torch.allclose(found.var, (w[:, None] * (found.x - mean) ** 2).sum(0) / w.sum())
    parts = found.log_z_of_parts(4)
    assert torch.allclose(parts, torch.stack([part.mean().log() for part in w.chunk(4)]))
    with pytest.raises(ValueError, match="1000 samples were to be divided into 7 equal parts"):
        found.log_z_of_parts(7)


def test_importance_samples_have_the_mean_weight_z() -> None:
    """By quadrature, and the effective size of a known pair of Gaussians: 1 / E[w^2] Z^2 in closed form."""
    rng = Nodes(1, 80)
    found = importance_samples(gaussian(), (1,), 80, rng, 1.3, F64)  # type: ignore[arg-type]
    assert float(rng.weights @ found.log_weight.exp()) == pytest.approx(Z, rel=1e-10)
    many = weighted(200_000)
    # E w^2 / Z^2 = s^2 / (sd sqrt(2 s^2 - sd^2)) exp(m^2 / (2 s^2 - sd^2)) in each dimension
    s, sd, m = 1.3, 0.9, 0.4
    one = s**2 / (sd * math.sqrt(2 * s**2 - sd**2)) * math.exp(m**2 / (2 * s**2 - sd**2))
    assert many.effective_size / len(many) == pytest.approx(one**-2, rel=0.02)


def test_resampled_draws_have_the_law_of_the_target() -> None:
    """4 standard errors of the effective size."""
    x = weighted(100_000).resampled(50_000, Rng(9, 50_000))
    assert ((x.mean(0) - 0.4).abs() < 4 * 0.9 / 30_000**0.5).all()
    assert ((x.std(0) - 0.9).abs() < 4 * 0.9 / 30_000**0.5).all()


# samplers without training


@pytest.mark.parametrize(("leaps", "step"), [(1, 0.7), (3, 0.4), (1, 2.5)])
def test_annealing_has_the_mean_weight_z(leaps: int, step: float) -> None:
    """4 standard errors of 40,000 chains, also for steps that are mostly refused."""
    levels = [k / 5 for k in range(6)]
    found = annealed_importance_samples(
        *(gaussian(0.9, 0.5), (2,), 40_000, Rng(0, 40_000), levels, step), leaps=leaps, scale=1.3, dtype=F64
    )
    w = found.log_weight.exp()
    assert abs(float(w.mean()) - Z) < 4 * float(w.std()) / len(w) ** 0.5
    assert found.calls == 1 + 4 * leaps
    mean = w @ found.x / w.sum()
    assert ((mean - 0.9).abs() < 5 * 0.5 / found.effective_size**0.5).all()


def test_a_hamiltonian_step_leaves_its_law_as_it_is() -> None:
    """Chains that begin in a Gaussian stay there: with a target equal to the start every weight is 1, and with steps at
    a level between, the variance is that of the product of the two Gaussians."""
    s, sd, level = 1.3, 0.6, 0.5
    found = annealed_importance_samples(
        *(gaussian(0.0, sd), (1,), 40_000, Rng(0, 40_000), [0, level, 1], 0.8), leaps=2, scale=s, dtype=F64
    )
    # weighted by the first weight alone the states follow gamma_level
    first = level * (gaussian(0.0, sd)(start := s * Rng(0, 40_000).normal((40_000, 1), F64)) - log_normal(start, s))
    share = first.softmax(0)
    var = 1 / (level / sd**2 + (1 - level) / s**2)
    assert float(share @ found.x[:, 0] ** 2) == pytest.approx(var, rel=0.03)
    same = annealed_importance_samples(gaussian(0.0, s), (2,), 100, Rng(0, 100), [0, 0.3, 1], 0.5, scale=s, dtype=F64)
    assert torch.allclose(same.log_weight, torch.full((100,), math.log(Z), dtype=F64))


def test_a_hamiltonian_step_turns_a_gaussian_by_its_angle() -> None:
    """After a quarter of the period of gamma_level the state is independent of the one before: the forces of both
    densities count, and nearly all steps are taken. 4 standard errors, and 0.01 for ten leapfrogs."""
    s, sd, level, n = 1.3, 0.6, 0.5, 20_000
    speed = math.sqrt(level / sd**2 + (1 - level) / s**2)
    found = annealed_importance_samples(
        *(gaussian(0.0, sd), (1,), n, Rng(0, n), [0, level, 1], math.pi / (20 * speed)), leaps=10, scale=s, dtype=F64
    )
    start = s * Rng(0, n).normal((n, 1), F64)
    both = torch.cat([start, found.x], 1).T
    assert abs(float(torch.corrcoef(both)[0, 1])) < 4 / n**0.5 + 0.01
    assert float((start == found.x).double().mean()) < 0.02


def test_more_levels_have_a_smaller_gap_of_the_bound() -> None:
    target = mixture_target(correlated((2,)))
    gaps = []
    for count in (2, 8, 32):
        levels = [k / count for k in range(count + 1)]
        found = annealed_importance_samples(target.log_density, (2,), 2000, Rng(0, 2000), levels, 0.3, dtype=F64)
        gaps.append(target.log_z - found.elbo)
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] > 0


def test_langevin_reaches_its_own_stationary_law() -> None:
    """For N(m, sd^2): the stationary variance is sd^2 / (1 - h / (2 sd^2)), with h / 2 for the step.
    Measured within 2.2 % over three seeds."""
    sd, step = 0.9, 0.2
    x = langevin_samples(gaussian(0.4, sd), (2,), 50_000, Rng(0, 50_000), 60, step, scale=1.3, dtype=F64)
    right = sd**2 / (1 - step / (2 * sd**2))
    assert ((x.var(0) / right - 1).abs() < 0.04).all()
    assert ((x.mean(0) - 0.4).abs() < 4 * right**0.5 / 50_000**0.5).all()
    assert right / sd**2 > 1.1


@pytest.mark.parametrize("name", ["importance", "annealed", "langevin"])
def test_a_sample_is_a_function_of_its_item(name: str) -> None:
    def draw(n: int, rng: Rng) -> Tensor:
        density = funnel(3, 1.0).log_density
        if name == "importance":
            return importance_samples(density, (3,), n, rng, dtype=F64).x
        if name == "annealed":
            return annealed_importance_samples(density, (3,), n, rng, [0, 0.5, 1], 0.4, dtype=F64).x
        return langevin_samples(density, (3,), n, rng, 4, 0.1, dtype=F64)

    assert torch.allclose(draw(6, Rng(2, 6))[4:5], draw(1, Rng(2, [4])), rtol=1e-13)


def test_wrong_levels_and_steps_are_refused() -> None:
    for levels in ([0, 0.5], [0.1, 1], [0, 0.6, 0.6, 1], [1]):
        with pytest.raises(ValueError, match="levels rise from 0 to 1"):
            annealed_importance_samples(gaussian(), (2,), 3, Rng(0, 3), levels, 0.1)
    for step, leaps in (([0.1], 1), (-0.1, 1), (0.1, 0)):
        with pytest.raises(ValueError, match="2 step sizes above 0 and 1 leapfrog or more"):
            annealed_importance_samples(gaussian(), (2,), 3, Rng(0, 3), [0, 0.3, 0.6, 1], step, leaps)
    for steps, size in ((0, 0.1), (3, 0.0)):
        with pytest.raises(ValueError, match="1 step or more and a step size above 0"):
            langevin_samples(gaussian(), (2,), 3, Rng(0, 3), steps, size)


def test_a_density_of_zero_gives_a_weight_of_zero() -> None:
    half = importance_samples(
        lambda x: torch.where(x[:, 0] > 0, 0.0, -math.inf) + log_normal(x, 1.0), (1,), 4000, Rng(0, 4000)
    )
    assert half.log_z == pytest.approx(math.log(0.5), abs=0.05)
    assert half.elbo == -math.inf
    assert density_slope(lambda x: x.sum(1), torch.zeros(2, 3)).tolist() == [[1.0] * 3] * 2
