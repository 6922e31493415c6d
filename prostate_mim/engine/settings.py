"""LoopConfig: how long, how fast and with what a run trains. Plain values, so that they can be written down."""

from __future__ import annotations

from dataclasses import dataclass

from prostate_mim.errors import UsageError

PRECISIONS = ("fp32", "bf16")
MEMORY_FORMATS = ("auto", "channels_last", "contiguous")


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to train.

    Attributes:
        steps: optimiser steps in all.
        batch: crops per optimiser step, over all processes and micro-batches together.
        learning_rate: peak of the schedule.
        weight_decay: AdamW's, on matrices and kernels only.
        warmup: steps of linear warm-up.
        clip_norm: gradients are scaled down to this norm.
        layer_decay: factor on the learning rate for each resolution further from the head (1 = none; fine-tuning).
        ema: momentum of the moving average of weights that is published instead of the last ones; 0 = none.
        accumulate: micro-batches per step and process; more need less memory and give the same numbers.
        checkpoint_every: steps between checkpoints.
        keep_last: newest checkpoints to keep.
        keep_best: keep the checkpoint with the lowest score too, where the run has a score.
        health_every: steps between looks at what has been learnt; 0 = never.
        workers: loader processes.
        loader_timeout: seconds to wait for a loader process before the run stops and says on what it waited.
        precision: ``fp32`` or ``bf16`` (autocast).
        memory_format: ``channels_last``, ``contiguous``, or ``auto``: measured at the start on accelerators, and
            channels last on CPUs, where a measured choice could differ between a run and its repetition.
        compile: compile the model with ``torch.compile``.
        device: ``auto``, ``cpu`` or ``cuda``.
        trackers: besides metrics.jsonl: ``tensorboard``, ``mlflow``, ``wandb``.
        seed: seed of everything random.
    """

    steps: int = 1000
    batch: int = 8
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: int = 50
    clip_norm: float = 5.0
    layer_decay: float = 1.0
    ema: float = 0.0
    accumulate: int = 1
    checkpoint_every: int = 100
    keep_last: int = 2
    keep_best: bool = False
    health_every: int = 0
    workers: int = 0
    loader_timeout: float = 120.0
    precision: str = "fp32"
    memory_format: str = "auto"
    compile: bool = False
    device: str = "auto"
    trackers: tuple[str, ...] = ("tensorboard",)
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("steps", "batch", "learning_rate", "checkpoint_every", "clip_norm", "accumulate", "keep_last")
        for name in (*positive, "layer_decay", "loader_timeout"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in ("warmup", "weight_decay", "health_every", "workers"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must not be negative")
        if not 0 <= self.ema < 1:
            raise UsageError(f"ema is {self.ema}; it must be at least 0 and below 1, for example 0.999")
        if self.layer_decay > 1:
            raise UsageError(f"layer_decay is {self.layer_decay}; it must be at most 1, for example 0.75")
        for name, allowed in (("precision", PRECISIONS), ("memory_format", MEMORY_FORMATS)):
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} {getattr(self, name)!r} is unknown; choose {' or '.join(allowed)}")
