"""One of K values at each place, as names (`Categorical`) or as numbers (`ValuedCategorical`)."""

from __future__ import annotations

from abc import abstractmethod
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor

from ..rng import Rng
from .ability import Combine, HasDensity, HasMean, HasVariance, Posterior
from .mixture import draw_index


class _Finite(HasDensity):
    """q(x0 | x_t) = prod_l p(x0_l | x_t): K values at each place l, independent given x_t. logits [B, K, *places]."""

    def __init__(self, logits: Tensor):
        if logits.ndim < 2 or not logits.is_floating_point():
            raise ValueError(
                f"logits of shape {list(logits.shape)} and type {logits.dtype} were given; give real numbers "
                "[B, K] for one choice per item, or [B, K, *places] for one at each place"
            )
        # half precision cannot tell many small probabilities apart, nor draw by them
        real = torch.promote_types(logits.dtype, torch.float32)
        self._log_probabilities = logits.to(real).log_softmax(1)

    @property
    def log_probabilities(self) -> Tensor:
        """log p of each value at each place, normalised over axis 1, [B, K, *places]."""
        return self._log_probabilities

    @property
    def probabilities(self) -> Tensor:
        """p of each value at each place; they sum to 1 over axis 1, [B, K, *places]."""
        return self._log_probabilities.exp()

    @property
    def entropy(self) -> Tensor:
        """-sum_k p_k log p_k at each place, in nats, [B, *places]; an item's own is the sum over its places."""
        # an impossible value counts nothing, in the value and in the gradient
        logs = self._log_probabilities.clamp(min=torch.finfo(self._log_probabilities.dtype).min)
        return -(self.probabilities * logs).sum(1)

    @property
    def mode(self) -> Tensor:
        """The most probable x0, [B, *places]; of equals the first value."""
        return self._value(self._log_probabilities.argmax(1))

    def sample(self, rng: Rng) -> Tensor:
        return self._value(draw_index(self._log_probabilities, rng)[:, 0])

    def log_prob(self, x0: Tensor) -> Tensor:
        each = self.log_prob_each(x0)
        return each if each.ndim == 1 else each.flatten(1).sum(1)

    def log_prob_each(self, x0: Tensor) -> Tensor:
        """log p of x0 at each place, in nats, [B, *places], such as the confidence in a token.

        It is -inf where x0 is none of the K values. Raises ValueError for x0 of another shape.
        """
        batch, _, *places = self._log_probabilities.shape
        if list(x0.shape) != [batch, *places]:
            raise ValueError(
                f"x0 of shape {list(x0.shape)} was given to a belief of {batch} items with places {places}; "
                f"give {[batch, *places]}"
            )
        return self._at(x0.to(self._log_probabilities.device))

    def average(self, table: Tensor) -> Tensor:
        """E[table[k]] at each place: [B, *places] of a number for each value, table [K]; [B, *D, *places] of an
        embedding for each, table [K, *D]. Raises ValueError for a table of another length."""
        count = self._log_probabilities.shape[1]
        if table.ndim < 1 or len(table) != count:
            raise ValueError(
                f"a table of shape {list(table.shape)} was given for {count} values; give one entry for each"
            )
        p = self.probabilities
        # where a network runs in bf16 its products do too, and these are no network's
        with torch.autocast(p.device.type, enabled=False):
            places = p.flatten(2) if p.ndim > 2 else p[..., None]
            mean = torch.einsum("bkl,kd->bdl", places, table.to(p).reshape(count, -1))
        return mean.reshape(len(p), *table.shape[1:], *p.shape[2:])

    def combined(self, other: Posterior[Any], combine: Combine) -> Self | None:
        """combine(log p, other's log p), normalised, of two beliefs in the same values; what both rule out stays so."""
        if type(other) is not type(self) or not self._knows(other):
            return None
        mine, theirs = self._log_probabilities, other._log_probabilities
        # a rule takes differences, which of two infinities are none; e^-10000 is 0 in every type
        logs = combine(mine.clamp(min=-1e4), theirs.clamp(min=-1e4))
        return self._like(logs.masked_fill(mine.isneginf() & theirs.isneginf(), -torch.inf))

    @abstractmethod
    def _like(self, logits: Tensor) -> Self:
        """Another belief in the same values."""

    @abstractmethod
    def _knows(self, other: Self) -> bool:
        """Whether another belief of this kind is in the same values at the same places."""

    @abstractmethod
    def _value(self, index: Tensor) -> Tensor:
        """x0 from the number of its value."""

    @abstractmethod
    def _at(self, x0: Tensor) -> Tensor:
        """log p of x0 at each place; its shape has been checked."""


