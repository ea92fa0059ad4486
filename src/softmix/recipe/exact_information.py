"""The information of conditions for exact denoisers, by quadrature: no random number, and every answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..cond import Cond
from ..data.toys import ToyMixture
from ..denoiser import Denoiser
from ..info import (
    Decomposition,
    EvenLevels,
    InformationMaps,
    TwoSources,
    decompose_pointwise,
    gaussian_information,
    pointwise_decomposition,
    pointwise_information,
)
from ..oracle import LabelledProblem, two_labels
from ..posterior import Normal
from ..process import VP, Noised
from ..rng import Rng

F64 = torch.float64
# the integrals beyond these ends are below 1e-5 nats for the laws here
ENDS = (-14.0, 16.0)


@dataclass(frozen=True, eq=False)
class AtNodes(VP):
    """VP with given noises in turn, z_1 ... z_K, z_1, ... instead of random ones.

    nodes : [K, ...]. The number of items is a multiple of K.
    """

    nodes: Tensor = field(default_factory=lambda: torch.zeros(1, 1, dtype=F64, device="cpu"))

    def noise(self, x0: Tensor, t: Tensor | float, rng: Rng, cond: Cond | Tensor | None = None) -> Noised:
        z = self.nodes.to(x0).repeat(len(x0) // len(self.nodes), *(1,) * (self.nodes.ndim - 1))
        return Noised(x0, self.state(x0, t, z), torch.as_tensor(t, dtype=F64).expand(len(x0)), z, self, cond)


def rule(count: int, dim: int) -> tuple[Tensor, Tensor]:
    """Gauss and Hermite's nodes of a standard normal law, [count^dim, dim], and their weights."""
    place, weight = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(count))
    nodes, weights = place[:, None], weight / weight.sum()
    for _ in range(dim - 1):
        nodes = torch.cat([nodes.repeat_interleave(count, 0), place.repeat(len(nodes))[:, None]], 1)
        weights = torch.outer(weights, weight / weight.sum()).flatten()
    return nodes, weights


def mixed(maps: InformationMaps, weights: Tensor) -> InformationMaps:
    """The mean over the nodes of each item: [B K, ...] -> [B, ...]."""
    return maps.each(lambda x: torch.einsum("bk...,k->b...", x.unflatten(0, (-1, len(weights))), weights))


def by_rule(
    make: Callable[[AtNodes], Denoiser], x: Tensor, sources: TwoSources, nodes: int, levels: int
) -> tuple[InformationMaps, InformationMaps]:
    """`pointwise_decomposition` of points [B, D], by the rule of the midpoint in logsnr and Gauss and Hermite's in the
    noise. make : the exact denoiser of a process."""
    z, weights = (part.to(x.device) for part in rule(nodes, x.shape[1]))
    conds = (sources.first, sources.second, sources.both, sources.context)
    spread = TwoSources(*(None if cond is None else _repeated(cond, len(z)) for cond in conds))  # type: ignore[arg-type]
    items = x.repeat_interleave(len(z), 0)
    rng = Rng(0, len(items), device=x.device)
    found = pointwise_decomposition(
        make(AtNodes(nodes=z)), items, rng, EvenLevels(*ENDS), spread, levels, 1, batch=len(items)
    )
    return mixed(found[0], weights), mixed(found[1], weights)


def _repeated(cond: Cond | Tensor, count: int) -> Cond:
    assert isinstance(cond, Cond)
    return cond.take(torch.arange(len(cond), device="cpu").repeat_interleave(count))


def two_components(process: VP) -> LabelledProblem:
    """One number with means -1 and 1 and standard deviations 0.5, of equal weight; the label is the component."""
    half = torch.full((2,), 0.5, dtype=F64, device="cpu")
    law = ToyMixture(
        "two",
        half,
        torch.tensor([[-1.0], [1.0]], dtype=F64, device="cpu"),
        torch.full((2, 1, 1), 0.5, dtype=F64, device="cpu"),
    )
    return LabelledProblem("two components", law, torch.arange(2, device="cpu")[:, None], process, (1,))


def at_points(x: Tensor, nodes: int, levels: int) -> tuple[Tensor, Tensor, Tensor]:
    """i(x; the component at 1) of points x [B] of `two_components`: i_s, i_o, and log p(x | y) / p(x)."""
    z, weights = (part.to(x.device) for part in rule(nodes, 1))
    problem = two_components(AtNodes(nodes=z))
    items = x.repeat_interleave(len(z))[:, None]
    given = Cond(label=torch.ones(len(items), 1, dtype=torch.int64, device=x.device))
    rng = Rng(0, len(items), device=x.device)
    found = pointwise_information(
        problem.denoiser(), items, rng, EvenLevels(*ENDS), given, n=levels, repeats=1, batch=len(items)
    )
    standard, orthogonal = (each.reshape(len(x), -1) @ weights for each in found)
    known = given.take(slice(len(x)))
    return standard, orthogonal, problem.log_prob(x[:, None], known) - problem.log_prob(x[:, None])


