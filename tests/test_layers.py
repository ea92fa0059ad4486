"""The law of the rooms: which room may import which. And rules for every source file."""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import softmix

SRC = Path(softmix.__file__).parent

GROUND = frozenset(
    {"rng", "shape", "bibliography", "cond", "config", "deferred", "memory", "picture", "precision", "version"}
)
CORE = frozenset({"process", "posterior", "denoiser"})
WHOLE = CORE | {"net", "codec", "loss", "sampler", "measure", "info", "data", "oracle"}

# The rooms that a room may import, besides itself and the ground floor. "." is the __init__ of the package.
LAW: dict[str, frozenset[str]] = {
    **{name: frozenset() for name in GROUND},
    "process": frozenset(),
    "posterior": frozenset(),
    "net": frozenset(),
    "codec": frozenset(),
    "data": frozenset(),
    "denoiser": frozenset({"process", "posterior", "net"}),
    # a loss may have networks of its own, and one of the law of samples runs a sampler with gradients
    "loss": CORE | {"net", "sampler"},
    "sampler": CORE,
    "measure": CORE | {"sampler"},
    # DPM-Solver-v3 needs `Statistics`, so that the record is in sampler; info measures it with a denoiser
    "info": CORE | {"sampler", "measure"},
    "oracle": CORE | {"data"},
    "evaluate": WHOLE,
    "train": WHOLE,
    "hub": WHOLE | {"train", "evaluate"},
    "recipe": WHOLE | {"evaluate", "train", "hub", "."},
    ".": WHOLE | {"evaluate", "train", "hub"},
    "cli": WHOLE | {"evaluate", "train", "hub", "recipe", "."},
    "__main__": frozenset({"cli"}),
}

# Imports under `if TYPE_CHECKING:` follow the same law: they never run, but the room depends on them. An exception
# would be listed here as (room, imported room).
TYPES_ONLY: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class Import:
    """An import of another room."""

    file: str
    line: int
    room: str
    target: str
    types_only: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.room} imports {self.target}"


def room_of(file: str) -> str:
    """The room of a file, named by its path below softmix/: "loss/square.py" is loss, "rng.py" is rng."""
    parts = Path(file).parts
    if len(parts) > 1:
        return parts[0]
    return "." if parts[0] == "__init__.py" else Path(parts[0]).stem


