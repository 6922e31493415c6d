"""Is this the same run? A resumed run must have the configuration it began with, but for what is allowed by name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from prostate_mim.engine.checkpoint import newest_state
from prostate_mim.engine.schedule import usual_warmup
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.errors import UsageError, nearest

# They change how a run goes on, not what it computes.
_FREE = frozenset(
    f"loop.{name}"
    for name in (
        "device", "workers", "loader_timeout", "trackers", "checkpoint_every", "keep_last", "keep_best", "health_every",
    )
)  # fmt: skip


def with_loop(identity: dict[str, Any], loop: LoopConfig) -> dict[str, Any]:
    """What defines a run, as a checkpoint keeps it: plain values, the loop's own among them."""
    values: dict[str, Any] = json.loads(json.dumps({**identity, "loop": dataclasses.asdict(loop)}))
    return values


def check_resumed(run: Path, identity: dict[str, Any], loop: LoopConfig, allow_change: Collection[str]) -> None:
    """``check_same_run`` with the newest checkpoint, before the studies are read; the loop does it again with them.

    Args:
        run: the folder; without a checkpoint that can be read there is nothing to compare.
        identity: as for ``engine.loop.train``; its ``data`` is not known yet.
        loop: how it is trained.
        allow_change: as for ``check_same_run``.

    Raises:
        UsageError: as ``check_same_run``.
    """
    state = newest_state(run)
    if state is not None:
        before = state["config"]
        now = {**identity, "data": before["data"]} if "data" in before else identity
        check_same_run(run, before, with_loop(now, loop), allow_change)


def check_same_run(
    run: Path, before: dict[str, Any], now: dict[str, Any], allow_change: Collection[str] | None = ()
) -> None:
    """Compare two configurations, key by key.

    A warm-up that is, before and now, the one its steps give (``usual_warmup``) follows them: it need not be named.

    Args:
        run: the folder, for the message.
        before, now: plain values; a key that is left out is None.
        allow_change: dotted keys that may differ; None where the command has no such option to speak of.

    Raises:
        UsageError: values have changed that are not in ``allow_change`` (names old and new of each, and the options
            that allow them all), or ``allow_change`` names a key that does not exist.
    """
    earlier, later = flatten(before), flatten(now)
    keys = earlier.keys() | later.keys()
    for name in allow_change or ():
        if not any(_within(key, name) for key in keys):
            near = nearest(name, keys)
            hint = f"; did you mean {near}?" if near else ""
            raise UsageError(f"--allow-change {name}: there is no such key in the configuration{hint}")
    free = {key for key in keys if any(_within(key, name) for name in (*_FREE, *(allow_change or ())))}
    if _warmup_follows(earlier) and _warmup_follows(later):
        free.add("loop.warmup")
    changed = sorted(key for key in keys - free if earlier.get(key) != later.get(key))
    if changed:
        what = ", ".join(f"{key} {earlier.get(key)!r} -> {later.get(key)!r}" for key in changed)
        options = " ".join(f"--allow-change {key}" for key in changed)
        allow = f"name what may change with {options}, " if allow_change is not None else ""
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


def _warmup_follows(values: dict[str, Any]) -> bool:
    """Whether the warm-up is the one that the steps give."""
    steps = values.get("loop.steps")
    return isinstance(steps, int) and values.get("loop.warmup") == usual_warmup(steps)


def _within(key: str, name: str) -> bool:
    return key == name or key.startswith(name + ".")
