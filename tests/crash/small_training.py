"""The training loop on a network of a few hundred numbers: all that a checkpoint must hold, in milliseconds a step."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prostate_mim.engine.amounts import Augmentation
from prostate_mim.engine.checkpoint import Checkpoint, find_checkpoints, read_checkpoint
from prostate_mim.engine.data import DrawDataset, Region
from prostate_mim.engine.loop import Task, train
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.engine.step import StepLoss
from prostate_mim.spec import InputSpec
from prostate_mim.store import PreparedStudy
from prostate_mim.volume import Geometry

STEPS = 12
SPEC = InputSpec(size_zyx=(4, 16, 16))
LATE = 5
CLOCK = {"seconds", "studies_per_second", "wait_seconds"}  # what differs between any two runs


class SmallNet(nn.Module):
    """Batch norm (running statistics), dropout (randomness within a step), and a number that is not used at first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv3d(1, 4, 3, 2, 1), nn.BatchNorm3d(4)
        self.second, self.dropout = nn.Conv3d(4, 6, 3, 2, 1), nn.Dropout(0.2)
        self.head = nn.Linear(6, 1)
        self.late = nn.Parameter(torch.ones(1))

    def forward(self, voxels: Tensor, late: bool) -> Tensor:
        found = self.dropout(torch.relu(self.norm(self.first(voxels))))
        found = self.head(self.second(found).mean((2, 3, 4)))[:, 0]
        return found * self.late if late else found


def made_net() -> SmallNet:
    torch.manual_seed(7)
    return SmallNet()


def dataset() -> DrawDataset:
    rng = np.random.default_rng(0)
    regions = []
    for row in range(1, 6):
        voxels = rng.normal(300, 100 + 40 * (row % 2), (8, 32, 32)).astype(np.int16)
        box = tuple((0, n) for n in voxels.shape)
        study = PreparedStudy(voxels, 1.0, 0.0, box, None, frozenset(), Geometry(SPEC.spacing_mm_zyx))
        regions.append(Region(study, row % 2, row))
    return DrawDataset(regions, SPEC, (4, 16, 16), seed=0)


def squared(model: nn.Module, batch: dict[str, Tensor], step: int) -> StepLoss:
    found = (model(batch["voxels"], step >= LATE) - batch["label"]).square()
    return StepLoss(found.mean(), float(len(found)))


def short_of_memory(model: nn.Module, batch: dict[str, Tensor], step: int) -> StepLoss:
    """Once, in the third step, the allocator says no to a whole batch; two micro-batches a step from then on."""
    if step == 2 and len(batch["row"]) == 4:
        raise torch.OutOfMemoryError("out of memory")
    return squared(model, batch, step)


def looked(model: nn.Module, step: int) -> dict[str, float]:
    """A number to log every ``health_every`` steps and before the first."""
    return {"health/step": float(step)}


def train_small(
    run: str | Path,
    *,
    resume: bool = False,
    allow_change: tuple[str, ...] = (),
    memory: bool = False,
    begin_step: Callable[[nn.Module, int], None] | None = None,
    look: bool = False,
    **loop: Any,
) -> dict[str, Tensor]:
    """A run of 12 steps with a moving average.

    ``loop`` changes its LoopConfig; with ``memory`` it once runs out of it; with ``look`` something is observed.
    """
    Path(run).mkdir(exist_ok=True)
    values = {"steps": STEPS, "batch": 4, "warmup": 2, "ema": 0.9, "checkpoint_every": 1, "keep_last": STEPS,
              "device": "cpu", "trackers": (), "seed": 3, **loop}  # fmt: skip
    task = Task(short_of_memory if memory else squared, begin_step=begin_step, observe=looked if look else None)
    return train(
        made_net(), dataset(), task, LoopConfig(**values), Path(run),
        identity={"task": "small", "data": {"rows": 5}}, augmentation=Augmentation(), resume=resume,
        allow_change=allow_change,
    )  # fmt: skip


def losses(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]


def last(run: Path) -> Checkpoint:
    return read_checkpoint(find_checkpoints(run)[0])


def same_tensors(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """The same names, and bit-equal values."""
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


def same_run(left: Path, right: Path) -> bool:
    """Bit-equal weights, statistics, optimiser and average at the end, and the same log of losses."""
    a, b = last(left), last(right)
    settled = a.state["settled"] == b.state["settled"]
    return a.step == b.step and settled and same_tensors(a.tensors, b.tensors) and losses(left) == losses(right)


# ------------------------------------------------------------------------------------------------------- lives


def signalled(
    say: Any, run: str, number: int, at: int, times: int = 1, gap: float = 0.0, group: bool = False, **options: Any
) -> None:
    """Train, and get a signal as step ``at`` (0-based) begins; several with a gap between."""

    def begin_step(model: nn.Module, step: int) -> None:
        say(step)
        for count in range(times if step == at else 0):
            time.sleep(gap if count else 0)
            (os.killpg if group else os.kill)(os.getpid(), number)

    train_small(run, begin_step=begin_step, **options)
    say("finished")


def slow(say: Any, run: str, seconds: float = 0.02, **options: Any) -> None:
    """Train slowly enough to be killed from outside."""

    def begin_step(model: nn.Module, step: int) -> None:
        say(step)
        time.sleep(seconds)

    train_small(run, begin_step=begin_step, **options)
    say("finished")


def die_in_step(at: int) -> None:
    """This process is to be gone in its optimiser's step ``at``, when half of the weights are new."""
    real = torch.optim.AdamW.step
    seen = 0

    def step(self: torch.optim.AdamW, *arguments: Any, **keywords: Any) -> Any:
        nonlocal seen
        seen += float(self.param_groups[0]["lr"]) > 0  # torch takes one without effect to lay out the state
        if seen <= at:
            return real(self, *arguments, **keywords)
        self.param_groups = self.param_groups[:1]
        real(self, *arguments, **keywords)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    torch.optim.AdamW.step = step


def killed_in_step(say: Any, run: str, at: int, **options: Any) -> None:
    """Train, and be gone in the middle of an optimiser's step."""
    die_in_step(at)
    train_small(run, **options)


def short_of_disk(say: Any, run: str, at: int, bytes_left: int, **options: Any) -> None:
    """Train on a disk that is full from step ``at`` on for files larger than ``bytes_left``."""
    import resource

    def begin_step(model: nn.Module, step: int) -> None:
        if step == at:
            resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, resource.RLIM_INFINITY))

    train_small(run, begin_step=begin_step, **options)
