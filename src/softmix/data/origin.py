"""Where items came from and how they were read: enough to read the same items again."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Values = Literal["0..1", "-1..1", "0..255", "as-is"]
Layout = Literal["channels-first", "channels-last"]
Tokens = Literal["characters", "bytes"] | int
_NAMED = ("digits", "fashion-mnist")


@dataclass(frozen=True)
class Origin:
    """What `load` was asked for. `load(origin.source, **origin.options())` gives the same items, if the files are.

    source : a name that softmix knows (digits, fashion-mnist, toy:NAME), or a path. In memory a path is absolute; in a
        run's config.json it is relative to the run folder where the two lie in one tree, so that both may be moved.
    beside, cache : of `load`; paths, kept as `source` is.
    The rest : the keywords of `load` of the same names.
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
        """The keywords of `load`, without the source."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "source"}

    def relative_to_folder(self, folder: Path) -> Origin:
        """As it is written down in `folder`: relative paths where they and the folder share more than the root."""
        return self._each(lambda path: _kept(path, folder))

    def absolute_from(self, folder: Path) -> Origin:
        """Undoes `kept_in`: absolute paths."""
        return self._each(lambda path: os.path.normpath(folder.absolute() / path))

    def _each(self, change: Callable[[str], str]) -> Origin:
        """The same, with every path changed; names stay."""
        beside = change(self.beside) if self.beside is not None and _is_path(self.beside) else self.beside
        cache = None if self.cache is None else change(self.cache)
        return replace(self, source=change(self.source) if self.is_path else self.source, beside=beside, cache=cache)


def _is_path(source: str) -> bool:
    return source not in _NAMED and not source.startswith("toy:")


def _kept(source: str, folder: Path) -> str:
    path, base = Path(source).absolute(), folder.absolute()
    if len(os.path.commonpath([path, base])) <= len(path.anchor):
        return str(path)
    relative = Path(os.path.relpath(path, base)).as_posix()
    # A folder called digits inside of the run folder is no name that softmix knows.
    return relative if relative.startswith("..") else f"./{relative}"
