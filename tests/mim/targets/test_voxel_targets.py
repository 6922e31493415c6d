"""Targets that are voxels: numbers by hand, round trips, which statistics they use, and what is counted."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prostate_mim.errors import NotFoundError, UsageError
from prostate_mim.mim.blocks import BlockGrid, expand_blocks
from prostate_mim.mim.layout import cells_to_voxels, to_blocks, voxels_to_cells
from prostate_mim.mim.targets import TARGETS, TargetSource, block_moments, build_target, counted_cells
from prostate_mim.mim.targets.voxels import VARIANCE_FLOOR

CELL = (2, 4, 4)
GRID = BlockGrid((4, 4, 8), (2, 4, 2))  # a block is 2 x 1 x 2 cells
SIZE = (8, 16, 16)


def source(seed: int = 0, n: int = 2) -> TargetSource:
    """Two float64 crops, the last columns of the first being padding; a gland in the middle of each."""
    generator = torch.Generator().manual_seed(seed)
    voxels = 2 * torch.randn(n, 1, *SIZE, generator=generator, dtype=torch.float64) + 1
    inside = torch.ones(voxels.shape, dtype=torch.bool)
    inside[0, ..., 13:] = False
    gland = torch.zeros_like(inside)
    gland[..., 2:6, 4:12, 4:15] = True
    teacher = torch.randn(n, 5, 4, 4, 4, generator=generator, dtype=torch.float64)
    place = torch.randn(n, 3, 4, generator=generator, dtype=torch.float64)
    return TargetSource(voxels.masked_fill(~inside, 0.0), inside, gland, teacher, place)


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(1, 3)] * 3), st.tuples(*[st.integers(1, 3)] * 3), st.integers(1, 2))
def test_cells_and_voxels_are_inverse(cell, grid, n):
    """Any cell and grid: there and back is the same."""
    size = tuple(a * b for a, b in zip(cell, grid, strict=True))
    voxels = torch.arange(n * size[0] * size[1] * size[2]).reshape(n, 1, *size)
    cells = voxels_to_cells(voxels, cell)
    assert cells.shape == (n, cell[0] * cell[1] * cell[2], *grid)
    assert torch.equal(cells_to_voxels(cells, cell), voxels)
    assert torch.equal(voxels_to_cells(cells_to_voxels(cells, cell), cell), cells)


def test_the_order_within_a_cell():
    """Rows 0 1 4 5 | 2 3 6 7 in cells of 1 x 2 x 2: the first cell's channels are 0 1 2 3, the second's 4 to 7."""
    plane = torch.tensor([[0, 1, 4, 5], [2, 3, 6, 7]]).reshape(1, 1, 1, 2, 4)
    assert voxels_to_cells(plane, (1, 2, 2))[0, :, 0, 0].T.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert voxels_to_cells(plane, (1, 2, 1))[0, :, 0, 0].T.tolist() != [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_channels_of_voxels_stay_together():
    """With C channels the cell's voxels vary fastest: channel c of the first cell is rows c * z*y*x onwards."""
    values = torch.randn(1, 3, 2, 4, 4)
    cells = voxels_to_cells(values, (1, 2, 2))
    assert torch.equal(cells[:, 4:8], voxels_to_cells(values[:, 1:2], (1, 2, 2)))


def test_a_volume_that_does_not_divide_is_refused():
    """Both numbers and the axis are named."""
    with pytest.raises(UsageError, match="10 voxels along y is not a multiple of the cell of 4"):
        voxels_to_cells(torch.zeros(1, 1, 4, 10, 8), (2, 4, 4))


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_keeps_its_promise(name):
    """Shape, type, finite, without gradient, and each sample for itself (batch permutation)."""
    target = build_target(name, feature_channels=5)
    given_ = source()
    leaf = replace(given_, teacher=given_.teacher.clone().requires_grad_())
    values = target.values(leaf, GRID, CELL)
    assert target.name == name
    assert values.shape == (2, target.channels(CELL), 4, 4, 4)
    assert values.dtype == torch.float64
    assert values.isfinite().all()
    assert not values.requires_grad
    assert target.voxelwise == (name in {"voxels", "block", "gland", "gradient"})
    swapped = TargetSource(*(getattr(given_, field.name).flip(0) for field in fields(given_)))
    torch.testing.assert_close(target.values(swapped, GRID, CELL), values.flip(0), atol=1e-12, rtol=0)
    assert not torch.allclose(values, values.flip(0))  # control: the samples do differ


@pytest.mark.parametrize("name", ["voxels", "block", "gland"])
def test_voxel_targets_can_be_undone(name):
    """to_voxels of the target itself is the crop; of a changed target it is not (control)."""
    target, given_ = build_target(name), source()
    values = target.values(given_, GRID, CELL)
    torch.testing.assert_close(target.to_voxels(values, given_, GRID, CELL), given_.voxels, atol=1e-12, rtol=0)
    assert not torch.allclose(target.to_voxels(values + 0.1, given_, GRID, CELL), given_.voxels)


@pytest.mark.parametrize("name", ["gradient", "hog", "fourier", "features", "position"])
def test_the_others_say_that_they_cannot(name):
    """No picture is better than a wrong one."""
    target, given_ = build_target(name, feature_channels=5), source()
    assert target.to_voxels(target.values(given_, GRID, CELL), given_, GRID, CELL) is None


