"""Every link and anchor of a built site, and whether it loads anything from another host. Nothing is fetched.

``python tests/docs/links.py FOLDER`` prints faults, then the links that leave the site; 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser loads of its own accord; everything else with an address is a link that a reader may follow.
_LOADED = {
    "script": "src", "img": "src", "source": "src", "iframe": "src", "embed": "src", "audio": "src", "video": "src",
    "track": "src", "input": "src", "object": "data", "image": "href", "use": "href",
}  # fmt: skip
_LOADED_RELATIONS = {
    "stylesheet",
    "icon",
    "preload",
    "prefetch",
    "modulepreload",
    "manifest",
    "preconnect",
    "dns-prefetch",
}
_IN_STYLE = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")
_IN_SCRIPT = re.compile(
    r"(?:\bimport\b[^;\n]{0,80}?|fetch\(\s*|importScripts\(\s*|\.src\s*=\s*|\.href\s*=\s*|\.open\([^,)]*,\s*)"
    r"[\"'`]((?:https?:)?//[^\"'`]+)"
)


class Page(HTMLParser):
    """Anchors of a page, what it links to, what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self._in_style = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self._in_style = tag == "style"
        self.anchors |= {found[name] for name in ("id", "name") if name in found and (name == "id" or tag == "a")}
        if tag in {"a", "area"} and "href" in found:
            self.links.append(found["href"])
        if tag == "form" and "action" in found:
            self.links.append(found["action"])
        if tag == "link":
            (self.loads if _LOADED_RELATIONS & set(found.get("rel", "").split()) else self.links).append(found["href"])
        for name in {_LOADED.get(tag), "xlink:href" if tag in {"image", "use"} else None} - {None}:
            if name in found:
                self.loads.append(found[str(name)])
        for entry in found.get("srcset", "").split(", "):
            self.loads += entry.split()[:1]
        if tag == "meta" and found.get("http-equiv", "").lower() == "refresh":
            self.loads.append(found.get("content", "").partition("=")[2])
        self.loads += in_style(found.get("style", ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "style":
            self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.loads += in_style(data)


def in_style(text: str) -> list[str]:
    """Addresses in CSS."""
    return [first or second for first, second in _IN_STYLE.findall(text)]


@dataclass
class Checked:
    """What was found: dead links and anchors, addresses loaded from elsewhere, links that leave the site."""

    dead: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    outward: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


class Site:
    """A folder of HTML, CSS and scripts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    @cached_property
    def pages(self) -> dict[Path, Page]:
        """Every page, read once."""
        return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(self.folder.rglob("*.html"))}

    def check(self) -> Checked:
        """Look at everything."""
        result = Checked()
        for path, page in self.pages.items():
            where = path.relative_to(self.folder).as_posix()
            for link in page.links:
                self._link(result, where, path, link)
            for load in page.loads:
                self._load(result, where, path, load)
        for path in sorted(self.folder.rglob("*")):
            where = path.relative_to(self.folder).as_posix()
            if path.suffix == ".css":
                for load in in_style(path.read_text(encoding="utf-8")):
                    self._load(result, where, path, load)
            elif path.suffix in {".js", ".mjs"}:
                result.foreign += [f"{where}: {one}" for one in _IN_SCRIPT.findall(path.read_text(encoding="utf-8"))]
        return result

    def _link(self, result: Checked, where: str, path: Path, link: str) -> None:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            result.outward[link].add(where)
            return
        if said := self._missing(path, parts.path, unquote(parts.fragment)):
            result.dead.append(f"{where}: {link}: {said}")

    def _load(self, result: Checked, where: str, path: Path, load: str) -> None:
        parts = urlsplit(load)
        if parts.scheme == "data" or not load:
            return
        if parts.scheme or parts.netloc:
            result.foreign.append(f"{where}: {load}")
        elif parts.path and (said := self._missing(path, parts.path, "")):
            result.dead.append(f"{where}: {load}: {said}")

    def _missing(self, path: Path, target: str, anchor: str) -> str:
        """Why a relative address leads nowhere; nothing if it leads somewhere."""
        place = (path.parent / unquote(target)).resolve() if target else path
        if target.startswith("/") or not place.is_relative_to(self.folder):
            return "leaves the folder of the site"
        place = place / "index.html" if place.is_dir() else place
        if not place.is_file():
            return "no such file"
        if anchor and place in self.pages and anchor not in self.pages[place].anchors:
            return "no such anchor"
        return ""


def main() -> int:
    """For the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the built site")
    site = Site(parser.parse_args().folder)
    if not site.pages:
        print(f"error: no page in {site.folder}; build the site first, make docs", file=sys.stderr)
        return 3
    checked = site.check()
    for said, found in (("dead", checked.dead), ("loaded from elsewhere", checked.foreign)):
        print(f"{said}: {len(found)}")
        print("".join(f"  {one}\n" for one in found), end="")
    print(f"links that leave the site, not followed: {len(checked.outward)}")
    for link, pages in sorted(checked.outward.items()):
        print(f"  {link}  ({len(pages)} pages, {sorted(pages)[0]})")
    return 1 if checked.dead or checked.foreign else 0


if __name__ == "__main__":
    sys.exit(main())
