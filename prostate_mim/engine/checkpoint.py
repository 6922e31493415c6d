"""Checkpoints: one safetensors file each, tensors and plain numbers only, written atomically, never unpickled."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from prostate_mim.errors import IntegrityError
from prostate_mim.files import write_bytes

FORMAT = 1
KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on.

    Attributes:
        step: optimiser steps done.
        tensors: model and optimiser tensors and generator states by name.
        state: plain numbers and strings: optimiser groups, the run's configuration.
    """

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any]
) -> Path:
    """Write ``checkpoint-STEP.safetensors`` and then delete all but the newest two."""
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    saved = optimizer.state_dict()
    for index, entries in saved["state"].items():
        tensors.update({f"optimizer.{index}.{name}": value for name, value in entries.items()})
    tensors["random.torch"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    state = {"format": FORMAT, "step": step, "groups": saved["param_groups"], "config": config}
    path = folder / f"checkpoint-{step:08d}.safetensors"
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    write_bytes(path, save(plain, metadata={"state": json.dumps(state)}))
    for old in find_checkpoints(folder)[KEEP:]:
        old.unlink()
    return path


def find_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run folder, newest first."""
    return sorted(folder.glob("checkpoint-????????.safetensors"), reverse=True)


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest readable checkpoint, or None where there is none. A damaged one is passed over, aloud.

    Raises:
        IntegrityError: there are checkpoints, and none of them can be read.
    """
    paths = find_checkpoints(folder)
    for path in paths:
        try:
            return read_checkpoint(path)
        except IntegrityError as error:
            sys.stderr.write(f"warning: {error}; trying the one before\n")
    if paths:
        raise IntegrityError(
            f"{folder}: none of its {len(paths)} checkpoints can be read; start again without --resume"
        )
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint file.

    Raises:
        IntegrityError: it is damaged or of another format.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            state = json.loads((stream.metadata() or {})["state"])
            tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise IntegrityError(f"{path.name}: this checkpoint is damaged ({error})") from error
    if state.get("format") != FORMAT:
        raise IntegrityError(f"{path.name}: checkpoint format {state.get('format')} is not {FORMAT}")
    return Checkpoint(int(state["step"]), tensors, state)


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's tensors, optimiser state and generator states back."""

    def part(prefix: str) -> dict[str, Tensor]:
        return {k[len(prefix) :]: v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}

    model.load_state_dict(part("model."), strict=True)
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in part("optimizer.").items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": checkpoint.state["groups"]})
    torch.set_rng_state(checkpoint.tensors["random.torch"])
    if "random.cuda" in checkpoint.tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(checkpoint.tensors["random.cuda"])
