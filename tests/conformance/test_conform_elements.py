"""Schedules for each element of x: samplers that declare it keep their order and their law, the others refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from torch import Tensor

from softmix.data import toys
from softmix.data.toys import ToyMixture
from softmix.denoiser import Denoiser, Network, PointHead
from softmix.denoiser.wrap import Wrapped
from softmix.info import fit_statistics, where_to_start
from softmix.net import UNetSpec
from softmix.oracle import MixtureProblem, correlated, gaussian, ks, order, standardised
from softmix.posterior import Point
from softmix.process import PROCESSES, VE, VP, Flow, Gaussian, PerElement, Shifted, karras
from softmix.rng import Rng
from softmix.sampler import (
    SAMPLERS,
    GaussianFit,
    MultistepRule,
    Sampler,
    SamplerError,
    adams,
    ancestral,
    contraction,
    ddim,
    ddim_inversion,
    decoded,
    dpm_encoder,
    drive,
    edit_friendly,
    label,
    multistep,
    replay,
    sample,
    traits,
)
from softmix.sampler.average import averaged, clock_of, weights
from softmix.sampler.contract import declare
from softmix.sampler.drive import finish
from softmix.sampler.pndm import _signal_grows_too_much

F64 = torch.float64
NS = (1, 2, 3, 7, 260)
PACES = torch.tensor([0.7, 1.0, 1.5], dtype=F64)
ABLE = [sampler for sampler in SAMPLERS if traits(sampler).per_element]
ODE = pytest.mark.parametrize(
    "sampler",
    [
        *(sampler for sampler in ABLE if traits(sampler).order and not traits(sampler).stochastic),
        partial(multistep, rule=MultistepRule(line="bh1", corrects=10**6)),
    ],
    ids=label,
)
DRAWING = pytest.mark.parametrize("sampler", [s for s in ABLE if traits(s).order is None], ids=label)


def run(denoiser: Denoiser, sampler: Sampler, x: Tensor, times: Tensor, seed: int = 0) -> Tensor:
    return finish(drive(denoiser, sampler, x, times, Rng(seed, len(x), "run")))


def paced(shape: tuple[int, ...], base: Gaussian) -> PerElement:
    """A process with speeds of its elements from 0.6 to 1.6."""
    return PerElement(base, torch.linspace(0.6, 1.6, math.prod(shape), dtype=F64).reshape(shape))


def declared(sampler: Sampler) -> int:
    """The order of a sampler with a given rule, or its declared order."""
    return 3 if isinstance(sampler, partial) else traits(sampler).order or 0


def errors(
    problem: MixtureProblem, truth: Callable[[Tensor], Tensor], sampler: Sampler, counts: list[int]
) -> list[float]:
    """Mean errors after n steps, even in the clock from -6 to 4."""
    process = problem.process
    x = process.noise(problem.sample(64, Rng(3, 64)), float(process.time(-6.0)), Rng(4, 64)).xt
    right, found = truth(x), []
    for n in counts:
        times = process.time(torch.linspace(-6, 4, n + 1, dtype=F64))
        found.append(float((run(problem.denoiser(), sampler, x, times) - right).flatten(1).norm(dim=1).mean()))
    return found


def independent(base: Gaussian) -> MixtureProblem:
    """A Gaussian with independent elements: the flow of each is one-dimensional."""
    sds, mean = torch.tensor([0.9, 0.3, 0.6], dtype=F64), torch.tensor([[-0.4, 0.1, 0.5]], dtype=F64)
    law = ToyMixture("independent", torch.ones(1, dtype=F64), mean, sds.diag()[None])
    return MixtureProblem("independent", law, PerElement(base, PACES), (3,))


def flow(problem: MixtureProblem, x: Tensor, t: float, s: float) -> Tensor:
    """x_i at s = alpha_i m_i + sqrt(v_i(s) / v_i(t)) (x_i - alpha_i m_i), v = alpha^2 l + sigma^2, for each element."""
    mean, var = problem.law.mean, problem.law.covariance.diagonal()
    (alpha, sigma), (alpha_s, sigma_s) = (
        (problem.process.alpha(at).to(x), problem.process.sigma(at).to(x)) for at in (t, s)
    )
    before, after = alpha**2 * var + sigma**2, alpha_s**2 * var + sigma_s**2
    return alpha_s * mean + (after / before).sqrt() * (x - alpha * mean)


@ODE
@pytest.mark.parametrize("base", [VP(), Flow()], ids=str)
def test_order_against_the_flow_of_each_element(sampler: Sampler, base: Gaussian) -> None:
    problem = independent(base)
    ends = tuple(float(problem.process.time(level)) for level in (-6.0, 4.0))
    # fon's fourth order is seen from 128 steps on: at 32 to 128 it is 3.6 on Flow
    counts = [32, 64, 128] if declared(sampler) < 4 else [128, 256, 512]
    found = errors(problem, lambda x: flow(problem, x, *ends), sampler, counts)
    assert order(counts, found) == pytest.approx(declared(sampler), abs=0.15)


@cache
def _fine() -> Tensor:
    """The end of 1000 steps of `adams` on a mixture."""
    problem = ring()
    ends: list[Tensor] = []

    @declare("kept", order=3, per_element=True)
    def keep(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng):  # type: ignore[no-untyped-def]
        ends.append((yield from adams(process, x, grid, rng)))
        return ends[0]

    errors(problem, torch.zeros_like, keep, [1000])
    return ends[0]


def ring() -> MixtureProblem:
    return MixtureProblem("ring", toys.ring(4, 1.0, 0.3), PerElement(VP(), torch.tensor([0.8, 1.3], dtype=F64)), (2,))


@pytest.mark.parametrize(
    "sampler", [s for s in ABLE if (traits(s).order or 4) < 4 and not traits(s).stochastic], ids=label
)
def test_order_on_a_mixture_against_fine_steps(sampler: Sampler) -> None:
    """Dependent elements: the posterior of one depends on the state of the other, at its own level."""
    counts = [32, 64, 128] if declared(sampler) < 3 else [64, 128, 256]
    found = errors(ring(), lambda x: _fine(), sampler, counts)
    assert order(counts, found) == pytest.approx(declared(sampler), abs=0.15)


def law_of(sampler: Sampler, problem: MixtureProblem, times: Tensor) -> tuple[Tensor, Tensor]:
    """The exact mean and variance of each element at the end of a sampler of means: on independent Gaussians it is
    affine in each element of x and of the noises.
    """
    shape, steps = problem.shape, len(times) - 1

    class Impulses:
        asked = 0

        def normal(self, size: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
            z = torch.zeros(size, dtype=F64)
            z[2 + self.asked] = 1
            self.asked += 1
            return z

    x = torch.zeros(steps + 2, *shape, dtype=F64)
    x[1] = 1
    means = Wrapped(problem.denoiser(), lambda inner, xt, t, cond: Point(inner(xt, t, cond).mean))  # type: ignore[attr-defined]
    end = finish(drive(means, sampler, x, times, Impulses()))  # type: ignore[arg-type]
    gains, first = end[1:] - end[0], problem.at(float(times[0]))
    mean = end[0] + gains[0] * first.mean
    return mean, gains[0] ** 2 * first.covariance.diagonal() + gains[1:].square().sum(0)


@pytest.mark.parametrize("base", [VP(), VE(), Flow()], ids=str)
@pytest.mark.parametrize(
    "sampler, expected",
    [*((s, traits(s).order) for s in ABLE if traits(s).stochastic), (ancestral, 1), (partial(ancestral, eta=0.5), 1)],
    ids=label,
)
def test_order_of_the_law_of_a_noisy_solver(sampler: Sampler, expected: int, base: Gaussian) -> None:
    problem, counts, found = independent(base), [64, 128, 256], []
    for n in counts:
        times = problem.process.time(torch.linspace(-6, 4, n + 1, dtype=F64))
        mean, var = law_of(sampler, problem, times)
        law = problem.at(float(times[-1]))
        found.append(float((mean - law.mean).abs().sum() + (var - law.covariance.diagonal()).abs().sum()))
    assert order(counts, found) == pytest.approx(expected, abs=0.15)


# laws


@DRAWING
@pytest.mark.parametrize("base", [VP(), VE(), PROCESSES[5]], ids=["vp", "ve", "table"])
@pytest.mark.parametrize("n", NS)
def test_drawing_reaches_the_law_in_any_number_of_steps(sampler: Sampler, base: Gaussian, n: int) -> None:
    """Points, an image and a sequence, with a schedule for each element; above 7 steps points alone."""
    shapes = [(2,), (2, 2, 2), (5,), (2, 3)] if n <= 7 else [(2,)]
    for shape in shapes:
        problem = correlated(shape, paced(shape, base))
        x = sample(problem.denoiser(), 500, min(n, 60), sampler=sampler, seed=n, batch=500)
        assert x.shape == (500, *shape) and ks(x, problem.law) < 2.2 and standardised(x, problem.law) < 4.8


@pytest.mark.parametrize("sampler", [s for s in ABLE if traits(s).order], ids=label)
def test_a_solver_reaches_the_law_in_many_steps(sampler: Sampler) -> None:
    problem = correlated((3,), PerElement(VP(), PACES))
    x = sample(problem.denoiser(), 500, sampler=sampler, grid=karras(problem.process, 120), seed=5, batch=500)
    assert ks(x, problem.law) < 2.2 and standardised(x, problem.law) < 4.5


# items


@pytest.mark.parametrize("sampler", ABLE, ids=label)
@pytest.mark.parametrize("shape", [(4,), (3, 3, 3), (2, 3)], ids=str)
def test_an_item_does_not_depend_on_its_batch(sampler: Sampler, shape: tuple[int, ...]) -> None:
    """B = C = W too; float32 and float64."""
    process = paced(shape, VP())
    denoiser, n = correlated(shape, process).denoiser(), max(3, traits(sampler).least)
    several = sample(denoiser, 3, n, sampler=sampler, seed=9)
    x, times = process.prior((3, *shape), Rng(1, 3)).double(), traits(sampler).grid(process, n)
    exact = run(denoiser, sampler, x, times)
    for k in range(3):
        assert (several[k] - sample(denoiser, 1, n, sampler=sampler, seed=9, first=k)[0]).abs().max() < 3e-4
        one = finish(drive(denoiser, sampler, x[k : k + 1], times, Rng(0, [k], "run")))
        assert (exact[k] - one[0]).abs().max() < 1e-11


@pytest.mark.parametrize("sampler", ABLE, ids=label)
def test_arrays_of_equal_numbers_give_the_result_of_numbers(sampler: Sampler) -> None:
    n, problem = max(7, traits(sampler).least), correlated((3,))
    times = traits(sampler).grid(VP(), n)
    x = VP().prior((4, 3), Rng(0, 4)).double()
    same = problem.through(PerElement(VP(), torch.ones(1)))
    assert (run(same.denoiser(), sampler, x, times) - run(problem.denoiser(), sampler, x, times)).abs().max() < 1e-9


# refusals


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if not traits(s).per_element], ids=label)
def test_a_sampler_of_one_clock_refuses_and_names_others(sampler: Sampler) -> None:
    problem = gaussian((3,), PerElement(VP(), PACES))
    sentence = rf"{traits(sampler).name} needs one alpha and one sigma .* PerElement has a number for each: take (.*)$"
    with pytest.raises(SamplerError, match=sentence) as found:
        sample(problem.denoiser(), 3, 30, sampler=sampler)
    listed = str(found.value).rsplit("take ", 1)[1].split(", ")
    assert {traits(each).name for each in ABLE} <= set(listed) and traits(sampler).name not in listed
    assert "replay" not in listed


def test_sixteen_samplers_take_arrays() -> None:
    assert {traits(s).name for s in SAMPLERS if not traits(s).per_element} == {"dpm-solver-v3", "evodiff"}


def test_a_sampler_without_the_trait_is_refused_too() -> None:
    """Its author may not have thought of it."""

    def mine(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng):  # type: ignore[no-untyped-def]
        return (yield from ddim(process, x, grid, rng))

    with pytest.raises(SamplerError, match="mine needs one alpha"):
        sample(gaussian((3,), PerElement(VP(), PACES)).denoiser(), 3, 4, sampler=mine)


class Moved(Shifted):
    base = PerElement(VP(), PACES)

    def k(self, t: Tensor | float) -> Tensor:
        return torch.as_tensor(t, dtype=F64)

    def u(self, cond: Tensor | None) -> Tensor:
        return torch.ones(1, 3)


def test_arrays_inside_a_frame_are_detected() -> None:
    inner = gaussian((3,), PerElement(VP(), PACES)).denoiser()

    class Outside:
        process, shape = Moved(), (3,)

        def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None):  # type: ignore[no-untyped-def]
            return inner(xt - torch.as_tensor(t).to(xt), t)

    refused = next(s for s in SAMPLERS if not traits(s).per_element)
    with pytest.raises(SamplerError, match="Moved has a number for each"):
        sample(Outside(), 3, 30, sampler=refused)
    assert ks(sample(Outside(), 500, 5, sampler=ancestral), gaussian((3,)).law) < 2.2


def test_functions_of_one_alpha_refuse_arrays() -> None:
    process = PerElement(VP(), PACES)
    problem, levels = gaussian((3,), process), torch.linspace(-3, 3, 4)
    denoiser, x0 = problem.denoiser(), problem.sample(4, Rng(0, 4))
    for call in (
        lambda: fit_statistics(denoiser, x0, Rng(0, 4), nodes=5),
        lambda: where_to_start(denoiser, denoiser, x0, Rng(0, 4), levels),
        lambda: contraction(process, 0.5),
        lambda: GaussianFit.of(x0).flow(process, x0, 0.5, 0.2),
        lambda: GaussianFit.of(x0).divergence(process, 0.5),
    ):
        with pytest.raises(TypeError, match="one alpha and one sigma for all elements, and PerElement"):
            call()
    with pytest.raises(ValueError, match="no closed form by PerElement"):
        problem.flow(x0, 0.5, 0.2)


# inversions, codes, networks


@pytest.mark.parametrize("invert", [edit_friendly, dpm_encoder], ids=label)
def test_a_code_gives_the_items_back(invert: Sampler) -> None:
    problem = correlated((3, 3, 3), paced((3, 3, 3), VP()))
    x0, times = problem.sample(3, Rng(0, 3)), VP().grid(20)
    code = finish(drive(problem.denoiser(), invert, x0, times, Rng(1, 3)))
    again = run(problem.denoiser(), replay(code), code.start(), times)
    assert torch.allclose(again, x0, atol=1e-9)
    alone = finish(drive(problem.denoiser(), invert, x0[:1], times, Rng(1, [0])))
    assert torch.allclose(alone.noise[:, 0], code.noise[:, 0], atol=1e-9)


def test_ddim_inversion_leads_back() -> None:
    problem = independent(VP())
    x0 = problem.sample(20, Rng(0, 20))
    found = []
    for n in (100, 200):
        times = problem.process.time(torch.cat([torch.linspace(-6, 8, n, dtype=F64), torch.tensor([torch.inf])]))
        noise = run(problem.denoiser(), ddim_inversion, x0, times)
        found.append(float((run(problem.denoiser(), ddim, noise, times) - x0).norm(dim=1).mean()))
    assert found[0] < 0.05 and order([100, 200], found) == pytest.approx(1, abs=0.3)


def test_a_code_begins_with_each_elements_noise() -> None:
    problem, times = independent(Flow()), torch.tensor([0.5, 0.2, 0.0], dtype=F64)
    z = torch.zeros(1, 2, 3, dtype=F64)
    z[:, 0] = 1
    start = 0.5 ** PACES[None]
    means = Wrapped(problem.denoiser(), lambda inner, xt, t, cond: Point(inner(xt, t, cond).mean))  # type: ignore[attr-defined]
    right = run(means, ddim, start, times)
    # eta near 0: the noises of the steps count for nothing
    assert torch.allclose(decoded(means, z, times, eta=1e-8), right, atol=1e-6)


def test_a_network_takes_arrays() -> None:
    torch.manual_seed(0)
    process = PerElement(VP(), torch.tensor([0.6, 1.0, 1.6], dtype=F64).reshape(3, 1, 1))
    network = Network(process, UNetSpec(width=16, depth=1), PointHead(), (3, 8, 8)).eval()
    seen = []
    stem = network.net.stem
    network.net.stem = lambda x: seen.append(x) or stem(x)  # type: ignore[method-assign, func-returns-value]
    x = process.noise(torch.zeros(3, 3, 8, 8), 0.5, Rng(0, 3)).xt
    with torch.no_grad():
        several = network(x, 0.5).mean
    # alpha^2 + sigma^2 = 1 in each channel, so that nothing is scaled
    assert torch.allclose(seen[0], x, atol=1e-6) and several.shape == x.shape
    assert sample(network, 2, 4, sampler=adams).isfinite().all()


# averages of arrays


def test_weights_of_arrays_are_those_of_each_element() -> None:
    ends = [0.05, 1.0, 3.0]
    arrays = [torch.tensor(part, dtype=F64)[None].cpu().numpy() for part in ([-0.1, -2.0, -3.0], [0.0, 0.0, 0.0], ends)]
    found = weights((arrays[0], arrays[1]), arrays[2], 2.0)
    for k, end in enumerate(ends):
        alone = weights((float(arrays[0][0, k]), 0.0), end, 2.0)
        assert [float(part[0, k]) for part in found] == pytest.approx(alone, rel=1e-12)
    values = [torch.ones(4, 3), 2 * torch.ones(4, 3)]
    mixed = averaged(values, arrays[:2], arrays[2], 2.0)
    assert torch.allclose(mixed, torch.tensor(found[0] + 2 * found[1]).float().expand(4, 3))


def test_a_clock_is_numbers_or_an_array_for_each_time() -> None:
    times = torch.tensor([0.9, 0.3, 0.0], dtype=F64)
    assert clock_of(VP(), times) == (VP().logsnr(times) / 2).tolist()
    found = clock_of(PerElement(VP(), PACES), times)
    assert [part.shape for part in found] == [(1, 3)] * 3  # type: ignore[union-attr]
    assert float(found[1][0, 2]) == pytest.approx(float(VP().logsnr(0.3**1.5)) / 2)  # type: ignore[index]
    assert math.isinf(float(found[2][0, 0]))  # type: ignore[index]


def test_a_step_that_is_long_for_one_element_is_taken_by_the_mean() -> None:
    """From t = 1 to a logsnr of -6 the signal of a cosine schedule grows a thousand times. An element of speed near 0
    has the same noise as before. One long step among the elements is enough.
    """
    grid = torch.tensor([1.0, float(VP().time(-6.0)), 0.8], dtype=F64)
    paces = [torch.tensor(pair, dtype=F64) for pair in ([1.0, 1.0], [1e-6, 1.0], [1e-6, 1e-6])]
    assert [_signal_grows_too_much(PerElement(VP(), pace), grid)[0] for pace in paces] == [True, True, False]
    assert _signal_grows_too_much(VP(), grid) == [True, False]


def test_an_inversion_begins_with_each_elements_signal() -> None:
    """A model that knows the item leads from it to alpha x0 in each element: there is no noise."""
    problem, x0 = independent(VP()), torch.tensor([[0.7, -0.4, 0.2]], dtype=F64)
    sure = Wrapped(problem.denoiser(), lambda inner, xt, t, cond: Point(x0))
    times = torch.tensor([0.6, 0.3, 0.0], dtype=F64)
    found = run(sure, ddim_inversion, x0, times)
    assert torch.allclose(found, problem.process.alpha(0.6).to(x0) * x0, rtol=1e-9)
