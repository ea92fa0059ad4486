"""ShiftDDPMs: a shift by a learned function of the condition is the only way by which a network knows the condition.

    x_t = alpha(t) x_0 + k(t) E(c) + sigma(t) z

Each condition has a path of its own. The network receives x_t and t, and not c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from ..cond import Cond, CondError, CondSpec, as_cond
from .frame import Shifted
from .gaussian import VP, Gaussian
from .numbers import as_float64

ShiftPath = Literal["prior", "data", "quadratic", "early"]


class ShiftSpec(Protocol):
    """The specification of E: it builds a module from a condition to u [B, ...]."""

    def build(self, shape: tuple[int, ...], cond: CondSpec) -> nn.Module: ...


@dataclass(frozen=True)
class LabelShift:
    """E(c) is an image for each class, learned from 0. A label that is not given has E = 0.

    learned : if False, class number c of n is the constant image 2 c / (n - 1) - 1.

    When to choose: for classes.
    """

    learned: bool = True

    def build(self, shape: tuple[int, ...], cond: CondSpec) -> nn.Module:
        if cond.parts != ("label",) or len(cond.labels) != 1:
            raise CondError(
                f"a LabelShift is a shift by one label, which alone the model knows, and the condition is {cond}: "
                "train with classes and without other conditions"
            )
        return _LabelShift(cond.classes, shape, self.learned)


class _LabelShift(nn.Module):
    def __init__(self, classes: int, shape: tuple[int, ...], learned: bool):
        super().__init__()
        levels = torch.linspace(-1, 1, classes).reshape(-1, *(1,) * len(shape)).expand(-1, *shape).contiguous()
        self.table = nn.Parameter(torch.zeros(classes, *shape) if learned else levels, requires_grad=learned)

    def forward(self, cond: Cond | Tensor | None) -> Tensor:
        given = as_cond(cond)
        if given is None or given.label is None:
            return torch.zeros_like(self.table[:1])
        label = given.label.to(self.table.device)
        # -1 : not given
        known = (label >= 0).reshape(-1, *(1,) * (self.table.ndim - 1))
        return torch.where(known, self.table[label.clamp(min=0)], torch.zeros_like(self.table[:1]))


@dataclass(frozen=True)
class ImageShift:
    """E(c) is a small convolutional network of the condition's image, or the image itself if `width` is 0.

    An image that is not given has E = 0.

    When to choose: for pairs of images.
    """

    width: int = 32

    def build(self, shape: tuple[int, ...], cond: CondSpec) -> nn.Module:
        if cond.parts != ("image",) or len(shape) != 3:
            raise CondError(
                f"an ImageShift is a shift of images by an image, which alone the model knows, and the condition is "
                f"{cond}: give pairs, without classes"
            )
        if self.width == 0 and cond.image != shape[0]:
            raise CondError(f"the condition has {cond.image} channels, and x0 has {shape[0]}: take a width above 0")
        return _ImageShift(cond.image, shape[0], self.width)


class _ImageShift(nn.Module):
    def __init__(self, channels: int, out: int, width: int):
        super().__init__()
        self.body = nn.Sequential()
        if width:
            sizes = ((channels, width), (width, width), (width, out))
            each = [part for a, b in sizes for part in (nn.Conv2d(a, b, 3, padding=1), nn.SiLU())]
            self.body.extend(each[:-1])

    def forward(self, cond: Cond | Tensor | None) -> Tensor:
        image = cond.image if isinstance(cond, Cond) else None
        if image is None:
            return torch.zeros(1, 1, 1, 1, device=None if cond is None else cond.device)
        # an image that is not given is nan, and has no shift
        given = image.isfinite().all(dim=(1, 2, 3), keepdim=True)
        return torch.where(given, self.body(image.nan_to_num(0.0)), 0.0)


@dataclass(frozen=True)
class ShiftDDPM(Shifted):
    """x_t = alpha(t) x_0 + k(t) E(c) + sigma(t) z with a network that does not receive c.

    path : k(t), with a = alpha(t):
        prior      1 - a: ends at N(E, I)
        data       -a for t > 0, 0 at t = 0: x_0 - E is diffused
        quadratic  a (1 - a): 0 at both ends, the default of the code
        early      max(0, (t - 0.4) / 0.6)
    shift : E. It is trained with the network.
    base : the process in the frame.

    The table of outputs holds for x_t itself: with "eps" the network learns z + k E / sigma, as in the code, and E does
    not enter x0 = (x_t - sigma F) / alpha. Train with "eps", or for `data` with "v": there k / sigma is infinite at 0.

    When to choose: to give a condition by the path alone, as in the paper. A network that receives the condition
    usually knows it better.
    Source: Zhang et al., "ShiftDDPMs: exploring conditional diffusion models by shifting diffusion trajectories", AAAI
    2023, section 3 and table 1.
    """

    path: ShiftPath = "quadratic"
    shift: LabelShift | ImageShift = LabelShift()
    base: VP = VP("linear")  # noqa: RUF009
    # the network receives x_t, and no condition
    blind: ClassVar[bool] = True
    cites: ClassVar[tuple[str, ...]] = ("shift_ddpms",)

    def __post_init__(self) -> None:
        if self.path not in get_args(ShiftPath):
            raise ValueError(f"the path {self.path!r} was asked for; there are {', '.join(get_args(ShiftPath))}")

    def k(self, t: Tensor | float) -> Tensor:
        t = as_float64(t)
        alpha = self.base.alpha(t)
        if self.path == "prior":
            return 1 - alpha
        if self.path == "data":
            return torch.where(t > 0, -alpha, torch.zeros_like(alpha))
        return alpha * (1 - alpha) if self.path == "quadratic" else ((t - 0.4) / 0.6).clamp(min=0)

    def u(self, cond: Any) -> Tensor:
        raise ValueError(
            "the shift of ShiftDDPM is a part of a network: take the process of the network, `network.process`, or "
            "`process.with_shift(module)`"
        )

    def bound(self, shape: tuple[int, ...], cond: CondSpec) -> WithShift:
        """The process with a new E for items of a shape."""
        return self.with_shift(self.shift.build(shape, cond))

    def with_shift(self, module: nn.Module) -> WithShift:
        """The process with E: a module from a condition to u [B, ...]."""
        return WithShift(self, module)


@dataclass(frozen=True, eq=False)
class WithShift(Shifted):
    """A `ShiftDDPM` with its E. The module belongs to a network."""

    process: ShiftDDPM
    module: nn.Module
    blind: ClassVar[bool] = True

    @property
    def base(self) -> Gaussian:  # type: ignore[override]
        return self.process.base

    def k(self, t: Tensor | float) -> Tensor:
        return self.process.k(t)

    def u(self, cond: Any) -> Tensor:
        return self.module(cond)  # type: ignore[no-any-return]
