"""Fixtures of the volume tests: a small oblique volume, and the folder of real data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prostate_mim.volume import Geometry, Volume

PROJECT = Path(__file__).resolve().parents[2]


def rotation(degrees_x: float, degrees_z: float) -> np.ndarray:
    """(3, 3) rotation about the patient's x axis, then z."""
    a, b = np.deg2rad([degrees_x, degrees_z])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return about_z @ about_x


@pytest.fixture(scope="session")
def make_volume() -> Callable[..., Volume]:
    """Build an oblique volume of random voxels."""

    def build(
        spacing_mm_zyx: tuple[float, float, float] = (3.0, 0.5, 0.6),
        shape: tuple[int, int, int] = (5, 7, 9),
        dtype: str = "i2",
        degrees: tuple[float, float] = (12.0, 5.0),
    ) -> Volume:
        voxels = np.random.default_rng(7).integers(0, 100, shape).astype(dtype)
        return Volume(voxels, Geometry(spacing_mm_zyx, (-41.5, 12.25, -30.125), rotation(*degrees)), "made")

    return build


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, or a skip that says why."""
    folder = Path(os.environ.get("PROSTATE_MIM_REAL_DATA", PROJECT / ".." / "shared" / "data"))
    if not (folder / "prostatex").is_dir():
        pytest.skip(f"no real data at {folder}; set PROSTATE_MIM_REAL_DATA to the folder that holds prostatex/")
    return folder
