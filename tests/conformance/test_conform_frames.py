"""Processes with a frame: every sampler reaches the law of a shifted process and of one in a basis."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from softmix.cond import class_label
from softmix.denoiser import Denoiser, Network, PointHead, SoftHead, guided, in_frame
from softmix.denoiser.wrap import Wrapped
from softmix.info import fit_statistics, where_to_start
from softmix.loss import Square, loss_of
from softmix.net import MLPSpec
from softmix.oracle import MixtureProblem, correlated, gaussian, ks, standardised
from softmix.posterior import HasMean, HasVariance, Point, Posterior
from softmix.process import VE, VP, Framed, Gaussian, InBasis, PerElement, Shifted, cosine, karras
from softmix.rng import Rng
from softmix.sampler import (
    SAMPLERS,
    GaussianFit,
    Sampler,
    SamplerError,
    Step,
    ancestral,
    contraction,
    ddim,
    ddim_inversion,
    decoded,
    dpm_encoder,
    drive,
    edit_friendly,
    noised,
    replay,
    sample,
    traits,
)
from softmix.sampler.contract import declare
from softmix.sampler.drive import finish

F64 = torch.float64
PLAIN = VP()
NS = (1, 2, 3, 7, 260)
ALL = pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: traits(s).name)
DRAWING = pytest.mark.parametrize(
    "sampler", [s for s in SAMPLERS if traits(s).order is None], ids=lambda s: traits(s).name
)
SHAPES = pytest.mark.parametrize("shape", [(2,), (3, 3, 3), (2, 4)], ids=str)


@dataclass(frozen=True)
class ByLabel(Shifted):
    """Shifted by 3 sin^2(pi t / 2) u, with u = (2 label - 1) times a ramp over the elements of an item."""

    shape: tuple[int, ...] = (2,)
    base: Gaussian = PLAIN

    def k(self, t: Tensor | float) -> Tensor:
        return 3 * (torch.as_tensor(t, dtype=F64) * (torch.pi / 2)).sin() ** 2

    def u(self, cond: Any) -> Tensor:
        ramp = torch.linspace(-1, 2, self.shape[0] * torch.Size(self.shape[1:]).numel(), dtype=F64)
        return (2 * cond.double() - 1).reshape(-1, *(1,) * len(self.shape)) * ramp.reshape(1, *self.shape)


class Exact:
    """The exact denoiser of a law under a shifted process. It undoes the shift by its own formula."""

    def __init__(self, problem: MixtureProblem):
        self.process, self.shape = ByLabel(problem.shape, problem.process), problem.shape
        self.inner, self.asked = problem.denoiser(), []

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        assert cond is not None
        self.asked.append(cond)
        share = 1.5 * (1 - (torch.as_tensor(t, dtype=F64) * torch.pi).cos())
        return self.inner(xt - (share * self.process.u(cond)).to(xt), t)


def labels(n: int) -> Tensor:
    return torch.arange(n) % 2


def enough(sampler: Sampler, n: int) -> int:
    return max(n, traits(sampler).least)


# laws


@ALL
@pytest.mark.parametrize("base", [VP(), VE()], ids=str)
def test_every_sampler_reaches_the_law_of_a_shifted_process(sampler: Sampler, base: Gaussian) -> None:
    """In 100 steps, with u by label: sqrt(N) KS and moments of 1000 items, all together and of each label alone.

    Measured at most 1.7 and 4.1, both of ddim, whose error is of first order.
    """
    problem = correlated(process=base)
    x = sample(Exact(problem), 1000, sampler=sampler, grid=karras(base, 100), cond=labels(1000), seed=5, batch=1000)
    for part in (x, x[0::2], x[1::2]):
        assert ks(part, problem.law) < 2.2 and standardised(part, problem.law) < 4.5


@DRAWING
@SHAPES
@pytest.mark.parametrize("n", NS)
def test_drawing_reaches_the_shifted_law_in_any_number_of_steps(
    sampler: Sampler, shape: tuple[int, ...], n: int
) -> None:
    problem = gaussian(shape)
    if n > 7 and shape != (2,):
        n = 20
    x = sample(Exact(problem), 1000, n, sampler=sampler, cond=labels(1000), seed=n, batch=1000)
    assert ks(x, problem.law) < 2.2 and standardised(x, problem.law) < 4.7


def test_a_shift_that_is_not_undone_fails_the_comparison() -> None:
    """The same samples by a denoiser that ignores the shift, and by one with the shift of the other label."""
    problem, exact = correlated(), Exact(correlated())
    grid = karras(VP(), 100)
    plain = Wrapped(exact, lambda inner, xt, t, cond: problem.denoiser()(xt, t))
    other = Wrapped(exact, lambda inner, xt, t, cond: inner(xt, t, 1 - cond))
    for wrong in (plain, other):
        x = sample(wrong, 1000, sampler=ddim, grid=grid, cond=labels(1000), batch=1000)
        assert ks(x, problem.law) > 3


@ALL
@SHAPES
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("n", [7])
def test_a_shifted_run_is_the_plain_run_plus_the_shift(
    sampler: Sampler, shape: tuple[int, ...], dtype: torch.dtype, n: int
) -> None:
    """x = y + k u at the start and at every question; at t = 0 there is no shift. The posteriors are equal."""
    n = enough(sampler, n)
    problem, cond = correlated(shape), labels(3)
    times, process = traits(sampler).grid(VP(), n), ByLabel(shape)
    y = VP().prior((3, *shape), Rng(1, 3)).to(dtype)
    plain: list[Step] = []
    shifted: list[Step] = []
    end = finish(drive(problem.denoiser(), sampler, y, times, Rng(0, 3)), plain.append)
    x = process.leave(y, times[0], cond)
    found = finish(drive(Exact(problem), sampler, x, times, Rng(0, 3), cond), shifted.append)
    # rounding, magnified by samplers that have few steps
    near = 2e-3 if dtype == torch.float32 else 1e-10
    assert found.dtype == dtype and (found - end).abs().max() < near
    assert len(plain) == len(shifted)
    for mine, its in zip(shifted, plain, strict=True):
        assert mine.t == its.t and (mine.x - process.leave(its.x, its.t, cond)).abs().max() < near
        assert (mine.preview() - its.preview()).abs().max() < near


@ALL
def test_an_item_of_a_shifted_process_does_not_depend_on_its_batch(sampler: Sampler) -> None:
    """Its condition goes to the prior, to the frame and to the denoiser."""
    # the pseudo methods amplify rounding errors in few steps
    n = 3 if traits(sampler).least == 1 else 2 * traits(sampler).least
    denoiser = Exact(correlated((3, 3, 3)))
    whole = sample(denoiser, 7, n, sampler=sampler, cond=labels(7), seed=9)
    for batch in (1, 2, 7):
        assert (sample(denoiser, 7, n, sampler=sampler, cond=labels(7), seed=9, batch=batch) - whole).abs().max() < 1e-3
    alone = sample(denoiser, 1, n, sampler=sampler, cond=labels(7)[4:5], seed=9, first=4)
    assert (alone[0] - whole[4]).abs().max() < 1e-3
    assert {len(cond) for cond in denoiser.asked} >= {1, 2, 7}


def test_a_shifted_run_begins_with_shifted_noise() -> None:
    """From t = 1 the prior of the process; from a grid that begins later the noise of that time, with its shift."""
    denoiser, process, cond = Exact(correlated(process=VE())), ByLabel((2,), VE()), labels(4)
    for first in (1.0, 0.6):
        seen: list[Step] = []
        sample(denoiser, 4, sampler=ddim, grid=torch.tensor([first, 0.2, 0.0]), cond=cond, seed=3, look=seen.append)
        z = VE().prior((4, 2), Rng(3, 4, "sample").child("prior")) * float(VE().sigma(first) / VE().sigma(1.0))
        assert torch.allclose(seen[0].x, process.leave(z, first, cond), rtol=1e-4, atol=1e-5)


def test_a_run_that_ends_early_ends_outside_the_frame() -> None:
    """At t = 0.5 the law of x_t with its shift, for each label."""
    problem = gaussian()
    times = torch.tensor([1.0, 0.8, 0.5], dtype=F64)
    x = sample(Exact(problem), 2000, sampler=ancestral, grid=times, cond=labels(2000), batch=2000)
    law = problem.at(0.5)
    for label in (0, 1):
        shift = 1.5 * ByLabel().u(torch.tensor([label]))
        assert ks(x[label::2] - shift, law) < 2.2 and ks(x[label::2], law) > 5


# frames that move x0


def frequencies(shape: tuple[int, ...]) -> tuple[MixtureProblem, InBasis, Denoiser]:
    """A law in the basis of cosines with a speed for each frequency, and its exact denoiser, with the basis written
    out.
    """
    size = shape[-1]
    base = PerElement(VP(), torch.linspace(0.6, 1.6, size, dtype=F64).expand(*(1,) * (len(shape) - 1), size))
    process, turn = InBasis(base, (cosine(size),)), cosine(size)
    inside = correlated(shape, base)

    class Outside:
        def __init__(self) -> None:
            self.process, self.shape = process, shape

        def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
            belief = inside.denoiser()(torch.einsum("uv,...v->...u", turn.to(xt), xt), t)
            back = partial(torch.einsum, "uv,...u->...v", turn.to(xt))
            return Turned(belief, back)

    class Turned(HasMean):
        def __init__(self, belief: HasMean, back: Any):
            self.belief, self.back = belief, back

        @property
        def mean(self) -> Tensor:
            return self.back(self.belief.mean)

        def sample(self, rng: Rng) -> Tensor:
            return self.back(self.belief.sample(rng))

    return inside, process, Outside()


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if traits(s).per_element], ids=lambda s: traits(s).name)
def test_frequencies_with_schedules_of_their_own_are_sampled(sampler: Sampler, shape: tuple[int, ...]) -> None:
    """The frame changes x0: means and draws enter it. The samples, in the basis, have the law."""
    inside, process, denoiser = frequencies(shape)
    times = process.time(torch.cat([torch.linspace(-20, 8, 60, dtype=F64), torch.tensor([torch.inf])]))
    times[0] = 1.0
    x = sample(denoiser, 300, sampler=sampler, grid=times, batch=300, seed=2)
    y = process.enter(x.double(), 0.0)
    assert ks(y, inside.law) < 2.2 and standardised(y, inside.law) < 4.5


def test_a_step_has_the_posterior_outside_and_the_sampler_has_it_in_the_frame() -> None:
    _, process, denoiser = frequencies((3,))
    answers: list[Posterior] = []

    @declare("recording", order=1, per_element=True)
    def sampler(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng):  # type: ignore[no-untyped-def]
        inner = ddim(process, x, grid, rng)
        ask = next(inner)
        try:
            while True:
                answers.append((yield ask))
                ask = inner.send(answers[-1])
        except StopIteration as end:
            return end.value

    steps: list[Step] = []
    x = Rng(0, 2).normal((2, 3), F64)
    finish(drive(denoiser, sampler, x, VP().grid(3), Rng(0, 2)), steps.append)
    for step, belief in zip(steps, answers, strict=True):
        own = denoiser(step.x, step.t)
        assert torch.equal(step.preview(), own.mean)  # type: ignore[attr-defined]
        assert torch.allclose(belief.mean, process.enter(own.mean, 0.0))  # type: ignore[attr-defined]
        assert torch.allclose(belief.draws(3, Rng(1, 2)), process.enter(step.posterior.draws(3, Rng(1, 2)), 0.0))


def test_in_the_frame_a_point_is_a_point_and_a_posterior_without_a_mean_has_none() -> None:
    _, process, denoiser = frequencies((3,))
    x, step = Rng(0, 2).normal((2, 3), F64), VP().grid(1)

    class Blind(Posterior):
        def sample(self, rng: Rng) -> Tensor:
            return x

    point = Wrapped(denoiser, lambda inner, xt, t, cond: Point(inner(xt, t).mean))  # type: ignore[attr-defined]
    blind = Wrapped(denoiser, lambda inner, xt, t, cond: Blind())
    belief = in_frame(point)(x, 0.5)
    assert isinstance(belief, Point) and not isinstance(in_frame(denoiser)(x, 0.5), HasVariance)
    assert not isinstance(in_frame(blind)(x, 0.5), HasMean)
    assert torch.allclose(in_frame(blind)(x, 0.5).sample(Rng(0, 2)), process.enter(x, 0.0))
    assert torch.equal(finish(drive(blind, ancestral, x, step, Rng(0, 2))), process.leave(process.enter(x, 0.0), 0.0))
    with pytest.raises(TypeError, match="ddim needs a mean"):
        finish(drive(blind, ddim, x, step, Rng(0, 2)))


# functions that do not use the driver


def test_a_start_gets_the_condition() -> None:
    """From x0 noised to t = 0.5, with its shift. The process is called once, for all items."""
    problem, process, cond = gaussian(), ByLabel(), labels(500)
    x0 = problem.sample(500, Rng(4, 500)).float()
    seen: list[Step] = []
    x = sample(Exact(problem), 500, 30, sampler=ddim, cond=cond, start=noised(x0), at=0.5, batch=500, look=seen.append)
    right = VP().noise(x0, 0.5, Rng(0, 500, "sample").child("prior")).xt
    assert torch.allclose(seen[0].x, process.leave(right, 0.5, cond), atol=1e-5)
    assert ks(x, problem.law) < 2.2


def test_a_start_for_plain_processes_refuses_a_frame() -> None:
    fit = GaussianFit.of(gaussian().sample(100, Rng(0, 100)))
    with pytest.raises(TypeError, match=r"a GaussianFit uses .*in_frame"):
        sample(Exact(gaussian()), 3, 2, cond=labels(3), start=fit, at=0.5)


@pytest.mark.parametrize("invert", [edit_friendly, dpm_encoder, ddim_inversion], ids=lambda s: traits(s).name)
def test_an_inversion_works_in_the_frame_and_is_refused_outside(invert: Any) -> None:
    problem, cond = correlated(), labels(3)
    denoiser, times = Exact(problem), VP().grid(40)
    image = problem.sample(3, Rng(0, 3))
    with pytest.raises(SamplerError, match=rf"{traits(invert).name} works with codes.*ByLabel has a frame.*in_frame"):
        finish(drive(denoiser, invert, image, times, Rng(1, 3), cond))
    code = finish(drive(in_frame(denoiser), invert, image, times, Rng(1, 3), cond))
    if invert is ddim_inversion:
        plain = finish(drive(problem.denoiser(), invert, image, times, Rng(1, 3)))
        assert torch.allclose(code, plain, atol=1e-9)
        return
    with pytest.raises(SamplerError, match="replay works with codes"):
        finish(drive(denoiser, replay(code), code.start(), times, Rng(1, 3), cond))
    again = finish(drive(in_frame(denoiser), replay(code), code.start(), times, Rng(1, 3), cond))
    assert torch.allclose(again, image, atol=1e-9)


def test_codes_statistics_and_bounds_name_in_frame_as_the_remedy() -> None:
    denoiser, cond, times = Exact(gaussian()), labels(4), VP().grid(3)
    x0, z = gaussian().sample(4, Rng(0, 4)), Rng(1, 4).normal((4, 3, 2))
    levels = torch.linspace(-3, 3, 4)
    for call in (
        lambda each: decoded(each, z, times, cond=cond),
        lambda each: fit_statistics(each, x0, Rng(0, 4), nodes=5, cond=cond),
        lambda each: where_to_start(each, each, x0, Rng(0, 4), levels, cond),
        lambda each: contraction(each.process, 0.5),
    ):
        with pytest.raises(TypeError, match=r"uses x_t = alpha x0 \+ sigma z.*in_frame"):
            call(denoiser)
        call(in_frame(denoiser))
    assert in_frame(gaussian().denoiser()).process == VP()
    plain = decoded(gaussian().denoiser(), z, times)
    assert torch.allclose(decoded(in_frame(denoiser), z, times, cond=cond), plain, atol=1e-5)


# networks, guidance


@pytest.mark.parametrize("head", [PointHead(), SoftHead()], ids=str)
def test_a_network_of_a_shifted_process_is_that_of_its_base_on_the_state_in_the_frame(head: Any) -> None:
    cond = labels(3)
    networks = []
    for process in (ByLabel(), VP()):
        torch.manual_seed(0)
        networks.append(Network(process, MLPSpec(width=16, depth=2), head, (2,), class_label(2)).double().eval())
    shifted, plain = networks
    x = Rng(0, 3).normal((3, 2), F64)
    for t in (1.0, 0.3):
        mine = shifted(ByLabel().leave(x, t, cond), t, cond).draws(2, Rng(1, 3))
        assert torch.allclose(mine, plain(x, t, cond).draws(2, Rng(1, 3)), atol=1e-10)


def test_a_network_learns_a_shifted_process() -> None:
    """Data near one point, 120 steps of the squared error: samples are near it too, for any shift. Without the frame in
    the network or in the driver they are not.
    """
    torch.manual_seed(0)
    process = ByLabel()
    network = Network(process, MLPSpec(width=32, depth=2), PointHead(), (2,), class_label(2))
    optimiser, loss = torch.optim.Adam(network.parameters(), 5e-3), Square()
    centre = torch.tensor([0.6, -0.4])
    for step in range(120):
        rng = Rng(step, 64)
        t = rng.uniform((64,), F64).clamp(1e-3)
        x0 = centre + 0.05 * rng.child("x0").normal((64, 2))
        record = process.noise(x0, t, rng.child("noise"), labels(64))
        error = loss_of(loss, network, record, rng).mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    x = sample(network.eval(), 64, 8, sampler=ddim, cond=labels(64))
    assert (x - centre).norm(dim=1).max() < 0.3


def test_a_network_in_a_basis_predicts_x0() -> None:
    _, process, _ = frequencies((3,))
    with pytest.raises(ValueError, match=r"InBasis moves x0 into another frame.*output 'v' .*take output=\"x0\""):
        Network(process, MLPSpec(width=16, depth=2), PointHead(), (3,))
    torch.manual_seed(0)
    network = Network(process, MLPSpec(width=16, depth=2), PointHead(), (3,), output="x0").double().eval()
    flat = Network(VP(), MLPSpec(width=16, depth=2), PointHead(), (3,), output="x0").double().eval()
    flat.load_state_dict(network.state_dict())
    x, t = Rng(0, 2).normal((2, 3), F64), torch.full((2,), 0.4, dtype=F64)
    # under a VP process the input of the net has unit size and is not scaled
    assert torch.allclose(network(x, t).mean, flat(x, t**0.6).mean, atol=1e-9)
    assert sample(network, 4, 3, sampler=ddim).isfinite().all()


def test_guidance_evaluates_both_at_the_same_state_in_the_frame() -> None:
    """Without its condition the state is another: label 0 is shifted in the other direction."""
    problem, seen = gaussian(), []
    exact = Exact(problem)

    def asked(inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Tensor | None) -> Posterior:
        seen.append(ByLabel().enter(xt, t, cond))
        return inner(xt, t, cond)

    x = Rng(0, 3).normal((3, 2), F64)
    belief = guided(2.0, unconditional=torch.tensor([0]))(Wrapped(exact, asked))(x, 0.7, torch.ones(3))
    assert torch.allclose(seen[0], seen[1]) and torch.allclose(belief.mean, exact(x, 0.7, torch.ones(3)).mean)  # type: ignore[attr-defined]


def test_which_framed_processes_keep_x0() -> None:
    assert issubclass(Shifted, Framed) and Shifted.keeps_x0 and not InBasis.keeps_x0
