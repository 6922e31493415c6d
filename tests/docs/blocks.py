"""Fenced code blocks of a Markdown page, the lines of a shell block, and what of a line can be checked unrun."""

from __future__ import annotations

import configparser
import itertools
import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON, SHELL = ("python", "py"), ("bash", "sh", "shell", "console")
_GENERATED = ("docs/reference/", "docs/repository/", "docs/_")
_FENCE = re.compile(r"^(?P<indent>\s*)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")
_DIRECTIVE = re.compile(r"\{code(?:-block)?\}\s*(\S*)")
_HEREDOC = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_CARRIED = "carry/"  # what a page has its reader take to another machine, as it lies in a checkout


class BlockError(AssertionError):
    """A block that is wrong; the message begins with page and line."""


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        page: its path from the repository's root.
        line: of the page, of the block's first line of text; from 1.
        language: first word after the fence; that of a code directive.
        text: between the fences, without the fence's indentation.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Line:
    """A command of a shell block: continued lines are joined, comments left out.

    Attributes:
        where: page and line.
        text: as the page has it.
    """

    where: str
    text: str


def find_pages(root: Path = ROOT) -> list[str]:
    """Every page whose blocks are run; what Sphinx generates is not among them."""
    patterns = ("README.md", "docs/**/*.md", "export/**/README.md", "hub_cards/*/README.md")
    found = {path.relative_to(root).as_posix() for pattern in patterns for path in root.glob(pattern)}
    return sorted(page for page in found if not page.startswith(_GENERATED))


def find_blocks(page: str, text: str | None = None) -> list[Block]:
    """The fenced blocks of a page (path from the root), in order.

    Raises:
        BlockError: a fence that nothing closes.
    """
    lines = ((ROOT / page).read_text(encoding="utf-8") if text is None else text).splitlines()
    found, at = [], 0
    while at < len(lines):
        opened = _FENCE.match(lines[at])
        at += 1
        if opened is None:
            continue
        first, fence, indent = at, opened["fence"], len(opened["indent"])
        closing = re.compile(rf"^\s*{re.escape(fence[0])}{{{len(fence)},}}\s*$")
        while at < len(lines) and not closing.match(lines[at]):
            at += 1
        if at == len(lines):
            raise BlockError(f"{page}:{first}: nothing closes the fence")
        inside = [line[min(indent, len(line) - len(line.lstrip())) :] for line in lines[first:at]]
        found.append(Block(page, first + 1, _language(opened["info"]), "\n".join(inside) + "\n"))
        at += 1
    return found


def _language(info: str) -> str:
    directive = _DIRECTIVE.match(info.strip())
    words = [directive[1]] if directive else info.split()
    return words[0].lower() if words and words[0] else ""


def shell_lines(block: Block) -> list[Line]:
    """The commands of a shell block; of a ``console`` block what follows ``$``, its other lines being output."""
    rows = block.text.splitlines()
    found: list[Line] = []
    at = 0
    while at < len(rows):
        first, text = at, rows[at]
        at += 1
        if block.language == "console":
            if not text.startswith("$ "):
                continue
            text = text[2:]
        while text.endswith("\\") and at < len(rows):
            text, at = text[:-1].rstrip() + " " + rows[at].strip(), at + 1
        here = _HEREDOC.search(text)
        while here and at < len(rows):
            text, at = text + "\n" + rows[at], at + 1
            if rows[at - 1].strip() == here[1]:
                break
        if text.strip() and not text.lstrip().startswith("#"):
            found.append(Line(f"{block.page}:{block.line + first}", text.strip()))
    return found


def words_of(text: str) -> list[str]:
    """A command's words: quotes and comments are gone, operators of the shell are words of their own."""
    reader = shlex.shlex(text.split("\n")[0], posix=True, punctuation_chars="|&;<>")
    reader.whitespace_split = True
    return list(reader)


def commands_of(text: str) -> list[list[str]]:
    """The programs of a line, each with its arguments; assignments before them, and redirections, are left out."""
    found: list[list[str]] = [[]]
    skip = False
    for word in words_of(text):
        if word and set(word) <= set("|&;"):
            found.append([])
        elif word and set(word) <= set("<>&"):
            skip = True
        elif skip:
            skip = False
        elif found[-1] or not _ASSIGNMENT.match(word):
            found[-1].append(word)
    return [words for words in found if words]


