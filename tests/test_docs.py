"""The documentation: its code runs, its links lead to a page, and its commands exist."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import ModuleType

import pytest
import torch

import softmix
from softmix.cli import VERBS
from softmix.cli.parse import aliases_of

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```[ \t]*$", re.M | re.S)
_NUMBER = r"[+-]?\d+(\.\d+)?"
_SHELL = ("", "sh", "bash", "console")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the words after it, its text, and the first line of its text."""

    language: str
    words: tuple[str, ...]
    text: str
    line: int

    @property
    def file(self) -> str:
        """The path of the example in the package, or ""."""
        return next((word.removeprefix("file=") for word in self.words if word.startswith("file=")), "")


def blocks(markdown: str) -> list[Block]:
    """The fenced blocks of a page, in order, without their indentation."""
    found = []
    for match in _FENCE.finditer(markdown):
        language, *words = match["info"].split() or [""]
        cut = len(match["indent"])
        text = "".join(line[cut:] for line in match["body"].splitlines(keepends=True))
        found.append(Block(language, tuple(words), text, markdown[: match.start("body")].count("\n") + 1))
    return found


def prose(markdown: str) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", markdown)


def run(page: str, found: list[Block]) -> None:
    """Run the python blocks of a page, one after the other in one namespace.

    A block `text output` must equal the output of the python block above it.
    """
    module = ModuleType("__docs__")
    # A dataclass looks up its own module.
    sys.modules["__docs__"] = module
    printed = ""
    for block in found:
        if block.language == "python" and "no-run" not in block.words:
            code = compile("\n" * (block.line - 1) + block.text, page, "exec", dont_inherit=True)
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
                exec(code, module.__dict__)
            printed = out.getvalue()
        if block.language == "text" and "output" in block.words:
            assert alike(block.text, printed), f"{page}:{block.line}: this is not what the code prints:\n{printed}"


def alike(shown: str, printed: str) -> bool:
    """Whether words and numbers are equal; a number may differ by 1 in its last digit, since machines round."""
    pairs = list(zip_longest(shown.split(), printed.split(), fillvalue=""))
    return all(a == b or _close(a, b) for a, b in pairs)


