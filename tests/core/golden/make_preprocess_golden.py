"""Make preprocess.npz: run from the repository root, only when the numerics are changed on purpose (CHANGELOG)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prostate_mim.preprocess import preprocess
from prostate_mim.spec import InputSpec
from prostate_mim.volume import Geometry, Volume

SPEC = InputSpec((3.0, 0.5, 0.5), (5, 20, 24))
SPACING_MM_ZYX = (2.0, 0.2, 0.8)  # z and y become coarser (anti-aliased), x finer; y and x do not fill the crop
CENTRE_MM_LPS = (7.0, 3.1, 5.1)


def make_volume() -> Volume:
    """(7, 40, 14) int16: a gradient, blobs, noise and a bright outlier for the clip to catch."""
    z, y, x = np.meshgrid(np.arange(7), np.arange(40), np.arange(14), indexing="ij")
    smooth = 300 + 20 * z - 5 * y + 100 * np.sin(x / 2.5)
    noise = np.random.default_rng(20).normal(0, 25, smooth.shape)
    voxels = (smooth + noise).astype(np.int16)
    voxels[3, 16, 6:9] = 6000
    return Volume(voxels, Geometry(SPACING_MM_ZYX))


if __name__ == "__main__":
    volume = make_volume()
    expected = preprocess(volume, SPEC, CENTRE_MM_LPS)
    np.savez_compressed(Path(__file__).with_name("preprocess.npz"), voxels=volume.voxels, expected=expected)
