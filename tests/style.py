"""Counts clauses that begin with "what", "whose" or "where" per 1,000 words of docstrings, a sign of dense prose.

    python tests/style.py            the whole package
    python tests/style.py FOLDER     the Python files below a folder

prints a line per file, the densest first, and the total. Words in backticks and in code examples are no prose: they
count neither as words nor as clauses. Comments, error sentences and the pages under docs/ are not counted.
"""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "softmix"
CLAUSE = re.compile(r"\b(?:what|whose|where)\b", re.IGNORECASE)
CODE = re.compile(r"`[^`]*`|^\s*(?:>>>|\.\.\.) .*$", re.MULTILINE)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Count:
    """Clauses and words of docstrings."""

    clauses: int
    words: int

    @property
    def rate(self) -> float:
        """Clauses per 1,000 words; 0 without a word."""
        return 1000 * self.clauses / self.words if self.words else 0.0


def count(source: str) -> Count:
    """The clauses and words in the docstrings of one Python file."""
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED))
    prose = CODE.sub(" ", "\n".join(ast.get_docstring(node) or "" for node in nodes))
    return Count(len(CLAUSE.findall(prose)), len(prose.split()))


def count_all(folder: Path) -> dict[str, Count]:
    """The count of each Python file below a folder, by its path there."""
    return {path.relative_to(folder).as_posix(): count(path.read_text()) for path in sorted(folder.rglob("*.py"))}


def total(counts: dict[str, Count]) -> Count:
    return Count(sum(each.clauses for each in counts.values()), sum(each.words for each in counts.values()))


def report(counts: dict[str, Count]) -> str:
    """A table, the file with the most clauses per 1,000 words first, the total last."""
    ordered = sorted(counts.items(), key=lambda item: item[1].rate, reverse=True)
    rows = [*((name, each) for name, each in ordered if each.clauses), ("total", total(counts))]
    lines = [f"{each.rate:6.1f} {each.clauses:4} of {each.words:6}  {name}" for name, each in rows]
    return "\n".join([" per 1,000 words", *lines])


if __name__ == "__main__":
    print(report(count_all(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE)))
