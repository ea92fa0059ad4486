"""The head of stochastic interpolants: x0 and the latent noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..net import Net, NetSpec
from ..posterior import PointAndNoise, Posterior
from ..process import Interpolant
from .contract import Suits
from .network import Inputs


@dataclass(frozen=True)
class NoiseHead:
    """E[x0 | x_t], by the table of outputs, and E[z | x_t], each an output of the net, for an `Interpolant`.

    Both are finite at all times, and no step divides by gamma. The paper's velocity b and score follow from them
    (`sampler.velocity`). Its denoiser eta is E[z | x_t]. In the place of its v = a' E[x0] + b' E[x1] this head has
    E[x0 | x_t], which fits the posteriors of softmix and every path. Train it by `MeanAndNoise`.

    When to choose: for `epsilon` and `interpolant_heun`, the ODE and the SDE of the paper. For one to four evaluations
    take a soft mixture and `ancestral`.
    Source: Albergo, Boffi & Vanden-Eijnden, "Stochastic interpolants", 2023, section 2.
    """

    suits: ClassVar[Suits] = ("epsilon", {})
    cites: ClassVar[tuple[str, ...]] = ("stochastic_interpolants",)

    def channels(self, channels: int) -> int:
        return 2 * channels

    def fits(self, loss: object, process: object) -> None:
        """Raises ValueError for a loss that does not train both outputs, and for a process without latent noise."""
        if not (isinstance(process, Interpolant) and process.c > 0):
            raise ValueError(
                f"a NoiseHead has an output for latent noise, and {process} has none: take an Interpolant with c above "
                "0, or a PointHead"
            )
        if not getattr(loss, "trains_noise", False):
            raise ValueError(f"{type(loss).__name__} trains one output of a NoiseHead: take the loss MeanAndNoise")

    def build(self, net: Net, spec: NetSpec, shape: tuple[int, ...]) -> nn.Module:
        return _WithNoise()


class _WithNoise(nn.Module):
    def forward(self, net: Net, given: Inputs) -> Posterior:
        output = net.through(given.x, given.side).to(given.xt.dtype)
        f, noise = output.chunk(2, dim=given.axis)
        return PointAndNoise(given.x0(f), noise)
