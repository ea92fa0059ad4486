"""The two heads of RDDM: the residual and the noise, which may disagree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ..net import Net, NetSpec
from ..posterior import Point, Posterior
from ..shape import column
from .contract import Suits
from .network import Inputs, Jump


@dataclass(frozen=True)
class ResidualHead:
    """R = u - x0 and the noise z, each an output of the net, for a process shifted by u.

    A step of the published sampler removes a part of each: x_s = x_t - (k_t - k_s) R - (sigma_t - sigma_s) z. It is
    DDIM's step with

        x0 = w (u - R) + (1 - w) (y - sigma_t z) / alpha_t
        w  = (alpha_s - alpha_t) / (alpha_s - alpha_t sigma_s / sigma_t)

    so that x0 depends on the end s of the step: a denoiser of two times. Without an end it is the limit of short steps.
    (For Resfusion, where alpha + k is not 1, it is this step in the frame.) Train it by `ResidualAndNoise`, with the
    output "residual": the table of outputs has no other row for it.

    When to choose: for RDDM as published with both predictions. The output "residual" with a `PointHead` is its variant
    with one, and fits every loss and sampler.
    Source: Liu et al., "Residual denoising diffusion models", CVPR 2024, section 3.
    """

    suits: ClassVar[Suits] = ("ddim", {})
    cites: ClassVar[tuple[str, ...]] = ("rddm",)

    def channels(self, channels: int) -> int:
        return 2 * channels

    def fits(self, loss: object, process: object) -> None:
        """Raises ValueError for a loss that does not train both heads."""
        if not getattr(loss, "trains_two_heads", False):
            raise ValueError(
                f"a ResidualHead has two outputs, and {type(loss).__name__} trains one mixture of them: take the loss "
                "ResidualAndNoise"
            )

    def build(self, net: Net, spec: NetSpec, shape: tuple[int, ...]) -> nn.Module:
        return _Residual()


class _Residual(nn.Module):
    two_times = True

    def forward(self, net: Net, given: Inputs) -> Posterior:
        if given.step is None:
            raise ValueError("a ResidualHead needs a process with a shift by the other item of a pair: take RDDM")
        output = net.through(given.x, given.side).to(given.xt.dtype)
        residual, noise = output.chunk(2, dim=given.axis)
        return ResidualAndNoisePoint(residual, noise, given.step)


class ResidualAndNoisePoint(Point):
    """The x0 of a `ResidualHead`, with its two parts.

    residual, noise : R and z, [B, ...].

    The mean is for times t above 0 and an end below t.
    """

    def __init__(self, residual: Tensor, noise: Tensor, step: Jump):
        self.residual, self.noise, self._step = residual, noise, step

    @property
    def mean(self) -> Tensor:
        step, y = self._step, self._step.y
        alpha, sigma = step.process.levels(step.t)
        if step.to is None:
            falls, rises = step.process.rates(step.t)
            falls, rises = -falls, rises / sigma
        else:
            end, less = step.process.levels(step.to)
            falls, rises = end - alpha, 1 - less / sigma
        # 1 - w over alpha_t: finite where alpha_t is 0, and 0 where alpha falls at once
        of_noise = rises / (falls + alpha * rises)
        of_residual, of_noise = (column(part, y) for part in (1 - alpha * of_noise, of_noise))
        return of_residual * (step.u - self.residual) + of_noise * (y - column(sigma, y) * self.noise)

    def sample(self, rng: object) -> Tensor:
        return self.mean

    def draws(self, m: int, rng: object) -> Tensor:
        return self.mean.expand(m, *self.mean.shape)
