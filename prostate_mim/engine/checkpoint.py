"""Checkpoints: one safetensors file each, tensors and plain numbers only, written atomically, never unpickled.

A digest of everything in the file is kept in its header, because safetensors notices a lost byte but not a changed
one. Deleting comes after writing, so that there is a complete checkpoint at every instant.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from prostate_mim.errors import IntegrityError, UsageError
from prostate_mim.files import write_bytes

FORMAT = 2
_PATTERN = "checkpoint-????????.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on. Everything random follows from the seed and the step, so no generator is kept.

    Attributes:
        step: optimiser steps done.
        tensors: ``model.NAME``, ``optimizer.NAME.ENTRY``, ``average.NAME`` and ``best.NAME``, by the model's own names.
        state: plain numbers and strings: the run's configuration and what it has settled on.
        score: lower is better; None where nothing was scored since the checkpoint before.
    """

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    score: float | None = None

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors under ``prefix.``, without it."""
        return {k[len(prefix) + 1 :]: v for k, v in self.tensors.items() if k.startswith(prefix + ".")}


def write_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep_last: int = 2, keep_best: bool = False) -> Path:
    """Write ``checkpoint-STEP.safetensors``, then delete what is no longer kept: later ones, and all but these.

    Args:
        keep_last: this many of the newest stay.
        keep_best: the readable one with the lowest finite score stays too.

    Raises:
        ResourceError: the disk is full; older checkpoints are untouched.
        UsageError: the folder is gone or may not be written.
    """
    path = folder / f"checkpoint-{checkpoint.step:08d}.safetensors"
    plain = {key: value.detach().cpu().contiguous() for key, value in checkpoint.tensors.items()}
    score = checkpoint.score if checkpoint.score is not None and math.isfinite(checkpoint.score) else None
    state = json.dumps({"format": FORMAT, "step": checkpoint.step, "score": score, "run": checkpoint.state})
    write_bytes(path, save(plain, metadata={"state": state, "digest": _digest(state, plain)}))
    paths = find_checkpoints(folder)
    # Later ones are damaged, or of a run given up: this one goes on from before them. They must push out no good one.
    earlier = [found for found in paths if found.name <= path.name]
    kept = set(earlier[:keep_last])
    if keep_best:
        kept |= set(_best(earlier))
    for old in paths:
        if old not in kept:
            old.unlink(missing_ok=True)
    return path


def find_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run folder, newest first."""
    return sorted(folder.glob(_PATTERN), reverse=True)


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written. Only for the one process that writes in ``folder``."""
    for orphan in folder.glob(".*.tmp*"):
        orphan.unlink(missing_ok=True)


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest readable checkpoint, or None where there is none. A damaged one is passed over, aloud.

    Raises:
        IntegrityError: there are checkpoints, and none of them can be read.
        UsageError: the newest readable one is of another format, that is, of another release.
    """
    paths = find_checkpoints(folder)
    for path in paths:
        try:
            return read_checkpoint(path)
        except IntegrityError as error:
            sys.stderr.write(f"warning: {error}; trying the one before\n")
    if paths:
        raise IntegrityError(f"{folder}: none of its {len(paths)} checkpoints can be read; choose a new --out")
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint file.

    Raises:
        IntegrityError: it is damaged.
        UsageError: it is of another format.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            state = json.loads(metadata["state"])
            tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118 - not a mapping
        found = state.get("format")
        # The first format had no digest. In any other file a strange format must not pass for another release.
        if found != 1 and metadata.get("digest") != _digest(metadata["state"], tensors):
            raise ValueError("its digest differs: bytes have changed")
    except (SafetensorError, OSError, KeyError, ValueError, AttributeError) as error:
        raise IntegrityError(f"{path.name}: this checkpoint is damaged ({error})") from error
    if found != FORMAT:
        raise UsageError(
            f"{path.name}: checkpoint format {found} is of another release (this one reads {FORMAT}); "
            "finish the run with the release that began it, or choose a new --out"
        )
    return Checkpoint(int(state["step"]), tensors, state["run"], state["score"])


def newest_state(folder: Path) -> dict[str, Any] | None:
    """``Checkpoint.state`` of the newest one whose header can be read, without its tensors; None where there is none.

    Nothing is verified: it is for a first look, before ``load_newest``.
    """
    heads = filter(None, map(_header, find_checkpoints(folder)))
    return next((head["run"] for head in heads if head.get("format") == FORMAT), None)


def read_score(path: Path) -> float | None:
    """A checkpoint's score, from its header alone; None where it has none or cannot be read."""
    score = (_header(path) or {}).get("score")
    return float(score) if isinstance(score, int | float) and math.isfinite(score) else None


def _header(path: Path) -> dict[str, Any] | None:
    """What a checkpoint says of itself; None where it cannot be read."""
    try:
        with safe_open(path, framework="pt") as stream:
            head = json.loads((stream.metadata() or {})["state"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return None
    return head if isinstance(head, dict) else None


def _best(paths: list[Path]) -> list[Path]:
    scored = [(score, path) for path in paths if (score := read_score(path)) is not None]
    return [min(scored)[1]] if scored else []


def _digest(state: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the state and every tensor's name, type, shape and bytes."""
    total = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        value = tensors[name]
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return total.hexdigest()
