"""The result of an evaluation: rows of numbers, pictures, and the facts that they depend on."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from .spread import LatentSpread


@dataclass(frozen=True)
class EvaluationRow:
    """The measurements of one set of items against held-out data.

    name : the name of the set, as the table prints it.
    steps : the number of sampler steps, or None for items that were not sampled here.
    sampler : the sampler, or "" for real items.
    values : metric -> number, in the order of the table.
    """

    name: str
    steps: int | None
    sampler: str
    values: dict[str, float]

    @property
    def is_floor(self) -> bool:
        """Whether the items are real: no sampler made them."""
        return self.steps is None and not self.sampler


@dataclass(frozen=True)
class Pictures:
    """Images for the report, x0 in [-1, 1], [N, C, H, W], with a caption."""

    caption: str
    images: Tensor


@dataclass(frozen=True)
class Evaluation:
    """The whole content of a report.

    title : the name of the model or of the samples.
    facts : name -> text; the numbers depend on them (data, hashes, counts, seeds, weights, machine).
    rows : the measurements, the floor (real against real) first.
    latent_spread : the spread of the draws by noise level, or None for a model with point posteriors.
    pictures : samples by step count, and the nearest training images.
    curves : name -> points of a curve, for example the training loss.
    """

    title: str
    facts: dict[str, str]
    rows: tuple[EvaluationRow, ...]
    latent_spread: LatentSpread | None
    pictures: tuple[Pictures, ...] = ()
    curves: dict[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
