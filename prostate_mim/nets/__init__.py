"""Encoders. ARCHITECTURES is the whole registry: a literal dict, name -> builder."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from prostate_mim.errors import NotFoundError
from prostate_mim.nets.encoder import Encoder, StageInfo
from prostate_mim.nets.resenc import resenc_s

__all__ = ["ARCHITECTURES", "Encoder", "StageInfo", "build_encoder"]

ARCHITECTURES: dict[str, Callable[[], Encoder]] = {
    "resenc-s": resenc_s,
}


def build_encoder(architecture: str) -> Encoder:
    """A freshly initialised encoder (torch's global generator decides the weights).

    Raises:
        NotFoundError: unknown architecture; the nearest known name is suggested.
    """
    if architecture not in ARCHITECTURES:
        near = difflib.get_close_matches(architecture, ARCHITECTURES, n=1, cutoff=0.0)[0]
        known = ", ".join(ARCHITECTURES)
        raise NotFoundError(f"architecture {architecture!r} is unknown; did you mean {near!r}? (known: {known})")
    return ARCHITECTURES[architecture]()
