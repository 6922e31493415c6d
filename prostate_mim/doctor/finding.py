"""One thing that was looked at: its state, what was found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "fault", "not applicable"]
ORDER: tuple[State, ...] = ("fault", "warning", "ok", "not applicable")
"""As a person reads them."""
_LONGEST = 400


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: of the check; a stable identifier for scripts.
        state: ``fault``: something that this installation is meant to do fails, or computes on another device than it
            says. ``warning``: it works, and slower, or less of it, than it could. ``ok``. ``not applicable``: there is
            nothing to look at on this machine.
        found: what there is, one line.
        fix: what to do, one line, a command where there is one; empty if nothing is to be done.
    """

    name: str
    state: State
    found: str
    fix: str = ""


def one_line(text: str, longest: int = _LONGEST) -> str:
    """Any text as one line of at most ``longest`` characters, without control characters."""
    line = " ".join(printable(text).split())
    return line if len(line) <= longest else line[: longest - 3] + "..."


def printable(text: str) -> str:
    """A text with a blank in place of every control character."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def some(names: list[str] | tuple[str, ...], most: int = 3) -> str:
    """The first few of several names: ``a, b and 7 more``."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