def _asks_for_types(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _walk(node: ast.AST, types_only: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import at any depth, and whether it is under TYPE_CHECKING."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node, types_only
    if isinstance(node, ast.If) and _asks_for_types(node.test):
        for child in node.body:
            yield from _walk(child, True)
        for child in node.orelse:
            yield from _walk(child, types_only)
        return
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, types_only)


def _modules(node: ast.Import | ast.ImportFrom, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The full dotted names that an import reaches. `from a import b` reaches a.b, which may be a module."""
    if isinstance(node, ast.Import):
        yield from (tuple(alias.name.split(".")) for alias in node.names)
        return
    start = package[: len(package) - node.level + 1] if node.level else ()
    base = (*start, *(node.module.split(".") if node.module else ()))
    yield from ((*base, alias.name) for alias in node.names)


def imports(file: str, source: str, rooms: frozenset[str]) -> list[Import]:
    """The imports in one file of other rooms. rooms : the names of all rooms."""
    package = ("softmix", *Path(file).parts[:-1])
    here, found = room_of(file), []
    for node, types_only in _walk(ast.parse(source), False):
        for name in _modules(node, package):
            if name[0] != "softmix":
                continue
            target = name[1] if len(name) > 1 and name[1] in rooms else "."
            if target != here:
                found.append(Import(file, node.lineno, here, target, types_only))
    return found


def forbidden(found: list[Import]) -> list[str]:
    """The imports that the law forbids, as sentences."""
    return [
        str(each)
        for each in found
        if each.target not in LAW.get(each.room, frozenset()) | (GROUND if each.room not in GROUND else frozenset())
        and not (each.types_only and (each.room, each.target) in TYPES_ONLY)
    ]


def sources() -> dict[str, str]:
    return {path.relative_to(SRC).as_posix(): path.read_text() for path in sorted(SRC.rglob("*.py"))}


def all_rooms() -> frozenset[str]:
    return frozenset(map(room_of, sources()))


def test_every_room_is_in_the_law() -> None:
    assert sorted(all_rooms() - LAW.keys()) == [], "a new room: add its imports to LAW"


def test_the_law_names_no_room_that_does_not_exist() -> None:
    assert sorted(LAW.keys() - all_rooms()) == []
    assert sorted(frozenset().union(*LAW.values()) - all_rooms()) == []


def test_rooms_import_only_the_rooms_that_the_law_allows() -> None:
    found = [each for file, source in sources().items() for each in imports(file, source, all_rooms())]
    assert len(found) > 100, "the search found hardly any import"
    assert forbidden(found) == []


def test_only_the_command_line_imports_recipes() -> None:
    allowed = [room for room, may in LAW.items() if "recipe" in may]
    assert allowed == ["cli"]


def test_train_and_evaluate_do_not_import_each_other() -> None:
    assert "evaluate" not in LAW["train"] and "train" not in LAW["evaluate"]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("process/bad.py", "from ..posterior import Point"),
        ("process/bad.py", "from softmix.posterior.point import Point"),
        ("process/bad.py", "import softmix.posterior"),
        ("process/bad.py", "from .. import posterior"),
        ("process/bad.py", "import softmix"),
        ("process/bad.py", "def late():\n    from ..net import Net"),
        ("process/bad.py", "try:\n    from ..net import Net\nexcept ImportError:\n    pass"),
        ("rng.py", "from .shape import column"),
        ("net/bad.py", "from ..denoiser.network import Inputs"),
        ("loss/bad.py", "from ..measure import replacing"),
        ("train/bad.py", "from ..evaluate import evaluate_model"),
        ("evaluate/bad.py", "from softmix.train import load"),
        ("evaluate/deep/bad.py", "from ...train import load"),
        ("train/bad.py", "from ..recipe import PAPERS"),
        ("net/bad.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..denoiser import Denoiser"),
    ],
)
def test_the_checker_finds_a_forbidden_import(file: str, source: str) -> None:
    assert len(forbidden(imports(file, source, all_rooms()))) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("process/good.py", "from ..rng import Rng\nfrom .gaussian import VP\nimport torch"),
        ("process/good.py", "from softmix.shape import column\nfrom softmix.process.grid import uniform"),
        ("denoiser/good.py", "from .. import net, posterior"),
        ("recipe/good.py", "from .. import sample\nfrom ..train import Config"),
        ("cli.py", "from .recipe import PAPERS"),
    ],
)
def test_the_checker_accepts_an_allowed_import(file: str, source: str) -> None:
    assert forbidden(imports(file, source, all_rooms())) == []


def test_imports_for_types_are_marked() -> None:
    source = "if TYPE_CHECKING:\n    from ..net import Net\nelse:\n    from ..posterior import Point"
    found = imports("process/made_up.py", source, all_rooms())
    assert [(each.target, each.types_only) for each in found] == [("net", True), ("posterior", False)]


# No import circles, not even through an import inside a function.


def _file_of(name: tuple[str, ...], files: frozenset[str]) -> set[str]:
    """The file of a dotted name of softmix: a.b.c is a/b/c.py, a/b/c/__init__.py, or a name in the file of a.b."""
    for end in range(len(name), 0, -1) if name[0] == "softmix" else ():
        place = "/".join(name[1:end])
        for file in (f"{place}.py", f"{place}/__init__.py".lstrip("/")):
            if file in files:
                return {file}
    return set()


def files_imported(file: str, source: str, files: frozenset[str]) -> set[str]:
    """The files of softmix that one file imports, at any depth, without those for types only.

    A name from a package leads to its __init__.py.
    """
    package, found = ("softmix", *Path(file).parts[:-1]), set()
    for node, types_only in _walk(ast.parse(source), False):
        for name in () if types_only else _modules(node, package):
            found |= _file_of(name, files) - {file}
    return found


def circle(texts: dict[str, str]) -> list[str]:
    """Files that import each other in a circle, the first one again at the end; [] without a circle."""
    graph = {file: files_imported(file, source, frozenset(texts)) for file, source in texts.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [str(file) for file in error.args[1]]
    return []


def test_no_rooms_may_import_each_other_in_a_circle() -> None:
    order = list(graphlib.TopologicalSorter(LAW).static_order())
    assert order.index("process") < order.index("sampler") < order.index("train") < order.index("cli")


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circle(sources()) == []


@pytest.mark.parametrize(
    ("texts", "length"),
    [
        ({"a/x.py": "from .y import Y", "a/y.py": "from .x import X"}, 2),
        ({"a/x.py": "from . import y", "a/y.py": "def late():\n    from .x import X"}, 2),
        ({"a/__init__.py": "from .x import X", "a/x.py": "from . import Y"}, 2),
        ({"a/__init__.py": "from .x import X", "a/x.py": "from ..b.z import Z", "b/z.py": "import softmix.a"}, 3),
        ({"__init__.py": "from .a import x", "a/__init__.py": "", "a/x.py": "import softmix"}, 2),
        (
            {"a/x.py": "from .y import Y", "a/y.py": "from ..b import Z", "b/__init__.py": "from softmix.a.x import X"},
            3,
        ),
        ({"a/x.py": "from .y import Y", "a/y.py": "if TYPE_CHECKING:\n    from .x import X"}, 0),
        ({"a/__init__.py": "from .x import X", "a/x.py": "from .y import Y\nfrom ..b import Z", "a/y.py": ""}, 0),
    ],
)
def test_a_circle_is_found(texts: dict[str, str], length: int) -> None:
    assert len(circle(texts)) == (length + 1 if length else 0)


# Rules for every file.


def has_docstring(source: str) -> bool:
    """Whether a file begins with a docstring."""
    return bool((ast.get_docstring(ast.parse(source)) or "").strip())


def test_every_file_begins_with_a_docstring() -> None:
    assert [file for file, source in sources().items() if not has_docstring(source)] == []


@pytest.mark.parametrize("source", ["", "x = 1", '"""   """', 'x = 1\n"""A text below the code."""'])
def test_a_file_without_a_docstring_is_found(source: str) -> None:
    assert not has_docstring(source)


_PICKLING = frozenset({"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"})


def pickling(source: str) -> list[str]:
    """The names in a file that could read or write a pickle. safetensors.torch.save is not torch.save."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "torch.save"):
            found.append(ast.unparse(node))
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += [".".join(name) for name in _modules(node, ()) if name[0] in _PICKLING]
            found += [".".join(name) for name in _modules(node, ()) if name in (("torch", "load"), ("torch", "save"))]
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            found.append("allow_pickle")
    return found


def test_no_file_reads_or_writes_a_pickle() -> None:
    assert {file: found for file, source in sources().items() if (found := pickling(source))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('x')",
        "torch.save(x, 'y')",
        "def late():\n    import pickle",
        "from pickle import loads",
        "from torch import load",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_a_pickle_is_found(source: str) -> None:
    assert len(pickling(source)) == 1


def test_safetensors_are_not_a_pickle() -> None:
    assert pickling("safetensors.torch.save(x)\nnp.load(path, allow_pickle=False)\nstate.load(1)") == []


HEAVY = ("matplotlib", "sklearn", "jinja2", "tyro")


def test_importing_softmix_imports_no_heavy_library() -> None:
    """Libraries for a report, a classifier or the command line are imported on first use."""
    say = f"import json, sys, softmix; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", say], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
