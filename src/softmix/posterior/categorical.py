"""Posteriors over K values at each place: names (`Categorical`) or numbers (`ValuedCategorical`)."""

from __future__ import annotations

from abc import abstractmethod
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor

from ..precision import without_autocast
from ..rng import Rng
from .ability import Combine, HasDensity, HasMean, HasVariance, Posterior
from .mixture import draw_index


class _Finite(HasDensity):
    """q(x0 | x_t) = prod_l p(x0_l | x_t): K values at each place l, independent given x_t. logits [B, K, *places]."""

    def __init__(self, logits: Tensor):
        if logits.ndim < 2 or not logits.is_floating_point():
            raise ValueError(
                f"logits of shape {list(logits.shape)} and type {logits.dtype} were given; give real numbers "
                "of shape [B, K] for one choice per item, or [B, K, *places] for one at each place"
            )
        # half precision has too few digits for many small probabilities
        real = torch.promote_types(logits.dtype, torch.float32)
        self._log_probabilities = logits.to(real).log_softmax(1)

    @property
    def log_probabilities(self) -> Tensor:
        """log p of each value at each place, normalised over axis 1, [B, K, *places]."""
        return self._log_probabilities

    @property
    def probabilities(self) -> Tensor:
        """p of each value at each place, [B, K, *places]. The sum over axis 1 is 1."""
        return self._log_probabilities.exp()

    @property
    def entropy(self) -> Tensor:
        """-sum_k p_k log p_k at each place, in nats, [B, *places].

        The entropy of an item is the sum over its places.
        """
        # an impossible value adds 0 to the entropy and to its gradient
        logs = self._log_probabilities.clamp(min=torch.finfo(self._log_probabilities.dtype).min)
        return -(self.probabilities * logs).sum(1)

    @property
    def mode(self) -> Tensor:
        """The most probable x0, [B, *places]; the first value if several are equally probable."""
        return self._value(self._log_probabilities.argmax(1))

    def sample(self, rng: Rng) -> Tensor:
        return self._value(draw_index(self._log_probabilities, rng)[:, 0])

    def log_prob(self, x0: Tensor) -> Tensor:
        each = self.log_prob_each(x0)
        return each if each.ndim == 1 else each.flatten(1).sum(1)

    def log_prob_each(self, x0: Tensor) -> Tensor:
        """log p of x0 at each place, in nats, [B, *places]: for example the confidence in a token.

        The result is -inf if x0 is none of the K values. Raises ValueError for x0 of another shape.
        """
        batch, _, *places = self._log_probabilities.shape
        if list(x0.shape) != [batch, *places]:
            raise ValueError(
                f"x0 of shape {list(x0.shape)} was given to a posterior of {batch} items with places {places}; "
                f"give shape {[batch, *places]}"
            )
        return self._at(x0.to(self._log_probabilities.device))

    def average(self, table: Tensor) -> Tensor:
        """E[table[k]] at each place, for example an expected embedding.

        table : a number for each value, [K], result [B, *places]; or a vector for each, [K, *D], then the result is
            [B, *D, *places].

        Raises ValueError for a table of another length.
        """
        count = self._log_probabilities.shape[1]
        if table.ndim < 1 or len(table) != count:
            raise ValueError(
                f"a table of shape {list(table.shape)} was given for {count} values; give one entry for each"
            )
        p = self.probabilities
        # autocast would round these products to bf16
        with without_autocast(p.device):
            places = p.flatten(2) if p.ndim > 2 else p[..., None]
            mean = torch.einsum("bkl,kd->bdl", places, table.to(p).reshape(count, -1))
        return mean.reshape(len(p), *table.shape[1:], *p.shape[2:])

    def combined(self, other: Posterior[Any], combine: Combine) -> Self | None:
        """combine(log p, log p of the other), normalised. A value with probability 0 in both keeps probability 0.

        Returns None if the two posteriors are over other values.
        """
        if type(other) is not type(self) or not self._has_same_values(other):
            return None
        mine, theirs = self._log_probabilities, other._log_probabilities
        # inf - inf is NaN, and guidance takes differences; e^-10000 is 0 in every type
        logs = combine(mine.clamp(min=-1e4), theirs.clamp(min=-1e4))
        return self._with_logits(logs.masked_fill(mine.isneginf() & theirs.isneginf(), -torch.inf))

    @abstractmethod
    def _with_logits(self, logits: Tensor) -> Self:
        """A posterior over the same values with these logits."""

    @abstractmethod
    def _has_same_values(self, other: Self) -> bool:
        """Whether another posterior of this kind is over the same values at the same places."""

    @abstractmethod
    def _value(self, index: Tensor) -> Tensor:
        """x0 from the index of its value."""

    @abstractmethod
    def _at(self, x0: Tensor) -> Tensor:
        """log p of x0 at each place. The shape of x0 has been checked."""


