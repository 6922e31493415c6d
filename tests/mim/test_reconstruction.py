"""The baselines the card compares with, by hand; and that reconstruction keeps what was visible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from prostate_mim import PreMIM
from prostate_mim.errors import UsageError
from prostate_mim.health.masked_error import masked_errors
from prostate_mim.health.windows import Window
from prostate_mim.pictures import reconstruction_png, roc_png
from prostate_mim.preprocess import Crop
from prostate_mim.reconstruction import interpolate_hidden, load_mim, reconstruct
from prostate_mim.volume import Geometry

NAME = "resenc-s.mim-t2w"
SPACING = (3.0, 0.5, 0.5)


def crop(seed: int = 0) -> Crop:
    rng = np.random.default_rng(seed)
    voxels = rng.normal(size=(16, 96, 96)).astype(np.float32)
    return Crop(voxels, np.ones(voxels.shape, bool), Geometry(SPACING))


def test_a_ramp_is_interpolated_exactly() -> None:
    """Hidden between two visible voxels on a straight line along x, the only axis with visible ones: exact."""
    ramp = np.arange(5, dtype=np.float32).reshape(1, 1, 5)
    hidden = np.array([False, True, True, True, False]).reshape(1, 1, 5)
    assert interpolate_hidden(np.where(hidden, 99, ramp).astype(np.float32), hidden, SPACING) == pytest.approx(ramp)


def test_distance_counts_in_mm() -> None:
    """A hidden voxel 3 mm from a 0 along z and 0.5 mm from a 7 along x: (0/3 + 7/0.5) / (1/3 + 1/0.5) = 6."""
    voxels = np.zeros((2, 1, 2), np.float32)
    voxels[0, 0, 1] = 7
    hidden = np.zeros(voxels.shape, bool)
    hidden[0, 0, 0] = True
    assert interpolate_hidden(voxels, hidden, SPACING)[0, 0, 0] == pytest.approx(6)


def test_nothing_visible_gives_zero() -> None:
    """With no visible voxel along any axis the estimate is 0, the mean of a z-scored crop."""
    hidden = np.ones((2, 2, 2), bool)
    assert not interpolate_hidden(np.full((2, 2, 2), 5, np.float32), hidden, SPACING).any()


def test_white_noise_cannot_be_predicted() -> None:
    """Control for the masked error: on pure noise neither the network nor interpolation beats the block mean."""
    study = crop()
    windows = [Window(study.voxels, study.inside, None, None, 0)]
    with torch.inference_mode():
        error, _ = masked_errors(load_mim(NAME).model, windows, SPACING, 1, seed=1)
    assert error["block_mean"] == pytest.approx(1, abs=0.01)
    assert error["error"] > 0.95
    assert error["interpolation"] > 1


def test_visible_voxels_are_returned_untouched() -> None:
    """The filled crop equals the study wherever it was visible, and about 60 % was hidden."""
    study = crop(1)
    hidden, filled = reconstruct(load_mim(NAME), study, seed=2)
    assert np.array_equal(filled[~hidden], study.voxels[~hidden])
    assert hidden.mean() == pytest.approx(0.6, abs=0.01)
    assert not np.array_equal(filled[hidden], study.voxels[hidden])


def test_release_without_decoder_is_refused(tmp_path: Path) -> None:
    """An encoder without its decoder says that it cannot reconstruct."""
    torch.manual_seed(0)
    with pytest.raises(UsageError, match="no decoder"):
        load_mim(PreMIM().save_pretrained(tmp_path / "e"))


def test_pictures_are_png() -> None:
    """Both pictures come out as PNG files of a sensible size."""
    study = crop(2)
    hidden = np.zeros(study.voxels.shape, bool)
    for png in (
        reconstruction_png(study.voxels, hidden, study.voxels, title="t"),
        roc_png({"a": ([0, 1, 0, 1], [0.1, 0.9, 0.4, 0.35])}),
    ):
        assert png.startswith(b"\x89PNG")
        assert len(png) > 5000
