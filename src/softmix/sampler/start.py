"""Where to start. Laws of x at a time when something is known of the image already.

A start is a function (process, shape, t, rng) -> x [*shape] at time t, for `sample(..., start=..., at=t)`, which calls
it once, for all items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ..denoiser.exact import gaussian_flow
from ..process import Gaussian, one_clock
from ..rng import Rng

if TYPE_CHECKING:
    pass


class Start(Protocol):
    """x at time t, as if it came from a forward process."""

    def __call__(self, process: Gaussian, shape: Sequence[int], t: float, rng: Rng) -> Tensor: ...


def noised(x0: Tensor | Callable[[int, Rng], Tensor]) -> Start:
    """x_t = alpha_t x0 + sigma_t z for a first estimate x0 [B, ...] or [1, ...], or for draws x0(n, rng) of a law.

    With a reconstruction for x0 it is Come-Closer-Diffuse-Faster's start (and SDEdit's); with draws of a law that is
    fitted to the data, the auxiliary start that lets the diffusion time be short.
    Source: Chung, Sim & Ye, "Come-closer-diffuse-faster", CVPR 2022; Franzese et al., "How much is enough?", Entropy
    2023.
    """

    def start(process: Gaussian, shape: Sequence[int], t: float, rng: Rng) -> Tensor:
        first = x0(shape[0], rng.child("x0")) if callable(x0) else x0.to(rng.device)
        if len(first) not in (1, shape[0]):
            raise ValueError(
                f"{shape[0]} items were asked for and {len(first)} first estimates given: give one or as many"
            )
        first = first.reshape(len(first), *shape[1:]).expand(*shape)
        # a process of another family, such as one of tokens, has a type of its own
        first = first.to(torch.get_default_dtype()) if hasattr(process, "sigma") else first
        return process.noise(first, t, rng).xt

    return start


def contraction(process: Gaussian, t: float, s: float = 0.0, variance: float | None = None) -> float:
    """What ancestral steps from t to s, however many, leave of an error of x_t, with the same noise on both sides.

        kept = sigma_s^2 alpha_t / (sigma_t^2 alpha_s)

    of a model that knows x0, as in the paper, and of one that knows the mean of Gaussian data

        kept + (alpha_s - kept alpha_t) alpha_t l / (alpha_t^2 l + sigma_t^2)

    in a direction in which they have variance l = `variance`. An error of a first estimate x0' comes to alpha_t
    times this. Above 1 it grows. Projections onto measurements only make it smaller.
    Source: Chung, Sim & Ye, CVPR 2022, theorem 1, with the factors of independent noise left out.
    """
    process = one_clock(process, "contraction")
    alpha_t, sigma_t, alpha_s, sigma_s = (float(part(at)) for at in (t, s) for part in (process.alpha, process.sigma))
    kept = sigma_s**2 * alpha_t / (sigma_t**2 * alpha_s)
    if variance is None:
        return kept
    clean = alpha_s - kept * alpha_t
    return kept + clean * alpha_t * variance / (alpha_t**2 * variance + sigma_t**2)


class GaussianFit:
    """The Gaussian N(m, U diag(l) U^T) of a data set's first two moments: its flow in closed form, and draws.

    A learned flow follows it while noise is high: the outline, in the order of the variances l, and details later. As
    a `Start` it takes pure noise to time t in no evaluations (teleportation).
    Source: Wang & Vastola, "Diffusion models generate images like painters", 2023, and "The unreasonable
    effectiveness of Gaussian score approximation", TMLR 2024.
    """

    def __init__(self, mean: Tensor, covariance: Tensor):
        self.mean = mean.double()
        variances, self.vectors = torch.linalg.eigh(covariance.double())
        self.variances = variances.clamp(min=0)

    @classmethod
    def of(cls, x0: Tensor) -> GaussianFit:
        """Of data [N, ...]."""
        flat = x0.flatten(1).double()
        return cls(flat.mean(0), torch.cov(flat.T, correction=0))

    def flow(self, process: Gaussian, x: Tensor, t: Tensor | float, s: Tensor | float) -> Tensor:
        """From x [B, ...] at time t to time s."""
        process = one_clock(process, "an GaussianFit")
        mean, variances, vectors = (part.to(x.device) for part in (self.mean, self.variances, self.vectors))
        moved = gaussian_flow(process, mean, variances, vectors, x.flatten(1).double(), t, s)
        return moved.reshape(x.shape).to(x.dtype)

    def draw(self, n: int, rng: Rng) -> Tensor:
        """n draws, [n, D]: what `noised` takes."""
        z = rng.normal((n, len(self.mean)), torch.float64)
        return self.mean.to(z) + (z * self.variances.sqrt().to(z)) @ self.vectors.mT.to(z)

    def divergence(self, process: Gaussian, t: float) -> float:
        """KL(N(alpha m, alpha^2 C + sigma^2) || N(0, sigma_1^2)) in nats: what starting from pure noise at t gives
        away."""
        process = one_clock(process, "an GaussianFit")
        alpha, total = float(process.alpha(t)), float(process.sigma(1.0)) ** 2
        spread = (alpha**2 * self.variances + process.sigma(t) ** 2) / total
        shift = alpha**2 * float(self.mean.square().sum()) / total
        return (float((spread - 1 - spread.log()).sum()) + shift) / 2

    def __call__(self, process: Gaussian, shape: Sequence[int], t: float, rng: Rng) -> Tensor:
        return self.flow(process, process.prior(shape, rng), 1.0, t)


class SemiDiscreteOT:
    """DPM-OT's start: the semi-discrete optimal map from noise to stored targets, then noise of the level that is left.

    T(z) = y_j with j = argmax <z, y_j> + h_j for uniform z: the map from noise to `targets` [N, ...] that moves the
    least, each target with a share of 1 / N. h is found by stochastic descent (`fit`). At time t it gives alpha_t T(z)
    + sigma_t noise.

    By construction the law of T(z) is uniform over the targets, whatever the map: `shuffled` draws the index alone,
    and is the control. Nothing can be drawn that was not stored.
    Source: Li et al., "DPM-OT", ICCV 2023; Gu et al., "Variational principles for Minkowski type problems", 2016.
    """

    def __init__(self, targets: Tensor, h: Tensor | None = None, shuffled: bool = False):
        self.targets = targets
        self.flat = targets.flatten(1).float()
        self.h = torch.zeros(len(targets)) if h is None else h
        self.shuffled = shuffled

    def index(self, z: Tensor) -> Tensor:
        """Which target each noise [B, D] goes to."""
        flat, h = self.flat.T.to(z.device), self.h.to(z.device)
        return torch.cat([(part @ flat + h).argmax(1) for part in z.split(1024)])

    def shares(self, rng: Rng, draws: int) -> Tensor:
        """What part of uniform noise goes to each target, [N], by `draws` of it. rng serves one item."""
        z = rng.uniform((1, draws * self.flat.shape[1])).reshape(draws, -1)
        return torch.bincount(self.index(z), minlength=len(self.h)).to(self.h) / draws

    def fit(self, rng: Rng, steps: int = 1500, draws: int = 2000, rate: float = 0.1) -> SemiDiscreteOT:
        """h by Adam on the convex energy E max_j(<z, y_j> + h_j) - mean h, whose gradient is shares - 1 / N.

        The noise of the shares, sqrt(1 / draws) in norm, is the floor of what can be reached; the rate falls to 0.
        """
        h = torch.nn.Parameter(self.h.clone())
        optimiser = torch.optim.Adam([h], rate)
        fall = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: 0.5 * (1 + math.cos(math.pi * k / steps)))
        road = SemiDiscreteOT(self.targets, h.detach(), self.shuffled)
        for _ in range(steps):
            h.grad = road.shares(rng, draws) - 1 / len(h)
            optimiser.step()
            fall.step()
            with torch.no_grad():
                h.sub_(h.mean())
        return road

    def __call__(self, process: Gaussian, shape: Sequence[int], t: float, rng: Rng) -> Tensor:
        return process.noise(self.drawn(process, shape, t, rng), t, rng).xt

    def drawn(self, process: Gaussian, shape: Sequence[int], t: float, rng: Rng) -> Tensor:
        """T(z) as it is, [*shape]: the authors' own start, whose targets are stored with noise of the level t, once and
        for all. A sampler without noise then makes as many different images as there are targets."""
        if self.shuffled:
            chosen = rng.integers(len(self.h), (shape[0], 1))[:, 0]
        else:
            chosen = self.index(rng.uniform((shape[0], self.flat.shape[1])))
        there = self.targets.to(chosen.device)[chosen].reshape(*shape)
        return there.to(torch.get_default_dtype())
