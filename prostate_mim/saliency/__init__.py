"""What a classifier looked at: CAM and occlusion maps on the grid of the study, and checks of such maps.

Most names load when they are used: to place a map, and to know the methods, needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prostate_mim.saliency.placing import on_grid_of

if TYPE_CHECKING:
    from prostate_mim.saliency.explanation import Explanation, crop_saliency, explain, saliency, write_saliency
    from prostate_mim.saliency.sanity import Randomised, cascade, deletion, depends_on_weights, rank_correlation, ssim
    from prostate_mim.saliency.thumbnail import saliency_png

METHODS = ("gradcam", "hirescam", "occlusion")

__all__ = [
    "METHODS", "Explanation", "Randomised", "cascade", "crop_saliency", "deletion", "depends_on_weights", "explain",
    "on_grid_of", "rank_correlation", "saliency", "saliency_png", "ssim", "write_saliency",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'prostate_mim.saliency' has no attribute {name!r}")
    from prostate_mim.saliency import explanation, sanity, thumbnail

    home = next(module for module in (explanation, sanity, thumbnail) if hasattr(module, name))
    globals()[name] = value = getattr(home, name)
    return value


def __dir__() -> list[str]:
    return __all__
