"""DICOM segmentations: segments by name on the series' own grid, and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_segments import SEGMENTABLE, write_segments
from dicom_series import uid, write_dicom_series

from prostate_mim.datasets.dicom_seg import read_segments, referenced_series, write_mask
from prostate_mim.errors import VolumeError
from prostate_mim.volume import Geometry, Volume, read_mask, read_volume

SHAPE = (6, 14, 12)
SERIES = uid("study", 4)
STACKS = {
    "axial": np.eye(3),
    "slices from head to foot": np.diag([1.0, 1.0, -1.0]),
    "rows from back to front": np.diag([1.0, -1.0, 1.0]),
    "oblique": np.array([[1, 0, 0], [0, 0.96, -0.28], [0, 0.28, 0.96]]),
}


def series(folder: Path, direction: np.ndarray | None = None) -> list[Path]:
    voxels = np.random.default_rng(0).integers(10, 900, SHAPE).astype(np.int16)
    geometry = Geometry((3.0, 0.5, 0.625), (-4.0, 2.0, 11.0), np.eye(3) if direction is None else direction)
    return write_dicom_series(folder, Volume(voxels, geometry), tags=dict(SEGMENTABLE))


def block(*places: slice) -> np.ndarray:
    made = np.zeros(SHAPE, bool)
    made[places] = True
    return made


GLAND = block(slice(1, 5), slice(3, 11), slice(2, 9))
LESION = block(slice(2, 4), slice(4, 6), slice(3, 5))


@pytest.mark.parametrize("direction", STACKS.values(), ids=STACKS)
def test_marked_voxels_are_where_the_reader_drew_them(tmp_path: Path, direction: np.ndarray) -> None:
    """Drawn on slice 2, row 4, column 3 of the series: found at that voxel's place in the patient."""
    files = series(tmp_path / "t2", direction)
    marked = block(slice(2, 3), slice(4, 5), slice(3, 4))
    path = write_segments(tmp_path / "seg" / "1-1.dcm", files, [("Lesion", "", marked)])
    image = read_volume(tmp_path / "t2")
    (segment,) = read_segments(path, image, SERIES)
    (place,) = np.argwhere(segment.voxels)
    header = pydicom.dcmread(files[2], stop_before_pixels=True)
    along, down = np.reshape(np.array(header.ImageOrientationPatient, float), (2, 3))
    expected = np.array(header.ImagePositionPatient, float) + 3 * 0.625 * along + 4 * 0.5 * down
    assert image.geometry.index_to_position(place) == pytest.approx(expected, abs=1e-3)
    found = read_mask(write_mask(segment.voxels, image, tmp_path / "made", "mask"))
    assert np.array_equal(found.voxels > 0, segment.voxels)
    assert found.geometry.index_to_position((0, 0, 0)) == pytest.approx(image.geometry.index_to_position((0, 0, 0)))


def test_segments_are_known_by_name_whatever_their_number(tmp_path: Path) -> None:
    files = series(tmp_path / "t2")
    image = read_volume(tmp_path / "t2")
    pairs = [("Prostate", "WholeGland", GLAND), ("Lesion", "TumorROI_PZ_1", LESION)]
    one = write_segments(tmp_path / "a" / "1-1.dcm", files, pairs)
    two = write_segments(tmp_path / "b" / "1-1.dcm", files, pairs[::-1])
    for path in (one, two):
        lesion, gland = read_segments(path, image, SERIES)
        assert (lesion.name, lesion.description, gland.name) == ("Lesion", "TumorROI_PZ_1", "Prostate")
        assert np.array_equal(lesion.voxels, LESION)
        assert np.array_equal(gland.voxels, GLAND)
    numbers = [[item.SegmentLabel for item in pydicom.dcmread(path).SegmentSequence] for path in (one, two)]
    assert numbers[0] == numbers[1][::-1]  # the control: the numbers do differ


def test_empty_segment_is_left_out(tmp_path: Path) -> None:
    files = series(tmp_path / "t2")
    pairs = [("Prostate", "", GLAND), ("Lesion", "", np.zeros(SHAPE, bool))]
    path = write_segments(tmp_path / "seg" / "1-1.dcm", files, pairs)
    assert [s.name for s in read_segments(path, read_volume(tmp_path / "t2"), SERIES)] == ["Prostate"]


def test_overlapping_segments_are_both_whole(tmp_path: Path) -> None:
    """A lesion lies in the gland: a label map would have cut it out."""
    files = series(tmp_path / "t2")
    path = write_segments(tmp_path / "seg" / "1-1.dcm", files, [("Lesion", "", LESION), ("Prostate", "", GLAND)])
    lesion, gland = read_segments(path, read_volume(tmp_path / "t2"), SERIES)
    assert (gland.voxels & lesion.voxels).sum() == LESION.sum() == 8


def test_segmentation_of_another_series_is_refused(tmp_path: Path) -> None:
    files = series(tmp_path / "t2")
    path = write_segments(tmp_path / "seg" / "1-1.dcm", files, [("Lesion", "", LESION)])
    assert referenced_series(path) == {SERIES}
    with pytest.raises(VolumeError, match="not drawn on this series"):
        read_segments(path, read_volume(tmp_path / "t2"), uid("another"))


def test_segmentation_without_a_reference_is_refused(tmp_path: Path) -> None:
    files = series(tmp_path / "t2")
    path = write_segments(tmp_path / "seg" / "1-1.dcm", files, [("Lesion", "", LESION)])
    made = pydicom.dcmread(path)
    del made.ReferencedSeriesSequence
    made.save_as(path)
    with pytest.raises(VolumeError, match="not drawn on this series"):
        read_segments(path, read_volume(tmp_path / "t2"), SERIES)


