"""Where a study keeps what it has computed, and the keys under which it finds it again.

A key is a hash of everything that decides the numbers behind it. What has the same key is never computed twice, and
what has changed is never mistaken for it: neither needs a list of what is done.

Of the data, a key holds what the prepared studies hold (``PreparedManifest.contents``: voxels, scale, measured box,
masks), not which code prepared them, as the keys of the store's entries do: after a change of that code, entries are
made anew, and a study is computed anew only if they hold other numbers. Code that trains and scores is in no key:
``FORMAT`` is for that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prostate_mim.config import config_to_dict
from prostate_mim.engine.settings import LoopConfig

FORMAT = 1
"""Goes up when the same configuration and data would give other numbers: everything is then computed anew."""

# Of LoopConfig: they change how a training goes on, not what it computes.
_FREE = (
    "device", "workers", "loader_timeout", "trackers", "checkpoint_every", "keep_last", "keep_best", "health_every",
)  # fmt: skip
_OF_ENCODERS = ("pretraining", "encoders", "weights")
_FOLDERS = (*_OF_ENCODERS, "features", "cells", "scores", "comparisons", "training")


def key_of(what: str, values: Mapping[str, Any]) -> str:
    """A key (32 hex digits) of plain values.

    Args:
        what: kind of thing, so that two kinds never share a key.
        values: plain JSON values; their order does not count.
    """
    text = json.dumps({"format": FORMAT, "what": what, **values}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def identity_of(config: Any) -> dict[str, Any]:
    """A configuration as plain values, without what changes no number: device, workers, checkpoints, looks, name."""
    values = config_to_dict(config)
    for name in ("health", "watch", "name"):
        values.pop(name, None)
    loop = getattr(config, "loop", None)
    if isinstance(loop, LoopConfig):
        values["loop"] = {name: value for name, value in values["loop"].items() if name not in _FREE}
    return values


@dataclass(frozen=True)
class Places:
    """The folders of a study.

    Attributes:
        out: the study's own folder.
        store: of prepared studies.
        encoders: where encoders are made, or found made by another study; ``out`` if None.
    """

    out: Path
    store: Path
    encoders: Path | None = None

    def make(self) -> None:
        """Create what is not there."""
        for name in _FOLDERS:
            (self._root(name) / name).mkdir(parents=True, exist_ok=True)

    def folder(self, kind: str, key: str) -> Path:
        """A folder of its own: a pretraining run, an encoder's release, a training."""
        return self._root(kind) / kind / key

    def _root(self, kind: str) -> Path:
        return self.encoders if self.encoders is not None and kind in _OF_ENCODERS else self.out

    def table(self, kind: str, key: str) -> Path:
        """A parquet file: of ``cells``, ``scores`` or ``comparisons``."""
        return self.out / kind / f"{key}.parquet"

    def weights(self, key: str) -> Path:
        """A JSON file: what is known of an encoder that was finished, and that may be gone."""
        return self.folder("weights", f"{key}.json")

    def features(self, key: str) -> Path:
        """A safetensors file."""
        return self.out / "features" / f"{key}.safetensors"
