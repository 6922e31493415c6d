"""Names in a literal table: the entry, or the nearest known name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from prostate_mim.errors import NotFoundError, nearest

Entry = TypeVar("Entry")


def look_up(kind: str, name: str, table: Mapping[str, Entry]) -> Entry:
    """The entry called ``name``.

    Raises:
        NotFoundError: no such ``kind`` (target, loss, decoder); the nearest known name is suggested.
    """
    if name not in table:
        near = nearest(name.lower(), table, 0)
        raise NotFoundError(f"{kind} {name!r} is unknown; did you mean {near!r}? (known: {', '.join(table)})")
    return table[name]
