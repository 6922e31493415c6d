"""The bundled encoder: what is in the package is what the card describes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from prostate_mim import PreMIM, list_models
from prostate_mim.hub.resolve import BUNDLED
from prostate_mim.loading import verify_model

ROOT = Path(__file__).resolve().parent.parent
NAME = "resenc-s.mim-t2w"


@pytest.fixture(scope="module")
def encoder() -> PreMIM:
    return PreMIM.from_pretrained(NAME)


def test_listed_and_small() -> None:
    """It is listed, and the whole folder is at most 12 MB."""
    assert NAME in list_models()
    assert sum(path.stat().st_size for path in (BUNDLED / NAME).iterdir()) <= 12_000_000


def test_golden_sample_is_reproduced() -> None:
    """The stored golden sample comes out within 1e-3 on this machine."""
    assert verify_model(NAME)["golden_difference"] < 1e-3


def test_the_folder_is_the_published_one() -> None:
    """What is in the package is what lies in hub_cards, byte for byte; the card states terms, data and limits."""
    for path in (BUNDLED / NAME).iterdir():
        assert path.read_bytes() == (ROOT / "hub_cards" / NAME / path.name).read_bytes(), path.name
    text = (BUNDLED / NAME / "README.md").read_text()
    for stated in ("research only", "PROMISE12", "CC-BY-3.0", "Not a medical device", "heldout.json", "assumed"):
        assert stated in text


def test_features_in_mm(encoder: PreMIM) -> None:
    """One coarse cell is 12 x 8 x 8 mm, and forward gives the stages that feature_info announces."""
    assert encoder.feature_info[-1].spacing_mm_zyx == (12.0, 8.0, 8.0)
    stages = encoder(torch.zeros(1, 1, 8, 32, 32))
    for info, stage in zip(encoder.feature_info, stages, strict=True):
        z, y, x = (n // s for n, s in zip((8, 32, 32), info.stride_zyx, strict=True))
        assert stage.shape == (1, info.channels, z, y, x)


def test_the_published_error_beats_interpolation() -> None:
    """On held-out volumes the network is below interpolation, also where that knows each block's mean."""
    published = json.loads((ROOT / "hub_cards" / NAME / "results.json").read_text())["masked_error"]
    assert published["volumes"] == 8
    assert published["minus_interpolation"][2] < 0
    assert published["model"][0] < min(published[key][0] for key in ("block_mean", "interpolation_with_true_mean"))
