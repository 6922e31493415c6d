"""The one training loop: draw, forward, check, step, log, save. Pretraining and fine-tuning both run it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from prostate_mim.engine.checkpoint import load_newest, restore, save_checkpoint
from prostate_mim.engine.data import DrawDataset, draw_loader
from prostate_mim.engine.schedule import warmup_cosine
from prostate_mim.engine.tracker import Tracker, progress_bar
from prostate_mim.errors import BackendError, TrainingError, UsageError

Batch = dict[str, Tensor]
# (model, batch, step) -> loss, and numbers to log beside it
LossFunction = Callable[[nn.Module, Batch, int], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to train.

    Attributes:
        steps: optimiser steps in all.
        batch: crops per step.
        learning_rate: peak of the schedule.
        weight_decay: AdamW's, on matrices and kernels only.
        warmup: steps of linear warm-up.
        clip_norm: gradients are scaled down to this norm.
        checkpoint_every: steps between checkpoints.
        workers: loader processes.
        precision: ``fp32`` or ``bf16`` (on CPUs, bf16 kernels of torch 2.13 can give NaN gradients for small crops;
            the loop stops where they do).
        device: ``auto``, ``cpu`` or ``cuda``.
        seed: seed of everything random.
    """

    steps: int = 1000
    batch: int = 8
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: int = 50
    clip_norm: float = 5.0
    checkpoint_every: int = 100
    workers: int = 0
    precision: str = "fp32"
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "learning_rate", "checkpoint_every", "clip_norm"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.precision not in ("fp32", "bf16"):
            raise UsageError(f"precision {self.precision!r} is unknown; choose fp32 or bf16")


def make_accelerator(device: str) -> Accelerator:
    """An accelerator on the asked-for device. Precision is the loop's own: accelerate fixes it once per process.

    Raises:
        BackendError: CUDA was asked for and there is none, or this process has already settled on another device.
        UsageError: unknown device.
    """
    pick_device(device)
    try:
        return Accelerator(cpu=device == "cpu")
    except ValueError as error:
        raise BackendError(f"device {device}: this process has trained on another one; start a new process") from error


def pick_device(device: str) -> torch.device:
    """``auto`` is CUDA where it works, else the CPU.

    Raises:
        BackendError: CUDA was asked for and there is none.
        UsageError: unknown device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {device!r} is unknown; choose auto, cpu or cuda")
    usable = torch.cuda.is_available()
    if device == "cuda" and not usable:
        raise BackendError("device cuda was asked for, but torch finds no usable CUDA GPU; use --device cpu")
    return torch.device("cuda" if usable and device != "cpu" else "cpu")


def train(
    model: nn.Module,
    dataset: DrawDataset,
    loss_function: LossFunction,
    config: LoopConfig,
    run: Path,
    *,
    identity: dict[str, Any],
    resume: bool = False,
    label: str = "training",
) -> nn.Module:
    """Train ``model`` in place and return it on the CPU.

    Args:
        identity: everything that defines the run; a resumed run must match it.
        resume: go on from the newest checkpoint in ``run``; start anew where there is none.
        label: what the progress bar calls it.

    Raises:
        TrainingError: a loss or gradient norm is not finite; no weight has been changed by it.
        UsageError: resuming with another configuration.
    """
    accelerator = make_accelerator(config.device)
    optimizer = torch.optim.AdamW(_groups(model, config.weight_decay), lr=config.learning_rate)
    identity = json.loads(json.dumps({**identity, **dataclasses.asdict(config)}))
    checkpoint = load_newest(run) if resume else None
    first = 0
    if checkpoint is not None:
        _same_run(run, checkpoint.state["config"], identity)
        restore(checkpoint, model, optimizer)
        first = checkpoint.step
    loader = draw_loader(dataset, first * config.batch, config.steps * config.batch, config.batch, config.workers)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    wrapped.train()
    columns = ("loss {task.fields[loss]}", "{task.fields[rate]} studies/s")
    with Tracker(run, first) as tracker, progress_bar(*columns) as bar:
        task = bar.add_task(label, total=config.steps, completed=first, loss="-", rate="-")
        last = time.monotonic()
        for step, batch in enumerate(loader, first):
            values = _step(accelerator, wrapped, optimizer, loss_function, batch, step, config)
            now = time.monotonic()
            values["studies_per_second"], last = round(len(batch["voxels"]) / (now - last), 2), now
            tracker.log(step + 1, **values)
            bar.update(task, advance=1, loss=f"{values['loss']:.3f}", rate=f"{values['studies_per_second']:.1f}")
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                bare = accelerator.unwrap_model(wrapped)
                save_checkpoint(run, step + 1, bare, optimizer.optimizer, identity)
    trained: nn.Module = accelerator.unwrap_model(wrapped)
    return trained.cpu().eval()


def _step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Any,
    loss_function: LossFunction,
    batch: Batch,
    step: int,
    config: LoopConfig,
) -> dict[str, float]:
    rate = warmup_cosine(step, peak=config.learning_rate, warmup=config.warmup, total=config.steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        loss, values = loss_function(model, batch, step)
    _finite(loss, "loss", batch, step)
    optimizer.zero_grad()
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
    _finite(norm, "gradient norm", batch, step)
    optimizer.step()
    return {"loss": float(loss.detach()), "learning_rate": rate, "gradient_norm": float(norm), **values}


def _finite(value: Tensor, name: str, batch: Batch, step: int) -> None:
    if not torch.isfinite(value).all():
        rows = ", ".join(str(int(row)) for row in batch["row"])
        raise TrainingError(
            f"step {step + 1}: the {name} is {float(value)}; no weight was changed. Manifest rows in this batch: "
            f"{rows}. Look at those volumes, lower the learning rate, or use fp32; the last checkpoint is intact"
        )


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay kernels and matrices; leave biases, norms and tokens alone."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trainable if p.squeeze().ndim > 1]
    others = [p for p in trainable if p.squeeze().ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _same_run(run: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    plain = {**now, "device": None, "workers": None}
    earlier = {**before, "device": None, "workers": None}
    changed = sorted(k for k in plain.keys() | earlier.keys() if plain.get(k) != earlier.get(k))
    if changed:
        what = ", ".join(f"{k} {earlier.get(k)!r} -> {plain.get(k)!r}" for k in changed)
        raise UsageError(f"{run}: --resume with another configuration ({what}); use the same one, or a new --out")
