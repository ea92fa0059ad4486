"""Known distributions, to sample from and to compare with, in any dimension.

Each sample is a function of the number of its item alone: item k of sample(n, Rng(seed, n)) has the same bits as the
item of sample(1, Rng(seed, [k])).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..rng import Rng

_F64 = torch.float64


class Toy(Protocol):
    """A distribution of points. `sample` returns float64 [n, dim]; its rng must serve n items."""

    @property
    def name(self) -> str: ...
    @property
    def dim(self) -> int: ...
    def sample(self, n: int, rng: Rng) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class ToyMixture:
    """p(x) = sum_k weights[k] N(x; means[k], factors[k] factors[k]^T), all in float64.

    weights : [K], positive, with sum 1.
    means : [K, D].
    factors : [K, D, D], lower triangular (Cholesky) with a positive diagonal.
    Raises ValueError for other parameters.
    """

    name: str
    weights: Tensor
    means: Tensor
    factors: Tensor

    def __post_init__(self) -> None:
        k, d = self.means.shape
        shapes = list(self.weights.shape), list(self.factors.shape)
        if shapes != ([k], [k, d, d]):
            raise ValueError(
                f"weights [{k}] and factors [{k}, {d}, {d}] were expected, not {shapes[0]} and {shapes[1]}"
            )
        if any(part.dtype != _F64 for part in (self.weights, self.means, self.factors)):
            raise ValueError("the parameters of a mixture are float64; convert them with .double()")
        if not (bool((self.weights > 0).all()) and abs(float(self.weights.sum()) - 1) < 1e-9):
            raise ValueError(f"weights must be positive with sum 1, but they are {self.weights.tolist()}")
        lower = torch.equal(self.factors, self.factors.tril())
        if not (lower and bool((self.factors.diagonal(dim1=1, dim2=2) > 0).all())):
            raise ValueError("factors must be lower triangular with a positive diagonal; use torch.linalg.cholesky")

    @property
    def dim(self) -> int:
        return self.means.shape[1]

    def to(self, device: torch.device) -> ToyMixture:
        """The same law with its parameters on `device`."""
        weights, means, factors = (part.to(device) for part in (self.weights, self.means, self.factors))
        return ToyMixture(self.name, weights, means, factors)

    @property
    def covariances(self) -> Tensor:
        """The covariances of the components, [K, D, D]."""
        return self.factors @ self.factors.mT

    @property
    def mean(self) -> Tensor:
        """The mean of the mixture, [D]."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """The covariance of the mixture, [D, D]: E[Cov(x|k)] + Cov(E[x|k])."""
        off = self.means - self.mean
        within = torch.einsum("k,kij->ij", self.weights, self.covariances)
        return within + torch.einsum("k,ki,kj->ij", self.weights, off, off)

    @property
    def scale(self) -> float:
        """The root mean square of the sds of the components: sqrt(E[tr Cov(x|k)] / D)."""
        return math.sqrt(float((self.weights * self.factors.square().sum((1, 2))).sum()) / self.dim)

    def sample(self, n: int, rng: Rng) -> Tensor:
        """n points, float64 [n, D]."""
        _serves(n, rng)
        edges, means, factors = (part.to(rng.device) for part in (self.weights.cumsum(0), self.means, self.factors))
        pick = torch.searchsorted(edges, rng.uniform((n,), dtype=_F64)).clamp(max=len(edges) - 1)
        noise = rng.normal((n, self.dim), dtype=_F64)
        x = means[pick]
        # Column by column: the order of sums in a batched product may depend on the batch size.
        for j in range(self.dim):
            x = x + factors[:, :, j][pick] * noise[:, j, None]
        return x

    def _squares(self, x: Tensor) -> Tensor:
        """Squared Mahalanobis distance of each point to each component, [N, K]."""
        means, factors = self.means.to(x.device), self.factors.to(x.device)
        off = (x.to(_F64)[:, None, :] - means).movedim(0, -1)
        squares: Tensor = torch.linalg.solve_triangular(factors, off, upper=False).square().sum(1).mT
        return squares

    def log_prob(self, x: Tensor) -> Tensor:
        """ln p(x) for points [N, D], in nats, float64 [N]."""
        volumes = self.factors.diagonal(dim1=1, dim2=2).log().sum(1) + self.dim / 2 * math.log(2 * math.pi)
        weights = (self.weights.log() - volumes).to(x.device)
        return torch.logsumexp(weights - self._squares(x) / 2, dim=1)

    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest component of each point by Mahalanobis distance.

        Returns (component [N], distance [N] in units of the component's sd).
        """
        square, index = self._squares(x).min(dim=1)
        return index, square.sqrt()


@dataclass(frozen=True)
class ToyWithoutDensity:
    """A distribution that can be sampled but has no density here."""

    name: str
    dim: int
    draw: Callable[[int, Rng], Tensor]

    def sample(self, n: int, rng: Rng) -> Tensor:
        """n points, float64 [n, dim]."""
        _serves(n, rng)
        return self.draw(n, rng)


def _serves(n: int, rng: Rng) -> None:
    if len(rng) != n:
        raise ValueError(f"{n} points were asked for, but this Rng serves {len(rng)} items; make it by Rng(seed, {n})")


