"""From the encoder's features to the target's values: one decoder a file. DECODERS is the whole registry."""

from __future__ import annotations

from collections.abc import Sequence

from prostate_mim.errors import UsageError
from prostate_mim.mim.decoders.base import Decoder
from prostate_mim.mim.decoders.light import LightDecoder
from prostate_mim.mim.decoders.linear import LinearDecoder
from prostate_mim.mim.decoders.topdown import TopDownDecoder
from prostate_mim.mim.decoders.unet import UNetDecoder
from prostate_mim.mim.lookup import look_up
from prostate_mim.mim.targets import Target
from prostate_mim.nets.encoder import StageInfo

__all__ = ["DECODERS", "Decoder", "build_decoder"]

# name -> constructor of (all stages of the encoder, values per cell).
DECODERS: dict[str, type[LightDecoder | TopDownDecoder | UNetDecoder | LinearDecoder]] = {
    "light": LightDecoder,
    "topdown": TopDownDecoder,
    "unet": UNetDecoder,
    "linear": LinearDecoder,
}


def build_decoder(name: str, stages: Sequence[StageInfo], target: Target) -> Decoder:
    """The decoder called ``name``, freshly initialised (torch's global generator decides the weights).

    Args:
        name: a key of ``DECODERS``.
        stages: all stages of the encoder (``encoder.stage_info``).
        target: what it predicts; gives the values per cell.

    Raises:
        NotFoundError: unknown name; the nearest known one is suggested.
        UsageError: the decoder predicts voxels and the target is something else, naming both.
    """
    build = look_up("decoder", name, DECODERS)
    if build.needs_voxelwise and not target.voxelwise:
        raise UsageError(
            f"decoder {name!r} predicts voxels, but target {target.name!r} is not one value per voxel; "
            "use decoder 'light' or 'linear', or a target such as 'block'"
        )
    return build(stages, target.channels(stages[-1].stride_zyx))
