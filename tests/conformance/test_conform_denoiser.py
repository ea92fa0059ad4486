"""The affine table; and the closed forms against integrals, Tweedie's formulas and brute force."""

from __future__ import annotations

import copy
import math
from typing import cast

import pytest
import torch
from torch import Tensor

from softmix.denoiser import OUTPUTS, CallCounter, ExactData, ExactMixture, Output, affine, averaged, wiener
from softmix.oracle import MixtureProblem, correlated, gaussian
from softmix.process import PROCESSES, VE, VP, Flow, Gaussian
from softmix.rng import Rng
from softmix.shape import column

F64 = torch.float64
EVERY = pytest.mark.parametrize("process", PROCESSES, ids=str)
THREE = pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)
SHAPES = pytest.mark.parametrize("shape", [(3,), (3, 1, 3), (3, 3, 3), (5,)], ids=str)


# the affine table


def said(output: str, x0: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor, sd: float) -> Tensor:
    """The output of a perfect network, by the definition of each output."""
    if output == "edm":
        # c_skip, c_out of Karras et al. for the noise level sigma / alpha and the input x_t / alpha
        level, x = sigma / alpha, x0 + sigma / alpha * z
        skip, scale = sd**2 / (level**2 + sd**2), level * sd / (level**2 + sd**2).sqrt()
        return (x0 - skip * x) / scale
    table = {"x0": x0, "eps": z, "v": alpha * z - sigma * x0, "flow": z - x0}
    return table[output]


@EVERY
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_x0_is_recovered_from_every_output(process: Gaussian, output: Output, dtype: torch.dtype) -> None:
    """To rounding times the sizes of the two terms of the sum (float32: below 1e-6 of it), at 200 times."""
    t = torch.linspace(1, 0, 201, dtype=F64)[:-1]
    alpha, sigma = process.alpha(t), process.sigma(t)
    x0, z = Rng(0, 200, "x0").normal((200, 3, 2), dtype), Rng(0, 200, "z").normal((200, 3, 2), dtype)
    xt = column(alpha, x0) * x0 + column(sigma, x0) * z
    for sd in (0.2, 0.5, 1.0, 2.0):
        wide = (part.double() for part in (x0, z))
        f = said(output, *wide, column(alpha, x0.double()), column(sigma, x0.double()), sd).to(dtype)
        a, b = (column(part, x0) for part in affine(output, alpha, sigma, sd))
        size = (a * xt).abs() + (b * f).abs() + 1
        assert ((a * xt + b * f - x0) / size).abs().max() < (1e-6 if dtype == torch.float32 else 1e-14)


