"""`from_dataset`: any map-style torch Dataset as a source."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..cond import Cond, CondSpec
from ..rng import Rng
from .array_range import ENDS, Range, choose_range
from .derived import part_name, text_fingerprint
from .origin import Values
from .report import DataError, Report
from .request import Request
from .store import choose, fingerprint
from .torch_item import Item, parse_item

# The number of items that are read at construction, for the shape, the range and the fingerprint.
_SAMPLE = 64
# Transforms use the generators of the process, so that only one batch can be read at a time.
_ONE_AT_A_TIME = Lock()


class MapStyle(Protocol):
    """A torch Dataset with numbered items."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class FromDataset:
    """A source that reads the items of a torch Dataset whenever a batch is asked for. `from_dataset` makes it.

    report : notes on the meaning of the items.
    """

    # Transforms draw from the generators of the process.
    reads_alone = True

    def __init__(self, dataset: MapStyle, name: str, classes: tuple[str, ...], values: Values | None):
        self.dataset, self.name, self.classes = dataset, name, classes
        if not len(dataset):
            raise DataError(f"{name} has no items; give a Dataset of at least one")
        index = choose(len(dataset), _SAMPLE)
        self._values: Values = "as-is"
        self._first: Item | None = None
        # The role keeps its earlier name: another one would change the fingerprint of a random Dataset.
        given = self._read(index, Rng(0, index, "softmix.data.dataset"))
        first = given[0]
        self._first = first
        self.shape = tuple(first.x0.shape)
        self.is_image, self._values, note = _range(name, given, values)
        self._of_images: Values = "as-is"
        if first.image is not None:
            # Images of the same type have the range of x0. The range of floats next to pixels is unknown.
            same = first.image.dtype == first.x0.dtype
            self._of_images = self._values if same else "0..255" if first.image.dtype == torch.uint8 else "as-is"
        self.cond = self._spec(first)
        self.fingerprint = text_fingerprint("dataset", len(dataset), *map(_item_fingerprint, given))
        share = f"of {len(dataset)} items" if len(dataset) > len(index) else "items, which are all"
        print_note = f"the fingerprint is made of the number of items and of the content of {len(index)} {share}"
        self.report = Report(len(dataset), notes=(*note, print_note))

    def _spec(self, first: Item) -> CondSpec:
        labels = 0 if first.label is None else len(self.classes)
        if first.label is not None and not labels:
            raise DataError(
                f"{self.name} has labels, but the number of classes is unknown; give from_dataset classes=10, "
                "or their names"
            )
        return CondSpec(
            (("class", labels),) if labels else (),
            0 if first.image is None else first.image.shape[0],
            0 if first.value is None else len(first.value),
            0 if first.context is None else first.context.shape[1],
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Cond | None]:
        """Return (x0 [B, *shape], the conditions of the items by name).

        Transforms may draw from the generators of torch, numpy and random. These get a seed from rng, item by item.
        """
        given = self._read(index, rng)
        x0 = torch.stack([_in_model_units(each.x0, self._values) for each in given])
        if not self.cond.parts:
            return x0, None
        labels = None if given[0].label is None else torch.tensor([each.label for each in given], device=x0.device)
        images = [_in_model_units(each.image, self._of_images) for each in given if each.image is not None]
        values = [each.value for each in given if each.value is not None]
        context, mask = _padded([each.context for each in given if each.context is not None])
        image, value = (torch.stack(parts) if parts else None for parts in (images, values))
        return x0, Cond(labels, image, value, context, mask)

    def _read(self, index: Tensor, rng: Rng) -> list[Item]:
        seeds = rng.child("item").bits((len(rng),)).tolist()
        items: list[Item] = []
        with _ONE_AT_A_TIME:
            for number, seed in zip(index.tolist(), seeds, strict=True):
                with _seeded(seed):
                    item = self.dataset[number]
                given = parse_item(item, f"{self.name}, item {number}")
                items.append(self._checked(given, self._first or (items[0] if items else given), number))
        return items

    def _checked(self, item: Item, first: Item, number: int) -> Item:
        """The item. Raises DataError if it differs in form from the first one, or is not finite."""
        who = f"{self.name}, item {number}"
        for part, tensor in item.tensors():
            other = getattr(first, part)
            # Contexts may have different lengths.
            sizes = (1,) if part == "context" else tuple(range(tensor.ndim))
            if other is None or other.ndim != tensor.ndim or any(other.shape[i] != tensor.shape[i] for i in sizes):
                known = "none" if other is None else list(other.shape)
                raise DataError(
                    f"{who}: {part} has the shape {list(tensor.shape)}, and others {known}; bring all to one"
                )
            if not torch.isfinite(tensor).all():
                raise DataError(f"{who}: {part} has values that are not finite; leave the item out of the Dataset")
        missing = [part for part in ("label", "image", "value", "context") if _differ(first, item, part)]
        if missing:
            raise DataError(
                f"{who}: {' and '.join(missing)} is there for some items and not for others; give all or none"
            )
        if item.label is not None and self.classes and not 0 <= item.label < len(self.classes):
            raise DataError(f"{who}: the label is {item.label}, and there are {len(self.classes)} classes")
        return item


