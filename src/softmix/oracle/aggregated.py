"""Items with a label and values of a known joint law, and the exact laws of all of them given z_t."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..cond import UNCONDITIONED, Cond, CondSpec
from ..data import toys
from ..data.toys import ToyMixture
from ..denoiser import Aggregation
from ..denoiser.modalities import AGGREGATE, ITEM, decoded_parts
from ..posterior import Categorical, FullMixture, Joint
from ..process import VP, Gaussian
from ..rng import Rng
from .observed import regression

# the standard deviation of a code, which is a constant: a law of `ToyMixture` has none of 0
_CONSTANT = 1e-9


@dataclass(frozen=True, eq=False)
class AggregateProblem:
    """(x, value) ~ a mixture of Gaussians whose component is the label; z_0 = w x + sum_i w_i E_i, z_t = alpha z_0 +
    sigma eps.

    law : over the elements of x, flattened, and then the values.
    shape : of x.
    process : of z.
    weights : w_i by name, of "x", "class" and, with values, "value". A name that is missing takes no part.
    data_sd : of the patterns of labels and values.

    Raises ValueError for a law of too few dimensions and for weights of other names.
    When to choose: to test models of several modalities.
    """

    name: str
    law: ToyMixture
    shape: tuple[int, ...]
    process: Gaussian
    weights: Mapping[str, float]
    data_sd: float = 1.0

    def __post_init__(self) -> None:
        if self.law.dim < self._size:
            raise ValueError(f"{self.name}: a law of {self.law.dim} dimensions was given for items of {self.shape}")
        others = self.weights.keys() - {ITEM, "class", "value"}
        if others or ITEM not in self.weights or (self._values == 0 and "value" in self.weights):
            raise ValueError(
                f"{self.name}: weights of x, of class, and of value if the law has values were expected; found "
                f"{sorted(self.weights)}"
            )

    @property
    def _size(self) -> int:
        return math.prod(self.shape)

    @property
    def _values(self) -> int:
        return self.law.dim - self._size

    @property
    def spec(self) -> CondSpec:
        """The modalities beside x."""
        labels = (("class", len(self.law.weights)),) if "class" in self.weights else ()
        return CondSpec(labels, values=self._values if "value" in self.weights else 0)

    @cached_property
    def aggregation(self) -> Aggregation:
        """z_0 as a function of the modalities."""
        return Aggregation(self.shape, self.spec, self.weights, self.data_sd)

    def draw(self, n: int, rng: Rng) -> tuple[Tensor, Cond]:
        """n items, float64 [n, *shape], with their label and values."""
        # the same number chooses the component inside `sample`
        edges = self.law.weights.cumsum(0).to(rng.device)
        shares = rng.take(slice(None)).uniform((n,), torch.float64)
        label = torch.searchsorted(edges, shares).clamp(max=len(edges) - 1)
        x, value = self.law.sample(n, rng).split([self._size, self._values], 1)
        spec = self.spec
        return x.reshape(n, *self.shape), Cond(label if spec.labels else None, value=value if spec.values else None)

    def denoiser(self) -> _AggregatePosterior:
        """The exact denoiser of z_0, with `joint` for all modalities."""
        return _AggregatePosterior(self)


class _AggregatePosterior:
    """The denoiser of an `AggregateProblem`."""

    low = 1e-5
    cond = UNCONDITIONED
    classes = 0

    def __init__(self, problem: AggregateProblem):
        self.problem, self.process, self.shape = problem, problem.process, problem.shape
        self.aggregation, self.spec = problem.aggregation, problem.spec
        law, size = problem.law, math.prod(problem.shape)
        count, device = len(law.weights), law.means.device
        codes = torch.zeros(count, size, dtype=torch.float64, device=device)
        if self.spec.labels:
            classes = torch.arange(count, device=device)
            codes = problem.weights["class"] * self.aggregation.code("class", classes).flatten(1).double()
        small = _CONSTANT * torch.eye(size, dtype=torch.float64, device=device).expand(count, size, size)
        factors = torch.stack([torch.block_diag(*pair) for pair in zip(law.factors, small, strict=True)])
        self._law = ToyMixture(law.name, law.weights, torch.cat([law.means, codes], 1), factors)
        # the rows of z_0, of x and of the values, over (x, value, code)
        rows = torch.zeros(size, size + law.dim, dtype=torch.float64, device=device)
        rows[:, :size] = problem.weights[ITEM] * torch.eye(size, dtype=torch.float64, device=device)
        rows[:, law.dim :] = torch.eye(size, dtype=torch.float64, device=device)
        if self.spec.values:
            rows[:, size : law.dim] = problem.weights["value"] * self.aggregation.patterns.flatten(1).T.double()
        whole = torch.eye(size + law.dim, dtype=torch.float64, device=device)
        self._rows = {AGGREGATE: (rows, problem.shape), ITEM: (whole[:size], problem.shape)}
        if self.spec.values:
            self._rows["value"] = (whole[size : law.dim], (self.spec.values,))

    def joint(self, zt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Joint:
        """The exact laws of z_0 and of every modality given z_t. The parts of a Joint stand alone; here each is the
        marginal."""
        if cond is not None:
            raise ValueError(f"{self.problem.name} has no condition, and one was given: leave it out")
        alpha, sigma = (
            torch.as_tensor(level, dtype=torch.float64).to(zt.device).reshape(-1, 1, 1)
            for level in self.process.levels(t)
        )
        rows = self._rows[AGGREGATE][0].to(zt.device)
        state = zt.flatten(1).double()
        noise = (sigma**2)[:, :, 0].expand(-1, state.shape[1])
        logs, means, factors = regression(self._law, alpha * rows, noise, state)
        found: dict[str, FullMixture | Categorical] = {}
        for name, (each, shape) in self._rows.items():
            own = each.to(means)
            root = _square(own @ factors)
            found[name] = FullMixture(logs.to(zt), (means @ own.T).to(zt), root.to(zt), shape)
        if self.spec.labels:
            found["class"] = Categorical(logs.to(zt))
        return Joint(found)

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> FullMixture:
        answer: FullMixture = self.joint(xt, t, cond).parts[AGGREGATE]  # type: ignore[assignment]
        return answer

    def decode(self, z: Tensor) -> dict[str, Tensor]:
        """As `Modalities.decode`."""
        return decoded_parts(self.joint(z, self.low))

    def x_of(self, z: Tensor) -> Tensor:
        """As `Modalities.x_of`."""
        return self.decode(z)[ITEM]


def _square(root: Tensor) -> Tensor:
    """A square root [..., M, M] of root root^T, for a root [..., M, D]."""
    found = torch.linalg.eigh(root @ root.mT)
    return found.eigenvectors * found.eigenvalues.clamp(min=0).sqrt()[..., None, :]


def aggregated(
    weights: Mapping[str, float] | None = None, process: Gaussian | None = None, components: int = 3, values: int = 2
) -> AggregateProblem:
    """Points of two dimensions with values and a label: correlated components of unequal weight and size."""
    chosen = weights or {ITEM: 1.0, "class": 0.5} | ({"value": 0.5} if values else {})
    return AggregateProblem("aggregated", toys.unequal(2 + values, components, 2), (2,), process or VP(), chosen)
