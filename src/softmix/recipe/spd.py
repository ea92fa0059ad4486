"""Shortest Path Diffusion: a noise schedule for each frequency, and whether its path or its time law is the gain.

For Gaussian data every step with exact means is linear in each frequency. So the law at the end of a sampler has known
variances V, and the divergence from the data is sum_i (V_i / S_i - 1 - log(V_i / S_i)) / 2 nats, without sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise

import torch
from torch import Tensor

from ..data import load
from ..posterior import Point
from ..process import GRIDS, SPD, VP, ConstantSpeed, Gaussian, ShortestPath, fisher, fourier, spectrum_of, uniform
from ..process.spectrum import power_of_radii
from ..rng import Rng
from ..sampler import Sampler, adams, ancestral, ddim, dpm_solver_2m, drive
from ..sampler.drive import finish
from ..train import Config
from .frame import Arms, Numbers, Results, TrainedStudy
from .images import trained
from .paper import Paper, Role
from .trainings import Sampling, Training, change

PAPER = Paper.of(
    "spd",
    "The shortest path from the data's spectrum to noise, a schedule for each frequency, is the best corruption; to "
    "leave it makes few steps worse.",
)
RESULT = (
    "on Gaussian data better than the usual schedules in equal steps; most of that is the time law and not "
    "the path, and a steeper path than the shortest is better; trained on images it is worse than cosine at 5 steps, "
    "equal at 10, and slightly better at 20"
)

COUNTS = (4, 8, 16, 32, 64)
# the data sets with their spectra, and the side of an image
SOURCES = {"digits": 8, "fashion-mnist": 28}


@dataclass(frozen=True)
class PathRow:
    """A path, and the grid of its steps.

    make  : the process, from the power S.
    grids : of which the best is taken at each count.
    """

    role: Role
    make: Callable[[Tensor], Gaussian]
    grids: Sequence[Callable[[Gaussian, int], Tensor]] = (uniform,)


def _leaned(power: float) -> Callable[[Tensor], Gaussian]:
    return lambda s: ShortestPath(s**power)


ROWS: dict[str, PathRow] = {
    "shortest path": PathRow("ours", ShortestPath),
    "linear": PathRow("baseline", lambda s: VP("linear")),
    "cosine": PathRow("baseline", lambda s: VP()),
    "cosine, its best grid": PathRow("baseline", lambda s: VP(), GRIDS),
    "one schedule, constant speed": PathRow("control", ConstantSpeed.of),
    "shortest path, its best grid": PathRow("ours", ShortestPath, GRIDS),
    "path of S^1.5": PathRow("control", _leaned(1.5)),
    "path of S^0.5": PathRow("control", _leaned(0.5)),
}


class Linear:
    """The exact denoiser of independent Gaussians N(0, S): E[x0 | x_t] = alpha S / (alpha^2 S + sigma^2) x_t."""

    def __init__(self, process: Gaussian, power: Tensor):
        self.process, self.power = process, power

    def gain(self, t: Tensor | float) -> Tensor:
        alpha, sigma = (self._wide(each) for each in self.process.levels(t))
        return alpha * self.power / (alpha**2 * self.power + sigma**2)

    def __call__(self, xt: Tensor, t: Tensor | float, cond: object = None) -> Point:
        return Point(self.gain(t) * xt)

    def _wide(self, level: Tensor) -> Tensor:
        return level if level.ndim > 1 else level.reshape(-1, *(1,) * self.power.ndim)


@lru_cache(maxsize=4)
def power_of(data: str) -> Tensor:
    """The power of 4,000 images of a data set in each element of the real Fourier basis, centred; float64.

    Figures of the complex basis, in which a sine and a cosine of one frequency share their power, are 0.6 % less.
    """
    x0, turn = load(data).x0(slice(0, 4000)).double(), fourier(SOURCES[data])
    return (turn @ (x0 - x0.mean(0)) @ turn.T).square().mean((0, 1))


def variances(denoiser: Linear, sampler: Sampler, grid: Tensor) -> Tensor:
    """The variance of each element at the end of a sampler that starts at x_1 ~ N(0, sigma(1)^2)."""
    process, shape = denoiser.process, denoiser.power.shape
    first = denoiser._wide(process.levels(grid[0])[1]).expand(1, *shape)
    if sampler is not ancestral:
        # without fresh noise x is a multiple of its start
        return finish(drive(denoiser, sampler, first, grid, Rng(0, 1))).square()
    variance = first.square()
    for t, s in pairwise(grid):
        clean, kept, fresh = (denoiser._wide(torch.as_tensor(each)) for each in process.shares(t, s))
        variance = (clean * denoiser.gain(t) + kept) ** 2 * variance + fresh**2
    return variance


def divergence(variance: Tensor, power: Tensor) -> float:
    """The divergence of N(0, V) from N(0, S) in nats."""
    ratio = variance / power
    return float((ratio - 1 - ratio.log()).sum() / 2)


def named(name: str, data: str) -> str:
    """The name of a row with the spectrum of a data set."""
    return f"{name} ({data})"


SAMPLERS: dict[str, Sampler] = {"ancestral": ancestral, "ddim": ddim, "2M": dpm_solver_2m}


def measure(data: str, seed: int) -> Results:
    """The divergence of each row by each sampler and number of steps, and the length and the energy of its path.

    Nothing is random, and the seed has no effect.
    """
    power = power_of(data)
    results: dict[tuple[str, str], float] = {}
    for name, row in ROWS.items():
        process = row.make(power)
        denoiser = Linear(process, power)
        own = named(name, data)
        results[own, "length"], results[own, "energy"] = fisher(process, power)
        for kind, sampler in SAMPLERS.items():
            for count in COUNTS:
                each = [divergence(variances(denoiser, sampler, grid(process, count)), power) for grid in row.grids]
                results[own, f"{kind}@{count}"] = min(each)
    return results


def _exact(data: str, quick: bool) -> Arms:
    """One run: nothing is random."""
    roles = {named(name, data): row.role for name, row in ROWS.items()}
    law = f"Gaussian data with the spectrum of {data}, exact means, nats"
    return Arms(roles, partial(measure, data), law, {} if quick else None, {}, seeds=1, needs=partial(power_of, data))


# trained on images

IMAGES = "Fashion-MNIST, 14 x 14, trained"
FEW = (5, 10, 20)
# the measured ways; 2M has no steps of equal length on the grid of SPD
WAYS = (
    Sampling("ancestral", ancestral),
    Sampling("ddim", ddim),
    Sampling("adams", adams),
    Sampling("2M", dpm_solver_2m),
)


@lru_cache(maxsize=1)
def _spectrum() -> tuple[float, ...]:
    return spectrum_of(load("fashion-mnist", size=14).x0(slice(0, 4000)))


def _shortest(config: Config, shape: tuple[int, ...]) -> Config:
    return config.but(process=SPD(_spectrum(), shape[-1]), output="x0")


def _constant(config: Config, shape: tuple[int, ...]) -> Config:
    return config.but(process=ConstantSpeed.of(power_of_radii(_spectrum(), shape[-1])), output="x0")


TRAININGS: dict[str, Training] = {
    "trained, shortest path": Training("ours", _shortest, WAYS),
    "trained, one schedule, constant speed": Training("control", _constant, WAYS),
    "trained, cosine, output x0": Training("control", change(output="x0"), WAYS),
    "trained, cosine": Training("baseline", change(), WAYS),
    "trained, linear": Training("baseline", change(process=VP("linear")), WAYS),
}


def training_of(name: str) -> Training:
    """A row of `TRAININGS`."""
    return TRAININGS[name]


def checks(value: Numbers) -> Mapping[str, bool]:
    """The shortest path against common schedules, against its time law alone, and against other paths."""
    found: dict[str, bool] = {}
    for data in SOURCES:
        if (named("shortest path", data), "length") in value:
            found |= _on_law(value, data)
    if ("trained, cosine", f"frechet@{FEW[0]}") in value:
        found |= _on_trained(value)
    return found


def _on_law(value: Numbers, data: str) -> Mapping[str, bool]:
    """The checks on Gaussian data with one spectrum, by the best sampler of each row at each number of steps."""

    def least(name: str) -> list[float]:
        lines = [value.line(named(name, data), kind, COUNTS) for kind in SAMPLERS]
        return [min(each) for each in zip(*lines, strict=True)]

    short, cosine, linear, constant, leaned = (
        value.line(named(name, data), "ancestral", COUNTS)
        for name in ("shortest path", "cosine", "linear", "one schedule, constant speed", "path of S^1.5")
    )
    own, other = least("shortest path, its best grid"), least("cosine, its best grid")
    lengths = [value[named(name, data), "length"] for name in ("shortest path", "cosine")]
    energies = [
        value[named(name, data), "energy"] for name in ("shortest path", "one schedule, constant speed", "cosine")
    ]
    told = f"{lengths[0]:.2f} and {lengths[1]:.2f}), and its energy lower than at constant speed with one schedule"
    return {
        f"{data}: in ancestral steps, equal in t, it is nearer to the data than cosine and linear at {_all()} "
        f"({_few(short)}; {_few(cosine)}; {_few(linear)} nats)": all(
            a < min(b, c) for a, b, c in zip(short, cosine, linear, strict=True)
        ),
        f"{data}: it is the path: one schedule of the same time law is worse by a tenth ({_few(constant)})": all(
            b > 1.1 * a for a, b in zip(short, constant, strict=True)
        ),
        f"{data}: it is the best path: that of S^1.5 is worse ({_few(leaned)})": all(
            b > a for a, b in zip(short, leaned, strict=True)
        ),
        f"{data}: each on its best grid, by its best sampler, it is nearer than cosine by a tenth ({_few(own)}; "
        f"{_few(other)})": all(b > 1.1 * a for a, b in zip(own, other, strict=True)),
        f"{data}: it is shorter ({told} ({', '.join(f'{each:.0f}' for each in energies)} for cosine)": lengths[0]
        < lengths[1]
        and energies[0] < energies[1],
    }


def _on_trained(value: Numbers) -> Mapping[str, bool]:
    lines = {name: value.line(name, "frechet", FEW) for name in TRAININGS}
    short, constant, same, *plain = lines.values()
    usual = [min(each) for each in zip(*plain, strict=True)]
    return {
        f"trained, it is nearer by a tenth than cosine and linear at 5, 10 and 20 ({_few(short)}; {_few(usual)})": all(
            1.1 * a < b for a, b in zip(short, usual, strict=True)
        ),
        f"trained, than one schedule of its time law ({_few(constant)})": all(
            1.1 * a < b for a, b in zip(short, constant, strict=True)
        ),
        f"trained, than cosine with its output ({_few(same)})": all(
            1.1 * a < b for a, b in zip(short, same, strict=True)
        ),
    }


def _all() -> str:
    return ", ".join(map(str, COUNTS))


def _few(values: Sequence[float]) -> str:
    return ", ".join(f"{each:.3g}" for each in values)


run = TrainedStudy(
    PAPER,
    checks,
    [_exact("fashion-mnist", False), _exact("digits", True)],
    trained=[trained(IMAGES, TRAININGS, training_of, FEW)],
)
