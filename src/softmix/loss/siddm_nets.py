"""The networks beside the denoiser in `SIDDM`: a discriminator that also denoises, and a regressor of the noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..cond import Cond
from ..denoiser import Network, Output, PointHead
from ..net import MLPSpec, NetSpec, SequenceSpec, UNetSpec
from ..net.base import places
from ..posterior import HasMean, need


def small_net(shape: tuple[int, ...]) -> NetSpec:
    """A net for a discriminator of items of this shape: [D], [L, D] or [C, H, W]."""
    if len(shape) == 1:
        return MLPSpec(width=96, depth=2)
    if len(shape) == 2:
        return SequenceSpec()
    return UNetSpec(width=32, depth=1, patch=1 if max(shape[1:]) <= 16 else 2)


def beside(generator: Network, net: NetSpec, output: Output) -> Network:
    """A network of one point for the states, times and conditions of another network."""
    return Network(
        *(generator.process, net, PointHead(), generator.shape, generator.cond),  # type: ignore[arg-type]
        output=output,
        data_sd=generator.data_sd,
    )


class DenoisingDiscriminator(nn.Module):
    """D(x_s, s): a logit for each item, and x0.

        h     = state after the middle block of net(x_s, s), at each place
        logit = w . mean over places of silu(W h + b) + c
        x0    = output of the whole net

    The blocks after the middle one have no part in the logit. They denoise, so that the blocks before it learn features
    of the data.

    generator : the network that learns against it. Process, shape, conditions, output and scale are those of it.
    net : the specification of the net.
    """

    def __init__(self, generator: Network, net: NetSpec):
        super().__init__()
        self.network = beside(generator, net, generator.output)
        self.middle = max(self.network.net.splits["decoder"] - 1, 0)
        width = self._width(generator.shape)
        self.mix, self.logit = nn.Linear(width, width), nn.Linear(width, 1)

    def forward(self, xs: Tensor, s: Tensor, cond: Cond | Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits [B], and x0 [B, ...].

        xs : states [B, ...].
        s : their times [B].
        """
        posterior, side = self.network.with_side(xs, s, cond, hidden=(self.middle,))
        h = places(side.hidden[self.middle]).transpose(1, 2)
        logit: Tensor = self.logit(nn.functional.silu(self.mix(h)).mean(1))
        return logit[:, 0].to(xs.dtype), need(posterior, HasMean, "SIDDM").mean

    def _width(self, shape: tuple[int, ...]) -> int:
        """The channels of the state after the middle block."""
        with torch.no_grad():
            _, side = self.network.with_side(torch.zeros(1, *shape), 0.5, hidden=(self.middle,))
        return places(side.hidden[self.middle]).shape[1]


class NoiseRegressor(nn.Module):
    """F(x_s, s), of the shape of x_s: the mean of the forward noise (x_t - a x_s) / sqrt(b), given x_s.

    generator, net : as for the discriminator.
    """

    def __init__(self, generator: Network, net: NetSpec):
        super().__init__()
        # the row "x0" of the table gives the output of the net itself
        self.network = beside(generator, net, "x0")

    def forward(self, xs: Tensor, s: Tensor, cond: Cond | Tensor | None = None) -> Tensor:
        """F at states xs [B, ...] and their times s [B]."""
        return need(self.network(xs, s, cond), HasMean, "SIDDM").mean
