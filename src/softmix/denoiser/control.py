"""The control of a denoising diffusion sampler, and the same as a denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..cond import UNCONDITIONED, Cond, CondError, CondSpec, as_cond
from ..net import MLPSpec, SideInputs
from ..posterior import Point
from ..process import StationaryOU
from ..process.numbers import as_float64, is_number
from ..shape import column
from .contract import Suits

LogDensity = Callable[[Tensor], Tensor]


def density_slope(log_density: LogDensity, x: Tensor) -> Tensor:
    """grad log gamma(x) of each item, [B, ...], without a graph of its own.

    log_density : [B, ...] -> [B].
    """
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        return torch.autograd.grad(log_density(at).sum(), at)[0]


class Control(nn.Module):
    """The control u(y, t) of a chain from noise to a target with density gamma / Z.

        u(y, t) = alpha_t f(y, t),   f = scale (NN1(y / scale, t) + NN2(t) * scale grad log gamma(y))

    The last layers of NN1 and NN2 begin at 0, so that u = 0. NN2 gives a number for each element of y.

    process : the reference chain; its `scale` is the unit of y.
    spec : of NN1, an MLP over the elements of y. NN2 is one layer on top of its embedding of the log-SNR.
    shape : of one item.
    clip : the gradient of each element is cut to [-clip, clip], as in the authors' code.

    The best control is u = scale^2 grad log p_t + y, for the density p_t of the noised target. It equals
    alpha_t (m_t - alpha_t y) / (1 - alpha_t^2), with m_t = E[x_0 | x_t = y], so that f stays bounded at pure noise.

    Source: Vargas, Grathwohl & Doucet, "Denoising diffusion samplers", ICLR 2023, section 4 and the authors' code.
    Their net has no factor alpha_t and no unit, and an NN2 of its own.
    """

    def __init__(self, process: StationaryOU, spec: MLPSpec, shape: tuple[int, ...], clip: float = 100.0):
        super().__init__()
        self.process, self.shape, self.clip = process, tuple(shape), clip
        size = math.prod(shape)
        self.net = spec.build(size, size)
        self.gain = nn.Linear(spec.width, size)
        for layer in (self.net.leave, self.gain):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, y: Tensor, t: Tensor | float, slope: Tensor) -> Tensor:
        """u(y, t), [B, *shape].

        t : one time for all, or one for each, [B].
        slope : grad log gamma(y).
        """
        alpha = self.process.alpha(t)
        # a number of the host: a copy to a card could not be recorded
        return (column(alpha, y) if alpha.ndim else float(alpha)) * self.drift(y, t, slope)

    def drift(self, y: Tensor, t: Tensor | float, slope: Tensor) -> Tensor:
        """f(y, t) = u(y, t) / alpha_t, [B, *shape]."""
        scale, level = self.process.scale, self._level(t, y)
        # one row for all items if the time is one
        emb = self.net.time(level)
        free = self.net.through(y.flatten(1) / scale, SideInputs(emb, level))
        steep = scale * slope.flatten(1).clamp(-self.clip, self.clip)
        found: Tensor = scale * (free + self.gain(nn.functional.silu(emb)) * steep)
        return found.reshape(y.shape)

    def _level(self, t: Tensor | float, y: Tensor) -> Tensor:
        """The log-SNR of y / scale, [1] for one time."""
        if is_number(t):
            return y.new_full((1,), float(self.process.unit.logsnr(float(t))))
        return self.process.unit.logsnr(t).to(y)


class ControlledDenoiser:
    """A control and a density as a denoiser: E[x_0 | x_t] = alpha_t x_t + (1 - alpha_t^2) f(x_t, t).

    It is exact for the best control. f is `Control.drift`.

    control : the control.
    log_density : [B, *shape] -> [B], log gamma.

    Raises CondError for a condition.
    When to choose: for the samplers of softmix. They give no weights; `TargetSampler.sample` does.
    """

    suits: ClassVar[Suits] = ("ancestral", {})
    classes = 0
    stride = 1

    def __init__(self, control: Control, log_density: LogDensity):
        self.control, self.log_density = control, log_density

    @property
    def process(self) -> StationaryOU:
        return self.control.process

    @property
    def shape(self) -> tuple[int, ...]:
        return self.control.shape

    @property
    def cond(self) -> CondSpec:
        """None."""
        return UNCONDITIONED

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those of the control."""
        return self.control.parameters()

    def to(self, *where: Any) -> ControlledDenoiser:
        """Move the control."""
        self.control.to(*where)
        return self

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Point:
        given = as_cond(cond)
        if given is not None and given.parts:
            raise CondError("a sampler of a density was given a condition, and has none: leave it out")
        f = self.control.drift(xt, t, density_slope(self.log_density, xt))
        alpha, noise = (column(part(as_float64(t)), xt) for part in (self.process.unit.alpha, self.process.unit.sigma))
        return Point(alpha * xt + noise.square() * f)
