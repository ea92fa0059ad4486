"""RED-diff on images: the estimates of one measurement by optimisation, by sampling, and without a learned model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoiser, wiener, within
from ..evaluate.calibration import calibration, psnr
from ..measure import (
    GaussianNoise,
    Instrument,
    Mask,
    Misfit,
    RedDiff,
    TotalVariation,
    admm_tv,
    blur,
    guided_by_mean,
    mean_misfit,
    red_diff,
    smaller,
)
from ..process import VP, few
from ..rng import Rng
from ..sampler import ancestral, sample
from .frame import Results
from .paper import Role

KINDS = ("coarse", "half", "blurred")
OURS, MANY = "RED-diff", "RED-diff, 4 runs"
RANDOM, CONST, LINEAR = "random order", "weight const", "Wiener denoiser in its place"
ONE, SIXTEEN = "DPS, one sample", "DPS, mean of 16"
INVERSE, TV, RIDGE, BEST = "A^+ y", "tuned total variation", "tuned ridge", "posterior mean"
ROLES: dict[str, Role] = {
    OURS: "ours",
    MANY: "ours",
    RANDOM: "control",
    CONST: "control",
    LINEAR: "control",
    ONE: "rival",
    SIXTEEN: "rival",
    INVERSE: "baseline",
    TV: "baseline",
    RIDGE: "baseline",
}
SIZES = (0.03, 0.1, 0.3, 1.0)
SCALES = (0.003, 0.01, 0.03, 0.1)
RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
VARIATIONS = (0.001, 0.003, 0.01, 0.03, 0.1)
DRAWS, RUNS, TRIED = 16, 4, 4


def instruments(size: int, factor: int) -> dict[str, Instrument]:
    """Super-resolution by a factor, the upper half of the image, and a blur of an eighth of the side."""
    shape = (1, size, size)
    upper = torch.arange(size, device="cpu")[None, :, None] < (size + 1) // 2
    return {
        "coarse": Instrument(smaller(factor, shape), GaussianNoise(0.05)),
        "half": Instrument(Mask(upper.expand(shape), shape), GaussianNoise(0.05)),
        "blurred": Instrument(blur(max(size / 8, 1.0), shape), GaussianNoise(0.1)),
    }


@dataclass(frozen=True, eq=False)
class Restorations:
    """Images [n, 1, S, S] to restore, others to tune on, a model of them, and the moments of the training images.

    steps : of RED-diff. sampling : steps of DPS.
    """

    truth: Tensor
    tuning: Tensor
    denoiser: Denoiser
    mean: Tensor
    covariance: Tensor
    steps: int
    sampling: int
    seed: int

    def compared(self, instrument: Instrument) -> dict[str, Tensor]:
        """Estimates [n, ...] or draws [m, n, ...] of each arm. Every parameter is chosen on the tuning images."""
        operator: Any = instrument.operator
        y, tune = (instrument.observe(x, Rng(self.seed, len(x), "y")) for x in (self.truth, self.tuning))
        found: dict[str, Tensor] = {}

        def tuned(name: str, run: Callable[[Tensor, float], Tensor], values: Sequence[float]) -> float:
            best = min(values, key=lambda each: _error(run(tune, each), self.tuning))
            found[name] = run(y, best)
            return best

        size = tuned(OURS, partial(self.optimised, operator, self.denoiser, {}), SIZES)
        found[MANY] = self.runs(operator, y, size)
        tuned(RANDOM, partial(self.optimised, operator, self.denoiser, {"order": "random", "average": 0.2}), SIZES)
        tuned(CONST, partial(self.optimised, operator, self.denoiser, {"weight": "const"}), SIZES)
        linear = wiener(VP(), self.mean, self.covariance)
        tuned(LINEAR, partial(self.optimised, operator, linear, {}), SIZES)
        # a scale at which one draw in ten diverges has a large error over several draws
        scale = min(SCALES, key=lambda each: _error(self.sampled(instrument, tune, each, TRIED), self.tuning))
        found[SIXTEEN] = self.sampled(instrument, y, scale, DRAWS)
        found[ONE] = found[SIXTEEN][0]
        found[INVERSE] = operator.pseudo_inverse(y)
        tuned(TV, lambda of, each: admm_tv(operator, of, TotalVariation(each, 10 * each, (-2, -1)), 80, 8), VARIATIONS)
        centre = self.mean.reshape(1, *self.truth.shape[1:]).to(self.truth)
        off = lambda of: operator.adjoint(of - operator(centre))  # noqa: E731
        tuned(RIDGE, lambda of, each: centre + operator.solve(off(of), each), RIDGES)
        return found

    def optimised(self, operator: Any, denoiser: Denoiser, more: dict[str, Any], y: Tensor, size: float) -> Tensor:
        """RED-diff from (A^T A + 0.01)^-1 A^T y: A^+ y of a blur is noise of size 10, which no rate of Adam undoes."""
        settings, start = RedDiff(steps=self.steps, size=size, **more), operator.solve(operator.adjoint(y), 0.01)
        misfit: Misfit = mean_misfit(operator, y)
        return red_diff(denoiser, misfit, start, Rng(self.seed, len(y), "red_diff"), settings).mean

    def runs(self, operator: Any, y: Tensor, size: float) -> Tensor:
        """Several runs with other noise, [m, n, ...]."""
        repeated = y.repeat(RUNS, *(1,) * (y.ndim - 1))
        return self.optimised(operator, self.denoiser, {}, repeated, size).unflatten(0, (RUNS, len(y)))

    def sampled(self, instrument: Instrument, y: Tensor, scale: float, draws: int) -> Tensor:
        """Guidance by the mean, [draws, n, ...]: below logsnr -6 there is none."""
        repeated = y.repeat(draws, *(1,) * (y.ndim - 1))
        n = len(repeated)
        model = within(-6.0, 20.0, guided_by_mean(instrument.likelihood(repeated), scale))(self.denoiser)
        settings: dict[str, Any] = {"seed": self.seed, "shape": tuple(self.truth.shape[1:]), "batch": n}
        x = sample(model, n, self.sampling, sampler=ancestral, grid=few(VP(), self.sampling), **settings)
        return x.to(self.truth).unflatten(0, (draws, len(y)))


def _error(x: Tensor, truth: Tensor) -> float:
    return float((x - truth).square().mean().nan_to_num(1e9, posinf=1e9))


def scored(found: dict[str, Tensor], truth: Tensor, kind: str, seed: int) -> Results:
    """PSNR and CRPS of each arm; of draws the PSNR is that of their mean. The CRPS of a point is its absolute error."""
    results: dict[tuple[str, str], float] = {}
    for name, x in found.items():
        if x.ndim > truth.ndim:
            about = calibration(x, truth, Rng(seed, len(truth), "calibration"), ())
            values = {"psnr": about.psnr, "crps": about.crps, "spread/error": about.spread_skill}
        else:
            off = x - truth
            values = {"psnr": psnr(float(off.square().mean().sqrt())), "crps": float(off.abs().mean())}
        results |= {(name, f"{kind} {metric}"): value for metric, value in values.items()}
    return results
