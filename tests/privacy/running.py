"""Run a command of the program, keep all it says and draws, and judge what it let out."""

from __future__ import annotations

import fnmatch
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from planted import EVERYTHING
from searching import hits

from prostate_mim import cli


@dataclass(frozen=True)
class Command:
    """One call of the program.

    Attributes:
        name: of the test, and of the folder ``{out}`` that it may write to.
        words: its arguments; ``{manifest}`` and so on are those of ``places``.
        code: expected exit code.
        excepted: pattern of a path below ``{out}`` (or "stdout", "stderr") -> words that may be there, by design.
    """

    name: str
    words: str
    code: int = 0
    excepted: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Wrote:
    """What one command left: its exit code, its words, and the files that are new or changed."""

    code: int
    stdout: Path
    stderr: Path
    files: list[Path]


def call(words: list[str]) -> int:
    """The exit code of the program."""
    before, sys.argv = sys.argv, ["prostate-mim", *words]
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


@contextmanager
def everything_said(stdout: Path, stderr: Path) -> Iterator[None]:
    """Into files: what Python, libraries in C and child processes say."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with stdout.open("wb", 0) as out, stderr.open("wb", 0) as err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        words = [io.TextIOWrapper(stream, write_through=True) for stream in (out, err)]
        try:
            with redirect_stdout(words[0]), redirect_stderr(words[1]):
                yield
        finally:
            for handle, number in zip(kept, (1, 2), strict=True):
                os.dup2(handle, number)
                os.close(handle)


@contextmanager
def everything_drawn() -> Iterator[list[str]]:
    """The words that are drawn into pictures, where no search finds them."""
    from matplotlib.text import Text
    from PIL.ImageDraw import ImageDraw

    drawn: list[str] = []
    text, set_text = ImageDraw.text, Text.set_text

    def draw(self: ImageDraw, xy: object, words: object, *args: object, **kwargs: object) -> object:
        drawn.append(str(words))
        return text(self, xy, words, *args, **kwargs)

    def put(self: Text, words: object) -> object:
        drawn.append(str(words))
        return set_text(self, words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageDraw, "text", draw)
        patch.setattr(Text, "set_text", put)
        yield drawn


def found(wrote: Wrote, command: Command, out: Path) -> list[str]:
    """Every planted word that a command let out, with where it is."""
    problems = []
    for path in (*wrote.files, wrote.stdout, wrote.stderr):
        said = path in (wrote.stdout, wrote.stderr)
        name = path.suffix[1:] if said else os.path.relpath(path, out)
        allowed = [words for pattern, words in command.excepted.items() if fnmatch.fnmatch(name, pattern)]
        words = [word for word in EVERYTHING if not any(word in some for some in allowed)]
        problems += [f"{name}: {hit}" for hit in hits(path, words)]
        problems += [f"the name {name}" for word in words if not said and word.lower() in name.lower()]
    return problems
