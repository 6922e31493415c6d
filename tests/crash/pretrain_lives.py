"""A short pretraining with everything that has a memory: a teacher whose features are the target, an average."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from small_training import die_in_step

from prostate_mim.engine.settings import LoopConfig
from prostate_mim.mim import Method
from prostate_mim.pretraining import PretrainConfig, pretrain
from prostate_mim.spec import InputSpec

TEACHING = PretrainConfig(
    spec=InputSpec(size_zyx=(8, 32, 32)),
    region_zyx=(12, 96, 96),
    method=Method(target="features", strategy="random", ratio="0.5"),
    loop=LoopConfig(
        steps=8, batch=2, warmup=2, ema=0.9, checkpoint_every=2, keep_last=4, device="cpu", seed=5, trackers=()
    ),
)


def teaching_with(**loop: Any) -> PretrainConfig:
    """The same with another loop."""
    return dataclasses.replace(TEACHING, loop=dataclasses.replace(TEACHING.loop, **loop))


def killed(say: Any, manifest: str, run: str, at: int, **loop: Any) -> None:
    """Pretrain, and be gone in the middle of the optimiser's step ``at``."""
    die_in_step(at)
    pretrain(manifest, run, teaching_with(**loop), resume=Path(run).exists())
