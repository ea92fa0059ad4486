"""The driver: it connects a sampler and a denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor

from ..cond import Cond
from ..denoiser.contract import device_of
from ..denoiser.frame import posterior_in_frame
from ..memory import in_batches
from ..posterior import HasMean, Posterior
from ..precision import Precision, computing, full_fp32
from ..process import Framed, Gaussian, Interpolant, Masked, Process, TwoClocks, rest
from ..process.frame import FixedCondition
from ..rng import Rng
from ..shape import column, take
from .contract import Ask, Sampler, SamplerError, names_with, traits
from .start import Start
from .walk import ancestral

if TYPE_CHECKING:
    from ..denoiser import Denoiser


T = TypeVar("T")
_BATCH = 256
# a GPU is idle between the kernels of a small batch
_BATCH_ON_GPU, _VALUES_ON_GPU = 2048, 1 << 21


@dataclass(frozen=True)
class Step:
    """One question and its answer.

    t : [].
    x : [B, ...], at the question.
    posterior : the answer.
    evaluations : the number of evaluations so far.
    """

    t: Tensor
    x: Tensor
    posterior: Posterior
    evaluations: int

    def preview(self) -> Tensor:
        """The present estimate of the clean image: the mean of the posterior, or x if it has none."""
        return self.posterior.mean if isinstance(self.posterior, HasMean) else self.x


def _ask(run: Generator[Ask, Posterior, T], answer: Posterior | None) -> Ask:
    return next(run) if answer is None else run.send(answer)


def _answer(denoiser: Denoiser, ask: Ask, cond: Cond | Tensor | None) -> Posterior:
    if ask.to is not None and getattr(denoiser, "two_times", False):
        return denoiser(ask.x, ask.t, cond, to=ask.to)  # type: ignore[call-arg]
    return denoiser(ask.x, ask.t, cond)


def _check_falling(grid: Tensor) -> None:
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"a sampler needs a grid of at least two falling times; found shape {list(grid.shape)}")
    if not (grid.diff() < 0).all():
        raise ValueError(f"a step back needs s < t: give a grid of times that falls; found {grid.tolist()[:8]}")


class _NoFrame:
    """A process without a frame: everything passes unchanged."""

    def __init__(self, process: Process):
        # a process that is not Gaussian is run by samplers that need only the contract
        self.base = cast(Gaussian, process)

    def enter(self, x: Tensor, t: Tensor) -> Tensor:
        return x

    def question(self, ask: Ask) -> Ask:
        return ask

    def answer(self, posterior: Posterior) -> Posterior:
        return posterior

    def leave(self, end: T, t: Tensor) -> T:
        return end


class _InFrame(_NoFrame):
    """A process with a frame: the sampler is inside the frame, the denoiser and the caller are outside."""

    def __init__(self, process: Framed, cond: Cond | Tensor | None):
        super().__init__(process.base)
        self.process, self.cond = process, cond

    def enter(self, x: Tensor, t: Tensor) -> Tensor:
        return self.process.enter(x, t, self.cond)

    def question(self, ask: Ask) -> Ask:
        return replace(ask, x=self.process.leave(ask.x, ask.t, self.cond))

    def answer(self, posterior: Posterior) -> Posterior:
        return posterior_in_frame(posterior, self.process, self.cond)

    def leave(self, end: T, t: Tensor) -> T:
        return cast(T, self.process.leave(cast(Tensor, end), t, self.cond))


def _frame(process: Process, cond: Cond | Tensor | None) -> _NoFrame:
    return _InFrame(process, cond) if isinstance(process, Framed) else _NoFrame(process)


def _adds_noise(sampler: object) -> bool:
    """Whether a sampler has a share of fresh noise above 0: `eta` or `eps`, its own setting or its default."""
    own = sampler.keywords if isinstance(sampler, partial) else {}
    bare: Any = sampler.func if isinstance(sampler, partial) else sampler
    found = signature(bare).parameters
    return any(own.get(name, found[name].default) != 0 for name in ("eta", "eps") if name in found)


def _check_suits(sampler: object, process: Process) -> None:
    """Raise SamplerError for a process that the sampler does not accept."""
    known, name = traits(sampler), type(process).__name__
    if isinstance(process, TwoClocks):
        raise SamplerError(
            f"{known.name} walks one time, and this model has one for x and one for y: take a path, as in "
            "softmix.sampler.along(model, JOINT, n), or softmix.denoiser.given(0)(model) for x given y"
        )
    if known.codes and isinstance(process, Framed):
        raise SamplerError(
            f"{known.name} works with codes, the states of a plain process, and {name} has a frame: give "
            "softmix.denoiser.in_frame(denoiser), and images in the frame"
        )
    if isinstance(process, Masked) and not known.tokens:
        raise SamplerError(
            f"{known.name} steps between numbers, and the states of {name} are tokens: take "
            f"{names_with(lambda each: each.tokens)}"
        )
    if not known.numbers and not isinstance(process, Masked):
        raise SamplerError(f"{known.name} unmasks tokens, and {name} adds noise to numbers: take a sampler of SAMPLERS")
    base = process.base if isinstance(process, Framed) else process
    if not getattr(base, "independent", True) and (known.stochastic or known.name == "renoise" or _adds_noise(sampler)):
        raise SamplerError(
            f"{known.name} adds noise that is independent of x0, and a model of {name} knows noise that depends on it: "
            "take a sampler with eta = 0, such as ddim, adams or ancestral(eta=0)"
        )
    if isinstance(base, Interpolant) and not known.interpolant:
        raise SamplerError(
            f"{known.name} uses x_t = alpha x0 + sigma z, and {name} leads to other data in the place of noise: take "
            f"{names_with(lambda each: each.interpolant)}"
        )
    if getattr(base, "per_element", False) and not known.per_element:
        raise SamplerError(
            f"{known.name} needs one alpha and one sigma for all elements, and {name} has a number for each: take "
            f"{names_with(lambda each: each.per_element)}"
        )


def drive(
    denoiser: Denoiser,
    sampler: Callable[[Gaussian, Tensor, Tensor, Rng], Generator[Ask, Posterior, T]],
    x: Tensor,
    grid: Tensor,
    rng: Rng,
    cond: Cond | Tensor | None = None,
    gradients: bool = False,
) -> Generator[Step, None, T]:
    """Run a sampler from x at grid[0] to grid[-1]. Yields each `Step`; the value of the generator is the final x.

    denoiser : the model.
    sampler : a sampler, or an inversion such as `edit_friendly`. An inversion starts at images, and its value is a
        code.
    x : the state at grid[0], [B, ...]. It need not be pure noise.
    grid : falling times, [n + 1].
    rng : the noise, one stream for each item.
    cond : the conditions, [B], for the denoiser and for the frame.
    gradients : compute gradients through the whole run, for x, the code or the weights. All steps are then held in
        memory.

    For a process with a frame, x and the result are states of that process, and so are the x of a `Step` and of a
    question to the denoiser. The sampler runs in the frame, on the base.
    Raises ValueError for a grid that does not fall, SamplerError for a process that the sampler does not accept.
    """
    _check_falling(grid)
    _check_suits(sampler, denoiser.process)
    # the networks of a `MultiScale` model serve parts of the time
    check_grid = getattr(denoiser, "check_grid", None)
    if check_grid is not None:
        check_grid(grid)
    # a model that was tuned as a part of one chain serves no other
    check_sampler = getattr(denoiser, "check_sampler", None)
    if check_sampler is not None:
        check_sampler(traits(sampler).name, _adds_noise(sampler))
    frame = _frame(denoiser.process, cond)
    # the setting holds inside a question or an answer; between them the setting of the caller holds
    within = torch.enable_grad if gradients else torch.no_grad
    with within():
        run = sampler(frame.base, frame.enter(x, grid[0]), grid, rng)
    answer: Posterior | None = None
    evaluations = 0
    try:
        while True:
            with within():
                ask = frame.question(_ask(run, answer))
                posterior = _answer(denoiser, ask, cond)
                answer = frame.answer(posterior)
            evaluations += 1
            yield Step(ask.t, ask.x, posterior, evaluations)
    except StopIteration as end:
        with within():
            return frame.leave(cast(T, end.value), grid[-1])


def _pure_noise(process: Process, shape: tuple[int, ...], t: Tensor, rng: Rng, cond: Cond | Tensor | None) -> Tensor:
    """x at time t without any signal: noise of the size of time t, in the frame if there is one."""
    x = process.prior(shape, rng.child("prior"), cond)
    if t == 1:
        return x
    frame = _frame(process, cond)
    if not hasattr(frame.base, "sigma"):
        raise SamplerError(
            f"a start at t = {float(t):g} was asked for, and {type(process).__name__} has no pure noise at that time: "
            "begin at 1, or give a start, for example start=noised(x0)"
        )
    share = column(frame.base.sigma(t) / frame.base.sigma(1.0), x)
    return frame.leave(share * frame.enter(x, torch.ones_like(t)), t)


def finish(steps: Generator[Step, None, T], look: Callable[[Step], None] | None = None) -> T:
    """Run `drive` to its end and return the final x. look : is called with each step."""
    try:
        while True:
            step = next(steps)
            if look is not None:
                look(step)
    except StopIteration as end:
        return cast(T, end.value)


def sample(
    denoiser: Denoiser,
    n: int,
    steps: int = 8,
    *,
    sampler: Sampler = ancestral,
    seed: int = 0,
    shape: tuple[int, ...] | None = None,
    cond: Cond | Tensor | None = None,
    grid: Tensor | None = None,
    start: Start | None = None,
    at: float = 1.0,
    batch: int | None = None,
    first: int | Sequence[int] = 0,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    look: Callable[[Step], None] | None = None,
) -> Tensor:
    """Draw n samples [n, *shape], from pure noise or from a given start.

    Item k depends on (seed, its number) alone: not on n, and not on its batch. Items of one number have one noise.

    denoiser : the model.
    n : the number of samples.
    steps : the number of steps.
    sampler : see `SAMPLERS`.
    seed : of the noise.
    first : the number of the first item, or a list with the number of each item.
    shape : of one item; by default that of the model.
    cond : the conditions of the items, [n]: a `Cond`, or class labels.
    grid : falling times; by default those that suit the sampler.
    start : the law of x at time `at`, or at grid[0]; see `sampler.start`. The steps then go from there, even in logsnr.
    at : the time of the start.
    batch : the number of items in one evaluation, by default `batch_for` the device. It is halved, with a warning, if
        the memory is too small. The samples do not depend on it.
    device : of the samples and of the noise. By default that of the weights of the denoiser; the CPU without weights.
    precision : of the network.
        "fp32" : float32 with all its digits. On a GPU, TF32 is switched off inside.
        "tf32" : float32, and a GPU may round the inputs of products and convolutions to 11 bits.
        "bf16" : products are rounded to 8 bits. Many machines are then several times as fast, and an item depends a
            little on its batch.
        "fp16" : products are rounded to 11 bits, and numbers above 65504 are lost: for GPUs without bf16.
        The states and the arithmetic of the sampler stay in float32. An autocast of the caller is off inside.
    look : is called with each `Step`, again for a batch that is tried again.

    Raises ValueError for a missing shape, for a time `at` without a start, and for another number of numbers than n;
    SamplerError for too few steps; and NotEnoughMemoryError if one item is too large for the memory.
    """
    shape = shape or getattr(denoiser, "shape", None)
    if shape is None:
        raise ValueError(
            f"a {type(denoiser).__name__} has no shape: give shape=(C, H, W) or shape=(D,), or, for a model from "
            "softmix.load, its denoiser: sample(model.denoiser)"
        )
    process, device = denoiser.process, device_of(denoiser) if device is None else device
    _check_suits(sampler, process)
    if at != 1 and start is None:
        raise ValueError(f"at={at} was given without a start: give the law of x there, for example start=noised(x0)")
    # a model of several modalities walks an aggregate of them, and x is read from its end
    x_of: Callable[[Tensor], Tensor] | None = getattr(denoiser, "x_of", None)
    if start is not None and x_of is not None:
        raise SamplerError(
            "a start was given, and the paths of a model of several modalities are those of their aggregate z: take "
            "softmix.sampler.sample_aggregate, with a start in the space of z"
        )
    known = traits(sampler)
    if grid is None and at == 1 and steps < known.least:
        raise SamplerError(
            f"{known.name} leaves the data's range in fewer than {known.least} steps from pure noise, and {steps} were "
            "asked for: take more, or ddim, adams, evodiff"
        )
    if grid is None:
        grid = known.grid(cast(Gaussian, process), steps) if at == 1 else rest(process, steps, at)
        grid = getattr(denoiser, "fitted", lambda times: times)(grid)
    _check_falling(grid)
    numbers = range(first, first + n) if isinstance(first, int) else first
    if len(numbers) != n:
        raise ValueError(f"{n} samples were asked for, and {len(numbers)} numbers of items were given: give one each")
    starts = None
    device = torch.device(device)
    if start is not None and n:
        pure = Rng(seed, numbers, "sample", device).child("prior")
        given = (
            FixedCondition(process, cond if cond is None else cond.to(device))
            if isinstance(process, Framed)
            else process
        )
        with full_fp32():
            starts = start(cast(Gaussian, given), (n, *shape), float(grid[0]), pure).to(device)

    def draw(low: int, high: int) -> Tensor:
        rng = Rng(seed, numbers[low:high], "sample", device)
        part = cond if cond is None else take(cond, slice(low, high)).to(device)
        x = starts[low:high] if starts is not None else _pure_noise(process, (high - low, *shape), grid[0], rng, part)
        end = finish(drive(denoiser, sampler, x, grid, rng, part), look)
        return end if x_of is None else x_of(end)

    with computing(precision, device, denoiser):
        done = in_batches(draw, n, batch or batch_for(device, shape), "sample")
    if len(done) == 1:
        return done[0]
    return torch.cat(done) if done else process.prior((0, *shape), Rng(seed, 0, "sample", device), cond)


def batch_for(device: torch.device | str, shape: tuple[int, ...]) -> int:
    """The number of items of this shape that `sample` evaluates at once: 256 on a CPU, up to 2,048 on a GPU."""
    if torch.device(device).type == "cpu":
        return _BATCH
    return min(max(_VALUES_ON_GPU // math.prod(shape), _BATCH), _BATCH_ON_GPU)
