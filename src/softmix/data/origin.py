"""Room `data`: where items came from and how they were read: enough to read the same items again."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Values = Literal["0..1", "-1..1", "0..255", "as-is"]
Layout = Literal["channels-first", "channels-last"]
_NAMED = ("digits", "fashion-mnist")


@dataclass(frozen=True)
class Origin:
    """What `load` was asked for. `load(origin.source, **origin.options())` gives the same items, if the files are.

    source : a name that softmix knows (digits, fashion-mnist, toy:NAME), or a path. In memory a path is absolute; in a
        run's config.json it is relative to the run folder where the two lie in one tree, so that both may be moved.
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

    @property
    def is_path(self) -> bool:
        """Whether `source` is a path and not a name."""
        return self.source not in _NAMED and not self.source.startswith("toy:")

    def options(self) -> dict[str, object]:
        """The keywords of `load`, without the source."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "source"}

    def kept_in(self, folder: Path) -> Origin:
        """As it is written down in `folder`: a relative path where source and folder share more than the root."""
        if not self.is_path:
            return self
        path, base = Path(self.source).absolute(), folder.absolute()
        if len(os.path.commonpath([path, base])) <= len(path.anchor):
            return replace(self, source=str(path))
        return replace(self, source=Path(os.path.relpath(path, base)).as_posix())

    def seen_from(self, folder: Path) -> Origin:
        """Undoes `kept_in`: an absolute path."""
        return replace(self, source=os.path.normpath(folder.absolute() / self.source)) if self.is_path else self
