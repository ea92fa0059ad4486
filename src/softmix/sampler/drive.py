"""The driver, which puts a sampler and a denoiser together."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar, cast

import torch
from torch import Tensor

from ..cond import Cond
from ..denoiser.frame import posterior_in_frame
from ..posterior import HasMean, Posterior
from ..process import Framed, Gaussian, Process, rest
from ..process.frame import FixedCondition
from ..rng import Rng
from ..shape import column, take
from .contract import Ask, Sampler, SamplerError, able, traits
from .start import Start
from .walk import ancestral

if TYPE_CHECKING:
    from ..denoiser import Denoiser


Precision = Literal["fp32", "bf16"]
T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """One question and its answer. t []; x [B, ...], as it was when asked; evaluations: how many so far."""

    t: Tensor
    x: Tensor
    posterior: Posterior
    evaluations: int

    def preview(self) -> Tensor:
        """What the clean image looks like by now: the posterior's mean, or x if it has none."""
        return self.posterior.mean if isinstance(self.posterior, HasMean) else self.x


def _ask(run: Generator[Ask, Posterior, T], answer: Posterior | None) -> Ask:
    return next(run) if answer is None else run.send(answer)


def _answer(denoiser: Denoiser, ask: Ask, cond: Cond | Tensor | None) -> Posterior:
    if ask.to is not None and getattr(denoiser, "two_times", False):
        return denoiser(ask.x, ask.t, cond, to=ask.to)  # type: ignore[call-arg]
    return denoiser(ask.x, ask.t, cond)


def _falling(grid: Tensor) -> None:
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"a sampler needs a grid of at least two falling times; found shape {list(grid.shape)}")
    if not (grid.diff() < 0).all():
        raise ValueError(f"a step back needs s < t: give a grid of times that falls; found {grid.tolist()[:8]}")


class _NoFrame:
    """How a driver sees a process without a frame: as it is."""

    def __init__(self, process: Process):
        # a process that is no Gaussian one is run by samplers that need no more than the contract
        self.base = cast(Gaussian, process)

    def enter(self, x: Tensor, t: Tensor) -> Tensor:
        return x

    def asked(self, ask: Ask) -> Ask:
        return ask

    def told(self, posterior: Posterior) -> Posterior:
        return posterior

    def left(self, end: T, t: Tensor) -> T:
        return end


class _InFrame(_NoFrame):
    """Of a process with a frame: the sampler is inside, all else outside."""

    def __init__(self, process: Framed, cond: Cond | Tensor | None):
        super().__init__(process.base)
        self.process, self.cond = process, cond

    def enter(self, x: Tensor, t: Tensor) -> Tensor:
        return self.process.enter(x, t, self.cond)

    def asked(self, ask: Ask) -> Ask:
        return replace(ask, x=self.process.leave(ask.x, ask.t, self.cond))

    def told(self, posterior: Posterior) -> Posterior:
        return posterior_in_frame(posterior, self.process, self.cond)

    def left(self, end: T, t: Tensor) -> T:
        return cast(T, self.process.leave(cast(Tensor, end), t, self.cond))


def _frame(process: Process, cond: Cond | Tensor | None) -> _NoFrame:
    return _InFrame(process, cond) if isinstance(process, Framed) else _NoFrame(process)


