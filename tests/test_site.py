"""The documentation site, without building it: API pages, navigation, links and equations."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / f"tools/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


SITE = tool("site_pages")
CHECK = tool("check_site")
PAGES = sorted(path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md"))
ROOMS = sorted(path.parent.name for path in ROOT.glob("src/softmix/*/__init__.py"))


def navigation() -> list[str]:
    text = (ROOT / "mkdocs.yml").read_text()
    return re.findall(r"(\S+\.md)$", text[text.index("\nnav:") :], re.M)


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "cli"])
def test_each_room_has_an_api_page_with_every_public_name(room: str) -> None:
    page = SITE.api_pages()[f"api/{room}.md"]
    package = importlib.import_module(f"softmix.{room}")
    listed = set(re.findall(r"^::: (\S+)$", page, re.M)) - {f"softmix.{room}"}
    names = {path.split(".")[2] for path in listed}
    left_out = set(package.__all__) - names
    assert {getattr(package, name).__module__.partition(".")[0] for name in left_out} <= {"diffusers"}
    assert listed == set(SITE.public(room).values())
    for path in listed:
        module, _, name = path.rpartition(".")
        assert hasattr(sys.modules.get(module) or importlib.import_module(module), name), path


def test_every_page_is_in_the_navigation_once() -> None:
    made = {*SITE.ABOVE.values(), "api/command-line.md"}
    assert sorted(navigation()) == sorted({*PAGES, *made})


def test_the_files_that_pages_load_exist() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    named = re.findall(r"assets/[\w./-]+", text)
    assert len(named) == 5
    assert [name for name in named if not (ROOT / "docs" / name).is_file()] == []
    sheet = (ROOT / "docs/assets/katex/katex.min.css").read_text()
    fonts = set(re.findall(r"url\((fonts/[\w-]+\.woff2)\)", sheet))
    assert fonts == {f"fonts/{path.name}" for path in (ROOT / "docs/assets/katex/fonts").iterdir()}


@pytest.mark.parametrize(
    ("place", "link", "turned"),
    [
        ("docs/rooms/net.md", "../../CONTRIBUTING.md#add-a-paper", "../contributing.md#add-a-paper"),
        ("docs/index.md", "../CONTRIBUTING.md", "contributing.md"),
        ("docs/index.md", "rooms/net.md", "rooms/net.md"),
        ("docs/rooms/net.md", "../pitfalls.md#times", "../pitfalls.md#times"),
        ("README.md", "docs/rooms/net.md", "rooms/net.md"),
        ("README.md", "docs/fashion.png", "fashion.png"),
        ("README.md", "CHANGELOG.md", "changelog.md"),
        ("README.md", "#here", "#here"),
        ("README.md", "https://example.org/docs/x.md", "https://example.org/docs/x.md"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(place: str, link: str, turned: str) -> None:
    assert SITE.relinked(f"see [x]({link}) and `[x]({link})`", place) == f"see [x]({turned}) and `[x]({link})`"


def test_a_block_keeps_its_language_and_its_words_become_a_title() -> None:
    assert SITE.fences("```python no-run file=a/b.py\n```python\n```text output\n") == (
        '```python title="a/b.py"\n```python\n```text title="output"\n'
    )


def test_a_bar_in_code_loses_its_backslash_and_elsewhere_keeps_it() -> None:
    assert SITE.pipes(r"| `a \| b` | c \| d |") == r"| `a | b` | c \| d |"


def test_the_command_line_page_has_the_help_of_every_verb() -> None:
    page = SITE.command_page()
    for verb in importlib.import_module("softmix.cli").VERBS:
        assert f"\n## softmix {verb}\n\n```text\nusage: softmix {verb}" in page
    assert "\x1b" not in page


def faults(markdown: str) -> list[str]:
    """Equations with an unmatched brace or a bar that ends a table cell, and lines with an odd number of dollars."""
    prose = re.sub(r"^```(?!math).*?^```|(?<!`)`[^`\n]+`", "", markdown, flags=re.M | re.S)
    blocks = re.findall(r"^```math\n(.*?)^```", prose, re.M | re.S)
    prose = re.sub(r"^```math\n.*?^```", "", prose, flags=re.M | re.S)
    odd = [line for line in prose.splitlines() if line.count("$") % 2]
    inline = re.findall(r"\$([^$\n]+)\$", prose)
    bare = [equation.replace(r"\{", "").replace(r"\}", "") for equation in [*blocks, *inline]]
    return (
        odd + [each for each in bare if each.count("{") != each.count("}")] + [each for each in inline if "|" in each]
    )


@pytest.mark.parametrize("page", PAGES)
def test_equations_have_matched_braces_and_dollars(page: str) -> None:
    assert faults((ROOT / "docs" / page).read_text()) == []


def test_a_broken_equation_is_found() -> None:
    assert faults("$a_{1$ and $b$\n\n```math\n\\frac{1}{2\n```\n") == ["\\frac{1}{2\n", "a_{1"]
    assert faults("| $|x|$ |\ncosts 5 $\n") == ["costs 5 $", "|x|"]
    assert faults("`$x` and $x_{1}$\n") == []


def test_the_check_of_a_built_site_finds_dead_links_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text(
        '<h1 id="top">x</h1><a href="a/b.html#there">x</a><script src="x.js"></script>'
    )
    (tmp_path / "a/b.html").write_text('<a id="there" href="../index.html#top">x</a>')
    (tmp_path / "x.js").write_text("")
    assert CHECK.findings(tmp_path) == []
    (tmp_path / "a/b.html").write_text(
        '<a href="../index.html#no">x</a><a href="c.html">x</a><img src="y.png">'
        '<link rel="stylesheet" href="//far/x.css">'
    )
    (tmp_path / "x.css").write_text("a { src: url(https://far/x.woff) }")
    assert CHECK.findings(tmp_path) == [
        "a/b.html: ../index.html#no leads nowhere",
        "a/b.html: c.html leads nowhere",
        "a/b.html: y.png is not a file of the site",
        "a/b.html: //far/x.css is not a file of the site",
        "index.html: a/b.html#there leads nowhere",
        "x.css: https://far/x.woff is fetched",
    ]


def test_docstrings_keep_their_columns_and_need_no_markup() -> None:
    pytest.importorskip("griffe")
    shown = tool("plain_docstrings").shown
    text = "A *b* <c> of `VP`.\nx : first\ny : second\n\n    a  = 1\n"
    assert shown(text, {"VP": "softmix.process.VP"}) == (
        '<div class="docstring prose">A *b* &lt;c&gt; of <autoref optional identifier="softmix.process.VP"><code>VP'
        "</code></autoref>.<br>\nx : first<br>\ny : second</div>\n"
        '<div class="docstring columns">    a  = 1</div>'
    )


def test_the_oldest_versions_are_those_of_the_requirements() -> None:
    oldest = tool("oldest").oldest
    extras = {"report": ["b>=2"], "diffusers": [], "photographs": [], "test": ["softmix[report]", "c>=0.3.1"]}
    assert oldest({"dependencies": ["torch>=2.6,<3", "A>=1,<3"], "optional-dependencies": extras}) == [
        *("A==1", "b==2", "c==0.3.1"),
    ]
    with pytest.raises(SystemExit, match="names no oldest version"):
        oldest({"dependencies": ["numpy"], "optional-dependencies": extras})
