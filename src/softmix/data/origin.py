"""`Origin`: the source and the options of a data set, to read the same items again."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Values = Literal["0..1", "-1..1", "0..255", "as-is"]
Layout = Literal["channels-first", "channels-last"]
Tokens = Literal["characters", "bytes"] | int
_NAMED = ("digits", "fashion-mnist", "photographs")


@dataclass(frozen=True)
class Origin:
    """The arguments of `load`. `load(origin.source, **origin.options())` gives the same items for the same
    files.

    source : a name that softmix knows (digits, fashion-mnist, photographs, toy:NAME), or a path; target:NAME for a
        density, which `softmix.oracle.known_target` gives. A path is absolute in memory. In the config.json of a run it
        is relative to the run folder, if both are in one tree, so that both can be moved.
    beside, cache : paths, stored in the same way.
    The other fields are the keywords of `load`.
    """

    source: str
    split: str = "train"
    size: int | None = None
    channels: int | None = None
    limit: int | None = None
    bits: int | None = None
    values: Values | None = None
    layout: Layout | None = None
    hold_out: float = 0.0
    tokens: Tokens | None = None
    length: int | None = None
    spacing: tuple[float, float, float] | None = None
    beside: str | None = None
    cache: str | None = None

    @property
    def is_path(self) -> bool:
        """Whether `source` is a path and not a name."""
        return _is_path(self.source)

    def options(self) -> dict[str, object]:
        """The keywords of `load` without the source."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "source"}

    def relative_to_folder(self, folder: Path) -> Origin:
        """The same origin with paths relative to `folder`, if they share more than the root."""
        return self._each(lambda path: _relative(path, folder))

    def absolute_from(self, folder: Path) -> Origin:
        """The inverse of `relative_to_folder`: absolute paths."""
        return self._each(lambda path: os.path.normpath(folder.absolute() / path))

    def _each(self, change: Callable[[str], str]) -> Origin:
        """Change every path; names stay."""
        beside = change(self.beside) if self.beside is not None and _is_path(self.beside) else self.beside
        cache = None if self.cache is None else change(self.cache)
        return replace(self, source=change(self.source) if self.is_path else self.source, beside=beside, cache=cache)


def _is_path(source: str) -> bool:
    return source not in _NAMED and not source.startswith(("toy:", "target:"))


def _relative(source: str, folder: Path) -> str:
    path, base = Path(source).absolute(), folder.absolute()
    if len(os.path.commonpath([path, base])) <= len(path.anchor):
        return str(path)
    relative = Path(os.path.relpath(path, base)).as_posix()
    # A folder called digits in the run folder must not be taken for the data set digits.
    return relative if relative.startswith("..") else f"./{relative}"
