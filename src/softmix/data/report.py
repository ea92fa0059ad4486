"""What was asked, what was read, what was left out and why, and the error that stops a load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


class DataError(ValueError):
    """Data that cannot be used at all. The message says what was asked, what was found and what to do."""


class NoSplitError(DataError):
    """A split that the source does not have; the source itself may be good."""


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


class WarningNote(str):
    """A note about what would spoil a training, such as pictures that are nearly black."""


@dataclass(frozen=True)
class Report:
    """What became of the items of a source.

    read : how many items are in the data set.
    skipped : (name, reason) of each item that was left out.
    converted : (name, how) of each item that was changed on its way in, beyond the resizing that was asked for.
    notes : whatever else a reader should know, a sentence each; those that are `Grave` are its warnings.
    """

    read: int
    skipped: tuple[tuple[str, str], ...] = ()
    converted: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The notes about what would spoil a training."""
        return tuple(note for note in self.notes if isinstance(note, WarningNote))

    def lines(self, most: int = 3) -> list[str]:
        """The report for a terminal: items grouped by reason, at most `most` names for each; warnings come last."""
        head = f"read {self.read}, skipped {len(self.skipped)}, converted {len(self.converted)}"
        skipped = [f"  skipped    {line}" for line in grouped(self.skipped, most)]
        converted = [f"  converted  {line}" for line in grouped(self.converted, most)]
        notes = [f"  note       {note}" for note in self.notes if not isinstance(note, WarningNote)]
        return [head, *skipped, *converted, *notes, *(f"  WARNING    {warning}" for warning in self.warnings)]

    def to_json(self) -> dict[str, object]:
        """The whole report as a dict that `json.dumps` takes, with nothing shortened."""
        return {
            "read": self.read,
            "skipped": [{"name": name, "reason": reason} for name, reason in self.skipped],
            "converted": [{"name": name, "how": how} for name, how in self.converted],
            "notes": list(self.notes),
        }

    @staticmethod
    def from_json(tree: Mapping[str, Any]) -> Report:
        """Undoes `to_json`."""
        return Report(
            tree["read"],
            tuple((each["name"], each["reason"]) for each in tree["skipped"]),
            tuple((each["name"], each["how"]) for each in tree["converted"]),
            tuple(tree["notes"]),
        )
