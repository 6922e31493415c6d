"""Plain sentences as reStructuredText."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LITERAL = re.compile(r"(``.+?``)")
_SPECIAL = re.compile(r"([\\*|_`@])")


def escaped(text: str) -> str:
    """A sentence of which only ````literals```` are markup."""
    parts = _LITERAL.split(text)
    return "".join(part if place % 2 else _SPECIAL.sub(r"\\\1", part) for place, part in enumerate(parts))


def title(text: str, line: str = "=") -> str:
    """A heading, with the blank lines it needs."""
    return f"{text}\n{line * len(text)}\n\n"


def indented(text: str, by: int = 3) -> str:
    """A block one level deeper."""
    return "\n".join(" " * by + line if line else "" for line in text.splitlines()) + "\n"


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], widths: tuple[int, ...]) -> str:
    """A list table; cells are markup already."""
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: " + " ".join(map(str, widths)), ""]
    for row in (header, *rows):
        lines += [("   * - " if not place else "     - ") + cell for place, cell in enumerate(row)]
    return "\n".join(lines) + "\n\n"
