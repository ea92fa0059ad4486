"""A mixture of Gaussians with labels of its components; any of the labels may be given."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cond import Cond, CondSpec, as_cond
from ..data.toys import ToyMixture
from ..denoiser import ExactMixture
from ..posterior import FullMixture
from ..process import VP, Gaussian
from ..rng import Rng


@dataclass(frozen=True, eq=False)
class LabelledProblem:
    """x0 ~ sum_k w_k N(mu_k, S_k), and the labels of an item are those of its component.

    law : the mixture, flattened.
    labels : of each component, integers [K, L] of L labels, from 0 on. Components may share labels.
    process : of x0.
    shape : of one item.

    A condition gives any of the labels, -1 for those that are not given.
    Raises ValueError for sizes that do not fit.
    When to choose: to test the information of several conditions, with all probabilities known.
    """

    name: str
    law: ToyMixture
    labels: Tensor
    process: Gaussian
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if math.prod(self.shape) != self.law.dim:
            raise ValueError(f"a law of {self.law.dim} dimensions was given for items of shape {self.shape}")
        if self.labels.ndim != 2 or len(self.labels) != len(self.law.weights) or int(self.labels.min()) < 0:
            raise ValueError(
                f"labels of {len(self.law.weights)} components were expected, integers [K, L] of at least 0; found "
                f"{list(self.labels.shape)}"
            )

    @property
    def cond(self) -> CondSpec:
        """Labels with the names "label 0", "label 1", ..."""
        return CondSpec(tuple((f"label {k}", int(most) + 1) for k, most in enumerate(self.labels.amax(0))))

    def draw(self, n: int, rng: Rng) -> tuple[Tensor, Cond]:
        """n items, float64 [n, *shape], and all labels of each, [n, L]."""
        law = self.law.to(rng.device)
        ends = law.weights.cumsum(0)
        which = torch.searchsorted(ends, rng.child("component").uniform((n,), torch.float64)).clamp(max=len(ends) - 1)
        z = rng.child("item").normal((n, law.dim), torch.float64)
        x = law.means[which] + (law.factors[which] * z[:, None]).sum(2)
        return x.reshape(n, *self.shape), Cond(label=self.labels.to(rng.device)[which])

    def denoiser(self) -> _LabelledPosterior:
        """q(x0 | x_t, the labels that are given): a `FullMixture`."""
        return _LabelledPosterior(self)

    def fits(self, cond: Cond | Tensor | None, count: int) -> Tensor:
        """Whether a component has the labels that are given, [count, K]. Raises ValueError for any other condition."""
        known = as_cond(cond)
        if known is None:
            return torch.ones(count, len(self.labels), dtype=torch.bool, device=self.labels.device)
        label = known.label
        if label is None or known.parts != ("label",) or label.reshape(len(label), -1).shape[1] != self.labels.shape[1]:
            raise ValueError(
                f"{self.name}: the condition must be labels [B, {self.labels.shape[1]}]; found {known.parts}"
            )
        columns = label.reshape(len(label), 1, -1)
        own = self.labels.to(label.device)
        return ((columns < 0) | (columns == own)).all(2)

    def log_prob(self, x0: Tensor, cond: Cond | Tensor | None = None) -> Tensor:
        """log p(x0 | the labels that are given), [B], float64. -inf for labels that no component has."""
        law, x, one = self.law, x0.flatten(1), torch.ones_like(self.law.weights[:1])
        components = [
            ToyMixture(law.name, one, law.means[k : k + 1], law.factors[k : k + 1]) for k in range(len(law.weights))
        ]
        each = torch.stack([component.log_prob(x) for component in components], 1)
        fits = self.fits(cond, len(x)).to(x.device)
        weights = law.weights.log().to(x.device).expand_as(fits).masked_fill(~fits, -math.inf)
        return (weights + each).logsumexp(1) - weights.logsumexp(1)

    def surprisal(self, cond: Cond | Tensor) -> Tensor:
        """-log P(the labels that are given), [B], float64."""
        fits = self.fits(cond, len(cond))
        return -(fits * self.law.weights.to(fits.device)).sum(1).log()


class _LabelledPosterior:
    """The denoiser of a `LabelledProblem`."""

    def __init__(self, problem: LabelledProblem):
        law = problem.law
        self.problem, self.process, self.shape, self.cond = problem, problem.process, problem.shape, problem.cond
        self.exact = ExactMixture(problem.process, law.weights, law.means, law.covariances)

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> FullMixture:
        exact = copy.copy(self.exact)
        fits = self.problem.fits(cond, len(xt))
        # not -inf: with labels that no component has an item keeps finite numbers, and a mean without a meaning
        exact.log_weights = self.exact.log_weights.to(fits.device).masked_fill(~fits, -1e30)
        return exact(xt, t)


def two_labels(shape: tuple[int, ...] = (2,), process: Gaussian | None = None) -> LabelledProblem:
    """Two labels of three and two values, which are not independent, with a component for each pair.

    Both labels move all elements, so that there is redundancy and synergy.
    """
    dim, rng = math.prod(shape), Rng(11, 6, "softmix.oracle.two_labels")
    labels = torch.cartesian_prod(torch.arange(3, device="cpu"), torch.arange(2, device="cpu"))
    means = 0.7 * rng.normal((6, dim), torch.float64)
    sds = 0.35 + 0.25 * rng.uniform((6, dim), torch.float64)
    weights = torch.tensor([0.25, 0.05, 0.1, 0.2, 0.25, 0.15], dtype=torch.float64, device="cpu")
    law = ToyMixture("two labels", weights, means, torch.diag_embed(sds))
    return LabelledProblem("two labels", law, labels, process or VP(), shape)
