"""One optimiser step: micro-batches, the mean over the global batch, guards before any weight is touched."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from prostate_mim.engine.batch import Batch, Items
from prostate_mim.engine.distributed import gathered, is_sharded, total, unsynchronised
from prostate_mim.engine.schedule import warmup_cosine
from prostate_mim.engine.seeding import derive_seed
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.errors import ResourceError, TrainingError


@dataclass(frozen=True)
class StepLoss:
    """The loss of one micro-batch.

    Attributes:
        loss: () mean over what is counted.
        weight: how much is counted, in a unit of the task's choice. The loss of a step is the mean over micro-batches
            and processes with these weights, so it does not depend on how the batch is divided.
        values: numbers to log beside it.
    """

    loss: Tensor
    weight: Tensor | float = 1.0
    values: dict[str, float] = field(default_factory=dict)


# (model, batch, 0-based step) -> loss
LossFunction = Callable[[nn.Module, Batch, int], StepLoss]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator has said no. No other error is a reason to try again with less."""
    said = isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    return isinstance(error, torch.OutOfMemoryError) or said


class Stepper:
    """Takes optimiser steps.

    Args:
        accelerator: device and ranks.
        model: as the accelerator has prepared it.
        optimizer: likewise; each group's ``scale`` multiplies the schedule.
        loss_function: of the task.
        finish: raw items -> a batch on the device.
        config: of the loop.
        pieces: micro-batches per step; they double when memory runs out.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_function: LossFunction,
        finish: Callable[[Items], Batch],
        config: LoopConfig,
        pieces: int,
    ) -> None:
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.loss_function, self.finish, self.config, self.pieces = loss_function, finish, config, pieces

    def step(self, items: Items, step: int) -> dict[str, float]:
        """One step on this rank's share of a batch; numbers to log.

        Raises:
            TrainingError: voxels, loss, gradient or running statistics are not finite; no weight has changed.
            ResourceError: out of memory with one crop at a time, or on one of several ranks.
        """
        rate = warmup_cosine(step, peak=self.config.learning_rate, warmup=self.config.warmup, total=self.config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        kept = [buffer.clone() for buffer in self.model.buffers()]
        while True:
            try:
                values = self._attempt(items, step, kept)
                break
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            self._with_less(kept, len(items["draw"]), step)  # out of the except clause: it keeps the graph alive
        self._move(step)
        return {**values, "learning_rate": rate}

    def _move(self, step: int) -> None:
        """Change the weights. Not tried again: some of them may have been changed when memory runs out here."""
        try:
            self.optimizer.step()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise ResourceError(
                f"step {step + 1}: out of memory in the optimiser, so these weights are not kept; use a smaller "
                "architecture, or a device with more memory, and go on with --resume"
            ) from error

    def _attempt(self, items: Items, step: int, kept: list[Tensor]) -> dict[str, float]:
        self.optimizer.zero_grad()
        device = self.accelerator.device
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        bad: list[int] = []
        values: dict[str, float] = {}
        pieces = _split(items, self.pieces)
        for number, piece in enumerate(pieces):
            torch.manual_seed(derive_seed(self.config.seed, "step", step, self.accelerator.process_index, number))
            batch = self.finish(piece)
            self._check_voxels(batch, step, kept)
            last = number + 1 == len(pieces)
            with contextlib.nullcontext() if last else unsynchronised(self.accelerator, self.model):
                with torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                    made = self.loss_function(self.model, batch, step)
                weighted = made.loss * made.weight
                self.accelerator.backward(weighted)
            weight = torch.as_tensor(made.weight, dtype=torch.float64, device=device).detach()
            sums += torch.stack([weighted.detach().double(), weight])
            if not torch.isfinite(weighted) or not (last or bad or self._sound()):
                bad += batch["row"].tolist()
            for name, value in made.values.items():
                values[name] = values.get(name, 0.0) + value / len(pieces)
        sums = total(self.accelerator, sums)
        loss = sums[0] / sums[1].clamp(min=1e-12)
        norm = self._gradient_norm(sums[1])
        # Sound until then: it was the last. Where gradients are sharded, nobody can tell.
        suspects = (items if is_sharded() else pieces[-1])["row"].tolist()
        self._refuse(bad, suspects, step, kept, {"loss": loss, "gradient norm": norm})
        return {"loss": float(loss), "gradient_norm": float(norm), **values}

    def _gradient_norm(self, weight: Tensor) -> Tensor:
        """Turn the summed gradients into those of the mean, and clip them; their norm before that."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        # Ranks have averaged where the sum was wanted.
        torch._foreach_mul_(gradients, float(self.accelerator.num_processes / weight.clamp(min=1e-12)))
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _sound(self) -> bool:
        """Whether the gradients so far and the running statistics are finite on this rank."""
        found = [p.grad for p in self.model.parameters() if p.grad is not None]
        found += [b for b in self.model.buffers() if b.is_floating_point()]
        return bool(torch.stack([torch.isfinite(value).all() for value in found]).all()) if found else True

    def _check_voxels(self, batch: Batch, step: int, kept: list[Tensor]) -> None:
        finite = torch.isfinite(batch["voxels"]).flatten(1).all(1)
        if not finite.all():
            rows = [int(row) for row, good in zip(batch["row"], finite, strict=True) if not good]
            self._undo(kept)
            raise TrainingError(_message(step, "voxels are not finite", rows))

    def _refuse(
        self, bad: list[int], suspects: list[int], step: int, kept: list[Tensor], numbers: dict[str, Tensor]
    ) -> None:
        """Stop before the step where a number is not finite. Every rank comes to the same verdict."""
        wrong = [f"the {name} is {float(value)}" for name, value in numbers.items() if not torch.isfinite(value)]
        drifted = [b for b in self.model.buffers() if b.is_floating_point() and not torch.isfinite(b).all()]
        sick = total(self.accelerator, torch.tensor(float(bool(drifted)), device=self.accelerator.device))
        if sick > 0:
            wrong.append("running statistics are not finite")
        if not wrong:
            return
        self._undo(kept)
        rows = gathered(self.accelerator, bad) or gathered(self.accelerator, suspects)
        raise TrainingError(_message(step, " and ".join(wrong), rows))

    def _undo(self, kept: list[Tensor]) -> None:
        """As before the step: no gradients, and the running statistics of then."""
        self.optimizer.zero_grad()
        with torch.no_grad():
            for buffer, before in zip(self.model.buffers(), kept, strict=True):
                buffer.copy_(before)

    def _with_less(self, kept: list[Tensor], share: int, step: int) -> None:
        self._undo(kept)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.accelerator.num_processes > 1:
            raise ResourceError(
                f"step {step + 1}: out of memory on rank {self.accelerator.process_index}; go on with --resume and "
                f"--accumulate {2 * self.pieces} (named by --allow-change loop.accumulate)"
            )
        if self.pieces >= share:
            raise ResourceError(
                f"step {step + 1}: out of memory with one crop at a time; use a smaller --size or another architecture"
            )
        self.pieces = min(2 * self.pieces, share)
        sys.stderr.write(
            f"step {step + 1}: out of memory; going on with {self.pieces} micro-batches of at most "
            f"{-(-share // self.pieces)} crops, which gives the same numbers\n"
        )


def _split(items: Items, pieces: int) -> list[Items]:
    """Along the first axis, into at most ``pieces`` parts of nearly equal size."""
    parts = {name: value.tensor_split(min(pieces, len(value))) for name, value in items.items()}
    return [{name: values[k] for name, values in parts.items()} for k in range(min(pieces, len(items["draw"])))]


def _message(step: int, what: str, rows: list[int]) -> str:
    named = ", ".join(str(row) for row in dict.fromkeys(rows))
    return (
        f"step {step + 1}: {what}; no weight was changed. Manifest rows in this batch: {named}. Look at those volumes, "
        "lower the learning rate, or use fp32; the last checkpoint is intact"
    )
