"""The room of samplers: the driver, which puts a sampler and a denoiser together."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor

from ..posterior import HasMean, Posterior
from ..process import Gaussian
from ..rng import Rng
from .contract import Ask, Sampler, traits
from .walk import ancestral

if TYPE_CHECKING:
    from ..denoiser import Denoiser


Precision = Literal["fp32", "bf16"]


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


@torch.no_grad()
def _ask(run: Generator[Ask, Posterior, Tensor], answer: Posterior | None) -> Ask:
    return next(run) if answer is None else run.send(answer)


@torch.no_grad()
def _answer(denoiser: Denoiser, ask: Ask, cond: Tensor | None) -> Posterior:
    if ask.to is not None and getattr(denoiser, "two_times", False):
        return denoiser(ask.x, ask.t, cond, to=ask.to)  # type: ignore[call-arg]
    return denoiser(ask.x, ask.t, cond)


def drive(
    denoiser: Denoiser, sampler: Sampler, x: Tensor, grid: Tensor, rng: Rng, cond: Tensor | None = None
) -> Generator[Step, None, Tensor]:
    """Runs a sampler from x at grid[0] to grid[-1], yielding each step; its value is the final x.

    x and the grid come from the caller: a start that is no pure noise needs nothing else.
    """
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"a sampler needs a grid of at least two falling times; found shape {list(grid.shape)}")
    # no gradients inside a question or an answer; between them the caller's own setting holds
    run = sampler(cast(Gaussian, denoiser.process), x, grid, rng)
    posterior: Posterior | None = None
    evaluations = 0
    try:
        while True:
            ask = _ask(run, posterior)
            posterior = _answer(denoiser, ask, cond)
            evaluations += 1
            yield Step(ask.t, ask.x, posterior, evaluations)
    except StopIteration as end:
        return cast(Tensor, end.value)


def finish(steps: Generator[Step, None, Tensor], look: Callable[[Step], None] | None = None) -> Tensor:
    """Runs `drive` to its end and gives the final x; `look` sees each step."""
    try:
        while True:
            step = next(steps)
            if look is not None:
                look(step)
    except StopIteration as end:
        return cast(Tensor, end.value)


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
    batch: int = 256,
    first: int = 0,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    look: Callable[[Step], None] | None = None,
) -> Tensor:
    """n samples [n, *shape], in `steps` steps from pure noise.

    Item k depends on (seed, first + k) and on nothing else: not on n, not on the batch it is drawn in.
    grid : falling times; by default those that suit the sampler. cond : [n] class labels or None.
    shape : of one item; by default the model's. look : called with each `Step`. precision : of the network; with
    bf16 its products are rounded to 8 bits, which many machines do several times as fast, and an item then depends
    a little on the batch it is drawn in. The sampler's own arithmetic stays as it is.
    """
    shape = shape or getattr(denoiser, "shape", None)
    if shape is None:
        raise ValueError("this denoiser does not say what shape its items have: give shape=(C, H, W) or (D,)")
    grid = traits(sampler).grid(cast(Gaussian, denoiser.process), steps) if grid is None else grid
    done = []
    for start in range(0, n, batch):
        stop = min(start + batch, n)
        rng = Rng(seed, range(first + start, first + stop), "sample", device)
        x = denoiser.process.prior((stop - start, *shape), rng.child("prior")).to(device)
        part = cond[start:stop].to(device) if cond is not None else None
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            done.append(finish(drive(denoiser, sampler, x, grid, rng, part), look))
    return torch.cat(done) if done else torch.empty(0, *shape)
