"""Whether loading hides behind a masked pretraining step: the loader benchmark's last part."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from prostate_mim.engine.augment import Augmentation
from prostate_mim.engine.batch import finish_batch
from prostate_mim.engine.data import DrawDataset
from prostate_mim.engine.loader import DrawLoader
from prostate_mim.mim import METHODS, BlockGrid, MaskedImageModel, MimBatch, random_hidden_blocks
from prostate_mim.nets import build_encoder

ARCHITECTURE = "resenc-s"
BLOCK_MM_ZYX = (12.0, 8.0, 8.0)
RATIO = 0.6


def share_of_waiting(dataset: DrawDataset, augmentation: Augmentation, batch: int, steps: int) -> dict[str, Any]:
    """Medians over whole training steps with one worker; the first two steps are not counted.

    Returns:
        a line of JSON: seconds of a step, seconds and share of it spent waiting for raw crops, and finishing them.
    """
    spec = dataset.spec
    encoder = build_encoder(ARCHITECTURE)
    grid = BlockGrid.from_mm(BLOCK_MM_ZYX, spec.spacing_mm_zyx, spec.size_zyx, encoder.total_stride_zyx)
    model = MaskedImageModel(encoder, grid, METHODS["fcmae"], spec.spacing_mm_zyx)
    model = model.to(memory_format=torch.channels_last_3d).train()
    optimiser = torch.optim.AdamW(model.parameters())
    generator = torch.Generator().manual_seed(0)
    times: list[tuple[float, float, float]] = []
    loader = DrawLoader(dataset, first_step=0, last_step=steps + 2, batch=batch, workers=1)
    started = time.perf_counter()
    for items in loader:
        loaded = time.perf_counter()
        crops = finish_batch(items, "cpu", spec, augmentation, 0)
        finished = time.perf_counter()
        hidden = random_hidden_blocks(batch, grid.grid_zyx, RATIO, generator)
        loss = model(MimBatch(crops["voxels"], crops["inside"], hidden)).loss
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        now = time.perf_counter()
        times.append((now - started, loader.last_wait_seconds, finished - loaded))
        started = now
    step, wait, finish = (statistics.median(column) for column in zip(*times[2:], strict=True))
    return {
        "kind": "step", "arch": ARCHITECTURE, "batch": batch, "workers": 1, "steps": steps,
        "step_seconds": round(step, 3), "wait_seconds": round(wait, 5), "wait_percent": round(100 * wait / step, 2),
        "finish_seconds": round(finish, 4), "finish_percent": round(100 * finish / step, 1),
    }  # fmt: skip
