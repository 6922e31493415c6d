"""Reading a run folder for its report: whatever is there, of a run that may still be writing it."""

from __future__ import annotations

import itertools
import json
import math
import time
import tomllib
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import UsageError
from prostate_mim.health.collapse import collapse_warnings
from prostate_mim.health.config import HealthConfig

Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
_IDLE_SECONDS = 600.0
_STEPS_OF_SILENCE = 20
_WAIT_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class Picture:
    """Reconstructions of the pictured studies at one step; arrays are (S, H, W).

    Attributes:
        step: optimiser steps done.
        truth: z-scored slices.
        hidden: True = hidden from the encoder.
        filled: the truth with hidden voxels replaced by the prediction.
    """

    step: int
    truth: npt.NDArray[np.float32]
    hidden: npt.NDArray[np.bool_]
    filled: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class RunFolder:
    """What a run has left so far.

    Attributes:
        rows: lines of metrics.jsonl, in order.
        unreadable: lines that were no JSON object with a step, the torn last one of a living run apart.
        config: of config.toml; empty where there is none.
        record: of run.json; empty where there is none.
        first: of health/first.json; empty where there is none.
        silent_seconds: since anything was written.
    """

    rows: tuple[Mapping[str, Any], ...]
    unreadable: int
    config: Mapping[str, Any]
    record: Mapping[str, Any]
    first: Mapping[str, Any]
    silent_seconds: float

    @property
    def last_step(self) -> int:
        """Optimiser steps done; 0 before the first line."""
        return max((int(row["step"]) for row in self.rows), default=0)

    @property
    def state(self) -> str:
        """``finished``, ``running``, or ``stopped`` where nothing was written for long."""
        if self.record.get("finished"):
            return "finished"
        _, seconds = self.curve("step_seconds")
        usual = float(np.median(seconds)) if len(seconds) else 0.0
        return "running" if self.silent_seconds < max(_IDLE_SECONDS, _STEPS_OF_SILENCE * usual) else "stopped"

    def curve(self, key: str) -> Curve:
        """(steps, values) of one number, finite ones only. ``step_seconds`` and ``wait_share`` are derived."""
        if key in ("step_seconds", "wait_share"):
            return self._derived(key)
        pairs = [(row["step"], row[key]) for row in self.rows if _is_number(row.get(key))]
        steps, values = np.array(pairs, np.float64).reshape(-1, 2).T
        return steps, values

    def health(self) -> list[tuple[int, dict[str, float]]]:
        """(step, numbers) of each health observation."""
        found = []
        for row in self.rows:
            values = {name: float(v) for name, v in row.items() if name.startswith("health/") and _is_number(v)}
            if values:
                found.append((int(row["step"]), values))
        return found

    def warnings(self) -> list[str]:
        """What a reader should know first, worst first."""
        said = []
        looks = self.health()
        config = _health_config(self.config.get("health"))
        signs = [(step, collapse_warnings(values, config)) for step, values in looks]
        if signs and signs[-1][1]:
            said += [f"Step {signs[-1][0]}: {text}" for text in signs[-1][1]]
        elif any(texts for _, texts in signs):
            steps = ", ".join(str(step) for step, texts in signs if texts)
            said.append(f"Signs of a collapse at step {steps}; the last observation shows none.")
        return said + _notes(self)

    def _derived(self, key: str) -> Curve:
        """Seconds a step took, or the share of them that was waiting; a resumed run's clock starts anew."""
        steps, shares = [], []
        trained = [row for row in self.rows if _is_number(row.get("seconds")) and "loss" in row]
        for before, row in itertools.pairwise(trained):
            taken, count = row["seconds"] - before["seconds"], row["step"] - before["step"]
            if taken <= 0 or count != 1:
                continue
            if key == "step_seconds":
                shares.append(taken)
            elif _is_number(row.get("wait_seconds")):
                shares.append(min(1.0, row["wait_seconds"] / taken))
            else:
                continue
            steps.append(row["step"])
        return np.array(steps, np.float64), np.array(shares, np.float64)


def read_run(run: Path) -> RunFolder:
    """Everything of a run folder that can be read; nothing in it is an error."""
    metrics = run / "metrics.jsonl"
    rows, unreadable = _read_lines(metrics)
    written = [path.stat().st_mtime for path in (metrics, run / "run.json", run / "config.toml") if path.exists()]
    return RunFolder(
        rows,
        unreadable,
        _read_toml(run / "config.toml"),
        _read_json(run / "run.json"),
        _read_json(run / "health" / "first.json"),
        max(0.0, time.time() - max(written)) if written else 0.0,
    )


def read_pictures(run: Path, most: int) -> list[Picture]:
    """At most ``most`` steps' reconstructions, evenly spread, the first and the last among them."""
    found = []
    paths = sorted((run / "health").glob("reconstruction-*.npz"))
    chosen = sorted({round(index) for index in np.linspace(0, len(paths) - 1, most)}) if paths else []
    for index in chosen:
        try:
            with np.load(paths[index], allow_pickle=False) as kept:
                truth, filled = (kept[name].astype(np.float32) for name in ("truth", "filled"))
                found.append(Picture(int(kept["step"]), truth, kept["hidden"].astype(bool), filled))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            continue  # damaged: the page shows the others
    return [one for one in found if one.truth.shape == found[-1].truth.shape]


def _read_lines(path: Path) -> tuple[tuple[Mapping[str, Any], ...], int]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return (), 0
    lines.pop()  # what follows the last line break is still being written
    rows, unreadable = [], 0
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and _is_number(row.get("step")):
            rows.append(row)
        else:
            unreadable += 1
    return tuple(rows), unreadable


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _health_config(values: object) -> HealthConfig:
    """The run's own thresholds; the defaults where they cannot be read."""
    try:
        return HealthConfig(**values) if isinstance(values, dict) else HealthConfig()
    except (TypeError, UsageError):
        return HealthConfig()


def _notes(run: RunFolder) -> list[str]:
    said = []
    _, waits = run.curve("wait_share")
    if len(waits) >= 20 and (share := float(waits[-200:].mean())) > _WAIT_SHARE:
        said.append(
            f"The device waits for data {share:.0%} of the time: use a prepared store, more workers, or several masks "
            "per crop."
        )
    if run.unreadable:
        said.append(f"{run.unreadable} lines of metrics.jsonl could not be read and are left out.")
    return said
