"""Shortest Path Diffusion: a noise schedule for each frequency, from the power of the data.

Data of power S in one frequency have the variance alpha^2 S + sigma^2 at time t. The shortest path from S to 1, in the
Fisher-Rao metric of Gaussians, is S^(1 - t). It gives each frequency its schedule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from ..cond import Cond
from .basis import InBasis
from .frame import Framed
from .gaussian import LOGSNR_MIN, Gaussian
from .numbers import as_float64

# the largest sigma^2 of VP, at logsnr = -20
_SHARE = 1 / (1 + math.exp(LOGSNR_MIN))
# below this |log S| the limit S = 1 is exact to the last digit
_FLAT = 1e-9


@dataclass(frozen=True, eq=False)
class ShortestPath(Gaussian):
    """The variance of element i goes from S_i to 1 as S_i^(1 - t):

        alpha_i^2 = (1 - S_i^(1 - t)) / (1 - S_i),   sigma_i^2 = 1 - alpha_i^2

    power : S > 0 for each element, of the rank of one item, with sizes of 1 for elements that share a number.

    The clock is that of the largest power, which is the noisiest element at all times. `uniform`, the default grid, has
    steps of equal Fisher length. sigma^2 is scaled as in `VP`, so that logsnr(1) = -20.

    When to choose: inside `SPD`; by itself for the coordinates of a basis, such as principal components.
    Source: Das et al., "Image generation with shortest path diffusion", ICML 2023, section 4.
    """

    power: Tensor
    cites: ClassVar[tuple[str, ...]] = ("spd",)

    def __post_init__(self) -> None:
        _require_powers(self.power)

    def alpha(self, t: Tensor | float) -> Tensor:
        return self.levels(t)[0]

    def sigma(self, t: Tensor | float) -> Tensor:
        return self.levels(t)[1]

    def levels(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        share = _noise_share(self._spread(t), self._log_power(t))
        return (1 - share).sqrt(), share.sqrt()

    def logsnr(self, t: Tensor | float) -> Tensor:
        """The logsnr of the noisiest element."""
        return _logit(_noise_share(as_float64(t), self._largest(t)))

    def time(self, logsnr: Tensor | float) -> Tensor:
        share = (torch.sigmoid(-as_float64(logsnr)) / _SHARE).clamp(max=1)
        u = self._largest(logsnr)
        # share = expm1(-t u) / expm1(-u)
        return share if abs(float(u)) < _FLAT else -torch.log1p(share * torch.expm1(-u)) / u

    def element_logsnr(self, t: Tensor | float) -> Tensor:
        return _logit(_noise_share(self._spread(t), self._log_power(t)))

    def _spread(self, t: Tensor | float) -> Tensor:
        return as_float64(t).reshape(-1, *(1,) * self.power.ndim)

    def _log_power(self, t: Tensor | float) -> Tensor:
        return self.power.to(as_float64(t)).log()[None]

    def _largest(self, t: Tensor | float) -> Tensor:
        return self.power.max().to(as_float64(t)).log()


def _require_powers(power: Tensor) -> None:
    if not power.ndim or not (power > 0).all() or not power.isfinite().all():
        raise ValueError(
            f"powers above 0 were expected, of the rank of one item; found {power.flatten()[:4].tolist()} of shape "
            f"{list(power.shape)}. Add a small number for frequencies that the data never have"
        )


def _noise_share(t: Tensor, u: Tensor) -> Tensor:
    """sigma^2 for log S = u, free of cancellation: expm1(-t u) / expm1(-u), and t for u = 0."""
    flat = u.abs() < _FLAT
    safe = torch.where(flat, torch.ones_like(u), u)
    return _SHARE * torch.where(flat, t + 0 * u, torch.expm1(-t * safe) / torch.expm1(-safe))


def _logit(share: Tensor) -> Tensor:
    return torch.log1p(-share) - share.log()


@dataclass(frozen=True)
class ConstantSpeed(Gaussian):
    """One alpha and one sigma for all elements, at constant Fisher speed for data of these powers.

    The control of SPD: the time law of the shortest path without its path. alpha^2 + sigma^2 = 1. With lambda = logsnr
    the speed is w(lambda) = sqrt(1/2 sum_i (sigmoid(lambda + log S_i) - sigmoid(lambda))^2), and
    t(lambda) = 1 - int_-inf^lambda w / int w.

    power : S > 0 for each element, not all 1. `ConstantSpeed.of(S)` takes a tensor.

    When to choose: beside `SPD`, to see whether its path or its time law is the cause of a gain.
    """

    power: tuple[float, ...]

    def __post_init__(self) -> None:
        power = torch.tensor(self.power, dtype=torch.float64, device="cpu")
        _require_powers(power)
        if (power == 1).all():
            raise ValueError("all powers are 1, and then no schedule moves: give the powers of data")

    @classmethod
    def of(cls, power: Tensor) -> ConstantSpeed:
        """From powers of the rank of one item."""
        _require_powers(power)
        return cls(tuple(power.flatten().tolist()))

    def alpha(self, t: Tensor | float) -> Tensor:
        return torch.sigmoid(self.logsnr(t)).sqrt()

    def sigma(self, t: Tensor | float) -> Tensor:
        return torch.sigmoid(-self.logsnr(t)).sqrt()

    def logsnr(self, t: Tensor | float) -> Tensor:
        at, (levels, times) = as_float64(t), _constant_speed(self.power)
        levels, times = levels.to(at.device), times.to(at.device)
        # times fall with the level
        found = _between(times.flip(0), levels.flip(0), at)
        return torch.where(at > 0, found, torch.full_like(found, torch.inf))

    def time(self, logsnr: Tensor | float) -> Tensor:
        aim, (levels, times) = as_float64(logsnr), _constant_speed(self.power)
        return _between(levels.to(aim.device), times.to(aim.device), aim)


@lru_cache(maxsize=16)
def _constant_speed(power: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """logsnr from -20 to 60, and the time at each; on the CPU."""
    levels = torch.linspace(LOGSNR_MIN, 60, 8001, dtype=torch.float64, device="cpu")
    logs = torch.tensor(power, dtype=torch.float64, device="cpu").log()
    away = torch.sigmoid(levels[:, None] + logs) - torch.sigmoid(levels[:, None])
    speed = (away.square().sum(1) / 2).sqrt()
    length = torch.cat([speed.new_zeros(1), torch.cumulative_trapezoid(speed, levels)])
    return levels, 1 - length / length[-1]


def _between(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """Linear interpolation of y over rising x; the ends beyond them."""
    place = torch.searchsorted(x, at.contiguous()).clamp(1, len(x) - 1)
    low, high = x[place - 1], x[place]
    share = ((at - low) / (high - low)).clamp(0, 1)
    return y[place - 1] + share * (y[place] - y[place - 1])


@dataclass(frozen=True)
class SPD(Framed):
    """Shortest Path Diffusion: `ShortestPath` for the frequencies of square images.

    spectrum : S at the radii 0, 1, 2, ... in cycles per image, from `spectrum_of`; log S is linear between them.
    size : of the images.

    Signal and noise are those of pixels. At each time the image is sharper or more blurred than with one schedule for
    all, as its spectrum asks. A network for it has output "x0".

    When to choose: to test whether a path for each frequency pays. `ConstantSpeed` is the control.
    Source: Das et al., "Image generation with shortest path diffusion", ICML 2023.
    """

    spectrum: tuple[float, ...]
    size: int
    cites: ClassVar[tuple[str, ...]] = ("spd",)

    def __post_init__(self) -> None:
        self._inside  # noqa: B018 (a wrong spectrum is refused here)

    @property
    def _inside(self) -> InBasis:
        return _of_frequencies(self.spectrum, self.size)

    @property
    def base(self) -> Gaussian:  # type: ignore[override]
        return self._inside.base

    def enter(self, x: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Tensor:
        return self._inside.enter(x, t)

    def leave(self, y: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Tensor:
        return self._inside.leave(y, t)


@lru_cache(maxsize=16)
def _of_frequencies(spectrum: tuple[float, ...], size: int) -> InBasis:
    turn = fourier(size)
    return InBasis(ShortestPath(power_of_radii(spectrum, size)[None]), (turn, turn))


def fourier(n: int) -> Tensor:
    """Cosines and sines as an orthogonal matrix, from low to high frequency; float64.

    Rows: 1 / sqrt(n); then sqrt(2 / n) cos(2 pi k i / n) and sqrt(2 / n) sin(2 pi k i / n) for k = 1, 2, ...; for an
    even n the last is (-1)^i / sqrt(n).
    """
    i = torch.arange(n, dtype=torch.float64, device="cpu")
    k = torch.arange(1, (n - 1) // 2 + 1, dtype=torch.float64, device="cpu")[:, None]
    waves = torch.stack([(2 * math.pi * k * i / n).cos(), (2 * math.pi * k * i / n).sin()], 1).flatten(0, 1)
    rows = [torch.ones(1, n, dtype=torch.float64, device="cpu") / math.sqrt(n), waves * math.sqrt(2 / n)]
    if n % 2 == 0:
        rows.append((1 - 2 * (i % 2))[None] / math.sqrt(n))
    return torch.cat(rows)


def radii(size: int) -> Tensor:
    """The radius sqrt(k^2 + l^2) of each element in the basis `fourier` of square images, [size, size]; float64."""
    k = (torch.arange(size, dtype=torch.float64, device="cpu") + 1) // 2
    return (k[:, None] ** 2 + k**2).sqrt()


def power_of_radii(spectrum: Sequence[float], size: int) -> Tensor:
    """S at each element of `radii`, [size, size]: log S is linear between whole radii; float64.

    Raises ValueError for a spectrum that does not reach the largest radius, or with numbers of 0 or below.
    """
    at = radii(size)
    wanted = math.ceil(float(at.max())) + 1
    if len(spectrum) < wanted or min(spectrum) <= 0:
        raise ValueError(
            f"a spectrum of {wanted} numbers above 0 was expected for images of {size} x {size}, one for each radius "
            f"from 0 to {wanted - 1}; found {len(spectrum)} numbers, the smallest {min(spectrum, default=0.0):g}"
        )
    logs = torch.tensor(list(spectrum), dtype=torch.float64, device="cpu").log()
    return _between(torch.arange(len(logs), dtype=torch.float64, device="cpu"), logs, at).exp()


def spectrum_of(x0: Tensor, least: float = 1e-6) -> tuple[float, ...]:
    """The power of square images at the radii 0, 1, 2, ..., with the mean image subtracted.

        S(r) = exp of the mean of log S over the elements within half a cycle of r

    x0 : [N, C, size, size]; the channels are averaged.
    least : the least power. Frequencies that the images never have get it.
    """
    size = x0.shape[-1]
    if x0.ndim != 4 or x0.shape[-2] != size:
        raise ValueError(f"a spectrum is that of square images [N, C, size, size]; found the shape {list(x0.shape)}")
    turn = fourier(size).to(x0.device)
    y = turn @ (x0.double() - x0.double().mean(0)) @ turn.T
    logs = y.square().mean((0, 1)).clamp(min=least).log().cpu()
    at = radii(size)
    count = math.ceil(float(at.max())) + 1
    places = [(at - radius).abs() <= 0.5 for radius in range(count)]
    # a whole radius beyond the corner has no element: that of the corner
    return tuple(float((logs[place] if place.any() else logs[-1:, -1:]).mean().exp()) for place in places)


def fisher(process: Gaussian, power: Tensor, steps: int = 1000) -> tuple[float, float]:
    """The length and the energy of a path of Gaussians N(0, diag(alpha^2 S + sigma^2)), in the Fisher-Rao metric:

        L = sum sqrt(1/2 sum_i d_i^2),   E = steps sum 1/2 sum_i d_i^2,   d the changes of the log variances

    over equal steps of t. E >= L^2, with equality at constant speed.

    power : S of each element, of the rank of one item.
    """
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device=power.device)
    alpha, sigma = process.levels(t)
    wide = (-1, *(1,) * power.ndim)
    variance = alpha.reshape(alpha.shape if alpha.ndim > 1 else wide) ** 2 * power.double()
    variance = variance + sigma.reshape(sigma.shape if sigma.ndim > 1 else wide) ** 2
    squares = variance.flatten(1).log().diff(dim=0).square().sum(1) / 2
    return float(squares.sqrt().sum()), float(steps * squares.sum())
