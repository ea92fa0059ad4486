"""`Report`: the items that were read, left out or converted; and `DataError`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


class DataError(ValueError):
    """Data that cannot be used. The message gives the request, the problem and the remedy."""


class NoSplitError(DataError):
    """The source lacks a split. The source itself may be good."""


def printable(name: str) -> str:
    """Escape the characters of `name` that a terminal or a JSON file cannot show (control codes, broken UTF-8)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def grouped(pairs: Iterable[tuple[str, str]], most: int) -> list[str]:
    """Group items by reason, for a terminal.

    pairs : (name, reason) of each item.
    most : the largest number of names for each reason.
    Returns one line per reason with its count, the commonest reason first.
    """
    names: dict[str, list[str]] = {}
    for name, reason in pairs:
        names.setdefault(reason, []).append(name)
    lines = []
    for reason, group in sorted(names.items(), key=lambda item: -len(item[1])):
        rest = f" and {len(group) - most} more" if len(group) > most else ""
        lines.append(f"{len(group)} x {reason}: {', '.join(group[:most])}{rest}")
    return lines


class WarningNote(str):
    """A note about a problem that would spoil a training, such as nearly black pictures."""


@dataclass(frozen=True)
class Report:
    """The result of reading a source.

    read : the number of items in the data set.
    skipped : (name, reason) of each item that was left out.
    converted : (name, change) of each item that was changed, except for the resizing that was asked for.
    notes : other facts, a sentence each. Those of type `WarningNote` are warnings.
    """

    read: int
    skipped: tuple[tuple[str, str], ...] = ()
    converted: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The notes about problems that would spoil a training."""
        return tuple(note for note in self.notes if isinstance(note, WarningNote))

    def lines(self, most: int = 3) -> list[str]:
        """The report for a terminal. Items are grouped by reason. Warnings come last.

        most : the largest number of names for each reason.
        """
        head = f"read {self.read}, skipped {len(self.skipped)}, converted {len(self.converted)}"
        skipped = [f"  skipped    {line}" for line in grouped(self.skipped, most)]
        converted = [f"  converted  {line}" for line in grouped(self.converted, most)]
        notes = [f"  note       {note}" for note in self.notes if not isinstance(note, WarningNote)]
        return [head, *skipped, *converted, *notes, *(f"  WARNING    {warning}" for warning in self.warnings)]

    def to_json(self) -> dict[str, object]:
        """The whole report as a dict for `json.dumps`."""
        return {
            "read": self.read,
            "skipped": [{"name": name, "reason": reason} for name, reason in self.skipped],
            "converted": [{"name": name, "how": how} for name, how in self.converted],
            "notes": list(self.notes),
        }

    @staticmethod
    def from_json(tree: Mapping[str, Any]) -> Report:
        """The inverse of `to_json`."""
        return Report(
            tree["read"],
            tuple((each["name"], each["reason"]) for each in tree["skipped"]),
            tuple((each["name"], each["how"]) for each in tree["converted"]),
            tuple(tree["notes"]),
        )
