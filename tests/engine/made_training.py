"""Small networks, losses and runs: what the tests of the loop and of a step train."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from made_regions import noise_dataset
from torch import Tensor, nn

from prostate_mim.engine.batch import Batch
from prostate_mim.engine.loop import Task, train
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.engine.step import LossFunction, StepLoss
from prostate_mim.errors import TrainingError

ROWS = 8  # studies in the data set
BATCH = 4


class Small(nn.Module):
    """A convolution, a norm and a linear layer: (N, 1, 4, 16, 16) -> (N,)."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm = norm(4)
        # A norm takes a bias away again: its gradient would be rounding noise, which AdamW makes large.
        self.conv = nn.Conv3d(1, 4, 3, stride=2, padding=1, bias=isinstance(self.norm, nn.Identity))
        self.linear = nn.Linear(4, 1)

    def forward(self, voxels: Tensor) -> Tensor:
        found: Tensor = self.linear(torch.relu(self.norm(self.conv(voxels))).square().mean((2, 3, 4)))[:, 0]
        return found


def small(norm: str = "instance") -> Small:
    """The same weights whenever it is asked for."""
    torch.manual_seed(0)
    kinds: dict[str, Callable[[int], nn.Module]] = {
        "none": lambda channels: nn.Identity(),
        "instance": lambda channels: nn.InstanceNorm3d(channels, affine=True),
        "batch": nn.BatchNorm3d,
    }
    return Small(kinds[norm])


def squared(model: nn.Module, batch: Batch, step: int) -> StepLoss:
    """Every crop counts the same."""
    errors = (model(batch["voxels"]) - batch["row"].float()).square()
    return StepLoss(errors.mean(), float(len(errors)))


def uneven(model: nn.Module, batch: Batch, step: int) -> StepLoss:
    """The crop of row r counts r**2 times: no two micro-batches weigh the same."""
    errors, counted = (model(batch["voxels"]) - batch["row"].float()).square(), batch["row"].float().square()
    return StepLoss((errors * counted).sum() / counted.sum(), counted.sum())


class Seen:
    """A loss function that remembers how many crops it was given at each call, and with which step."""

    def __init__(self, inner: LossFunction = squared) -> None:
        self.inner = inner
        self.sizes: list[tuple[int, int]] = []

    def __call__(self, model: nn.Module, batch: Batch, step: int) -> StepLoss:
        self.sizes.append((step, len(batch["draw"])))
        return self.inner(model, batch, step)


class Limited(Seen):
    """Has memory for so many crops from one step on; runs out of it after the forward pass, as real ones do."""

    def __init__(self, crops: int, first: int = 1, inner: LossFunction = squared) -> None:
        super().__init__(inner)
        self.crops, self.first = crops, first

    def __call__(self, model: nn.Module, batch: Batch, step: int) -> StepLoss:
        made = super().__call__(model, batch, step)
        if step >= self.first and len(batch["draw"]) > self.crops:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return made


class _Spoil(torch.autograd.Function):
    """Hands a number on unchanged; its gradient is another one."""

    @staticmethod
    def forward(context: Any, value: Tensor, gradient: float) -> Tensor:
        context.gradient = gradient
        return value.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return torch.full_like(gradient, context.gradient), None


def poisoned(where: str, poison: float, row: int, step: int) -> LossFunction:
    """``squared``, with ``poison`` put in one place where ``row`` is seen at the 0-based ``step``."""

    def loss(model: nn.Module, batch: Batch, now: int) -> StepLoss:
        made = squared(model, batch, now)
        if now != step or row not in batch["row"]:
            return made
        if where == "loss":
            return StepLoss(made.loss * poison, made.weight)
        if where == "weight":
            return StepLoss(made.loss, poison)
        if where == "gradient":
            return StepLoss(_Spoil.apply(made.loss, poison), made.weight)
        norm: Any = model.norm
        with torch.no_grad():
            norm.running_var = norm.running_var.clone()  # the one before is needed for the gradient
            norm.running_var[1] = poison
        return made

    return loss


def config(**changes: Any) -> LoopConfig:
    """Four steps of four crops on the CPU, without trackers."""
    values: dict[str, Any] = {
        "steps": 4,
        "batch": BATCH,
        "warmup": 1,
        "checkpoint_every": 1,
        "device": "cpu",
        "trackers": (),
    }
    return LoopConfig(**{**values, **changes})


def fit(
    run: Path, loss: LossFunction = squared, model: nn.Module | None = None, *, task: Task | None = None,
    resume: bool = False, allow_change: tuple[str, ...] = (), dataset: Any = None, **changes: Any,
) -> dict[str, Tensor]:  # fmt: skip
    """``train`` on noise; the final weights."""
    run.mkdir(exist_ok=True)
    return train(
        small() if model is None else model, noise_dataset(ROWS) if dataset is None else dataset, task or Task(loss),
        config(**changes), run, identity={}, resume=resume, allow_change=allow_change,
    )  # fmt: skip


def curve(run: Path, name: str = "loss") -> list[float]:
    """One logged number, step after step."""
    return [json.loads(line)[name] for line in (run / "metrics.jsonl").read_text().splitlines()]


def named_rows(error: TrainingError) -> list[int]:
    """The rows that a message names; it must be one line."""
    text = str(error)
    assert "\n" not in text
    return [int(row) for row in text.split("Manifest rows in this batch: ")[1].split(". ")[0].split(", ")]


def furthest(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    """The largest difference of any two numbers of the same name."""
    assert one.keys() == two.keys()
    return max(float((value.double() - two[name].double()).abs().max()) for name, value in one.items())
