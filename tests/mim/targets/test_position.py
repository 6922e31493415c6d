"""Where a cell lies: numbers by hand, affine maps, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prostate_mim.errors import UsageError
from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.targets import TargetSource, build_target
from prostate_mim.mim.targets.position import SCALE_MM

CELL, GRID = (2, 4, 4), BlockGrid((2, 4, 4), (2, 2, 2))
SPACING = (3.0, 0.5, 0.75)


def values(place: Tensor | None, n: int = 1) -> Tensor:
    """In mm."""
    voxels = torch.zeros(n, 1, *GRID.size_zyx, dtype=torch.float64)
    source = TargetSource(voxels, torch.ones_like(voxels, dtype=torch.bool), place=place)
    return SCALE_MM * build_target("position", SPACING).values(source, GRID, CELL)


def test_cells_of_a_crop_in_the_middle() -> None:
    """Two cells an axis: their middles lie half a cell to either side, in mm, whatever the image holds."""
    found = values(None)
    assert found.shape == (1, 3, 2, 2, 2)
    assert found[0, 0, :, 0, 0].tolist() == pytest.approx([-3.0, 3.0])
    assert found[0, 1, 0, :, 0].tolist() == pytest.approx([-1.0, 1.0])
    assert found[0, 2, 0, 0].tolist() == pytest.approx([-1.5, 1.5])
    assert found[0, 0, 0].unique().tolist() == pytest.approx([-3.0])  # z changes along z alone


def test_a_shift_and_a_quarter_turn() -> None:
    """Of two samples one is shifted by (1, 2, -4) voxels, the other turned in-plane; each has its own answer."""
    shift, turn = torch.zeros(3, 4), torch.zeros(3, 4)
    shift[:, :3], shift[:, 3] = torch.eye(3), torch.tensor([1.0, 2.0, -4.0])
    turn[0, 0], turn[1, 2], turn[2, 1] = 1, 1, -1  # y of the study is x of the crop, x is -y
    shifted, turned = values(torch.stack([shift, turn]), n=2)
    moved = torch.tensor([3.0, 1.0, -3.0], dtype=torch.float64)[:, None, None, None]
    torch.testing.assert_close(shifted, values(None)[0] + moved)
    assert turned[1, 0, 0].tolist() == pytest.approx([-1.0, 1.0])
    assert turned[2, 0, :, 0].tolist() == pytest.approx([1.5, -1.5])


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 3, 3), (1, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    """One (3, 4) map a sample; the message says what was found."""
    with pytest.raises(UsageError, match=r"expects a place of shape \(1, 3, 4\), found \("):
        values(torch.zeros(shape))
