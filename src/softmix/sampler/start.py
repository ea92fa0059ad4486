"""Starts: laws of x at a time t < 1, for sampling that does not begin at pure noise.

A start is a function (process, shape, t, rng) -> x [*shape] at time t. `sample(..., start=..., at=t)` calls it once,
for all items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..denoiser.exact import gaussian_flow
from ..process import Gaussian, one_clock, require_independent
from ..rng import Rng
from .transport import assigned, fit_heights, shares


class Start(Protocol):
    """Draws x at time t, with the noise level of a forward process."""

    def __call__(self, process: Gaussian, shape: Sequence[int], t: float, rng: Rng) -> Tensor: ...


def noised(x0: Tensor | Callable[[int, Rng], Tensor]) -> Start:
    """Start from a noised estimate, or from noised draws of a law: x_t = alpha_t x0 + sigma_t z.

    x0 : a first estimate, [B, ...] or [1, ...]; or a function (n, rng) that draws n items of a law.

    With a reconstruction for x0 it is the start of Come-Closer-Diffuse-Faster and of SDEdit. With draws of a law that
    is fitted to the data it is the auxiliary start that permits a short diffusion time.
    Raises ValueError for a number of estimates that is neither 1 nor the number of items.
    When to choose: if there is a first estimate of the result, such as a rough reconstruction or a sketch.
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
    """The factor by which ancestral steps from t to s shrink an error of x_t, for any number of steps.

    Two runs have the same noise. Their distance at s is the factor times their distance at t. Of a model that knows x0,
    as in the paper, it is

        kept = sigma_s^2 alpha_t / (sigma_t^2 alpha_s)

    and of a model that knows the mean of Gaussian data, in a direction of variance l,

        kept + (alpha_s - kept alpha_t) alpha_t l / (alpha_t^2 l + sigma_t^2)

    t, s : times, s < t.
    variance : l, or None for a model that knows x0.

    An error of a first estimate x0' comes to alpha_t times this. Above 1 the error grows. Projections onto measurements
    only shrink it.
    Source: Chung, Sim & Ye, CVPR 2022, theorem 1, without the factors of independent noise.
    """
    process = one_clock(process, "contraction")
    require_independent(process, "contraction")
    clean, kept, _ = (float(share) for share in process.shares(t, s))
    if variance is None:
        return kept
    alpha_t, sigma_t = (float(part) for part in process.levels(t))
    return kept + clean * alpha_t * variance / (alpha_t**2 * variance + sigma_t**2)


class GaussianFit:
    """The Gaussian N(m, U diag(l) U^T) of the first two moments of data: its flow in closed form, and draws.

    mean : m, [D].
    covariance : U diag(l) U^T, [D, D].

    A learned flow follows it while noise is high: first the outline, in the order of the variances l, then details. As
    a `Start` it takes pure noise to time t at no evaluation (teleportation).
    When to choose: to leave out the noisiest steps, down to a logsnr of about -6 on images (`softmix papers painters`).
    Source: Wang & Vastola, "Diffusion models generate images like painters", 2023, and "The unreasonable
    effectiveness of Gaussian score approximation", TMLR 2024.
    """

    def __init__(self, mean: Tensor, covariance: Tensor):
        self.mean = mean.double()
        variances, self.vectors = torch.linalg.eigh(covariance.double())
        self.variances = variances.clamp(min=0)

    @classmethod
    def of(cls, x0: Tensor) -> GaussianFit:
        """Fit it to data [N, ...]."""
        flat = x0.flatten(1).double()
        return cls(flat.mean(0), torch.cov(flat.T, correction=0))

    def flow(self, process: Gaussian, x: Tensor, t: Tensor | float, s: Tensor | float) -> Tensor:
        """Follow the probability-flow ODE of this Gaussian from x [B, ...] at time t to time s."""
        process = one_clock(process, "a GaussianFit")
        require_independent(process, "a GaussianFit")
        mean, variances, vectors = (part.to(x.device) for part in (self.mean, self.variances, self.vectors))
        moved = gaussian_flow(process, mean, variances, vectors, x.flatten(1).double(), t, s)
        return moved.reshape(x.shape).to(x.dtype)

    def draw(self, n: int, rng: Rng) -> Tensor:
        """Draw n items, [n, D]; `noised` takes this function."""
        z = rng.normal((n, len(self.mean)), torch.float64)
        return self.mean.to(z) + (z * self.variances.sqrt().to(z)) @ self.vectors.mT.to(z)

    def divergence(self, process: Gaussian, t: float) -> float:
        """KL(N(alpha m, alpha^2 C + sigma^2) || N(0, sigma_1^2)) in nats: the loss of a start from pure noise at t."""
        process = one_clock(process, "a GaussianFit")
        require_independent(process, "a GaussianFit")
        alpha, total = float(process.alpha(t)), float(process.sigma(1.0)) ** 2
        spread = (alpha**2 * self.variances + process.sigma(t) ** 2) / total
        shift = alpha**2 * float(self.mean.square().sum()) / total
        return (float((spread - 1 - spread.log()).sum()) + shift) / 2

    def __call__(self, process: Gaussian, shape: Sequence[int], t: float, rng: Rng) -> Tensor:
        return self.flow(process, process.prior(shape, rng), 1.0, t)


