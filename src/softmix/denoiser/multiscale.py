"""A model of several networks: the finest image at low noise, and coarser images at high noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from ..cond import Cond, CondSpec
from ..posterior import Posterior
from ..process import NonUniform
from .contract import Denoiser
from .frame import mapped

# a time at an end may be off by this
_ROUNDING = 1e-6


class MultiScale(nn.Module):
    """The denoiser of a non-uniform process that asks a smaller network once a detail band is noise.

        t <= T_1    models[0], at the full size
        T_l < t     models[l], at 1 / 2^l of the size, on the mean of 2^l x 2^l pixels of x_t;   T_l = ends[l - 1]

    The means of x_t are a state of the coarse process. The x0 of a coarse model is enlarged, and gets the details of
    `mean`, because x_t knows nothing of them. The noise of the dropped bands stays in x_t, and every sampler for arrays
    runs unchanged. In law this is the paper's cascade, which samples the coarse image alone and appends noise at T_l.

    models : the denoiser of a `NonUniform` process, and those of process.coarse(1), process.coarse(2), ... The last one
        serves up to t = 1, so that fewer than levels + 1 models are possible. Train each on `data.Coarse(data, l)`, on
        the times that it serves: Times(low=T_l, high=T_(l + 1)).
    mean : the mean of the images, [C, H, W], of which the details are taken; 0 without it.

    A call with times [B] needs all of them in one stage. An image in the condition is averaged as x_t is.

    No step may lead over a T_l, because its model does not know the details that begin there. `sample` chooses such
    times, and `fitted` makes them of any others.

    Raises ValueError for models that do not belong together, for flow maps, for times in different stages, and for a
    step over the end of a stage.

    When to choose: for images with most of their steps at high noise. The signal that a dropped band still has is lost:
    `process.terminal_kl` says how much.
    Source: Batzolis et al., "Non-uniform diffusion models", 2022, the multi-scale model.
    """

    cites: ClassVar[tuple[str, ...]] = ("non_uniform",)
    mean: Tensor | None

    def __init__(self, models: Sequence[Denoiser], mean: Tensor | None = None):
        super().__init__()
        if not models or not isinstance(models[0].process, NonUniform):
            found = type(models[0].process).__name__ if models else "no model"
            raise ValueError(f"a multi-scale model begins with a model of a NonUniform process; found {found}")
        self.models, self.process = tuple(models), models[0].process
        for level, model in enumerate(self.models):
            self._check(level, model)
        # the weights among them are found here, and moved together
        self.networks = nn.ModuleList(model for model in self.models if isinstance(model, nn.Module))
        self.register_buffer("mean", mean)
        self.times = self.process.ends[: len(models) - 1]

    def _check(self, level: int, model: Denoiser) -> None:
        if level > self.process.levels:
            raise ValueError(
                f"{len(self.models)} models were given, and a process of {self.process.levels} detail bands has at "
                f"most {self.process.levels + 1} stages"
            )
        if model.process != self.process.coarse(level):
            raise ValueError(
                f"models[{level}] has the process {model.process}, and {self.process.coarse(level)} was expected: "
                f"train it with the process models[0].process.coarse({level})"
            )
        if getattr(model, "two_times", False):
            raise ValueError(
                f"models[{level}] is a flow map, with a step that may end in another stage: give a model of the mean"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an item at the full size."""
        shape: tuple[int, ...] = self.models[0].shape  # type: ignore[attr-defined]
        return shape

    @property
    def cond(self) -> CondSpec:
        """The conditions of the model of the full size."""
        return getattr(self.models[0], "cond", CondSpec())

    @property
    def classes(self) -> int:
        return self.cond.classes

    def stage(self, t: Tensor | float) -> int:
        """The number of the model that answers at time t. Raises ValueError for times [B] of different stages."""
        least, most = (sum(end < float(at) - _ROUNDING for end in self.times) for at in torch.as_tensor(t).aminmax())
        if least != most:
            raise ValueError("a MultiScale model needs one time for the whole batch, or times in one stage")
        return most

    def fitted(self, grid: Tensor) -> Tensor:
        """Falling times of as many steps, with an end of each stage among them, in the place of the nearest time.

        Raises ValueError for fewer steps than stages.
        """
        inner = grid[1:-1].tolist()
        ends = [end for end in self.times if float(grid[-1]) < end < float(grid[0])]
        if len(inner) < len(ends):
            raise ValueError(
                f"{len(grid) - 1} steps were asked for, and a model of {len(self.models)} stages needs a step in each: "
                f"take at least {len(ends) + 1}"
            )
        for end in ends:
            inner.remove(min(inner, key=lambda t: abs(t - end)))
        return torch.cat([grid[:1], grid.new_tensor(sorted(inner + ends, reverse=True)), grid[-1:]])

    def check_grid(self, grid: Tensor) -> None:
        """Raises ValueError for falling times with a step over the end of a stage."""
        for t, s in pairwise(grid.tolist()):
            level = self.stage(t)
            if level and s < self.times[level - 1] - _ROUNDING:
                raise ValueError(
                    f"a step from t = {t:.3g} to {s:.3g} was asked for. Its model knows nothing of the details that "
                    f"begin at {self.times[level - 1]:.3g}: give the times grid=model.fitted(grid), or none to `sample`"
                )

    def forward(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Posterior:
        level = self.stage(t)
        if not level:
            return self.models[0](xt, t, cond)
        side = 2**level
        if isinstance(cond, Cond) and cond.image is not None:
            cond = replace(cond, image=avg_pool2d(cond.image, side))
        posterior = self.models[level](avg_pool2d(xt, side), t, cond)
        mean = self.mean
        if mean is None:
            return mapped(posterior, lambda x0: _enlarged(x0, side))
        details = mean - _enlarged(avg_pool2d(mean, side), side)
        return mapped(posterior, lambda x0: _enlarged(x0, side) + details.to(x0))


def _enlarged(x: Tensor, side: int) -> Tensor:
    """Each pixel side x side times."""
    return x.repeat_interleave(side, -1).repeat_interleave(side, -2)
