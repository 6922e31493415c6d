"""Fixtures shared by the whole suite: a small phantom cohort, a tiny fast encoder release, the real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve phantom studies on disk; the manifest's path."""
    from prostate_mim.phantom import write_cohort

    return write_cohort(tmp_path_factory.mktemp("cohort"), 12, seed=3)


@pytest.fixture(scope="session")
def small_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release folder of resenc-s with random weights and a small crop: fast, and not the bundled one."""
    import torch

    from prostate_mim.encoder import PreMIM
    from prostate_mim.spec import InputSpec

    torch.manual_seed(0)
    model = PreMIM("resenc-s", InputSpec(size_zyx=(8, 32, 32)), name="resenc-s.random")
    return model.save_pretrained(tmp_path_factory.mktemp("releases") / "small")
