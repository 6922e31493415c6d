"""Is this the same run? A resumed run must have the configuration it began with, but for what is allowed by name."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from prostate_mim.errors import UsageError, nearest

# They change how a run goes on, not what it computes.
_FREE = frozenset(
    f"loop.{name}"
    for name in (
        "device", "workers", "loader_timeout", "trackers", "checkpoint_every", "keep_last", "keep_best", "health_every",
    )
)  # fmt: skip


def check_same_run(
    run: Path, before: dict[str, Any], now: dict[str, Any], allow_change: Collection[str] | None = ()
) -> None:
    """Compare two configurations, key by key.

    Args:
        run: the folder, for the message.
        before, now: plain values; a key that is left out is None.
        allow_change: dotted keys that may differ; None where the command has no such option to speak of.

    Raises:
        UsageError: a value has changed that is not in ``allow_change`` (names old and new), or ``allow_change`` names
            a key that does not exist.
    """
    earlier, later = flatten(before), flatten(now)
    keys = earlier.keys() | later.keys()
    for name in allow_change or ():
        if not any(_within(key, name) for key in keys):
            near = nearest(name, keys)
            hint = f"; did you mean {near}?" if near else ""
            raise UsageError(f"--allow-change {name}: there is no such key in the configuration{hint}")
    free = {key for key in keys if any(_within(key, name) for name in (*_FREE, *(allow_change or ())))}
    changed = sorted(key for key in keys - free if earlier.get(key) != later.get(key))
    if changed:
        what = ", ".join(f"{key} {earlier.get(key)!r} -> {later.get(key)!r}" for key in changed)
        allow = f"name what may change with --allow-change {changed[0]}, " if allow_change is not None else ""
        raise UsageError(
            f"{run}: --resume with another configuration ({what}); use the same one, {allow}or choose a new --out"
        )


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries -> one with dotted keys."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _within(key: str, name: str) -> bool:
    return key == name or key.startswith(name + ".")
