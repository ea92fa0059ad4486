"""Losses of flow maps, the alternative to soft mixtures for few steps.

A flow map follows the path of the ODE from t to s in one evaluation. Both losses train it from data alone, by a
consistency condition: a consistency model has the same x0 all along a path, and the average velocity of MeanFlow
obeys the time derivative of its definition.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from ..cond import Cond
from ..denoiser import Denoiser, MapHead, Suits
from ..posterior import HasMean, need
from ..process import Flow, Gaussian, Noised, one_clock
from ..rng import Rng
from ..shape import column
from .contract import Stage


@dataclass(frozen=True)
class Consistency:
    """w (sqrt(|f(x_t, t) - f(x_r, r)|^2 + c^2) - c), x_t and x_r from one x0 and one z, without gradient through x_r.

    Consistency training (Song et al. 2023, algorithm 3, with the target network of "Improved techniques"), t_n the
    times of a grid of N(k):

        x ~ data,  n ~ U[1, N(k) - 1],  z ~ N(0, I)
        L = lambda(t_n) d(f_theta(x + t_{n+1} z, t_{n+1}),  stopgrad f_theta(x + t_n z, t_n))

    f is the mean of the posterior. Here it means the end of the path of the ODE. f(x_0, 0) = x_0 holds for any output
    of the affine table, since every process is clean at t = 0. r is the step before t on a grid of N equal steps of
    (sigma / alpha)^(1/7). w is one over the step of sigma / alpha. |.| is the norm over all elements, c = 0.00054
    sqrt(D), and the whole is divided by sqrt(D).

    first, last : N doubles from `first` to `last` during training.

    When to choose: to sample by `renoise` in few steps. The optimum is a map and not a posterior; use it for samples
    only. Source: Song et al., "Consistency models", ICML 2023; Song & Dhariwal, "Improved techniques", ICLR 2024.
    """

    first: int = 10
    last: int = 160
    suits: ClassVar[Suits] = ("renoise", {})
    cites: ClassVar[tuple[str, ...]] = ("consistency", "improved_consistency")

    @property
    def proper(self) -> bool:
        return False

    def ask(self, denoiser: Denoiser, noised: Noised, rng: Rng, stage: Stage) -> Tensor:
        process = one_clock(noised.process, "consistency")
        r = self.before(process, noised.t, self.phase(stage.progress))
        here = need(denoiser(noised.xt, noised.t, noised.cond), HasMean, "consistency").mean
        with torch.no_grad():
            earlier = noised.at(r)
            target = need(denoiser(earlier.xt, r, noised.cond), HasMean, "consistency").mean
            # at r = 0 the path ends at the data
            target = torch.where(column(r == 0, target) > 0, noised.x0, target)
        size = math.prod(noised.x0.shape[1:])
        c = 0.00054 * math.sqrt(size)
        distance = (((here - target) ** 2).flatten(1).sum(1) + c**2).sqrt() - c
        high, low = (-process.logsnr(noised.t) / 2).exp(), (-process.logsnr(r) / 2).exp()
        return (1 / (high - low)).to(distance) * distance / math.sqrt(size)

    def phase(self, progress: float) -> int:
        """N, the number of steps of the grid at this progress of training."""
        doublings = max(math.log2(self.last / self.first), 0.0)
        return self.first * 2 ** min(int(progress * (doublings + 1)), int(doublings))

    @staticmethod
    def before(process: Gaussian, t: Tensor, count: int, rho: float = 7.0, top: float = 80.0) -> Tensor:
        """r < t, one step back on a grid of `count` equal steps of (sigma/alpha)^(1/rho) up to `top`; 0 at its end."""
        place = (-process.logsnr(t) / 2).exp().clamp(max=top) ** (1 / rho)
        low = 0.002 ** (1 / rho)
        back = place - (top ** (1 / rho) - low) / count
        r = process.time(-2 * rho * back.clamp(min=low).log())
        return torch.where(back > low, r, torch.zeros_like(r)).minimum(t)


def chosen_pairs(u: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The items of a pair of times, chosen with probability `share` each: booleans [B], and their numbers.

    On a CPU these are the items with u < share. Elsewhere the host would have to wait for their count. There the
    numbers have a fixed length, six standard deviations above the mean count, and end with items without a pair. Pairs
    beyond it, in one batch of a thousand million, are left out.

    u : uniform numbers in (0, 1), [B].
    """
    paired = u < share
    if u.device.type == "cpu":
        return paired, paired.nonzero()[:, 0]
    return packed(paired, share)


