"""Pretrain some configurations; run alone or by torchrun: ``python ranks.py manifest out '[{"name": ..., ...}]'``.

Each case may name ``architecture``, ``learning_rate``, ``method``, ``accumulate``, ``steps``, ``health_every``,
``resume``, ``synchronised`` (false is the control: batch norms see one process's share) and ``stop_at`` (rank 1 alone
gets SIGTERM before that step).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor

import prostate_mim.pretraining.run as verb
from prostate_mim.engine.augment import Augmentation
from prostate_mim.engine.batch import Batch
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.engine.step import StepLoss
from prostate_mim.mim import METHODS
from prostate_mim.pretraining import PretrainConfig, pretrain
from prostate_mim.pretraining.task import MimTask
from prostate_mim.spec import InputSpec

RANK = int(os.environ.get("RANK", "0"))


def config_of(case: dict[str, Any]) -> PretrainConfig:
    """Small crops, four to a step."""
    return PretrainConfig(
        architecture=case.get("architecture", "resenc-s"),
        spec=InputSpec(size_zyx=(8, 32, 32)),
        region_zyx=(16, 96, 96),
        method=METHODS[case.get("method", "fcmae")],
        augmentation=Augmentation(),
        loop=LoopConfig(
            steps=case.get("steps", 4), batch=4, warmup=2, checkpoint_every=2, device="cpu", seed=5, trackers=(),
            accumulate=case.get("accumulate", 1), learning_rate=case.get("learning_rate", 1e-3),
            health_every=case.get("health_every", 0),
        ),
    )  # fmt: skip


class Watched(MimTask):
    """Writes down whether parameters were sharded between steps; may be told to signal itself."""

    folder: Path
    stop_at: int | None = None

    def begin_step(self, model: nn.Module, step: int) -> None:
        """Before each step."""
        if RANK == 0 and step == 0:
            sharded = all(isinstance(parameter, DTensor) for parameter in model.parameters())
            kinds = sorted(
                {type(module).__name__ for module in model.modules() if "BatchNorm" in type(module).__name__}
            )
            (self.folder / "seen.json").write_text(json.dumps({"sharded": sharded, "norms": kinds}))
        if RANK == 1 and step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        super().begin_step(model, step)

    def loss(self, model: nn.Module, batch: Batch, step: int) -> StepLoss:
        """As it is."""
        return super().loss(model, batch, step)


def main() -> None:
    """All cases, one after another in the same processes."""
    manifest, out, cases = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    synchronise = verb.synchronise_norms
    for case in cases:
        folder = out / case["name"]
        folder.mkdir(parents=True, exist_ok=True)
        Watched.folder, Watched.stop_at = folder, case.get("stop_at")
        verb.MimTask = Watched  # type: ignore[misc]
        verb.synchronise_norms = synchronise if case.get("synchronised", True) else lambda model: model
        pretrain(manifest, folder, config_of(case), resume=case.get("resume", False))


if __name__ == "__main__":
    main()
