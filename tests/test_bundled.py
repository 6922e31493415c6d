"""The bundled encoder: what is in the package is what the card describes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from prostate_mim import PreMIM, list_models
from prostate_mim.hub.resolve import BUNDLED
from prostate_mim.nets import build_encoder
from prostate_mim.prediction import verify_model

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


def test_card_is_the_published_one() -> None:
    """The card in the package and the one in hub_cards are the same bytes; it states terms, data and limits."""
    card = (BUNDLED / NAME / "README.md").read_bytes()
    assert card == (ROOT / "hub_cards" / NAME / "README.md").read_bytes()
    text = card.decode()
    for stated in ("research only", "PROMISE12", "CC BY\n3.0", "Not a medical device", "heldout.json", "assumed"):
        assert stated in text


def test_loaded_is_not_fresh(encoder: PreMIM) -> None:
    """At least 99 % of kernels' values differ from a newly built network's, and float16 was adapted, key by key."""
    torch.manual_seed(1)
    fresh = build_encoder("resenc-s").state_dict()
    same = total = 0
    for key, value in encoder.encoder.state_dict().items():
        if value.ndim == 5:
            same, total = same + int((value == fresh[key]).sum()), total + value.numel()
    assert same / total < 0.01
    assert len(encoder.load_report.adapted) == encoder.load_report.loaded


def test_features_in_mm(encoder: PreMIM) -> None:
    """One coarse cell is 12 x 8 x 8 mm, and forward gives the stages that feature_info announces."""
    assert encoder.feature_info[-1].spacing_mm_zyx == (12.0, 8.0, 8.0)
    stages = encoder(torch.zeros(1, 1, 8, 32, 32))
    for info, stage in zip(encoder.feature_info, stages, strict=True):
        z, y, x = (n // s for n, s in zip((8, 32, 32), info.stride_zyx, strict=True))
        assert stage.shape == (1, info.channels, z, y, x)


def test_published_errors_beat_both_baselines() -> None:
    """The card's figures: on every held-out volume the network is below the block mean and interpolation."""
    published = json.loads((ROOT / "hub_cards" / NAME / "heldout_errors.json").read_text())
    errors = [error for each in published.values() for error in each]
    assert len(errors) == 8
    for error in errors:
        assert error["model"] < min(error["block_mean"], error["interpolation"], error["interpolation_centred"])
    assert f"{np.mean([error['model'] for error in errors]):.3f}" in (BUNDLED / NAME / "README.md").read_text()
