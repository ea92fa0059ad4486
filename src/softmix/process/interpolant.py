"""Stochastic interpolants: a bridge between two laws of data, with a latent noise in the middle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..cond import Cond, CondError, CondSpec
from ..rng import Rng
from ..shape import column
from .gaussian import LOGSNR_MIN, slope
from .grid import uniform
from .noised import Noised
from .numbers import as_float64, falling_inverse
from .pair import other_item, require_pair

InterpolantPath = Literal["linear", "trig", "encoding", "mirror"]
Latent = Literal["brownian", "smooth", "sine"]


@dataclass(frozen=True)
class Interpolant:
    """The stochastic interpolant x_t = a(t) x_0 + b(t) x_1 + gamma(t) z, from x_0 of one law to x_1 of another.

    path : a and b:
        linear    a = 1 - t, b = t
        trig      a = r cos(pi t / 2), b = r sin(pi t / 2), r = sqrt(1 - gamma^2)
        encoding  a = cos^2(pi t) for t < 1/2, then 0; b is its mirror image: at 1/2 all is noise
        mirror    a = 1, b = 0: x_1 is x_0 itself, and the law returns to itself
    latent : gamma / sqrt(c): sqrt(t (1 - t)) ("brownian"), t (1 - t) ("smooth"), sin^2(pi t) ("sine").
    c : the strength of the latent noise. With 0 the path has none, and a network knows x_0 alone.

    x_1 is the image of the condition, or its value for items of one axis. The network does not see it: it receives x_t
    and t. Sampling starts at x_1. For two data sets without pairs take `data.Unpaired`. (One-sided interpolants, with
    x_1 ~ N(0, I) and no latent noise, are the processes `Flow` and `VP`. If the network may see x_1, take `RDDM`.)

    Two fields of x_t are needed for the velocity and the score: here E[x_0 | x_t] and E[z | x_t], since
    a E[x_0] + b E[x_1] + gamma E[z] = x_t. In the symbols of the paper

        b = a' E[x_0 | x_t] + b' E[x_1 | x_t] + gamma' E[z | x_t],   s = -E[z | x_t] / gamma

    A `NoiseHead` learns both fields, for the samplers `epsilon` and `interpolant_heun`. Every other head learns the law
    of x_0, for `ancestral`; that is enough because of `bridge`.

    The clock is logsnr = log((1 - t)^2 / (t^2 + gamma^2)), the one of the linear path: x_1 and z are the noise in x_t =
    a x_0 + sqrt(b^2 + gamma^2) u. The table of outputs holds in these terms for every row but "eps", which has a
    division by a(1) = 0.

    The paper goes from 0 to 1: its x_0 is our x_1, and its t is 1 - t.

    Raises ValueError for numbers with which x_t is not defined or the clock does not fall.
    When to choose: to translate one data set to another, with or without pairs.
    Source: Albergo, Boffi & Vanden-Eijnden, "Stochastic interpolants", 2023, definition 1, section 3 and tables; the
    authors' code for the choices of a, b and gamma.
    """

    path: InterpolantPath = "linear"
    latent: Latent = "brownian"
    c: float = 1.0
    # the network receives x_t, and no condition
    blind: ClassVar[bool] = True
    # sampling starts at an item of the condition
    starts_at_cond: ClassVar[bool] = True
    cites: ClassVar[tuple[str, ...]] = ("stochastic_interpolants",)

    def __post_init__(self) -> None:
        if self.path not in get_args(InterpolantPath) or self.latent not in get_args(Latent):
            raise ValueError(
                f"the path {self.path!r} with the latent {self.latent!r} was asked for; there are "
                f"{', '.join(get_args(InterpolantPath))}, and {', '.join(get_args(Latent))}"
            )
        if not 0 <= self.c < math.inf:
            raise ValueError(f"the strength c of the latent noise is at least 0; found {self.c:g}")
        if self.c == 0 and self.path in ("encoding", "mirror"):
            raise ValueError(f"the path {self.path!r} is nothing without latent noise: give c above 0")
        if self.path == "trig" and float(self.gamma(0.5)) >= 1:
            most = 1 / float(Interpolant("linear", self.latent).gamma(0.5)) ** 2
            raise ValueError(f"on the path 'trig' gamma is below 1: give c below {most:g}; found {self.c:g}")
        if self.latent == "sine" and self.c > 3:
            raise ValueError(f"with the latent 'sine' the clock falls for c up to 3; found {self.c:g}")

    def gamma(self, t: Tensor | float) -> Tensor:
        """The standard deviation of the latent noise in x_t, 0 at both ends; float64."""
        t = as_float64(t)
        shape = t * (1 - t) if self.latent != "sine" else (math.pi * t).sin() ** 2
        # sqrt(c t (1 - t)) would have no slope for c = 0
        return math.sqrt(self.c) * (shape.sqrt() if self.latent == "brownian" else shape)

    def parts(self, t: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """a, b and gamma, in the shape of t; float64."""
        t, gamma = as_float64(t), self.gamma(t)
        if self.path == "linear":
            return 1 - t, t, gamma
        if self.path == "trig":
            radius = (1 - gamma**2).sqrt()
            # cos(pi / 2) is not 0 in floating point
            return radius * ((1 - t) * (math.pi / 2)).sin(), radius * (t * (math.pi / 2)).sin(), gamma
        if self.path == "mirror":
            return torch.ones_like(t), torch.zeros_like(t), gamma
        share, none = (math.pi * t).cos() ** 2, torch.zeros_like(t)
        return torch.where(t < 0.5, share, none), torch.where(t > 0.5, share, none), gamma

    def rates(self, t: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """a', b' and gamma' at times inside (0, 1), in the shape of t; float64."""
        return slope(lambda u: self.parts(u)[0], t), slope(lambda u: self.parts(u)[1], t), slope(self.gamma, t)

    def levels(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """a, and the size sqrt(b^2 + gamma^2) of all the rest in x_t, for x_1 of unit size."""
        a, b, gamma = self.parts(t)
        return a, torch.hypot(b, gamma)

    def noise(self, x0: Tensor, t: Tensor | float, rng: Rng, cond: Cond | Tensor | None = None) -> Noised:
        """x_t with a fresh z. Raises ValueError for a condition without an x_1 of the shape of x0."""
        z = rng.normal(x0.shape, x0.dtype).to(x0.device)
        times = as_float64(t).expand(len(x0))
        return Noised(x0=x0, xt=self.state(x0, t, z, cond), t=times, z=z, process=self, cond=cond)

    def state(self, x0: Tensor, t: Tensor | float, z: Tensor, cond: Cond | Tensor | None = None) -> Tensor:
        """x_t = a x_0 + b x_1 + gamma z for a given z [B, ...]."""
        a, b, gamma = (column(part, x0) for part in self.parts(t))
        return a * x0 + b * self._x1(x0.shape, cond).to(x0) + gamma * z

    def prior(self, shape: Sequence[int], rng: Rng, cond: Cond | Tensor | None = None) -> Tensor:
        """x_1, from the condition. Raises ValueError if it is not there, has another shape, or is not finite."""
        x1 = self._x1(shape, cond)
        if not x1.isfinite().all():
            raise ValueError(
                f"sampling by {type(self).__name__} starts at the item of the condition, and it has values that are "
                "not given or not finite: give whole items"
            )
        return x1.to(rng.device)

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
        """A draw of x_s given x_t and x_0, without knowledge of x_1, for s < t.

            x_s = a_s x_0 + k (x_t - a_t x_0) + sqrt(gamma_s^2 - k^2 gamma_t^2) z,   k = b_s / b_t

        Given x_0 and x_1 this x_s has the law N(a_s x_0 + b_s x_1, gamma_s^2 I) of the process. So if x_0 is a draw of
        q(x_0 | x_t), the law of x_s is exact, for any step. The first step, from x_1, also keeps the joint law of x_0
        and x_1; later steps keep the law of each x_t only, because they forget x_1. On the linear path with the latent
        "brownian" it is the Brownian bridge from x_t to x_0,

            x_s ~ N(x_0 + (s / t) (x_t - x_0), c s (t - s) / t I)

        Where b_t = 0 all noise is fresh, k = 0.

        Raises ValueError for s >= t, for an eta other than 1, since k decides the share of fresh noise, and where gamma
        / b rises with t ("sine" near 0), since then no such step exists.
        """
        if eta != 1:
            raise ValueError(
                f"eta = {eta} was asked for, and given x_0 alone a step of {type(self).__name__} has one share of "
                "fresh noise: leave eta at 1, or take the sampler epsilon, which needs a NoiseHead"
            )
        t, s = as_float64(t), as_float64(s)
        if (s >= t).any():
            raise ValueError("a step back needs s < t: give a falling grid of times")
        (a, b, gamma), (a_s, b_s, gamma_s) = self.parts(t), self.parts(s)
        k = torch.where(b > 0, b_s / b, 0.0)
        fresh = gamma_s**2 - (k * gamma) ** 2
        if (fresh < -1e-9).any():
            raise ValueError(
                f"a step from {t.flatten().tolist()[:3]} to {s.flatten().tolist()[:3]} was asked for. {self} has "
                "none, given x_0 alone, because gamma / b rises with t: take the latent brownian or smooth, or the "
                "sampler epsilon, which needs a NoiseHead"
            )
        mean = column(a_s - k * a, xt) * x0 + column(k, xt) * xt
        if not (fresh > 0).any():
            return mean
        return mean + column(fresh.clamp(min=0).sqrt(), xt) * rng.normal(xt.shape, xt.dtype).to(xt.device)

    def logsnr(self, t: Tensor | float) -> Tensor:
        t = as_float64(t)
        return 2 * (1 - t).clamp(min=math.exp(LOGSNR_MIN / 2)).log() - (t**2 + self.gamma(t) ** 2).log()

    def time(self, logsnr: Tensor | float) -> Tensor:
        """By bisection."""
        return falling_inverse(self.logsnr, logsnr)

    def grid(self, n: int) -> Tensor:
        """n steps uniform in t; for the latent "brownian" uniform in u with t = sin^2(pi u / 2).

        In u gamma is smooth, sqrt(c) sin(pi u) / 2, and in t it has an infinite slope at both ends: with a uniform t
        most of the error of a solver would come from the last step.
        """
        u = uniform(self, n)
        # 1 - cos^2 would leave a rest at 0
        return (u * (math.pi / 2)).sin() ** 2 if self.latent == "brownian" else u

    def require_pair(self, cond: CondSpec, shape: tuple[int, ...], name: str) -> None:
        """Raises CondError for data without an x_1 of the shape of x0, and for other conditions: no part sees them."""
        require_pair(cond, shape, name, type(self).__name__)
        others = [part for part in cond.parts if part != ("value" if len(shape) == 1 else "image")]
        if others:
            raise CondError(
                f"the network of {type(self).__name__} receives x_t and no condition, and {name} has "
                f"{' and '.join(others)}: leave it out"
            )

    def _x1(self, shape: Sequence[int], cond: Any) -> Tensor:
        x1 = other_item(cond, type(self).__name__)
        if tuple(x1.shape) != tuple(shape):
            raise ValueError(
                f"{type(self).__name__} leads from items of shape {list(shape)} to items of the same shape, and the "
                f"condition has {list(x1.shape)}"
            )
        return x1
