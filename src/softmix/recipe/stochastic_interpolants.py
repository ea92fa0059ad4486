"""Stochastic interpolants: one pair of fields, an ODE, and SDEs of any strength of noise between two data sets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..cond import Cond
from ..data import toys
from ..data.toys import ToyMixture
from ..denoiser import Denoiser
from ..denoiser.wrap import Wrapped
from ..evaluate.points import sliced_wasserstein
from ..oracle import MixtureProblem, PairedProblem, between
from ..posterior import HasNoise, PointAndNoise, Posterior, need
from ..process import Flow, Interpolant
from ..rng import Rng
from ..sampler import Sampler, adams, ancestral, ddim, drive, epsilon, interpolant_heun, traits
from ..sampler.drive import finish
from . import translation
from .contest import steps_for
from .frame import Arms, Numbers, Results, Trained, TrainedStudy
from .images import by
from .paper import Paper, Role
from .translation import COUNTS

PAPER = Paper.of(
    "stochastic_interpolants",
    "The same two learned fields give an ODE and SDEs of any strength of noise between two data sets, and errors of "
    "the fields harm the SDE less than the ODE.",
)
RESULT = (
    "with exact fields every strength of noise has the law; with a wrong velocity the ODE has 25 times the divergence "
    "of the best SDE, with a wrong noise 12 times; strong noise needs many steps; draws have the law at one "
    "evaluation, also from noise, and the best solver needs fewer steps from noise than the ODE between two data sets; "
    "shirts to coats: one evaluation of a soft mixture beats all others at one, from four on a solver from noise is "
    "two to three times nearer than every interpolant, and latent noise gains nothing clear"
)

# the two laws in the plane, and on the line
PLANE = "three Gaussians in the plane from a ring of four, exact posteriors"
LINE = "three Gaussians on the line from two, exact fields and wrong ones"
STRENGTHS = (0.0, 0.1, 1.0)
CURVE = (0.0, 0.1, 0.3, 1.0, 10.0)
STEPS, MANY = 50, 400
BINS = 60
EXACT, WRONG, NOISE = "exact fields", "wrong velocity", "wrong noise"
DRAWS, FLOOR = "draws", "exact samples"


def plane(process: Interpolant) -> PairedProblem:
    """x0 of three unequal Gaussians, x_1 of a ring of four, independent."""
    return between(toys.unequal(2, 3, 1), toys.ring(4, 1.0, 0.3), process)


def line(process: Interpolant) -> PairedProblem:
    return between(toys.unequal(1, 3, 1), toys.unequal(1, 2, 5), process)


def ended(
    problem: PairedProblem, sampler: Sampler, steps: int, x1: Tensor, seed: int, model: Denoiser | None = None
) -> Tensor:
    """The end of a sampler from x_1."""
    grid, rng = problem.process.grid(steps), Rng(seed, len(x1), "noise")
    return finish(drive(model or problem.denoiser(), sampler, x1, grid, rng, problem.cond(x1)))


def starts(problem: PairedProblem, seed: int, n: int) -> Tensor:
    x1 = problem.draw(n, Rng(seed, n, "start"))[1].value
    assert x1 is not None
    return x1


def marginals(seed: int, n: int, steps: int) -> Results:
    """Distances of x_t to exact samples of its law, at t = 1/2 and at the end, for each strength of noise."""
    problem = plane(Interpolant())
    x1, grid = starts(problem, seed, n), problem.process.grid(steps)
    results: dict[tuple[str, str], float] = {}
    for t in (0.5, 0.0):
        exact, other = (problem.at(t).sample(n, Rng(seed, n, role)) for role in ("exact", "other"))
        results[FLOOR, f"distance@t={t:g}"] = sliced_wasserstein(other, exact, 64, seed=seed)
        part = grid[grid >= t - 1e-9]
        for eps in STRENGTHS:
            rng = Rng(seed, n, "noise")
            x = finish(drive(problem.denoiser(), partial(epsilon, eps=eps), x1, part, rng, problem.cond(x1)))
            results[f"eps = {eps:g}", f"distance@t={t:g}"] = sliced_wasserstein(x, exact, 64, seed=seed)
    return results


def with_errors(exact: Denoiser, of_mean: float, of_noise: float) -> Denoiser:
    """The exact fields plus a wave: E[x0 | x] + of_mean t sin(6 x + 3), which is an error of of_mean in b on the linear
    path, and E[z | x] + of_noise sin(6 x + 3)."""

    def call(inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None) -> Posterior:
        both = need(inner(xt, t, cond), HasNoise, "with_errors")
        wave = torch.sin(6 * xt + 3)
        return PointAndNoise(both.mean + of_mean * float(t) * wave, both.noise + of_noise * wave)

    return Wrapped(exact, call)


def divergence(x: Tensor, law: ToyMixture) -> float:
    """KL(law || samples) in nats over `BINS` equal cells of the range of a law on the line; half an item is added to
    each cell. For n exact samples about BINS / (2 n)."""
    mean, sd = law.means[:, 0], law.factors[:, 0, 0]
    low, high = float((mean - 5 * sd).min()), float((mean + 5 * sd).max())
    edges = torch.linspace(low, high, BINS + 1, dtype=torch.float64)
    below = torch.special.ndtr((edges[:, None] - mean) / sd) @ law.weights
    below[0], below[-1] = 0.0, 1.0
    p, counts = below.diff(), torch.histc(x.double().flatten().clamp(low, high), BINS, low, high)
    q = (counts + 0.5) / (counts + 0.5).sum()
    return float(torch.xlogy(p, p / q).sum())


ERRORS: dict[str, tuple[float, float]] = {WRONG: (0.3, 0.0), NOISE: (0.0, 0.1), EXACT: (0.0, 0.0)}


def curves(seed: int, n: int) -> Results:
    """The divergence for each strength of noise at `STEPS` steps, and of the largest at `MANY`."""
    problem = line(Interpolant())
    x1, law = starts(problem, seed, n), problem.at(0.0)
    results = {(FLOOR, f"kl@{CURVE[0]:g}"): divergence(law.sample(n, Rng(seed, n, "exact")), law)}
    for name, errors in ERRORS.items():
        model = with_errors(problem.denoiser(), *errors)
        for eps in CURVE:
            x = ended(problem, partial(epsilon, eps=eps), STEPS, x1, seed, model)
            results[name, f"kl@{eps:g}"] = divergence(x, law)
        x = ended(problem, partial(epsilon, eps=CURVE[-1]), MANY, x1, seed, model)
        results[name, f"kl of {MANY} steps@{CURVE[-1]:g}"] = divergence(x, law)
    return results


# how to come to x0 in few evaluations: the role, the process, the sampler
WAYS: dict[str, tuple[Role, Interpolant, Sampler]] = {
    DRAWS: ("ours", Interpolant(), ancestral),
    "ODE": ("rival", Interpolant(), epsilon),
    "ODE, Heun": ("rival", Interpolant(), interpolant_heun),
    "SDE, eps = c / 2": ("rival", Interpolant(), partial(epsilon, eps=0.5)),
    "no latent noise, ODE": ("control", Interpolant(c=0.0), epsilon),
    "mirror, draws": ("control", Interpolant("mirror"), ancestral),
}


def few_evaluations(seed: int, n: int, counts: tuple[int, ...] = COUNTS) -> Results:
    """Distances at each number of evaluations. The baseline is diffusion from noise to the same x0."""
    results: dict[tuple[str, str], float] = {}
    first = plane(Interpolant()).at(0.0)
    exact, other = (first.sample(n, Rng(seed, n, role)) for role in ("exact", "other"))
    noise = MixtureProblem("noise", toys.unequal(2, 3, 1), Flow(), (2,))
    for count in counts:

        def note(name: str, x: Tensor, count: int = count) -> None:
            results[name, f"distance@{count}"] = sliced_wasserstein(x, exact, 64, seed=seed)

        for name, (_, process, sampler) in WAYS.items():
            problem = plane(process)
            if process.path == "mirror":
                # it starts at another sample of the same law
                problem = between(toys.unequal(2, 3, 1), toys.unequal(2, 3, 1), process)
            note(name, ended(problem, sampler, steps_for(sampler, count), starts(problem, seed, n), seed))
        z = Flow().prior((n, 2), Rng(seed, n, "prior")).double()
        samplers: tuple[tuple[str, Sampler, Callable[[int], Tensor]], ...] = (
            ("from noise, adams", adams, partial(traits(adams).grid, Flow())),
            # the rule of first order, as `epsilon` is between the data sets
            ("from noise, ddim", ddim, Flow().grid),
            ("from noise, draws", ancestral, Flow().grid),
        )
        for name, sampler, grid in samplers:
            note(name, finish(drive(noise.denoiser(), sampler, z, grid(count), Rng(seed, n, "noise"))))
        note(FLOOR, other)
    return results


def checks(value: Numbers) -> dict[str, bool]:
    """The ODE against the SDE with errors in the velocity; then marginals, controls and few evaluations."""
    wrong, noise, exact = ({eps: value[name, f"kl@{eps:g}"] for eps in CURVE} for name in (WRONG, NOISE, EXACT))
    best, largest = min(CURVE, key=lambda eps: wrong[eps]), CURVE[-1]
    more = value[WRONG, f"kl of {MANY} steps@{largest:g}"]
    metrics = ("distance@t=0.5", "distance@t=0")
    farthest = max(value[f"eps = {eps:g}", metric] / value[FLOOR, metric] for eps in STRENGTHS for metric in metrics)
    draws = max(value[DRAWS, f"distance@{k}"] / value[FLOOR, f"distance@{k}"] for k in (1, 2, 4))
    at_4 = {name: value[name, "distance@4"] for name in FEW}
    checked = {
        f"with a wrong velocity the SDE of eps = {best:g} has a divergence of {wrong[best]:.3f}, and the ODE "
        f"{wrong[0.0]:.3f} (less than half)": wrong[best] < wrong[0.0] / 2,
        f"with exact fields every eps has the marginals, at t = 1/2 and 0 (at most {farthest:.2f} of the distance of "
        "two exact samples, below 2)": farthest < 2,
        f"at {STEPS} steps the largest eps is worse than the best ({wrong[largest]:.3f}, {wrong[best]:.3f}), and "
        f"nearer in {MANY} steps ({more:.3f})": wrong[largest] > wrong[best] and more < wrong[largest],
        f"without errors noise gains less ({exact[0.0]:.3f}, {min(exact.values()):.3f})": exact[0.0]
        - min(exact.values())
        < wrong[0.0] - wrong[best],
        f"a wrong noise harms the ODE too ({noise[0.0]:.3f}, {min(noise.values()):.3f})": noise[0.0]
        > min(noise.values()),
        f"draws have the law at 1, 2 and 4 evaluations (at most {draws:.2f} times the floor, below 2)": draws < 2,
        f"and are nearer at 4 ({at_4[DRAWS]:.3f}) than the ODE ({at_4['ODE']:.3f}), the SDE "
        f"({at_4['SDE, eps = c / 2']:.3f}) and a solver from noise ({at_4['from noise, adams']:.3f})": at_4[DRAWS]
        < min(at_4[name] for name in ("ODE", "ODE, Heun", "SDE, eps = c / 2", "from noise, adams")),
        f"exact draws from noise are as near ({at_4['from noise, draws']:.3f}): the draw decides, not the start": (
            at_4[DRAWS] > 0.5 * at_4["from noise, draws"]
        ),
        f"a solver needs fewer steps from noise than the ODE of the interpolant ({at_4['from noise, adams']:.3f}, "
        f"{at_4['ODE']:.3f}), also by a rule of first order ({at_4['from noise, ddim']:.3f})": max(
            at_4["from noise, adams"], at_4["from noise, ddim"]
        )
        < at_4["ODE"],
    }
    return checked | (of_images(value) if (by("noise", "adams"), "frechet@1") in value else {})


def of_images(value: Numbers) -> dict[str, bool]:
    """The best way of each training at each count."""

    def best(name: str, k: int) -> str:
        return min(
            (by(name, way) for way in translation.TRANSLATIONS[name].ways), key=lambda way: value[way, f"frechet@{k}"]
        )

    ours, plain, draws, solver, none = (
        [value[best(name, k), f"frechet@{k}"] for k in COUNTS]
        for name in (
            "interpolant, soft mixture",
            "interpolant",
            "noise, soft mixture",
            "noise",
            "interpolant without latent noise",
        )
    )
    last = f"frechet@{COUNTS[-1]}"
    spread = value.spread(best("interpolant without latent noise", COUNTS[-1]), last)

    def shown(row: list[float]) -> str:
        return ", ".join(f"{x:.1f}" for x in row)

    def nearer(a: list[float], b: list[float], counts: int = 3) -> bool:
        return all(x < y for x, y in zip(a[:counts], b[:counts], strict=True))

    return {
        f"shirts to coats at 1, 2 and 4: draws of a soft mixture ({shown(ours)}) are nearer than the ODE and the SDE "
        f"({shown(plain)})": nearer(ours, plain),
        f"and than draws from noise ({shown(draws)})": nearer(ours, draws),
        f"and than a solver from noise ({shown(solver)})": nearer(ours, solver),
        f"at {COUNTS[-1]} latent noise gains over a path without it ({shown(none)}) by more than the spread "
        f"({spread:.1f})": none[-1] - plain[-1] > spread,
    }


MARGINALS: dict[str, Role] = {f"eps = {eps:g}": "ours" for eps in STRENGTHS}
MARGINALS[FLOOR] = "floor"
CURVES: dict[str, Role] = {WRONG: "ours", NOISE: "control", EXACT: "oracle", FLOOR: "floor"}
FEW: dict[str, Role] = {name: way[0] for name, way in WAYS.items()}
FEW |= dict.fromkeys(("from noise, adams", "from noise, ddim", "from noise, draws"), "baseline")
FEW[FLOOR] = "floor"
run = TrainedStudy(
    PAPER,
    checks,
    [
        Arms(CURVES, curves, LINE, quick={"n": 4000}, full={"n": 20_000}),
        Arms(
            MARGINALS,
            marginals,
            f"{PLANE}, many steps",
            quick={"n": 2000, "steps": 100},
            full={"n": 4000, "steps": 400},
        ),
        Arms(FEW, few_evaluations, PLANE, quick={"n": 2000}, full={"n": 4000}),
    ],
    trained=[Trained.of(translation.WHERE, translation.arms)],
)
