"""What a classifier looked at: CAM and occlusion maps on the grid of the study, and checks of such maps."""

from __future__ import annotations

from prostate_mim.saliency.explanation import (
    METHODS,
    Explanation,
    crop_saliency,
    explain,
    saliency,
    write_saliency,
)
from prostate_mim.saliency.placing import on_grid_of
from prostate_mim.saliency.sanity import Randomised, cascade, deletion, depends_on_weights, rank_correlation, ssim
from prostate_mim.saliency.thumbnail import saliency_png

__all__ = [
    "METHODS", "Explanation", "Randomised", "cascade", "crop_saliency", "deletion", "depends_on_weights", "explain",
    "on_grid_of", "rank_correlation", "saliency", "saliency_png", "ssim", "write_saliency",
]  # fmt: skip