def test_block_statistics_are_those_of_the_block():
    """Bit for bit the block normalisation of MaskedImageModel: per block, not per cell."""
    given_ = source()
    blocks = to_blocks(given_.voxels, GRID.block_zyx)
    mean, deviation = block_moments(blocks)
    normal = ((blocks - mean) / deviation).transpose(1, 2).reshape(len(blocks), -1, *GRID.grid_zyx)
    wanted = cells_to_voxels(normal, GRID.block_zyx)
    found = build_target("block").values(given_, GRID, CELL)
    assert torch.equal(cells_to_voxels(found, CELL), wanted)
    per_cell = build_target("block").values(given_, BlockGrid(CELL, (4, 4, 4)), CELL)  # control
    assert not torch.allclose(per_cell, found)


def test_raw_voxels_are_not_normalised():
    """The first cell of the raw target is the first 2 x 4 x 4 voxels."""
    given_ = source()
    found = build_target("voxels").values(given_, GRID, CELL)
    assert torch.equal(found[1, :, 0, 0, 0], given_.voxels[1, 0, :2, :4, :4].flatten())


def test_the_gland_is_the_unit():
    """Gland voxels get mean 0 and deviation about 1; padding within the gland is left out; outside it differs."""
    given_ = source()
    found = cells_to_voxels(build_target("gland").values(given_, GRID, CELL), CELL)
    for n in range(2):
        own = (given_.gland & given_.inside)[n]
        variance = given_.voxels[n][own].var(unbiased=False)
        assert found[n][own].mean().abs() < 1e-12
        assert found[n][own].var(unbiased=False).item() == pytest.approx((variance / (variance + 1e-3)).item())
    assert found[0][given_.gland[0]].mean().abs() > 1e-3  # control: with its padding the first would not be centred


def test_without_a_gland_all_measured_voxels_are_the_unit():
    """No gland known, an empty one, or one smaller than a cell (32 voxels): the measured voxels; per sample."""
    given_ = source()
    target = build_target("gland")
    unknown = target.values(TargetSource(given_.voxels, given_.inside), GRID, CELL)
    measured = cells_to_voxels(unknown, CELL)[0][given_.inside[0]]
    assert measured.mean().abs() < 1e-12
    assert measured.var(unbiased=False).item() == pytest.approx(1, abs=1e-3)
    small = torch.zeros_like(given_.gland)
    small[0].view(-1)[:31] = True
    small[1] = given_.gland[1]
    mixed = target.values(TargetSource(given_.voxels, given_.inside, small), GRID, CELL)
    assert torch.equal(mixed[0], unknown[0])
    assert torch.equal(mixed[1], target.values(given_, GRID, CELL)[1])
    small[0].view(-1)[:100] = True  # control: large enough
    assert not torch.equal(target.values(TargetSource(given_.voxels, given_.inside, small), GRID, CELL)[0], unknown[0])


def test_gland_of_a_sample_of_padding_is_finite():
    """Nothing measured at all: 0, not NaN."""
    nothing = torch.zeros(1, 1, *SIZE)
    found = build_target("gland").values(TargetSource(nothing, nothing > 0, nothing > 0), GRID, CELL)
    assert not found.any()
    assert found.isfinite().all()


def test_two_gland_voxels_by_hand():
    """Gland 1 and 3, outside 9, cell of one voxel: mean 2, variance 1, so 9 becomes 7 / sqrt(1 + floor)."""
    voxels = torch.tensor([1.0, 3.0, 9.0]).reshape(1, 1, 1, 1, 3)
    gland = torch.tensor([True, True, False]).reshape(voxels.shape)
    given_ = TargetSource(voxels, torch.ones_like(gland), gland)
    found = build_target("gland").values(given_, BlockGrid((1, 1, 1), (1, 1, 3)), (1, 1, 1)).flatten().tolist()
    assert found == pytest.approx([n / (1 + VARIANCE_FLOOR) ** 0.5 for n in (-1, 1, 7)])


# ------------------------------------------------------------------------------------------------- counted


def test_counted_voxels_are_hidden_and_measured():
    """Voxelwise targets: exactly the hidden measured voxels, in the target's own order."""
    given_ = source()
    hidden = expand_blocks(torch.rand(2, 2, 4, 2, generator=torch.Generator().manual_seed(3)) < 0.5, GRID.block_zyx)
    counted = counted_cells(build_target("block"), hidden, given_.inside, CELL)
    assert torch.equal(cells_to_voxels(counted, CELL), hidden & given_.inside)
    assert (hidden & ~given_.inside).any()  # control: there is padding to leave out


def test_counted_cells_are_at_least_half_measured():
    """A cell of 4 voxels with 2 measured counts, with 1 it does not; a visible or half-hidden one never."""
    target = build_target("hog")
    inside = torch.tensor([1, 1, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1], dtype=torch.bool).reshape(1, 1, 1, 1, 16)
    hidden = torch.tensor([1] * 8 + [0] * 4 + [1, 1, 1, 0], dtype=torch.bool).reshape(1, 1, 1, 1, 16)
    assert counted_cells(target, hidden, inside, (1, 1, 4)).flatten().tolist() == [True, False, False, False]
    everything = torch.ones_like(hidden)
    assert counted_cells(target, everything, everything, (1, 1, 4)).all()


# ---------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(("wrong", "near"), [("hogs", "hog"), ("Block", "block"), ("gradients", "gradient")])
def test_unknown_target_suggests_the_nearest(wrong, near):
    """A misspelt name is refused with the nearest known one."""
    with pytest.raises(NotFoundError, match=f"did you mean '{near}'"):
        build_target(wrong)
