"""Room `data`: what was asked, what was read, what was left out and why, and the error that stops a load."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from softmix.data.origin import Layout, Values

SPLITS = ("train", "test", "val")
# What people call a split, and which of SPLITS it is.
ALIASES = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "eval": "val",
}


class DataError(ValueError):
    """Data that cannot be used at all. The message says what was asked, what was found and what to do."""


@dataclass(frozen=True)
class Want:
    """What the caller of `load` asked for beside the source; see there. Raises DataError if it makes no sense."""

    split: str
    size: int | None = None
    channels: int | None = None
    limit: int | None = None
    bits: int | None = None
    values: Values | None = None
    layout: Layout | None = None
    hold_out: float = 0.0

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise DataError(f"the split {self.split!r} was asked for; there are 'train', 'test' and 'val'")
        if self.size is not None and not 2 <= self.size <= 8192:
            raise DataError(f"a size of {self.size} pixels was asked for; give 2 to 8192")
        if self.channels not in (None, 1, 3, 4):
            raise DataError(f"{self.channels} channels were asked for; give 1 (grey), 3 (colour) or 4 (with alpha)")
        if self.limit is not None and self.limit < 1:
            raise DataError(f"a limit of {self.limit} items was asked for; give 1 or more")
        if self.bits is not None and not 1 <= self.bits <= 16:
            raise DataError(f"{self.bits} bits were asked for; give 1 to 16, what the largest value needs")
        if self.values not in (None, *get_args(Values)):
            raise DataError(f"values {self.values!r} were asked for; there are {', '.join(get_args(Values))}")
        if self.layout not in (None, *get_args(Layout)):
            raise DataError(f"the layout {self.layout!r} was asked for; there are {', '.join(get_args(Layout))}")
        if not 0 <= self.hold_out < 1:
            raise DataError(f"a share of {self.hold_out} was to be held out; give 0 to below 1, such as 0.1")

    def points_only(self, name: str) -> None:
        """Raises DataError if a size or channels were asked of data that are not images."""
        if self.size is not None or self.channels is not None:
            raise DataError(f"{name} holds points, not images, and has no size or channels to choose; leave these out")


def printable(name: str) -> str:
    """`name` with escapes for whatever a terminal or a JSON file cannot show (control codes, broken UTF-8)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def grouped(pairs: Iterable[tuple[str, str]], most: int) -> list[str]:
    """One line per reason, the commonest first, each with its count and at most `most` names."""
    names: dict[str, list[str]] = {}
    for name, reason in pairs:
        names.setdefault(reason, []).append(name)
    lines = []
    for reason, group in sorted(names.items(), key=lambda item: -len(item[1])):
        rest = f" and {len(group) - most} more" if len(group) > most else ""
        lines.append(f"{len(group)} x {reason}: {', '.join(group[:most])}{rest}")
    return lines


@dataclass(frozen=True)
class Report:
    """What became of the items of a source.

    read : how many items are in the data set.
    skipped : (name, reason) of each item that was left out.
    converted : (name, how) of each item that was changed on its way in, beyond the resizing that was asked for.
    notes : whatever else a reader should know, a sentence each.
    """

    read: int
    skipped: tuple[tuple[str, str], ...] = ()
    converted: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self, most: int = 3) -> list[str]:
        """The report for a terminal: items grouped by reason, at most `most` names for each."""
        head = f"read {self.read}, skipped {len(self.skipped)}, converted {len(self.converted)}"
        skipped = [f"  skipped    {line}" for line in grouped(self.skipped, most)]
        converted = [f"  converted  {line}" for line in grouped(self.converted, most)]
        return [head, *skipped, *converted, *(f"  note       {note}" for note in self.notes)]

    def to_json(self) -> dict[str, object]:
        """The whole report as a dict that `json.dumps` takes, with nothing shortened."""
        return {
            "read": self.read,
            "skipped": [{"name": name, "reason": reason} for name, reason in self.skipped],
            "converted": [{"name": name, "how": how} for name, how in self.converted],
            "notes": list(self.notes),
        }
