"""The reference of the command line, from the Typer app itself: a page for every command, and the exit codes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import typer.main
from made_files import MadeFolder
from rst import escaped, indented, table, title
from sphinx.application import Sphinx

from prostate_mim import errors
from prostate_mim.cli import app as commands

NAME = "prostate-mim"
_LIST = re.compile(r"<list\[(\w+)\]>")
_ANY_NUMBER = -1
_OTHER_CODES = (
    (0, "It did what was asked."),
    (130, "Stopped by Ctrl-C; no file is half written, and a training run goes on with ``--resume``."),
    (143, "Stopped by SIGTERM, in the same way."),
)


class Page:
    """One command or group of commands: its words, its context, what is below it."""

    def __init__(self, command: Any, words: tuple[str, ...] = (), above: typer.Context | None = None) -> None:
        self.command = command
        self.words = words
        self.context = typer.Context(command, info_name=words[-1] if words else NAME, parent=above)

    @property
    def file(self) -> str:
        """Name of the page, without suffix: ``data-import``."""
        return "-".join(self.words) or "index"

    @property
    def full(self) -> str:
        """What one types: ``prostate-mim data import``."""
        return " ".join((NAME, *self.words))

    def below(self) -> list[Page]:
        """Commands of a group, in the order of ``--help``."""
        if not hasattr(self.command, "list_commands"):
            return []
        found = ((name, self.command.commands[name]) for name in self.command.list_commands(self.context))
        return [Page(one, (*self.words, name), self.context) for name, one in found if not one.hidden]

    def everything(self) -> Iterator[Page]:
        """This and all below."""
        yield self
        for page in self.below():
            yield from page.everything()

    def text(self) -> str:
        """The page."""
        usage = self.command.get_usage(self.context).removeprefix("Usage: ")
        parts = [title(self.full), escaped(inspect.cleandoc(self.command.help or "")), "\n\n"]
        parts += [".. code-block:: text\n\n", indented(usage), "\n", f".. program:: {self.full}\n\n"]
        shown = [one for one in self.command.get_params(self.context) if not getattr(one, "hidden", False)]
        for kind, heading in (("argument", "Arguments"), ("option", "Options")):
            found = [one for one in shown if one.param_type_name == kind]
            if found:
                parts += [title(heading, "-"), *(self._parameter(one) for one in found)]
        if self.below():
            parts.append(self._listed())
        parts.append("What it returns to the shell: :doc:`/reference/exit-codes`.\n")
        return "".join(parts)

    def _parameter(self, one: Any) -> str:
        names, told = one.get_help_record(self.context)
        help_ = one.help or ""
        facts = told.removeprefix(help_).strip().removeprefix("[").removesuffix("]")
        names = _LIST.sub(r"<\1>", names.replace(" range>", ">").replace(" / ", ", ").replace("...", ""))
        said = " ".join(part for part in (escaped(help_), _facts(facts, one)) if part)
        return f".. option:: {names}\n\n{indented(said)}\n"

    def _listed(self) -> str:
        rows = [(f":doc:`{page.full} <{page.file}>`", escaped(page.command.help or "")) for page in self.below()]
        entries = "".join(f"   {page.words[-1]} <{page.file}>\n" for page in self.below())
        listed = table(("Command", "What it does"), rows, (35, 65))
        return f"{title('Commands', '-')}{listed}.. toctree::\n   :hidden:\n\n{entries}\n"


def _facts(text: str, one: Any) -> str:
    """``default: (8); x>=1; required`` as a sentence."""
    bounded = one.min is not None or one.max is not None
    facts: list[str] = []
    if one.required:
        text = text.removesuffix("required").removesuffix("; ")
        facts.append("required")
    if bounded:
        text = text.rpartition("; ")[0]
        facts.append(_range(one.min, one.max))
    default = text.removeprefix("default: ")
    if default.startswith("(") and default.endswith(")"):
        default = default[1:-1]
    if default:
        facts.insert(0, f"default ``{default}``")
    if getattr(one, "multiple", False) or one.nargs == _ANY_NUMBER:
        facts.append("may be given several times")
    line = "; ".join(facts)
    return f"{line[:1].upper()}{line[1:]}." if line else ""


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return f"at most {high}"
    return f"at least {low}" if high is None else f"from {low} to {high}"


def exit_codes() -> str:
    """The page of exit codes: what the closed list of errors says of itself."""
    base = errors.ProstateMimError
    named = [one for one in vars(errors).values() if isinstance(one, type)]
    classes = [one for one in named if issubclass(one, base) and one is not base]
    found = [(code, "", escaped(said)) for code, said in _OTHER_CODES]
    for one in classes:
        said = (inspect.getdoc(one) or "").splitlines()[0].replace(f" (exit code {one.exit_code})", "")
        found.append((one.exit_code, f":py:exc:`~prostate_mim.errors.{one.__name__}`", escaped(said)))
    rows = [(f"``{code}``", error, said) for code, error, said in sorted(found)]
    head = "An error is one line on stderr: what, where, why, what to do. Results are on stdout, also with ``--json``."
    return title("Exit codes") + head + "\n\n" + table(("Code", "In Python", "Meaning"), rows, (10, 25, 65))


def root() -> Page:
    """The app with everything below it."""
    return Page(typer.main.get_command(commands))


def make(app: Sphinx) -> None:
    """Write the pages."""
    folder = MadeFolder(Path(app.srcdir) / "reference" / "cli")
    for page in root().everything():
        folder.write(f"{page.file}.rst", page.text())
    folder.finish()
    MadeFolder(Path(app.srcdir) / "reference").write("exit-codes.rst", exit_codes())


def setup(app: Sphinx) -> dict[str, bool]:
    """For Sphinx."""
    app.connect("builder-inited", make)
    return {"parallel_read_safe": True}