class Categorical(_Finite):
    """x0 is one of K values at each place: a label, a token, a code. x0 int64 in 0 .. K-1; the values are names.

        log q(x0 | x_t) = sum_l log softmax(logits)[x0_l at l]

    logits : [B, K] for one choice per item, x0 [B]; [B, K, *places] for one at each place, x0 [B, *places]. The values
        stand on axis 1, as the components of `Mixture` do. Need not be normalised; -inf is an impossible value.
    A mean of names means nothing: there is a `mode`, an `entropy`, and draws. Where the values stand for numbers or
    vectors, take `with_values` or `average`. Places are independent given x_t: neighbours draw_index apart, so that a step
    that fixes many of them at once has not their joint law; take more steps. Raises ValueError for logits without the
    axis of values, and for an x0 that is no integer.
    When to choose: for labels, and tokens or codes without an order. For pixel values, `ValuedCategorical`.
    """

    remedies = MappingProxyType(
        {
            HasMean: "An index is a name, and names have no mean. Say which number each value stands for, "
            "`posterior.with_values(values)` (for all answers of a denoiser by `softmix.denoiser.adjusted`), "
            "or draw_index a sampler that draws, such as `softmix.sampler.ancestral`.",
            HasVariance: "An index is a name, and names have no variance. Say which number each value stands for, "
            "`posterior.with_values(values)`, or take the posterior's `entropy` for its spread.",
        }
    )

    def with_values(self, values: Tensor) -> ValuedCategorical:
        """The same belief about numbers: value k of x0 is values[k], [K]."""
        return ValuedCategorical(self._log_probabilities, values)

    def _like(self, logits: Tensor) -> Categorical:
        return Categorical(logits)

    def _knows(self, other: Categorical) -> bool:
        return self._log_probabilities.shape == other._log_probabilities.shape

    def _value(self, index: Tensor) -> Tensor:
        return index

    def _at(self, x0: Tensor) -> Tensor:
        if x0.is_floating_point() or x0.is_complex():
            raise ValueError(
                f"x0 of type {x0.dtype} was given; a Categorical knows its values by number: give integers, "
                "or say which numbers they stand for by `with_values`"
            )
        index = x0.long()
        last = self._log_probabilities.shape[1] - 1
        logs = self._log_probabilities.gather(1, index.clamp(0, last)[:, None])[:, 0]
        return logs.masked_fill((index < 0) | (index > last), -torch.inf)


class ValuedCategorical(_Finite, HasVariance):
    """x0 is one of K known numbers at each place, as a pixel's level is: a `Categorical` whose values can be averaged.

        mean = sum_k p_k v_k,   var = sum_k p_k (v_k - mean)^2

    logits : [B, K, *places], as for `Categorical`. values : the numbers v_k, [K]. Draws and mode are such numbers, in
    the type of the logits. An x0 that is none of them, up to a hundredth of the smallest distance between two, has
    probability 0. Raises ValueError for values that are not one number for each of the K.
    When to choose: discrete numbers with any law. `Mixture` is smoother and smaller where x0 is continuous.
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
        """The values on axis 1, ready to meet [B, K, *places]."""
        return self._values.reshape(1, -1, *(1,) * (self._log_probabilities.ndim - 2))

    def _like(self, logits: Tensor) -> ValuedCategorical:
        return ValuedCategorical(logits, self._values)

    def _knows(self, other: ValuedCategorical) -> bool:
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
        # a number that stands twice has the probability of both
        return self._log_probabilities.masked_fill(~same, -torch.inf).logsumexp(1)