def test_fractional_segmentation_is_refused(tmp_path: Path) -> None:
    files = series(tmp_path / "t2")
    path = write_segments(tmp_path / "seg" / "1-1.dcm", files, [("Lesion", "", LESION)], fractional=True)
    with pytest.raises(VolumeError, match="FRACTIONAL"):
        read_segments(path, read_volume(tmp_path / "t2"), SERIES)


def test_segmentation_off_the_grid_is_refused(tmp_path: Path) -> None:
    """Half a voxel aside, and beyond the border: both were drawn on something else."""
    files = series(tmp_path / "t2")
    path = write_segments(tmp_path / "seg" / "1-1.dcm", files, [("Prostate", "", GLAND)])
    image = read_volume(tmp_path / "t2")
    for shift in ((0.0, 0.25, 0.0), (0.0, 0.0, 3.0 * 4)):
        x, y, z = np.add(image.geometry.origin_mm_lps, shift)
        moved = Volume(image.voxels, Geometry(image.geometry.spacing_mm_zyx, (x, y, z)), "moved")
        with pytest.raises(VolumeError, match="off the grid"):
            read_segments(path, moved, SERIES)


def test_image_is_no_segmentation(tmp_path: Path) -> None:
    files = series(tmp_path / "t2")
    with pytest.raises(VolumeError, match="Modality is 'MR'"):
        read_segments(files[0], read_volume(tmp_path / "t2"), SERIES)
    (tmp_path / "text.dcm").write_text("no DICOM")
    with pytest.raises(VolumeError, match="no readable DICOM"):
        referenced_series(tmp_path / "text.dcm")


def test_damaged_segmentation_is_refused_or_the_same(tmp_path: Path) -> None:
    """Cut short at 24 lengths: refused as VolumeError, or read as before."""
    files = series(tmp_path / "t2")
    image = read_volume(tmp_path / "t2")
    path = write_segments(tmp_path / "seg" / "1-1.dcm", files, [("Prostate", "", GLAND)])
    data, (whole,) = path.read_bytes(), read_segments(path, image, SERIES)
    refused = 0
    for keep in np.linspace(0, len(data) - 1, 24).astype(int):
        path.write_bytes(data[:keep])
        try:
            (segment,) = read_segments(path, image, SERIES)
            assert np.array_equal(segment.voxels, whole.voxels)
        except VolumeError:
            refused += 1
    assert refused >= 20


def test_segmentation_without_any_one_element_is_refused_or_the_same(tmp_path: Path) -> None:
    """Each element of the object removed in turn: refused as VolumeError, or read as before."""
    files = series(tmp_path / "t2")
    image = read_volume(tmp_path / "t2")
    path = write_segments(tmp_path / "seg" / "1-1.dcm", files, [("Prostate", "", GLAND)])
    (whole,) = read_segments(path, image, SERIES)
    made = pydicom.dcmread(path)
    refused = set()
    for element in list(made):
        less = pydicom.dcmread(path)
        del less[element.tag]
        less.save_as(tmp_path / "less.dcm")
        try:
            (segment,) = read_segments(tmp_path / "less.dcm", image, SERIES)
            assert np.array_equal(segment.voxels, whole.voxels)
        except VolumeError:
            refused.add(element.keyword)
    assert {"Rows", "NumberOfFrames", "SegmentSequence", "PixelData", "SegmentationType"} <= refused


@pytest.mark.parametrize("name", ["../out", "/out", "a/b", ".hidden", "", "x" * 400, "a\0b", "ü"])
def test_mask_is_written_in_its_folder_whatever_a_header_says(tmp_path: Path, name: str) -> None:
    series(tmp_path / "t2")
    path = write_mask(GLAND, read_volume(tmp_path / "t2"), tmp_path / "made", name)
    assert path.parent == tmp_path / "made"
    assert list((tmp_path / "made").iterdir()) == [path]
    assert sorted(item.name for item in tmp_path.iterdir()) == ["made", "t2"]


def test_reading_says_nothing_of_the_patient(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """A malformed identifier makes pydicom warn with its value; the control reads the file without us."""
    files = series(tmp_path / "t2")
    image = read_volume(tmp_path / "t2")
    path = write_segments(tmp_path / "seg" / "1-1.dcm", files, [("Prostate", "", GLAND)])
    wrong = SERIES.replace(".498.", ".JOE.")
    path.write_bytes(path.read_bytes().replace(b".498.", b".JOE."))
    recwarn.clear()
    assert read_segments(path, image, wrong)
    assert not recwarn.list
    str(pydicom.dcmread(path))
    assert any(".JOE." in str(item.message) for item in recwarn.list)


@pytest.mark.parametrize("old", [b"BINARY", b"SEG ", b"6 ", b".498.", b"Prostate", b"1006"])
def test_value_that_is_none_is_refused_or_the_same(tmp_path: Path, old: bytes) -> None:
    files = series(tmp_path / "t2")
    image = read_volume(tmp_path / "t2")
    path = write_segments(tmp_path / "seg" / "1-1.dcm", files, [("Prostate", "", GLAND)])
    data = path.read_bytes()
    assert old in data
    for new in (b"x" * len(old), b"\xff" * len(old), b"\0" * len(old)):
        path.write_bytes(data.replace(old, new))
        try:
            (segment,) = read_segments(path, image, SERIES)
            assert np.array_equal(segment.voxels, GLAND)
        except VolumeError as error:
            assert "\n" not in str(error)
