"""CentrePool: weights in mm, numbers one can check by hand."""

from __future__ import annotations

import math

import pytest
import torch

from prostate_mim.nets.encoder import StageInfo
from prostate_mim.nets.pooling import POOLINGS, CentrePool, MeanPool

# Cells that look at the middle of their voxels, as of kernels as wide as their strides.
STAGES = (
    StageInfo(2, (1, 2, 2), (0.0, 0.5, 0.5)),
    StageInfo(3, (1, 4, 4), (0.0, 1.5, 1.5)),
    StageInfo(5, (2, 8, 8), (0.5, 3.5, 3.5)),
    StageInfo(7, (4, 16, 16), (1.5, 7.5, 7.5)),
)
SPACING = (3.0, 0.5, 0.5)


def features(value: float = 0.0, size: tuple[int, int, int] = (8, 32, 32)) -> list[torch.Tensor]:
    shapes = [[n // s for n, s in zip(size, stage.stride_zyx, strict=True)] for stage in STAGES]
    return [torch.full((2, stage.channels, *shape), value) for stage, shape in zip(STAGES, shapes, strict=True)]


def test_constant_features_pool_to_themselves() -> None:
    """Weights sum to one at every crop size; a constant has (almost) no deviation."""
    pool = CentrePool(STAGES, SPACING)
    for size in ((8, 32, 32), (12, 48, 80)):
        vector = pool(features(2.5, size))
        assert vector.shape == (2, pool.channels) == (2, 3 + 5 + 7 + 3 + 5)
        assert torch.allclose(vector[:, :15], torch.tensor(2.5))
        assert torch.allclose(vector[:, 15:], torch.tensor(math.sqrt(1e-5)))


def test_weight_falls_as_a_gaussian_in_mm() -> None:
    """Two cells of the middle stage, 2 mm apart along x: their weights differ as a Gaussian of 5 mm says."""
    pool = CentrePool(STAGES, SPACING)
    seen = []
    for x in (4, 5):  # of 8 cells of 2 mm: 1 mm and 3 mm from the centre
        values = features()
        values[1][:, 0, 4, 4, x] = 1
        seen.append(float(pool(values)[0, 0]))
    assert seen[1] / seen[0] == pytest.approx(math.exp(-0.5 * (3**2 - 1**2) / 5**2), rel=1e-5)


def test_weight_follows_where_cells_look() -> None:
    """Cells of kernel 3 and stride 4 look at voxels 0, 4, ...: the middle of 32 voxels, 15.5, is cell 3.875.

    The cells before and after it, 3 and 4, are 1.75 and 0.25 mm away, where middles of shares would be 1 and 1 mm.
    """
    pool = CentrePool([StageInfo(s.channels, s.stride_zyx) for s in STAGES], SPACING)
    seen = []
    for x in (3, 4):
        values = features()
        values[1][:, 0, 4, 4, x] = 1
        seen.append(float(pool(values)[0, 0]))
    assert seen[0] / seen[1] == pytest.approx(math.exp(-0.5 * (1.75**2 - 0.25**2) / 5**2), rel=1e-5)


def test_deviation_by_hand() -> None:
    """Features that are +1 left and -1 right of the centre have mean 0 and deviation 1."""
    values = features()
    values[1][..., :4] = 1
    values[1][..., 4:] = -1
    vector = CentrePool(STAGES, SPACING)(values)
    assert torch.allclose(vector[:, :3], torch.zeros(2, 3), atol=1e-6)
    assert torch.allclose(vector[:, 15:18], torch.ones(2, 3), atol=1e-4)


def test_gradient_of_constant_features_is_finite() -> None:
    """The root of a zero variance must not poison training (a plain square root would give NaN)."""
    values = [stage.requires_grad_() for stage in features(1.0)]
    CentrePool(STAGES, SPACING)(values).sum().backward()
    assert all(torch.isfinite(stage.grad).all() for stage in values[1:])
    zero = torch.zeros(1, requires_grad=True)  # negative control
    zero.square().sqrt().sum().backward()
    assert zero.grad is not None
    assert torch.isnan(zero.grad).all()


def test_mean_pool_by_hand() -> None:
    """Every cell counts alike: 1 of 8 in one corner makes a mean of 1/8; the place does not matter."""
    pool = MeanPool(STAGES, SPACING)
    vectors = []
    for corner in (0, -1):
        values = features(size=(4, 16, 16))
        values[2][:, 0, corner, corner, corner] = 1
        vectors.append(pool(values))
    assert float(vectors[0][0, 3]) == pytest.approx(1 / 8)
    assert float(vectors[0][0, 18]) == pytest.approx(math.sqrt(1 / 8 * (1 - 1 / 8) + 1e-5), rel=1e-4)
    assert torch.equal(*vectors)
    centred = [CentrePool(STAGES, SPACING)(values) for values in (features(1.0), features(2.0))]
    assert pool.channels == centred[0].shape[1] == vectors[0].shape[1]


def test_mean_pool_sees_what_centre_pool_does_not() -> None:
    """A change at the crop's edge, 20 mm from the middle: the mean moves by its share, the centre hardly."""
    before, after = features(size=(16, 96, 96)), features(size=(16, 96, 96))
    after[1][:, :, :, :, 0] = 1
    moved = {
        name: float((pool(STAGES, SPACING)(after) - pool(STAGES, SPACING)(before))[0, 0])
        for name, pool in POOLINGS.items()
    }
    assert moved["mean"] == pytest.approx(1 / 24)
    assert 0 <= moved["centre"] < 1e-4
    assert set(POOLINGS) == {"centre", "mean"}
