"""The modality guard on real volumes that its limits were chosen on; how it does on others is in docs/modality.md."""

from __future__ import annotations

from pathlib import Path

import make_manifests
import numpy as np
import pytest
import SimpleITK

from prostate_mim.encoder import PreMIM
from prostate_mim.manifest import read_manifest
from prostate_mim.modality import check_crop, check_modality, check_volume
from prostate_mim.modality.reference import bundled_reference
from prostate_mim.studies import open_all
from prostate_mim.volume import Volume
from prostate_mim.volume.geometry import Geometry


@pytest.fixture(scope="module")
def manifests(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("manifests")
    make_manifests.write_all(real_data, out)
    return out


def as_if_axial(folder: Path) -> Volume:
    """A DICOM series as its file's array, under a header that claims axial axes."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    x, y, z = image.GetSpacing()
    return Volume(np.ascontiguousarray(SimpleITK.GetArrayFromImage(image)), Geometry((z, y, x)), "x")


def test_training_volumes_and_crops_pass(manifests: Path) -> None:
    """The cheap checks flag none of 44 volumes of three sets, and none of 196 2-D lesion crops."""
    volumes = list(open_all(read_manifest(manifests / "pretrain.csv")))
    assert len(volumes) == 44
    assert [study.row.number for study in volumes if check_volume(study.volume)] == []
    crops = list(open_all(read_manifest(manifests / "crops.csv")))
    assert len(crops) == 196
    assert [study.row.number for study in crops if check_crop(study.volume)] == []


def test_other_planes_of_a_patient_are_flagged(real_data: Path) -> None:
    """Patient 0000: the sagittal and the coronal T2w series under an axial header are flagged, the axial one is not."""
    encoder = PreMIM.from_pretrained(bundled_reference().encoder)
    series = next((real_data / "prostatex" / "dicom" / "ProstateX-0000").iterdir())
    found = {}
    for plane in ("sag", "cor", "tra"):
        folder = next(path for path in series.iterdir() if f"t2tse{plane}" in path.name)
        found[plane] = {finding.check for finding in check_modality(as_if_axial(folder), encoder=encoder).findings}
    assert {"left-right symmetry", "outlier score"} <= found["sag"]
    assert found["cor"] == {"outlier score"}
    assert found["tra"] == set()
