"""LesionClassifier: an encoder and a head, the same persistence verbs as PreMIM, and its parts."""

from __future__ import annotations

from prostate_mim.classifier.heads import GRADES, SIGNIFICANT, Head
from prostate_mim.classifier.model import LesionClassifier, flipped
from prostate_mim.classifier.parts import Layout

__all__ = ["GRADES", "SIGNIFICANT", "Head", "Layout", "LesionClassifier", "flipped"]
