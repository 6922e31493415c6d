"""Boxes of blocks: they fit, cover what they must, and are cut to a count without leaving their place."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from strategy_cases import pieces, seeded

from prostate_mim.mim.strategies.boxes import cut, draw_extent, place_box

grids = st.tuples(*[st.integers(1, 7)] * 3)


@settings(max_examples=150, deadline=None)
@given(grids, st.data(), st.integers(0, 2**31))
def test_box_fits_covers_and_is_cut(grid_zyx, data, seed):
    """At least the volume, inside the grid, around the block; its cut is part of it, exact, and of one piece."""
    generator = seeded(seed)
    z, y, x = grid_zyx
    volume = data.draw(st.integers(1, z * y * x))
    around = tuple(data.draw(st.integers(0, n - 1)) for n in grid_zyx)
    extent = draw_extent(volume, grid_zyx, generator)
    assert all(1 <= length <= n for length, n in zip(extent, grid_zyx, strict=True))
    box = place_box(extent, grid_zyx, generator, around)
    assert int(box.sum()) == extent[0] * extent[1] * extent[2] >= volume
    assert box[around]
    kept = cut(box, volume, generator)
    assert int(kept.sum()) == volume
    assert not (kept & ~box).any()
    assert pieces(kept) == 1


def test_free_box_misses_a_block():
    """The control: without ``around``, a small box seldom covers the corner."""
    generator = seeded(0)
    assert sum(bool(place_box((2, 2, 2), (6, 6, 6), generator)[0, 0, 0]) for _ in range(50)) < 10
