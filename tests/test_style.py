"""The style of the package: dense clauses in docstrings may only become rarer, and a class name has one meaning."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("style", Path(__file__).with_name("style.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["style"] = module
    spec.loader.exec_module(module)
    return module


style = loaded()

# Clauses with "what", "whose" or "where" per 1,000 words of docstrings. It was 17.
MOST = 3

# Names that stand for two classes, with the reason. Each is a debt: rename one of the classes and remove the line.
ALLOWED_PAIRS: dict[str, tuple[tuple[str, ...], str]] = {
    "Statistics": (("cli/statistics.py", "sampler/statistics.py"), "a verb's class has the name of the verb"),
}


def test_the_package_has_no_more_clauses_than_before() -> None:
    counts = style.count_all(style.PACKAGE)
    rate = style.total(counts).rate
    assert rate <= MOST, f'"what", "whose" and "where" stand {rate:.2f} times per 1,000 words\n{style.report(counts)}'


@pytest.mark.parametrize("package", sorted(path.parent.name for path in style.PACKAGE.glob("*/__init__.py")))
def test_no_package_has_more_clauses_than_before(package: str) -> None:
    counts = style.count_all(style.PACKAGE / package)
    assert style.total(counts).rate <= MOST, f"{package}: at most {MOST} per 1,000 words\n{style.report(counts)}"


def test_no_class_name_stands_for_two_classes() -> None:
    allowed = {name: files for name, (files, _) in ALLOWED_PAIRS.items()}
    assert style.shared_names(style.PACKAGE) == allowed, "rename a class, or remove the line of a pair that is gone"


def test_every_allowed_pair_has_a_reason() -> None:
    assert [name for name, (_, reason) in ALLOWED_PAIRS.items() if not reason] == []


def test_a_shared_class_name_is_found(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "a.py").write_text("class Row: ...\nclass _Line: ...\nclass A:\n    class Inner: ...\n")
    (tmp_path / "room/b.py").write_text("class Row: ...\nclass _Line: ...\nclass Inner: ...\ndef A(): ...\n")
    assert style.shared_names(tmp_path) == {"Row": ("a.py", "room/b.py")}


@pytest.mark.parametrize(
    ("source", "clauses", "words"),
    [
        ('"""What it does."""', 1, 3),
        ('"""Somewhere, whatever, whosever."""', 0, 3),
        ('class A:\n    """Those whose x is 1, WHERE y."""', 2, 7),
        ('def f():\n    """One."""\n    async def g():\n        """Two what."""', 1, 3),
        ('# what\nx = "where"\n"""One."""', 0, 0),
        ('"""`what` is code."""', 0, 2),
        ('"""An example.\n\n>>> where(x)\n... what\n"""', 0, 2),
    ],
)
def test_the_counter_counts(source: str, clauses: int, words: int) -> None:
    assert style.count(source) == style.Count(clauses, words)


def test_the_report_begins_with_the_densest_and_ends_with_the_total() -> None:
    counts = {"a.py": style.Count(1, 1000), "b.py": style.Count(3, 1000), "c.py": style.Count(0, 1000)}
    rows = [line.split() for line in style.report(counts).splitlines()[1:]]
    expected = [("3.0", "b.py"), ("1.0", "a.py"), ("1.3", "./"), ("1.3", "total")]
    assert [(row[0], row[-1]) for row in rows] == expected


def test_counts_are_added_by_package() -> None:
    counts = {"a.py": style.Count(1, 10), "net/b.py": style.Count(2, 20), "net/deep/c.py": style.Count(3, 30)}
    assert style.by_package(counts) == {".": style.Count(1, 10), "net": style.Count(5, 50)}


def test_a_file_without_a_docstring_has_the_rate_0() -> None:
    assert style.count("x = 1").rate == 0
