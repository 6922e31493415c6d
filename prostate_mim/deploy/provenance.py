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
        device: where it was computed: ``cpu`` or ``cuda``, or ONNX Runtime's execution provider.
    """

    probability: float
    model: str
    revision: str
    spec: str
    device: str
