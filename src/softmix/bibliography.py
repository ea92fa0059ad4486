"""Ground floor: the papers behind the parts of softmix, and their citations.

A part names its papers by key: `cites = ("smd",)`. `cited` collects the papers of a whole configuration.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Reference:
    """A paper.

    name : its key in `REFERENCES`.
    title, authors, venue, year : as in a bibliography.
    arxiv : the arXiv number, empty for a paper without one.
    """

    name: str
    title: str
    authors: str
    venue: str
    year: int
    arxiv: str

    def bibtex(self) -> str:
        """The BibTeX entry of the paper."""
        lines = [f"title = {{{self.title}}}", f"author = {{{self.authors}}}", f"journal = {{{self.venue}}}"]
        lines.append(f"year = {{{self.year}}}")
        if self.arxiv:
            lines += [f"eprint = {{{self.arxiv}}}", "archivePrefix = {arXiv}"]
        return f"@article{{{self.name}{self.year},\n  " + ",\n  ".join(lines) + "\n}"


_FILE = Path(__file__).with_name("bibliography.json")
REFERENCES = {entry["name"]: Reference(**entry) for entry in json.loads(_FILE.read_text(encoding="utf-8"))}


def cited(*parts: object) -> list[Reference]:
    """The papers of these parts and of all parts inside them, each once, in the order of their first use.

    parts : objects with `cites`, a tuple of keys of `REFERENCES` or of `Reference` objects. The fields of a dataclass
        and the items of a tuple are searched too.

    Raises KeyError for a key that is not in the bibliography.
    """
    papers: dict[Reference, None] = {}
    waiting = list(reversed(parts))
    while waiting:
        part = waiting.pop()
        for paper in getattr(part, "cites", ()):
            papers[paper if isinstance(paper, Reference) else _named(paper, part)] = None
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            waiting += reversed([getattr(part, field.name) for field in dataclasses.fields(part)])
        if isinstance(part, tuple):
            waiting += reversed(part)
    return list(papers)


def _named(name: str, part: object) -> Reference:
    if name not in REFERENCES:
        raise KeyError(
            f"{type(part).__name__} cites {name!r}, which is not in the bibliography: give a Reference of "
            "softmix.bibliography"
        )
    return REFERENCES[name]
