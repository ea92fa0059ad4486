"""Every family of problems: draws, posteriors and normalising constants against independent calculations."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from softmix.cond import Cond
from softmix.data.toys import ToyMixture
from softmix.oracle import (
    DenoisingProblem,
    FramedProblem,
    ObservedProblem,
    PairedProblem,
    Problem,
    TokenProblem,
    correlated,
    funnel,
    gaussian,
    ks,
    measured_tokens,
    mixture_target,
    pairs,
    phi4,
    tokens,
    two_labels,
)
from softmix.posterior import FullMixture, HasMean
from softmix.process import VP, InBasis, NonUniform, PerElement, Process, Shifted, cosine, uniform_logsnr
from softmix.rng import Rng
from softmix.sampler import adams, ancestral, sample

F64 = torch.float64


def masking(symbols: int) -> Process:
    """The absorbing process of the tests of a stranger's paper."""
    file = Path(__file__).parents[1] / "strangers" / "masked.py"
    spec = importlib.util.spec_from_file_location("masked_process", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["masked_process"] = module
    spec.loader.exec_module(module)
    return module.Masking(symbols)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Residual(Shifted):
    """x_t = alpha x0 + t x_in + sigma z."""

    @property
    def base(self) -> VP:  # type: ignore[override]
        return VP()

    def k(self, t: Tensor | float) -> Tensor:
        return torch.as_tensor(t, dtype=F64)

    def u(self, cond: Any) -> Tensor:
        return cond.value if cond.value is not None else cond.image


A = torch.tensor([[0.6, -0.8]], dtype=F64)
PER_ELEMENT = PerElement(VP(), torch.tensor([1.0, 2.0], dtype=F64))
IN_BASIS = InBasis(PER_ELEMENT, (cosine(2),))
DENOISING: dict[str, Callable[[], DenoisingProblem]] = {
    "mixture": lambda: correlated((2,)),
    "observed": lambda: ObservedProblem(correlated((2,)), A, 0.3),
    "observed, per element": lambda: ObservedProblem(correlated((2,), PER_ELEMENT), A, 0.3),
    "paired": lambda: pairs((2,)),
    "paired, shifted": lambda: pairs((2,), Residual()),
    "paired, images": lambda: pairs((1, 2, 2), Residual()),
    "framed": lambda: FramedProblem(correlated((1, 2, 2)), NonUniform((2, 2), 1)),
    "framed, in a basis": lambda: FramedProblem(correlated((2,)), IN_BASIS),
    "labelled": two_labels,
    "tokens": lambda: tokens(masking(3), 3, 4),
    "measured tokens": lambda: measured_tokens(masking(3), 3, 4),
}
FAMILIES: dict[str, Callable[[], Problem]] = {
    **DENOISING,
    "mixture target": lambda: mixture_target(correlated((2, 2))),
    "funnel": lambda: funnel(3, 1.0),
    "phi4": lambda: phi4(4),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_draw_of_a_problem_is_a_function_of_its_item(name: str) -> None:
    problem = FAMILIES[name]()
    assert isinstance(problem, Problem)
    x0, cond = problem.draw(6, Rng(3, 6))
    assert x0.shape == (6, *problem.shape)
    one, own = problem.draw(1, Rng(3, [4]))
    assert torch.equal(one[0], x0[4])
    if cond is not None:
        assert own is not None and all(torch.equal(a[0], b[4]) for a, b in zip(_parts(own), _parts(cond), strict=True))


def _parts(cond: Cond) -> list[Tensor]:
    return [part for part in (cond.image, cond.value, cond.label) if part is not None]


def _features(x0: Tensor, xt: Tensor, cond: Cond | None) -> Tensor:
    """Products of x0 with itself, with x_t and with the condition: moments of their joint law."""
    rest = [xt, *(_parts(cond) if cond is not None else [])]
    flat = [part.flatten(1).double() for part in (x0, *rest)]
    both = torch.cat(flat, 1)
    return torch.cat([flat[0], (flat[0][:, :, None] * both[:, None]).flatten(1)], 1)


@pytest.mark.parametrize("t", [0.3, 0.8])
@pytest.mark.parametrize("name", [name for name in DENOISING if "tokens" not in name])
def test_a_draw_of_the_posterior_and_x0_have_the_same_joint_law_with_x_t_and_the_condition(name: str, t: float) -> None:
    """20,000 items; the largest of at most 40 differences of moments in standard errors of the pairwise difference."""
    problem, n = DENOISING[name](), 20_000
    assert isinstance(problem, DenoisingProblem)
    x0, cond = problem.draw(n, Rng(0, n))
    xt = problem.process.noise(x0, t, Rng(1, n), cond).xt
    again = problem.denoiser()(xt, t, cond).sample(Rng(2, n))
    off = _features(again, xt, cond) - _features(x0, xt, cond)
    assert float((off.mean(0) / (off.std(0) / math.sqrt(n))).abs().max()) < 4.5


# pairs


def _on_a_line(problem: PairedProblem, xt: float, t: float, x_in: float, shift: float) -> tuple[float, float]:
    """Mean and variance of x0 given x_t and x_in by a sum over a fine line."""
    line = torch.linspace(-8, 8, 40_001, dtype=F64)
    alpha, sigma = float(VP().alpha(t)), float(VP().sigma(t))
    logs = problem.law.log_prob(torch.stack([line, torch.full_like(line, x_in)], 1))
    logs = logs - (xt - alpha * line - shift * x_in).square() / (2 * sigma**2)
    weights = logs.softmax(0)
    mean = float(weights @ line)
    return mean, float(weights @ (line - mean).square())


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("xt", "t", "x_in"), [(0.4, 0.2, -0.5), (-0.7, 0.6, 0.9), (1.1, 0.95, 0.1)])
def test_the_posterior_of_a_pair_is_a_quadrature(shifted: bool, xt: float, t: float, x_in: float) -> None:
    problem = pairs((1,), Residual() if shifted else VP())
    cond = problem.cond(torch.tensor([[x_in]], dtype=F64))
    posterior = problem.denoiser()(torch.tensor([[xt]], dtype=F64), t, cond)
    mean, var = _on_a_line(problem, xt, t, x_in, t if shifted else 0.0)
    assert float(posterior.mean) == pytest.approx(mean, abs=1e-6)
    assert float(posterior.var) == pytest.approx(var, abs=1e-6)


def test_the_law_given_x_in_is_a_quadrature() -> None:
    problem = pairs((1,))
    line = torch.linspace(-8, 8, 40_001, dtype=F64)
    weights = problem.law.log_prob(torch.stack([line, torch.full_like(line, 0.7)], 1)).softmax(0)
    given = problem.given(torch.tensor([[0.7]], dtype=F64))
    assert float(given.mean) == pytest.approx(float(weights @ line), abs=1e-6)


def test_a_sampler_reaches_the_law_given_x_in_through_a_shifted_process() -> None:
    problem, n = pairs((2,), Residual()), 4000
    x_in = problem.draw(1, Rng(5, 1))[1].value
    assert x_in is not None
    cond, grid = problem.cond(x_in.expand(n, -1)), uniform_logsnr(VP(), 100, last=12.0)
    x = sample(problem.denoiser(), n, sampler=adams, grid=grid, cond=cond, seed=0, batch=n)
    right = _law(problem.given(x_in))
    assert ks(x, right) < 2
    marginal = ToyMixture("marginal", problem.law.weights, problem.law.means[:, :2],
                       torch.linalg.cholesky(problem.law.covariances[:, :2, :2]))  # fmt: skip
    assert ks(x, marginal) > 4, "the control: without x_in the law is another"


def _law(posterior: FullMixture) -> ToyMixture:
    weights, factors = posterior.log_weights[0].exp(), posterior._factors[0]
    roots = torch.linalg.cholesky(factors @ factors.mT)
    return ToyMixture("given", weights / weights.sum(), posterior._means[0], roots)


def test_shapes_of_a_pair_add_up() -> None:
    with pytest.raises(ValueError, match="x0 and x_in have 2 and 3 elements, the law 4"):
        replace(pairs((2,)), in_shape=(3,))


def test_a_frame_that_changes_clean_items_is_refused() -> None:
    with pytest.raises(ValueError, match="InBasis changes clean items"):
        replace(pairs((1, 2, 2)), process=InBasis(VP(), (cosine(2), cosine(2))))


@pytest.mark.parametrize("cond", [None, Cond(value=torch.zeros(2, 3)), torch.zeros(2, dtype=torch.long)])
def test_a_condition_other_than_x_in_is_refused(cond: Cond | Tensor | None) -> None:
    with pytest.raises(ValueError, match=r"pairs: the condition must be x_in \[B, 2\]"):
        pairs((2,)).denoiser()(torch.zeros(2, 2), 0.5, cond)


# tokens


def chain(length: int = 4) -> TokenProblem:
    return tokens(masking(3), 3, length)


def _all(problem: TokenProblem) -> tuple[Tensor, Tensor]:
    """Every sequence [K^L, L] and its probability, as the product of the chain's own numbers."""
    every = torch.cartesian_prod(*[torch.arange(problem.mask)] * problem.length)
    first, steps = problem.first.to(every.device), problem.steps.to(every.device)
    p = first[every[:, 0]]
    for l in range(problem.length - 1):  # noqa: E741
        p = p * steps[every[:, l], every[:, l + 1]]
    return every, p


STATES = [[3, 3, 3, 3], [0, 3, 3, 2], [3, 1, 3, 3], [3, 3, 3, 0], [0, 1, 2, 0]]


@pytest.mark.parametrize("state", STATES)
def test_the_posterior_of_a_masked_state_is_an_enumeration(state: list[int]) -> None:
    problem = chain()
    every, p = _all(problem)
    xt = torch.tensor(state)
    fits = ((xt == problem.mask) | (every == xt)).all(1)
    right = torch.stack([(p * fits)[every[:, place] == k].sum() for k in range(3) for place in range(4)]).reshape(3, 4)
    posterior = problem.denoiser()(xt[None], 0.5)
    assert torch.allclose(posterior.probabilities[0], right / (p * fits).sum(), atol=1e-12)
    assert float(problem.log_evidence(xt[None])) == pytest.approx(math.log(float((p * fits).sum())), abs=1e-12)


def test_log_probabilities_of_sequences_are_an_enumeration() -> None:
    every, p = _all(chain())
    assert float(p.sum()) == pytest.approx(1)
    assert torch.allclose(chain().log_prob(every), p.log(), atol=1e-12)


def _total_variation(x: Tensor, problem: TokenProblem, p: Tensor) -> float:
    codes = (x * 3 ** torch.arange(problem.length - 1, -1, -1)).sum(1)
    return float((torch.bincount(codes, minlength=len(p)) / len(x) - p).abs().sum() / 2)


def test_draws_of_masked_tokens_are_joint() -> None:
    """TV of 40,000 completions to the enumeration, at the size of the sampling error, 0.018 at most for 27 states."""
    problem = chain()
    every, p = _all(problem)
    xt = torch.tensor([[3, 3, 1, 3]]).expand(40_000, -1)
    x = problem.complete(xt, Rng(0, 40_000))
    right = p * (every[:, 2] == 1)
    assert _total_variation(x, problem, right / right.sum()) < 0.018


def test_unmasking_in_64_steps_reaches_the_joint_law_and_in_one_step_does_not() -> None:
    """40,000 sequences; TV of exact draws 0.012. In one step all tokens come from their own marginals."""
    problem, n = chain(), 40_000
    _, p = _all(problem)
    x = sample(problem.denoiser(), n, 64, sampler=ancestral, seed=0, batch=n)
    assert _total_variation(x, problem, p) < 0.02
    assert _total_variation(problem.draw(n, Rng(1, n))[0], problem, p) < 0.018
    assert _total_variation(sample(problem.denoiser(), n, 1, sampler=ancestral, seed=0, batch=n), problem, p) > 0.3


def test_a_state_that_the_chain_cannot_produce_is_refused() -> None:
    steps = torch.tensor([[0.5, 0.5], [0.0, 1.0]], dtype=F64)
    problem = TokenProblem("no way back", torch.full((2,), 0.5, dtype=F64), steps, 3, masking(2))
    with pytest.raises(ValueError, match=r"no way back: the tokens \[1, 2, 0\] have probability 0"):
        problem.denoiser()(torch.tensor([[1, 2, 0]]), 0.5)


@pytest.mark.parametrize("xt", [torch.zeros(2, 4), torch.full((2, 4), 4), torch.zeros(2, 3, dtype=torch.long)])
def test_states_of_another_kind_are_refused(xt: Tensor) -> None:
    with pytest.raises(ValueError, match=r"whole numbers \[B, 4\] from 0 to 3 \(the mask\) were expected"):
        chain().denoiser()(xt, 0.5)


def test_probabilities_that_do_not_sum_to_1_are_refused() -> None:
    with pytest.raises(ValueError, match="steps must be probabilities"):
        replace(chain(), steps=chain().steps * 1.1)


# target densities


def _plane(reach: float, points: int) -> tuple[Tensor, float]:
    line = torch.linspace(-reach, reach, points, dtype=F64)
    return torch.cartesian_prod(line, line), float(line[1] - line[0]) ** 2


TARGETS = {
    "mixture target": (lambda: mixture_target(correlated((2,))), 8.0),
    "funnel": (lambda: funnel(2, 0.7), 14.0),
    "phi4": (lambda: phi4(2), 6.0),
}


@pytest.mark.parametrize("name", TARGETS)
def test_log_z_and_moments_of_a_target_are_a_quadrature_in_the_plane(name: str) -> None:
    make, reach = TARGETS[name]
    problem = make()
    points, area = _plane(reach, 1601)
    logs = problem.log_density(points)
    assert problem.log_z == pytest.approx(float(torch.logsumexp(logs, 0)) + math.log(area), abs=1e-5)
    weights = logs.softmax(0)
    mean = weights @ points
    assert torch.allclose(problem.mean.to(mean), mean, atol=1e-5)
    assert torch.allclose(problem.var.to(mean), weights @ (points - mean).square(), rtol=1e-4)


def test_a_mixture_target_leaves_out_the_factor_of_two_pi() -> None:
    """At the mean of one Gaussian the log density is -log det of its factor alone."""
    problem = gaussian((3,))
    volume = problem.law.factors[0].diagonal().log().sum()
    assert float(mixture_target(problem).log_density(problem.law.means)) == pytest.approx(-float(volume))


@pytest.mark.parametrize("name", TARGETS)
def test_draws_of_a_target_have_its_moments(name: str) -> None:
    problem, n = TARGETS[name][0](), 40_000
    x, _ = problem.draw(n, Rng(0, n))
    off = x - problem.mean.to(x)
    assert float((off.mean(0) / (off.std(0) / math.sqrt(n))).abs().max()) < 4.5
    squares = off.square() - problem.var.to(x)
    assert float((squares.mean(0) / (squares.std(0) / math.sqrt(n))).abs().max()) < 4.5


def test_neighbours_of_the_phi4_chain_are_correlated_as_in_the_plane() -> None:
    points, _ = _plane(6.0, 1201)
    weights = phi4(2).log_density(points).softmax(0)
    x, n = phi4(2).draw(40_000, Rng(0, 40_000))[0], 40_000
    product = x.prod(1)
    assert abs(float(product.mean()) - float(weights @ points.prod(1))) < 4.5 * float(product.std()) / math.sqrt(n)


def test_a_target_is_a_source_of_its_density() -> None:
    source = funnel(3).source()
    x = Rng(0, 4).normal((4, 3))
    assert source.shape == (3,) and torch.equal(source.log_density(x), funnel(3).log_density(x))


def test_phi4_without_a_coupling_is_refused() -> None:
    with pytest.raises(ValueError, match=r"coupling of 0\.0 was given; give one above 0"):
        phi4(coupling=0.0)


def test_a_posterior_of_real_numbers_has_a_mean_in_the_shape_of_x0() -> None:
    for name in DENOISING:
        if "tokens" not in name:
            problem = DENOISING[name]()
            x0, cond = problem.draw(3, Rng(0, 3))
            posterior = problem.denoiser()(problem.process.noise(x0, 0.5, Rng(1, 3), cond).xt, 0.5, cond)
            assert isinstance(posterior, HasMean) and posterior.mean.shape == x0.shape


# frames


def test_a_process_without_a_basis_has_no_framed_problem() -> None:
    with pytest.raises(ValueError, match="correlated: Residual is no change of basis: take a process such as InBasis"):
        FramedProblem(correlated((2,)), Residual())