class SemiDiscreteOT:
    """The start of DPM-OT: the optimal map from noise to stored targets, then noise of the level t.

        T(z) = y_j,  j = argmax <z, y_j> + h_j,  z uniform,    x_t = alpha_t T(z) + sigma_t noise.

    With fitted heights h (`fit`) each target has a share of 1/N, and no map of these shares moves the noise less.

    targets : y, [N, ...].
    h : the heights, [N]; by default 0.
    shuffled : draw the index j uniformly. This is the control: for any map with equal shares T(z) is uniform over the
        targets.

    Only stored targets can be drawn.
    When to choose: only to test the paper; a target drawn at random does as well (`softmix papers dpm_ot`).
    Source: Li et al., "DPM-OT", ICCV 2023; Gu et al., "Variational principles for Minkowski type problems", 2016.
    """

    def __init__(self, targets: Tensor, h: Tensor | None = None, shuffled: bool = False):
        self.targets = targets
        self.flat = targets.flatten(1).float()
        self.h = torch.zeros(len(targets), device=targets.device) if h is None else h
        self.shuffled = shuffled

    def index(self, z: Tensor) -> Tensor:
        """The index of the target of each noise z [B, D]."""
        return assigned(z, self.flat, self.h)

    def shares(self, rng: Rng, draws: int) -> Tensor:
        """The share of uniform noise that goes to each target, [N], from `draws` noises. rng : of one item."""
        return shares(self.flat, self.h, rng, draws)

    def fit(self, rng: Rng, steps: int = 1500, draws: int = 2000, rate: float = 0.1) -> SemiDiscreteOT:
        """The same targets with fitted heights; see `transport.fit_heights` for the parameters."""
        return SemiDiscreteOT(self.targets, fit_heights(self.flat, self.h, rng, steps, draws, rate), self.shuffled)

    def __call__(self, process: Gaussian, shape: Sequence[int], t: float, rng: Rng) -> Tensor:
        return process.noise(self.drawn(process, shape, t, rng), t, rng).xt

    def drawn(self, process: Gaussian, shape: Sequence[int], t: float, rng: Rng) -> Tensor:
        """T(z) without noise, [*shape].

        It is the start of the authors: their targets are stored with noise of the level t, once and for all. A sampler
        without noise then makes only as many different images as there are targets.
        """
        if self.shuffled:
            chosen = rng.integers(len(self.h), (shape[0], 1))[:, 0]
        else:
            chosen = self.index(rng.uniform((shape[0], self.flat.shape[1])))
        return self.targets.to(chosen.device)[chosen].reshape(*shape).to(torch.get_default_dtype())