def _suits(sampler: object, process: Process) -> None:
    """Refuses a sampler that the process is not for."""
    known, name = traits(sampler), type(process).__name__
    if known.codes and isinstance(process, Framed):
        raise SamplerError(
            f"{known.name} works with codes, whose states are those of a plain process, and {name} has a frame: give "
            "softmix.denoiser.in_frame(denoiser), and images that are in the frame"
        )
    base = process.base if isinstance(process, Framed) else process
    if getattr(base, "per_element", False) and not known.per_element:
        raise SamplerError(
            f"{known.name} needs one alpha and one sigma for all elements, and {name} has a number for each: take "
            f"{able(lambda each: each.per_element)}"
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
    """Runs a sampler from x at grid[0] to grid[-1], yielding each step; its value is the final x.

    x and the grid come from the caller: a start that is no pure noise needs nothing else. An inversion, such as
    `edit_friendly`, is driven the same way, from the images on, and its value is their code. gradients : through the
    whole run, where x, the code or the weights want them; all of its steps are then held in memory.

    A process with a frame: x and what is returned are its own states, and so is what the denoiser and a `Step` see;
    the sampler runs in the frame, on the base. cond is told to the denoiser and to the frame.
    """
    _falling(grid)
    _suits(sampler, denoiser.process)
    frame = _frame(denoiser.process, cond)
    # without gradients inside a question or an answer; between them the caller's own setting holds
    within = torch.enable_grad if gradients else torch.no_grad
    with within():
        run = sampler(frame.base, frame.enter(x, grid[0]), grid, rng)
    told: Posterior | None = None
    evaluations = 0
    try:
        while True:
            with within():
                ask = frame.asked(_ask(run, told))
                posterior = _answer(denoiser, ask, cond)
                told = frame.told(posterior)
            evaluations += 1
            yield Step(ask.t, ask.x, posterior, evaluations)
    except StopIteration as end:
        with within():
            return frame.left(cast(T, end.value), grid[-1])


def _pure(process: Process, shape: tuple[int, ...], t: Tensor, rng: Rng, cond: Cond | Tensor | None) -> Tensor:
    """x at time t where nothing is known of x0: noise of the size of that time, in the frame if there is one."""
    x = process.prior(shape, rng.child("prior"), cond)
    if t == 1:
        return x
    frame = _frame(process, cond)
    if not hasattr(frame.base, "sigma"):
        raise SamplerError(
            f"a start at t = {float(t):g} was asked for, where {type(process).__name__} has no pure noise: "
            "begin at 1, or say where x comes from, for example start=noised(x0)"
        )
    share = column(frame.base.sigma(t) / frame.base.sigma(1.0), x)
    return frame.left(share * frame.enter(x, torch.ones_like(t)), t)


def finish(steps: Generator[Step, None, T], look: Callable[[Step], None] | None = None) -> T:
    """Runs `drive` to its end and gives the final x; `look` sees each step."""
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
    batch: int = 256,
    first: int = 0,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    look: Callable[[Step], None] | None = None,
) -> Tensor:
    """n samples [n, *shape], in `steps` steps from pure noise, or from a start of one's own.

    Item k depends on (seed, first + k) and on nothing else: not on n, not on the batch it is drawn in.
    grid : falling times; by default those that suit the sampler. cond : [n] class labels or None. start : where x
    comes from at time `at`, or at grid[0], see `sampler.start`; steps then go from there, even in logsnr.
    shape : of one item; by default the model's. look : called with each `Step`. precision : of the network; with
    bf16 its products are rounded to 8 bits, which many machines do several times as fast, and an item then depends
    a little on the batch it is drawn in. The sampler's own arithmetic stays as it is.
    """
    shape = shape or getattr(denoiser, "shape", None)
    if shape is None:
        raise ValueError(
            f"a {type(denoiser).__name__} does not say what shape its items have: give shape=(C, H, W) or (D,); of a "
            "model that softmix.load gave, its denoiser says so: sample(model.denoiser)"
        )
    process = denoiser.process
    if at != 1 and start is None:
        raise ValueError(f"a start at t = {at} is no pure noise: say where x comes from, for example start=noised(x0)")
    known = traits(sampler)
    if grid is None and at == 1 and steps < known.least:
        raise SamplerError(
            f"{known.name} leaves the data's range in fewer than {known.least} steps from pure noise, and {steps} were "
            "asked for: take more, or ddim, adams, evodiff"
        )
    if grid is None:
        grid = known.grid(cast(Gaussian, process), steps) if at == 1 else rest(process, steps, at)
    _falling(grid)
    done, starts = [], None
    if start is not None and n:
        pure = Rng(seed, range(first, first + n), "sample", device).child("prior")
        given = (
            FixedCondition(process, cond if cond is None else cond.to(device))
            if isinstance(process, Framed)
            else process
        )
        starts = start(cast(Gaussian, given), (n, *shape), float(grid[0]), pure).to(device)
    for low in range(0, n, batch):
        high = min(low + batch, n)
        rng = Rng(seed, range(first + low, first + high), "sample", device)
        part = cond if cond is None else take(cond, slice(low, high)).to(device)
        x = starts[low:high] if starts is not None else _pure(process, (high - low, *shape), grid[0], rng, part)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            done.append(finish(drive(denoiser, sampler, x, grid, rng, part), look))
    return torch.cat(done) if done else process.prior((0, *shape), Rng(seed, 0, "sample", device))
