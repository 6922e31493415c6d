"""What tests of self-contained pages share: a reader of their HTML, and a real browser without a network."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: the page is not looked at in a browser")


class Reader(HTMLParser):
    """Tags that are closed in order, sources of pictures, descriptions, links within the page, and text."""

    void = frozenset({"meta", "img", "link", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.sources: list[str] = []
        self.links: list[str] = []
        self.places: list[str] = []
        self.alts: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.sources += [value for name in ("src", "srcset", "data") if (value := found.get(name)) is not None]
        self.links += [value for name in ("href",) if (value := found.get(name)) is not None]
        self.places += [value for name in ("id",) if (value := found.get(name)) is not None]
        if tag == "img":
            self.alts.append(found.get("alt") or "")
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def browse(page: Path, folder: Path, *flags: str, height: int = 2600) -> subprocess.CompletedProcess[str]:
    """Headless Chromium on a local file; no name can be resolved, and what the page complains of is on stderr."""
    assert BROWSER is not None
    common = (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--v=0",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    )  # fmt: skip
    own = (f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=4000", f"--window-size=1300,{height}")
    return subprocess.run(
        [BROWSER, *common, *own, *flags, page.as_uri()], capture_output=True, text=True, timeout=300, check=True
    )


def complaints(text: str) -> list[str]:
    """Lines of Chromium's log that come from the page: refused by its policy, failed, or said by a script."""
    return [line for line in text.splitlines() if "CONSOLE" in line]
