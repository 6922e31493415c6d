"""A small window, a small configuration and a model for them."""

from __future__ import annotations

import torch

from prostate_mim.health import HealthConfig
from prostate_mim.mim import METHODS, BlockGrid, MaskedImageModel, Method
from prostate_mim.nets import build_encoder
from prostate_mim.spec import InputSpec

SPEC = InputSpec(size_zyx=(4, 32, 32))
SMALL = HealthConfig(studies=4, windows=4, cells=24, pictured=2, folds=3, neighbours=3, centre_studies=2)


def make_model(method: Method = METHODS["zerofill"], seed: int = 0) -> MaskedImageModel:
    """resenc-s with random weights for the small window."""
    torch.manual_seed(seed)
    encoder = build_encoder("resenc-s")
    grid = BlockGrid.from_mm((12.0, 8.0, 8.0), SPEC.spacing_mm_zyx, SPEC.size_zyx, encoder.total_stride_zyx)
    return MaskedImageModel(encoder, grid, method, SPEC.spacing_mm_zyx)
