"""Ground floor: conditions, the inputs of a denoiser beside x_t and t."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

Part = Literal["label", "image", "value", "context"]
PARTS: tuple[Part, ...] = get_args(Part)


class CondError(ValueError):
    """A condition that does not suit the model, or has parts that do not fit each other."""


@dataclass(frozen=True)
class CondSpec:
    """The conditions that data offer, or that a network is built for.

    labels : (name, number of classes) of each label, for example (("class", 10),).
    image : channels of an image on the grid of x_t, 0 for none.
    values : the number of real numbers, 0 for none.
    context : the width of a token, 0 for none.

    Raises CondError for two labels of one name, a label without classes, and a negative number.
    """

    labels: tuple[tuple[str, int], ...] = ()
    image: int = 0
    values: int = 0
    context: int = 0

    def __post_init__(self) -> None:
        names = [name for name, _ in self.labels]
        if len(set(names)) != len(names) or set(names) & set(PARTS) - {"label"}:
            raise CondError(f"labels need names of their own, other than {', '.join(PARTS)}; found {names}")
        if any(count < 1 for _, count in self.labels) or min(self.image, self.values, self.context) < 0:
            raise CondError(f"a label has at least one class, and no number is below 0; found {self}")

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The names of the parts, in the order of `PARTS`."""
        sizes = (len(self.labels), self.image, self.values, self.context)
        return tuple(part for part, size in zip(PARTS, sizes, strict=True) if size)

    @property
    def classes(self) -> int:
        """The number of classes of the first label, 0 without labels."""
        return self.labels[0][1] if self.labels else 0

    def __str__(self) -> str:
        phrases = [f"the label {name} ({count} classes)" for name, count in self.labels]
        phrases += [f"an image of {self.image} channels"] * bool(self.image)
        phrases += [f"{self.values} real numbers"] * bool(self.values)
        phrases += [f"a context of tokens of width {self.context}"] * bool(self.context)
        return ", ".join(phrases) or "no condition"

    def check(self, cond: Cond | None, size: tuple[int, ...] | None = None, axis: int = 1) -> None:
        """Raises CondError for a part that is not in this specification, or has another size.

        size : the size of x_t without its channels. An image must be on the same grid.
        axis : the axis of the channels in x_t and in the image: 1, or 2 for sequences [B, L, C].

        Labels are compared with the number of classes on a CPU only. On an accelerator the comparison would wait for
        the device.
        """
        if cond is None:
            return
        if not isinstance(cond, Cond):
            raise CondError(f"a condition is a Cond, or a tensor of labels; found {type(cond).__name__}")
        unknown = [part for part in cond.parts if part not in self.parts]
        if unknown:
            raise CondError(f"the condition has {' and '.join(unknown)}, and the model was built for {self}")
        self._labels(cond.label)
        sizes = {"image": (self.image, axis), "value": (self.values, 1), "context": (self.context, 2)}
        for part, (length, place) in sizes.items():
            tensor: Tensor | None = getattr(cond, part)
            if tensor is not None and (place >= tensor.ndim or tensor.shape[place] != length):
                raise CondError(f"{part} has the shape {list(tensor.shape)}, and the model was built for {self}")
        if cond.image is None or size is None:
            return
        grid = [length for place, length in enumerate(cond.image.shape) if place not in (0, axis)]
        if grid != list(size):
            raise CondError(f"the image has the size {grid}, and x_t has {list(size)}")

    def _labels(self, label: Tensor | None) -> None:
        if label is None:
            return
        columns = label[:, None] if label.ndim == 1 else label
        if columns.shape[1] != len(self.labels):
            raise CondError(f"label has {columns.shape[1]} columns, and the model was built for {self}")
        if label.device.type != "cpu" or not len(label):
            return
        for (name, count), largest in zip(self.labels, columns.amax(0).tolist(), strict=True):
            if largest >= count:
                raise CondError(
                    f"the label {name} has the classes 0 to {count - 1}, and -1 for not given; found {largest}"
                )

    def only(self, parts: Sequence[Part]) -> CondSpec:
        """The specification of these parts alone."""
        fields = {"label": "labels", "image": "image", "value": "values", "context": "context"}
        return CondSpec(**{fields[part]: getattr(self, fields[part]) for part in self.parts if part in parts})


UNCONDITIONED = CondSpec()


