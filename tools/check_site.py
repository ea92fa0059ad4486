"""Check a built site without a network: python tools/check_site.py site

Every link must lead to a page and to an anchor in it. Every file that a page loads must be in the site.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

# A browser fetches these without a click.
_FETCHED = {("script", "src"), ("img", "src"), ("link", "href"), ("source", "src"), ("iframe", "src")}
# A link of this kind is metadata of the page.
_FACTS = {"canonical", "next", "prev", "alternate"}


@dataclass
class Page(HTMLParser):
    """The anchors, links and fetched files of a page."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag == "link" and _FACTS & set(values.get("rel", "").split()):
            return
        self.fetched += [value for name, value in values.items() if (tag, name) in _FETCHED and value]


def read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def findings(site: Path) -> list[str]:
    """A sentence for each dead link, and for each file that is missing or on another server."""
    pages = {path: read(path) for path in sorted(site.resolve().rglob("*.html"))}
    faults = []
    for path, page in pages.items():
        # A server shows this page at any address, so its links are absolute.
        if path.name == "404.html":
            continue
        name = path.relative_to(site.resolve())
        faults += [f"{name}: {link} leads nowhere" for link in page.links if not _leads(link, path, pages)]
        faults += [f"{name}: {file} is not a file of the site" for file in page.fetched if not _is_here(file, path)]
    for sheet in sorted(site.rglob("*.css")):
        named = re.findall(r"url\(\s*[\"']?([^\"')]+)", sheet.read_text(encoding="utf-8"))
        faults += [f"{sheet.relative_to(site)}: {file} is fetched" for file in named if re.match(r"(https?:)?//", file)]
    return faults


def _leads(link: str, path: Path, pages: dict[Path, Page]) -> bool:
    if re.match(r"[a-z][a-z0-9+.-]*:", link):
        return True
    to, _, anchor = unquote(link).partition("#")
    target = Path(os.path.normpath(path.parent / to)) if to else path
    page = pages.get(target)
    if page is None:
        return target.is_file()
    return not anchor or anchor in page.anchors or anchor == "__top"


def _is_here(file: str, path: Path) -> bool:
    if file.startswith("data:"):
        return True
    return not re.match(r"([a-z]+:)?//", file) and (path.parent / unquote(file.partition("?")[0])).is_file()


if __name__ == "__main__":
    site = Path(sys.argv[1])
    if not (site / "index.html").is_file():
        raise SystemExit(f"{site} holds no index.html: run `make docs` first")
    wrong = findings(site)
    print(
        "\n".join(wrong) or f"{len(list(site.rglob('*.html')))} pages, every link leads somewhere, nothing is fetched"
    )
    raise SystemExit(1 if wrong else 0)
