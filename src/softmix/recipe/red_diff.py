"""RED-diff: a point for x0 given y by optimisation, its fixed point, its modes, and images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from ..data import load
from ..data.toys import ToyMixture
from ..denoiser import Denoiser
from ..measure import (
    MatrixOperator,
    RedDiff,
    gaussian_matrix,
    mean_misfit,
    red_diff,
    red_diff_particles,
)
from ..oracle import MixtureProblem, ObservedProblem, denoising_fixed_point, denoising_pull, digits
from ..process import VP
from ..rng import Rng
from .frame import Arms, Numbers, Results, Study
from .images import DATA_SETS, base
from .in_memory import averaged_on_cpu
from .paper import Paper, Role
from .red_diff_images import (
    BEST,
    CONST,
    INVERSE,
    KINDS,
    LINEAR,
    MANY,
    ONE,
    OURS,
    RANDOM,
    RIDGE,
    ROLES,
    SIXTEEN,
    TV,
    Restorations,
    instruments,
    scored,
)

PAPER = Paper.of(
    "red_diff",
    "Posterior inference as optimisation, with a regulariser by denoising at all noise levels and without the "
    "derivative of the network, restores images as well as or better than sampling by DPS.",
)
RESULT = ""

F64 = torch.float64
ISOTROPIC = "one Gaussian, 5 of 8 directions measured"
DIM, COUNT, SPREAD, SD = 8, 5, 0.7, 0.3
FIXED: dict[str, Role] = {"in random order": "ours", "in descending order": "control", "from A^+ y alone": "baseline"}


def at_the_fixed_point(seed: int, n: int, steps: int) -> Results:
    """The distance to the fixed point, which is the posterior mean here: the size of the weight is chosen so."""
    law = ToyMixture(
        "isotropic",
        torch.ones(1, dtype=F64, device="cpu"),
        torch.zeros(1, DIM, dtype=F64, device="cpu"),
        _round(SPREAD, DIM),
    )
    operator = gaussian_matrix(COUNT, (DIM,), 0)
    problem = ObservedProblem(
        MixtureProblem("isotropic", law, VP(), (DIM,)), operator(torch.eye(DIM, dtype=F64, device="cpu")).T, SD
    )
    y = problem.observe(problem.problem.sample(n, Rng(seed, n, "x0")), Rng(seed, n, "y"))
    settings = RedDiff(steps=steps, rate=0.02, order="random", average=0.5)
    wanted = DIM * SD**2 / (COUNT * SPREAD**2)
    settings = replace(settings, size=wanted / float(_pull(law, replace(settings, size=1.0))[0, 0]))
    fixed = denoising_fixed_point(problem, y, _pull(law, settings), True)
    start, misfit, results = operator.pseudo_inverse(y), mean_misfit(operator, y), {}
    ways = {"in random order": settings, "in descending order": replace(settings, order="descending", average=0.0)}
    for name, way in ways.items():
        rng = Rng(seed, n, "red_diff")
        results[name, "rms to the posterior mean"] = _rms(
            red_diff(_model(problem), misfit, start, rng, way).mean - fixed
        )
    results["from A^+ y alone", "rms to the posterior mean"] = _rms(start - fixed)
    assert _rms(fixed - problem.given(y).mean) < 1e-9
    return results


def _pull(law: ToyMixture, settings: RedDiff) -> Tensor:
    """The expected pull over times that are uniform between the ends."""
    first, last = settings.ends(VP())
    times = last + (first - last) * (torch.arange(20_000, dtype=F64, device="cpu") + 0.5) / 20_000
    alpha, sigma = VP().levels(times)
    return denoising_pull(law.covariance, VP(), times, settings.weight_of(sigma / alpha))


def _round(sd: float, dim: int, count: int = 1) -> Tensor:
    return sd * torch.eye(dim, dtype=F64, device="cpu").repeat(count, 1, 1)


def _model(problem: ObservedProblem) -> Denoiser:
    return problem.problem.denoiser()


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


MODES = "two modes of weights 0.7 and 0.3, sd 0.2"
WEIGHT, WIDTH = 0.7, 0.2
OF_MODES: dict[str, Role] = {
    "runs": "ours",
    "runs of a small rate": "ours",
    "runs in random order": "control",
    "eight particles that repel": "rival",
    "exact posterior": "oracle",
}


def on_two_modes(seed: int, n: int, steps: int) -> Results:
    """The share of runs in the heavier mode, and their standard deviation there as a share of the exact one.

    The second coordinate is measured, and says nothing about the first, that has the modes 1 and -1.
    """
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=F64, device="cpu")
    law = ToyMixture(
        "two modes", torch.tensor([WEIGHT, 1 - WEIGHT], dtype=F64, device="cpu"), means, _round(WIDTH, 2, 2)
    )
    problem, operator = (
        MixtureProblem("two modes", law, VP(), (2,)),
        MatrixOperator(torch.eye(2, dtype=F64, device="cpu")[1:], (2,)),
    )
    observed = ObservedProblem(problem, torch.eye(2, dtype=F64, device="cpu")[1:], 0.1)
    y = torch.zeros(n, 1, dtype=F64, device="cpu")
    start, misfit = operator.pseudo_inverse(y), mean_misfit(operator, y)
    run = partial(red_diff, problem.denoiser(), misfit, start)
    found = {
        "runs": run(Rng(seed, n), RedDiff(steps=steps)).mean,
        "runs of a small rate": run(Rng(seed, n), RedDiff(steps=3 * steps, rate=0.01)).mean,
        "runs in random order": run(Rng(seed, n), RedDiff(steps=steps, order="random", rate=0.02, average=0.2)).mean,
        "exact posterior": observed.given(y).sample(Rng(seed, n, "exact")),
    }
    few, repelled = n // 8, RedDiff(steps=steps, rate=0.05, repulsion=0.5)
    particles = red_diff_particles(
        problem.denoiser(), mean_misfit(operator, y[:few]), start[:few], Rng(seed, few), 8, 0.3, repelled
    )
    found["eight particles that repel"] = particles.flatten(0, 1)
    results: dict[tuple[str, str], float] = {}
    for name, x in found.items():
        heavy = x[x[:, 0] > 0, 0]
        results[name, "share in the heavier mode"] = len(heavy) / len(x)
        results[name, "spread there / exact"] = float(heavy.std()) / WIDTH if len(heavy) > 1 else 0.0
        results[name, "mean |x|"] = float(x[:, 0].abs().mean())
    return results


DIGITS, FASHION = "ten Gaussians fitted to the digits, 8 x 8, exact means", "Fashion-MNIST, 14 x 14, trained"


def on_digits(seed: int, n: int, tuning: int, steps: int, sampling: int) -> Results:
    """All arms with the exact denoiser, beside the exact posterior mean."""
    problem = digits()
    truth, others = (problem.sample(count, Rng(seed, count, role)) for count, role in ((n, "x0"), (tuning, "tuning")))
    law = problem.law
    work = Restorations(truth, others, problem.denoiser(), law.mean, law.covariance, steps, sampling, seed)
    results: dict[tuple[str, str], float] = {}
    for kind, instrument in instruments(8, 2).items():
        found = work.compared(instrument)
        y = instrument.observe(truth, Rng(seed, n, "y"))
        matrix = instrument.operator(torch.eye(64, dtype=F64, device="cpu").reshape(64, 1, 8, 8)).flatten(1).T
        seen = matrix.abs().sum(1) > 0
        observed = ObservedProblem(problem, matrix[seen], instrument.sd)
        found[BEST] = observed.given(y.flatten(1)[:, seen]).mean
        results |= scored(found, truth, kind, seed)
    return results


@lru_cache(maxsize=1)
def trained(seed: int, images: int) -> Denoiser:
    data = load("fashion-mnist", size=14)
    model: Denoiser = averaged_on_cpu(data, base(data.shape, DATA_SETS["fashion14"][2], images, seed)).eval()
    return model


def on_fashion(seed: int, images: int, n: int, tuning: int, steps: int, sampling: int) -> Results:
    """All arms with a trained model, on held-out images: four times smaller, the upper half, blurred."""
    model = trained(seed, images)
    known = load("fashion-mnist", size=14).x0(slice(0, 5000)).flatten(1).double()
    held_out = load("fashion-mnist", size=14, split="test").x0()
    first = seed * (n + tuning)
    truth, others = held_out[first : first + n], held_out[first + n : first + n + tuning]
    covariance = known.T.cov() + 1e-4 * torch.eye(known.shape[1], dtype=F64, device="cpu")
    work = Restorations(truth, others, model, known.mean(0), covariance, steps, sampling, seed)
    results: dict[tuple[str, str], float] = {}
    for kind, instrument in instruments(14, 4).items():
        results |= scored(work.compared(instrument), truth, kind, seed)
    return {(f"{name}, trained", metric): value for (name, metric), value in results.items()}


def checks(value: Numbers) -> Mapping[str, bool]:
    """Images, trained ones first; then the fixed point and the modes."""
    found = _on(value, ", trained") if (f"{OURS}, trained", "half psnr") in value else {}
    near, far = (value[name, "rms to the posterior mean"] for name in ("in random order", "in descending order"))
    share = {name: value[name, "share in the heavier mode"] for name in OF_MODES}
    wide = {name: value[name, "spread there / exact"] for name in OF_MODES}
    runs = ("runs", "runs of a small rate")
    return {
        **found,
        **_on(value, ""),
        f"in random order it ends at its fixed point ({near:.3f} away; {far:.3f} in descending order)": near
        < 0.03
        < far,
        "its runs are no samples of two modes: they have neither the weights "
        f"({', '.join(f'{share[name]:.2f}' for name in runs)}; exact {share['exact posterior']:.2f}) nor the spread "
        f"({', '.join(f'{wide[name]:.2f}' for name in runs)} of the exact one)": all(
            abs(share[name] - WEIGHT) > 0.1 and wide[name] < 0.75 for name in runs
        ),
    }


def _on(value: Numbers, end: str) -> dict[str, bool]:
    data = "a trained model" if end else "exact means"

    def of(name: str, metric: str = "psnr") -> list[float]:
        return [value[f"{name}{end}", f"{kind} {metric}"] for kind in KINDS]

    def text(*names: str, metric: str = "psnr", digits: int = 1) -> str:
        return "; ".join(f"{name} " + ", ".join(f"{each:.{digits}f}" for each in of(name, metric)) for name in names)

    def above(one: str, other: str, by: float = 0.0) -> bool:
        return all(a > b + by for a, b in zip(of(one), of(other), strict=True))

    gain = of(OURS)[0] - of(TV)[0]
    return {
        f"{data}: the PSNR is above that of one sample of DPS ({text(OURS, ONE)})": above(OURS, ONE),
        f"{data}: and within 0.3 dB of that of the mean of 16 ({text(SIXTEEN)})": above(OURS, SIXTEEN, -0.3),
        f"{data}: above that of tuned total variation by 1 dB in super-resolution ({gain:+.1f} dB; {text(TV)})": gain
        > 1,
        f"{data}: above that of a tuned ridge and of A^+ y ({text(RIDGE, INVERSE)})": above(OURS, RIDGE)
        and above(OURS, INVERSE),
        f"{data}: above that of a Wiener denoiser in the place of the model ({text(LINEAR)})": above(OURS, LINEAR),
        f"{data}: the descending order and the linear weight are better than others ({text(RANDOM, CONST)})": above(
            OURS, RANDOM
        )
        and above(OURS, CONST),
        f"{data}: as a law the draws of DPS are better than its runs (CRPS "
        f"{text(SIXTEEN, MANY, metric='crps', digits=3)})": all(
            a < b for a, b in zip(of(SIXTEEN, "crps"), of(MANY, "crps"), strict=True)
        ),
    }


run = Study(
    PAPER,
    checks,
    [
        Arms(FIXED, at_the_fixed_point, ISOTROPIC, {"n": 60, "steps": 1500}, {"n": 100, "steps": 4000}, seeds=3),
        Arms(OF_MODES, on_two_modes, MODES, {"n": 160, "steps": 300}, {"n": 800, "steps": 500}, seeds=3),
        Arms(
            {**ROLES, BEST: "oracle"},
            on_digits,
            DIGITS,
            {"n": 24, "tuning": 8, "steps": 150, "sampling": 30},
            {"n": 48, "tuning": 8, "steps": 300, "sampling": 50},
            seeds=3,
        ),
        Arms(
            {f"{name}, trained": role for name, role in ROLES.items()},
            on_fashion,
            FASHION,
            None,
            {"images": 30_000, "n": 24, "tuning": 8, "steps": 300, "sampling": 50},
            seeds=3,
            needs=partial(load, "fashion-mnist"),
        ),
    ],
)
