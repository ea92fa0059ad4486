"""Inductive moment matching: a flow map learned by comparing two laws at the end of a step.

`mmd` is the estimate of the squared maximum mean discrepancy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..denoiser import Denoiser, MapHead, Suits
from ..posterior import HasMean, need
from ..process import Gaussian, Noised, one_clock
from ..rng import Rng
from ..shape import column
from .contract import Stage


def mmd(a: Tensor, b: Tensor, bandwidth: Tensor) -> Tensor:
    """The squared maximum mean discrepancy of two sets of M items, for the Laplace kernel:

        (1 / M^2) sum_jk [ k(a_j, a_k) + k(b_j, b_k) - 2 k(a_j, b_k) ],   k(x, y) = exp(-|x - y| / (bandwidth D))

    The pairs j = k count too, so that it is at least 0, and 0 for equal sets. |.| is the norm over all D elements.

    a, b : [G, M, ...], G pairs of sets.
    bandwidth : above 0, [G].

    Returns [G], in float32 at least.
    """
    real = torch.promote_types(a.dtype, torch.float32)
    a, b = a.flatten(2).to(real), b.flatten(2).to(real)
    rate = 1 / (bandwidth.to(a) * a.shape[2])[:, None, None]

    def kernel_less_one(x: Tensor, y: Tensor) -> Tensor:
        # the ones of the three terms cancel; without them small distances keep their digits
        return torch.expm1(-rate * torch.linalg.vector_norm(x[:, :, None] - y[:, None], dim=3))

    return (kernel_less_one(a, a) + kernel_less_one(b, b) - 2 * kernel_less_one(a, b)).mean((1, 2))


@dataclass(frozen=True)
class InductiveMomentMatching:
    """w(s, t) MMD^2(law of f(x_t, s, t), law of stopgrad f(x_r, s, r)) over groups of M items with the same s, r, t.

    f is the jump of a flow map (`MapHead`): the step of DDIM from t to s with the x0 of the network. In the symbols of
    the paper, algorithm 1 (x the data, eps the noise, s <= r < t), for each group:

        x_t = alpha_t x + sigma_t eps,   x_r = alpha_r x + sigma_r eps
        y_j = f_theta(x_t^j, s, t),      y'_j = stopgrad f_theta(x_r^j, s, r)
        L     = w(s, t) (1 / M^2) sum_jk [ k(y_j, y_k) + k(y'_j, y'_k) - 2 k(y_j, y'_k) ]
        r     = max(s, eta^-1(eta_t - decrement)),   eta = sigma / alpha
        k(y, y') = exp(-|y - y'| / (c_out D))
        c_out = (alpha_s sigma_t - alpha_t sigma_s) / sqrt(alpha_t^2 + sigma_t^2)
        w     = (1/2) sigmoid(shift - lambda_t) (-d lambda_t / dt) alpha_t^power / (alpha_t^2 + sigma_t^2)

    lambda is logsnr and D the number of elements. If r = s the target is x_s itself, so that everything is learned from
    data, by induction from short jumps to long ones. The groups are consecutive items of a batch. t is the time of the
    first item of its group, and s is uniform in (0, t). The items of a group may have different conditions. The last
    group of a batch is smaller if M does not divide the batch.

    Two things are added here. A share of the groups has s = 0, since every way to sample ends there and the embedding
    of the clean end is a point of its own. Above eta = `top` the step to r begins at `top`.

    group : M, at least 1. With M = 1 it is a consistency loss. The paper has 4. On 8 x 8 digits 16 is better at 1 and 2
        evaluations, and as good at 4 and 8.
    decrement : of eta, from t to r. The paper has 160 / 2^12 and 160 / 2^15, and noise with the standard deviation of
        the data.
    power, shift : a and b of the weight. The paper has 1 and 2. On 8 x 8 digits 2 is better at 1 to 8 evaluations.
    clean : the share of the groups with s = 0.
    top : the largest eta at which a step to r begins.

    When to choose: to sample by `ddim` in few steps, by a loss without derivatives of the network in time. Train with t
    uniform (`Times`). `Flow(end=1/160)` has the range of times of the paper. One batch holds whole groups, so it is
    never divided.
    Source: Zhou, Ermon & Song, "Inductive moment matching", ICML 2025, algorithm 1, section 4.2 and appendix C.
    """

    group: int = 16
    decrement: float = 160 / 2**12
    power: float = 2.0
    shift: float = 5.0
    clean: float = 0.25
    top: float = 160.0
    suits: ClassVar[Suits] = ("ddim", {})
    cites: ClassVar[tuple[str, ...]] = ("imm",)
    # it compares the items of a batch
    whole: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.group < 1 or not self.decrement > 0 or not self.top > self.decrement or not 0 <= self.clean <= 1:
            raise ValueError(
                "inductive moment matching needs groups of at least 1 item, a decrement above 0, a top above the "
                f"decrement, and a share `clean` from 0 to 1; found {self}"
            )

    @property
    def proper(self) -> bool:
        return False

    def fits(self, head: object, process: object) -> None:
        if not isinstance(head, MapHead):
            raise ValueError(f"the loss InductiveMomentMatching needs a MapHead; found {type(head).__name__}")

    def ask(self, denoiser: Denoiser, noised: Noised, rng: Rng, stage: Stage) -> Tensor:
        process = one_clock(noised.process, "inductive moment matching")
        if not getattr(denoiser, "two_times", False):
            raise ValueError(
                "inductive moment matching needs a flow map (MapHead); found a denoiser of one time: "
                f"{type(denoiser).__name__}"
            )
        s, r, t = self.times(process, noised.t, rng)
        here, target = self.jumps(denoiser, noised, s, r, t)
        value = self.groups_mmd(here, target, self.bandwidth(process, s, t))
        return self.weight(process, t).to(value) * value

    def times(self, process: Gaussian, t: Tensor, rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
        """(s, r, t) with s <= r < t, equal within each group.

        t : the time of each item, [B].
        """
        first = torch.arange(len(t), device=t.device) // self.group * self.group
        share, clean = (rng.child(role).uniform((len(t),), torch.float64).to(t) for role in ("end", "clean"))
        t = t[first]
        s = torch.where(clean[first] < self.clean, torch.zeros_like(t), t * share[first])
        return s, self.before(process, t).maximum(s), t

    def before(self, process: Gaussian, t: Tensor) -> Tensor:
        """The time r < t at which sigma / alpha is smaller by the decrement; 0 if it would be negative."""
        eta = (-process.logsnr(t) / 2).exp().clamp(max=self.top) - self.decrement
        inside = eta > 0
        r = process.time(-2 * torch.where(inside, eta, torch.ones_like(eta)).log())
        return torch.where(inside, r, torch.zeros_like(r)).minimum(t)

    def jumps(self, denoiser: Denoiser, noised: Noised, s: Tensor, r: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """f(x_t, s, t), and f(x_r, s, r) without gradient; both [B, ...]."""
        here = self._jump(denoiser, noised.at(t), s)
        with torch.no_grad():
            target = self._jump(denoiser, noised.at(r), s)
            # there is nothing to learn about a step of no length, and at r = 0 its formula is 0 / 0
            return here, torch.where(column(r > s, target) > 0, target, noised.at(s).xt)

    @staticmethod
    def _jump(denoiser: Denoiser, noised: Noised, s: Tensor) -> Tensor:
        posterior = denoiser(noised.xt, noised.t, noised.cond, to=s)  # type: ignore[call-arg]
        mean = need(posterior, HasMean, "inductive moment matching").mean
        process = one_clock(noised.process, "inductive moment matching")
        return process.transfer(noised.xt, mean, noised.t, s)

    def groups_mmd(self, here: Tensor, target: Tensor, bandwidth: Tensor) -> Tensor:
        """The squared discrepancy of each group, at each of its items, [B]."""
        whole = len(here) // self.group * self.group
        values = []
        for items, size in ((slice(0, whole), self.group), (slice(whole, None), len(here) - whole)):
            if len(here[items]):
                a, b = (x[items].unflatten(0, (-1, size)) for x in (here, target))
                values.append(mmd(a, b, bandwidth[items][::size])[:, None].expand(-1, size).flatten())
        return torch.cat(values)

    @staticmethod
    def bandwidth(process: Gaussian, s: Tensor, t: Tensor) -> Tensor:
        """c_out: the factor from a change of the network's output, of unit size, to a change of f(x_t, s, t); [B]."""
        (alpha_s, sigma_s), (alpha, sigma) = process.levels(s), process.levels(t)
        return (alpha_s * sigma - alpha * sigma_s) / (alpha**2 + sigma**2).sqrt()

    def weight(self, process: Gaussian, t: Tensor) -> Tensor:
        """w(s, t), which depends on t alone; [B]."""
        (alpha, sigma), (alpha_rate, sigma_rate) = process.levels(t), process.rates(t)
        rate = 2 * (sigma_rate / sigma - alpha_rate / alpha)
        level = alpha**self.power / (alpha**2 + sigma**2)
        return 0.5 * torch.sigmoid(self.shift - process.logsnr(t)) * rate * level
