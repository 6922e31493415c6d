"""Encoders. ARCHITECTURES is the whole registry: a literal dict, name -> builder."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from prostate_mim.errors import NotFoundError
from prostate_mim.nets.convnext import convnext_a, convnext_t
from prostate_mim.nets.densenet import densenet121
from prostate_mim.nets.effnet import effnet_lite0
from prostate_mim.nets.encoder import Encoder, StageInfo
from prostate_mim.nets.medicalnet import (
    medicalnet_resnet10,
    medicalnet_resnet18,
    medicalnet_resnet34,
    medicalnet_resnet50,
)
from prostate_mim.nets.resenc import resenc_b, resenc_l, resenc_s
from prostate_mim.nets.resnet import resnet10, resnet18, resnet34, resnet50
from prostate_mim.nets.stem import widen_stem

__all__ = ["ARCHITECTURES", "Encoder", "StageInfo", "build_encoder"]

ARCHITECTURES: dict[str, Callable[[], Encoder]] = {
    "resenc-s": resenc_s,
    "resenc-b": resenc_b,
    "resenc-l": resenc_l,
    "resnet10": resnet10,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "medicalnet-resnet10": medicalnet_resnet10,
    "medicalnet-resnet18": medicalnet_resnet18,
    "medicalnet-resnet34": medicalnet_resnet34,
    "medicalnet-resnet50": medicalnet_resnet50,
    "densenet121": densenet121,
    "effnet-lite0": effnet_lite0,
    "convnext-a": convnext_a,
    "convnext-t": convnext_t,
}


def build_encoder(architecture: str, in_channels: int = 1) -> Encoder:
    """A freshly initialised encoder (torch's global generator decides the weights).

    Args:
        architecture: a key of ``ARCHITECTURES``.
        in_channels: of its input; weights of all but the first begin at 0, see ``stem.widen_stem``.

    Raises:
        NotFoundError: unknown architecture; the nearest known name is suggested.
    """
    if architecture not in ARCHITECTURES:
        near = [*difflib.get_close_matches(architecture, ARCHITECTURES, n=1, cutoff=0.1), "resenc-s"][0]
        known = ", ".join(ARCHITECTURES)
        raise NotFoundError(f"architecture {architecture!r} is unknown; did you mean {near!r}? (known: {known})")
    encoder = ARCHITECTURES[architecture]()
    widen_stem(encoder, in_channels)
    return encoder