@EVERY
def test_errors_are_amplified_no_more_than_documented(process: Gaussian) -> None:
    t = torch.linspace(0, 1, 2001, dtype=F64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    worst = {name: float(affine(name, alpha, sigma, 0.5)[1].abs().max()) for name in OUTPUTS}
    assert worst["x0"] == 1 and worst["flow"] <= 1 and worst["edm"] <= 0.5
    assert worst["v"] <= (1.21 if isinstance(process, Flow) else 1 + 1e-12)
    assert worst["eps"] == pytest.approx(math.exp(-float(process.logsnr(1.0)) / 2), rel=1e-6)


def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'score'.*x0, eps, v"):
        affine("score", torch.ones(1), torch.ones(1))  # type: ignore[arg-type]


# the exact mixture


def integrals(problem: MixtureProblem, xt: Tensor, t: float, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [B, D], covariance [B, D, D] and log densities [B, N] of x0 given xt, by sums over a lattice of points."""
    alpha, sigma = problem.process.alpha(t), problem.process.sigma(t)
    logs = problem.law.log_prob(points) - ((xt[:, None] - alpha * points) ** 2).sum(-1) / (2 * sigma**2)
    logs = logs.log_softmax(1)
    weights = logs.exp()
    mean = weights @ points
    off = points - mean[:, None]
    return mean, torch.einsum("bn,bni,bnj->bij", weights, off, off), logs


@THREE
@pytest.mark.parametrize("level", [-3.0, 0.0, 3.0])
@pytest.mark.parametrize("dim", [1, 2])
def test_the_exact_posterior_is_bayes_rule_by_integration(process: Gaussian, level: float, dim: int) -> None:
    """Trapezoid sums converge exponentially for smooth densities: error far below 1e-6 (measured 5e-14)."""
    problem = correlated((dim,), process)
    t = float(process.time(level))
    side = 20_001 if dim == 1 else 401
    line = torch.linspace(-5, 5, side, dtype=F64)
    points = line[:, None] if dim == 1 else torch.cartesian_prod(line, line)
    x0 = problem.sample(4, Rng(0, 4))
    xt = process.noise(x0, t, Rng(1, 4)).xt
    mean, covariance, logs = integrals(problem, xt, t, points)
    posterior = problem.denoiser()(xt, t)
    assert (posterior.mean - mean).abs().max() < 1e-6 and (posterior.covariance - covariance).abs().max() < 1e-6
    assert (posterior.var - covariance.diagonal(dim1=1, dim2=2)).abs().max() < 1e-6
    cell = dim * math.log(10 / (side - 1))
    for n in (len(points) // 2 + side // 30, int(logs[0].argmax())):
        density = posterior.log_prob(points[n : n + 1].expand(4, dim))
        assert (density - (logs[:, n] - cell)).abs().max() < 1e-5


@EVERY
@pytest.mark.parametrize("level", [-4.0, 0.0, 4.0])
def test_tweedie(process: Gaussian, level: float) -> None:
    """mean = (x + sigma^2 grad log p_t) / alpha, and covariance = sigma^2 / alpha times the mean's Jacobian."""
    problem = correlated((3,), process)
    if level < float(process.logsnr(1.0)):
        return
    t = float(process.time(level))
    alpha, sigma = process.alpha(t), process.sigma(t)
    xt = process.noise(problem.sample(6, Rng(0, 6)), t, Rng(1, 6)).xt.requires_grad_()
    score = cast(Tensor, torch.autograd.grad(problem.at(t).log_prob(xt).sum(), xt)[0])
    posterior = problem.denoiser()(xt, t)
    assert (posterior.mean - (xt + sigma**2 * score) / alpha).abs().max() < 1e-9
    rows = [torch.autograd.grad(posterior.mean[:, i].sum(), xt, retain_graph=True)[0] for i in range(3)]
    assert (posterior.covariance - sigma**2 / alpha * torch.stack(rows, 1)).abs().max() < 1e-9


@THREE
@SHAPES
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_time_per_item_and_any_shape(process: Gaussian, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """A batch of 3 (B = C = H = W among the shapes) against its items alone and flat, for mean, var and weights."""
    problem = correlated(shape, process)
    t = process.time(torch.tensor([-2.0, 1.0, 4.0], dtype=F64))
    x0 = problem.sample(3, Rng(0, 3)).to(dtype)
    xt = process.noise(x0, t, Rng(1, 3)).xt
    denoiser, flat = problem.denoiser(), correlated((math.prod(shape),), process).denoiser()
    several = denoiser(xt, t)
    assert several.mean.shape == several.var.shape == xt.shape and several.mean.dtype == dtype
    tolerance = 1e-12 if dtype == F64 else 2e-5
    for k in range(3):
        alone, line = denoiser(xt[k : k + 1], float(t[k])), flat(xt[k : k + 1].flatten(1), t[k : k + 1])
        for one in (alone.mean[0], line.mean[0].reshape(shape)):
            assert (several.mean[k] - one).abs().max() < tolerance
        assert (several.var[k] - line.var[0].reshape(shape)).abs().max() < tolerance
        assert (several.log_weights[k] - alone.log_weights[0]).abs().max() < 100 * tolerance
    exact = denoiser(xt.double(), t)
    assert (several.mean - exact.mean).abs().max() < tolerance


@THREE
@SHAPES
def test_the_exact_data_posterior_is_bayes_rule(process: Gaussian, shape: tuple[int, ...]) -> None:
    points = Rng(0, 9, "data").normal((9, *shape), F64)
    t = process.time(torch.tensor([-2.0, 1.0, 4.0], dtype=F64))
    xt = process.noise(points[:3], t, Rng(1, 3)).xt
    posterior = ExactData(process, points)(xt, t)
    for k in range(3):
        alpha, sigma = process.alpha(t[k]), process.sigma(t[k])
        weights = (-((xt[k] - alpha * points) ** 2).flatten(1).sum(1) / (2 * sigma**2)).softmax(0)
        mean = sum(w * y for w, y in zip(weights, points, strict=True))
        var = sum(w * (y - mean) ** 2 for w, y in zip(weights, points, strict=True))
        assert (posterior.log_weights[k].exp() - weights).abs().max() < 1e-10
        assert (posterior.mean[k] - mean).abs().max() < 1e-10 and (posterior.var[k] - var).abs().max() < 1e-10
        alone = ExactData(process, points)(xt[k : k + 1], float(t[k]))
        assert (posterior.mean[k] - alone.mean[0]).abs().max() < 1e-12
    rounded = ExactData(process, points)(xt.float(), t)
    assert (rounded.mean - posterior.mean).abs().max() < 1e-3


@EVERY
def test_wiener_is_the_linear_formula(process: Gaussian, device: torch.device) -> None:
    """m = mu + U diag(alpha^2 l / (alpha^2 l + sigma^2)) U^T (x / alpha - mu)."""
    problem = gaussian((4,), process)
    law = problem.law.to(device)
    mean, covariance = law.mean, law.covariance
    spread, vectors = torch.linalg.eigh(covariance)
    for t in (0.05, 0.5, 0.95):
        alpha, sigma = process.alpha(t), process.sigma(t)
        xt = process.noise(problem.sample(5, Rng(0, 5)), t, Rng(1, 5)).xt
        gain = alpha**2 * spread / (alpha**2 * spread + sigma**2)
        truth = mean + ((xt / alpha - mean) @ vectors * gain) @ vectors.mT
        assert (wiener(process, mean, covariance)(xt, t).mean - truth).abs().max() < 1e-9


def test_the_comparison_with_integrals_detects_a_wrong_posterior() -> None:
    problem = correlated((1,))
    line = torch.linspace(-5, 5, 2001, dtype=F64)[:, None]
    xt = torch.tensor([[0.3]], dtype=F64)
    mean, _, _ = integrals(problem, xt, 0.5, line)
    wrong = ExactMixture(VP(), problem.law.weights.flip(0), problem.law.means, problem.law.covariances)
    assert (wrong(xt, 0.5).mean - mean).abs().max() > 1e-2


def test_a_singular_component_is_a_point() -> None:
    """A covariance of zero: the posterior is at its mean, and all numbers are finite."""
    denoiser = ExactMixture(VP(), torch.tensor([1.0]), torch.tensor([[0.5, -1.0]]), torch.zeros(1, 2, 2))
    posterior = denoiser(torch.zeros(3, 2), 0.5)
    assert torch.equal(posterior.mean, torch.tensor([[0.5, -1.0]]).expand(3, 2)) and float(posterior.var.max()) == 0
    assert torch.equal(posterior.sample(Rng(0, 3)), posterior.mean)


def test_a_wrap_can_be_copied_and_forwards_attributes() -> None:
    inner = correlated().denoiser()
    for wrapped in (CallCounter(inner), averaged(2)(inner)):
        assert copy.deepcopy(wrapped).shape == copy.copy(wrapped).shape == (2,)  # type: ignore[attr-defined]
        with pytest.raises(AttributeError):
            _ = wrapped.nothing  # type: ignore[attr-defined]
