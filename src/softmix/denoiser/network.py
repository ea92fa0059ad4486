"""The room of denoisers: a network with its parameterisation and its posterior head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..cond import NONE, Cond, CondSpec, as_cond
from ..net import DiTSpec, MLPSpec, NetSpec, UNetSpec
from ..net.base import places
from ..posterior import Posterior
from ..process import Framed, Gaussian
from ..shape import column
from .parameterise import Output, affine

if TYPE_CHECKING:
    from .head import HeadSpec


@dataclass(frozen=True)
class Inputs:
    """What a head is given: the scaled input, the noise level, the class, and the way back to x0.

    x [B, C, ...]; logsnr [B]; label [B] or None; a, b : x0 = a x_t + b F; xt [B, C, ...]; target [B] : logsnr
    of the second time, for a flow map.
    """

    x: Tensor
    logsnr: Tensor
    label: Tensor | None
    xt: Tensor
    a: Tensor
    b: Tensor
    target: Tensor

    def x0(self, output: Tensor) -> Tensor:
        """x0 = a x_t + b F for F [B, ...], or [m B, ...] with the batch repeated draw by draw."""
        batch = len(self.xt)
        output = output.to(self.xt.dtype).reshape(-1, batch, *output.shape[1:])
        return (column(self.a, self.xt) * self.xt + column(self.b, self.xt) * output).flatten(0, 1)


class Network(nn.Module):
    """posterior = head(net(c_in x_t, logsnr, label)), with x0 = a x_t + b F from the affine table.

    Parameters
    ----------
    process : which x_t the network is trained on. Of a process with a frame that keeps x0, a shift, the net sees the
        state in the frame. In another basis it sees x itself, scaled by frequency, and `output` must be "x0".
    net : the body's specification.
    head : what is believed: a point, a normal, a mixture, or a soft mixture.
    shape : of one item, (C, H, W) or (D,).
    cond : the conditions that it is built for.
    output : what the network is taken to say, a row of `softmix.denoiser.parameterise`.
    data_sd : the standard deviation of x0. The input is scaled by 1 / sqrt(alpha^2 data_sd^2 + sigma^2).
    """

    def __init__(
        self,
        process: Gaussian | Framed,
        net: NetSpec,
        head: HeadSpec,
        shape: tuple[int, ...],
        cond: CondSpec = NONE,
        output: Output = "v",
        data_sd: float = 1.0,
    ):
        super().__init__()
        points = len(shape) == 1
        if isinstance(net, UNetSpec | DiTSpec if points else MLPSpec):
            use = "MLPSpec" if points else "UNetSpec or DiTSpec"
            raise ValueError(f"{type(net).__name__} does not take items of shape {tuple(shape)}: use {use}")
        if isinstance(process, Framed) and not process.keeps_x0 and output != "x0":
            raise ValueError(
                f"{type(process).__name__} moves x0 into another frame, where the table of outputs holds, and the net "
                f'sees x itself: output {output!r} is not known there; take output="x0"'
            )
        self.process, self.shape, self.cond, self.output, self.data_sd = (
            process,
            tuple(shape),
            cond,
            output,
            data_sd,
        )
        self.net = net.build(shape[0], head.channels(shape[0]), cond.classes)
        self.head = head.build(self.net, net, self.shape)

    @property
    def classes(self) -> int:
        """The number of classes of its first label, 0 without labels."""
        return self.cond.classes

    @property
    def two_times(self) -> bool:
        """Whether this is a flow map, whose answer depends on where the step goes."""
        return bool(getattr(self.head, "two_times", False))

    def forward(
        self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None, to: Tensor | float | None = None
    ) -> Posterior:
        other = xt.ndim != len(self.shape) + 1 or xt.shape[1] != self.shape[0]
        # a latent with a number for each place has the size of the images that it was made for
        if tuple(xt.shape[1:]) != self.shape and (other or hasattr(self.head, "latent_shape")):
            raise ValueError(f"this model was made for items of shape {self.shape}, but x_t has {tuple(xt.shape[1:])}")
        t = torch.as_tensor(t, dtype=torch.float64 if not isinstance(t, Tensor) else None).expand(len(xt))
        alpha, sigma = self._base.alpha(t), self._base.sigma(t)
        a, b = affine(self.output, alpha, sigma, self.data_sd)
        scaled, xt = self._seen(xt, t, (alpha**2 * self.data_sd**2 + sigma**2).rsqrt(), cond)
        logsnr = self.process.logsnr(t).to(device=xt.device, dtype=xt.dtype)
        target = logsnr if to is None else self.process.logsnr(to).to(logsnr).expand(len(xt))
        told = as_cond(cond)
        self.cond.check(told, tuple(xt.shape[2:]))
        label = None if told is None else told.label
        posterior: Posterior = self.head(self.net, Inputs(scaled, logsnr, label, xt, a, b, target))
        return posterior

    @property
    def _base(self) -> Gaussian:
        return self.process.base if isinstance(self.process, Framed) else self.process

    def _seen(self, xt: Tensor, t: Tensor, scale: Tensor, cond: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the net is given, of unit size, and the state that the table is about."""
        if not isinstance(self.process, Framed):
            return xt * column(scale, xt), xt
        y = self.process.enter(xt, t, cond)
        scaled = y * column(scale, y)
        return (scaled, y) if self.process.keeps_x0 else (self.process.leave(scaled, t, cond), xt)

    def features(self, x: Tensor, t: Tensor | float) -> list[Tensor]:
        """What the first half of the net makes of x, taken for an x_t at time t: a [B, C, places] for each block."""
        t = torch.as_tensor(t, dtype=torch.float64).expand(len(x))
        alpha, sigma = self._base.alpha(t), self._base.sigma(t)
        scaled = x * column((alpha**2 * self.data_sd**2 + sigma**2).rsqrt(), x)
        emb = self.net.time(self.process.logsnr(t).to(device=x.device, dtype=x.dtype))
        state, seen = self.net.stem(scaled), []
        for block in self.net.body[: self.net.splits["decoder"]]:
            state = block(state, emb)
            seen.append(places(state[0]))
        return seen
