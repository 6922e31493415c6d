"""Prediction: one probability and where it came from. No torch, so that a hospital machine can hold one."""

from __future__ import annotations

from dataclasses import dataclass

from prostate_mim.manifest import Point
from prostate_mim.volume import Volume

NO_POSITION = "no position: centre of the image"


@dataclass(frozen=True)
class Prediction:
    """One probability and where it came from.

    Attributes:
        probability: of clinically significant cancer (whatever label 1 meant in fine-tuning), 0 to 1.
        model: name of the classifier.
        revision: content hash of its weights.
        spec: fingerprint of the preprocessing.
        device: where it was computed: ``cpu`` or ``cuda`` of torch, ONNX Runtime's execution provider, or
            ``OpenVINO:CPU``.
        flags: what to know before the number is used, one short line each; empty if nothing is. ``NO_POSITION`` where
            a model of lesions was given no place; and what is off with the image, such as a field of view that no
            prostate series has: ``OnnxClassifier`` finds it by the checks that need no torch, the command ``predict``
            by those and the outlier score, ``LesionClassifier.predict`` does not look.
        reason: why that device: ``asked for``, or what ``auto`` found; of torch, that the model lies there.
        position_mm_lps: (x, y, z) around which the model looked.
    """

    probability: float
    model: str
    revision: str
    spec: str
    device: str
    flags: tuple[str, ...] = ()
    reason: str = ""
    position_mm_lps: Point | None = None


def looked_at(volume: Volume, position_mm_lps: Point | None) -> Point:
    """(x, y, z) in mm of what was asked for: the position, else the centre of the image, to a micrometre."""
    place = volume.centre_mm_lps.round(3) if position_mm_lps is None else position_mm_lps
    x, y, z = (float(value) for value in place)
    return x, y, z


def place_flags(volume: Volume, position_mm_lps: Point | None, whole_study: bool) -> tuple[str, ...]:
    """``NO_POSITION`` where a lesion should have a place and has none.

    Args:
        volume: the study; one slice is a crop, and so lies around its lesion.
        position_mm_lps: what was asked for.
        whole_study: the model pools over the whole crop: the centre is what it was trained on.
    """
    return (NO_POSITION,) if position_mm_lps is None and not whole_study and volume.shape_zyx[0] > 1 else ()