class Categorical(_Finite):
    """x0 is one of K values at each place: a label, a token, a code. x0 is int64 in 0 .. K-1; the values are names.

        log q(x0 | x_t) = sum_l log softmax(logits)[x0_l at l]

    logits : [B, K] for one choice per item, x0 [B]; or [B, K, *places] for one at each place, x0 [B, *places]. Axis 1
        holds the values, as it holds the components of `Mixture`. Need not be normalised; -inf is an impossible value.

    Names have no mean. There is a `mode`, an `entropy`, and samples. If the values stand for numbers or vectors, use
    `with_values` or `average`. Places are independent given x_t. A step that fixes many places at once therefore misses
    their joint law; take more steps.

    Raises ValueError for logits without the axis of values, and for an x0 that is not an integer tensor.

    When to choose: for labels, and for tokens or codes without an order. For pixel values, `ValuedCategorical`.
    """

    remedies = MappingProxyType(
        {
            HasMean: "An index is a name, and names have no mean. Give the number of each value by "
            "`posterior.with_values(values)` (for all answers of a denoiser by `softmix.denoiser.adjusted`), "
            "or choose a sampler that draws, such as `softmix.sampler.ancestral`.",
            HasVariance: "An index is a name, and names have no variance. Give the number of each value by "
            "`posterior.with_values(values)`, or take the posterior's `entropy` for its spread.",
        }
    )

    def with_values(self, values: Tensor) -> ValuedCategorical:
        """The same law for numbers: value k of x0 becomes values[k]. values : [K]."""
        return ValuedCategorical(self._log_probabilities, values)

    def _with_logits(self, logits: Tensor) -> Categorical:
        return Categorical(logits)

    def _has_same_values(self, other: Categorical) -> bool:
        return self._log_probabilities.shape == other._log_probabilities.shape

    def _value(self, index: Tensor) -> Tensor:
        return index

    def _at(self, x0: Tensor) -> Tensor:
        if x0.is_floating_point() or x0.is_complex():
            raise ValueError(
                f"x0 of type {x0.dtype} was given to a Categorical; give integers 0 .. K-1, or give the numbers "
                "of the values by `with_values`"
            )
        index = x0.long()
        last = self._log_probabilities.shape[1] - 1
        logs = self._log_probabilities.gather(1, index.clamp(0, last)[:, None])[:, 0]
        return logs.masked_fill((index < 0) | (index > last), -torch.inf)


class ValuedCategorical(_Finite, HasVariance):
    """x0 is one of K known numbers at each place, for example a pixel level. A `Categorical` with mean and variance.

        mean = sum_k p_k v_k,   var = sum_k p_k (v_k - mean)^2

    logits : [B, K, *places], as for `Categorical`.
    values : the numbers v_k, [K].

    Samples and mode are such numbers, in the type of the logits. An x0 that is none of them, to within a hundredth of
    the smallest distance between two, has probability 0.

    Raises ValueError unless there is one real value for each of the K.

    When to choose: for discrete numbers with any law. `Mixture` is smoother and smaller for a continuous x0.
    """

    def __init__(self, logits: Tensor, values: Tensor):
        super().__init__(logits)
        if values.shape != logits.shape[1:2] or values.is_complex():
            raise ValueError(
                f"values of shape {list(values.shape)} and type {values.dtype} were given for logits of shape "
                f"{list(logits.shape)}; give one real number for each of the {logits.shape[1]} values"
            )
        self._values = values.to(self._log_probabilities)

    @property
    def values(self) -> Tensor:
        return self._values

    @property
    def mean(self) -> Tensor:
        return self.average(self._values)

    @property
    def var(self) -> Tensor:
        return (self.probabilities * (self._column - self.mean[:, None]) ** 2).sum(1)

    @property
    def _column(self) -> Tensor:
        """The values on axis 1, ready to be multiplied with [B, K, *places]."""
        return self._values.reshape(1, -1, *(1,) * (self._log_probabilities.ndim - 2))

    def _with_logits(self, logits: Tensor) -> ValuedCategorical:
        return ValuedCategorical(logits, self._values)

    def _has_same_values(self, other: ValuedCategorical) -> bool:
        return self._log_probabilities.shape == other._log_probabilities.shape and (
            self._values is other._values or torch.equal(self._values, other._values)
        )

    def _value(self, index: Tensor) -> Tensor:
        return self._values[index]

    def _at(self, x0: Tensor) -> Tensor:
        apart = self._values.sort().values.diff()
        size = self._values.abs().max().clamp(min=torch.finfo(self._values.dtype).tiny)
        near = torch.cat([torch.where(apart > 0, apart, torch.inf), size[None]]).min() / 100
        same = (x0.to(self._values)[:, None] - self._column).abs() <= near
        # a number that is listed twice has the sum of both probabilities
        return self._log_probabilities.masked_fill(~same, -torch.inf).logsumexp(1)
