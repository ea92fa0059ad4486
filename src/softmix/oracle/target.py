"""Target densities with a known normalising constant and known moments."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import Target
from ..data.toys import ring
from ..process import VP
from ..rng import Rng
from .chain import marginals, paths
from .mixture import MixtureProblem


@dataclass(frozen=True, eq=False)
class TargetProblem:
    """A density p(x) = exp(log_density(x)) / Z that a sampler is given up to Z, with the answers.

    log_density : x [B, *shape] -> [B], in nats, not normalised.
    log_z       : log Z = log of the integral of exp(log_density).
    mean, var   : of p, of each element, float64 in `shape`.
    exact       : (n, rng) -> n exact draws [n, *shape].

    When to choose: to test samplers of a density without data.
    """

    name: str
    shape: tuple[int, ...]
    log_density: Callable[[Tensor], Tensor]
    log_z: float
    mean: Tensor
    var: Tensor
    exact: Callable[[int, Rng], Tensor]

    def draw(self, n: int, rng: Rng) -> tuple[Tensor, None]:
        """n draws of p, float64 [n, *shape]."""
        return self.exact(n, rng), None

    def source(self) -> Target:
        """The density alone, as a source to train on."""
        return Target(self.shape, self.log_density, self.name)


def mixture_target(problem: MixtureProblem) -> TargetProblem:
    """The law of a mixture without its factor (2 pi)^(-D/2): log Z = D/2 log(2 pi). Choose it for mode coverage."""
    law, shape = problem.law, problem.shape
    log_z = law.dim / 2 * math.log(2 * math.pi)

    def log_density(x: Tensor) -> Tensor:
        return (law.log_prob(x.flatten(1)) + log_z).to(x)

    mean, var = law.mean.reshape(shape), law.covariance.diagonal().reshape(shape)
    return TargetProblem(problem.name, shape, log_density, log_z, mean, var, problem.sample)


def ring_target() -> TargetProblem:
    """Eight modes of equal weight in the plane, sd 0.1, on a circle of radius 1.4. Choose it for mode coverage."""
    return mixture_target(MixtureProblem("ring", ring(), VP(), (2,)))


def funnel(dim: int = 10, sd: float = 3.0) -> TargetProblem:
    """Neal's funnel: x_1 ~ N(0, sd^2), and x_i ~ N(0, exp(x_1)) for i = 2, ..., dim.

    log_density = -x_1^2 / (2 sd^2) - sum_i x_i^2 exp(-x_1) / 2 - (dim - 1) x_1 / 2, so that
    log Z = log sd + dim / 2 log(2 pi); Var x_1 = sd^2 and Var x_i = exp(sd^2 / 2).
    Source: Neal, "Slice sampling", Annals of Statistics 2003, section 8. Choose it for scales that differ by orders.
    """

    def log_density(x: Tensor) -> Tensor:
        neck, rest = x[:, 0], x[:, 1:]
        return -neck.square() / (2 * sd**2) - (rest.square().sum(1) * (-neck).exp() + (dim - 1) * neck) / 2

    def exact(n: int, rng: Rng) -> Tensor:
        z = rng.normal((n, dim), torch.float64)
        neck = sd * z[:, :1]
        return torch.cat([neck, (neck / 2).exp() * z[:, 1:]], 1)

    var = torch.full((dim,), math.exp(sd**2 / 2), dtype=torch.float64)
    var[0] = sd**2
    log_z = math.log(sd) + dim / 2 * math.log(2 * math.pi)
    return TargetProblem("funnel", (dim,), log_density, log_z, torch.zeros_like(var), var, exact)


def phi4(sites: int = 8, mass: float = -2.0, coupling: float = 0.5) -> TargetProblem:
    """A chain of phi^4 sites with open ends; with the defaults each site has two wells, at about -1 and 1.

        -log density = sum_l (mass / 2 phi_l^2 + coupling phi_l^4) + 1/2 sum_l (phi_l - phi_(l+1))^2

    log Z and the moments are sums by the transfer matrix on 401 points from -5 to 5, good to about 1e-10 (the
    trapezoidal rule of a smooth integrand that vanishes at both ends). Draws are such points, 0.025 apart.
    Raises ValueError for a coupling that is not above 0: the density then has no finite Z.
    """
    if coupling <= 0:
        raise ValueError(f"phi4: a coupling of {coupling} was given; give one above 0")
    points = torch.linspace(-5, 5, 401, dtype=torch.float64)
    spacing = float(points[1] - points[0])

    def site(phi: Tensor) -> Tensor:
        return mass / 2 * phi.square() + coupling * phi**4

    def log_density(x: Tensor) -> Tensor:
        return -site(x).sum(1) - x.diff(dim=1).square().sum(1) / 2

    first, steps = torch.zeros_like(points), -(points[:, None] - points).square() / 2
    evidence = -site(points).expand(1, sites, -1)
    each, log_z = marginals(first, steps, evidence)
    mean = each[0].exp() @ points
    var = each[0].exp() @ points.square() - mean.square()

    def exact(n: int, rng: Rng) -> Tensor:
        return points[paths(first, steps, evidence, rng)].to(rng.device)

    return TargetProblem("phi4", (sites,), log_density, float(log_z) + sites * math.log(spacing), mean, var, exact)
