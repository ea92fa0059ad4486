"""Immiscible diffusion: each item of a batch is noised by a noise near to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..cond import Cond, CondError, as_cond
from ..rng import Rng
from .gaussian import VE, VP, Flow, Gaussian
from .noised import Noised
from .numbers import as_float64


@dataclass(frozen=True)
class Immiscible(Gaussian):
    """x_t = alpha x_0 + sigma z with z near to x_0: a coupling of noise and data by batch, for training alone.

    by : "assignment" permutes the noises of a batch so that the sum of |x_0 - z|^2 is the least. (The published code
        takes |x_0 - z|, which gives nearly the same pairs in hundreds of dimensions.) "nearest" draws k noises for each
        item and takes the nearest.
    k : of "nearest", at least 2; the paper has 4 and 64.
    base : the process of each item by itself.

    With "assignment" one z is still N(0, I) exactly, and x_1 is. But z depends on x_0, so that q(x_t | x_0) is no
    Gaussian. What is valid, and what is refused:

        the mean and draws of q(x_0 | x_t), any step with eta = 0, ODE samplers: valid, they transport the coupled law
        eta > 0, `ancestral`, `renoise`, SDE samplers: biased, refused
        grad log p(x_t) from the mean (Tweedie), guidance by a likelihood, I-MMSE, the nats of `info`: wrong, refused

    "nearest" changes the law of z as well: a sampler starts from N(0, I), and training ended elsewhere. It is here to
    test the paper.

    With labels the noises are exchanged within a class, because given a class z would not be N(0, I) otherwise. Other
    conditions belong to one item each, and are refused. The coupling depends on the batch, so that a batch is never
    divided among processes or pieces. The assignment runs on the CPU (scipy): a GPU waits for it in each step.

    When to choose: to train a plain or consistency model for few steps of an ODE, with large batches.
    Source: Li et al., "Immiscible diffusion", NeurIPS 2024, section 3 and algorithm 1; "nearest" is their improved
    version of 2025.
    """

    by: Literal["assignment", "nearest"] = "assignment"
    k: int | None = None
    base: VP | VE | Flow = VP()  # noqa: RUF009
    independent: ClassVar[bool] = False
    cites: ClassVar[tuple[str, ...]] = ("immiscible",)

    def __post_init__(self) -> None:
        if self.by not in ("assignment", "nearest"):
            raise ValueError(f'noise is coupled by "assignment" or "nearest"; found {self.by!r}')
        if self.by == "assignment" and self.k is not None:
            raise ValueError(f'k = {self.k} was given, which is for by="nearest"')
        if self.by == "nearest" and (self.k is None or self.k < 2):
            raise ValueError(f"the nearest of {self.k} noises was asked for: give k of at least 2")
        if self.by == "assignment" and find_spec("scipy") is None:
            raise ValueError('Immiscible assigns noise by scipy: pip install scipy, or take by="nearest"')

    def alpha(self, t: Tensor | float) -> Tensor:
        return self.base.alpha(t)

    def sigma(self, t: Tensor | float) -> Tensor:
        return self.base.sigma(t)

    def levels(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        return self.base.levels(t)

    def logsnr(self, t: Tensor | float) -> Tensor:
        return self.base.logsnr(t)

    def time(self, logsnr: Tensor | float) -> Tensor:
        return self.base.time(logsnr)

    def rates(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        return self.base.rates(t)

    def noise(self, x0: Tensor, t: Tensor | float, rng: Rng, cond: Cond | Tensor | None = None) -> Noised:
        raise ValueError(
            "Immiscible couples the noise of a batch with its items, so that q(x_t | x_0) of one item is no Gaussian, "
            "and this part adds independent noise: take a process with independent noise, or a sampler with eta = 0, "
            "such as ddim or adams"
        )

    def coupled(self, x0: Tensor, t: Tensor | float, rng: Rng, cond: Cond | Tensor | None = None) -> Noised:
        """The record of a batch with its noises paired. Raises CondError for conditions other than labels."""
        given = as_cond(cond)
        if given is not None and set(given.parts) - {"label"}:
            raise CondError(
                f"Immiscible exchanges noise between items, and {', '.join(given.parts)} belongs to one item: given it "
                "the noise would not be N(0, I), where sampling starts. Train without it, or with class labels"
            )
        own = self.base.noise(x0, t, rng, cond)
        z = self._nearest(x0, own.z, rng) if self.by == "nearest" else own.z[self._assigned(x0, own.z, given)]
        return replace(own, xt=self.state(x0, as_float64(t).expand(len(x0)), z), z=z, process=self)

    def _nearest(self, x0: Tensor, first: Tensor, rng: Rng) -> Tensor:
        """The nearest of k noises for each item, the usual one among them."""
        others = [rng.child(f"near.{j}").normal(x0.shape, x0.dtype).to(x0.device) for j in range(1, self.k or 2)]
        each = torch.stack([first, *others])
        away = (each - x0).flatten(2).square().sum(2)
        return each[away.argmin(0), torch.arange(len(x0), device=x0.device)]

    def _assigned(self, x0: Tensor, z: Tensor, given: Cond | None) -> Tensor:
        """The number of the noise of each item."""
        label = None if given is None or given.label is None else given.label.reshape(len(x0), -1)
        groups: Sequence[Tensor] = [torch.arange(len(x0), device=x0.device)]
        if label is not None:
            number = torch.unique(label, dim=0, return_inverse=True)[1]
            groups = [(number == each).nonzero()[:, 0] for each in range(int(number.max()) + 1)]
        chosen = torch.arange(len(x0), device=x0.device)
        for group in groups:
            chosen[group] = group[assignment(x0[group], z[group])]
        return chosen

    def shares(self, t: Tensor | float, s: Tensor | float, eta: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """The coefficients of a step with eta = 0. Raises ValueError for any other."""
        if eta != 0:
            raise ValueError(
                f"a step with eta = {eta:g} adds independent noise, and a model of Immiscible knows noise that depends "
                "on x0: take eta = 0, as in ancestral(eta=0), ddim or adams"
            )
        return self.base.shares(t, s, 0.0)


def assignment(x0: Tensor, z: Tensor) -> Tensor:
    """The permutation of z with the least sum of |x0_i - z_j|^2, [B]. Needs scipy."""
    from scipy.optimize import linear_sum_assignment

    # the squares of x0 and of z have the same sum for every permutation
    along = x0.flatten(1).double() @ z.flatten(1).double().T
    return torch.from_numpy(linear_sum_assignment(along.cpu().numpy(), maximize=True)[1]).to(x0.device)


def require_independent(process: object, who: str) -> None:
    """Raises TypeError for a process whose noise depends on the items."""
    inside = getattr(process, "base", process)
    if not (getattr(process, "independent", True) and getattr(inside, "independent", True)):
        raise TypeError(
            f"{who} holds for noise that is independent of x0, and {type(process).__name__} couples the two: train "
            "with an independent process"
        )
