"""Measure the style of the package: dense clauses in docstrings, and class names with two meanings.

    python tests/style.py            the whole package
    python tests/style.py FOLDER     the Python files below a folder

prints how often a clause begins with "what", "whose" or "where" per 1,000 words of docstrings: a line for each
file, the densest first, then a line for each package, then the total. Text in backticks and code examples are not
counted, neither as words nor as clauses. Comments, error messages and the pages under docs/ are not counted.
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
    """The sum of all counts."""
    return Count(sum(each.clauses for each in counts.values()), sum(each.words for each in counts.values()))


def by_package(counts: dict[str, Count]) -> dict[str, Count]:
    """The sum of the counts of each package; the files at the top belong to the package "."."""
    packages: dict[str, dict[str, Count]] = {}
    for name, each in counts.items():
        package = name.partition("/")[0] if "/" in name else "."
        packages.setdefault(package, {})[name] = each
    return {package: total(files) for package, files in sorted(packages.items())}


def report(counts: dict[str, Count]) -> str:
    """A table: files, then packages, each with the most clauses per 1,000 words first; then the total."""
    files, packages = (_densest_first(group) for group in (counts, by_package(counts)))
    rows = [*files, *((f"{name}/", each) for name, each in packages), ("total", total(counts))]
    lines = [f"{each.rate:6.1f} {each.clauses:4} of {each.words:6}  {name}" for name, each in rows]
    return "\n".join([" per 1,000 words", *lines])


def _densest_first(counts: dict[str, Count]) -> list[tuple[str, Count]]:
    ordered = sorted(counts.items(), key=lambda item: item[1].rate, reverse=True)
    return [(name, each) for name, each in ordered if each.clauses]


def public_classes(source: str) -> list[str]:
    """The names of the classes at module level without a leading underscore."""
    classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    return [node.name for node in classes if not node.name.startswith("_")]


def shared_names(folder: Path) -> dict[str, tuple[str, ...]]:
    """The class names of two or more files below a folder, each with these files."""
    files: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.py")):
        for name in public_classes(path.read_text()):
            files.setdefault(name, []).append(path.relative_to(folder).as_posix())
    return {name: tuple(paths) for name, paths in sorted(files.items()) if len(paths) > 1}


if __name__ == "__main__":
    print(report(count_all(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE)))
