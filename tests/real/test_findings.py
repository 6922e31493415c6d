"""Where a radiologist's finding lands: in the gland, whichever reader brought the voxels.

PROSTATEx gives each finding's position in scanner millimetres; PI-CAI gives gland masks drawn by others on the same
series. The two know nothing of each other, so they agree only if position, geometry and axis order are all right.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK
from make_manifests import findings_dicom_rows, findings_rows
from scipy.ndimage import distance_transform_edt

from prostate_mim.volume import Geometry, Volume, read_mask, read_volume

MARGIN_MM = 10.0
FORMATS = ("nii.gz", "mha", "nrrd")
Row = dict[str, str]
Mistake = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


@pytest.fixture(scope="module")
def rows(real_data: Path) -> list[Row]:
    """The 15 findings, paths relative to the data folder."""
    return findings_rows(real_data, real_data)


@pytest.fixture(scope="module")
def masked(rows: list[Row]) -> list[Row]:
    """The 13 findings of the 9 patients with a gland mask."""
    found = [row for row in rows if row["gland_mask"]]
    assert len(found) == 13
    return found


def position(row: Row) -> npt.NDArray[np.float64]:
    return np.array([float(value) for value in row["position_mm_lps"].split()])


@lru_cache(maxsize=16)
def gland_distance(path: Path) -> tuple[npt.NDArray[np.float64], Geometry]:
    """Distance in mm of every voxel to the gland (0 inside), and the mask's grid."""
    mask = read_mask(path)
    return distance_transform_edt(mask.voxels == 0, sampling=mask.geometry.spacing_mm_zyx), mask.geometry


def distance_mm(volume: Volume, mask: Path, position_mm_lps: npt.NDArray[np.float64]) -> float:
    """Distance to the gland at the voxel of ``volume`` that a position falls in; infinite outside the volume."""
    distances, grid = gland_distance(mask)
    assert volume.voxels.shape == distances.shape
    corners = [[0, 0, 0], [s - 1 for s in distances.shape]]
    offset = volume.geometry.index_to_position(corners) - grid.index_to_position(corners)
    assert np.abs(offset).max() < 0.1, "image and mask are not on one grid"
    if not volume.contains(position_mm_lps):
        return float("inf")
    return float(distances[tuple(np.rint(volume.geometry.position_to_index(position_mm_lps)).astype(int))])


@lru_cache(maxsize=16)
def read_cached(path: Path) -> Volume:
    return read_volume(path)


def rewritten(path: Path, suffix: str, folder: Path) -> Path:
    """The same series in another format, written by SimpleITK, a writer that is not ours."""
    if path.name.endswith(suffix):
        return path
    copy = folder / path.name.replace("nii.gz", suffix)
    if not copy.exists():
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(path)), str(copy), useCompression=True)
    return copy


def test_every_finding_is_inside_its_series(real_data: Path, rows: list[Row]) -> None:
    assert len(rows) == 15
    for row in rows:
        assert read_cached(real_data / row["t2w"]).contains(position(row)), row["study_id"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_findings_land_in_the_gland(real_data: Path, masked: list[Row], suffix: str, tmp_path: Path) -> None:
    for row in masked:
        volume = read_cached(rewritten(real_data / row["t2w"], suffix, tmp_path))
        found = distance_mm(volume, real_data / row["gland_mask"], position(row))
        assert found <= MARGIN_MM, f"{row['study_id']} {row['lesion_id']}: {found:.1f} mm from the gland"


def test_findings_land_in_the_gland_through_dicom(real_data: Path) -> None:
    rows = findings_dicom_rows(real_data, real_data)
    assert [row["patient_id"] for row in rows] == ["prostatex-0000", "prostatex-0001"]
    for row in rows:
        volume = read_volume(real_data / row["t2w"])
        found = distance_mm(volume, real_data / row["gland_mask"], position(row))
        assert found <= MARGIN_MM, f"{row['study_id']} {row['lesion_id']}: {found:.1f} mm from the gland"


def test_all_readers_bring_the_same_voxels(real_data: Path, rows: list[Row], tmp_path: Path) -> None:
    from_nifti = {row["study_id"]: real_data / row["t2w"] for row in rows}
    for row in findings_dicom_rows(real_data, real_data):
        path = from_nifti[row["study_id"]]
        expected = read_cached(path)
        copies = [read_volume(rewritten(path, suffix, tmp_path)) for suffix in FORMATS[1:]]
        for other in [*copies, read_volume(real_data / row["t2w"])]:
            np.testing.assert_array_equal(other.voxels, expected.voxels)
            corner = [0, 0, 0], [s - 1 for s in expected.voxels.shape]
            np.testing.assert_allclose(
                other.geometry.index_to_position(corner), expected.geometry.index_to_position(corner), atol=0.05
            )


@pytest.mark.parametrize(
    ("mistake", "at_least"),
    [
        (lambda p: p * [-1, -1, 1], 11),  # RAS taken for LPS: 12 of 13 measured
        (lambda p: p[[1, 0, 2]], 7),  # y and x swapped: 8 of 13 measured (some lie near the diagonal)
        (lambda p: p[[2, 1, 0]], 8),  # (z, y, x) handed over as (x, y, z): 9 of 13 measured
    ],
    ids=["ras", "swapped", "zyx"],
)
def test_control_wrong_positions_miss_the_gland(
    real_data: Path, masked: list[Row], mistake: Mistake, at_least: int
) -> None:
    """Negative control: the test above can tell the usual mistakes from the truth."""
    found = [
        distance_mm(read_cached(real_data / row["t2w"]), real_data / row["gland_mask"], mistake(position(row)))
        for row in masked
    ]
    assert sum(distance > MARGIN_MM for distance in found) >= at_least