def exact_parts(problem: LabelledProblem, x: Tensor, cond: Cond) -> tuple[dict[str, Tensor], Decomposition]:
    """The informations of two labels on points, [B] each, by the probabilities of a law; and their parts in nats."""
    sources = TwoSources.of(cond, problem.cond, "label 0", "label 1")
    logs = {name: problem.log_prob(x, getattr(sources, name)) for name in ("context", "first", "second", "both")}
    found = {name: logs[name] - logs["context"] for name in ("first", "second", "both")}
    found |= {
        "first_given_second": logs["both"] - logs["second"],
        "second_given_first": logs["both"] - logs["first"],
    }
    prior = problem.surprisal(sources.first), problem.surprisal(sources.second)
    return found, decompose_pointwise(found["first"], found["second"], found["both"], prior)


class LinearGaussian:
    """The denoiser of x = y_1 + y_2 + n, with y_i ~ N(0, 1) of correlation `rho` and n ~ N(0, 1).

    The condition is the values y [B, 2], nan for one that is not given.
    """

    def __init__(self, process: VP, rho: float):
        self.process, self.rho = process, rho

    @property
    def covariance(self) -> Tensor:
        """Of (x, y_1, y_2), [3, 3]."""
        rho = self.rho
        rows = [[3 + 2 * rho, 1 + rho, 1 + rho], [1 + rho, 1, rho], [1 + rho, rho, 1]]
        return torch.tensor(rows, dtype=F64, device="cpu")

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Normal:
        assert isinstance(cond, Cond) and cond.value is not None
        given = cond.value.isfinite()
        y, count = cond.value.nan_to_num(0.0), given.sum(1)
        # of y_1 + y_2, given one of them: the other one is N(rho y, 1 - rho^2)
        mean = torch.where(count == 2, y.sum(1), torch.where(count == 1, (1 + self.rho) * y.sum(1), 0.0))
        spread = y.new_tensor([2 + 2 * self.rho, 1 - self.rho**2, 0.0])[count]
        mean, var = mean[:, None], 1 + spread[:, None]
        alpha, sigma = (part.reshape(-1, 1) for part in self.process.levels(t))
        seen = alpha**2 * var + sigma**2
        return Normal(mean + alpha * var / seen * (xt - alpha * mean), var * sigma**2 / seen)


def linear(rho: float, levels: int) -> tuple[Decomposition, Decomposition]:
    """The mean information of y_1 and y_2 on x = y_1 + y_2 + n in bits, as parts by the measure "mmi": by errors, and
    in closed form.

    All integrands are of degree two in y, n and the noise, so that three nodes for each are exact.
    """
    z, weights = rule(3, 3)
    first = z[:, 0]
    second = rho * first + math.sqrt(1 - rho**2) * z[:, 1]
    values = torch.stack([first, second], 1)
    hidden = torch.full_like(first, torch.nan)
    sources = TwoSources(
        Cond(value=torch.stack([first, hidden], 1)),
        Cond(value=torch.stack([hidden, second], 1)),
        Cond(value=values),
        Cond(value=torch.full_like(values, torch.nan)),
    )
    x = (first + second + z[:, 2])[:, None]
    maps, _ = by_rule(lambda process: LinearGaussian(process, rho), x, sources, 3, levels)
    one, two, both = (float(each[:, 0] @ weights) / math.log(2) for each in (maps.first, maps.second, maps.both))
    covariance = LinearGaussian(VP(), rho).covariance
    known = [float(gaussian_information(covariance, [0], own)) for own in ([1], [2], [1, 2])]
    return _least(one, two, both), _least(*known)


def _least(first: float, second: float, both: float) -> Decomposition:
    least, one, two, all_ = (
        torch.tensor(each, dtype=F64, device="cpu") for each in (min(first, second), first, second, both)
    )
    return Decomposition.of(least, one, two, all_, "mmi")


def exact(seed: int, n: int, nodes: int, levels: int) -> Mapping[tuple[str, str], float]:
    """All numbers of the exact laws, by estimator and metric; "law" for the known answers."""
    results: dict[tuple[str, str], float] = {}
    names = ("standard", "orthogonal", "law")
    x, weights = rule(4 * nodes, 1)
    point = torch.full((1,), -1.5, dtype=F64, device="cpu")
    for points, share, metric in (
        (point, torch.ones(1, dtype=F64, device="cpu"), "nats at -1.5"),
        (1 + x[:, 0] / 2, weights, "nats in the mean"),
    ):
        for name, each in zip(names, at_points(points, 4 * nodes, levels), strict=True):
            results[name, metric] = float(each @ share)
    problem = two_labels()
    items, cond = problem.draw(n, Rng(seed, n, "items"))
    sources = TwoSources.of(cond, problem.cond, "label 0", "label 1")
    known, parts = exact_parts(problem, items, cond)
    prior = problem.surprisal(sources.first), problem.surprisal(sources.second)
    for maps in by_rule(lambda process: two_labels(process=process).denoiser(), items, sources, nodes, levels):
        total, found = maps.total, maps.parts(prior)
        off = [getattr(total, name) - value for name, value in known.items()]
        results[maps.estimator, "error of two labels"] = float(torch.stack(off).abs().max())
        pairs = [(getattr(found, name), getattr(parts, name)) for name in ("redundant", "first", "second", "synergy")]
        results[maps.estimator, "error of parts"] = max(float((a.sum(1) - b).abs().max()) for a, b in pairs)
    for name, line in zip(("standard", "law"), linear(0.6, levels), strict=True):
        for metric in ("redundant", "synergy"):
            results[name, f"linear, {metric}, bits"] = float(getattr(line, metric))
    return results
