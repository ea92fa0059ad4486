"""The room of samplers: the driver, which puts a sampler and a denoiser together."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar, cast

import torch
from torch import Tensor

from ..posterior import HasMean, Posterior
from ..process import Gaussian, rest
from ..rng import Rng
from .contract import Ask, Sampler, SamplerError, traits
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


def _answer(denoiser: Denoiser, ask: Ask, cond: Tensor | None) -> Posterior:
    if ask.to is not None and getattr(denoiser, "two_times", False):
        return denoiser(ask.x, ask.t, cond, to=ask.to)  # type: ignore[call-arg]
    return denoiser(ask.x, ask.t, cond)


def _falling(grid: Tensor) -> None:
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"a sampler needs a grid of at least two falling times; found shape {list(grid.shape)}")
    if not (grid.diff() < 0).all():
        raise ValueError(f"a step back needs s < t: give a grid of times that falls; found {grid.tolist()[:8]}")


def drive(
    denoiser: Denoiser,
    sampler: Callable[[Gaussian, Tensor, Tensor, Rng], Generator[Ask, Posterior, T]],
    x: Tensor,
    grid: Tensor,
    rng: Rng,
    cond: Tensor | None = None,
    gradients: bool = False,
) -> Generator[Step, None, T]:
    """Runs a sampler from x at grid[0] to grid[-1], yielding each step; its value is the final x.

    x and the grid come from the caller: a start that is no pure noise needs nothing else. An inversion, such as
    `edit_friendly`, is driven the same way, from the images on, and its value is their code. gradients : through the
    whole run, where x, the code or the weights want them; all of its steps are then held in memory.
    """
    _falling(grid)
    # without gradients inside a question or an answer; between them the caller's own setting holds
    within = torch.enable_grad if gradients else torch.no_grad
    run = sampler(cast(Gaussian, denoiser.process), x, grid, rng)
    posterior: Posterior | None = None
    evaluations = 0
    try:
        while True:
            with within():
                ask = _ask(run, posterior)
                posterior = _answer(denoiser, ask, cond)
            evaluations += 1
            yield Step(ask.t, ask.x, posterior, evaluations)
    except StopIteration as end:
        return cast(T, end.value)


def _share(process: Gaussian, t: Tensor) -> float:
    """The size of pure noise at the time where it begins, over that at t = 1."""
    if not hasattr(process, "sigma"):
        raise SamplerError(
            f"a start at t = {float(t):g} was asked for, where {type(process).__name__} has no pure noise: "
            "begin at 1, or say where x comes from, for example start=noised(x0)"
        )
    return float(process.sigma(t) / process.sigma(1.0))


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
    cond: Tensor | None = None,
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
    process = cast(Gaussian, denoiser.process)
    if at != 1 and start is None:
        raise ValueError(f"a start at t = {at} is no pure noise: say where x comes from, for example start=noised(x0)")
    known = traits(sampler)
    if grid is None and at == 1 and steps < known.least:
        raise SamplerError(
            f"{known.name} leaves the data's range in fewer than {known.least} steps from pure noise, and {steps} were "
            "asked for: take more, or ddim, adams, evodiff"
        )
    if grid is None:
        grid = known.grid(process, steps) if at == 1 else rest(process, steps, at)
    _falling(grid)
    done, starts = [], None
    if start is not None and n:
        pure = Rng(seed, range(first, first + n), "sample", device).child("prior")
        starts = start(process, (n, *shape), float(grid[0]), pure).to(device)
    share = 1 if start is not None or grid[0] == 1 else _share(process, grid[0])
    for low in range(0, n, batch):
        high = min(low + batch, n)
        rng = Rng(seed, range(first + low, first + high), "sample", device)
        x = starts[low:high] if starts is not None else share * process.prior((high - low, *shape), rng.child("prior"))
        part = cond[low:high].to(device) if cond is not None else None
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            done.append(finish(drive(denoiser, sampler, x, grid, rng, part), look))
    return torch.cat(done) if done else process.prior((0, *shape), Rng(seed, 0, "sample", device))
