"""Runs a recipe's page as its reader would: its shell lines and Python blocks, in order, in one folder.

Lines that begin with ``prostate-mim`` run in this process (torch is imported once), as do Python blocks, which share
their names; everything else is a process of bash. Nothing of a page is changed but by the replacements a test states.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "docs" / "recipes"
_BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.S | re.M)
_LINE_TIMEOUT_S = 300


@dataclass(frozen=True)
class Ran:
    """What became of a shell line or a Python block.

    Attributes:
        text: as it was run.
        code: exit code; 0 for a block.
        out, err: what it wrote.
    """

    text: str
    code: int
    out: str
    err: str


@dataclass
class RecipePage:
    """A page of docs/recipes, to be run in a folder.

    Attributes:
        name: ``picai`` for ``picai.md``.
        folder: where its commands run.
        replaced: text of the page -> what is run instead; every one must occur.
        left_out: beginning of a line -> why the tests cannot run it.
        own: beginning of a line -> what runs it instead of this module, such as a service that does not end.
        names: of the Python blocks.
    """

    name: str
    folder: Path
    replaced: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[str, Callable[[str], Ran]] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The page as it is."""
        return (RECIPES / f"{self.name}.md").read_text(encoding="utf-8")

    def steps(self) -> list[tuple[str, str]]:
        """(language, text) of each shell line and Python block, replacements done."""
        text = self.text
        for old, new in self.replaced.items():
            assert old in text, f"{self.name}.md: {old!r} is not on the page, so that it cannot be replaced"
            text = text.replace(old, new)
        found: list[tuple[str, str]] = []
        for language, block in _BLOCK.findall(text):
            lines = [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]
            found += [("bash", line) for line in lines] if language == "bash" else [("python", block)]
        for start in (*self.left_out, *self.own):
            assert any(step.startswith(start) for _, step in found), f"{self.name}.md: no line begins with {start!r}"
        return found

    def run(self) -> list[Ran]:
        """Every step in order; the first that fails ends it, with what it said."""
        ran: list[Ran] = []
        with working_in(self.folder):
            for language, text in self.steps():
                if any(text.startswith(start) for start in self.left_out):
                    continue
                made = self._step(language, text)
                ran.append(made)
                assert made.code == 0, f"{self.name}.md: {text}\nexit code {made.code}\n{made.err[-3000:]}"
        return ran

    def _step(self, language: str, text: str) -> Ran:
        own = next((call for start, call in self.own.items() if text.startswith(start)), None)
        if own is not None:
            return own(text)
        if language == "python":
            return self._python(text)
        return command(text) if text.startswith("prostate-mim ") else shell(text)

    def _python(self, text: str) -> Ran:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(text, f"{self.name}.md", "exec"), self.names)  # noqa: S102 - our own page
        return Ran(text, 0, out.getvalue(), "")


def command(text: str) -> Ran:
    """A line of ``prostate-mim``, in this process, in the current folder."""
    from prostate_mim import cli

    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = shlex.split(text, comments=True)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        sys.argv = before
    return Ran(text, code, out.getvalue(), err.getvalue())


def shell(text: str) -> Ran:
    """Any other line, by bash; ``python`` is the one that runs the tests."""
    made = subprocess.run(
        ["bash", "-c", text], env=environment(), capture_output=True, text=True, timeout=_LINE_TIMEOUT_S
    )
    return Ran(text, made.returncode, made.stdout, made.stderr)


def environment(**more: str) -> dict[str, str]:
    """Of the processes that a page starts."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**os.environ, "PATH": path, **more}


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """The current folder, which Python blocks import from too; afterwards all is as it was."""
    before, paths, modules = Path.cwd(), list(sys.path), set(sys.modules)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = paths
        for name in set(sys.modules) - modules:
            source = getattr(sys.modules[name], "__file__", None)
            if source and Path(source).is_relative_to(folder):
                del sys.modules[name]


def smaller(path: Path, target: Path, values: Mapping[str, str], more: str = "") -> Path:
    """Copy a configuration with other values of some lines, ``{"steps = 20000": "steps = 2"}``, and more at its end."""
    text = path.read_text(encoding="utf-8")
    for old, new in values.items():
        assert re.search(rf"^{re.escape(old)}(?=\s|$)", text, re.M), f"{path.name}: no line begins with {old!r}"
        text = re.sub(rf"^{re.escape(old)}(?=\s|$)", new, text, flags=re.M)
    target.write_text(text + more, encoding="utf-8")
    return target
