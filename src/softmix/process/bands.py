"""Non-uniform diffusion: each Haar band of an image runs through one schedule at its own pace.

The bands of the fine details become noise first. From then on a model needs only the coarse image, which is smaller
(`softmix.denoiser.MultiScale`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from ..cond import Cond
from .element import EarlyNoise
from .frame import Framed
from .gaussian import VE, VP, Flow, Gaussian


def pyramid(x: Tensor, levels: int) -> Tensor:
    """The Haar transform of the last two axes, in the shape of x: the coarse band in the corner [0, 0], details around.

    For the pixels a, b (upper row) and c, d (lower row) of each square of 2 x 2:

        LL = (a + b + c + d) / 2,  LH = (a - b + c - d) / 2,  HL = (a + b - c - d) / 2,  HH = (a - b - c + d) / 2

    LL is transformed again at each further level. The transform is orthogonal: white noise stays white. After l levels
    LL is 2^l times the mean of 2^l x 2^l pixels.

    x : [..., H, W]; H and W are divisible by 2^levels.
    levels : the number of times that the image is halved.
    """
    y = x.clone()
    for level in range(levels):
        height, width = (size >> level for size in x.shape[-2:])
        y[..., :height, :width] = _halved(_halved(y[..., :height, :width], -1), -2) / 2
    return y


def from_pyramid(y: Tensor, levels: int) -> Tensor:
    """The inverse of `pyramid`."""
    x = y.clone()
    for level in reversed(range(levels)):
        height, width = (size >> level for size in y.shape[-2:])
        x[..., :height, :width] = _doubled(_doubled(x[..., :height, :width], -1), -2) / 2
    return x


def _halved(x: Tensor, axis: int) -> Tensor:
    """Sums of neighbours along an axis, then their differences."""
    first, second = x.unflatten(axis, (-1, 2)).unbind(axis)
    return torch.cat([first + second, first - second], axis)


def _doubled(y: Tensor, axis: int) -> Tensor:
    """Twice the neighbours that have these sums and differences."""
    total, off = y.chunk(2, axis)
    return torch.stack([total + off, total - off], axis).flatten(axis - 1, axis)


def band_of(size: tuple[int, int], levels: int) -> Tensor:
    """The band of each place of `pyramid`, [H, W]: 0 for the finest details, `levels` for the coarse band."""
    bands = torch.zeros(size, dtype=torch.long, device="cpu")
    for level in range(1, levels + 1):
        bands[: size[0] >> level, : size[1] >> level] = level
    return bands


@dataclass(frozen=True)
class NonUniform(Framed):
    """Each Haar band of an image runs through the schedule of `each`, and is noise from a time of its own on.

        y_l(t) = alpha_l(t) y_l(0) + sigma_l(t) z

    with alpha_l and sigma_l of `EarlyNoise`: at t = ends[l] the band l has logsnr = last.

    The bands y_l are those of `pyramid`: l = 0 for the finest details, l = levels for the coarse image, which has
    ends[levels] = 1 in the paper.

    size : H and W, divisible by 2^levels.
    levels : the number of detail bands. 0 leaves the image whole.
    ends : the end of each band, from the finest details to the coarse band, in (0, 1], the largest 1. By default in
        equal steps, 1 / (levels + 1), 2 / (levels + 1), ..., 1, as in the paper.
    last : the logsnr of a band at its end. Signal below it is neglected when the band is dropped: see `terminal_kl`.
    each : the schedule of one band. The paper's logsnr falls linearly to -10. That of VP("linear") is near to it. The
        others fall at once near -10, so that solvers need more steps over the end of a band.
    gain : the noise is divided by it. It is 2^l for the mean of 2^l x 2^l pixels (`coarse`).

    The clock is the share of the signal, averaged over the bands, as a logsnr. A network for this process has
    output "x0". The published loss weighs each band by its own schedule: `SquarePerElement`.

    Raises ValueError for sizes, ends or a `last` that do not fit.

    When to choose: with `MultiScale`, for smaller networks at high noise; by itself, to test the order of scales. For a
    region or a channel take `PerElement`.
    Source: Batzolis et al., "Non-uniform diffusion models", 2022; ends, `last` and loss as in their code.
    """

    size: tuple[int, int]
    levels: int = 1
    ends: tuple[float, ...] = ()
    last: float = -10.0
    each: VP | VE | Flow = VP("linear")  # noqa: RUF009
    gain: float = 1.0
    cites: ClassVar[tuple[str, ...]] = ("non_uniform",)

    def __post_init__(self) -> None:
        if self.levels < 0 or any(side < 1 or side % 2**self.levels for side in self.size):
            raise ValueError(
                f"{self.levels} Haar levels halve each side of an image {self.levels} times, and the size is "
                f"{' x '.join(map(str, self.size))}: take fewer levels, or sides that 2^levels divides"
            )
        count = self.levels + 1
        if self.ends and (len(self.ends) != count or max(self.ends) != 1):
            raise ValueError(
                f"{count} ends were expected, one for each band from the finest details to the coarse image, the "
                f"largest 1; found {self.ends}"
            )
        # two processes with the same ends are equal, given or by default
        object.__setattr__(self, "ends", self.ends or tuple((band + 1) / count for band in range(count)))
        self.base  # noqa: B018 (wrong numbers are refused here)

    @property
    def base(self) -> Gaussian:  # type: ignore[override]
        return _of_bands(self)

    def enter(self, x: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Tensor:
        return pyramid(self._checked(x), self.levels)

    def leave(self, y: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Tensor:
        return from_pyramid(self._checked(y), self.levels)

    def coarse(self, dropped: int) -> NonUniform:
        """The process of the mean of 2^dropped x 2^dropped pixels, which `dropped` detail bands less leave.

        If x_t is a state of this process, the means of its squares of pixels are a state of that one.

        Raises ValueError if these bands are not the first to become noise, one after another.
        """
        ends = self.ends
        if not 0 <= dropped <= self.levels or list(ends[: dropped + 1]) != sorted(set(ends[: dropped + 1])):
            raise ValueError(
                f"{dropped} bands were to be dropped, of {self.levels} detail bands with ends at {ends[:-1]}, and the "
                f"coarse one at {ends[-1]}: bands are dropped from the finest on, and their ends have to rise"
            )
        if dropped and min(ends[dropped:]) < ends[dropped]:
            raise ValueError(f"a band that stays ends before one that is dropped: {ends}. Give ends that rise")
        height, width = (side >> dropped for side in self.size)
        gain = self.gain * 2**dropped
        return NonUniform((height, width), self.levels - dropped, ends[dropped:], self.last, self.each, gain)

    def _checked(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or tuple(x.shape[-2:]) != tuple(self.size):
            raise ValueError(
                f"Haar bands of images of {' x '.join(map(str, self.size))} were asked for, and the items have the "
                f"shape {list(x.shape[1:])}"
            )
        return x


@lru_cache(maxsize=64)
def _of_bands(process: NonUniform) -> EarlyNoise:
    ends = torch.tensor(process.ends, dtype=torch.float64, device="cpu")[band_of(process.size, process.levels)]
    return EarlyNoise(process.each, ends[None], process.last, process.gain)


def terminal_kl(process: NonUniform, x0: Tensor) -> tuple[float, ...]:
    """The signal that is lost if each detail band is dropped at its end, in nats, from the finest on.

        KL(N(alpha m, alpha^2 S + sigma^2) || N(0, sigma^2)) = 1/2 sum_i snr (S_i + m_i^2) - log(1 + snr S_i)

    with m and S the mean and the variance of each coefficient of the band, as if they were independent.

    x0 : [N, C, H, W]; a few thousand images.

    When to choose: before training a `MultiScale` model. A band of large variance needs a lower `last`.
    """
    y = process.enter(x0.double(), 0.0)
    variance, mean = torch.var_mean(y, 0, correction=0)
    bands = band_of(process.size, process.levels).to(y.device)
    lost = []
    for band, end in enumerate(process.ends[:-1]):
        snr = process.base.element_logsnr(end).exp().to(y)[0]
        nats = (snr * (variance + mean**2) - torch.log1p(snr * variance)) / 2
        lost.append(float(nats[:, bands == band].sum()))
    return tuple(lost)
