"""Processes that write checkpoints, rightly and wrongly; each is run by ``nursery`` and killed or hindered there."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from prostate_mim.engine.checkpoint import Checkpoint, find_checkpoints, load_newest, sweep, write_checkpoint
from prostate_mim.errors import ProstateMimError

Say = Callable[[Any], None]


def made(step: int, values: int = 100, score: float | None = None) -> Checkpoint:
    """A checkpoint whose every number tells the step; three tensors of ``values`` each, and a whole number."""
    floats = {name: torch.full((values,), float(step)) for name in ("model.w", "optimizer.w.exp_avg", "average.w")}
    return Checkpoint(step, {**floats, "optimizer.w.step": torch.tensor(step)}, {"config": {"seed": step}}, score)


def is_whole(checkpoint: Checkpoint) -> bool:
    """Whether it is what ``made`` made: all of it, and of one step."""
    expected = {"model.w", "optimizer.w.exp_avg", "average.w", "optimizer.w.step"}
    values = [bool((value == checkpoint.step).all()) for value in checkpoint.tensors.values()]
    return (
        set(checkpoint.tensors) == expected
        and all(values)
        and checkpoint.state == {"config": {"seed": checkpoint.step}}
    )


def forever(say: Say, folder: str, keep_last: int = 2, values: int = 50_000) -> None:
    """Write one checkpoint after another, going on from the newest; say the step of each that is written."""
    run = Path(folder)
    sweep(run)
    say("swept")
    found = load_newest(run)
    step = found.step if found else 0
    while True:
        step += 1
        write_checkpoint(run, made(step, values), keep_last=keep_last)
        say(step)


def forever_in_place(say: Say, folder: str, values: int = 50_000) -> None:
    """The wrong way: one file, overwritten."""
    path = Path(folder) / "checkpoint-00000001.safetensors"
    write_checkpoint(Path(folder), made(1, values))
    say("swept")
    step = 1
    while True:
        step += 1
        state = json.dumps({"format": 2, "step": step})
        path.write_bytes(save(made(step, values).tensors, {"state": state}))
        say(step)


def killed_at(
    say: Say, folder: str, event: int, keep_last: int, keep_best: bool, score: float, delete_first: bool = False
) -> None:
    """Write checkpoint 5, and die at the ``event``-th time that this process touches a file of the folder."""
    seen = -1

    def touched(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        kinds = ("open", "os.rename", "os.remove", "os.chmod", "os.scandir")
        if name in kinds and any(
            isinstance(value, str | Path) and str(value).startswith(folder) for value in arguments
        ):
            seen += 1
            if seen == event:
                say(name)
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(touched)
    if delete_first:  # the wrong way
        for old in find_checkpoints(Path(folder))[keep_last - 1 :]:
            old.unlink()
    write_checkpoint(Path(folder), made(5, score=score), keep_last=keep_last, keep_best=keep_best)


def on_a_full_disk(say: Say, folder: str, offsets: list[int]) -> None:
    """Try to write checkpoint 2 with a disk that is full after each of ``offsets`` bytes; say what came of it."""
    _, highest = resource.getrlimit(resource.RLIMIT_FSIZE)
    for offset in offsets:
        resource.setrlimit(resource.RLIMIT_FSIZE, (offset, highest))
        say(refusal(Path(folder)))
        resource.setrlimit(resource.RLIMIT_FSIZE, (highest, highest))


def without_permission(say: Say, folder: str) -> None:
    """Try to write checkpoint 2 into a folder that may only be read; root first gives up its right to ignore that."""
    if os.geteuid() == 0:
        _give_up_privileges()
    Path(folder).chmod(0o500)
    say(refusal(Path(folder)))
    Path(folder).chmod(0o700)


def refusal(folder: Path) -> list[Any]:
    """Class, exit code and text of the error that writing checkpoint 2 ends in."""
    try:
        write_checkpoint(folder, made(2))
    except ProstateMimError as error:
        return [type(error).__name__, error.exit_code, str(error)]
    return ["", 0, ""]


def _give_up_privileges() -> None:
    """capset(2): no capability is effective or permitted any more, so permission bits count for root as well."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the third version of the interface, this process
    nothing = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capset")