# ------------------------------------------------------------------------------------------ what can be checked unrun
def check_line(line: Line, scripts: frozenset[str] = frozenset()) -> None:
    """Names, options and paths of a command, against the real ones.

    Args:
        line: of a shell block.
        scripts: that are the page's or its reader's own, and not looked for.

    Raises:
        BlockError: something is named that there is not.
    """
    for words in commands_of(line.text):
        try:
            _check_command(words, scripts, Path(line.where).parent.as_posix())
        except BlockError as error:
            raise BlockError(f"{line.where}: {error}") from None


def _check_command(words: list[str], scripts: frozenset[str], folder: str) -> None:
    if words[0] in ("prostate-mim", "prostate_mim"):
        _check_ours(words[1:])
    elif "prostate_mim" in words and words[words.index("prostate_mim") - 1] == "-m":
        at = words.index("prostate_mim")
        _check_ours(words[at + 1 :])
        if "torchrun" in words:
            _check_torchrun(words[words.index("torchrun") + 1 : at - 1])
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        _among("make", [word for word in words[1:] if "=" not in word and not word.startswith("-")], targets)
    elif words[0] == "pip" or words[:3] == ["python", "-m", "pip"]:
        _check_pip(words)
    elif words[0] == "docker":
        for flag, value in itertools.pairwise(words):
            if flag == "-f" and not (ROOT / value).is_file():
                raise BlockError(f"docker -f {value}: there is no such file")
    elif words[0].startswith("python") and words[1:] and words[1].endswith(".py") and words[1] not in scripts:
        _check_script(words[1], words[2:], folder)


def _check_ours(arguments: list[str]) -> None:
    """Parsed by the real command: its name, every option, values' types, what it requires. Nothing is run."""
    import typer.main

    from prostate_mim.cli import app

    command, rest, path = typer.main.get_command(app), list(arguments), "prostate-mim"
    while rest and rest[0] in getattr(command, "commands", {}):
        path += f" {rest[0]}"
        command = command.commands[rest.pop(0)]
    if hasattr(command, "commands"):
        if rest and not rest[0].startswith("-"):
            raise BlockError(f"{path} has no command {rest[0]!r}")
        _among(path, [word for word in rest if word.startswith("-")], ("--help", "--version"))
        return
    if "--help" in rest:
        return
    rest = [word for word in rest if not word.startswith("$")]  # a variable may hold an option, or nothing
    try:
        command.make_context(path, rest)
    except Exception as error:
        said = error.format_message() if hasattr(error, "format_message") else str(error)
        raise BlockError(f"{path}: {said}") from None


def _check_torchrun(options: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    known = set(get_args_parser()._option_string_actions)
    _among("torchrun", [word.partition("=")[0] for word in options if word.startswith("--")], known)


@cache
def extras() -> frozenset[str]:
    """What ``prostate-mim[...]`` may ask for."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    return frozenset(setup["options.extras_require"])


def _check_pip(words: list[str]) -> None:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        asked = re.fullmatch(r"(?:prostate-mim|\.)\[([a-z,]+)\].*", word)
        if asked:
            _among("prostate-mim's extras", asked[1].split(","), extras())
        places = [ROOT / folder / following.removeprefix(_CARRIED) for folder in ("", "export")]
        if word in ("-r", "-c") and not any(place.is_file() for place in places):
            raise BlockError(f"pip {word} {following}: there is no such file")


def _check_script(name: str, arguments: list[str], folder: str) -> None:
    places = [ROOT / folder / name, ROOT / name.removeprefix(_CARRIED)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise BlockError(f"python {name}: there is no such script")
    if "from prostate_mim.cli import main" in path.read_text(encoding="utf-8"):
        _check_ours(arguments)  # the command line itself, in a process that has registered something
        return
    source = "".join(beside.read_text(encoding="utf-8") for beside in path.parent.glob("*.py"))
    _among(name, [word.partition("=")[0] for word in arguments if word.startswith("--")], _named_options(source))


def _named_options(source: str) -> set[str]:
    return set(re.findall(r"[\"'](--[a-z][a-z0-9-]*)[\"']", source))


def _among(what: str, asked: list[str], known: object) -> None:
    for one in asked:
        if one not in known:  # type: ignore[operator]
            raise BlockError(f"{what}: there is no {one}")
