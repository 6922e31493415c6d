"""One series, three files: PROSTATEx as the scanner's DICOM, as NIfTI and as MetaImage gives one array to a network.

The NIfTI files were made by a converter that is not ours; the .mha is written by SimpleITK from the DICOM. Crops lie
around the radiologists' findings, of patients 0000 and 0001, whose DICOM is at hand: three axial series.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from choose_heldout import patient_id, read_rows

from prostate_mim.preprocess import preprocess
from prostate_mim.spec import InputSpec
from prostate_mim.volume import Volume, read_volume
from prostate_mim.volume.voxel_hash import voxel_hash

TOLERANCE = 1e-4  # of z-scored voxels
SERIES = (("ProstateX-0000", "4"), ("ProstateX-0001", "6"), ("ProstateX-0001", "10"))
# The default input, whose grid is the series' own (copied); one that is interpolated, and reaches beyond the volume.
SPECS = (InputSpec(), InputSpec(spacing_mm_zyx=(3.3, 0.57, 0.57), size_zyx=(24, 160, 160)))
Point = tuple[float, ...]


@dataclass(frozen=True)
class Series:
    """One series in three files, and the places around which to crop (x, y, z in mm, LPS)."""

    volumes: dict[str, Volume]
    positions: list[Point]


@pytest.fixture(scope="module", params=SERIES, ids=["-".join(one) for one in SERIES])
def series(request: pytest.FixtureRequest, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Series:
    patient, number = request.param
    folder = real_data / "prostatex"
    (dicom,) = (folder / "dicom" / patient).glob(f"*/{number}.000000-t2tsetra-*")
    (nifti,) = (folder / "nifti").glob(f"{patient}_*_series{number}.nii.gz")
    copy = tmp_path_factory.mktemp("formats") / "t2w.mha"
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(dicom)))
    SimpleITK.WriteImage(reader.Execute(), str(copy), useCompression=True)
    findings = read_rows(folder / "ProstateX-Findings-Train.csv")
    positions = [tuple(map(float, row["pos"].split())) for row in findings if row["ProxID"] == patient]
    assert positions, patient_id(patient)
    volumes = {name: read_volume(path) for name, path in {"dicom": dicom, "nifti": nifti, "mha": copy}.items()}
    return Series(volumes, positions)


@pytest.mark.parametrize("spec", SPECS, ids=["copied", "interpolated"])
def test_formats_give_one_array(series: Series, spec: InputSpec) -> None:
    """DICOM, NIfTI and .mha: the same input for the network around every finding, within 1e-4."""
    for position in series.positions:
        crops = {name: preprocess(volume, spec, position) for name, volume in series.volumes.items()}
        assert crops["dicom"].std() > 0.5
        for name, crop in crops.items():
            np.testing.assert_allclose(crop, crops["dicom"], atol=TOLERANCE, rtol=0, err_msg=name)


def test_formats_have_one_hash(series: Series) -> None:
    """The alarm for equal voxels under two ids does not depend on the format."""
    assert len({voxel_hash(volume) for volume in series.volumes.values()}) == 1


@pytest.mark.parametrize("spec", SPECS, ids=["copied", "interpolated"])
def test_control_other_geometry_gives_another_array(series: Series, spec: InputSpec) -> None:
    """Negative control: a voxel aside, RAS taken for LPS, or a flipped volume is far over the tolerance."""
    nifti, position = series.volumes["nifti"], np.asarray(series.positions[0])
    right = preprocess(series.volumes["dicom"], spec, position)
    flipped = [Volume(np.flip(nifti.voxels, axis).copy(), nifti.geometry) for axis in range(3)]
    wrong = [
        preprocess(nifti, spec, position + nifti.geometry.direction @ [0.6, 0, 0]),
        preprocess(nifti, spec, position * [-1, 1, 1]),
        *(preprocess(volume, spec, position) for volume in flipped),
    ]
    assert min(np.abs(crop - right).max() for crop in wrong) > 1000 * TOLERANCE
