"""A data set, its values in model units, and the way back to bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..cond import Cond, CondSpec
from ..rng import Rng, permutation
from .origin import Origin
from .report import DataError, Report
from .storage import MEMORY, Storage

Kind = Literal["images", "points", "sequences", "volumes", "grids", "tokens"]
# Values of an array that is mapped from a file are hashed in pieces, so that they are never all in memory.
_PIECE = 1 << 24


def to_uint8(x: Tensor) -> Tensor:
    """Pixels 0..255 from values in [-1, 1]: round(127.5 (x + 1)), clamped; any shape, uint8.

    It undoes `Data.x0` exactly. Raises ValueError if x is not finite, since such values
    would otherwise be saved as black pixels.
    """
    bad = int((~torch.isfinite(x)).sum())
    if bad:
        raise ValueError(f"{bad} of {x.numel()} values are not finite and cannot become pixels; see where they arose")
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def fingerprint(values: Tensor, labels: Tensor | None, *more: str) -> str:
    """The first 16 hex digits of SHA-256 over the types, shapes and bytes of values and labels, and over `more`."""
    digest = hashlib.sha256()
    for part in (values, labels):
        if part is None:
            digest.update(b"no labels")
            continue
        digest.update(f"{part.dtype} {tuple(part.shape)};".encode())
        flat = part.cpu().contiguous().numpy().reshape(-1)
        for at in range(0, len(flat), _PIECE):
            digest.update(flat[at : at + _PIECE].data)
    for text in more:
        digest.update(f";{text}".encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Data:
    """A data set, in memory or mapped from a file.

    name : "digits", "fashion-mnist", "toy:grid", or the name of the folder or file.
    values : uint8 [N, C, H, W] of images and [N, C, D, H, W] of volumes, 0..255; int32 [N, L] or [N, H, W] of tokens;
        float32 of all else, in model units: points [N, D], sequences [N, L, D] with channels last, volumes, grids.
        Read from a cache they are mapped from a file, and take no memory of their own.
    labels : int64 [N], numbers into `classes`, or None.
    report : what was read and what was left out, with a reason each.
    fingerprint : see `fingerprint`; equal for equal content, wherever it came from.

    origin : how `load` read it, or None for items that were made or chosen otherwise.
    vocabulary : how many tokens there are; 0 for all that are no tokens. alphabet : the character of each token, "" if
        tokens are not characters.
    spacing : (dz, dy, dx), the size of a voxel, in the unit in which it was given to `load`.

    A `Source`. `make` computes the fingerprint; use it instead of the constructor.
    """

    name: str
    values: Tensor
    labels: Tensor | None
    classes: tuple[str, ...]
    report: Report
    fingerprint: str
    origin: Origin | None = None
    vocabulary: int = 0
    alphabet: str = ""
    spacing: tuple[float, float, float] | None = None

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
        return self.kind == "images"

    @property
    def kind(self) -> Kind:
        """What the items are: tokens; images (uint8 [C, H, W]); or by their axes: points [D], sequences [L, D], volumes
        [C, D, H, W], grids (others)."""
        if self.vocabulary:
            return "tokens"
        if self.values.dtype == torch.uint8 and self.values.ndim == 4:
            return "images"
        axes: dict[int, Kind] = {2: "points", 3: "sequences", 5: "volumes"}
        return axes.get(self.values.ndim, "grids")

    @property
    def cond(self) -> CondSpec:
        """The label "class", where there are labels."""
        if self.labels is None:
            return CondSpec()
        return CondSpec((("class", len(self.classes) or int(self.labels.max()) + 1),))

    def x0(self, index: Tensor | slice | None = None) -> Tensor:
        """Items as the model sees them: float32, value / 127.5 - 1 for pixels, as they are for points; int64 tokens."""
        values = self.values if index is None else self.values[index]
        if self.vocabulary:
            return values.long()
        return values.float() / 127.5 - 1 if self.values.dtype == torch.uint8 else values

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Cond | None]:
        """(x0 [B, *shape], its labels if there are any). Nothing is random."""
        index = index.to(self.values.device)
        return self.x0(index), None if self.labels is None else Cond(label=self.labels[index])

    def take(self, index: Tensor, note: str, place: Storage = MEMORY) -> Data:
        """The items at `index` (int64 [M]) as a data set of its own, with `note` added to the report.

        Raises DataError if `place`, by default memory, has no room for them.
        """
        report = replace(self.report, read=len(index), notes=(*self.report.notes, note))
        labels = None if self.labels is None else self.labels[index]
        there = self.values.device
        values = torch.from_numpy(place.take(self.name, self.values.cpu().numpy(), index.cpu().numpy())).to(there)
        return make(self.name, values, labels, self.classes, report, like=self)

    def with_note(self, note: str) -> Data:
        """The same data with `note` added to the report."""
        return replace(self, report=replace(self.report, notes=(*self.report.notes, note)))

    def split(self, held_out: float, seed: int) -> tuple[Data, Data]:
        """(kept, held out): round(held_out N) items are held out, in proportion to the classes if labelled.

        A function of (self, held_out, seed) alone; both parts keep the order of the items.
        Raises DataError if either part would be empty.
        """
        kept, out = divided(self.name, self.labels, len(self), held_out, seed)
        return self.take(*kept), self.take(*out)


def divided(
    name: str, labels: Tensor | None, total: int, held_out: float, seed: int
) -> tuple[tuple[Tensor, str], tuple[Tensor, str]]:
    """((numbers of the items that are kept, a note), (those that are held out, a note)); see `Data.split`."""
    count = round(held_out * total)
    if not 0 < count < total:
        raise DataError(
            f"{name}: a share of {held_out} of {total} items was to be held out, which leaves "
            f"{total - count} and {count}; give a share with at least one item on either side"
        )
    out = torch.zeros(total, dtype=torch.bool)
    out[_held_out(labels, total, count, seed)] = True
    how = f"of {total} by split(held_out={held_out:.6g}, seed={seed})"
    kept = (~out).nonzero()[:, 0], f"{total - count} kept {how}"
    return kept, (out.nonzero()[:, 0], f"{count} held out {how}")


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


def make(
    name: str,
    values: Tensor,
    labels: Tensor | None,
    classes: tuple[str, ...],
    report: Report,
    *,
    vocabulary: int = 0,
    alphabet: str = "",
    spacing: tuple[float, float, float] | None = None,
    like: Data | None = None,
) -> Data:
    """A Data with its fingerprint. Raises DataError if labels and values do not match.

    like : a Data whose vocabulary, alphabet and spacing these items have.
    """
    if labels is not None and len(labels) != len(values):
        raise DataError(f"{name}: there are {len(values)} items but {len(labels)} labels; each item needs one label")
    if like is not None:
        vocabulary, alphabet, spacing = like.vocabulary, like.alphabet, like.spacing
    more = [f"{vocabulary} tokens {alphabet}"] * bool(vocabulary) + [f"spacing {spacing}"] * (spacing is not None)
    found = fingerprint(values, labels, *more)
    return Data(name, values, labels, classes, report, found, vocabulary=vocabulary, alphabet=alphabet, spacing=spacing)
