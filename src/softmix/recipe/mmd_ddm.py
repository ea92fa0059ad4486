"""MMD-DDM: a trained model is tuned through its few steps, and whether the kernel, or more training, is the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import cast

from torch import Tensor

from ..data import Data, toys
from ..denoiser import Denoiser, Network, PointHead, TunedDenoiser
from ..evaluate import energy_distance
from ..evaluate.points import mode_statistics
from ..loss import ChainMMD, CubicKernel, EnergyKernel, GaussianKernel, Square
from ..process import Gaussian, few, uniform
from ..rng import Rng
from ..sampler import adams, ancestral, ddim, sample
from ..train import Config, Optimiser
from .frame import Arms, Numbers, TrainedStudy, arm
from .in_memory import Ways, averaged_on_cpu, points_of
from .mmd_ddm_images import ON_IMAGES, checks_on_images
from .paper import Paper, Role
from .smd_grid import VARIANTS, Variant, config, oracle

PAPER = Paper.of(
    "mmd_ddm",
    "A trained model that is tuned through its few steps, by the MMD between its samples and the data, samples in so "
    "few steps as well as before in many.",
)
RESULT = ""

STEPS, MANY = (2, 4, 8), 32
GRID = "7 x 7 modes"
SD = 0.05
PLAIN = Variant("plain", "baseline", {"head": PointHead(), "loss": Square()})
SOFT = next(each for each in VARIANTS if each.name == "SMD, energy score")
# of a tuning; more training may have this rate or that of the first training
BATCH, RATE, FIRST_RATE = 256, 5e-4, 2e-3
BEFORE, BEST, LONGER = "plain, ddim", "plain, best of four ways", "plain, trained on, best of four ways"
MIXED, ENERGY, CUBIC = "tuned, Gaussian kernels", "tuned, energy distance", "tuned, cubic kernel"
MOVED, EXACT, FLOOR = "tuned for 4 steps", "exact mean, best of four ways", "exact samples"
KERNELS: dict[str, GaussianKernel | EnergyKernel | CubicKernel] = {
    MIXED: GaussianKernel(),
    ENERGY: EnergyKernel(),
    CUBIC: CubicKernel(),
}
DRAWS, DRAWS_TUNED = "soft mixture, draws", "soft mixture, draws tuned"
# the samplers and grids of a model
ITS_OWN: Ways = ((ddim, uniform),)
FOUR: Ways = tuple((each, grid) for each in (ddim, adams) for grid in (uniform, few))
BY_DRAWS: Ways = ((partial(ancestral, eta=0.0), uniform),)


@lru_cache(maxsize=2)
def _points(seed: int) -> Data:
    return points_of(toys.mode_grid(), "grid", seed, 1 << 17)


def _trained(settings: Config, seed: int, start: Mapping[str, Tensor] | None = None) -> Network:
    """The averaged network of a training, from its own weights or from those of `start`."""
    return cast(Network, averaged_on_cpu(_points(seed), settings, start))


@lru_cache(maxsize=4)
def _before(soft: bool, seed: int, steps: int) -> Network:
    """The trained model, a plain one or a soft mixture."""
    return _trained(config(SOFT if soft else PLAIN, steps, seed), seed)


def _further(settings: Config, steps: int, rate: float = RATE) -> Config:
    """Settings for a training that goes on from trained weights."""
    return settings.but(steps=steps, batch=BATCH, optimiser=Optimiser(rate=rate, warmup=20, decay=0.6, clip=0.5))


@lru_cache(maxsize=8)
def _tuned(name: str, k: int, seed: int, first: int, then: int, soft: bool = False) -> TunedDenoiser:
    """The model, tuned for k steps."""
    loss = ChainMMD(steps=k, kernel=KERNELS[name], sampler="ancestral" if soft else "ddim")  # type: ignore[arg-type]
    settings = _further(config(SOFT if soft else PLAIN, first, seed), then).but(loss=loss)
    network = _trained(settings, seed, _before(soft, seed, first).state_dict())
    return loss.made(network, then, then)


def measured(ends: Sequence[Tensor], k: int, exact: Tensor) -> dict[str, float]:
    """Each number of the set of samples that has the best one.

    distance@k : the energy distance from exact samples.
    tv@k       : the total variation distance of the weights of the modes.
    good@k     : the share of samples within 4 standard deviations of a mode.
    """
    modes = [mode_statistics(end.double(), toys.mode_grid().means, SD) for end in ends]
    return {
        f"distance@{k}": min(energy_distance(end.double(), exact) for end in ends),
        f"tv@{k}": min(each.total_variation for each in modes),
        f"good@{k}": max(each.good for each in modes),
    }


def drawn(denoiser: Denoiser, k: int, seed: int, n: int, ways: Ways) -> list[Tensor]:
    """Samples in k steps by each way."""
    process = cast(Gaussian, denoiser.process)
    return [
        sample(denoiser, n, k, shape=(2,), sampler=each, seed=seed, batch=n, grid=grid(process, k))
        for each, grid in ways
    ]


def measure(name: str, seed: int, n: int, first: int, then: int) -> Mapping[str, float]:
    """The numbers of one arm at 2, 4 and 8 steps, and for some at many."""
    exact = toys.mode_grid().sample(n, Rng(seed, n, "exact"))
    results: dict[str, float] = {}
    for k in (*STEPS, MANY) if name in (BEFORE, MOVED) else STEPS:
        results |= measured(_ends(name, k, seed, n, first, then), k, exact)
    return results


def _ends(name: str, k: int, seed: int, n: int, first: int, then: int) -> list[Tensor]:
    """The sets of samples of an arm in k steps."""
    if name == FLOOR:
        return [toys.mode_grid().sample(n, Rng(seed, n, "floor"))]
    if name == EXACT:
        return drawn(oracle(), k, seed, n, FOUR)
    if name in (BEFORE, BEST):
        return drawn(_before(False, seed, first), k, seed, n, ITS_OWN if name == BEFORE else FOUR)
    if name == LONGER:
        # as many evaluations as the tuning
        plain, start = config(PLAIN, first, seed), _before(False, seed, first).state_dict()
        each = [_trained(_further(plain, k * then, rate), seed, start) for rate in (RATE, FIRST_RATE)]
        return [end for network in each for end in drawn(network, k, seed, n, FOUR)]
    if name == MOVED:
        # the network itself refuses no steps
        return drawn(_tuned(MIXED, 4, seed, first, then).network, k, seed, n, ITS_OWN)
    if name == DRAWS:
        return drawn(_before(True, seed, first), k, seed, n, BY_DRAWS)
    if name == DRAWS_TUNED:
        return drawn(_tuned(MIXED, k, seed, first, then, True), k, seed, n, BY_DRAWS)
    return drawn(_tuned(name, k, seed, first, then), k, seed, n, ITS_OWN)


def checks(value: Numbers) -> Mapping[str, bool]:
    """The claim, at each number of steps; then more training, other kernels, and other steps."""
    arms = [name for name in ROLES if (name, "distance@2") in value]
    near, share, good = ({name: value.line(name, kind, STEPS) for name in arms} for kind in ("distance", "tv", "good"))
    own, best = near[MIXED], near[BEST]
    many = {name: value[name, f"distance@{MANY}"] for name in (BEFORE, MOVED)}
    wide = [max(value.spread(name, f"distance@{k}") for name in (MIXED, BEFORE)) for k in STEPS]
    found: dict[str, bool] = {
        f"tuned for 2, 4 and 8 steps, samples are as near to the data as before in {MANY} ({_listed(own)}; "
        f"{many[BEFORE]:.3g}, and two standard deviations)": all(
            a <= many[BEFORE] + 2 * sd for a, sd in zip(own, wide, strict=True)
        ),
        f"nearer than before by the best of four samplers and grids ({_listed(best)})": _below(own, best),
        f"and in the same steps of DDIM for 2, 4 and 8 ({_listed(own)}; before {_listed(near[BEFORE])}), and in the "
        f"weights of the modes (total variation {_listed(share[MIXED])}; before {_listed(share[BEFORE])})": _below(
            own, near[BEFORE]
        )
        and _below(share[MIXED], share[BEFORE]),
        f"for 4 and 8 the best sampler and grid does not do it without tuning (total variation {_listed(share[BEST])}, "
        f"good {_listed(good[BEST])}; tuned {_listed(good[MIXED])})": _below(share[MIXED][1:], share[BEST][1:])
        and _below(good[BEST][1:], good[MIXED][1:]),
        f"training with as many evaluations does not do it ({_listed(near[LONGER])})": _below(own, near[LONGER]),
        f"nor the exact mean ({_listed(near[EXACT])})": _below(own, near[EXACT]),
        f"the energy distance through the same steps gains too ({_listed(near[ENERGY])})": _below(
            near[ENERGY], near[BEFORE]
        ),
        f"the cubic kernel, which sees three moments, is farther ({_listed(near[CUBIC])}; total variation "
        f"{_listed(share[CUBIC])})": _below(own, near[CUBIC]) and _below(share[MIXED], share[CUBIC]),
        f"tuned for 4 steps, the model is farther in {MANY} than before ({many[MOVED]:.3g}; {many[BEFORE]:.3g})": many[
            MOVED
        ]
        > many[BEFORE],
    }
    if DRAWS in near:
        found[f"the draws of a soft mixture gain too ({_listed(near[DRAWS_TUNED])}; before {_listed(near[DRAWS])})"] = (
            _below(near[DRAWS_TUNED], near[DRAWS])
        )
    return {**found, **checks_on_images(value)}


def _below(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a < b for a, b in zip(one, other, strict=True))


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{each:.3g}" for each in values)


ROLES: dict[str, Role] = {
    BEFORE: "baseline",
    BEST: "baseline",
    LONGER: "control",
    MIXED: "ours",
    ENERGY: "control",
    CUBIC: "control",
    MOVED: "control",
    DRAWS: "baseline",
    DRAWS_TUNED: "ours",
    EXACT: "oracle",
    FLOOR: "floor",
}
# n samples, steps of the first training, and steps of a tuning
QUICK = {"n": 2000, "first": 1200, "then": 120}
FULL = {"n": 10_000, "first": 8000, "then": 500}


def _arms() -> list[Arms]:
    return [
        arm(name, role, partial(measure, name), GRID, None if name in (DRAWS, DRAWS_TUNED) else QUICK, FULL)
        for name, role in ROLES.items()
    ]


run = TrainedStudy(PAPER, checks, _arms(), trained=ON_IMAGES)
