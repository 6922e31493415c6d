"""Names in a literal table: the entry, or the nearest known name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

from prostate_mim.errors import NotFoundError

Entry = TypeVar("Entry")


def look_up(kind: str, name: str, table: Mapping[str, Entry]) -> Entry:
    """The entry called ``name``.

    Raises:
        NotFoundError: no such ``kind`` (target, loss, decoder); the nearest known name is suggested.
    """
    if name not in table:
        near = difflib.get_close_matches(name.lower(), table, n=1, cutoff=0.0)[0]
        raise NotFoundError(f"{kind} {name!r} is unknown; did you mean {near!r}? (known: {', '.join(table)})")
    return table[name]
