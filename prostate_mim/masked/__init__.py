"""Masked operators: a 3D CNN that computes with visible voxels only, exactly, and in proportion to them.

    context = MaskContext(hidden_blocks, block_zyx, size_zyx)      what is hidden in this batch
    features = context.hide(voxels, path="rows")                   voxels without the hidden ones
    stages = masked_twin(encoder)(features)                        the same network, the same parameters
    stages[-1].dense()                                             (N, C, d, h, w), zeros where hidden

Semantics: Tian et al. 2023 (SparK), section 3.2; submanifold convolution, Graham et al. 2018. Both paths compute the
same: ``dense`` at every position, masking again; ``rows`` at visible positions only.
"""

from __future__ import annotations

from prostate_mim.masked.choice import PATHS, measure_path
from prostate_mim.masked.context import Level, MaskContext
from prostate_mim.masked.convert import masked_twin
from prostate_mim.masked.features import MaskedFeatures

__all__ = ["PATHS", "Level", "MaskContext", "MaskedFeatures", "masked_twin", "measure_path"]
