"""The option --interval: guidance between two noise levels, and the test that a step of the sampler lies there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .common import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from ..posterior import Posterior
    from ..process import Gaussian, Process
    from ..sampler import Sampler

Interval = tuple[float, float]


def require_interval(interval: Interval | None, guidance: float) -> None:
    """Raise UsageError for an empty interval, or for one without guidance."""
    if interval is None:
        return
    low, high = interval
    if math.isnan(low) or math.isnan(high) or low >= high:
        raise UsageError(f"--interval {low:g} {high:g} was asked for; the smaller logsnr comes first")
    if guidance == 1:
        raise UsageError("--interval says where to guide, and nothing guides: give --guidance above 1 with it")


def require_steps_inside(
    interval: Interval, sampler: Sampler, process: Process, shape: tuple[int, ...], steps: int
) -> None:
    """Raise UsageError, with the nearest noise levels, if the sampler never asks the denoiser in the interval."""
    import torch

    from ..denoiser.wrap import covers
    from ..sampler import label

    low, high = interval
    levels = noise_levels(sampler, process, shape, steps)
    if covers(low, high, torch.tensor(levels, dtype=torch.float64)).any():
        return
    below, above = [level for level in levels if level < low], [level for level in levels if level > high]
    near = [f"{level:.4g}" for level in (*below[-1:], *above[:1])]
    raise UsageError(
        f"--interval {low:g} {high:g} was asked for, and nothing would be guided: in {steps} steps {label(sampler)} "
        f"asks the model at logsnr {levels[0]:.4g} to {levels[-1]:.4g}, next to the interval at {' and '.join(near)}. "
        "Widen it past one of these, or take other --steps"
    )


def noise_levels(sampler: Sampler, process: Process, shape: tuple[int, ...], steps: int) -> list[float]:
    """The logsnr, rising, at which a sampler asks the denoiser: at the times of its grid and between them.

    They do not depend on the answers. So one item is drawn from a model with a constant posterior.
    """
    from ..process import Framed
    from ..sampler import sample

    # a sampler runs in the frame
    base: Any = process.base if isinstance(process, Framed) else process
    levels: set[float] = set()
    sample(
        _ConstantDenoiser(base),
        1,
        steps,
        sampler=sampler,
        shape=shape,
        look=lambda step: levels.add(float(process.logsnr(step.t))),
    )
    return sorted(levels)


class _ConstantDenoiser:
    """A denoiser with one posterior for every x_t: N(0, 1), or for tokens equal probabilities."""

    def __init__(self, process: Gaussian):
        self.process = process

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Any = None) -> Posterior:
        import torch

        from ..posterior import Categorical, Normal

        symbols = getattr(self.process, "symbols", 0)
        if symbols:
            return Categorical(torch.zeros(len(xt), symbols, *xt.shape[1:], device=xt.device))
        return Normal(xt.new_zeros(xt.shape), xt.new_ones(xt.shape))
