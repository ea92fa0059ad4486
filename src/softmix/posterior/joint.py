"""The posterior over several named parts, for example an image and its label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from torch import Tensor

from ..rng import Rng
from .ability import Ability, Combine, HasDensity, HasMean, HasVariance, Posterior, need
from .combine import combined

Parts = Mapping[str, Any]


class Joint(Posterior[Parts]):
    """x0 has named parts, independent given x_t: q(x0 | x_t) = prod_name q_name(x0[name] | x_t).

    parts : a posterior for each name, all of the same B items. A part may be a Joint.

    x0, samples, `mean` and `var` are mappings with the same names. `log_prob` is the sum over the parts. A Joint has a
    mean, a variance or a density if all of its parts have one. The parts are sampled one after another from the same
    `rng`, in the order of the mapping.

    The parts are independent given x_t: an image and a label from one step need not agree. Over many steps they do,
    through x_t.

    Raises ValueError without parts, and for an x0 with other names or parts of unequal length; TypeError for a part
    that is not a posterior.

    When to choose: for one network with several outputs: modalities, or two signals with noise schedules of their own.
    """

    def __new__(cls, parts: Mapping[str, Posterior[Any]]) -> Joint:
        for name, part in parts.items():
            if not isinstance(part, Posterior):
                raise TypeError(f"the part {name!r} of a Joint is of type {type(part).__name__}; give a posterior")
        able = tuple(
            kind for ability, kind in _ABILITIES.items() if all(isinstance(p, ability) for p in parts.values())
        )
        return object.__new__(_with(cls, able))

    def __init__(self, parts: Mapping[str, Posterior[Any]]):
        if not parts:
            raise ValueError("a Joint without parts was asked for; give at least one posterior with its name")
        self._parts = MappingProxyType(dict(parts))

    def __reduce__(self) -> tuple[type[Joint], tuple[dict[str, Posterior[Any]]]]:
        # the class with the abilities is made at run time, so that a copy has to make it again
        return Joint, (dict(self._parts),)

    @property
    def parts(self) -> Mapping[str, Posterior[Any]]:
        """The posterior of each part, by name."""
        return self._parts

    def sample(self, rng: Rng) -> Parts:
        return {name: part.sample(rng) for name, part in self._parts.items()}

    def draws(self, m: int, rng: Rng) -> Parts:
        """m independent draws, a mapping of [m, B, ...]."""
        return {name: part.draws(m, rng) for name, part in self._parts.items()}

    def combined(self, other: Posterior[Any], combine: Combine) -> Joint:
        """Combine part by part. Raises ValueError for a posterior with other parts."""
        theirs = other.parts if isinstance(other, Joint) else {}
        if theirs.keys() != self._parts.keys():
            raise ValueError(
                f"a Joint of {sorted(self._parts)} is combined with one of {sorted(theirs)}; give the same parts"
            )
        return Joint(
            {name: combined(part, theirs[name], combine, f"part {name!r}") for name, part in self._parts.items()}
        )

    def map_parts(self, change: Callable[[Posterior[Any]], Posterior[Any]]) -> Joint:
        """A Joint with the same names: a function of the posterior of each part."""
        return Joint({name: change(part) for name, part in self._parts.items()})

    def _each(self, ability: type[Ability]) -> Mapping[str, Ability]:
        """The parts, checked for an ability."""
        return {name: need(part, ability, "a Joint") for name, part in self._parts.items()}

    def remedy(self, ability: type[Posterior[Any]]) -> str:
        lacking = {name: part for name, part in self._parts.items() if not isinstance(part, ability)}
        sentences = (
            f"Its part {name!r} is of type {type(part).__name__}. {part.remedy(ability)}"
            for name, part in lacking.items()
        )
        return " ".join(sentences) or super().remedy(ability)


class _WithMean(Joint, HasMean[Parts]):
    @property
    def mean(self) -> Parts:
        return {name: part.mean for name, part in self._each(HasMean).items()}


class _WithVariance(_WithMean, HasVariance[Parts]):
    @property
    def var(self) -> Parts:
        return {name: part.var for name, part in self._each(HasVariance).items()}


class _WithDensity(Joint, HasDensity[Parts]):
    def log_prob(self, x0: Parts) -> Tensor:
        if x0.keys() != self._parts.keys():
            raise ValueError(f"x0 has the parts {sorted(x0)}, and this posterior {sorted(self._parts)}; give the same")
        each = {name: part.log_prob(x0[name]) for name, part in self._each(HasDensity).items()}
        if len({len(logs) for logs in each.values()}) > 1:
            counts = {name: len(logs) for name, logs in each.items()}
            raise ValueError(f"the parts of a Joint have unequal batch sizes, {counts}; give equal ones")
        return sum(each.values(), next(iter(each.values())).new_zeros(()))


_ABILITIES: dict[type[Posterior[Any]], type[Joint]] = {
    HasVariance: _WithVariance,
    HasMean: _WithMean,
    HasDensity: _WithDensity,
}


@cache
def _with(base: type[Joint], able: tuple[type[Joint], ...]) -> type[Joint]:
    """`base` with these abilities, under its own name."""
    return type(base.__name__, (*able, base), {"__module__": base.__module__, "__doc__": base.__doc__})
