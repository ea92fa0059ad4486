"""Volumes by a model of their slices: the model for every slice, and total variation across them."""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..cond import Cond
from ..denoiser import Denoiser, Wrap
from ..denoiser.wrap import Wrapped
from ..memory import in_batches
from ..posterior import HasMean, Posterior, need
from ..process import Gaussian, one_clock
from ..rng import Rng
from ..sampler import Ask, Sampler
from ..shape import take
from .each_slice import from_slices, to_slices
from .operator import LinearOperator
from .streams import streams_of_parts
from .total_variation import LeastSquares, SplitVariables, TotalVariation, check_counts


class SlicesPosterior(Posterior):
    """q(x0 | x_t) of volumes with independent slices, from the posteriors of batches of slices.

    parts : the posteriors, in the order of `to_slices`.
    sizes : the number of slices of each.
    depth : of a volume.
    """

    def __init__(self, parts: list[Posterior], sizes: list[int], depth: int):
        self.parts, self.sizes, self.depth = parts, sizes, depth

    def sample(self, rng: Rng) -> Tensor:
        streams, low, found = streams_of_parts(rng, self.depth, "slices"), 0, []
        for part, size in zip(self.parts, self.sizes, strict=True):
            found.append(part.sample(streams.take(slice(low, low + size))))
            low += size
        return from_slices(torch.cat(found), self.depth)


class SlicesMean(SlicesPosterior, HasMean):
    """A `SlicesPosterior` of posteriors with a mean."""

    @property
    def mean(self) -> Tensor:
        return from_slices(torch.cat([need(part, HasMean, "slice_wise").mean for part in self.parts]), self.depth)


class _SliceWise(Wrapped):
    """A denoiser of images that answers for volumes."""

    def __init__(self, inner: Denoiser, depth: int | None, limit: int):
        one_clock(inner.process, "slice_wise")
        super().__init__(inner, self._slices)
        own = getattr(inner, "shape", None)
        # `sample` takes the shape of a volume from here
        self.shape = None if depth is None or own is None else (own[0], depth, *own[1:])
        self.depth, self.limit = depth, limit

    def _slices(self, inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None) -> SlicesPosterior:
        if xt.ndim != 5 or (self.depth is not None and xt.shape[2] != self.depth):
            wanted = "D" if self.depth is None else self.depth
            raise ValueError(f"slice_wise takes volumes [B, C, {wanted}, H, W], and found {list(xt.shape)}")
        slices, depth = to_slices(xt), xt.shape[2]
        # the item of each slice
        owner = torch.arange(len(xt), device=xt.device).repeat_interleave(depth)
        each = t[owner.to(t.device)] if isinstance(t, Tensor) and t.ndim == 1 else t

        def answer(low: int, high: int) -> tuple[Posterior, int]:
            time = each[low:high] if isinstance(each, Tensor) and each.ndim == 1 else each
            return inner(slices[low:high], time, take(cond, owner[low:high])), high - low

        parts, sizes = zip(*in_batches(answer, len(slices), self.limit, "slice"), strict=True)
        kind = SlicesMean if all(isinstance(part, HasMean) for part in parts) else SlicesPosterior
        return kind(list(parts), list(sizes), depth)


def slice_wise(depth: int | None = None, limit: int = 256) -> Wrap:
    """A denoiser of images [C, H, W] for volumes [B, C, D, H, W]: every slice along D is denoised alone.

        q(x0 | x_t) = prod_d q(x0_d | x_t,d)

    depth : D, for `sample(...)`, which takes the shape of a volume from it; None for any depth.
    limit : the largest number of slices in one evaluation. It is halved, with a warning, if memory is too small.

    A time or a condition for each volume [B] holds for all of its slices. The result has a mean and samples if that of
    the images has; the samples of slices are independent. Alone, the wrap makes volumes of unrelated slices: something
    must tie them, such as `mbir`.

    Raises ValueError for other shapes and for a limit below 1; TypeError for a process with a frame, or with an alpha
    for each element.
    When to choose: for volumes, with a model of slices, because a model of volumes needs far more data and memory.
    Source: Chung et al., "Solving 3D inverse problems using pre-trained 2D diffusion models", CVPR 2023, section 3.
    """
    if limit < 1 or (depth is not None and depth < 1):
        raise ValueError(f"a limit of {limit} slices and a depth of {depth} were given; take at least 1")
    return lambda denoiser: _SliceWise(denoiser, depth, limit)


