"""Which blocks are hidden: sizes in mm, exact counts, randomness with an owner."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prostate_mim.errors import UsageError
from prostate_mim.mim import BlockGrid, expand_blocks, random_hidden_blocks

SPACING = (3.0, 0.5, 0.5)
SIZE = (16, 96, 96)
STRIDE = (4, 16, 16)
PUBLISHED = [0, 1, 4, 5, 6, 8, 11]


def test_block_of_12x8x8_mm():
    """12 x 8 x 8 mm at 3 x 0.5 x 0.5 mm is 4 x 16 x 16 voxels; 16 x 96 x 96 voxels hold 4 x 6 x 6 = 144 of them."""
    grid = BlockGrid.from_mm((12.0, 8.0, 8.0), SPACING, SIZE, STRIDE)
    assert grid == BlockGrid((4, 16, 16), (4, 6, 6))
    assert grid.count == 144


@pytest.mark.parametrize(
    ("block_mm", "block", "line"),
    [
        ((12.0, 8.0, 8.0), (4, 16, 16), "block 12x8x8 mm asked, 12x8x8 mm used = 4x16x16 voxels, 4x6x6 blocks"),
        ((10.0, 7.0, 9.9), (4, 16, 16), "block 10x7x9.9 mm asked, 12x8x8 mm used = 4x16x16 voxels, 4x6x6 blocks"),
        ((18.0, 12.0, 11.9), (8, 32, 16), "block 18x12x11.9 mm asked, 24x16x8 mm used = 8x32x16 voxels, 2x3x6 blocks"),
        ((0.1, 1.0, 3.9), (4, 16, 16), "block 0.1x1x3.9 mm asked, 12x8x8 mm used = 4x16x16 voxels, 4x6x6 blocks"),
        ((float("inf"), 8, 8), (16, 16, 16), "block fullx8x8 mm asked, 48x8x8 mm used = 16x16x16 voxels, 1x6x6 blocks"),
        ((60.0, 8.0, 8.0), (16, 16, 16), "block 60x8x8 mm asked, 48x8x8 mm used = 16x16x16 voxels, 1x6x6 blocks"),
    ],
)
def test_block_is_rounded_to_the_stride(block_mm, block, line):
    """To the nearest multiple of (4, 16, 16) voxels = (12, 8, 8) mm, halves up, at least one; the result is told."""
    grid = BlockGrid.from_mm(block_mm, SPACING, SIZE, STRIDE)
    assert grid.block_zyx == block
    assert grid.size_zyx == SIZE
    assert grid.describe(SPACING, block_mm) == line
    assert grid.describe(SPACING) == line.replace(line[line.index(" ") + 1 : line.index("asked, ") + 7], "")


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(*[st.floats(0.01, 400.0)] * 3),
    st.tuples(*[st.sampled_from([0.27, 0.3, 0.5, 0.625, 1.0, 3.0, 3.6])] * 3),
    st.tuples(*[st.sampled_from([1, 2, 4, 8, 16])] * 3),
    st.tuples(*[st.integers(1, 8)] * 3),
)
@example((1.5, 1.0, 1.0), (1.0, 1.0, 1.0), (1, 1, 1), (3, 1, 1))  # a half: 2 voxels, which do not divide 3
def test_rounded_block_is_the_nearest_multiple(block_mm, spacing, stride, strides_in_crop):
    """No other multiple of the stride within the crop is nearer; a crop it does not divide is refused."""
    size = tuple(s * n for s, n in zip(stride, strides_in_crop, strict=True))
    nearest = [
        min(
            ((abs(n * s * mm_per_voxel - mm), n * s) for n in range(1, most + 1)),
            key=lambda pair: (round(pair[0], 6), -pair[1]),  # halves go up
        )
        for mm, mm_per_voxel, s, most in zip(block_mm, spacing, stride, strides_in_crop, strict=True)
    ]  # fmt: skip
    try:
        grid = BlockGrid.from_mm(block_mm, spacing, size, stride)
    except UsageError as refusal:
        assert "is not a multiple of the block" in str(refusal)
        assert any(crop % block for crop, (_, block) in zip(size, nearest, strict=True))
        return
    for (away, _), mm, used, voxels, s in zip(
        nearest, block_mm, grid.block_mm_zyx(spacing), grid.block_zyx, stride, strict=True
    ):
        assert voxels % s == 0
        assert abs(used - mm) <= away + 1e-6
    assert all(b * n == crop for b, n, crop in zip(grid.block_zyx, grid.grid_zyx, size, strict=True))


@pytest.mark.parametrize(
    ("block_mm", "size", "words"),
    [
        ((12.0, 8.0, 8.0), (16, 100, 96), ("crop of 100 voxels along y", "block of 16 voxels", "multiple of the enco")),
        ((12.0, 8.0, 32.0), SIZE, ("crop of 96 voxels along x", "block of 64 voxels", "16, 32, 48, 96 voxels fit")),
        ((float("inf"), 8.0, 8.0), (15, 96, 96), ("block of 15 voxels along z", "stride 4")),
        ((12.0, 8.0, 0.0), SIZE, ("0.0 mm along x", "multiple of 8 mm")),
        ((12.0, -8.0, 8.0), SIZE, ("-8.0 mm along y", "multiple of 8 mm")),
        ((float("nan"), 8.0, 8.0), SIZE, ("nan mm along z", "multiple of 12 mm", "inf")),
        ((float("-inf"), 8.0, 8.0), SIZE, ("-inf mm along z", "multiple of 12 mm")),
    ],
)
def test_mismatches_name_both_numbers(block_mm, size, words):
    """A block without size, and a crop that the rounded block does not divide, are refused with usable numbers."""
    with pytest.raises(UsageError) as caught:
        BlockGrid.from_mm(block_mm, SPACING, size, STRIDE)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("block", "size", "words"),
    [
        ((2, 16, 16), SIZE, ("block of 2 voxels along z", "stride 4")),
        ((4, 16, 24), SIZE, ("block of 24 voxels along x", "stride 16")),
        ((4, 0, 16), SIZE, ("block of 0 voxels along y", "stride 16")),
        ((4, -16, 16), SIZE, ("block of -16 voxels along y", "stride 16")),
        ((4, 64, 16), SIZE, ("crop of 96 voxels along y", "block of 64 voxels", "16, 32, 48, 96 voxels fit")),
        ((4, 16, 16), (0, 96, 96), ("crop of 0 voxels along z", "block of 4 voxels")),
    ],
)
def test_blocks_in_voxels_are_never_rounded(block, size, words):
    """What does not fit is refused, naming block and stride, or crop and block, and the axis."""
    assert BlockGrid.from_voxels((8, 48, 16), SIZE, STRIDE) == BlockGrid((8, 48, 16), (2, 2, 6))  # negative control
    with pytest.raises(UsageError) as caught:
        BlockGrid.from_voxels(block, size, STRIDE)
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


def test_published_draws_do_not_change():
    """Published numbers depend on these blocks: the order of 12 uniform numbers of seed 7, lowest first."""
    order = torch.rand(1, 12, generator=torch.Generator().manual_seed(7)).argsort(dim=1)[0]
    hidden = random_hidden_blocks(1, (2, 2, 3), 0.6, torch.Generator().manual_seed(7))
    assert hidden.flatten().nonzero().flatten().tolist() == sorted(order[:7].tolist())
    assert hidden.flatten().nonzero().flatten().tolist() == PUBLISHED
    other = random_hidden_blocks(1, (2, 2, 3), 0.6, torch.Generator().manual_seed(8))
    assert other.flatten().nonzero().flatten().tolist() != PUBLISHED  # negative control


def test_every_block_is_hidden_equally_often():
    """Over 4,000 samples each of 36 blocks is hidden in a share of 0.5, within 5 deviations of a binomial."""
    share = random_hidden_blocks(4000, (1, 6, 6), 0.5, torch.Generator().manual_seed(0)).float().mean(0)
    assert (share - 0.5).abs().max() < 5 * (0.25 / 4000) ** 0.5


def test_expand_blocks():
    """Of blocks [hidden, visible] along x, each of 1 x 2 x 3 voxels, the left 2 x 3 voxels are hidden."""
    hidden = expand_blocks(torch.tensor([[[[True, False]]]]), (1, 2, 3))
    assert hidden.shape == (1, 1, 1, 2, 6)
    assert hidden[0, 0, 0].tolist() == [[True] * 3 + [False] * 3] * 2
