"""Occlusion against boxes moved by hand, and what is covered."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from saliency_parts import SPACING, SPEC, ball, brightness
from torch import Tensor, nn

from prostate_mim.errors import UsageError
from prostate_mim.saliency import crop_saliency
from prostate_mim.saliency.occlusion import box_voxels, occlusion
from prostate_mim.spec import InputSpec


class Sums(nn.Module):
    """A stand-in with a logit that one can add up: 60, plus given weights times the image and its masks."""

    def __init__(self, weights: Tensor, spec: InputSpec = SPEC) -> None:
        super().__init__()
        self.spec, self.name = spec, "sums"
        self.weights = nn.Parameter(weights)

    def forward(self, batch: Tensor) -> Tensor:
        return 60 + (batch * self.weights).sum((1, 2, 3, 4))


def test_equals_boxes_moved_by_hand() -> None:
    """A box of 4 x 8 x 8 voxels moved by half its size: the mean fall over the boxes that cover a voxel."""
    generator = torch.Generator().manual_seed(0)
    size = (8, 24, 32)
    model = Sums(torch.randn(1, *size, generator=generator) / 50, SPEC.with_size(size))
    batch = torch.randn(1, 1, *size, generator=generator)
    total, count = np.zeros(size), np.zeros(size)
    with torch.no_grad():
        for z in range(0, 5, 2):
            for y in range(0, 17, 4):
                for x in range(0, 25, 4):
                    covered = batch.clone()
                    covered[..., z : z + 4, y : y + 8, x : x + 8] = 0
                    box = (slice(z, z + 4), slice(y, y + 8), slice(x, x + 8))
                    total[box] += float(model(batch) - model(covered))
                    count[box] += 1
    expected = np.maximum(total / count, 0)
    found = occlusion(model, batch, (12.0, 4.0, 4.0))  # type: ignore[arg-type]
    assert expected.max() > 0 and (expected == 0).any()
    assert np.allclose(found, expected, atol=1e-4)  # of a logit of 60, where a probability would not move


def test_only_the_image_is_covered() -> None:
    """A network that reads the mask channel alone: an empty map. The control: one that reads the image."""
    size = (8, 32, 32)
    spec = SPEC.with_channels("t2w", "gland").with_size(size)
    batch = torch.ones(1, 2, *size)
    for image, gland in ((0.0, 1.0), (1.0, 0.0)):
        weights = torch.tensor([image, gland])[:, None, None, None].expand(2, *size).clone() / 100
        found = occlusion(Sums(weights, spec), batch)  # type: ignore[arg-type]
        assert (found.max() > 0) == (image > 0)


def test_the_hottest_box_covers_the_evidence() -> None:
    """A ball within half a box of the hottest place."""
    place = np.array([4.2, 40.0, 23.0])
    bright = ball(place)
    batch = torch.from_numpy(((bright - bright.mean()) / bright.std()).astype(np.float32))[None, None]
    hot = crop_saliency(brightness(), batch, method="occlusion", box_mm_zyx=(9, 6, 6))
    away = (np.argwhere(hot >= 0.999 * hot.max()).mean(0) - place) * SPACING
    assert (np.abs(away) <= (4.5, 3, 3)).all()


def test_boxes() -> None:
    """In voxels, at least one; what is larger than the crop or not above 0 is refused."""
    assert box_voxels((12.0, 12.0, 0.1), SPEC.spacing_mm_zyx, SPEC.size_zyx) == (4, 24, 1)
    for wrong in ((12.0, 40.0, 12.0), (0.0, 8.0, 8.0), (float("inf"), 8.0, 8.0), (float("nan"), 8.0, 8.0)):
        with pytest.raises(UsageError, match="box of"):
            box_voxels(wrong, SPEC.spacing_mm_zyx, SPEC.size_zyx)
