"""The map on the grid of the study: by position, for any geometry, with what it explains, as a file."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from saliency_parts import SPEC, brightness, rotation, study_with_ball

from prostate_mim.errors import IntegrityError, UsageError, VolumeError
from prostate_mim.saliency import explain, saliency, write_saliency
from prostate_mim.saliency.placing import place_on
from prostate_mim.spec import InputSpec
from prostate_mim.volume import Geometry, Volume, read_volume, write_volume

ORIGIN = (-30.0, -20.0, 10.0)
OWN = Geometry(SPEC.spacing_mm_zyx, ORIGIN)


def place_in(geometry: Geometry, index: tuple[float, float, float]) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in geometry.index_to_position(index))
    return x, y, z


def test_on_the_networks_own_grid_it_is_a_copy() -> None:
    """Voxel by voxel the crop's map in the crop's box, 0 elsewhere; 1 at the most."""
    volume = study_with_ball(OWN, (20, 100, 120), place_in(OWN, (9, 40, 70)))
    made = explain(brightness(), volume, place_in(OWN, (10, 45, 66)))
    first = np.rint(OWN.position_to_index(made.crop.geometry.origin_mm_lps)).astype(int)
    box = tuple(slice(a, a + n) for a, n in zip(first, SPEC.size_zyx, strict=True))
    assert np.allclose(made.volume.voxels[box], made.crop_map, atol=1e-6)
    rest = made.volume.voxels.copy()
    rest[box] = 0
    assert not rest.any() and made.volume.voxels.max() == pytest.approx(1)
    assert made.volume.geometry is volume.geometry
    assert np.array_equal(saliency(brightness(), volume, place_in(OWN, (10, 45, 66))).voxels, made.volume.voxels)


@settings(max_examples=6, deadline=None)
@given(
    degrees=st.floats(-30, 30), through=st.floats(2.2, 4.5), within=st.floats(0.3, 1.1),
    shift=st.tuples(*[st.floats(-4, 4)] * 3),
)  # fmt: skip
def test_the_map_lies_where_the_evidence_lies(
    degrees: float, through: float, within: float, shift: tuple[float, float, float]
) -> None:
    """Oblique, any spacing: the hottest place of the file's grid lies at the ball, in mm.

    In-plane within a cell (4 mm). Through the plane within half a cell (3 mm) and a little over half a slice: a ball
    between two slices is seen on both.
    """
    geometry = Geometry((through, within, within), ORIGIN, rotation(degrees))
    size = (round(48 / through), round(60 / within), round(60 / within))
    middle = np.asarray(Volume(np.zeros(size), geometry).centre_mm_lps)
    where = middle + shift
    x, y, z = (float(v) for v in middle)
    made = explain(brightness(), study_with_ball(geometry, size, where), (x, y, z), stage=-2)
    hot = np.argwhere(made.volume.voxels >= 0.98 * made.volume.voxels.max()).mean(0)
    away = geometry.direction.T @ (geometry.index_to_position(hot) - where)  # along x, y, z of the image
    assert (np.abs(away) < (3.0, 3.0, 3.0 + 0.6 * through)).all()
    assert made.hottest_mm_lps is not None
    assert np.linalg.norm(np.asarray(made.hottest_mm_lps) - geometry.index_to_position(hot)) < 4


def test_a_moved_input_moves_the_map() -> None:
    """All voxels and the position moved by whole voxels: the same map, moved. The control: the position stays."""
    volume = study_with_ball(OWN, (24, 120, 120), place_in(OWN, (10, 50, 60)))
    centre = (11.0, 55.0, 64.0)
    before = explain(brightness(), volume, place_in(OWN, centre))
    steps = (2, 5, -7)
    moved = Volume(np.roll(volume.voxels, steps, (0, 1, 2)), volume.geometry)
    there = place_in(OWN, tuple(c + s for c, s in zip(centre, steps, strict=True)))  # type: ignore[arg-type]
    after = explain(brightness(), moved, there)
    expected = np.roll(before.volume.voxels, steps, (0, 1, 2))
    assert np.allclose(after.volume.voxels, expected, atol=1e-5)
    assert after.prediction.probability == pytest.approx(before.prediction.probability)
    stayed = explain(brightness(), moved, place_in(OWN, centre))
    assert not np.allclose(stayed.volume.voxels, expected, atol=0.1)


def test_placing_between_grids() -> None:
    """A linear function stays what it is at every position within the map, whatever the grids; 0 beyond it."""
    own = Geometry((3.0, 0.5, 0.5), (1.0, 2.0, 3.0), rotation(10))
    other = Geometry((1.7, 0.8, 0.6), (-4.0, 0.0, -6.0), rotation(-15))
    slope = np.array([0.1, 0.2, -0.05])
    index = np.indices((8, 40, 40)).transpose(1, 2, 3, 0)
    found = (own.index_to_position(index) @ slope + 10).astype(np.float32)
    placed = place_on(found, own, other, (30, 60, 60))
    places = other.index_to_position(np.indices((30, 60, 60)).transpose(1, 2, 3, 0))
    at = own.position_to_index(places)
    size = np.asarray(found.shape)
    within = ((at >= 0) & (at <= size - 1)).all(-1)
    beyond = ((at < -0.5 - 1e-5) | (at > size - 0.5 + 1e-5)).any(-1)
    assert within.sum() > 500 and beyond.sum() > 500
    assert np.allclose(placed[within], (places @ slope + 10)[within], atol=1e-3)
    assert not placed[beyond].any()
    far = Geometry((3.0, 0.5, 0.5), (900.0, 0.0, 0.0))
    assert not place_on(found, own, far, (4, 4, 4)).any()


def test_padding_is_left_out_and_said() -> None:
    """A crop that reaches beyond the study: 0 there, and the share of the map that lay there is told."""
    volume = study_with_ball(OWN, (20, 100, 120), place_in(OWN, (2, 10, 10)))
    made = explain(brightness(), volume, place_in(OWN, (2, 10, 10)))
    assert not made.crop.inside.all() and not made.crop_map[~made.crop.inside].any()
    assert made.in_padding > 0.01
    inner = explain(brightness(), volume, place_in(OWN, (10, 50, 60)))
    assert inner.in_padding == 0  # the control


def test_a_repeated_slice_gets_one_map() -> None:
    """A study of one slice, repeated through the crop: the map lies on that slice, the ball is found."""
    spec = InputSpec(size_zyx=SPEC.size_zyx, single_slice="repeat")
    where = place_in(OWN, (0, 40, 50))
    volume = study_with_ball(OWN, (1, 90, 90), where)
    made = explain(brightness(spec), volume, place_in(OWN, (0, 45, 45)), stage=-2)
    assert made.volume.shape_zyx == (1, 90, 90) and made.volume.voxels.max() > 0.5
    assert made.hottest_mm_lps is not None
    assert np.linalg.norm(np.subtract(made.hottest_mm_lps, where)) < 4
    assert made.hottest_mm_lps[2] == pytest.approx(where[2])


def test_nothing_speaks_for_it() -> None:
    """A head that counts brightness against label 1: an empty map, said as such."""
    model = brightness()
    with torch.no_grad():
        model.head.linear.weight.mul_(-1)
    volume = study_with_ball(OWN, (20, 100, 120), place_in(OWN, (9, 40, 70)))
    made = explain(model, volume, place_in(OWN, (9, 40, 70)))
    assert made.empty and not made.volume.voxels.any()
    assert (made.hottest_mm_lps, made.distance_mm, made.half_ml) == (None, None, 0.0)


def test_what_is_told(tmp_path: Path) -> None:
    """Model, revision, method, stage and the probability of ``predict``; numbers one can check; nothing else."""
    model = brightness()
    model.name, model.revision = "b.classifier", "0123"
    where = place_in(OWN, (9, 40, 70))
    volume = study_with_ball(OWN, (20, 100, 120), where)
    volume = Volume(volume.voxels, volume.geometry, "MUELLER/PAT0815.nii")
    model.train()
    made = explain(model, volume, where, stage=-2)
    assert model.training
    told = made.to_dict()
    assert json.loads(json.dumps(told)) == told and "MUELLER" not in json.dumps(told)
    assert told["probability"] == model.predict(volume, where).probability
    names = ("model", "revision", "method", "stage", "cell_mm_zyx", "spec")
    assert [told[name] for name in names] == ["b.classifier", "0123", "gradcam", 2, [6.0, 4.0, 4.0], SPEC.fingerprint]
    assert told["distance_mm"] < 4
    near, even = made.share_near()
    assert 0.05 < even < near <= 1
    assert even == pytest.approx(4 / 3 * np.pi * 10**3 / np.prod(SPEC.size_mm_zyx), rel=0.2)
    assert told["half_ml"] == pytest.approx((made.crop_map > 0.5).sum() * 0.75 / 1000)
    assert explain(model, volume, where, method="occlusion", box_mm_zyx=(9, 6, 6)).to_dict()["stage"] is None


def test_refusals() -> None:
    """A method, a stage, a box or a position outside; a missing mask; weights not finite."""
    model, volume = brightness(), study_with_ball(OWN, (20, 100, 120), (0.0, 0.0, 40.0))
    for wrong in ({"method": "lime"}, {"stage": 7}, {"method": "occlusion", "box_mm_zyx": (99, 99, 99)}):
        with pytest.raises(UsageError):
            explain(model, volume, **wrong)  # type: ignore[arg-type]
    with pytest.raises(VolumeError, match="outside the volume"):
        explain(model, volume, (900.0, 0.0, 0.0))
    with pytest.raises(VolumeError, match="gland mask is missing"):
        explain(brightness(SPEC.with_channels("t2w", "gland")), volume)
    with torch.no_grad():
        model.head.linear.weight[0, 2] = torch.nan
    with pytest.raises(IntegrityError, match="not finite"):
        explain(model, volume)


def test_the_file_lies_on_the_study(tmp_path: Path) -> None:
    """Axes, origin and spacing of the study's own file, even if stored the other way round; no text of it."""
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 400, (120, 100, 20)).astype(np.int16)
    affine = np.array([[0.5, 0, 0, -40], [0, 0.5, 0, -30], [0, 0, 3.0, 7], [0, 0, 0, 1.0]])  # RAS: flipped against LPS
    image = nibabel.Nifti1Image(stored, affine)
    image.header["descrip"] = b"MUELLER Hans"
    nibabel.save(image, tmp_path / "t2w.nii.gz")
    volume = read_volume(tmp_path / "t2w.nii.gz")
    made = explain(brightness(), volume)
    path = write_saliency(made, tmp_path / "map.nii.gz", tmp_path / "t2w.nii.gz")
    back = nibabel.load(path)
    assert back.shape == stored.shape and np.allclose(back.affine, affine)
    assert back.get_data_dtype() == np.float32
    assert b"MUELLER" not in bytes(back.header.binaryblock) and not back.header.extensions
    assert np.array_equal(read_volume(path).voxels, made.volume.voxels)
    assert not np.array_equal(np.asarray(back.dataobj).T, made.volume.voxels)  # the control: the axes were turned
    plain = nibabel.load(write_saliency(made, tmp_path / "plain.nii.gz"))
    assert np.array_equal(np.asarray(plain.dataobj).T, made.volume.voxels)
    assert np.allclose(read_volume(tmp_path / "plain.nii.gz").geometry.origin_mm_lps, volume.geometry.origin_mm_lps)
    write_volume(Volume(volume.voxels[:, 1:], volume.geometry), tmp_path / "other.mha")
    with pytest.raises(UsageError, match="the same image"):
        write_saliency(made, tmp_path / "a.nii.gz", tmp_path / "other.mha")
    with pytest.raises(UsageError, match=r"\.nii, \.nii\.gz or \.mha"):
        write_saliency(made, tmp_path / "a.png")
