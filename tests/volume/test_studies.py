"""Masks and lesions of a manifest's row: on another grid they are noted with a distance, far from the gland refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prostate_mim import studies
from prostate_mim.errors import ManifestError, UsageError, VolumeError
from prostate_mim.manifest import read_manifest
from prostate_mim.preprocess import resample
from prostate_mim.spec import InputSpec
from prostate_mim.studies import Study, open_all, open_study, without_hash
from prostate_mim.volume import Geometry, Volume, write_volume
from prostate_mim.volume.grids import distance_to_mask_mm, off_grid_mm, same_grid

ROOT = Path(__file__).resolve().parents[2]

SPACING = (3.0, 0.5, 0.5)
SHAPE = (8, 60, 60)
SPEC = InputSpec(spacing_mm_zyx=SPACING, size_zyx=SHAPE)


def box(start: tuple[int, int, int], size: tuple[int, int, int], shape=SHAPE, origin=(0.0, 0.0, 0.0), spacing=SPACING):
    """A mask with one box of ones."""
    voxels = np.zeros(shape, np.uint8)
    voxels[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = 1
    return Volume(voxels, Geometry(spacing, origin))


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Study]:
    """Write an image and masks, and open the one row."""
    write_volume(
        Volume(np.random.default_rng(0).integers(0, 99, SHAPE).astype(np.int16), Geometry(SPACING)),
        tmp_path / "t2w.nii",
    )

    def build(gland: Volume | None = None, lesion: Volume | None = None, position: str = "") -> Study:
        for name, mask in (("gland", gland), ("lesion", lesion)):
            if mask is not None:
                write_volume(mask, tmp_path / f"{name}.nii")
        cells = ["a", "a", "t2w.nii", gland and "gland.nii", lesion and "lesion.nii", position]
        text = "study_id,patient_id,t2w,gland_mask,lesion_mask,position_mm_lps\n"
        (tmp_path / "list.csv").write_text(text + ",".join(cell or "" for cell in cells) + "\n")
        listed = read_manifest(tmp_path / "list.csv")
        return open_study(listed, listed.rows[0])

    return build


GLAND = box((2, 10, 10), (4, 20, 20))


def test_one_grid_has_no_note(opened):
    """Masks on the image's own grid, to a rounding of 0.01 mm, are not remarked on."""
    assert opened(GLAND, box((3, 15, 15), (1, 2, 2)), "8 8 9").notes == ()
    assert opened(box((2, 10, 10), (4, 20, 20), origin=(0.01, 0, 0))).notes == ()


@pytest.mark.parametrize(
    ("mask", "distance"),
    [
        (box((2, 10, 10), (4, 20, 20), origin=(0.2, 0.0, 0.0)), 0.2),  # a shift along x
        (box((2, 10, 10), (4, 20, 20), origin=(0.15, 0.2, 1.0)), np.sqrt(0.15**2 + 0.2**2 + 1)),
        (box((2, 10, 10), (4, 20, 20), shape=(8, 60, 50)), 0.0),  # a crop of the grid: another shape, the same places
        (box((2, 5, 5), (4, 8, 8), shape=(8, 30, 30), spacing=(3.0, 1.0, 1.0)), 0.0),  # every second voxel
        (box((2, 50, 0), (4, 10, 8), origin=(0.0, 2.0, 0.0)), 2.0),  # the last four rows are outside: 2 mm of them
    ],
)  # fmt: skip
def test_another_grid_is_noted_with_its_distance(opened, mask, distance):
    """The note says how far labelled voxels lie from the nearest of the image, and no path."""
    (note,) = opened(mask).notes
    assert note.startswith("gland_mask is on another grid than the t2w")
    assert float(re.search(r"up to ([\d.]+) mm", note)[1]) == pytest.approx(distance, abs=0.006)
    assert "/" not in note
    assert ".nii" not in note


def test_a_shifted_mask_is_put_in_place(opened):
    """A mask that starts 5 mm further, with as many voxels less, marks the same places of the crop."""
    whole = opened(GLAND)
    shifted = opened(box((2, 0, 0), (4, 20, 20), shape=(8, 40, 40), origin=(5.0, 5.0, 0.0)))
    crops = [resample(study.volume, SPEC, study.volume.centre_mm_lps) for study in (whole, shifted)]
    first, second = (study.mask_on(crop, "gland") for study, crop in zip((whole, shifted), crops, strict=True))
    np.testing.assert_array_equal(first, second)
    assert first.sum() == GLAND.voxels.sum()
    assert len(shifted.notes) == 1


