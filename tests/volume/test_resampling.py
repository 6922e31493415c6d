"""Values between voxels: SciPy's, to the last rounding, and the formula of ``axis_matrix`` written out as loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy_grids import by_scipy

from prostate_mim.volume.resampling import axis_matrix, interpolate

LAWS = settings(max_examples=200, deadline=None)
# Half a unit in the last place of float32, of each value; float64 itself adds next to nothing.
ROUNDED_ONCE = {"rtol": 2**-24 * (1 + 1e-6), "atol": 1e-9}
# SciPy in float32, which rounds after every step: of the largest value.
ROUNDED_OFTEN = 2e-6


def grids(*scales: float):
    """Random voxels and a random grid, well beyond the edges too; of the given scales, or of any."""
    number = st.integers(1, 14)
    scale = st.sampled_from(scales) if scales else st.one_of(st.just(1.0), st.floats(0.2, 6.0))

    def build(values):
        shape, size, scale, place, dtype, seed = values
        start = np.array([first * (available + 8) - 4 for first, available in zip(place, shape, strict=True)])
        start = np.where(np.array(scale) == 1, np.rint(start), start)
        voxels = np.random.default_rng(seed).normal(300, 60, shape).astype(dtype)
        return voxels, start, np.array(scale), np.array(size)

    parts = [number, number, scale, st.floats(0, 1)]
    kinds = st.sampled_from(["int16", "uint8", "float32", "float64"])
    return st.tuples(*(st.tuples(part, part, part) for part in parts), kinds, st.integers(0, 99)).map(build)


@LAWS
@given(grids())
def test_values_are_scipys(grid):
    """Any grid: what SciPy gives in float64, rounded to float32 once; in float32 throughout, near."""
    found, voxels = interpolate(*grid), grid[0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_scipy(*grid), **ROUNDED_ONCE)
    near = by_scipy(*grid, dtype=np.float32)
    np.testing.assert_allclose(found, near, rtol=0, atol=ROUNDED_OFTEN * float(np.abs(voxels).max()))


@pytest.mark.parametrize("mistake", [{"order": 0}, {"order": 3}, {"sigmas": 1.01}, {"sigmas": 0.99}, {"sigmas": 0}])
def test_plausible_mistakes_are_found(mistake):
    """The control: other interpolation, or a sigma 1 % off, moves values far more than the bounds above."""
    voxels = np.random.default_rng(0).normal(300, 60, (9, 40, 40))
    grid = voxels, np.array([1.3, 2.6, 4.7]), np.array([1.0, 2.5, 2.2]), np.array([5, 12, 12])
    np.testing.assert_allclose(interpolate(*grid), by_scipy(*grid), **ROUNDED_ONCE)
    assert np.abs(by_scipy(*grid, **mistake) - interpolate(*grid)).max() > 100 * ROUNDED_OFTEN * voxels.max()


def test_a_moved_grid_is_found():
    """The control for the place: the start moved by a thousandth of a voxel."""
    voxels = np.random.default_rng(1).normal(300, 60, (9, 40, 40))
    grid = voxels, np.array([1.3, 2.6, 4.7]), np.array([0.7, 0.9, 2.2]), np.array([5, 12, 12])
    moved = grid[0], grid[1] + 1e-3, *grid[2:]
    assert np.abs(interpolate(*moved) - by_scipy(*grid)).max() > 10 * ROUNDED_OFTEN * voxels.max()


def by_formula(start: float, scale: float, size: int, available: int) -> list[list[float]]:
    """The docstring of ``axis_matrix``, one loop for each letter."""
    sigma = max(0.0, (scale - 1) / 2)
    r = math.floor(4 * sigma + 0.5)
    g = {k: math.exp(-k * k / (2 * sigma * sigma)) if sigma else 1.0 for k in range(-r, r + 1)}
    rows = []
    for i in range(size):
        row = [0.0] * available
        c = min(max(start + scale * i, 0), available - 1)
        f = math.floor(c)
        for weight, j in ((1 - c + f, f), (c - f, f + 1)):
            for k in range(-r, r + 1):
                row[min(max(j + k, 0), available - 1)] += weight * g[k] / sum(g.values())
        rows.append(row)
    return rows


@LAWS
@given(st.floats(-9, 30), st.one_of(st.just(1.0), st.floats(0.1, 9)), st.integers(1, 20), st.integers(1, 24))
def test_the_matrix_is_its_formula(start, scale, size, available):
    """Every weight; rows sum to 1; with scale 1 and a whole start, a row is a single 1."""
    matrix = axis_matrix(start, scale, size, available)
    assert matrix.shape == (size, available)
    assert matrix.dtype == np.float64
    np.testing.assert_allclose(matrix, by_formula(start, scale, size, available), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-14)
    assert (matrix >= 0).all()
    chosen = axis_matrix(round(start), 1.0, size, available)
    np.testing.assert_array_equal(np.sort(chosen)[:, -1], 1)
    np.testing.assert_array_equal(chosen.argmax(1), np.clip(round(start) + np.arange(size), 0, available - 1))


def test_a_matrix_by_hand():
    """Points at 0.5 and 2.5 of four voxels, and beyond: sigma is 0.5, so a neighbour counts e^-2, the next e^-8."""
    one, near, far = np.array([1, math.exp(-2), math.exp(-8)]) / (1 + 2 * math.exp(-2) + 2 * math.exp(-8))
    first = np.array([one + near + far, near, far, 0])  # beyond the edge lies the outermost voxel again
    second = np.array([near + far, one, near, far])
    halfway = (first + second) / 2
    np.testing.assert_allclose(axis_matrix(0.5, 2.0, 3, 4), [halfway, halfway[::-1], first[::-1]], rtol=1e-14)


@LAWS
@given(grids())
def test_values_are_products_with_the_matrices(grid):
    """What a graph of three matrix products would give."""
    voxels, start, scale, size = grid
    z, y, x = (axis_matrix(*of) for of in zip(start, scale, size, voxels.shape, strict=True))
    wanted = np.einsum("az,by,cx,zyx->abc", z, y, x, voxels.astype(np.float64))
    np.testing.assert_allclose(interpolate(*grid), wanted, **ROUNDED_ONCE)


@LAWS
@given(grids(1.0, 0.7, 2.3))
def test_an_axis_of_scale_1_is_copied(grid):
    """Each slice across it is, bit for bit, what it is alone; two such axes leave rows of their own."""
    voxels, start, scale, size = grid
    found = interpolate(*grid)
    for axis in np.flatnonzero(scale == 1):
        chosen = np.clip(int(start[axis]) + np.arange(size[axis]), 0, voxels.shape[axis] - 1)
        for slot, index in enumerate(chosen):
            alone = [np.array(part) for part in (start, size)]
            alone[0][axis], alone[1][axis] = 0, 1
            slice_ = interpolate(voxels.take([index], axis), alone[0], scale, alone[1])
            np.testing.assert_array_equal(found.take([slot], axis), slice_)
    if (scale == 1).all():
        np.testing.assert_array_equal(found, by_scipy(*grid, dtype=np.float32))
