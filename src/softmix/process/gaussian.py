"""The Gaussian processes x_t = alpha(t) x_0 + sigma(t) z, z ~ N(0, I).

`Gaussian` holds all formulas in terms of alpha and sigma. A subclass defines the two and the inverse of logsnr. All of
it is computed in float64, for any dtype of t, and cast to the dtype of x when the two meet (`column`).

At t = 0 every process is exactly clean: alpha = 1, sigma = 0. At t = 1 alpha is small and not zero
(logsnr = LOGSNR_MIN for VP and Flow), so that x_0 can be recovered from any parameterisation.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..cond import Cond
from ..rng import Rng
from ..shape import column
from .grid import uniform
from .noised import Noised
from .numbers import as_float64, bridge_numbers, has_axes, is_number, level_numbers, plus

LOGSNR_MIN = -20.0


def slope(part: Callable[[Tensor], Tensor], t: Tensor | float) -> Tensor:
    """d part / dt by automatic differentiation, element by element for an array."""
    with torch.enable_grad():
        at = as_float64(t).detach().clone().requires_grad_()
        value = part(at)
        # a constant, such as the alpha of VE, does not depend on t
        if not value.requires_grad:
            return torch.zeros_like(value)
        # sum_i w_i d value_i / dt is linear in w, and its derivative in w holds the slopes
        w = torch.zeros_like(value, requires_grad=True)
        (along,) = torch.autograd.grad(value, at, w, create_graph=True)
        return torch.autograd.grad(along.sum(), w)[0].detach()


class Gaussian(ABC):
    """x_t = alpha(t) x_0 + sigma(t) z with z ~ N(0, I) independent of x_0.

    alpha and sigma are numbers for each time, of the shape of t; or arrays with one number for each element of x, such
    as a channel, a pixel or a frequency (`per_element`). An array has the rank of x: [1, ...] for one time, [B, ...]
    for t [B], with sizes of 1 for elements that share a number. A process with arrays defines one clock by `logsnr` and
    `time`, and the log(alpha^2 / sigma^2) of every element, `element_logsnr`, must fall as t rises.
    """

    @abstractmethod
    def alpha(self, t: Tensor | float) -> Tensor:
        """The coefficient of the signal, 1 at t = 0."""

    @abstractmethod
    def sigma(self, t: Tensor | float) -> Tensor:
        """The standard deviation of the noise, 0 at t = 0."""

    @abstractmethod
    def time(self, logsnr: Tensor | float) -> Tensor:
        """The t with this log(alpha^2 / sigma^2)."""

    def levels(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """alpha(t) and sigma(t). A subclass may share the operations that both have."""
        return self.alpha(t), self.sigma(t)

    @property
    def per_element(self) -> bool:
        """Whether alpha and sigma are arrays with a number for each element of x."""
        return has_axes(self)

    def logsnr(self, t: Tensor | float) -> Tensor:
        """log(alpha(t)^2 / sigma(t)^2); +inf at t = 0."""
        level = self._level(t)
        if level.ndim > (t.ndim if isinstance(t, Tensor) else 0):
            raise TypeError(
                f"the clock of {type(self).__name__} was asked for, and it has a number for each element of x: define "
                "one clock for grids and networks by the methods `logsnr` and `time`"
            )
        return level

    def element_logsnr(self, t: Tensor | float) -> Tensor:
        """log(alpha^2 / sigma^2) of each element, in the shape of alpha. For a schedule of numbers it is the clock."""
        return self._level(t) if self.per_element else self.logsnr(t)

    def _level(self, t: Tensor | float) -> Tensor:
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def rates(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """d alpha / dt and d sigma / dt at times t > 0, in the shapes of alpha and sigma; float64."""
        return slope(self.alpha, t), slope(self.sigma, t)

    def noise(self, x0: Tensor, t: Tensor | float, rng: Rng, cond: Cond | Tensor | None = None) -> Noised:
        """x_t = alpha(t) x_0 + sigma(t) z with a fresh z.

        t : one time for all items, or one for each, [B].
        """
        z = rng.normal(x0.shape, x0.dtype).to(x0.device)
        times = as_float64(t).expand(len(x0))
        return Noised(x0=x0, xt=self.state(x0, t, z), t=times, z=z, process=self, cond=cond)

    def state(self, x0: Tensor, t: Tensor | float, z: Tensor, cond: Cond | Tensor | None = None) -> Tensor:
        """x_t = alpha(t) x_0 + sigma(t) z for a given z [B, ...]. `cond` has no effect here."""
        # a tensor stays a tensor: it may be on another device, or have a derivative
        numbers = None if isinstance(t, Tensor) else level_numbers(self, t)
        if numbers is not None:
            return plus(numbers[0] * x0, z, numbers[1])
        alpha, sigma = self.levels(t)
        return torch.addcmul(column(alpha, x0) * x0, column(sigma, x0), z)

    def prior(self, shape: Sequence[int], rng: Rng, cond: Cond | Tensor | None = None) -> Tensor:
        """x_1 ~ N(0, sigma(1)^2 I). The remaining signal of size alpha(1) is neglected."""
        z = rng.normal(shape)
        numbers = level_numbers(self, 1.0)
        return (column(self.sigma(1.0), z) if numbers is None else numbers[1]) * z

    def bridge(
        self,
        xt: Tensor,
        x0: Tensor,
        t: Tensor | float,
        s: Tensor | float,
        rng: Rng,
        cond: Cond | Tensor | None = None,
        eta: float = 1.0,
    ) -> Tensor:
        """A draw of x_s given x_t and x_0, for any s < t.

            x_s = alpha_s x_0 + sqrt(sigma_s^2 - eta^2 v) z_hat + eta sqrt(v) z,   z_hat = (x_t - alpha_t x_0) / sigma_t

        v = sigma_s^2 (1 - snr(t) / snr(s)) is the variance of q(x_s | x_t, x_0). eta = 1 draws from this law exactly;
        eta = 0 is the deterministic step of DDIM. For every eta: if (x_0, x_t) has its true joint law, x_s has its true
        marginal.

        Raises ValueError for s >= t and for eta outside [0, 1].

        Source: Song, Meng & Ermon, "Denoising diffusion implicit models", ICLR 2021, eq. 12 and 16.
        """
        mean, fresh = self.kernel(xt, x0, t, s, eta)
        if isinstance(fresh, Tensor):
            return mean if eta == 0 else torch.addcmul(mean, fresh, rng.normal(xt.shape, xt.dtype).to(xt.device))
        # a step to t = 0 has no fresh noise
        return plus(mean, rng.normal(xt.shape, xt.dtype).to(xt.device), fresh) if fresh else mean

    def kernel(
        self, xt: Tensor, x0: Tensor, t: Tensor | float, s: Tensor | float, eta: float = 1.0
    ) -> tuple[Tensor, Tensor | float]:
        """Mean and standard deviation of the bridge, in the shape and dtype of xt."""
        if not 0 <= eta <= 1:
            raise ValueError(f"eta = {eta} was asked for; it runs from 0 (deterministic) to 1 (ancestral)")
        shares: tuple[Tensor | float, ...] | None = None
        if is_number(t) and is_number(s):
            shares = bridge_numbers(self, float(t), float(s), eta)
        if shares is None:
            shares = tuple(column(share, xt) for share in self.shares(t, s, eta))
        of_x0, of_xt, of_noise = shares
        if isinstance(of_x0, Tensor):
            return torch.addcmul(of_xt * xt, of_x0, x0), of_noise
        return plus(of_xt * xt, x0, of_x0), of_noise

    def shares(self, t: Tensor | float, s: Tensor | float, eta: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """The coefficients of x_0, of x_t and of fresh noise in the bridge; float64."""
        t, s = as_float64(t), as_float64(s)
        if (s >= t).any():
            raise ValueError("a step back needs s < t: give a falling grid of times")
        sigma_s = self.sigma(s)
        of_noise = eta * sigma_s * self.fresh(t, s).sqrt()
        of_xt = (sigma_s**2 - of_noise**2).clamp(min=0).sqrt() / self.sigma(t)
        return self.alpha(s) - of_xt * self.alpha(t), of_xt, of_noise

    def fresh(self, t: Tensor, s: Tensor) -> Tensor:
        """The share of sigma_s^2 that is fresh noise in an ancestral step from t to s: 1 - snr(t) / snr(s)."""
        return -torch.expm1(self.element_logsnr(t) - self.element_logsnr(s))

    def transfer(self, xt: Tensor, x0: Tensor, t: Tensor | float, s: Tensor | float) -> Tensor:
        """The step of DDIM, alpha_s x_0 + sigma_s z_hat, in both directions: s may be above t. t must be above 0."""
        of_xt = self.sigma(s) / self.sigma(t)
        return column(of_xt, xt) * xt + column(self.alpha(s) - of_xt * self.alpha(t), xt) * x0

    def grid(self, n: int) -> Tensor:
        """n steps uniform in t."""
        return uniform(self, n)


@dataclass(frozen=True)
class VP(Gaussian):
    """Variance preserving: alpha^2 + sigma^2 = 1.

    cosine  : alpha = cos(pi t / 2)                  (Nichol & Dhariwal 2021, without their offset s)
    linear  : log alpha^2 = -(0.1 t + 9.95 t^2)      (the betas of DDPM, 1e-4 to 0.02 over 1000 steps, in the limit)
    sigmoid : 1 - alpha^2 is a logistic on [-3, 3]   (Jabri, Fleet & Chen 2022; the schedule in the code of SMD)

    Each is scaled by sigma^2 -> (1 - sigmoid(-20)) sigma^2, so that logsnr(1) is never below -20.
    When to choose: cosine is the default of most presets. linear and sigmoid reproduce models trained with them.
    """

    schedule: Literal["cosine", "linear", "sigmoid"] = "cosine"

    @property
    def cites(self) -> tuple[str, ...]:
        return {"cosine": ("improved_ddpm",), "linear": ("ddpm",), "sigmoid": ("sigmoid_schedule",)}[self.schedule]

    def alpha(self, t: Tensor | float) -> Tensor:
        return (1 - self._noise_share(as_float64(t))).sqrt()

    def sigma(self, t: Tensor | float) -> Tensor:
        return self._noise_share(as_float64(t)).sqrt()

    def levels(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        share = self._noise_share(as_float64(t))
        return (1 - share).sqrt(), share.sqrt()

    def time(self, logsnr: Tensor | float) -> Tensor:
        share = (
            torch.sigmoid(-as_float64(logsnr)) / torch.sigmoid(torch.tensor(-LOGSNR_MIN, dtype=torch.float64))
        ).clamp(max=1)
        if self.schedule == "cosine":
            return share.sqrt().asin() * (2 / math.pi)
        if self.schedule == "linear":
            depth = -torch.log1p(-share.clamp(max=1 - math.exp(-10.05)))
            return 2 * depth / (0.1 + (0.01 + 39.8 * depth).sqrt())
        low, high = _logistic(-3.0), _logistic(3.0)
        return (torch.logit(low + share * (high - low)) + 3) / 6

    def rates(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """From sigma^2 = share, alpha^2 = 1 - share: sigma' = share' / (2 sigma), alpha' = -share' / (2 alpha)."""
        slope = self._share_slope(as_float64(t))
        return -slope / (2 * self.alpha(t)), slope / (2 * self.sigma(t))

    def _share_slope(self, t: Tensor) -> Tensor:
        if self.schedule == "cosine":
            slope = (math.pi / 2) * (t * math.pi).sin()
        elif self.schedule == "linear":
            slope = (0.1 + 19.9 * t) * (-(0.1 * t + 9.95 * t**2)).exp()
        else:
            along = torch.sigmoid(6 * t - 3)
            slope = 6 * along * (1 - along) / (_logistic(3.0) - _logistic(-3.0))
        return slope * _logistic(-LOGSNR_MIN)

    def _noise_share(self, t: Tensor) -> Tensor:
        if self.schedule == "cosine":
            share = (t * (math.pi / 2)).sin() ** 2
        elif self.schedule == "linear":
            share = -torch.expm1(-(0.1 * t + 9.95 * t**2))
        else:
            low, high = _logistic(-3.0), _logistic(3.0)
            share = (torch.sigmoid(6 * t - 3) - low) / (high - low)
        return share.clamp(0, 1) * _logistic(-LOGSNR_MIN)


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@dataclass(frozen=True)
class VE(Gaussian):
    """Variance exploding: alpha = 1, sigma(t)^2 = low^2 ((high / low)^(2 t) - 1).

    Geometric in t and exactly clean at t = 0.
    When to choose: for consistency models, and for models trained on sigma alone, such as EDM.
    Source: Song et al., "Score-based generative modeling through SDEs", ICLR 2021, eq. 29.
    """

    low: float = 0.01
    high: float = 80.0
    cites: ClassVar[tuple[str, ...]] = ("score_sde",)

    def alpha(self, t: Tensor | float) -> Tensor:
        return torch.ones_like(as_float64(t))

    def sigma(self, t: Tensor | float) -> Tensor:
        return self.low * torch.expm1(as_float64(t) * (2 * math.log(self.high / self.low))).sqrt()

    def time(self, logsnr: Tensor | float) -> Tensor:
        return torch.log1p((-as_float64(logsnr)).exp() / self.low**2) / (2 * math.log(self.high / self.low))

    def rates(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """From (sigma^2)' = 2 log(high / low) (sigma^2 + low^2)."""
        sigma = self.sigma(t)
        return torch.zeros_like(sigma), math.log(self.high / self.low) * (sigma**2 + self.low**2) / sigma


@dataclass(frozen=True)
class Flow(Gaussian):
    """Linear interpolation: alpha = 1 - t, sigma = t (flow matching, rectified flow), but alpha(1) = end.

    end : 0 for models that were trained with no signal at t = 1. The clock then still ends at logsnr = -20.

    When to choose: for flow matching and MeanFlow.
    """

    end: float = field(default=math.exp(LOGSNR_MIN / 2), repr=False)
    cites: ClassVar[tuple[str, ...]] = ("flow_matching", "rectified_flow")

    def alpha(self, t: Tensor | float) -> Tensor:
        return 1 - as_float64(t) * (1 - self.end)

    def sigma(self, t: Tensor | float) -> Tensor:
        return as_float64(t)

    def rates(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(as_float64(t))
        return (self.end - 1) * one, one

    def logsnr(self, t: Tensor | float) -> Tensor:
        return 2 * (self.alpha(t).clamp(min=math.exp(LOGSNR_MIN / 2)).log() - self.sigma(t).log())

    def time(self, logsnr: Tensor | float) -> Tensor:
        return 1 / ((as_float64(logsnr) / 2).exp() + (1 - self.end))
