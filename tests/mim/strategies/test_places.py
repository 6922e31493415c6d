"""Where each strategy hides: random, column, slice, blockwise, inverse_blockwise, grid."""

from __future__ import annotations

import pytest
import torch
from strategy_cases import grid_of, neighbours, pieces, seeded

from prostate_mim.mim import random_hidden_blocks
from prostate_mim.mim.strategies import Guide, build_strategy
from prostate_mim.mim.strategies.grid import CORNERS, dither_ranks

SEEDS = range(60)


def hidden(name, grid, ratio, seeds=SEEDS):
    """Blocks of several seeds."""
    return [build_strategy(name).hide(grid, ratio, seeded(seed), Guide()).blocks for seed in seeds]


def mean_neighbours(name, grid, ratio):
    """Average number of hidden pairs."""
    return sum(neighbours(blocks) for blocks in hidden(name, grid, ratio)) / len(SEEDS)


@pytest.mark.parametrize("grid_zyx", [(4, 6, 6), (1, 6, 6), (4, 3, 7)])
def test_random_is_the_published_draw(grid_zyx):
    """The same blocks as ``random_hidden_blocks(1, ...)`` of the same generator, which then stand alike."""
    for seed in range(20):
        one, two = seeded(seed), seeded(seed)
        blocks = build_strategy("random").hide(grid_of(grid_zyx), 0.6, one, Guide()).blocks
        assert torch.equal(blocks, random_hidden_blocks(1, grid_zyx, 0.6, two)[0])
        assert torch.equal(one.get_state(), two.get_state())


def test_columns_are_constant_along_z():
    """Every block of a column agrees; of random blocks they do not (the control)."""
    grid = grid_of((5, 6, 4))
    assert all(torch.equal(blocks, blocks[:1].expand_as(blocks)) for blocks in hidden("column", grid, 0.6))
    assert not any(torch.equal(blocks, blocks[:1].expand_as(blocks)) for blocks in hidden("random", grid, 0.6))
    assert {int(blocks[0].sum()) for blocks in hidden("column", grid, 0.6)} == {14}  # 0.6 of 24 columns = 14.4


def test_slices_are_constant_in_plane():
    """A slab is hidden or not; of random blocks it is mixed (the control)."""
    grid = grid_of((5, 6, 4))
    assert all(torch.equal(blocks, blocks[:, :1, :1].expand_as(blocks)) for blocks in hidden("slice", grid, 0.6))
    assert not any(torch.equal(blocks, blocks[:, :1, :1].expand_as(blocks)) for blocks in hidden("random", grid, 0.6))
    assert {tuple(blocks[:, 0, 0].tolist()).count(True) for blocks in hidden("slice", grid, 0.6)} == {3}


@pytest.mark.parametrize("name", ["column", "slice"])
def test_units_are_hidden_equally_often(name):
    """Over 2,000 draws each unit is hidden in a share of 0.5, within 5 deviations of a binomial."""
    grid = grid_of((6, 2, 3))
    share = torch.stack(hidden(name, grid, 0.5, range(2000))).float().mean(0)
    assert (share - 0.5).abs().max() < 5 * (0.25 / 2000) ** 0.5


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("grid_zyx", [(4, 6, 6), (5, 16, 16), (1, 6, 6)])
def test_blockwise_clumps_and_grid_spreads(grid_zyx, ratio):
    """Hidden pairs over 60 seeds: at least a tenth more than random in boxes, a tenth fewer on the even grid."""
    grid = grid_of(grid_zyx)
    chance = mean_neighbours("random", grid, ratio)
    assert mean_neighbours("blockwise", grid, ratio) > 1.1 * chance
    assert mean_neighbours("inverse_blockwise", grid, ratio) > 1.1 * chance
    assert mean_neighbours("grid", grid, ratio) < 0.95 * chance


def test_blockwise_is_boxes_at_many_places():
    """One box of 8 of 64 is BEiT's case: few pieces, while random blocks fall apart (the control); all get a turn."""
    grid = grid_of((4, 4, 4))
    boxes, loose = hidden("blockwise", grid, 0.125, range(300)), hidden("random", grid, 0.125)
    assert sum(pieces(blocks) for blocks in boxes) / 300 < 2
    assert sum(pieces(blocks) for blocks in loose) / len(SEEDS) > 4
    assert torch.stack(boxes).any(0).all()


@pytest.mark.parametrize("ratio", [0.3, 0.6, 0.75, 0.9])
@pytest.mark.parametrize("grid_zyx", [(4, 6, 6), (5, 16, 16), (1, 6, 6), (4, 3, 7), (6, 1, 5)])
def test_visible_of_inverse_blockwise_is_one_piece(grid_zyx, ratio):
    """Connected through faces for every seed; of random and blockwise it is not (the controls)."""
    grid = grid_of(grid_zyx)
    assert {pieces(~blocks) for blocks in hidden("inverse_blockwise", grid, ratio)} == {1}
    assert max(pieces(~blocks) for blocks in hidden("random", grid, ratio)) > 1


def test_inverse_blockwise_visits_every_corner():
    """Places and directions vary: over 300 draws every block is visible once and hidden once."""
    blocks = torch.stack(hidden("inverse_blockwise", grid_of((4, 6, 6)), 0.75, range(300)))
    assert blocks.any(0).all()
    assert (~blocks).any(0).all()


def test_half_of_an_even_grid_is_a_checkerboard():
    """No two hidden blocks touch, at both phases; random ones do (the control)."""
    grid = grid_of((4, 6, 6))
    boards = hidden("grid", grid, 0.5)
    assert {neighbours(blocks) for blocks in boards} == {0}
    assert {bool(blocks[0, 0, 0]) for blocks in boards} == {True, False}
    assert min(neighbours(blocks) for blocks in hidden("random", grid, 0.5)) > 0


def test_quarter_of_a_plane_is_one_of_four():
    """On one slab of 6 x 6 blocks a quarter is exactly one of every 2 x 2, wherever one looks."""
    for blocks in hidden("grid", grid_of((1, 6, 6)), 0.25):
        share = torch.nn.functional.avg_pool2d(blocks[None].float(), 2, 1)
        assert torch.equal(share, torch.full_like(share, 0.25))


def test_quarter_of_an_even_grid_leaves_no_plane_empty():
    """A quarter is 2 of every 2 x 2 x 2: never both in one plane everywhere; without staggering they are (control)."""
    grid = grid_of((4, 8, 8))
    for blocks in hidden("grid", grid, 0.25):
        for axis in range(3):
            assert blocks.movedim(axis, 0).flatten(1).any(1).all()
    axes = [torch.arange(n) for n in grid.grid_zyx]
    plain = dither_ranks(axes, torch.tensor(CORNERS), 3, staggered=False)
    blocks = plain < plain.flatten().sort().values[64]
    assert min(int(blocks.movedim(axis, 0).flatten(1).sum(1).min()) for axis in range(3)) == 0


@pytest.mark.parametrize("ratio", [0.25, 0.6, 0.75])
def test_grid_is_even_everywhere(ratio):
    """Each half of the grid along each axis holds the ratio within 0.02; random blocks miss that (the control)."""
    grid = grid_of((4, 16, 16))

    def farthest(name):
        halves = [
            blocks.narrow(axis, start, blocks.shape[axis] // 2).float().mean()
            for blocks in hidden(name, grid, ratio)
            for axis in range(3)
            for start in (0, blocks.shape[axis] // 2)
        ]
        return float((torch.stack(halves) - ratio).abs().max())

    assert farthest("grid") < 0.02 < farthest("random")
