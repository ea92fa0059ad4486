"""Denoising diffusion samplers: log Z and samples of a density without data, against annealing at equal calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor

from ..data import Target, logistic_regression
from ..data.toys import ring
from ..oracle import TargetProblem, funnel, phi4, ring_target
from ..process import StationaryOU
from ..rng import Rng
from ..sampler import WeightedSamples, annealed_importance_samples, importance_samples, langevin_samples
from ..train import Config, Optimiser, SampleTarget, TargetSampler
from .frame import Arms, Numbers, Results, Study
from .in_memory import finished
from .paper import Paper, Role

PAPER = Paper.of(
    "dds",
    "A sampler that learns the time reversal of a noised target, from its density alone, gives log Z and samples that "
    "annealed samplers do not give at equal calls of the density.",
)
RESULT = ""

F64 = torch.float64
OURS, PLAIN, ANNEALED, CHAIN = "DDS", "u = 0", "AIS", "ULA"
PAID, REFERENCE, EXACT = "AIS with the calls of the training too", "long AIS", "exact draws"
# an estimate of log Z is made of so many samples
SAMPLES = 2000
MIXTURE, FUNNEL, LOGISTIC, PHI4 = "mixture", "funnel", "logistic", "phi4"
# the error of log Z that was asked for before the first run
GOAL = 0.05


@dataclass(frozen=True)
class DensityCase:
    """A target of the recipe.

    scale : of the first draws of all samplers.
    moments : the number of elements, from the first on, with moments that are compared. The other elements of the
        funnel have a variance that no number of samples shows.
    """

    make: Callable[[], TargetProblem | Target]
    scale: float
    moments: int


CASES: dict[str, DensityCase] = {
    MIXTURE: DensityCase(ring_target, 1.0, 2),
    FUNNEL: DensityCase(funnel, 1.0, 1),
    LOGISTIC: DensityCase(logistic_regression, 1.0, 31),
    PHI4: DensityCase(phi4, 1.0, 8),
}
LABELS = {
    MIXTURE: "eight modes in the plane",
    FUNNEL: "Neal's funnel in 10 dimensions",
    LOGISTIC: "logistic regression on breast-cancer, 31 dimensions",
    PHI4: "phi^4, 8 sites with two wells",
}


def named(arm: str, case: str) -> str:
    """The name of a row."""
    return f"{arm}, {case}"


def density_of(case: str) -> Target:
    """The target of a case as a source."""
    made = CASES[case].make()
    return made.source() if isinstance(made, TargetProblem) else made


def learned(case: str, seed: int, steps: int, batch: int, path: int) -> TargetSampler:
    """The sampler after so many steps of training."""
    source, task = density_of(case), SampleTarget(StationaryOU(CASES[case].scale), path=path)
    optimiser = Optimiser(rate=5e-3, warmup=50, warmup_share=0.1, decay=0.7)
    config = Config(task, batch=batch, steps=steps, precision="fp32", seed=seed, optimiser=optimiser)
    trainer = finished(source, config)
    return task.result(trainer.averaged().to("cpu"), trainer.run.facts, steps).on(source)


def annealed(case: str, seed: int, n: int, calls: int, tuned: Mapping[str, float]) -> WeightedSamples:
    """Annealed importance sampling at so many calls of the gradient for each sample.

    tuned : step, leaps, the power of the levels b_k = (k / K)^power, and the scale of the first draws.
    """
    source, leaps = density_of(case), int(tuned["leaps"])
    count = max(2, 1 + (calls - 1) // leaps)
    levels = [(k / count) ** tuned["power"] for k in range(count)] + [1.0]
    return annealed_importance_samples(
        *(source.log_density, source.shape, n, Rng(seed, n, "annealed"), levels, tuned["step"], leaps),
        scale=tuned["scale"],
    )


@lru_cache(maxsize=16)
def best_annealing(case: str, calls: int) -> Mapping[str, float]:
    """The settings with the largest bound at so many calls, from 500 samples of a seed of their own."""
    found = []
    own = CASES[case].scale
    for step, leaps, power, scale in product((0.02, 0.05, 0.1, 0.2, 0.4, 0.8), (1, 3), (1.0, 3.0), (own, 2 * own)):
        tuned = {"step": step, "leaps": leaps, "power": power, "scale": scale}
        bound = annealed(case, 10_007, 500, calls, tuned).elbo
        found.append((bound if math.isfinite(bound) else -math.inf, tuned))
    return max(found, key=lambda each: each[0])[1]


@dataclass(frozen=True)
class KnownAnswer:
    """log Z, the moments of the elements that are compared, and the samples of a long annealing if there was one."""

    log_z: float
    mean: Tensor
    var: Tensor
    long: WeightedSamples | None = None


@lru_cache(maxsize=8)
def answer(case: str, calls: int) -> KnownAnswer:
    """The known answer; for the logistic regression that of 2,000 samples of a long annealing.

    calls : of the gradient, for each sample of the long annealing.
    """
    made, few = CASES[case].make(), CASES[case].moments
    if isinstance(made, TargetProblem):
        return KnownAnswer(made.log_z, made.mean.flatten()[:few], made.var.flatten()[:few])
    tuned = {**best_annealing(case, 100), "power": 3.0, "leaps": 3}
    long = annealed(case, 20_011, SAMPLES, calls, tuned)
    return KnownAnswer(long.log_z, long.mean, long.var, long)


def moment_error(mean: Tensor, var: Tensor, right: KnownAnswer) -> float:
    """The root mean square, over elements, of (mean - right) / sd and of log(var / right) / 2."""
    off = (mean - right.mean) / right.var.sqrt()
    wide = (var / right.var).log() / 2
    return float((off.square() + wide.square()).mean().sqrt())


def rarest_mode(x: Tensor) -> float:
    """Eight times the smallest share of samples that a mode of the mixture has: 1 for the exact law, 0 for a lost mode.

    Weights do not help: no sample stands for a lost mode.
    """
    nearest, _ = ring().nearest(x.double())
    return 8 * float(nearest.bincount(minlength=8).min()) / len(x)


def numbers_of(case: str, samples: WeightedSamples, right: KnownAnswer) -> dict[str, float]:
    """The numbers of weighted samples. The estimates of log Z are from parts of 2,000, and their error is the root mean
    square of one estimate."""
    few, parts = CASES[case].moments, samples.log_z_of_parts(len(samples) // SAMPLES)
    values = {
        "log Z error": float((parts - right.log_z).square().mean().sqrt()),
        "log Z bias": float((parts - right.log_z).mean()),
        "log Z spread": float(parts.std()) if len(parts) > 1 else 0.0,
        "gap": right.log_z - samples.elbo,
        "ess": samples.effective_size / len(samples),
        "moments": moment_error(samples.mean.flatten()[:few], samples.var.flatten()[:few], right),
        "calls": float(samples.calls),
    }
    return values | ({"rarest mode": rarest_mode(samples.x)} if case == MIXTURE else {})


def chained(case: str, seed: int, n: int, calls: int, right: KnownAnswer) -> Tensor:
    """The ends of unadjusted chains with the step size of the smallest error of the moments: it is told the answer."""
    source, few = density_of(case), CASES[case].moments

    def ends(step: float, n: int, seed: int) -> Tensor:
        rng = Rng(seed, n, "chain")
        x = langevin_samples(source.log_density, source.shape, n, rng, calls, step, CASES[case].scale)
        return x.flatten(1)[:, :few].double()

    def error(step: float) -> float:
        x = ends(step, 1000, 10_007)
        found = moment_error(x.mean(0), x.var(0), right)
        return found if math.isfinite(found) else math.inf

    for step in sorted((2e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.4), key=error):
        x = ends(step, n, seed)
        # of more chains one may leave to infinity
        if bool(x.isfinite().all()):
            return x
    raise ValueError(f"every chain on {case} left to infinity: give smaller steps")


def measure(case: str, seed: int, steps: int, batch: int, path: int, drawn: int, repeats: int, long: int) -> Results:
    """All arms on one target.

    steps, batch, path : of the training.
    drawn : the steps of a path when samples are drawn. More than in training make the weights more even.
    repeats : estimates of log Z, each of 2,000 samples.
    long : calls of the long annealing, for each sample.
    """
    n, right, source = SAMPLES * repeats, answer(case, long), density_of(case)
    ours = learned(case, seed, steps, batch, path).sample(n, seed + 1, steps=drawn)
    calls = ours.calls
    # the calls of the training, divided among the samples of all estimates
    paid = calls + steps * batch * (path + 1) // n
    arms = {
        OURS: ours,
        PLAIN: importance_samples(source.log_density, source.shape, n, Rng(seed, n, "plain"), CASES[case].scale),
        ANNEALED: annealed(case, seed, n, calls, best_annealing(case, calls)),
        PAID: annealed(case, seed, n, paid, best_annealing(case, paid)),
    }
    found = {
        (named(arm, case), metric): value
        for arm, samples in arms.items()
        for metric, value in numbers_of(case, samples, right).items()
    }
    x = chained(case, seed, n, calls, right)
    found[named(CHAIN, case), "moments"] = moment_error(x.mean(0), x.var(0), right)
    if case == MIXTURE:
        found[named(CHAIN, case), "rarest mode"] = rarest_mode(x)
    if right.long is not None:
        found[named(REFERENCE, case), "log Z"] = right.log_z
        found[named(REFERENCE, case), "log Z spread"] = float(right.long.log_z_of_parts(10).std()) / math.sqrt(10)
        found[named(REFERENCE, case), "gap"] = right.log_z - right.long.elbo
    else:
        few = CASES[case].moments
        made = cast(TargetProblem, CASES[case].make())
        x = made.exact(n, Rng(seed, n, "exact")).flatten(1)
        found[named(EXACT, case), "moments"] = moment_error(x[:, :few].mean(0), x[:, :few].var(0), right)
        if case == MIXTURE:
            found[named(EXACT, case), "rarest mode"] = rarest_mode(x)
    return found


def checks(value: Numbers) -> Mapping[str, bool]:
    """The goal of log Z, and DDS beside each of the others."""
    cases = [case for case in CASES if (named(OURS, case), "gap") in value]

    def of(arm: str, metric: str, only: Sequence[str] = cases) -> list[float]:
        return [value[named(arm, case), metric] for case in only]

    goal = [MIXTURE, FUNNEL]
    errors, gaps, sizes = of(OURS, "log Z error", goal), of(OURS, "gap"), of(OURS, "ess")
    biases = of(OURS, "log Z bias", goal)
    others = {arm: of(arm, "gap") for arm in (PLAIN, ANNEALED, PAID)}
    all_errors = {arm: of(arm, "log Z error") for arm in (OURS, ANNEALED)}
    moments, chain = of(OURS, "moments"), of(CHAIN, "moments")
    modes = [value[named(arm, MIXTURE), "rarest mode"] for arm in (OURS, ANNEALED, CHAIN)]
    shown = ", ".join(cases)
    return {
        f"an estimate of log Z is nearer than that of AIS at equal calls ({shown}: {_listed(all_errors[OURS])}; "
        f"{_listed(all_errors[ANNEALED])})": all(
            a < b for a, b in zip(all_errors[OURS], all_errors[ANNEALED], strict=True)
        ),
        f"it is within {GOAL:g} on the mixture and the funnel ({_listed(errors)}; bias {_signed(biases)}; effective "
        f"sizes {_listed(of(OURS, 'ess', goal))} of the samples)": all(each <= GOAL for each in errors),
        f"the gap of its bound is a third or less of that of AIS at equal calls ({shown}: {_listed(gaps)}; "
        f"{_listed(others[ANNEALED])})": all(3 * a <= b for a, b in zip(gaps, others[ANNEALED], strict=True)),
        f"and of that of u = 0 ({_listed(others[PLAIN])})": all(
            3 * a <= b for a, b in zip(gaps, others[PLAIN], strict=True)
        ),
        f"and it is smaller than that of AIS with the calls of the training too ({_listed(others[PAID])})": all(
            a < b for a, b in zip(gaps, others[PAID], strict=True)
        ),
        f"at least a tenth of the samples count ({_listed(sizes)})": min(sizes) >= 0.1,
        f"its weighted moments are nearer than those of unadjusted chains ({_listed(moments)}; {_listed(chain)})": all(
            a < b for a, b in zip(moments, chain, strict=True)
        ),
        f"no mode is lost: the rarest has {modes[0]:.2f} of its share (AIS {modes[1]:.2f}, ULA {modes[2]:.2f})": modes[
            0
        ]
        >= 0.5,
    }


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{each:.3g}" for each in values)


def _signed(values: Sequence[float]) -> str:
    return ", ".join(f"{each:+.3f}" for each in values)


def _roles(case: str) -> dict[str, Role]:
    ways: dict[str, Role] = {OURS: "ours", PLAIN: "control", ANNEALED: "baseline", PAID: "control", CHAIN: "baseline"}
    last: dict[str, Role] = {REFERENCE: "oracle"} if case == LOGISTIC else {EXACT: "floor"}
    return {named(arm, case): role for arm, role in (ways | last).items()}


# steps of training by case, at quick and at full scale
STEPS = {MIXTURE: (200, 1000), FUNNEL: (300, 2000), LOGISTIC: (100, 600), PHI4: (100, 600)}
QUICK: Mapping[str, Any] = {"batch": 128, "path": 16, "drawn": 32, "repeats": 5, "long": 300}
FULL: Mapping[str, Any] = {"batch": 256, "path": 32, "drawn": 64, "repeats": 10, "long": 3000}

run = Study(
    PAPER,
    checks,
    [
        Arms(
            _roles(case),
            partial(measure, case),
            LABELS[case],
            {"steps": STEPS[case][0], **QUICK},
            {"steps": STEPS[case][1], **FULL},
        )
        for case in CASES
    ],
)
