"""STL surfaces: a box and a tetrahedron whose centroid, volume and voxels are known by hand."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stl_files import box, tetrahedron, write_stl

from prostate_mim.datasets.surface import Surface, read_stl
from prostate_mim.errors import NotFoundError, VolumeError
from prostate_mim.volume import Geometry, Volume


@pytest.mark.parametrize("text", [False, True])
def test_box_has_its_centre_and_volume_in_both_formats(tmp_path: Path, text: bool) -> None:
    path = write_stl(tmp_path / "a.STL", box((1, 2, 3), (5, 10, 7)), text=text)
    surface = read_stl(path)
    assert surface.closed
    assert surface.volume_mm3 == pytest.approx(4 * 8 * 4)
    assert surface.centroid_mm == pytest.approx((3, 6, 5))


def test_tetrahedron_has_the_mean_of_its_corners() -> None:
    """The centroid of a tetrahedron is the mean of its four corners; its volume a sixth of the spanned box."""
    surface = Surface(tetrahedron((0, 0, 0), (6, 0, 0), (0, 6, 0), (0, 0, 8)))
    assert surface.volume_mm3 == pytest.approx(48)
    assert surface.centroid_mm == pytest.approx((1.5, 1.5, 2.0))


def test_centroid_is_of_the_volume_not_of_the_corners() -> None:
    """A finely cut face draws the mean of the corners to it, but not the centroid."""
    plain = box((0, 0, 0), (2, 2, 2))
    on_top = (plain[:, :, 2] == 2).all(1)
    middles = plain[on_top].mean(1, keepdims=True)
    cut = [
        np.stack([t[i], t[(i + 1) % 3], m[0]]) for t, m in zip(plain[on_top], middles, strict=True) for i in range(3)
    ]
    finer = Surface(np.concatenate([plain[~on_top], np.array(cut)]))
    assert finer.closed
    assert finer.centroid_mm == pytest.approx((1, 1, 1))
    assert finer.triangles.mean((0, 1))[2] > 1.1  # the control


def test_orientation_of_the_triangles_does_not_matter() -> None:
    turned = Surface(box((0, 0, 0), (2, 4, 6))[:, ::-1])
    assert turned.volume_mm3 == pytest.approx(48)
    assert turned.centroid_mm == pytest.approx((1, 2, 3))


def test_open_surface_is_known_and_has_the_centroid_of_its_area() -> None:
    """Without its two lowest triangles a cube is a cup: 5 faces, whose areas' centroid is 0.1 sides up the middle."""
    cube = box((0, 0, 0), (2, 2, 2))
    cup = Surface(cube[~(cube[:, :, 2] == 0).all(1)])
    assert not cup.closed
    assert cup.centroid_mm == pytest.approx((1, 1, 1.2))


def test_voxels_inside_a_box_are_the_hand_counted_ones() -> None:
    """Spacing 2 x 1 x 1 mm, origin (-4, -5, 10): the box holds x -2..1, y -1..0 and z 14, 16 (index 2, 3)."""
    image = Volume(np.zeros((6, 10, 9), np.int16), Geometry((2.0, 1.0, 1.0), (-4.0, -5.0, 10.0)))
    voxels = Surface(box((-2.3, -1.4, 13.2), (1.4, 0.4, 17.9))).voxels(image)
    expected = np.zeros((6, 10, 9), bool)
    expected[2:4, 4:6, 2:6] = True
    assert np.array_equal(voxels, expected)


def test_voxels_follow_an_oblique_image_and_leave_its_border() -> None:
    """What ``voxels`` marks is what ``contains`` says of the voxels' centres, beyond the border too."""
    angle = np.deg2rad(20)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    image = Volume(np.zeros((7, 12, 11), np.int16), Geometry((3.0, 0.7, 0.7), (-3.0, -4.0, -9.0), turn))
    surface = Surface(tetrahedron((-9, -3, -9), (5, -2, -6), (0, 9, -3), (0, 1, 40)))
    places = image.geometry.index_to_position(np.argwhere(np.ones(image.shape_zyx)))
    voxels = surface.voxels(image)
    assert 30 < voxels.sum() < voxels.size
    assert np.array_equal(voxels.ravel(), surface.contains(places))


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.floats(0.2, 3.0))
def test_contains_says_which_points_lie_in_a_box(corner: list[float], side: float) -> None:
    low = np.array(corner)
    surface = Surface(box(low, low + side))
    points = np.array([[x, y, z] for x in (-0.9, 0.3, 2.1) for y in (-1.3, 0.5) for z in (-0.7, 0.9)])
    near = (np.abs(points - low) < 1e-3) | (np.abs(points - low - side) < 1e-3)
    clear = ~near.any(1)
    expected = ((points > low) & (points < low + side)).all(1)
    assert np.array_equal(surface.contains(points)[clear], expected[clear])


def test_binary_file_whose_header_begins_with_solid_is_read_as_binary(tmp_path: Path) -> None:
    path = write_stl(tmp_path / "a.stl", box((0, 0, 0), (1, 1, 1)))
    data = path.read_bytes()
    path.write_bytes(b"solid exported by somebody".ljust(80) + data[80:])
    assert len(read_stl(path).triangles) == 12


@pytest.mark.parametrize("keep", [0, 50, 84, 300, 683])
def test_truncated_binary_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = write_stl(tmp_path / "a.stl", box((0, 0, 0), (1, 1, 1)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(VolumeError, match="STL"):
        read_stl(path)


def test_truncated_text_file_is_refused(tmp_path: Path) -> None:
    path = write_stl(tmp_path / "a.stl", box((0, 0, 0), (1, 1, 1)), text=True)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(VolumeError, match="STL"):
        read_stl(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_corner_that_is_nowhere_is_refused(tmp_path: Path, value: float) -> None:
    path = write_stl(tmp_path / "a.stl", box((0, 0, 0), (1, 1, 1)))
    data = bytearray(path.read_bytes())
    data[84 + 12 : 84 + 16] = struct.pack("<f", value)
    path.write_bytes(bytes(data))
    with pytest.raises(VolumeError, match="millimetres"):
        read_stl(path)


def test_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_stl(tmp_path / "a.stl")


@given(st.binary(max_size=300), st.sampled_from([b"", b"solid x\n", b"solid x\nvertex 1 2 3\n"]), st.booleans())
def test_any_bytes_are_a_surface_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, start: bytes, end: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.stl"
    path.write_bytes(start + data + (b"endsolid" if end else b""))
    with suppress(VolumeError):
        assert np.isfinite(read_stl(path).triangles).all()