class _Consistency:
    """Iterations of ADMM for a state at some noise level, with variables that are carried from level to level."""

    def __init__(
        self, operator: LinearOperator, y: Tensor, variation: TotalVariation, iterations: int, cg: int, warm: bool
    ):
        self.data, self.variation = LeastSquares(operator, y), variation
        self.iterations, self.cg, self.warm = iterations, cg, warm
        self.split: SplitVariables | None = None

    def __call__(self, x: Tensor) -> Tensor:
        split = self.split if self.warm and self.split is not None else self.variation.begin(x)
        for _ in range(self.iterations):
            x, split = self.variation.step(self.data, x, split, self.cg)
        self.split = split
        return x


def mbir(
    operator: LinearOperator,
    y: Tensor,
    variation: TotalVariation,
    *,
    iterations: int = 1,
    cg: int = 1,
    corrections: int = 1,
    snr: float = 0.16,
    eta: float = 1.0,
    warm: bool = True,
) -> Sampler:
    """DiffusionMBIR: after each step of diffusion, one step of ADMM towards y and small differences between slices.

        for t, s of the grid:
            x <- step over the bridge from t to s, with x0 at the mean         (predictor)
            x <- Langevin at s, `corrections` times                            (corrector)
            x / alpha_s <- ADMM for |y - A x|^2 / (2 |A|^2) + lambda |D_z x|_1, from x / alpha_s and the v, w of before

    operator : A, on volumes, such as `EachSlice(A, D)`, or on images.
    y : [B, *measured], or one row for all.
    variation : the penalty; `TotalVariation(weight, rho)` is that along z.
    iterations, cg : of ADMM at each noise level, and of conjugate gradients in each; 1 and 1 in the paper. More of them
        pull to the minimiser of the two terms, and the prior is lost where A and D decide x.
    corrections, snr : the number of Langevin steps at each level, and their size: |step| / |noise| is about snr.
    eta : of the predictor, the share of fresh noise.
    warm : carry v and w from one noise level to the next, as in the paper. Without it ADMM begins anew at each level,
        and needs two or more iterations, because the weight has no effect in the first.

    The paper has a process with alpha = 1 (VE). For others the same steps are done on x / alpha, which is a state of
    such a process. Its predictor adds the noise of the reverse-diffusion rule, sqrt(sigma_t^2 - sigma_s^2); this one
    adds that of the bridge, which has exact marginals. The steps of the corrector have a size for each item, and not
    for the batch.

    v holds the differences of the *noisy* state one level before. So the grid must be fine (the paper has 2,000 steps),
    or rho small, else x is pulled to old noise. `mbir_of_means` has no such limit.

    A call costs 1 + corrections evaluations for a level. The result is no sample of a posterior given y.
    Raises ValueError for other numbers and shapes; TypeError for a process without one clock or a posterior without a
    mean.
    Source: Chung, Ryu, McCann, Klasky & Ye, "Solving 3D inverse problems using pre-trained 2D diffusion models", CVPR
    2023, section 3, and the authors' code for what is carried from level to level.
    When to choose: for volumes with few measurements and a model of slices, with many steps. With few, `mbir_of_means`.
    """
    _check(iterations, cg, warm)
    if corrections < 0 or not snr > 0:
        raise ValueError(f"corrections = {corrections} and snr = {snr} were given; give 0 or more, and above 0")

    def sampler(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
        one_clock(process, "mbir")
        consistent = _Consistency(operator, _fitting(y, operator, x), variation, iterations, cg, warm)
        for t, s in pairwise(grid):
            posterior = need((yield Ask(t, x)), HasMean, "mbir")
            x = process.bridge(x, posterior.mean, t, s, rng, eta=eta)
            for _ in range(corrections if s > 0 else 0):
                posterior = need((yield Ask(s, x)), HasMean, "mbir")
                x = _langevin(process, x, posterior.mean, float(s), snr, rng)
            alpha = float(process.alpha(float(s)))
            x = alpha * consistent(x / alpha)
        return x

    return sampler


def mbir_of_means(
    operator: LinearOperator,
    y: Tensor,
    variation: TotalVariation,
    *,
    iterations: int = 1,
    cg: int = 5,
    eta: float = 0.85,
    warm: bool = True,
) -> Sampler:
    """The steps of `mbir` on the mean of x0 given x_t, not on the noisy state:

        for t, s of the grid:
            x0 <- ADMM for |y - A x0|^2 / (2 |A|^2) + lambda |D_z x0|_1, from E[x0 | x_t] and the v, w of before
            x  <- step over the bridge from t to s, with this x0

    The differences of a mean have the size of those of the data at every noise level. So lambda / rho means the same at
    all of them, and v of the level before is near. All other arguments are those of `mbir`.

    A call costs one evaluation for a level. The result is no sample of a posterior given y.
    Source: Chung, Lee & Ye, "Decomposed diffusion sampler for accelerating large-scale inverse problems", ICLR 2024,
    section 3. Theirs takes the noise of the model for the step; the bridge takes (x_t - alpha x0) /
    sigma.
    When to choose: for volumes with few measurements and a model of slices, in 20 to 200 steps.
    """
    _check(iterations, cg, warm)

    def sampler(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
        consistent = _Consistency(operator, _fitting(y, operator, x), variation, iterations, cg, warm)
        for t, s in pairwise(grid):
            posterior = need((yield Ask(t, x)), HasMean, "mbir_of_means")
            x = process.bridge(x, consistent(posterior.mean), t, s, rng, eta=eta)
        return x

    return sampler


def _langevin(process: Gaussian, x: Tensor, mean: Tensor, s: float, snr: float, rng: Rng) -> Tensor:
    """x + e score + sqrt(2 e) z in the coordinates x / alpha, with e = 2 (snr |z| / |score|)^2 for each item."""
    alpha, sigma = (float(part) for part in process.levels(s))
    score = (alpha * mean - x) * (alpha / sigma**2)
    z = rng.normal(x.shape, x.dtype).to(x.device)
    step = 2 * (snr * _length(z) / _length(score).clamp(min=torch.finfo(x.dtype).tiny)).square()
    return x + alpha * (step * score + (2 * step).sqrt() * z)


def _length(x: Tensor) -> Tensor:
    """|x| of each item, [B, 1, ..., 1]."""
    return x.flatten(1).norm(dim=1).reshape(-1, *(1,) * (x.ndim - 1))


def _check(iterations: int, cg: int, warm: bool) -> None:
    check_counts(iterations, cg)
    if not warm and iterations < 2:
        raise ValueError(
            "warm=False was given with one iteration of ADMM, in which the weight of the penalty has no effect: take "
            "iterations=2 or more, or warm=True"
        )


def _fitting(y: Tensor, operator: LinearOperator, x: Tensor) -> Tensor:
    """y on the device and in the precision of x. Raises ValueError for shapes that do not fit."""
    if tuple(x.shape[1:]) != operator.shape or tuple(y.shape[1:]) != operator.measured or len(y) not in (1, len(x)):
        raise ValueError(
            f"x has shape {list(x.shape)} and y {list(y.shape)}, and {type(operator).__name__} measures items "
            f"{list(operator.shape)} as {list(operator.measured)}: give y with one row, or one for each item, and run "
            "all items in one batch, `sample(..., batch=n)`"
        )
    kind: dict[str, Any] = {} if y.is_complex() else {"dtype": x.dtype}
    return y.to(x.device, **kind)
