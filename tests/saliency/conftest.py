"""Networks whose evidence lies at a known place, and one that was trained to find a bright ball."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # saliency_parts.py
from saliency_parts import ball_crop, classifier_of, small_chain, train

from prostate_mim.classifier import LesionClassifier


@pytest.fixture(scope="session")
def trained() -> LesionClassifier:
    """Label 1: there is a bright ball somewhere; some seconds of training, and it is right about new crops."""
    model = classifier_of(small_chain(torch.Generator().manual_seed(1)))
    generator = torch.Generator().manual_seed(2)
    train(model, generator, steps=80)
    crops = [ball_crop(generator, ball=bool(n % 2))[0] for n in range(40)]
    with torch.inference_mode():
        right = [(float(model(crop[None])[0]) > 0) == bool(n % 2) for n, crop in enumerate(crops)]
    assert sum(right) >= 36
    return model
