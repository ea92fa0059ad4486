"""Ground floor: the papers that parts of softmix come from, and how to cite them.

A part names its papers by key: `cites = ("smd",)`. `cited` collects those of a whole configuration.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Reference:
    """A paper. arxiv : its number, empty without one."""

    name: str
    title: str
    authors: str
    venue: str
    year: int
    arxiv: str

    def bibtex(self) -> str:
        """An entry for a bibliography."""
        lines = [f"title = {{{self.title}}}", f"author = {{{self.authors}}}", f"journal = {{{self.venue}}}"]
        lines.append(f"year = {{{self.year}}}")
        if self.arxiv:
            lines += [f"eprint = {{{self.arxiv}}}", "archivePrefix = {arXiv}"]
        return f"@article{{{self.name}{self.year},\n  " + ",\n  ".join(lines) + "\n}"


_FILE = Path(__file__).with_name("bibliography.json")
REFERENCES = {entry["name"]: Reference(**entry) for entry in json.loads(_FILE.read_text(encoding="utf-8"))}


def cited(*parts: object) -> list[Reference]:
    """The papers of these parts and of the parts that they have, each once, in the order of their first use.

    A part is an object with `cites`, names of `REFERENCES` or a `Reference` of one's own; of a dataclass and a tuple
    all that is in it is asked too. Raises KeyError for a name that is not in the bibliography.
    """
    found: dict[Reference, None] = {}
    waiting = list(reversed(parts))
    while waiting:
        part = waiting.pop()
        for paper in getattr(part, "cites", ()):
            found[paper if isinstance(paper, Reference) else _named(paper, part)] = None
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            waiting += reversed([getattr(part, field.name) for field in dataclasses.fields(part)])
        if isinstance(part, tuple):
            waiting += reversed(part)
    return list(found)


def _named(name: str, part: object) -> Reference:
    if name not in REFERENCES:
        raise KeyError(
            f"{type(part).__name__} cites {name!r}, which the bibliography has not: give a Reference of "
            "softmix.bibliography"
        )
    return REFERENCES[name]
