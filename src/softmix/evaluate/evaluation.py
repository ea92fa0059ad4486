"""What an evaluation holds: rows of numbers, pictures, and what both depend on."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from .carried import Carried


@dataclass(frozen=True)
class Row:
    """Items of one kind against held-out data. values: metric -> number, in the order of the table.

    steps : of the sampler, or None for items that were not sampled here. sampler : "" for real items.
    """

    name: str
    steps: int | None
    sampler: str
    values: dict[str, float]

    @property
    def is_floor(self) -> bool:
        """Whether no sampler made the items: they are real."""
        return self.steps is None and not self.sampler


@dataclass(frozen=True)
class Pictures:
    """Images to look at, x0 in [-1, 1], [N, C, H, W], under a caption."""

    caption: str
    images: Tensor


@dataclass(frozen=True)
class Evaluation:
    """Everything that a report shows.

    title; facts: name -> text, what the numbers depend on (data, hashes, counts, seeds, weights, machine);
    rows: the floor (real against real) first; carried: how much spread the latent has, by noise level, or
    None for a model that believes in points; pictures: samples by step count, nearest training images.
    """

    title: str
    facts: dict[str, str]
    rows: tuple[Row, ...]
    carried: Carried | None
    pictures: tuple[Pictures, ...] = ()
    curves: dict[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
