"""Targets that describe: gradients and their histograms in mm, spectra, a teacher's features."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from prostate_mim.errors import UsageError
from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.layout import cells_to_voxels, voxels_to_cells
from prostate_mim.mim.targets import TargetSource, build_target
from prostate_mim.mim.targets.gradients import GRADIENT_FLOOR, HogTarget, dodecahedron_directions, gradient_per_mm

SPACING = (3.0, 0.5, 0.5)
CELL = (2, 4, 4)
GRID = BlockGrid(CELL, (2, 2, 2))
SIZE = (4, 8, 8)


def noise(seed: int = 0) -> TargetSource:
    voxels = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return TargetSource(voxels, torch.ones(voxels.shape, dtype=torch.bool))


def ramp(slope_mm_zyx, size=SIZE) -> TargetSource:
    """Voxels that rise by this much a mm along each axis."""
    places = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij")
    voxels = sum(slope * mm * place for slope, mm, place in zip(slope_mm_zyx, SPACING, places, strict=True))
    return TargetSource(voxels[None, None], torch.ones(1, 1, *size, dtype=torch.bool))


def test_a_ramp_has_its_slope_in_mm():
    """2 per mm through-plane and 2 per mm in-plane are the same edge, at borders too; voxel units are not (control)."""
    found = gradient_per_mm(*_pair(ramp((2.0, -1.0, 0.5))), SPACING)
    wanted = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64).reshape(1, 3, 1, 1, 1).expand(found.shape)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
    magnitude = build_target("gradient", SPACING).values(ramp((2.0, 0.0, 0.0)), GRID, CELL)
    torch.testing.assert_close(magnitude, torch.full_like(magnitude, 2.0))
    in_voxels = build_target("gradient", (1.0, 1.0, 1.0)).values(ramp((2.0, 0.0, 0.0)), GRID, CELL)
    assert not torch.allclose(in_voxels, magnitude)


def _pair(source: TargetSource) -> tuple[torch.Tensor, torch.Tensor]:
    return source.voxels, source.inside


def test_gradients_equal_numpys():
    """Everything measured: numpy's gradient with first-order borders."""
    source = noise()
    wanted = np.stack(np.gradient(source.voxels[0, 0].numpy(), *SPACING))
    np.testing.assert_allclose(gradient_per_mm(*_pair(source), SPACING)[0].numpy(), wanted, atol=1e-12)


def test_the_jump_to_padding_is_no_edge():
    """Constant 5 beside padding of 0: no gradient anywhere; counted as measured, there is one (control)."""
    inside = torch.ones(1, 1, *SIZE, dtype=torch.bool)
    inside[..., 5:] = False
    voxels = torch.full((1, 1, *SIZE), 5.0).masked_fill(~inside, 0.0)
    assert not gradient_per_mm(voxels, inside, SPACING).any()
    assert gradient_per_mm(voxels, torch.ones_like(inside), SPACING).any()
    rising = ramp((0.0, 0.0, 1.0)).voxels
    found = gradient_per_mm(rising.masked_fill(~inside, 0.0), inside, SPACING)[:, 2:]
    torch.testing.assert_close(found, inside.to(found.dtype))  # one-sided beside padding, 0 at padding


def test_an_axis_of_one_voxel_has_no_gradient():
    """A single slice, and a voxel whose neighbours are all padding."""
    voxels = torch.randn(1, 1, 1, 4, 4)
    inside = torch.zeros(voxels.shape, dtype=torch.bool)
    inside[..., 1, 1] = True
    assert not gradient_per_mm(voxels, inside, SPACING).any()
    assert not gradient_per_mm(voxels, torch.ones_like(inside), SPACING)[:, 0].any()


# ------------------------------------------------------------------------------------------------------ hog


def test_twenty_directions_of_a_dodecahedron():
    """Unit length, sum 0, each with its opposite, three neighbours at sqrt(5) / 3; isotropic second moment."""
    directions = dodecahedron_directions()
    products = directions @ directions.T
    assert directions.shape == (20, 3)
    torch.testing.assert_close(products.diagonal(), torch.ones(20, dtype=torch.float64))
    assert directions.sum(0).abs().max() < 1e-12
    torch.testing.assert_close(directions.T @ directions, torch.eye(3, dtype=torch.float64) * 20 / 3)
    assert torch.equal(directions[10:], -directions[:10])
    assert ((products + 1).abs() < 1e-12).sum() == 20
    assert ((products - math.sqrt(5) / 3).abs() < 1e-12).sum(1).tolist() == [3] * 20
    assert HogTarget(SPACING).threshold == pytest.approx(math.sqrt(5) / 3)


