"""Rows that were measured are kept as JSON, so that an evaluation goes on from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..version import __version__
from .stored import write_aside

# Counted up where `Reference.compare` measures otherwise than before.
MEASURES = 2

Recipe = Mapping[str, object]


class KeptError(ValueError):
    """A file that holds no rows of ours."""


class Kept:
    """Rows by their recipe: everything that decides their numbers. Without a path they are kept in memory only.

    The file is {"kind": "softmix evaluation", "rows": [{"name": "...", "recipe": {...}, "values": {...}}, ...]}; it is
    written anew, aside and then renamed, after each row, and rows of other recipes stay. Raises KeptError for a file
    that is not one of these, and OSError where it cannot be read.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self._rows: dict[str, dict[str, Any]] = _read(path) if path is not None else {}
        self.found = self.added = 0

    def values(self, name: str, recipe: Recipe, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """The values of a row, measured unless they are known. name : for whoever reads the file."""
        known = self.known(recipe)
        if known is not None:
            self.found += 1
            return known
        values = measure()
        self.added += 1
        self._rows[_key(recipe)] = {"name": name, "recipe": _whole(recipe), "values": values}
        if self.path is not None:
            rows = list(self._rows.values())
            content = json.dumps({"kind": "softmix evaluation", "rows": rows}, indent=1, ensure_ascii=False)
            write_aside(self.path, content.encode() + b"\n")
        return values

    def known(self, recipe: Recipe) -> dict[str, float] | None:
        """The values of a row that was measured before, or None."""
        row = self._rows.get(_key(recipe))
        return None if row is None else dict(row["values"])


def _whole(recipe: Recipe) -> dict[str, object]:
    return {**recipe, "measures": MEASURES, "softmix": __version__}


def _key(recipe: Recipe) -> str:
    return json.dumps(_whole(recipe), sort_keys=True)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["kind"] != "softmix evaluation":
            raise KeyError("kind")
        return {json.dumps(row["recipe"], sort_keys=True): _row(row) for row in content["rows"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KeptError(
            f"{path} is where the rows of the evaluation are kept, and it holds something else; "
            "move it, or give another --out"
        ) from error


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": str(row["name"]),
        "recipe": row["recipe"],
        "values": {name: float(value) for name, value in row["values"].items()},
    }
