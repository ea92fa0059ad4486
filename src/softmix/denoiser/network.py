"""A network with its parameterisation and its posterior head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..cond import UNCONDITIONED, Cond, CondError, CondSpec, as_cond
from ..net import NetSpec, SideInputs, TwoStreamsSpec, channels_of
from ..net.base import places
from ..posterior import Posterior
from ..process import Framed, Gaussian, Interpolant, Masked, Process, Shifted, TwoClocks
from ..shape import column
from .parameterise import OUTPUTS, SHIFTED_OUTPUTS, Output, affine, affine_with_shift

if TYPE_CHECKING:
    from .head import HeadSpec


@dataclass(frozen=True)
class Jump:
    """The step that a denoiser of two times is asked for.

    process : in the frame.
    y : the state in the frame, [B, ...].
    u : the shift, of the rank of y.
    t, to : the times, [B]; `to` is None for a limit of short steps.
    """

    process: Gaussian
    y: Tensor
    u: Tensor
    t: Tensor
    to: Tensor | None


@dataclass(frozen=True)
class Inputs:
    """The inputs of a head: the scaled state, the side inputs of the blocks, and the way back to x0.

    x : the input of the net, [B, C, ...], or with the channels at `axis`.
    side : noise level and condition, from `Net.side`.
    xt : the state of the affine table, of the shape of x.
    a, b : x0 = a x_t + b F.
    target : logsnr of the second time of a flow map, [B].
    axis : the axis of the channels.
    step : for a head of two times and a shifted process.
    """

    x: Tensor
    side: SideInputs
    xt: Tensor
    a: Tensor
    b: Tensor
    target: Tensor
    axis: int = 1
    step: Jump | None = None

    def x0(self, output: Tensor) -> Tensor:
        """x0 = a x_t + b F.

        output : F [B, ...], or [m B, ...] with the batch repeated draw by draw.
        """
        batch = len(self.xt)
        output = output.to(self.xt.dtype).reshape(-1, batch, *output.shape[1:])
        return (column(self.a, self.xt) * self.xt + column(self.b, self.xt) * output).flatten(0, 1)

    def split(self, sizes: Sequence[int]) -> tuple[Inputs, ...]:
        """The inputs of consecutive groups of items, of these sizes."""
        names = ("x", "xt", "a", "b", "target")
        columns = (getattr(self, name).split(list(sizes)) for name in names)
        parts = zip(self.side.split(sizes), *columns, strict=True)
        return tuple(replace(self, side=side, **dict(zip(names, part, strict=True))) for side, *part in parts)


def require_tokens(process: Process, net: object, head: object) -> None:
    """Raises ValueError for a process of tokens with a net or a head for numbers, and for the reverse.

    A net or head for tokens has the class attribute `tokens`. A process of tokens has the number of its `symbols`.
    """
    of_tokens = {type(part).__name__: bool(getattr(part, "tokens", False)) for part in (net, head)}
    if isinstance(process, Masked) and not all(of_tokens.values()):
        others = " and ".join(name for name, yes in of_tokens.items() if not yes)
        raise ValueError(f"Masked is for tokens, and {others} for numbers: take a TokenSpec and a CategoricalHead")
    if not hasattr(process, "symbols") and any(of_tokens.values()):
        own = " and ".join(name for name, yes in of_tokens.items() if yes)
        raise ValueError(f"{own} is for tokens, and {type(process).__name__} adds noise to numbers: take Masked")


class Network(nn.Module):
    """posterior = head(net(c_in x_t, logsnr, cond)), with x0 = a x_t + b F from the affine table.

    Parameters
    ----------
    process : the process of x_t. For `Masked`, which must have its number of symbols, items are tokens (L,), and
        `output` and `data_sd` are not used. For a process with a frame that keeps x0 (a shift) the net receives the
        state in the frame. For another basis it receives x itself, scaled by frequency, and `output` must be "x0". For
        a process with parameters (`ShiftDDPM`) they become parameters of this module, and the net receives x_t without
        condition. For an `Interpolant` it does so too, and `output` is any but "eps".
    net : the specification of the net.
    head : the kind of posterior: a point, a normal, a mixture, or a soft mixture.
    shape : of one item: (C, H, W), (D,), (L,) for tokens, or (L, D) for a sequence, which may then have any length.
    cond : the conditions of the network. The `cond` of a call is a `Cond` with any of these parts, or labels [B].
    output : the parameterisation, a row of `softmix.denoiser.parameterise`.
    data_sd : the standard deviation of x0. The input is scaled by c_in = 1 / sqrt(alpha^2 data_sd^2 + sigma^2).

    Raises ValueError for items that the net cannot take, and CondError, a ValueError, for conditions.
    """

    def __init__(
        self,
        process: Gaussian | Framed | Interpolant | Masked,
        net: NetSpec,
        head: HeadSpec,
        shape: tuple[int, ...],
        cond: CondSpec = UNCONDITIONED,
        output: Output = "v",
        data_sd: float = 1.0,
    ):
        super().__init__()
        require_tokens(process, net, head)
        if isinstance(process, Framed) and not process.keeps_x0 and output != "x0":
            raise ValueError(
                f"{type(process).__name__} moves x0 into another frame. The table of outputs holds in the frame, and "
                f'the net receives x itself, so that output {output!r} is undefined; take output="x0"'
            )
        if output in SHIFTED_OUTPUTS and (not isinstance(process, Shifted) or getattr(process, "blind", False)):
            raise ValueError(
                f"the output {output!r} is a function of the other item of a pair, and {type(process).__name__} has "
                f"none: take RDDM or Resfusion, or an output of {', '.join(OUTPUTS)}"
            )
        if output == "eps" and isinstance(process, Interpolant):
            raise ValueError(
                'the output "eps" was asked for, and at t = 1 nothing of x0 is left in an Interpolant, so that x0 does '
                f"not follow from it: take one of {', '.join(name for name in OUTPUTS if name != 'eps')}"
            )
        self.shape, self.cond = tuple(shape), cond
        bound = getattr(process, "bound", None)
        self.process = process if bound is None else bound(self.shape, cond)
        module = getattr(self.process, "module", None)
        if isinstance(module, nn.Module):
            # its parameters are trained with those of the net
            self.shift = module
        self.output, self.data_sd = output, data_sd
        channels, self._channels_at = channels_of(net, self.shape)
        if isinstance(process, Masked):
            # a token of K symbols takes the place of K channels
            channels = process.mask
        if isinstance(net, TwoStreamsSpec) and head.channels(channels) != channels * head.channels(1):
            raise ValueError(
                f"{head} has numbers for the whole item, which are of no stream: take PointHead, SoftHead or "
                'NormalHead("element")'
            )
        seen = UNCONDITIONED if self._blind else cond
        self.net = net.build(channels, head.channels(channels), seen)
        without = [part for part in seen.parts if part not in self.net.parts]
        if without:
            raise CondError(f"{type(net).__name__} takes {', '.join(self.net.parts)}, and was asked for with {cond}")
        self.head = head.build(self.net, net, self.shape)

    @property
    def classes(self) -> int:
        """The number of classes of the first label, 0 without labels."""
        return self.cond.classes

    @property
    def two_times(self) -> bool:
        """Whether this is a flow map: its output depends on the end of the step."""
        return bool(getattr(self.head, "two_times", False))

    @property
    def stride(self) -> int:
        """The sides of other items that suit the model are multiples of it; 0 if all items have the size of `shape`."""
        # a basis has a size, and so has a latent with numbers for each place
        fixed = self._fixed_size or not getattr(self.process, "keeps_x0", True)
        return 0 if fixed else self.net.stride

    def forward(
        self,
        xt: Tensor,
        t: Tensor | float,
        cond: Cond | Tensor | None = None,
        to: Tensor | float | None = None,
    ) -> Posterior:
        return self.with_side(xt, t, cond, to)[0]

    def with_side(
        self,
        xt: Tensor,
        t: Tensor | float,
        cond: Cond | Tensor | None = None,
        to: Tensor | float | None = None,
        hidden: Sequence[int | str] = (),
    ) -> tuple[Posterior, SideInputs]:
        """The posterior, and the side inputs and outputs of the net.

        hidden : blocks by number or name. Their states are in `.hidden` of the second result, by number.

        `.extra` of the second result holds outputs that blocks put there for a loss. An implicit posterior runs some
        blocks when draws or the mean are computed; their entries appear then.
        """
        self._check_shape(xt)
        t, state = self._times(t, xt), xt
        logsnr = self._clock(t, xt)
        target = logsnr if to is None else self._clock(torch.as_tensor(to), xt).expand(len(xt))
        if isinstance(self._base, Gaussian | Interpolant):
            alpha, sigma = self._base.levels(t)
            scaled, xt = self._net_input(xt, t, self._unit(alpha, sigma), cond)
            if isinstance(self.process, Shifted) and self.output in SHIFTED_OUTPUTS:
                a, b, c = affine_with_shift(self.output, alpha, sigma)
                u = self.process.u(cond).to(xt)
                # a x_t + c u takes the place of a x_t
                a, xt = torch.ones_like(a), column(a, xt) * xt + column(c, xt) * u
            else:
                a, b = affine(self.output, alpha, sigma, self.data_sd)
        else:
            # tokens are not scaled, and have no table of outputs: their head returns x0 itself
            scaled, a, b = xt, torch.zeros_like(logsnr), torch.ones_like(logsnr)
        step = None
        if self.two_times and isinstance(self.process, Shifted):
            end = None if to is None else self._times(to, xt)
            step = Jump(self.process.base, self.process.enter(state, t, cond), self.process.u(cond).to(xt), t, end)
        if self._blind:
            # the net has no condition to check
            axis = self._channels_at + 1
            size = tuple(length for place, length in enumerate(xt.shape) if place not in (0, axis))
            self.cond.check(as_cond(cond), size, axis)
        side = self.net.side(scaled, logsnr, None if self._blind else cond, hidden)
        posterior: Posterior = self.head(self.net, Inputs(scaled, side, xt, a, b, target, self._channels_at + 1, step))
        return posterior, side

    def features(self, x: Tensor, t: Tensor | float) -> list[Tensor]:
        """The hidden states of the first half of the net, a [B, C, places] for each block.

        x : the input, taken as an x_t at time t.
        """
        base = self._base
        if isinstance(base, Masked):
            raise ValueError("features are of a model of numbers, and this is a model of tokens")
        # a number becomes a tensor on the device of x by a kernel, without a copy from the host
        real = torch.float32 if x.device.type == "mps" else torch.float64
        t = self._times(t if isinstance(t, Tensor) else torch.full((), t, dtype=real, device=x.device), x)
        half = self.net.splits["decoder"]
        scaled = x * column(self._unit(*base.levels(t)), x)
        side = self.net.side(scaled, self._clock(t, x), hidden=range(half))
        self.net.run(self.net.start(scaled, side), side, 0, half)
        return [places(side.hidden[number]) for number in range(half)]

    @property
    def _fixed_size(self) -> bool:
        return bool(getattr(self.head, "fixed_size", hasattr(self.head, "latent_shape")))

    @property
    def _blind(self) -> bool:
        """Whether the process alone receives the condition, and the net x_t itself."""
        return bool(getattr(self.process, "blind", False))

    @property
    def _base(self) -> Gaussian | Interpolant | Masked:
        return self.process.base if isinstance(self.process, Framed) else self.process

    def _unit(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """c_in, which gives c_in x_t a standard deviation of 1."""
        return (alpha**2 * self.data_sd**2 + sigma**2).rsqrt()

    def _net_input(self, xt: Tensor, t: Tensor, unit: Tensor, cond: Cond | Tensor | None) -> tuple[Tensor, Tensor]:
        """The input of the net, of unit size, and the state of the affine table."""
        if not isinstance(self.process, Framed) or self._blind:
            return xt * column(unit, xt), xt
        y = self.process.enter(xt, t, cond)
        scaled = y * column(unit, y)
        return (scaled, y) if self.process.keeps_x0 else (self.process.leave(scaled, t, cond), xt)

    def _clock(self, t: Tensor, x: Tensor) -> Tensor:
        """logsnr on the device and in the dtype of x; float32 if x holds tokens."""
        return self.process.logsnr(t).to(x.device, x.dtype if x.is_floating_point() else torch.float32)

    def _times(self, t: Tensor | float, xt: Tensor) -> Tensor:
        """One time per item, or a pair for a process of two clocks. Raises ValueError for another number of times."""
        if isinstance(self.process, TwoClocks):
            return self.process.pairs(t, len(xt))
        t = torch.as_tensor(t, dtype=torch.float64 if not isinstance(t, Tensor) else None)
        if t.ndim > 1 or t.numel() not in (1, len(xt)):
            raise ValueError(
                f"one time, or one for each of {len(xt)} items, was expected; found the shape {list(t.shape)}"
            )
        return t.expand(len(xt))

    def _check_shape(self, xt: Tensor) -> None:
        """Raises ValueError for items of a shape that this model cannot take. Many nets take items of any size."""
        at, shape = self._channels_at, tuple(xt.shape[1:])
        other = len(shape) != len(self.shape) or shape[at] != self.shape[at] or 0 in shape
        # a latent with numbers for each place has a fixed size
        if shape != self.shape and (other or self._fixed_size):
            raise ValueError(f"this model was made for items of shape {self.shape}, but x_t has shape {shape}")
