"""Looks at a built site as a browser without a network would: python tools/check_site.py site

Every link leads to a page and to a place in it, and nothing that a page shows or runs comes from elsewhere."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

# what a browser fetches by itself, where a link waits for the reader
_FETCHED = {("script", "src"), ("img", "src"), ("link", "href"), ("source", "src"), ("iframe", "src")}
# a link of this kind is only a fact about the page
_FACTS = {"canonical", "next", "prev", "alternate"}


@dataclass
class Page(HTMLParser):
    """The places, links and fetched files of a page."""

    places: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.places |= {values[name] for name in ("id", "name") if name in values}
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
    """A sentence for each link that leads nowhere, and for each file that would have to be fetched or is not there."""
    pages = {path: read(path) for path in sorted(site.resolve().rglob("*.html"))}
    found = []
    for path, page in pages.items():
        # its links are made for the address of a server that has lost a page
        if path.name == "404.html":
            continue
        name = path.relative_to(site.resolve())
        found += [f"{name}: {link} leads nowhere" for link in page.links if not _leads(link, path, pages)]
        found += [f"{name}: {file} is not a file of the site" for file in page.fetched if not _is_here(file, path)]
    for sheet in sorted(site.rglob("*.css")):
        named = re.findall(r"url\(\s*[\"']?([^\"')]+)", sheet.read_text(encoding="utf-8"))
        found += [f"{sheet.relative_to(site)}: {file} is fetched" for file in named if re.match(r"(https?:)?//", file)]
    return found


def _leads(link: str, path: Path, pages: dict[Path, Page]) -> bool:
    if re.match(r"[a-z][a-z0-9+.-]*:", link):
        return True
    to, _, place = unquote(link).partition("#")
    target = Path(os.path.normpath(path.parent / to)) if to else path
    page = pages.get(target)
    if page is None:
        return target.is_file()
    return not place or place in page.places or place == "__top"


def _is_here(file: str, path: Path) -> bool:
    if file.startswith("data:"):
        return True
    return not re.match(r"([a-z]+:)?//", file) and (path.parent / unquote(file.partition("?")[0])).is_file()


if __name__ == "__main__":
    place = Path(sys.argv[1])
    if not (place / "index.html").is_file():
        raise SystemExit(f"{place} was named, and holds no index.html: run `make docs` first")
    wrong = findings(place)
    print(
        "\n".join(wrong) or f"{len(list(place.rglob('*.html')))} pages, every link leads somewhere, nothing is fetched"
    )
    raise SystemExit(1 if wrong else 0)