def _round(name: str, means: Tensor, sd: float) -> ToyMixture:
    """A mixture of equal weights and equal round components."""
    k, d = means.shape
    return ToyMixture(
        name,
        torch.full((k,), 1 / k, dtype=_F64, device=means.device),
        means,
        (sd * torch.eye(d, dtype=_F64, device=means.device)).repeat(k, 1, 1),
    )


def mode_grid(side: int = 7, spacing: float = 0.5, sd: float = 0.05) -> ToyMixture:
    """side x side equal round components, centred at 0. With the defaults the variance of each axis is 1.0025."""
    line = (torch.arange(side, dtype=_F64, device="cpu") - (side - 1) / 2) * spacing
    return _round("grid", torch.cartesian_prod(line, line), sd)


def ring(k: int = 8, radius: float = 1.4, sd: float = 0.1) -> ToyMixture:
    """k equal round components, evenly on a circle. The variance of each axis is radius^2 / 2 + sd^2 (k > 2)."""
    angle = torch.arange(k, dtype=_F64, device="cpu") * (2 * math.pi / k)
    return _round("ring", radius * torch.stack([angle.cos(), angle.sin()], dim=1), sd)


def _slanted(rng: Rng, k: int, dim: int, most: float, least: float) -> Tensor:
    """Covariances [k, dim, dim] in random directions, with sds in equal ratios from `most` to `least`."""
    turn: Tensor = torch.linalg.qr(rng.normal((1, k, dim, dim), dtype=_F64)[0]).Q
    sds = torch.logspace(math.log10(most), math.log10(least), dim, dtype=_F64, device="cpu")
    return turn @ (sds.square()[:, None] * turn.mT)


def correlated(dim: int = 2, k: int = 4, seed: int = 0) -> ToyMixture:
    """k components of equal weight, thin ellipsoids in random directions (sds 0.4 to 0.04); means from N(0, 0.9^2)."""
    rng = Rng(seed, 1, "softmix.toys.correlated")
    means = 0.9 * rng.normal((1, k, dim), dtype=_F64)[0]
    factors = torch.linalg.cholesky(_slanted(rng, k, dim, 0.4, 0.04))
    return ToyMixture("correlated", torch.full((k,), 1 / k, dtype=_F64, device=means.device), means, factors)


def unequal(dim: int = 2, k: int = 4, seed: int = 0) -> ToyMixture:
    """k components of unequal weight and size.

    Each weight is half of the one before. The sds of the last component are a quarter of those of the first.
    """
    rng = Rng(seed, 1, "softmix.toys.unequal")
    means = 0.9 * rng.normal((1, k, dim), dtype=_F64)[0]
    sizes = torch.logspace(0, -2, k, base=2, dtype=_F64, device="cpu")
    factors = sizes[:, None, None] * torch.linalg.cholesky(_slanted(rng, k, dim, 0.5, 0.1))
    weights = 0.5 ** torch.arange(k, dtype=_F64, device="cpu")
    return ToyMixture("unequal", weights / weights.sum(), means, factors)


def moons(sd: float = 0.08) -> ToyWithoutDensity:
    """Two half circles of radius 1.2, around (-0.6, -0.3) and (0.6, 0.3), with noise of the given sd."""

    def draw(n: int, rng: Rng) -> Tensor:
        sign = 1 - 2 * rng.integers(2, (n,)).to(_F64)
        angle = math.pi * rng.uniform((n,), dtype=_F64)
        arc = torch.stack([1.2 * angle.cos() - 0.6, 1.2 * angle.sin() - 0.3], dim=1)
        return sign[:, None] * arc + sd * rng.normal((n, 2), dtype=_F64)

    return ToyWithoutDensity("moons", 2, draw)


def checkerboard(cells: int = 4) -> ToyWithoutDensity:
    """Uniform on the cells of a cells x cells board with even row + column, on [-sqrt 3, sqrt 3]^2. Unit variance
    per axis.

    Raises ValueError if cells is odd or below 2.
    """
    if cells < 2 or cells % 2:
        raise ValueError(f"a board of {cells} cells a side was asked for; give an even number")
    width = 2 * math.sqrt(3) / cells

    def draw(n: int, rng: Rng) -> Tensor:
        row = rng.integers(cells, (n,))
        column = 2 * rng.integers(cells // 2, (n,)) + row % 2
        corner = torch.stack([row, column], dim=1).to(_F64)
        return (corner + rng.uniform((n, 2), dtype=_F64)) * width - math.sqrt(3)

    return ToyWithoutDensity("checkerboard", 2, draw)


def rings(radii: tuple[float, ...] = (0.6, 1.2, 1.8), sd: float = 0.05) -> ToyWithoutDensity:
    """Concentric circles of equal probability, with noise of the given sd in both coordinates."""

    def draw(n: int, rng: Rng) -> Tensor:
        lengths = torch.tensor(radii, dtype=_F64, device=rng.device)
        radius = lengths[rng.integers(len(lengths), (n,))]
        angle = 2 * math.pi * rng.uniform((n,), dtype=_F64)
        circle = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
        return circle + sd * rng.normal((n, 2), dtype=_F64)

    return ToyWithoutDensity("rings", 2, draw)


TOYS: dict[str, Callable[[], Toy]] = {
    "grid": mode_grid,
    "ring": ring,
    "correlated": correlated,
    "unequal": unequal,
    "moons": moons,
    "checkerboard": checkerboard,
    "rings": rings,
}