def _close(a: str, b: str) -> bool:
    if not (re.fullmatch(_NUMBER, a) and re.fullmatch(_NUMBER, b)):
        return False
    decimals = len(a.partition(".")[2])
    return "." in a and abs(float(a) - float(b)) < 1.5 * 10.0**-decimals


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in a temporary folder with one thread, and restore the state of torch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOFTMIX_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)
    torch.set_grad_enabled(True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("quiet")
def test_the_code_runs(name: str) -> None:
    began = time.perf_counter()
    run(name, blocks((ROOT / name).read_text()))
    assert time.perf_counter() - began < 60, f"{name}: this page takes too long; make its examples shorter"


def test_the_worked_example(tmp_path: Path) -> None:
    """The example of CONTRIBUTING.md gives a verdict in a copy of the package."""
    package = tmp_path / "softmix"
    shutil.copytree(Path(softmix.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    written = [block for block in blocks((ROOT / "CONTRIBUTING.md").read_text()) if block.file]
    for block in written:
        assert not (package / block.file).exists(), f"softmix now has {block.file}: take another example"
        (package / block.file).write_text(block.text)
    assert len(written) == 2
    _listed(package / "sampler/__init__.py", "SAMPLERS", "from .ralston import ralston", "ralston")
    _listed(package / "recipe/__init__.py", "RECIPES", "from . import ralston", "ralston")
    command = [sys.executable, "-m", "softmix", "reproduce", "ralston", "--quick", "--out", "verdict"]
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    verdict = json.loads((tmp_path / "verdict/verdict.json").read_text())
    assert verdict["verdict"] == "holds in part"
    shown = next(block for block in blocks((ROOT / "CONTRIBUTING.md").read_text()) if block.language == "text")
    table = done.stdout[done.stdout.index("eight components") :].rpartition("(")[0]
    assert alike(shown.text.strip(), table.strip())


def _listed(file: Path, name: str, line: str, entry: str) -> None:
    """Write an import, and an entry at the beginning of a room's list."""
    text, count = re.subn(
        rf"^{name}\b[^=]*= [({{]", lambda m: f"{line}\n\n{m[0]}{entry}, ", file.read_text(), flags=re.M
    )
    assert count == 1, f"{file}: there is no list {name}"
    file.write_text(text)


_LINK = re.compile(r"!?\[[^\]]*\]\((?P<to>[^)\s]+)[^)]*\)")


def _anchors(markdown: str) -> set[str]:
    """The anchors of the headings of a page, in GitHub's form."""
    heads = re.findall(r"^#+ +(.+?) *$", prose(markdown), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def dead_links(page: Path, markdown: str) -> list[str]:
    """The relative links of a page without a target file or heading."""
    dead = []
    for match in _LINK.finditer(re.sub(r"`[^`\n]*`", "", prose(markdown))):
        to, _, fragment = match["to"].partition("#")
        if re.match(r"[a-z][a-z0-9+.-]*:", match["to"]):
            continue
        place = (page.parent / to).resolve() if to else page
        if to and (not place.exists() or ROOT not in place.parents):
            dead.append(match["to"])
        elif fragment and place.suffix == ".md":
            text = markdown if place == page else place.read_text()
            dead += [match["to"]] if fragment not in _anchors(text) else []
    return dead


@pytest.mark.parametrize("name", NAMES)
def test_links_have_a_target(name: str) -> None:
    assert dead_links(ROOT / name, (ROOT / name).read_text()) == []


def commands(markdown: str) -> list[str]:
    """Every `softmix ...` in inline code and in blocks of shell or without a language."""
    inline = re.findall(r"`(softmix +[^`\n]+)`", prose(markdown))
    shell = [block.text.replace("\\\n", " ") for block in blocks(markdown) if block.language in _SHELL]
    lines = [line.strip().removeprefix("$ ") for text in shell for line in text.splitlines()]
    return inline + [line for line in lines if re.match(r"(\S*/)?softmix ", line)]


def unknown(command: str) -> list[str]:
    """The verb of a command if it is unknown, otherwise the options that the verb does not have."""
    words = shlex.split(command, comments=True)
    verb = words[1] if len(words) > 1 else ""
    # A verb in capitals stands for any verb.
    if verb.startswith("-") or (verb.isupper() and verb.isalpha()):
        return []
    if verb not in VERBS:
        return [verb]
    known = {"help", *inspect.signature(VERBS[verb]).parameters, *aliases_of(VERBS[verb])}
    asked = (word.partition("=")[0].removeprefix("--").replace("-", "_") for word in words if word.startswith("--"))
    return [option for option in asked if option.removeprefix("no_") not in known]


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_known(name: str) -> None:
    found = {command: bad for command in commands((ROOT / name).read_text()) if (bad := unknown(command))}
    assert found == {}


# The searches above, on pages with faults.

_WRONG = """# A page

See [the rest](nowhere.md), [below](#a-page), [further](#no-such-heading) and `[not a link](x)`.
Run `softmix trian digits --out runs/x`.

```sh
softmix sample runs/x --out a.png --stepps 4   # a comment
softmix train digits \\
    --out runs/x --minutes 2
```

```python
value = 1
```

  ```python
  print(value + 1)
  ```

```text output
2
```

```python no-run
raise SystemExit
```
"""


def test_blocks_are_found() -> None:
    found = [(block.language, block.words) for block in blocks(_WRONG)]
    assert found == [("sh", ()), ("python", ()), ("python", ()), ("text", ("output",)), ("python", ("no-run",))]


def test_code_runs_in_order_and_its_output_is_compared() -> None:
    run("page.md", blocks(_WRONG))
    with pytest.raises(AssertionError, match="not what the code prints"):
        run("page.md", blocks(_WRONG.replace("\n2\n", "\n3\n")))
    with pytest.raises(NameError):
        run("page.md", blocks(_WRONG.replace("value = 1", "pass")))


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("error 0.12 true", "error  0.13 true\n", True),
        ("error 0.12", "error 0.14", False),
        ("error 0.12", "error 0.120", True),
        ("12", "13", False),
        ("-0.00", "0.00", True),
        ("a b", "a", False),
        ("a", "a b", False),
        ("0.1", "true", False),
    ],
)
def test_printed_numbers_may_differ_in_their_last_digit(shown: str, printed: str, same: bool) -> None:
    assert alike(shown, printed) is same


def test_a_fault_is_named_by_its_line() -> None:
    with pytest.raises(SyntaxError) as caught:
        run("page.md", blocks("text\n\n```python\nx = 1\ny = = 2\n```\n"))
    assert (caught.value.filename, caught.value.lineno) == ("page.md", 5)


def test_dead_links_are_found() -> None:
    assert dead_links(ROOT / "page.md", _WRONG) == ["nowhere.md", "#no-such-heading"]


def test_unknown_commands_are_found() -> None:
    assert [unknown(command) for command in commands(_WRONG)] == [["trian"], ["stepps"], []]
