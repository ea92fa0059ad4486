"""Room `data`: a data set in memory, its values in model units, and the way back to bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from softmix.cond import Cond, CondSpec
from softmix.data.origin import Origin
from softmix.data.report import DataError, Report
from softmix.rng import Rng, permutation

Kind = Literal["images", "points", "sequences", "grids"]


def to_uint8(x: Tensor) -> Tensor:
    """Pixels 0..255 from values in [-1, 1]: round(127.5 (x + 1)), clamped; any shape, uint8.

    It undoes `Data.x0` exactly. Raises ValueError if x is not finite, since such values
    would otherwise be saved as black pixels.
    """
    bad = int((~torch.isfinite(x)).sum())
    if bad:
        raise ValueError(f"{bad} of {x.numel()} values are not finite and cannot become pixels; see where they arose")
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def fingerprint(values: Tensor, labels: Tensor | None) -> str:
    """The first 16 hex digits of SHA-256 over the types, shapes and bytes of values and labels."""
    digest = hashlib.sha256()
    for part in (values, labels):
        if part is None:
            digest.update(b"no labels")
            continue
        digest.update(f"{part.dtype} {tuple(part.shape)};".encode())
        digest.update(part.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in memory.

    name : "digits", "fashion-mnist", "toy:grid", or the name of the folder or file.
    values : uint8 [N, C, H, W] for images; float32 [N, ...] for points and sequences, already in model units.
    labels : int64 [N], numbers into `classes`, or None.
    report : what was read and what was left out, with a reason each.
    fingerprint : see `fingerprint`; equal for equal values and labels, wherever they came from.

    origin : how `load` read it, or None for items that were made or chosen otherwise.

    `make` computes the fingerprint; use it instead of the constructor.
    """

    name: str
    values: Tensor
    labels: Tensor | None
    classes: tuple[str, ...]
    report: Report
    fingerprint: str
    origin: Origin | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.labels is not None else ""
        return (
            f"Data({self.name!r}: {len(self)} {self.kind} of shape {self.shape}{classes}, "
            f"fingerprint {self.fingerprint})"
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one item: (C, H, W) for images, (D,) for points."""
        return tuple(self.values.shape[1:])

    @property
    def is_image(self) -> bool:
        return self.values.dtype == torch.uint8

    @property
    def kind(self) -> Kind:
        """What the items are: images (uint8), or floats by their axes: points [D], sequences [C, L], grids (more).

        No network here trains on sequences.
        """
        if self.is_image:
            return "images"
        axes: dict[int, Kind] = {2: "points", 3: "sequences"}
        return axes.get(self.values.ndim, "grids")

    def x0(self, index: Tensor | slice | None = None) -> Tensor:
        """Items as the model sees them, float32: value / 127.5 - 1 for images, as they are for points."""
        values = self.values if index is None else self.values[index]
        return values.float() / 127.5 - 1 if self.is_image else values

    @property
    def cond(self) -> CondSpec:
        """The conditions that are known of the items: their labels, by the name "class"."""
        return CondSpec((("class", len(self.classes)),)) if self.labels is not None and self.classes else CondSpec()

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Cond | None]:
        """Items as the model sees them and what is known of them; rng : of each item, for a source that draws."""
        return self.x0(index), Cond(label=self.labels[index]) if self.cond.parts and self.labels is not None else None

    def take(self, index: Tensor, note: str) -> Data:
        """The items at `index` (int64 [M]) as a data set of its own, with `note` added to the report."""
        report = replace(self.report, read=len(index), notes=(*self.report.notes, note))
        labels = None if self.labels is None else self.labels[index]
        return make(self.name, self.values[index], labels, self.classes, report)

    def noted(self, note: str) -> Data:
        """The same data with `note` added to the report."""
        return replace(self, report=replace(self.report, notes=(*self.report.notes, note)))

    def split(self, held_out: float, seed: int) -> tuple[Data, Data]:
        """(kept, held out): round(held_out N) items are held out, in proportion to the classes if labelled.

        A function of (self, held_out, seed) alone; both parts keep the order of the items.
        Raises DataError if either part would be empty.
        """
        count = round(held_out * len(self))
        if not 0 < count < len(self):
            raise DataError(
                f"{self.name}: a share of {held_out} of {len(self)} items was to be held out, which leaves "
                f"{len(self) - count} and {count}; give a share with at least one item on either side"
            )
        out = torch.zeros(len(self), dtype=torch.bool)
        out[_held_out(self.labels, len(self), count, seed)] = True
        how = f"of {len(self)} by split(held_out={held_out:.6g}, seed={seed})"
        kept = self.take((~out).nonzero()[:, 0], f"{len(self) - count} kept {how}")
        return kept, self.take(out.nonzero()[:, 0], f"{count} held out {how}")


def _held_out(labels: Tensor | None, total: int, count: int, seed: int) -> Tensor:
    """Which of `total` items are held out; classes share `count` by the largest remainder."""
    if labels is None:
        return permutation(seed, total, "softmix.data.split")[:count]
    present = torch.bincount(labels).nonzero()[:, 0].tolist()
    groups = [(labels == label).nonzero()[:, 0] for label in present]
    # Whole numbers, since a rounded fraction could hand out one item too many.
    shares = [len(group) * count // total for group in groups]
    remainders = [len(group) * count % total for group in groups]
    for i in sorted(range(len(groups)), key=lambda i: -remainders[i])[: count - sum(shares)]:
        shares[i] += 1
    chosen = [
        group[permutation(seed, len(group), f"softmix.data.split.{label}")[:share]]
        for label, group, share in zip(present, groups, shares, strict=True)
    ]
    return torch.cat(chosen)


def choose(count: int, limit: int | None) -> Tensor:
    """The numbers, in order, of at most `limit` of `count` items: a fixed random choice, not the first ones.

    Sources are often sorted by class, so that the first items would be all of one kind.
    """
    if limit is None or limit >= count:
        return torch.arange(count)
    return permutation(0, count, "softmix.data.limit")[:limit].sort().values


def make(name: str, values: Tensor, labels: Tensor | None, classes: tuple[str, ...], report: Report) -> Data:
    """A Data with its fingerprint. Raises DataError if labels and values do not match."""
    if labels is not None and len(labels) != len(values):
        raise DataError(f"{name}: there are {len(values)} items but {len(labels)} labels; each item needs one label")
    return Data(name, values, labels, classes, report, fingerprint(values, labels))
