"""Pages of the repository outside ``docs/``, copied to ``docs/repository`` under their own paths.

What they and the pages of ``docs/`` lead to is copied too: Markdown and pictures as they are, code as a page that shows
it, a folder as its README or as a list of its files.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from made_files import MadeFolder
from markdown_it import MarkdownIt
from notebook_pages import SUFFIX, as_markdown

HERE = "docs"
FOLDER = "repository"
MADE = (FOLDER, "reference", "_build")
CHECKPOINTS = ".ipynb_checkpoints"
ROOTS = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "export/README.md", "hub_cards/STUDY.md")
CARDS = "hub_cards/*/README.md"
_CODE = {
    ".py": "python", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".sh": "bash", ".cfg": "ini",
}  # fmt: skip
_PICTURES = {".png", ".svg", ".jpg", ".jpeg", ".gif", ".webp"}
_LONGEST_CODE = 200_000
_INDEX = ("README.md", "index.md")


def targets(markdown: str) -> Iterator[str]:
    """Relative links and pictures of a page, without fragments."""
    for token in MarkdownIt("commonmark").enable("table").parse(markdown):
        for child in token.children or []:
            found = child.attrGet("href") if child.type == "link_open" else child.attrGet("src")
            path = unquote(str(found or "").partition("#")[0])
            if path and ":" not in path and not path.startswith("/"):
                yield path


def resolved(page: str, target: str) -> str:
    """The path in the repository that a relative link of a page means."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


class Mirror:
    """Copies what pages lead to, and what that leads to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made = MadeFolder(root / HERE / FOLDER)
        self.seen: set[str] = set()

    def run(self) -> None:
        """Copy everything, from the roots, the cards and the pages of ``docs/``; remove what nothing leads to."""
        for root in (*ROOTS, *sorted(path.relative_to(self.root).as_posix() for path in self.root.glob(CARDS))):
            self.add(root)
        for page, text in _own_pages(self.root / HERE):
            self._follow(page, text)
        self.made.finish()

    def add(self, path: str) -> None:
        """One path of the repository; what lies in ``docs/``, outside, or nowhere is left to the build to judge."""
        place = self.root / path
        if path in self.seen or path.startswith(("..", f"{HERE}/")) or path in {".", HERE} or not place.exists():
            return
        self.seen.add(path)
        if place.is_dir():
            self._folder(path, place)
        elif place.suffix == ".md":
            text = place.read_text(encoding="utf-8")
            self.made.write(path, text)
            self._follow(path, text)
        elif place.suffix not in _PICTURES and (text := _code(place)):
            self.made.write(f"{path}.md", _shown(path, text))
        else:
            self.made.write(path, place.read_bytes())

    def _follow(self, page: str, markdown: str) -> None:
        for target in targets(markdown):
            self.add(resolved(page, target))

    def _folder(self, path: str, place: Path) -> None:
        """A folder's own README is its page; else a list of what is in it, with links to what has a page anyway."""
        if (place / "README.md").is_file():
            self.add(f"{path}/README.md")
            return
        lines = [f"# {path}/", "", f"What is in `{path}/` of the repository:", ""]
        for one in sorted(place.iterdir()):
            if not one.name.startswith((".", "__")):
                target = f"{one.name}/README.md" if one.is_dir() else one.name
                has_page = f"{path}/{target}" in ROOTS or (one.is_dir() and (place / target).is_file())
                name = one.name + "/" * one.is_dir()
                lines.append(f"- [{name}]({target})" if has_page else f"- `{name}`")
        text = "\n".join(lines) + "\n"
        self.made.write(f"{path}/index.md", text)
        self._follow(f"{path}/index.md", text)


def _own_pages(docs: Path) -> Iterator[tuple[str, str]]:
    """(path in the repository, Markdown) of pages and notebooks that were written, not made."""
    for path in sorted(docs.rglob("*")):
        parts = path.relative_to(docs).parts
        if path.suffix in {".md", SUFFIX} and parts[0] not in MADE and CHECKPOINTS not in parts:
            text = path.read_text(encoding="utf-8")
            yield posixpath.join(HERE, *parts), as_markdown(json.loads(text)) if path.suffix == SUFFIX else text


def _code(place: Path) -> str:
    """The text of a file that is not too long to be shown; nothing for others."""
    if place.stat().st_size > _LONGEST_CODE:
        return ""
    try:
        return place.read_text(encoding="utf-8").rstrip("\n")
    except UnicodeDecodeError:
        return ""


def _shown(path: str, text: str) -> str:
    fence = "`" * 8
    language = _CODE.get(posixpath.splitext(path)[1], "text")
    return f"# {posixpath.basename(path)}\n\n`{path}`\n\n{fence}{language}\n{text}\n{fence}\n"


def in_repository(inside: str) -> str:
    """The path in the repository of a path below ``docs/``, which may be a copy."""
    copied = f"{FOLDER}/"
    return inside.removeprefix(copied) if inside.startswith(copied) else f"{HERE}/{inside}"


def in_docs(docs: Path, path: str) -> tuple[str, str] | None:
    """Where a path of the repository is in the site: ("page", docname), ("file", path below ``docs/``), or nowhere."""
    own = f"{path}/".startswith(f"{HERE}/")
    inside = path.removeprefix(HERE).removeprefix("/") if own else f"{FOLDER}/{path}"
    place = docs / inside
    if place.is_dir():
        index = next((name for name in _INDEX if (place / name).is_file()), None)
        return ("page", posixpath.join(inside, index.removesuffix(".md"))) if index else None
    if place.suffix in {".md", SUFFIX} and place.is_file():
        return "page", posixpath.splitext(inside)[0]
    if (docs / f"{inside}.md").is_file():
        return "page", inside
    return ("file", f"/{inside}") if place.is_file() else None
