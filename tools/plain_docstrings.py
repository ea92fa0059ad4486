"""Show docstrings in the documentation site. An extension of griffe; see mkdocs.yml.

Docstrings are plain text for a terminal. The only markup is `names`. Columns stay columns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from griffe import Docstring, Extension, Module, Object

# A paragraph has columns if a line is indented or has two spaces inside.
_COLUMNS = re.compile(r"\S {2,}\S|^ +\S", re.M)
# A line that explains a name begins a new line: "eta : the share of fresh noise".
_EXPLAINS = re.compile(r"\n(?=\w[\w, ]* : )")


def shown(text: str, known: Mapping[str, str]) -> str:
    """Turn a docstring into HTML.

    known : the full path of each unique public name. Such a name becomes a link if it stands between backticks.
    """
    return "\n".join(_paragraph(part, known) for part in re.split(r"\n\s*\n", text.strip("\n")) if part.strip())


def _paragraph(text: str, known: Mapping[str, str]) -> str:
    kind = "columns" if _COLUMNS.search(text) else "prose"
    pieces = re.split(r"`([^`\n]+)`", text)
    inner = "".join(_code(piece, known) if k % 2 else escape(piece) for k, piece in enumerate(pieces))
    if kind == "prose":
        inner = _EXPLAINS.sub("<br>\n", inner)
    return f'<div class="docstring {kind}">{inner}</div>'


def _code(name: str, known: Mapping[str, str]) -> str:
    code = f"<code>{escape(name)}</code>"
    path = known.get(name.partition("(")[0])
    return f'<autoref optional identifier="{path}">{code}</autoref>' if path else code


class PlainDocstrings(Extension):
    """Turn every docstring of the package into HTML after the whole package is read.

    Functions, classes and the constants of a room are shown without a docstring too. A field of a class is not, because
    it is in the signature.
    """

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        known = _public(pkg)
        for each in _objects(pkg):
            if each.docstring is not None:
                each.docstring.value = shown(each.docstring.value, known)
            elif not (each.is_attribute and each.parent is not None and each.parent.is_class):
                each.docstring = Docstring("<span></span>", parent=each)


def _public(package: Module) -> dict[str, str]:
    """The full paths of the names in the `__all__` of rooms; a name of two rooms is left out."""
    found: dict[str, set[str]] = {}
    for room in package.modules.values():
        for name in room.exports or ():
            found.setdefault(str(name), set()).add(f"{room.path}.{name}")
    return {name: paths.pop() for name, paths in found.items() if len(paths) == 1}


def _objects(top: Object) -> list[Object]:
    inside = [member for member in top.members.values() if not member.is_alias]
    return [top, *(each for member in inside for each in _objects(member))]
