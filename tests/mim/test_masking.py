"""Which blocks are hidden: sizes in mm, exact counts, randomness with an owner."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prostate_mim.errors import UsageError
from prostate_mim.mim import BlockGrid, expand_blocks, random_hidden_blocks

SPACING = (3.0, 0.5, 0.5)
SIZE = (16, 96, 96)
STRIDE = (4, 16, 16)


def test_block_of_12x8x8_mm():
    """12 x 8 x 8 mm at 3 x 0.5 x 0.5 mm is 4 x 16 x 16 voxels; 16 x 96 x 96 voxels hold 4 x 6 x 6 = 144 of them."""
    grid = BlockGrid.from_mm((12.0, 8.0, 8.0), SPACING, SIZE, STRIDE)
    assert grid == BlockGrid((4, 16, 16), (4, 6, 6))
    assert grid.count == 144


@pytest.mark.parametrize(
    ("block_mm", "size", "words"),
    [
        ((10.0, 8.0, 8.0), SIZE, ("10.0 mm along z", "3.0 mm voxels", "multiple of 12 mm")),
        ((6.0, 8.0, 8.0), SIZE, ("2 voxels (6.0 mm) along z", "stride 4", "multiple of 12 mm")),
        ((12.0, 8.0, 4.0), SIZE, ("8 voxels (4.0 mm) along x", "stride 16", "multiple of 8 mm")),
        ((12.0, 8.0, 8.0), (16, 100, 96), ("crop of 100 voxels along y", "block of 16 voxels (8.0 mm)")),
        ((12.0, 8.0, 0.0), SIZE, ("0.0 mm along x", "0.5 mm voxels")),
        ((12.0, -8.0, 8.0), SIZE, ("-8.0 mm along y", "0.5 mm voxels")),
        ((float("nan"), 8.0, 8.0), SIZE, ("nan mm along z", "3.0 mm voxels")),
        ((float("inf"), 8.0, 8.0), SIZE, ("inf mm along z", "3.0 mm voxels")),
    ],
)
def test_mismatches_name_both_numbers(block_mm, size, words):
    """Voxels, stride and crop that do not divide are refused with both numbers and a usable one."""
    with pytest.raises(UsageError) as caught:
        BlockGrid.from_mm(block_mm, SPACING, size, STRIDE)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(("ratio", "count"), [(0.6, 86), (0.75, 108), (0.01, 1)])
def test_exact_count_for_1000_seeds(ratio, count):
    """Every sample of 1,000 seeds hides exactly round(ratio * 144) blocks."""
    hidden = torch.cat(
        [random_hidden_blocks(2, (4, 6, 6), ratio, torch.Generator().manual_seed(seed)) for seed in range(1000)]
    )
    assert hidden.dtype == torch.bool
    assert hidden.shape == (2000, 4, 6, 6)
    assert hidden.sum((1, 2, 3)).unique().tolist() == [count]


@settings(max_examples=100, deadline=None)
@given(st.tuples(*[st.integers(1, 5)] * 3), st.floats(0.0, 1.0), st.integers(0, 2**31))
def test_count_is_exact_or_refused(grid_zyx, ratio, seed):
    """Any grid and ratio: exactly round(ratio * n) hidden, or refused because that is none or all."""
    blocks = grid_zyx[0] * grid_zyx[1] * grid_zyx[2]
    count = round(ratio * blocks)
    generator = torch.Generator().manual_seed(seed)
    if 0 < count < blocks:
        assert (random_hidden_blocks(3, grid_zyx, ratio, generator).sum((1, 2, 3)) == count).all()
    else:
        with pytest.raises(UsageError, match=f"hides {count} of {blocks} blocks"):
            random_hidden_blocks(3, grid_zyx, ratio, generator)


@pytest.mark.parametrize("ratio", [float("nan"), float("inf"), -0.5, 1.5])
def test_senseless_ratios_are_refused(ratio):
    """A ratio that is no share is refused as such."""
    with pytest.raises(UsageError, match="mask ratio"):
        random_hidden_blocks(1, (4, 6, 6), ratio, torch.Generator())


def test_randomness_belongs_to_the_generator():
    """Samples and epochs differ, one seed repeats both, and torch's global generator is neither read nor moved."""
    generator = torch.Generator().manual_seed(5)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    epochs = [random_hidden_blocks(64, (4, 6, 6), 0.6, generator) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert len({sample.numpy().tobytes() for epoch in epochs for sample in epoch}) == 128
    generator = torch.Generator().manual_seed(5)
    torch.manual_seed(1)
    assert all(torch.equal(epoch, random_hidden_blocks(64, (4, 6, 6), 0.6, generator)) for epoch in epochs)
    other = random_hidden_blocks(64, (4, 6, 6), 0.6, torch.Generator().manual_seed(6))
    assert not torch.equal(other, epochs[0])  # negative control


def test_every_block_is_hidden_equally_often():
    """Over 4,000 samples each of 36 blocks is hidden in a share of 0.5, within 5 deviations of a binomial."""
    share = random_hidden_blocks(4000, (1, 6, 6), 0.5, torch.Generator().manual_seed(0)).float().mean(0)
    assert (share - 0.5).abs().max() < 5 * (0.25 / 4000) ** 0.5


def test_expand_blocks():
    """Of blocks [hidden, visible] along x, each of 1 x 2 x 3 voxels, the left 2 x 3 voxels are hidden."""
    hidden = expand_blocks(torch.tensor([[[[True, False]]]]), (1, 2, 3))
    assert hidden.shape == (1, 1, 1, 2, 6)
    assert hidden[0, 0, 0].tolist() == [[True] * 3 + [False] * 3] * 2
