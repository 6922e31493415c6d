"""What is reconstructed."""

from __future__ import annotations

from prostate_mim.mim.targets.voxels import block_moments

__all__ = ["block_moments"]
