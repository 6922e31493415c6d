"""Prediction: one probability and where it came from. No torch, so that a hospital machine can hold one."""

from __future__ import annotations

from dataclasses import dataclass


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
        flags: what is off with the image, one short line each, such as a field of view that no prostate series has;
            empty if nothing is. ``OnnxClassifier`` fills it by the checks that need no torch, the command
            ``predict`` by those and the outlier score; ``LesionClassifier.predict`` leaves it empty.
        reason: why that device: ``asked for``, or what ``auto`` found; empty of torch.
    """

    probability: float
    model: str
    revision: str
    spec: str
    device: str
    flags: tuple[str, ...] = ()
    reason: str = ""
