"""From the encoder's stages back to voxels."""

from __future__ import annotations

from prostate_mim.mim.decoders.topdown import TopDownDecoder

__all__ = ["TopDownDecoder"]