def from_dataset(
    dataset: MapStyle,
    *,
    name: str | None = None,
    classes: int | Sequence[str] | None = None,
    values: Values | None = None,
) -> FromDataset:
    """A source of any map-style torch Dataset, or of any object with len() and numbered items.

    dataset : each item is x0; or (x0, label); or a dict with x0 and conditions by name: "label" (a whole number),
        "image"
        [C', *size], "value" [K], "context" [L, D]. In a dict without "x0", "image" is x0. x0 and images are tensors
        [C, H, W], arrays [H, W, C], or PIL pictures. Other tensors and arrays keep their axes. An image next to x0 is
        brought to -1..1 as x0 is; an image of floats next to pixels stays as it is.
    name : by default the name of the class of the dataset.
    classes : the number of classes, or their names; by default `dataset.classes`.
    values : the range of floats in pictures, as in `load`. By default it is found from a sample, and the report
        gives it.
        uint8 are pixels 0..255. Nothing is rounded.

    Items are read one after another in the process itself. Random transforms are repeatable: they get seeds from the
    rng of the batch. The fingerprint is made of the number of items and of 64 sampled items, and the report says so: it
    does not see a change of other items.
    Raises DataError for items of different shapes, values that are not finite, and labels without classes.
    """
    known = classes if classes is not None else getattr(dataset, "classes", None)
    names = tuple(map(str, range(known))) if isinstance(known, int) else tuple(map(str, known or ()))
    return FromDataset(dataset, name or part_name(dataset), names, values)


def _differ(first: Item, item: Item, part: str) -> bool:
    return (getattr(first, part) is None) != (getattr(item, part) is None)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the generators of torch, numpy and random, and restore their states afterwards."""
    python, old = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed & (2**63 - 1))
        np.random.seed(seed & (2**32 - 1))
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(old)


def _item_fingerprint(item: Item) -> str:
    tensors = [fingerprint(tensor, None, part) for part, tensor in item.tensors()]
    return ",".join([str(item.label), *tensors])


def _range(name: str, given: Sequence[Item], values: Values | None) -> tuple[bool, Values, tuple[str, ...]]:
    """Return (whether the items are pictures, the range of their numbers, notes)."""
    first = given[0]
    if first.pixels:
        if values not in (None, "0..255"):
            raise DataError(f"{name}: values {values} were asked for, but its items are uint8 of 0..255; leave it out")
        return first.x0.ndim == 3, "0..255", ("pixels 0..255 became -1..1",)
    picture = first.x0.ndim == 3 and first.x0.shape[0] in (1, 3, 4)
    if values == "as-is" or (values is None and not picture):
        return False, "as-is", ()
    whole = torch.cat([item.x0.flatten() for item in given])
    found = Range(float(whole.min()), float(whole.max()), bool((whole == whole.round()).all()))
    decided = choose_range(name, f"a Dataset of floats {list(first.x0.shape)}", found, Request(values=values))
    note = f"{found} in a sample of {len(given)} items were taken as numbers in {decided} and became -1..1"
    return picture, decided, (note,)


def _in_model_units(x: Tensor, values: Values) -> Tensor:
    if values == "as-is":
        return x.float()
    low, high = ENDS[values]
    return x.float() if values == "-1..1" else (x.float() - low) / ((high - low) / 2) - 1


def _padded(contexts: list[Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """Return (contexts [B, L, D] padded with zeros, their mask). The mask is None if all lengths are equal."""
    if not contexts:
        return None, None
    padded = torch.nn.utils.rnn.pad_sequence(contexts, batch_first=True)
    lengths = torch.tensor([len(each) for each in contexts], device=padded.device)
    mask = torch.arange(padded.shape[1], device=padded.device)[None] < lengths[:, None]
    return padded, None if mask.all() else mask
