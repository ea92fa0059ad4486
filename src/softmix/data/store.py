"""`Data`: a data set with its values, its labels and its report; and functions that choose a part of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
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
# Values are hashed in pieces, so that those of a mapped file are never all in memory.
_PIECE = 1 << 24


def to_uint8(x: Tensor) -> Tensor:
    """Pixels round(127.5 (x + 1)), clamped to 0..255, of values x in [-1, 1].

    x : any shape. Returns uint8 of this shape.
    It is the exact inverse of `Data.x0`.
    Raises ValueError if x is not finite, since such values would be saved as black pixels.
    """
    bad = int((~torch.isfinite(x)).sum())
    if bad:
        raise ValueError(f"{bad} of {x.numel()} values are not finite and cannot become pixels; find their origin")
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def fingerprint(values: Tensor, labels: Tensor | None, *more: str) -> str:
    """16 hex digits of SHA-256 over types, shapes and bytes of values and labels, and over the texts `more`."""
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
    """A data set, in memory or mapped from a file. A `Source`.

    name : "digits", "fashion-mnist", "toy:grid", or the name of the folder or file.
    values : uint8 0..255, [N, C, H, W] of images and [N, C, D, H, W] of volumes. int32 [N, L] or [N, H, W] of tokens.
        float32 of all else, in model units: points [N, D], sequences [N, L, D] with channels last, volumes, grids.
        Values from a cache are mapped from a file and need no memory.
    labels : int64 [N], numbers into `classes`, or None.
    classes : the names of the classes.
    report : the items that were read and left out, with reasons.
    fingerprint : see `fingerprint`. It is equal for equal content.
    origin : the call of `load` that gave these items; None for items made or chosen in another way.
    vocabulary : the number of tokens; 0 for data without tokens.
    alphabet : the character of each token; "" if tokens are not characters.
    spacing : (dz, dy, dx), the size of a voxel, in the unit given to `load`.

    Use `make` instead of the constructor: it computes the fingerprint.
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
        """The kind of the items: tokens, images (uint8 [C, H, W]), or a kind by the number of axes.

        These are points [D], sequences [L, D], volumes [C, D, H, W], and grids for all others.
        """
        if self.vocabulary:
            return "tokens"
        if self.values.dtype == torch.uint8 and self.values.ndim == 4:
            return "images"
        axes: dict[int, Kind] = {2: "points", 3: "sequences", 5: "volumes"}
        return axes.get(self.values.ndim, "grids")

    @property
    def cond(self) -> CondSpec:
        """The label "class", if there are labels."""
        if self.labels is None:
            return CondSpec()
        return CondSpec((("class", len(self.classes) or int(self.labels.max()) + 1),))

    def x0(self, index: Tensor | slice | None = None) -> Tensor:
        """Items in model units.

        index : numbers of items, or a slice; None for all.
        Returns float32: pixel / 127.5 - 1 for uint8, unchanged for other values. Tokens are int64.
        The bits are the same on every device.
        """
        values = self.values if index is None else self.values[index]
        if self.vocabulary:
            return values.long()
        if self.values.dtype != torch.uint8:
            return values
        # CUDA multiplies by the rounded reciprocal of a Python number, but divides by a tensor
        half = torch.full((), 127.5, device=values.device)
        return values.float().div_(half).sub_(1)

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Cond | None]:
        """Return (x0 [B, *shape], labels if there are any). Nothing is random."""
        index = index.to(self.values.device)
        return self.x0(index), None if self.labels is None else Cond(label=self.labels[index])

    def with_storage(self, change: Callable[[Tensor], Tensor]) -> Data:
        """The same data with `change` applied to values and labels, both [N, ...]: see `contract.Stored`."""
        values = change(self.values)
        return replace(self, values=values, labels=None if self.labels is None else change(self.labels))

    def take(self, index: Tensor, note: str, storage: Storage = MEMORY) -> Data:
        """Some items as a new data set.

        index : numbers of items, int64 [M].
        note : a note for the report.
        storage : the storage for the values; by default memory.
        Raises DataError if the storage has no space for them.
        """
        report = replace(self.report, read=len(index), notes=(*self.report.notes, note))
        labels = None if self.labels is None else self.labels[index]
        device = self.values.device
        values = torch.from_numpy(storage.take(self.name, self.values.cpu().numpy(), index.cpu().numpy())).to(device)
        return make(self.name, values, labels, self.classes, report, like=self)

    def with_note(self, note: str) -> Data:
        """The same data with one more note in the report."""
        return replace(self, report=replace(self.report, notes=(*self.report.notes, note)))

    def split(self, held_out: float, seed: int) -> tuple[Data, Data]:
        """Hold out round(held_out N) items, in proportion to the classes if there are labels.

        The result is a function of (self, held_out, seed) alone. Both parts keep the order of the items.
        Returns (training part, held-out part). Raises DataError if a part would be empty.
        """
        train, out = divided(self.name, self.labels, len(self), held_out, seed)
        return self.take(*train), self.take(*out)


def divided(
    name: str, labels: Tensor | None, total: int, held_out: float, seed: int
) -> tuple[tuple[Tensor, str], tuple[Tensor, str]]:
    """Return ((numbers of the training items, a note), (those of the held-out items, a note)); see `Data.split`."""
    count = round(held_out * total)
    if not 0 < count < total:
        raise DataError(
            f"{name}: a share of {held_out} of {total} items was to be held out, which leaves "
            f"{total - count} and {count}; give a share with at least one item on either side"
        )
    out = torch.zeros(total, dtype=torch.bool, device="cpu")
    out[_held_out(labels, total, count, seed)] = True
    how = f"of {total} by split(held_out={held_out:.6g}, seed={seed})"
    train = (~out).nonzero()[:, 0], f"{total - count} kept {how}"
    return train, (out.nonzero()[:, 0], f"{count} held out {how}")


def _held_out(labels: Tensor | None, total: int, count: int, seed: int) -> Tensor:
    """The numbers of held-out items. Classes share `count` by the largest remainder."""
    if labels is None:
        return permutation(seed, total, "softmix.data.split")[:count]
    present = torch.bincount(labels).nonzero()[:, 0].tolist()
    groups = [(labels == label).nonzero()[:, 0] for label in present]
    # Whole numbers, since rounded fractions could sum to one item too many.
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
    """Choose at most `limit` of `count` items: a fixed random choice, in order.

    The first items are no good choice: sources are often sorted by class.
    Returns the numbers of the items, int64.
    """
    if limit is None or limit >= count:
        return torch.arange(count, device="cpu")
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
    """Make a `Data` with its fingerprint.

    like : a `Data` to copy vocabulary, alphabet and spacing from.
    Raises DataError if there are not as many labels as values.
    """
    if labels is not None and len(labels) != len(values):
        raise DataError(f"{name}: there are {len(values)} items but {len(labels)} labels; each item needs one label")
    if like is not None:
        vocabulary, alphabet, spacing = like.vocabulary, like.alphabet, like.spacing
    more = [f"{vocabulary} tokens {alphabet}"] * bool(vocabulary) + [f"spacing {spacing}"] * (spacing is not None)
    digest = fingerprint(values, labels, *more)
    return Data(
        name, values, labels, classes, report, digest, vocabulary=vocabulary, alphabet=alphabet, spacing=spacing
    )