def packed(paired: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """See `chosen_pairs`: the result for a device that the host does not wait for."""
    count = len(paired)
    room = min(count, math.ceil(share * count + 6 * math.sqrt(share * (1 - share) * count)))
    chosen = paired.byte().argsort(descending=True, stable=True)[:room]
    return paired & torch.zeros_like(paired).index_fill(0, chosen, True), chosen


@dataclass(frozen=True)
class MeanFlow:
    """The MeanFlow loss:

        |u - u_tgt|^2 / (|u - u_tgt|^2 + 0.01)^power,   u_tgt = v - (t - r) (v . d_x u + d_t u), without gradient

    In the symbols of the paper, algorithm 1 (x the data, e the noise, z the state):

        z = (1 - t) x + t e,  v = e - x
        u, dudt = jvp(u_theta, (z, r, t), (v, 0, 1))
        u_tgt = v - (t - r) dudt
        loss = metric(u - stopgrad(u_tgt))

    u(x_t, r, t) = (x_t - x0_hat) / t is the average velocity from t to r of a flow map (`MapHead`) on `Flow`, and
    v = z - x0. The derivative is one forward-mode product.

    The derivative of u belongs to the path of the ODE, which moves with E[v | x_t]. With v of the item in its place the
    target is right on average, and has the noise of v a second time. Improved MeanFlow takes the network's own
    velocity: u_tgt = v - (t - r) (u(x_t, t, t) . d_x u + d_t u). For the true map the error is then v - E[v | x_t], the
    least possible.

    direction : of the derivative: v of the "item", or the "mean" velocity u(x_t, t, t) (Improved MeanFlow, without its
        guidance and its second output), for one more evaluation of the paired items.
    pairs : the share of the items with r < t, both drawn alike. The others have r = t, and there u is trained to be the
        velocity itself.
    power : of the adaptive weight.
    mean, sd : of the logit of the second time.

    When to choose: to sample by `ddim` in few steps.
    Source: Geng et al., "Mean flows for one-step generative modeling", 2025, eq. 10 and 11, section 4.3. For the mean
    direction: Geng et al., "Improved mean flows: on the challenges of fastforward generative models", 2025, section 4.
    """

    pairs: float = 0.25
    power: float = 1.0
    mean: float = -0.4
    sd: float = 1.0
    direction: Literal["item", "mean"] = "item"

    def __post_init__(self) -> None:
        if self.direction not in ("item", "mean"):
            raise ValueError(f'MeanFlow takes the direction of the "item" or the "mean"; found {self.direction!r}')

    @property
    def proper(self) -> bool:
        return False

    @property
    def cites(self) -> tuple[str, ...]:
        return ("meanflow",) if self.direction == "item" else ("meanflow", "improved_meanflow")

    def fits(self, head: object, process: object) -> None:
        if not (isinstance(head, MapHead) and isinstance(process, Flow)):
            raise ValueError(
                f"the loss MeanFlow needs a MapHead and the process Flow; found {type(head).__name__} and "
                f"{type(process).__name__}"
            )

    def ask(self, denoiser: Denoiser, noised: Noised, rng: Rng, stage: Stage) -> Tensor:
        process = noised.process
        if not isinstance(process, Flow) or not getattr(denoiser, "two_times", False):
            raise ValueError(
                f"MeanFlow needs the process Flow and a flow map (MapHead); found {type(process).__name__} and "
                f"a denoiser of {'two times' if getattr(denoiser, 'two_times', False) else 'one time'}"
            )
        _, u, target = self.velocities(denoiser, noised, rng)
        error = ((u - target) ** 2).flatten(1).sum(1)
        return error / (error.detach() + 0.01) ** self.power

    def velocities(self, denoiser: Denoiser, noised: Noised, rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
        """(x_t, u, u_tgt), the last without gradient. For the true map u - u_tgt has mean 0 at every x_t."""
        other = self._other(len(noised.t), rng).to(noised.t)
        paired, chosen = chosen_pairs(rng.child("pair").uniform((len(noised.t),)).to(noised.t.device), self.pairs)
        t, r = torch.maximum(noised.t, other), torch.minimum(noised.t, other)
        t, r = torch.where(paired, t, noised.t), torch.where(paired, r, noised.t)
        xt, v = noised.at(t).xt, noised.z - noised.x0
        u = self._velocity(denoiser, noised.cond)(xt, t, r)
        target = v.clone()
        if len(chosen):
            moved = self._moved(denoiser, noised.take(chosen), xt[chosen], t[chosen], r[chosen], v[chosen])
            target[chosen] = v[chosen] - column(t[chosen] - r[chosen], moved) * moved
        return xt, u, target

    def _other(self, items: int, rng: Rng) -> Tensor:
        return torch.sigmoid(self.mean + self.sd * rng.child("other").normal((items,), torch.float64))

    @staticmethod
    def _velocity(denoiser: Denoiser, cond: Cond | Tensor | None) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def velocity(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
            mean = need(denoiser(x, t, cond, to=r), HasMean, "mean flow").mean  # type: ignore[call-arg]
            return (x - mean) / column(t, x)

        return velocity

    def _moved(self, denoiser: Denoiser, noised: Noised, xt: Tensor, t: Tensor, r: Tensor, v: Tensor) -> Tensor:
        """d/dt u(x_t, r, t) along the straight path of v, or of the mean velocity: one forward-mode product, without
        gradient."""
        velocity = self._velocity(denoiser, noised.cond)
        # autocast's copies of the weights lose the forward-mode derivative, and in bf16 it would be all noise
        with torch.no_grad(), torch.autocast(xt.device.type, enabled=False):
            along = v if self.direction == "item" else velocity(xt, t, t)
            moved = torch.func.jvp(lambda x, time: velocity(x, time, r), (xt, t), (along, torch.ones_like(t)))[1]
            return cast(Tensor, moved)
