"""A JSON file of measured rows, so that an interrupted evaluation continues from the finished ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..version import __version__
from .files import write_whole_file

# Increase this number when `ReferenceSet.compare` measures something differently.
MEASURES = 2

Recipe = Mapping[str, object]


class SavedRowsError(ValueError):
    """The file does not hold rows of an evaluation."""


class SavedRows:
    """Measured rows by their recipe. The recipe holds everything that decides the numbers of a row.

    path : the JSON file; None keeps the rows in memory only.

    The file is {"kind": "softmix evaluation", "rows": [{"name": "...", "recipe": {...}, "values": {...}}, ...]}. It is
    rewritten after each row, as a new file that replaces the old one. Rows with other recipes stay in it.

    Raises SavedRowsError for a file of another kind, and OSError for a file that cannot be read.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self._rows: dict[str, dict[str, Any]] = _read(path) if path is not None else {}
        self.reused = self.measured = 0

    def get_or_measure(self, name: str, recipe: Recipe, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Return the saved values of a row, or measure and save them.

        name : a label for the reader of the file.
        recipe : everything that decides the values.
        measure : called only if there is no saved row with this recipe.
        """
        saved = self.get(recipe)
        if saved is not None:
            self.reused += 1
            return saved
        values = measure()
        self.measured += 1
        self._rows[_key(recipe)] = {"name": name, "recipe": _full_recipe(recipe), "values": values}
        if self.path is not None:
            rows = list(self._rows.values())
            content = json.dumps({"kind": "softmix evaluation", "rows": rows}, indent=1, ensure_ascii=False)
            write_whole_file(self.path, content.encode() + b"\n")
        return values

    def get(self, recipe: Recipe) -> dict[str, float] | None:
        """Return the saved values of a row, or None."""
        row = self._rows.get(_key(recipe))
        return None if row is None else dict(row["values"])


def _full_recipe(recipe: Recipe) -> dict[str, object]:
    return {**recipe, "measures": MEASURES, "softmix": __version__}


def _key(recipe: Recipe) -> str:
    return json.dumps(_full_recipe(recipe), sort_keys=True)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["kind"] != "softmix evaluation":
            raise KeyError("kind")
        return {json.dumps(row["recipe"], sort_keys=True): _checked(row) for row in content["rows"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SavedRowsError(
            f"the rows of the evaluation are saved in {path}, but this file holds something else; "
            "move it, or give another --out"
        ) from error


def _checked(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": str(row["name"]),
        "recipe": row["recipe"],
        "values": {name: float(value) for name, value in row["values"].items()},
    }