@dataclass(frozen=True, eq=False)
class Cond:
    """The condition of a batch of items. Each part may be None, and may be missing for some items.

    label : class labels, integers [B], or [B, K] for K labels; -1 for a missing one.
    image : [B, C', *size] on the grid of x_t, or [B, L, C'] for a sequence [B, L, D]; nan for a missing item or pixel.
    value : real numbers [B, K]; nan for a missing one.
    context : tokens [B, L, D]. An item without any token has no context.
    mask : booleans [B, L], True for a present token; None if all are present.

    Raises CondError for parts of other types or of different lengths.
    """

    label: Tensor | None = None
    image: Tensor | None = None
    value: Tensor | None = None
    context: Tensor | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        axes = {"label": (1, 2), "image": (3, 4, 5), "value": (2,), "context": (3,), "mask": (2,)}
        lengths = {}
        for name, allowed in axes.items():
            tensor: Tensor | None = getattr(self, name)
            if tensor is None:
                continue
            if tensor.ndim not in allowed:
                numbers = " or ".join(map(str, allowed))
                raise CondError(f"{name} has {numbers} axes; found the shape {list(tensor.shape)}")
            lengths[name] = len(tensor)
        if len(set(lengths.values())) > 1:
            raise CondError(f"the parts of a condition are for one batch; found {lengths}")
        if self.label is not None and (self.label.is_floating_point() or self.label.dtype == torch.bool):
            raise CondError(
                f"label holds integers; found {self.label.dtype}. Real numbers are value, tokens are context"
            )
        if self.mask is not None and (self.context is None or self.mask.shape != self.context.shape[:2]):
            raise CondError("mask says which tokens of context there are, and has its first two sizes")

    @property
    def parts(self) -> tuple[Part, ...]:
        """The names of the parts that are not None."""
        return tuple(part for part in PARTS if getattr(self, part) is not None)

    @property
    def device(self) -> torch.device | None:
        """The device of the parts; None without parts."""
        return next((getattr(self, part).device for part in self.parts), None)

    def __len__(self) -> int:
        return next((len(getattr(self, part)) for part in self.parts), 0)

    def take(self, items: Tensor | slice) -> Cond:
        """The condition of some of the items."""
        return self._each(lambda tensor: tensor[items.to(tensor.device) if isinstance(items, Tensor) else items])

    # as of a tensor of labels
    __getitem__ = take

    def to(self, device: torch.device | str) -> Cond:
        return self._each(lambda tensor: tensor.to(device))

    def repeat(self, m: int) -> Cond:
        """The whole batch m times, one after another: [B, ...] -> [m B, ...]."""
        return self._each(lambda tensor: tensor.repeat(m, *(1,) * (tensor.ndim - 1)))

    def expand(self, n: int) -> Cond:
        """The condition of one item, for n items."""
        return self._each(lambda tensor: tensor.expand(n, *tensor.shape[1:]))

    def dropped(self, given: Tensor, part: Part, column: int | None = None) -> Cond:
        """Drop a part of the condition for some items.

        given : booleans [B], False for the items without the part.
        part : its name.
        column : the index of one label out of several; None for all.

        Raises CondError if the condition has no such part.
        """
        tensor: Tensor | None = getattr(self, part)
        if tensor is None:
            raise CondError(f"{part} was to be dropped, and the condition has {', '.join(self.parts) or 'nothing'}")
        keep = given.to(tensor.device).reshape(-1, *(1,) * (tensor.ndim - 1))
        if part == "context":
            mask = self.mask if self.mask is not None else keep.new_ones(tensor.shape[:2])
            return replace(self, mask=mask & keep[:, :, 0])
        if part == "label":
            keep = keep.expand_as(tensor)
            if column is not None:
                others = torch.arange(tensor.shape[1], device=tensor.device) != column
                keep = keep | others
            return replace(self, label=torch.where(keep, tensor, -1))
        return replace(self, **{part: torch.where(keep, tensor, torch.nan)})

    def only(self, parts: Sequence[Part]) -> Cond:
        """These parts alone. A context keeps its mask."""
        names = [*parts, *(("mask",) if "context" in parts else ())]
        return Cond(**{name: getattr(self, name) for name in names})

    def without(self, names: Sequence[str], spec: CondSpec) -> Cond:
        """Drop some parts of the condition for all items, for example to guide away from the result.

        names : parts ("label", "image", "value", "context"), or names of single labels.
        spec : has the names of the labels.

        Raises CondError for an unknown name.
        """
        cond = self
        none = torch.zeros(len(self), dtype=torch.bool, device=self.device)
        labels = [name for name, _ in spec.labels]
        for name in names:
            if name in labels and name != "label":
                several = self.label is not None and self.label.ndim == 2
                cond = cond.dropped(none, "label", labels.index(name) if several else None)
            elif name in PARTS:
                cond = cond.dropped(none, name)
            else:
                raise CondError(f"{name!r} was to be dropped; there are {', '.join([*self.parts, *labels])}")
        return cond

    def _each(self, change: Callable[[Tensor], Tensor]) -> Cond:
        parts = ((name, getattr(self, name)) for name in self.__dataclass_fields__)
        return Cond(**{name: change(tensor) for name, tensor in parts if tensor is not None})


def joined(conds: Sequence[Cond]) -> Cond:
    """Concatenate the conditions of several batches. All have the same parts."""
    first = conds[0]
    return Cond(
        **{
            name: torch.cat([getattr(cond, name) for cond in conds])
            for name in first.__dataclass_fields__
            if getattr(first, name) is not None
        }
    )


def class_label(classes: int) -> CondSpec:
    """The specification of one label, `class`, of so many classes. No condition for 0 classes."""
    return CondSpec((("class", classes),)) if classes else UNCONDITIONED


def as_cond(cond: Cond | Tensor | None) -> Cond | None:
    """Turn a tensor of class labels [B] into a Cond; a Cond and None stay as they are."""
    return Cond(label=cond) if isinstance(cond, Tensor) else cond
