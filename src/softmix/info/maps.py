"""The information of two conditions on each element of an item: alone, given the other, and in four parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..cond import Cond, CondSpec
from ..rng import Rng
from ..shape import column
from .decomposition import Decomposition, decompose_pointwise
from .density import paired_information
from .levels import EvenLevels, Levels

if TYPE_CHECKING:
    from ..denoiser import Denoiser

Estimator = Literal["standard", "orthogonal"]
# -log p(y_1 | c) and -log p(y_2 | c), each a number or one for each item
Prior = tuple[Tensor | float, Tensor | float]
_MAPS = ("first", "second", "both", "first_given_second", "second_given_first")


@dataclass(frozen=True)
class TwoSources:
    """Two conditions y_1 and y_2 of the items of a batch, with a context c that is always known.

    first : y_1 and c.
    second : y_2 and c.
    both : y_1, y_2 and c.
    context : c alone; None for nothing.

    `of` makes the four from one record with named labels.
    """

    first: Cond | Tensor
    second: Cond | Tensor
    both: Cond | Tensor
    context: Cond | Tensor | None = None

    @classmethod
    def of(cls, cond: Cond, spec: CondSpec, first: str, second: str) -> TwoSources:
        """Two parts of a condition; the rest is the context.

        cond : with all parts.
        spec : has the names of the labels, as `denoiser.cond` of a network.
        first, second : names of labels, or parts ("image", "value", "context").

        Raises ValueError for one name twice, and CondError for an unknown name.
        """
        if first == second:
            raise ValueError(f"the sources are two parts of the condition; {first!r} was given for both")
        context = cond.without((first, second), spec)
        return cls(cond.without((second,), spec), cond.without((first,), spec), cond, context)

    @property
    def exchanged(self) -> TwoSources:
        """y_2 as the first and y_1 as the second."""
        return TwoSources(self.second, self.first, self.both, self.context)


@dataclass(frozen=True)
class InformationMaps:
    """The information of two conditions on each element, in nats; float64.

    first, second, both : i(x; y_1 | c), i(x; y_2 | c) and i(x; y_1, y_2 | c).
    first_given_second, second_given_first : i(x; y_1 | y_2, c) and i(x; y_2 | y_1, c).
    estimator : "standard", i_s, or "orthogonal", i_o.

    All are [B, H, W] for images, [B, D, H, W] for volumes, [B, L] for sequences and [B, D] for points: the sum over the
    channels. Of `total` they are [B].
    """

    first: Tensor
    second: Tensor
    both: Tensor
    first_given_second: Tensor
    second_given_first: Tensor
    estimator: Estimator

    @property
    def total(self) -> InformationMaps:
        """The value of each item: the sums over the elements, [B]."""
        return self.each(lambda x: x.reshape(len(x), -1).sum(1))

    def each(self, change: Callable[[Tensor], Tensor]) -> InformationMaps:
        """The same change of all maps."""
        return InformationMaps(**{name: change(getattr(self, name)) for name in _MAPS}, estimator=self.estimator)

    def parts(self, prior: Prior) -> Decomposition:
        """The decomposition of each item, laid out on its elements. Each map has the value of its item as its sum:

            h_i = -log p(y_i | c),   k = argmin_i ( h_i - i(x; y_i | c) ),   D elements,
            R = i(x; y_k) of each element + ( min_i h_i - h_k ) / D

        The source k is chosen by item, so that a map R is that of one condition. `parts_of_elements` chooses by
        element. Of two equal ones R is the mean of both maps.

        prior : h_1 and h_2 in nats, numbers or [B]. They do not come from the model.

        With equal priors R is the larger of the two informations, and no unique part of an item is above 0. Two
        independent conditions of one bit each are then one bit redundant and one bit synergistic. Say so
        beside a map.
        """
        own, other = self._surprisals(prior)
        total, count = self.total, self.first[0].numel()
        left, right = own - total.first, other - total.second
        # 1 for the first source, 0 for the second, 1 / 2 for a draw
        share = ((right - left).sign() + 1) / 2
        shift = (torch.minimum(own, other) - share * own - (1 - share) * other) / count
        chosen = column(share, self.first)
        redundant = chosen * self.first + (1 - chosen) * self.second + column(shift, self.first)
        return Decomposition.of(redundant, self.first, self.second, self.both, "pm")

    def parts_of_elements(self, prior: Prior) -> Decomposition:
        """The decomposition of each element on its own, by `decompose_pointwise` with h_i / D.

        With equal priors R is the larger information of each element, so that its sum is at least the R of the item,
        and not equal to it.
        """
        count = self.first[0].numel()
        own, other = (column(each / count, self.first) for each in self._surprisals(prior))
        return decompose_pointwise(self.first, self.second, self.both, (own, other))

    def _surprisals(self, prior: Prior) -> tuple[Tensor, Tensor]:
        """Both as [B]. Raises ValueError for a prior that is none."""
        found = []
        for each in prior:
            value = torch.as_tensor(each, dtype=self.first.dtype, device=self.first.device)
            if value.ndim > 1 or (value.ndim == 1 and len(value) != len(self.first)) or not bool((value >= 0).all()):
                raise ValueError(
                    f"-log p(y) is a number of at least 0, or one for each of {len(self.first)} items; found {each}"
                )
            found.append(value.expand(len(self.first)))
        return found[0], found[1]


def pointwise_decomposition(
    denoiser: Denoiser,
    x0: Tensor,
    rng: Rng,
    levels: Levels | EvenLevels,
    sources: TwoSources,
    n: int = 32,
    repeats: int = 2,
    batch: int = 256,
) -> tuple[InformationMaps, InformationMaps]:
    """The information of two conditions on each element of x0, by both estimators (DiffusionPID).

    The model is asked with c, (y_1, c), (y_2, c) and (y_1, y_2, c), all with the same noise. Each i(x; y | c) is that
    of `pointwise_information`. For i_s the chain rule holds to rounding in each element,

        i(x; y_1, y_2) = i(x; y_1) + i(x; y_2 | y_1),

    and for i_o it holds in the mean alone. The sum of a map i_s over its elements is log p(x | y, c) / p(x | c) for the
    exact denoiser, at each x. i_o is never below 0, so that it cannot report misinformation: a false condition counts
    as much as a true one.

    denoiser : a model with a posterior mean, trained with conditions that were dropped one by one, without guidance.
    x0 : [B, ...].
    rng : the noise, one stream for each item.
    sources : the conditions.
    n, repeats : n noise levels, `repeats` times.

    Returns the maps i_s and i_o. `InformationMaps.parts` makes redundant, unique and synergistic parts of them.
    Raises ValueError for conditions that are not for the items of x0.
    Source: Dewan et al., "DiffusionPID", NeurIPS 2024; the parts are those of Finn & Lizier, 2018.
    When to choose: to see the place at which two conditions act, and whether they say the same. For a claim of unique
    information take probabilities and `decompose(p, "broja")`.
    """
    conds = (sources.context, sources.first, sources.second, sources.both)
    _require_items(conds, len(x0))
    # context, first, second, both: 0 to 3
    pairs = ((1, 0), (2, 0), (3, 0), (3, 2), (3, 1))
    found = paired_information(denoiser, x0, rng, levels, conds, pairs, n, repeats, batch)
    standard, orthogonal = (
        {name: _without_channels(each) for name, each in zip(_MAPS, side, strict=True)}
        for side in zip(*found, strict=True)
    )
    return InformationMaps(**standard, estimator="standard"), InformationMaps(**orthogonal, estimator="orthogonal")


def label_information(
    denoiser: Denoiser,
    x0: Tensor,
    rng: Rng,
    levels: Levels | EvenLevels,
    candidates: Sequence[Cond | Tensor],
    context: Cond | Tensor | None = None,
    n: int = 32,
    repeats: int = 2,
    batch: int = 256,
) -> tuple[Tensor, Tensor]:
    """i_s and i_o of each item for each of several conditions, in nats, two [B, K]; the same noise for all.

    candidates : K conditions y together with c, each for all items.
    context : c, by default nothing.

    softmax over K of log p(y | c) + i_s is p(y | x, c): the largest names the condition of an item. i_o does not name
    it, because a false condition has a large one too.

    Raises ValueError without candidates, and for conditions that are not for the items of x0.
    Source: Kong, Liu, Li, Yogatama & Ver Steeg, "Interpretable diffusion via information decomposition", ICLR 2024.
    When to choose: to classify by a conditional model, and for the probabilities that `decompose` needs.
    """
    if not candidates:
        raise ValueError("no condition was given to compare: give at least one candidate")
    _require_items((context, *candidates), len(x0))
    pairs = [(k + 1, 0) for k in range(len(candidates))]
    found = paired_information(denoiser, x0, rng, levels, (context, *candidates), pairs, n, repeats, batch)
    standard, orthogonal = (
        torch.stack([each.flatten(1).sum(1) for each in side], 1) for side in zip(*found, strict=True)
    )
    return standard, orthogonal


def _require_items(conds: Sequence[Cond | Tensor | None], count: int) -> None:
    lengths = {len(cond) for cond in conds if cond is not None} - {count}
    if lengths:
        raise ValueError(f"{count} items were given, and conditions of {sorted(lengths)} items: give one for each item")


def _without_channels(x: Tensor) -> Tensor:
    """The sum over the channels of images and volumes [B, C, ...], and of sequences [B, L, C]; points stay."""
    return x if x.ndim == 2 else x.sum(-1 if x.ndim == 3 else 1)
