"""Dropping bands of k-space: the spectrum of what is left, exactly."""

from __future__ import annotations

import pytest
import torch
from strategy_cases import cells_dropped, cells_dropped_fast, cells_in_all, grid_of, guide_of, seeded

from prostate_mim.errors import UsageError
from prostate_mim.mim.strategies import Guide, build_strategy, hide_batch, parse_ratio
from prostate_mim.mim.strategies.frequency import frequency_cells

# of (3, 7, 9) blocks: in-plane 14 x 18, 21 x 27, 14 x 9 and 7 x 18 voxels, so every pairing of even and odd
SHAPES = [(1, 2, 2), (1, 3, 3), (1, 2, 1), (1, 1, 2)]


def grid_in_plane(block_zyx):
    """Blocks of a shape that makes the crop's sides even or odd."""
    return grid_of((3, 7, 9), block_zyx)


@pytest.mark.parametrize("block_zyx", SHAPES)
@pytest.mark.parametrize("ratio", [0.25, 0.6, 0.9])
def test_dropped_is_zero_and_kept_is_equal(block_zyx, ratio):
    """In float64, per slice: kept frequencies as they were, dropped ones 0, the count exact, the image real."""
    grid = grid_in_plane(block_zyx)
    voxels = guide_of(grid).voxels.double()
    for seed in range(5):
        hiding = build_strategy("frequency").hide(grid, ratio, seeded(seed), Guide(voxels=voxels))
        before, after = torch.fft.fft2(voxels), torch.fft.fft2(hiding.voxels)
        dropped = hiding.frequencies.expand_as(before.real)
        assert hiding.voxels.shape == voxels.shape
        assert hiding.voxels.dtype == torch.float64
        assert after[dropped].abs().max() < 1e-12 * before.abs().max()
        assert (after - before)[~dropped].abs().max() < 1e-12 * before.abs().max()
        assert before[dropped].abs().max() > 1  # negative control: there was something to drop
        assert cells_dropped(hiding.frequencies) == round(ratio * cells_in_all(*grid.size_zyx[1:]))
        assert not hiding.blocks.any()


@pytest.mark.parametrize(("height", "width", "cells"), [(4, 4, 10), (3, 3, 5), (4, 3, 7), (1, 5, 3), (2, 2, 4)])
def test_cells_by_hand(height, width, cells):
    """(H * W + own conjugates) / 2: 4 x 4 has 4 own conjugates, 3 x 3 one, 4 x 3 two; and low ones come first."""
    first, second = frequency_cells(height, width)
    assert len(first) == cells == cells_in_all(height, width)
    assert cells_dropped_fast(torch.ones(height, width, dtype=torch.bool)) == cells
    some = build_strategy("frequency:bands=2").draw(height, width, 0.5, seeded(0))
    assert cells_dropped_fast(some) == cells_dropped(some) == round(0.5 * cells)
    assert first[0] == second[0] == 0
    assert set(first.tolist()) | set(second.tolist()) == set(range(height * width))


def test_low_frequencies_come_first():
    """Radii never fall along the cells; in the order of memory they do (the control)."""
    first, _ = frequency_cells(12, 10)
    y, x = torch.fft.fftfreq(12)[:, None], torch.fft.fftfreq(10)
    radius = (y.square() + x.square()).sqrt().flatten()
    assert (radius[first].diff() >= -1e-6).all()
    assert not (radius[first.sort().values].diff() >= -1e-6).all()


def test_conjugates_are_dropped_together():
    """Half of a pair alone would leave an image that is not real (the control)."""
    dropped = build_strategy("frequency").draw(12, 10, 0.5, seeded(0))
    assert torch.equal(dropped, dropped.flip((0, 1)).roll((1, 1), (0, 1)))  # frequency k stands where -k stood
    broken = dropped.clone()
    y, x = (~dropped).nonzero()[1].tolist()
    broken[y, x] = True
    image = torch.randn(12, 10, generator=seeded(1), dtype=torch.float64)
    for hidden, real in ((dropped, True), (broken, False)):
        left = torch.fft.ifft2(torch.fft.fft2(image).masked_fill(hidden, 0))
        assert (float(left.imag.abs().max()) < 1e-12) == real


def test_dropped_are_rings():
    """With two bands half of the cells go: all the low ones or all the high ones, and both happen."""
    strategy = build_strategy("frequency:bands=2")
    first, _ = frequency_cells(12, 12)
    outcomes = set()
    for seed in range(20):
        dropped = strategy.draw(12, 12, 0.5, seeded(seed)).flatten()[first]
        assert dropped[:37].all() != dropped[37:].all()
        assert int(dropped.sum()) == 37
        outcomes.add(bool(dropped[0]))
    assert outcomes == {True, False}


def test_all_slices_lose_the_same():
    """A slice cannot be told from its neighbours: the same frequencies are missing from each."""
    grid = grid_in_plane((1, 2, 2))
    hiding = build_strategy("frequency").hide(grid, 0.6, seeded(0), guide_of(grid))
    missing = torch.fft.fft2(hiding.voxels[0].double()).abs() < 1e-4
    assert torch.equal(missing, hiding.frequencies.expand_as(missing))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_type_of_the_voxels_is_kept(kind):
    """Half precision goes through float32 and back."""
    grid = grid_in_plane((1, 2, 2))
    voxels = guide_of(grid).voxels
    hiding = build_strategy("frequency").hide(grid, 0.6, seeded(0), Guide(voxels=voxels.to(kind)))
    full = build_strategy("frequency").hide(grid, 0.6, seeded(0), Guide(voxels=voxels.double()))
    assert hiding.voxels.dtype == kind
    assert (hiding.voxels.double() - full.voxels).abs().max() < 0.05


def test_batch_mixes_blocks_and_frequencies():
    """Samples whose voxels are not changed come as they were; each sample hides either blocks or frequencies."""
    grid = grid_in_plane((1, 2, 2))
    guides = [guide_of(grid, seed) for seed in range(12)]
    strategy = build_strategy("mixture:random=1,frequency=1")
    batch = hide_batch(strategy, grid, parse_ratio(0.6), [seeded(seed) for seed in range(12)], guides)
    assert set(batch.strategies) == {"random", "frequency"}
    assert batch.voxels.shape == (12, 1, *grid.size_zyx)
    assert batch.frequencies.shape == (12, *grid.size_zyx[1:])
    for index, name in enumerate(batch.strategies):
        same = torch.equal(batch.voxels[index], guides[index].voxels)
        assert same == bool(batch.blocks[index].any()) == (not batch.frequencies[index].any()) == (name == "random")


def test_batch_without_voxels_is_refused():
    """A sample without voxels cannot stand beside one whose voxels were changed."""
    grid = grid_in_plane((1, 2, 2))
    strategy = build_strategy("mixture:random=1,frequency=1")
    names = [strategy.hide(grid, 0.6, seeded(seed), guide_of(grid)).strategy for seed in range(12)]
    guides = [guide_of(grid) if name == "frequency" else Guide() for name in names]
    with pytest.raises(UsageError, match=f"sample {names.index('random')} of the batch has no voxels"):
        hide_batch(strategy, grid, parse_ratio(0.6), [seeded(seed) for seed in range(12)], guides)
