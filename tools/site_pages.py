"""Make pages of the documentation site while it is built.

These are an API page for each room, a page of the command line from its help, and the pages at the top of the
repository. mkdocs calls the functions `on_...`; see mkdocs.yml.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import posixpath
import re
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/softmix"

# The pages at the top of the repository, and their names in the site.
ABOVE = {"README.md": "quick-start.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}

GROUND = ("rng", "shape", "config", "picture")

_LINK = re.compile(r"(?<=\]\()(?P<to>[^)\s]+)(?=[)\s])")


def rooms() -> list[str]:
    """The rooms with an `__all__`; the command line has its own page."""
    inits = sorted(PACKAGE.glob("*/__init__.py"))
    return [init.parent.name for init in inits if "__all__" in init.read_text() and init.parent.name != "cli"]


def api_pages() -> dict[str, str]:
    """The Markdown of every API page by its path in the site, without the command line."""
    return {
        "api/softmix.md": _top_page(),
        **{f"api/{room}.md": _room_page(room) for room in rooms()},
        "api/ground.md": _ground_page(),
    }


def _top_page() -> str:
    """A list of links: the names of the package itself are documented in the rooms."""
    homes = _package()._FROM
    lines = [
        f"* [`softmix.{name}`][{public(home).get(name, f'softmix.{home}.{name}')}]" for name, home in homes.items()
    ]
    lines += [f"* [`softmix.{room}`]({room}.md)" for room in rooms()]
    about = "The names that `import softmix` gives. A name is imported when it is first used."
    return f"# `softmix`\n\n{about}\n\n" + "\n".join(lines) + "\n"


def _ground_page() -> str:
    parts = [f"## `softmix.{name}`\n\n::: softmix.{name}\n    options: {{heading_level: 3}}\n" for name in GROUND]
    return "# The ground floor\n\nModules that every room may import.\n\n" + "\n".join(parts)


def public(room: str) -> dict[str, str]:
    """The path of each name in a room's `__all__`.

    A function may have the name of its own file. A reader of the source alone then finds the file and not the
    function. For such a name the path goes through the file; for all others it is the public path. Names from another
    library are left out.
    """
    folder = PACKAGE / room
    if not folder.is_dir():
        return {}
    tree = ast.parse((folder / "__init__.py").read_text())
    names = next(ast.literal_eval(node.value) for node in tree.body if _assigns_all(node))
    files = {path.stem for path in folder.glob("*.py")}
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    modules = {alias.name for node in tree.body if _imports_files(node, room) for alias in node.names}
    hidden = files & imported - modules
    foreign = {alias.name for node in tree.body if _from_elsewhere(node) for alias in node.names}
    ours = [name for name in names if name not in foreign]
    return {name: f"softmix.{room}.{name}" + (f".{name}" if name in hidden else "") for name in ours}


def _assigns_all(node: ast.stmt) -> TypeGuard[ast.Assign]:
    return isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"


def _imports_files(node: ast.stmt, room: str) -> TypeGuard[ast.ImportFrom]:
    """Whether this takes whole files of the room: from . import x, from softmix.room import x."""
    return isinstance(node, ast.ImportFrom) and (node.level, node.module) in ((1, None), (0, f"softmix.{room}"))


def _from_elsewhere(node: ast.stmt) -> TypeGuard[ast.ImportFrom]:
    return isinstance(node, ast.ImportFrom) and node.level == 0 and not (node.module or "").startswith("softmix")


def _room_page(room: str) -> str:
    prose = f"The page of this room says what its parts are for: [room {room}](../rooms/{room}.md).\n\n"
    about = prose if (ROOT / f"docs/rooms/{room}.md").exists() else ""
    whole = f"::: softmix.{room}\n    options: {{members: false}}\n\n"
    parts = [f"::: {path}\n    options: {{show_root_heading: true}}\n" for path in public(room).values()]
    return f"# `softmix.{room}`\n\n{about}{whole}" + "\n".join(parts)


def _package() -> ModuleType:
    """The package softmix of this checkout, for its help texts and lists."""
    if str(PACKAGE.parent) not in sys.path:
        sys.path.insert(0, str(PACKAGE.parent))
    return import_module("softmix")


def command_page() -> str:
    """The page of the command line: the help of every verb."""
    _package()
    verbs = import_module("softmix.cli").VERBS
    parts = ["# The command line", f"```text\n{_help()}```"]
    parts += [f"## softmix {verb}\n\n```text\n{_help(verb)}```" for verb in verbs]
    return "\n\n".join(parts) + "\n"


def _help(*verb: str) -> str:
    out = io.StringIO()
    width = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            import_module("softmix.cli").main([*verb, "--help"])
    finally:
        os.environ.pop("COLUMNS") if width is None else os.environ.update(COLUMNS=width)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())


def fitted(markdown: str, place: str) -> str:
    """Turn a page of the repository into a page of the site. place : as in `relinked`."""
    return pipes(fences(relinked(markdown, place)))


def relinked(markdown: str, place: str) -> str:
    """Turn the links of a page of the repository into links of the site.

    place : the path of the page from the top of the repository, such as docs/rooms/net.md.
    """
    here = posixpath.dirname(ABOVE.get(place, place.removeprefix("docs/")))

    def turned(match: re.Match[str]) -> str:
        to, mark, heading = match["to"].partition("#")
        if not to or ":" in to:
            return match["to"]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(place), to))
        inside = ABOVE.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(inside, here or ".") + mark + heading

    return _outside_of_code(markdown, lambda text: _LINK.sub(turned, text))


def fences(markdown: str) -> str:
    """Leave one word after the fence of a code block, as mkdocs needs it. A file name and `output` become titles."""

    def turned(match: re.Match[str]) -> str:
        words = match["words"].split()
        title = next((word.removeprefix("file=") for word in words if word.startswith("file=")), "")
        title = title or ("output" if "output" in words else "")
        return match["fence"] + (f' title="{title}"' if title else "")

    return re.sub(r"^(?P<fence> *```\w+)(?P<words>(?: +\S+)+)$", turned, markdown, flags=re.M)


def pipes(markdown: str) -> str:
    """Remove the backslash before a | in code; code hosts need it in tables."""
    return re.sub(r"`[^`\n]*`", lambda match: match[0].replace("\\|", "|"), markdown)


def _outside_of_code(markdown: str, change: Callable[[str], str]) -> str:
    parts = re.split(r"(^```.*?^```|`[^`\n]*`)", markdown, flags=re.M | re.S)
    return "".join(part if k % 2 else change(part) for k, part in enumerate(parts))


def slug(heading: str, separator: str = "-") -> str:
    """The anchor of a heading in the form of code hosts, so that a link works there and in the site."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the API pages under their heading, which is empty in mkdocs.yml."""
    config.mdx_configs["toc"]["slugify"] = slug
    for section in config.nav or []:
        if "API" in section:
            section["API"] = [*section["API"], *api_pages()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files under docs/."""
    from mkdocs.structure.files import File

    made: Mapping[str, str] = {
        **api_pages(),
        "api/command-line.md": command_page(),
        **{name: fitted((ROOT / top).read_text(), top) for top, name in ABOVE.items()},
    }
    for place, markdown in made.items():
        files.append(File.generated(config, place, content=markdown))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links to pages at the top of the repository, and link each room's page to its API page."""
    place = page.file.src_uri
    if page.file.generated_by:
        return markdown
    room = re.fullmatch(r"rooms/(\w+)\.md", place)
    signatures = f"\nEvery public name with its signature: [API of {room[1]}](../api/{room[1]}.md).\n" if room else ""
    return fitted(markdown, f"docs/{place}") + signatures