@pytest.mark.parametrize(
    ("lesion", "position", "words"),
    [
        (
            box((3, 52, 52), (2, 2, 2)),
            "",
            r"\(lesion_mask\): the lesion lies 16\.3 mm",
        ),  # corners 23 voxels off in y, x
        (None, "28 10 9", r"\(position_mm_lps\): the lesion lies 13\.5 mm"),  # the gland ends at x = 14.5 mm
    ],
)
def test_a_lesion_far_from_the_gland_is_refused(opened, lesion, position, words):
    """Over 10 mm from the nearest gland voxel: refused with the distance in mm."""
    with pytest.raises(ManifestError, match=words):
        opened(GLAND, lesion, position)
    opened(None, lesion, position)  # control: without a gland there is nothing to compare it with


@pytest.mark.parametrize(
    ("lesion", "position"), [(box((3, 33, 33), (2, 9, 9)), ""), (None, "24 10 9"), (None, "10 10 10")]
)
def test_a_lesion_at_the_rim_is_read(opened, lesion, position):
    """Machine-made gland masks are a little small: up to 10 mm outside is no mistake of the manifest."""
    assert opened(GLAND, lesion, position).notes == ()


def test_distances():
    """By hand: 0 in a labelled voxel, 1.5 mm three voxels beside it; half a voxel's diagonal at most on one lattice."""
    assert distance_to_mask_mm([7.0, 7.2, 9.0], GLAND) == 0
    assert distance_to_mask_mm([[14.5 + 1.5, 10, 9], [99, 99, 99]], GLAND) == pytest.approx(1.5)
    assert off_grid_mm(np.array([[1.25, 1.25, 1.5]]), GLAND) == pytest.approx(np.sqrt(0.25**2 * 2 + 1.5**2))
    turned = Volume(GLAND.voxels, Geometry(SPACING, direction=np.diag([1.0, -1.0, 1.0])))
    assert same_grid(GLAND, GLAND)
    assert not same_grid(GLAND, turned)


def test_shared_masks_are_read_once(tmp_path, monkeypatch):
    """Two lesions of one study share the gland's mask."""
    write_volume(
        Volume(np.random.default_rng(0).integers(0, 99, SHAPE).astype(np.int16), Geometry(SPACING)),
        tmp_path / "t2w.nii",
    )
    write_volume(GLAND, tmp_path / "gland.nii")
    rows = [f"a,a,t2w.nii,gland.nii,{name},{name} 8 9" for name in "789"]
    text = "study_id,patient_id,t2w,gland_mask,lesion_id,position_mm_lps\n" + "\n".join(rows)
    (tmp_path / "list.csv").write_text(text + "\n")
    reads: list[Path] = []
    right = studies.read_mask
    monkeypatch.setattr(studies, "read_mask", lambda path, **k: reads.append(path) or right(path, **k))
    found = list(open_all(read_manifest(tmp_path / "list.csv")))
    assert len(found) == 3
    assert len(reads) == 1


def test_masks_that_are_not_asked_for_stay_closed(opened, tmp_path):
    """A damaged mask stops only those who look at it; the one that gives the centre is always read."""
    opened(GLAND, box((3, 15, 15), (1, 2, 2)), "8 8 9")
    (tmp_path / "gland.nii").write_bytes(b"damaged")
    listed = read_manifest(tmp_path / "list.csv")
    study = open_study(listed, listed.rows[0], ["lesion"])
    assert study.read_mask("lesion").voxels.sum() == 4
    with pytest.raises(UsageError, match="was left out"):
        study.read_mask("gland")
    with pytest.raises(VolumeError, match=r"row 1 \(gland_mask\)"):
        open_study(listed, listed.rows[0])
    centred = replace(listed.rows[0], position_mm_lps=None)
    assert open_study(listed, centred, []).centre_mm_lps == pytest.approx((7.75, 7.75, 9))
    with pytest.raises(VolumeError, match=r"row 1 \(gland_mask\)"):
        open_study(listed, replace(centred, lesion_mask=None), [])


def test_rows_without_a_hash_are_counted(opened, tmp_path):
    """A run's log says how many rows a changed bit would go unseen in; nothing where all have a hash."""
    opened()
    note = without_hash(read_manifest(tmp_path / "list.csv"))
    assert note.startswith("1 of 1 rows have no sha256. The column is optional")
    page, _, section = note.rpartition("add it: ")[2].partition(", ")
    assert f"## {section}\n" in (ROOT / page).read_text()
    (tmp_path / "list.csv").write_text("study_id,patient_id,t2w,sha256\na,a,t2w.nii," + "0" * 64 + "\n")
    assert without_hash(read_manifest(tmp_path / "list.csv")) == ""
    (tmp_path / "series").mkdir()  # of DICOM: it has no sha256
    (tmp_path / "list.csv").write_text("study_id,patient_id,t2w\na,a,series\n")
    assert without_hash(read_manifest(tmp_path / "list.csv")) == ""