def test_a_gradient_along_a_direction_votes_for_it_alone():
    """With its full length; any other gradient keeps its length too, and nothing at all votes for nothing."""
    target = HogTarget(SPACING)
    along = 3 * target.directions.T.reshape(1, 3, 1, 1, 20)
    torch.testing.assert_close(target.votes(along)[0, :, 0, 0], 3 * torch.eye(20, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    anything = torch.randn(1, 3, 2, 5, 50, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(target.votes(anything).norm(dim=1), anything.norm(dim=1))
    assert not target.votes(torch.zeros_like(anything)).any()


def test_a_ramp_fills_one_bin():
    """A slope of 1 per mm along direction 3 (1, 1, 1): that bin of every part, and each cell has length 1."""
    target = HogTarget(SPACING)
    values = target.values(ramp(target.directions[3].tolist()), GRID, CELL)
    assert values.shape == (1, 80, 2, 2, 2)
    torch.testing.assert_close(values.square().sum(1), torch.ones(1, 2, 2, 2).double(), atol=2e-4, rtol=0)
    bins = values.reshape(1, 20, 4, 2, 2, 2)
    assert bins[:, 3].min() == pytest.approx(0.5, abs=1e-3)  # four equal parts of a unit vector
    assert bins.square().sum() - bins[:, 3].square().sum() < 1e-12
    blind = HogTarget((1.0, 1.0, 1.0)).values(ramp(target.directions[3].tolist()), GRID, CELL)  # control: no mm
    assert blind.reshape(1, 20, 4, 2, 2, 2)[:, 3].max() < 0.49


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_image_has_mirrored_bins(axis):
    """Flipping the crop along an axis flips the cells and swaps each direction for its mirror image."""
    target, source = HogTarget(SPACING, parts_zyx=(1, 1, 1)), noise()
    mirror = target.directions.clone()
    mirror[:, axis] *= -1
    swap = torch.cdist(mirror, target.directions).argmin(1)
    flipped = TargetSource(source.voxels.flip(2 + axis), source.inside)
    found = target.values(flipped, GRID, CELL)
    wanted = target.values(source, GRID, CELL).flip(2 + axis)
    torch.testing.assert_close(found, wanted[:, swap])
    assert not torch.allclose(found, wanted)  # control: without the swap


def test_contrast_does_not_matter_and_flatness_is_not_blown_up():
    """Ten times the contrast is nearly the same histogram; a cell of noise below the floor stays short."""
    target, source = HogTarget(SPACING), noise()
    louder = TargetSource(10 * source.voxels + 4, source.inside)
    torch.testing.assert_close(
        target.values(louder, GRID, CELL), target.values(source, GRID, CELL), atol=1e-3, rtol=1e-2
    )
    quiet = target.values(TargetSource(1e-3 * GRADIENT_FLOOR * source.voxels, source.inside), GRID, CELL)
    assert quiet.norm(dim=1).max() < 1e-2
    assert not target.values(ramp((0.0, 0.0, 0.0)), GRID, CELL).any()


def test_parts_that_do_not_divide_are_refused():
    """Named: parts, axis, cell."""
    with pytest.raises(UsageError, match=r"3 parts along y, but a cell has 4 voxels"):
        HogTarget(SPACING, (1, 3, 1)).values(noise(), GRID, CELL)


# -------------------------------------------------------------------------------------- fourier and features


def test_a_constant_cell_has_one_frequency():
    """Constant 2 in 32 voxels: amplitude 2 * sqrt(32) at frequency 0, nothing elsewhere."""
    source = TargetSource(torch.full((1, 1, *SIZE), 2.0), torch.ones(1, 1, *SIZE, dtype=torch.bool))
    target = build_target("fourier")
    values = target.values(source, GRID, CELL)
    assert target.channels(CELL) == 2 * 4 * 3
    assert values[:, 0].unique().item() == pytest.approx(math.log1p(2 * math.sqrt(32)))
    assert values[:, 1:].abs().max() < 1e-6


def test_spectra_equal_a_slow_loop_and_ignore_position():
    """Against numpy, cell by cell; rolling a cell's content around leaves its amplitudes, not its voxels."""
    source, target = noise(), build_target("fourier")
    values = target.values(source, GRID, CELL)
    for z, y, x in np.ndindex(2, 2, 2):
        own = source.voxels[0, 0, 2 * z : 2 * z + 2, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].numpy()
        wanted = np.log1p(np.abs(np.fft.rfftn(own)) / math.sqrt(32))
        np.testing.assert_allclose(values[0, :, z, y, x].numpy(), wanted.ravel(), atol=1e-12)
    cells = voxels_to_cells(source.voxels, CELL)
    rolled = cells.reshape(1, *CELL, 2, 2, 2).roll((1, 1, 2), (1, 2, 3)).reshape(cells.shape)
    moved = TargetSource(cells_to_voxels(rolled, CELL), source.inside)
    torch.testing.assert_close(target.values(moved, GRID, CELL), values)
    assert not torch.allclose(rolled, cells)


def test_features_are_normalised_over_channels():
    """Each cell has mean 0 and variance 1 over its channels; scaling the teacher changes nothing; by hand +-1."""
    teacher = torch.randn(1, 6, 2, 2, 2, dtype=torch.float64)
    target, source = build_target("features", feature_channels=6), noise()
    values = target.values(TargetSource(source.voxels, source.inside, None, teacher), GRID, CELL)
    assert values.mean(1).abs().max() < 1e-12
    torch.testing.assert_close(values.var(1, unbiased=False), torch.ones(1, 2, 2, 2).double(), atol=1e-3, rtol=0)
    scaled = target.values(TargetSource(source.voxels, source.inside, None, 7 * teacher + 2), GRID, CELL)
    torch.testing.assert_close(scaled, values, atol=1e-3, rtol=1e-3)
    two = torch.tensor([3.0, 5.0]).reshape(1, 2, 1, 1, 1).expand(1, 2, 2, 2, 2)
    by_hand = build_target("features", feature_channels=2)
    found = by_hand.values(TargetSource(source.voxels, source.inside, None, two), GRID, CELL)
    assert found[0, :, 0, 0, 0].tolist() == pytest.approx([-1, 1], abs=1e-4)


@pytest.mark.parametrize(
    ("teacher", "words"),
    [(None, "the source has none"), (torch.zeros(1, 6, 2, 2, 1), r"\(1, 6, 2, 2, 2\), found \(1, 6, 2, 2, 1\)")],
)
def test_missing_teacher_is_refused(teacher, words):
    """No teacher, or another grid: refused; so is a target without a channel count."""
    source = noise()
    with pytest.raises(UsageError, match=words):
        build_target("features", feature_channels=6).values(
            TargetSource(source.voxels, source.inside, None, teacher), GRID, CELL
        )
    with pytest.raises(UsageError, match="feature_channels"):
        build_target("features")
