"""DiffusionMBIR: a model of slices, and total variation across slices inside of the sampler, for volumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ..data.toys import ToyMixture
from ..denoiser import Denoiser, wiener
from ..evaluate.calibration import psnr
from ..measure import (
    EachSlice,
    GaussianNoise,
    Instrument,
    Mask,
    TotalVariation,
    admm_tv,
    mbir,
    mbir_of_means,
    roughness,
    slice_wise,
    smaller,
)
from ..net import UNetSpec
from ..oracle import MixtureProblem, ObservedProblem, digits
from ..process import VP, few
from ..rng import Rng
from ..sampler import Sampler, sample
from .frame import Arms, Numbers, Results, Study
from .images import base
from .in_memory import averaged_on_cpu
from .paper import Paper, Role
from .phantoms import NAME, slices, volumes

PAPER = Paper.of(
    "mbir",
    "A diffusion model of slices, with total variation across slices imposed by a warm-started step of ADMM inside of "
    "each reverse step, reconstructs volumes better than the slices alone and than total variation alone.",
)
RESULT = ""

F64 = torch.float64
EXACT, TRAINED = "Gaussian volumes, 8 x 8 x 8, exact slices", f"{NAME}, 12 x 12 x 12, trained slices"
KINDS = ("pixels", "coarse")
ALONG_Z, ALL_AXES = (-3,), (-3, -2, -1)
WEIGHTS, RHOS = (0.01, 0.03, 0.1, 0.3), (0.03, 0.3)
OURS, MEANS = "DiffusionMBIR", "ADMM on the means"
NO_PENALTY, MEANS_ALONE = "no penalty, as many CG steps", "ADMM on the means, no penalty"
FRESH, ALL, PLAIN = "fresh variables, two iterations", "penalty along x, y and z", "without the corrector"
TV3, TVZ, INVERSE = "total variation along x, y and z", "total variation along z", "A^+ y"
SLICES, BEST = "posterior mean of each slice", "posterior mean"

_SAMPLED: dict[str, Role] = {
    OURS: "ours",
    MEANS: "rival",
    NO_PENALTY: "control",
    MEANS_ALONE: "control",
    FRESH: "control",
    ALL: "control",
    PLAIN: "control",
    TV3: "baseline",
    TVZ: "baseline",
    INVERSE: "baseline",
}


def instruments(size: int, depth: int) -> dict[str, Instrument]:
    """A fifth of the pixels, others in each slice, with little noise; and means of 2 x 2 pixels with more noise."""
    seen = Rng(0, 1, "pixels").uniform((1, 1, depth, size, size))[0] < 0.2
    shape = (1, size, size)
    return {
        "pixels": Instrument(Mask(seen, (1, depth, size, size)), GaussianNoise(0.05)),
        "coarse": Instrument(EachSlice(smaller(2, shape), depth), GaussianNoise(0.2)),
    }


def scores(x: Tensor, truth: Tensor) -> tuple[float, float]:
    """PSNR, and the mean of |D_z x| as a share of that of the truth."""
    error = float((x - truth).square().mean().sqrt())
    return psnr(error), float(roughness(x, -3).mean() / roughness(truth, -3).mean())


def best_of(run: Callable[..., Tensor], choices: Sequence[tuple[Any, ...]], truth: Tensor) -> tuple[Any, ...]:
    """The arguments with the least squared error on volumes with a known answer."""
    return min(choices, key=lambda each: float((run(*each) - truth).square().mean().nan_to_num(1e9)))


@dataclass(frozen=True, eq=False)
class Problem3D:
    """Volumes to measure, others to tune on, and a model of slices.

    steps : noise levels of every sampler.
    """

    truth: Tensor
    tuning: Tensor
    denoiser: Denoiser
    steps: int
    seed: int

    def sampled(self, sampler: Sampler, like: Tensor) -> Tensor:
        """Volumes in the shape of `like`."""
        n, shape = len(like), tuple(like.shape[1:])
        settings: dict[str, Any] = {"seed": self.seed, "shape": shape, "grid": few(VP(), self.steps), "batch": n}
        return sample(slice_wise()(self.denoiser), n, self.steps, sampler=sampler, **settings).to(like)

    def compared(self, instrument: Instrument) -> dict[str, Tensor]:
        """The reconstruction of each arm. Weights and rho are chosen on the tuning volumes, for each arm of its own."""
        operator: Any = instrument.operator
        rng = Rng(self.seed, len(self.truth), "y")
        y, tune = instrument.observe(self.truth, rng), instrument.observe(self.tuning, Rng(1, len(self.tuning), "y"))
        found: dict[str, Tensor] = {}

        def tuned(name: str, run: Callable[..., Tensor], choices: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
            """run : (y, like, *arguments) -> volumes."""
            best = best_of(lambda *each: run(tune, self.tuning, *each), choices, self.tuning)
            found[name] = run(y, self.truth, *best)
            return best

        def diffusion(
            make: Callable[..., Sampler], axes: tuple[int, ...] = ALONG_Z, **more: Any
        ) -> Callable[..., Tensor]:
            def run(of: Tensor, like: Tensor, weight: float, rho: float) -> Tensor:
                return self.sampled(make(operator, of, TotalVariation(weight, rho, axes), **more), like)

            return run

        grid = list(product(WEIGHTS, RHOS))
        weight, rho = tuned(OURS, diffusion(mbir), grid)
        own, near = [(weight, rho)], [(each, rho) for each in WEIGHTS]
        tuned(MEANS, diffusion(mbir_of_means), grid)
        tuned(NO_PENALTY, diffusion(mbir, ()), own)
        tuned(MEANS_ALONE, diffusion(mbir_of_means, ()), own)
        tuned(FRESH, diffusion(mbir, warm=False, iterations=2), near)
        tuned(ALL, diffusion(mbir, ALL_AXES), near)
        tuned(PLAIN, diffusion(mbir, corrections=0), own)
        for name, axes in ((TV3, ALL_AXES), (TVZ, ALONG_Z)):

            def variation(of: Tensor, like: Tensor, each: float, axes: tuple[int, ...] = axes) -> Tensor:
                return admm_tv(operator, of, TotalVariation(each, 10 * each, axes), 60, 8).to(like)

            tuned(name, variation, [(each,) for each in (0.001, 0.003, *WEIGHTS)])
        found[INVERSE] = operator.pseudo_inverse(y)
        return found


def law_of_volumes(depth: int, correlation: float = 0.95) -> tuple[ToyMixture, Tensor]:
    """x0 ~ N(m, R kron S): slices N(m, S) with the moments of the digits, and R_de = correlation^|d - e| across them.

    Returns the law of volumes [1, D, 8, 8], flattened, and S.
    """
    law, place = digits().law, torch.arange(depth, dtype=F64, device="cpu")
    across = correlation ** (place[:, None] - place).abs()
    factor = torch.linalg.cholesky(torch.kron(across, law.covariance))
    whole = ToyMixture("volumes", torch.ones(1, dtype=F64, device="cpu"), law.mean.repeat(depth)[None], factor[None])
    return whole, law.covariance


@cache
def _gaussian_volumes() -> MixtureProblem:
    return MixtureProblem("volumes", law_of_volumes(8)[0], VP(), (1, 8, 8, 8))


def on_gaussian_volumes(seed: int, n: int, steps: int) -> Results:
    """All arms, with the exact denoiser of slices, beside the exact posterior means."""
    problem = _gaussian_volumes()
    law = digits().law
    denoiser = wiener(VP(), law.mean, law.covariance)
    truth, tuning = (problem.sample(count, Rng(seed, count, role)) for count, role in ((n, "x0"), (2, "tuning")))
    results: dict[tuple[str, str], float] = {}
    for kind, instrument in instruments(8, 8).items():
        found = Problem3D(truth, tuning, denoiser, steps, seed).compared(instrument)
        y = instrument.observe(truth, Rng(seed, n, "y"))
        found[BEST] = posterior_mean(problem, instrument, y)
        alone = replace(problem, law=_independent(problem.law, 8))
        found[SLICES] = posterior_mean(alone, instrument, y)
        results |= _rows(kind, found, truth)
    return results


def _independent(law: ToyMixture, depth: int) -> ToyMixture:
    """The same slices, independent of each other."""
    size = law.dim // depth
    factor = torch.block_diag(*[torch.linalg.cholesky(law.covariance[:size, :size])] * depth)
    return ToyMixture("slices", law.weights, law.means, factor[None])


def posterior_mean(problem: MixtureProblem, instrument: Instrument, y: Tensor) -> Tensor:
    """E[x0 | y] of volumes of a known law."""
    size = problem.law.dim
    matrix = instrument.operator(torch.eye(size, dtype=F64, device="cpu").reshape(size, *problem.shape)).flatten(1).T
    seen = matrix.abs().sum(1) > 0
    return ObservedProblem(problem, matrix[seen], instrument.sd).given(y.flatten(1)[:, seen].double()).mean


def _rows(kind: str, found: Mapping[str, Tensor], truth: Tensor) -> Results:
    results: dict[tuple[str, str], float] = {}
    for name, x in found.items():
        results[name, f"{kind} psnr"], results[name, f"{kind} rough"] = scores(x, truth)
    return results


@lru_cache(maxsize=1)
def trained(seed: int, images: int, size: int, depth: int) -> Denoiser:
    """A model of the slices of the training subjects."""
    data = slices(size, depth)
    config = base(data.shape, UNetSpec(width=32, depth=1, patch=1), images, seed).but(precision="fp32")
    model: Denoiser = averaged_on_cpu(data, config).eval()
    return model


def on_digit_volumes(seed: int, images: int, n: int, steps: int, size: int = 12, depth: int = 12) -> Results:
    """All arms with a trained model of slices, on subjects that it has not seen."""
    model, others = trained(seed, images, size, depth), volumes("test", size, depth)
    first = seed * (n + 2) % (len(others) - n - 2)
    truth, tuning = others[first : first + n], others[first + n : first + n + 2]
    results: dict[tuple[str, str], float] = {}
    for kind, instrument in instruments(size, depth).items():
        found = Problem3D(truth, tuning, model, steps, seed).compared(instrument)
        results |= _rows(kind, found, truth)
    return {(f"{name}, trained", metric): value for (name, metric), value in results.items()}


def checks(value: Numbers) -> Mapping[str, bool]:
    """On each data set: against total variation, the slices alone, and the other ways to combine them."""
    found = _on(value, "")
    return found if (f"{OURS}, trained", "pixels psnr") not in value else _on(value, ", trained") | found


def _on(value: Numbers, end: str) -> dict[str, bool]:
    data = "trained slices" if end else "exact slices"

    def of(name: str, metric: str = "psnr") -> list[float]:
        return [value[f"{name}{end}", f"{kind} {metric}"] for kind in KINDS]

    def text(*names: str, metric: str = "psnr") -> str:
        return "; ".join(f"{name} " + ", ".join(f"{each:.2f}" for each in of(name, metric)) for name in names)

    def above(one: str, other: str, by: float = 0.0) -> bool:
        return all(a > b + by for a, b in zip(of(one), of(other), strict=True))

    rough = of(OURS, "rough")
    # a mean is smoother than the truth
    target, aim = ([1.0] * len(KINDS), "the truth") if end else (of(BEST, "rough"), "the posterior mean")
    return {
        f"{data}: better by 1 dB than tuned total variation, along all axes or z, and than the slices alone "
        f"({text(OURS, TV3, TVZ, NO_PENALTY)})": all(above(OURS, each, 1.0) for each in (TV3, TVZ, NO_PENALTY)),
        f"{data}: |D_z x| is within 10 % of that of {aim} ({text(OURS, NO_PENALTY, metric='rough')})": all(
            abs(each / wanted - 1) < 0.1 for each, wanted in zip(rough, target, strict=True)
        ),
        f"{data}: variables from the level before are better than fresh ones ({text(FRESH)})": above(OURS, FRESH),
        f"{data}: a penalty along z is better than one along all axes ({text(ALL)})": above(OURS, ALL),
        f"{data}: ADMM on the means is better still ({text(MEANS)})": above(MEANS, OURS),
    }


_WITH_TRUTH: dict[str, Role] = {**_SAMPLED, SLICES: "oracle", BEST: "oracle"}
run = Study(
    PAPER,
    checks,
    [
        Arms(_WITH_TRUTH, on_gaussian_volumes, EXACT, {"n": 4, "steps": 40}, {"n": 8, "steps": 150}, seeds=3),
        Arms(
            {f"{name}, trained": role for name, role in _SAMPLED.items()},
            on_digit_volumes,
            TRAINED,
            None,
            {"images": 30_000, "n": 4, "steps": 150},
            seeds=3,
        ),
    ],
)
