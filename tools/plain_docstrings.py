"""How the documentation site shows docstrings. They are plain text, made to be read in a terminal: no markup is looked
for in them but `names`, and what stands in columns keeps its columns. An extension of griffe; see mkdocs.yml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from griffe import Docstring, Extension, Module, Object

# Laid out by hand, with columns to keep: two spaces inside of a line, or an indented line.
_COLUMNS = re.compile(r"\S {2,}\S|^ +\S", re.M)
# A line that explains a name begins anew: "eta : the share of fresh noise".
_EXPLAINS = re.compile(r"\n(?=\w[\w, ]* : )")


def shown(text: str, known: Mapping[str, str]) -> str:
    """A docstring as HTML.

    known : the full path of each public name that means one thing; these become links where they stand between
    backticks.
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
    """Turns every docstring of the package into HTML once all of it is read.

    Whatever can be called, and a room's constants, is shown without a docstring too; a field of a class is not, since
    it stands in the signature.
    """

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        known = _public(pkg)
        for each in _objects(pkg):
            if each.docstring is not None:
                each.docstring.value = shown(each.docstring.value, known)
            elif not (each.is_attribute and each.parent is not None and each.parent.is_class):
                each.docstring = Docstring("<span></span>", parent=each)


def _public(package: Module) -> dict[str, str]:
    """Full paths by name, of what rooms name in `__all__`; a name of two rooms is left out."""
    found: dict[str, set[str]] = {}
    for room in package.modules.values():
        for name in room.exports or ():
            found.setdefault(str(name), set()).add(f"{room.path}.{name}")
    return {name: paths.pop() for name, paths in found.items() if len(paths) == 1}


def _objects(top: Object) -> list[Object]:
    inside = [member for member in top.members.values() if not member.is_alias]
    return [top, *(each for member in inside for each in _objects(member))]
