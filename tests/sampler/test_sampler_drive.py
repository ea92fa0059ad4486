"""The options of `sample`, the eta of samplers, and the traits that samplers declare."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from softmix.denoiser import wiener
from softmix.posterior import HasMean, Normal, Point, Posterior
from softmix.process import VE, VP, Flow, Gaussian, after_draw, few, karras, rest, uniform
from softmix.rng import Rng
from softmix.sampler import (
    Sampler,
    SamplerError,
    Step,
    Traits,
    adams,
    ancestral,
    ddim,
    drive,
    label,
    on_grid,
    plms,
    renoise,
    sample,
    traits,
)
from softmix.sampler.contract import declare
from softmix.sampler.drive import finish

F64 = torch.float64
THREE = pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)


class Black:
    """The posterior is at 0 for any x: a point, or with a variance. It records x, t and the conditions."""

    def __init__(self, process: Gaussian | None = None, var: float | None = None):
        self.process, self.shape, self.var = process or VP(), (2,), var
        self.asked: list[tuple[Tensor, float, Tensor | None]] = []

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        self.asked.append((xt, float(t), cond))
        return Point(0 * xt) if self.var is None else Normal(0 * xt, torch.full((1,), self.var))


def numbers(seed: int, first: int, n: int) -> Rng:
    return Rng(seed, range(first, first + n), "sample")


# the start of samples


def test_an_item_starts_at_the_prior_of_its_own_number() -> None:
    """The prior has its own stream: no number of a later step is used."""
    for first in (0, 5):
        denoiser = Black()
        sample(denoiser, 3, 2, seed=7, first=first)
        right = VP().prior((3, 2), numbers(7, first, 3).child("prior"))
        assert torch.equal(denoiser.asked[0][0], right)


def test_steps_draw_from_the_stream_of_the_item_and_not_of_the_prior() -> None:
    denoiser, times = Black(), torch.tensor([1.0, 0.5, 0.2], dtype=F64)
    end = sample(denoiser, 3, grid=times, seed=7, first=5)
    x, rng = VP().prior((3, 2), numbers(7, 5, 3).child("prior")), numbers(7, 5, 3)
    for t, s in ((1.0, 0.5), (0.5, 0.2)):
        x = VP().bridge(x, 0 * x, t, s, rng)
    assert torch.equal(end, x)


def test_the_prior_and_the_first_step_are_independent() -> None:
    """The correlation of x at t = 1 and the fresh noise of the first step, over 20,000 items."""
    denoiser, n = Black(), 20_000
    end = sample(denoiser, n, grid=torch.tensor([1.0, 0.5], dtype=F64), batch=n)
    first = denoiser.asked[0][0]
    mean, fresh = VP().kernel(first, 0 * first, 1.0, 0.5)
    z = (end - mean) / fresh
    assert abs(float((z * first).mean())) < 5 / math.sqrt(2 * n)
    assert float(z.std()) == pytest.approx(1.0, abs=5 / math.sqrt(4 * n))


def test_item_first_plus_k_does_not_depend_on_the_other_items() -> None:
    for sampler in (ancestral, renoise):
        whole = sample(Black(), 9, 4, sampler=sampler, seed=3)
        assert torch.equal(sample(Black(), 4, 4, sampler=sampler, seed=3, first=5), whole[5:])
        assert torch.equal(sample(Black(), 9, 4, sampler=sampler, seed=3, batch=2), whole)
        assert torch.equal(sample(Black(), 4, 4, sampler=sampler, seed=3, first=5, batch=3), whole[5:])


def test_the_defaults_are_eight_ancestral_steps_of_seed_0_from_item_0() -> None:
    right = sample(Black(), 4, 8, sampler=ancestral, seed=0, first=0, batch=256, precision="fp32", shape=(2,), at=1.0)
    assert torch.equal(sample(Black(), 4), right)
    denoiser = Black()
    sample(denoiser, 300, device="cpu")  # another device may have a larger batch by default
    assert [len(x) for x, *_ in denoiser.asked] == [256] * 8 + [44] * 8
    assert inspect.signature(sample).parameters["device"].default is None


def test_a_given_shape_overrides_that_of_the_model() -> None:
    assert sample(Black(), 3, 2, shape=(4, 5)).shape == (3, 4, 5) and sample(Black(), 3, 2).shape == (3, 2)
    assert sample(Black(), 0, 2, shape=(4, 5)).shape == (0, 4, 5)


def test_each_batch_gets_its_own_conditions() -> None:
    denoiser, cond = Black(), torch.arange(5)
    sample(denoiser, 5, 1, cond=cond, batch=2)
    assert [given.tolist() for *_, given in denoiser.asked] == [[0, 1], [2, 3], [4]]  # type: ignore[union-attr]
    denoiser = Black()
    sample(denoiser, 2, 1)
    assert denoiser.asked[0][2] is None


def test_the_grid_is_that_of_the_sampler_or_the_given_one() -> None:
    for sampler, right in ((ancestral, VP().grid(6)), (adams, few(VP(), 6))):
        denoiser = Black()
        sample(denoiser, 2, 6, sampler=sampler)
        assert [t for _, t, _ in denoiser.asked] == right[:-1].tolist()
    denoiser = Black()
    sample(denoiser, 2, 6, grid=torch.tensor([0.8, 0.3, 0.0], dtype=F64))
    assert [t for _, t, _ in denoiser.asked] == [0.8, 0.3]


# starts


def test_a_start_gets_all_items_the_time_and_its_own_stream() -> None:
    seen: list[tuple[tuple[int, ...], float]] = []

    def start(process: Gaussian, shape: Sequence[int], t: float, rng: Rng) -> Tensor:
        seen.append((tuple(shape), t))
        return rng.normal(shape)

    denoiser = Black()
    sample(denoiser, 5, 4, start=start, at=0.6, batch=2, seed=7, first=3)
    assert seen == [((5, 2), 0.6)]
    right = numbers(7, 3, 5).child("prior").normal((5, 2))
    assert torch.equal(torch.cat([x for x, t, _ in denoiser.asked if t == 0.6]), right)
    assert [t for _, t, _ in denoiser.asked[:4]] == rest(VP(), 4, 0.6)[:-1].tolist()


def test_a_start_with_a_given_grid_begins_at_its_first_time() -> None:
    seen: list[float] = []

    def start(process: Gaussian, shape: Sequence[int], t: float, rng: Rng) -> Tensor:
        seen.append(t)
        return torch.zeros(*shape)

    sample(Black(), 2, start=start, grid=torch.tensor([0.75, 0.25, 0.0], dtype=F64))
    sample(Black(), 0, start=start, at=0.5)
    assert seen == [0.75]


def test_a_start_in_the_middle_without_a_start_is_refused() -> None:
    with pytest.raises(ValueError, match="was given without a start"):
        sample(Black(), 2, 4, at=0.5)


def test_too_few_steps_are_refused_from_pure_noise_alone() -> None:
    start = lambda process, shape, t, rng: torch.zeros(*shape)  # noqa: E731
    with pytest.raises(SamplerError, match="plms leaves"):
        sample(Black(), 2, 3, sampler=plms)
    assert sample(Black(), 2, 3, sampler=plms, start=start, at=0.5).shape == (2, 2)
    assert sample(Black(), 2, sampler=plms, grid=torch.tensor([0.7, 0.3, 0.0], dtype=F64)).shape == (2, 2)


# driving


def test_gradients_flow_through_the_whole_run_with_gradients_true() -> None:
    """x_s = (sigma_s / sigma_t) x for a posterior at 0: the gradient is the ratio over the whole run."""
    times = torch.tensor([0.9, 0.5, 0.2], dtype=F64)
    x = torch.ones(2, 2, dtype=F64, requires_grad=True)
    end = finish(drive(Black(), ddim, x, times, Rng(0, 2), gradients=True))
    (slope,) = torch.autograd.grad(end.sum(), x)
    assert torch.allclose(slope, (VP().sigma(0.2) / VP().sigma(0.9)).to(slope).expand(2, 2))
    assert not finish(drive(Black(), ddim, x, times, Rng(0, 2))).requires_grad


def test_a_preview_is_the_mean_or_x() -> None:
    x, mean = torch.ones(2, 2), torch.full((2, 2), 3.0)
    t = torch.tensor(0.5)
    assert torch.equal(Step(t, x, Point(mean), 1).preview(), mean)

    class Drawn(Posterior):
        def sample(self, rng: Rng) -> Tensor:
            return mean

    assert torch.equal(Step(t, x, Drawn(), 1).preview(), x)


class Hasty:
    """A flow map that records the ends of its steps."""

    two_times = True

    def __init__(self) -> None:
        self.process, self.shape = Flow(), (2,)
        self.asked: list[tuple[float | None, Tensor | None]] = []

    def __call__(
        self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None, to: Tensor | float | None = None
    ) -> Posterior:
        self.asked.append((None if to is None else float(to), cond))
        return Point(0 * xt)


def test_a_flow_map_gets_the_end_of_each_step_and_its_condition() -> None:
    denoiser, cond = Hasty(), torch.tensor([4, 5])
    sample(denoiser, 2, sampler=ddim, grid=torch.tensor([1.0, 0.6, 0.0], dtype=F64), cond=cond)
    assert [to for to, _ in denoiser.asked] == [0.6, 0.0]
    assert all(torch.equal(given, cond) for _, given in denoiser.asked)  # type: ignore[arg-type]
    denoiser = Hasty()
    sample(denoiser, 2, 3, sampler=ancestral)
    assert [to for to, _ in denoiser.asked] == [None] * 3


class Product(nn.Module):
    process, shape = VP(), (4,)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.seen = nn.Linear(4, 4), list[torch.dtype]()

    def forward(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        said = self.layer(xt)
        self.seen.append(said.dtype)
        return Point(said.float())


def test_bf16_rounds_the_network_alone() -> None:
    for precision, right in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model = Product()
        end = sample(model, 3, 2, sampler=ddim, precision=precision)  # type: ignore[arg-type]
        assert model.seen == [right] * 2 and end.dtype == torch.float32


# the walks


@THREE
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("walk", [ddim, ancestral])
def test_a_step_with_eta_adds_the_variance_of_the_formula(process: Gaussian, eta: float, walk: Sampler) -> None:
    """eta^2 sigma_s^2 (1 - snr_t / snr_s), from x = 0 and a posterior at 0; within five standard errors."""
    n, t, s = 20_000, 0.7, 0.4
    end = finish(
        drive(Black(process), partial(walk, eta=eta), torch.zeros(n, 1), torch.tensor([t, s], dtype=F64), Rng(0, n))
    )
    ratio = float((process.logsnr(t) - process.logsnr(s)).exp())
    right = (eta * float(process.sigma(s))) ** 2 * (1 - ratio)
    assert float(end.square().mean()) == pytest.approx(right, rel=5 * math.sqrt(2 / n), abs=1e-12)


def test_ddim_is_deterministic_and_ancestral_is_not_by_default() -> None:
    x, times = torch.ones(3, 2, dtype=F64), torch.tensor([0.8, 0.4, 0.2], dtype=F64)

    def end(walk: Sampler) -> Tensor:
        return finish(drive(Black(), walk, x, times, Rng(0, 3)))

    assert torch.equal(end(ddim), end(partial(ddim, eta=0.0))) and torch.equal(end(ddim)[0], end(ddim)[1])
    assert torch.equal(end(ancestral), end(partial(ancestral, eta=1.0)))
    assert torch.equal(end(partial(ddim, eta=0.4)), end(partial(ancestral, eta=0.4)))


@THREE
def test_ancestral_draws_and_ddim_takes_the_mean(process: Gaussian) -> None:
    """One step from x = 0 to s: the variance of x_s is that of the draw, times its factor squared, plus the fresh
    noise.
    """
    n, t, s, var = 20_000, 0.7, 0.4, 0.5
    for eta in (0.0, 0.6):
        clean, _, fresh = (float(part) for part in process.shares(t, s, eta))
        x, times = torch.zeros(n, 1), torch.tensor([t, s], dtype=F64)
        drawn = finish(drive(Black(process, var), partial(ancestral, eta=eta), x, times, Rng(0, n)))
        meant = finish(drive(Black(process, var), partial(ddim, eta=eta), x, times, Rng(0, n)))
        wide = pytest.approx(clean**2 * var + fresh**2, rel=5 * math.sqrt(2 / n))
        assert float(drawn.square().mean()) == wide
        assert float(meant.square().mean()) == pytest.approx(fresh**2, rel=5 * math.sqrt(2 / n), abs=1e-12)


@THREE
def test_renoise_does_not_depend_on_x(process: Gaussian) -> None:
    """x_s = alpha_s x0 + sigma_s z, the same for any x."""
    times = torch.tensor([0.7, 0.4], dtype=F64)
    ends = [finish(drive(Black(process), renoise, torch.full((4, 2), k), times, Rng(0, 4))) for k in (0.0, 9.0)]
    assert torch.equal(*ends) and torch.allclose(ends[0], float(process.sigma(0.4)) * Rng(0, 4).normal((4, 2)))


def test_one_step_of_ddim_on_a_gaussian_is_the_closed_form() -> None:
    """x0 ~ N(0, 0.25): x_s = (clean alpha l / (alpha^2 l + sigma^2) + kept) x_t, exactly."""
    line = wiener(VP(), torch.zeros(1, dtype=F64), torch.full((1, 1), 0.25, dtype=F64))
    t, s, x = 0.7, 0.3, torch.tensor([[1.5]], dtype=F64)
    clean, kept, _ = (float(part) for part in VP().shares(t, s, 0.0))
    a, v = float(VP().alpha(t)), float(VP().sigma(t)) ** 2
    right = 1.5 * (kept + clean * a * 0.25 / (a**2 * 0.25 + v))
    assert float(finish(drive(line, ddim, x, torch.tensor([t, s], dtype=F64), Rng(0, 1)))) == pytest.approx(right)


# traits


def test_traits_are_those_declared_and_others_have_defaults() -> None:
    def mine() -> None: ...

    plain = traits(mine)
    assert (plain.name, plain.order, plain.needs, plain.least, plain.stochastic) == ("mine", None, Posterior, 1, False)
    assert plain.evaluations(7) == 7 and torch.equal(plain.grid(VP(), 4), VP().grid(4))
    assert Traits("x", 2).least == 1 and Traits("x", 2).needs is Posterior
    declare("theirs", 2)(mine)
    known = traits(mine)
    assert (known.name, known.order, known.needs, known.least, known.stochastic) == ("theirs", 2, HasMean, 1, False)
    assert known.evaluations(7) == 7 and torch.equal(known.grid(VP(), 4), VP().grid(4))
    declare("noisy", 1, Posterior, lambda n: 2 * n, few, True, 5)(mine)
    known = traits(partial(partial(mine), x=1))
    assert (known.name, known.needs, known.stochastic, known.least) == ("noisy", Posterior, True, 5)
    assert known.evaluations(3) == 6 and known.grid is few


def test_a_sampler_on_another_grid_differs_by_its_grid_alone() -> None:
    model = wiener(VP(), torch.zeros(2), torch.eye(2))
    for sampler in (adams, partial(ancestral, eta=0.5), on_grid(adams, uniform)):
        other, known = on_grid(sampler, karras), traits(sampler)
        assert traits(other) == replace(known, grid=karras)
        right = sample(model, 5, 3, sampler=sampler, shape=(2,), grid=karras(VP(), 3), seed=2)
        assert torch.equal(sample(model, 5, 3, sampler=other, shape=(2,), seed=2), right)
        assert not torch.equal(sample(model, 5, 3, sampler=sampler, shape=(2,), seed=2), right)
    assert label(on_grid(partial(ancestral, eta=0.5), karras)) == "ancestral, grid karras, eta 0.5"
    assert label(on_grid(adams, karras)) == "adams, grid karras"
    assert label(on_grid(adams, partial(after_draw, second=-1.0))) == "adams, grid after_draw second -1"
    with pytest.raises(ValueError, match="a lambda, and the label"):
        on_grid(adams, lambda process, n: few(process, n))
    with pytest.raises(ValueError, match="a lambda, and the label"):
        on_grid(adams, partial(lambda process, n, last: few(process, n), last=1))


def test_a_label_is_the_name_with_the_fixed_arguments() -> None:
    assert label(ddim) == "ddim"
    assert label(partial(ancestral, eta=0.5)) == "ancestral, eta 0.5"
    assert label(partial(ancestral, eta=1.0)) == "ancestral, eta 1"
    assert label(partial(ddim, form="own", order=3, rule=object())) == "ddim, form own, order 3, rule"
