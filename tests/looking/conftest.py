"""A small manifest on disk, with identifiers planted wherever a file or a table can hold them."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # looking_parts.py
from looking_parts import Planted, cube_centre, cube_study

from prostate_mim.volume import write_volume


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Three rows of two studies: two lesions of a study with a gland mask, and a study alone. Row 3 has no lesion."""
    folder = tmp_path_factory.mktemp("MUELLER_Hans_19451203")
    volume, cube = cube_study()
    t2w, gland = folder / "MUELLER_PAT0815_t2w.nii.gz", folder / "PAT0815_gland.nii.gz"
    for path, given in ((t2w, volume), (gland, cube)):
        write_volume(given, path)
        _plant(path)
    write_volume(volume, folder / "other-PAT0815.mha")
    x, y, z = cube_centre(cube)
    rows = [
        ("MUELLER-s1", "PAT0815", t2w.name, "Hans-1", "1", f"{x} {y} {z}", "PZ", gland.name),
        ("MUELLER-s1", "PAT0815", t2w.name, "Hans-2", "0", f"{x - 8} {y} {z}", "MUELLER", gland.name),
        ("MUELLER-s2", "PAT0815", "other-PAT0815.mha", "", "", "", "", ""),
    ]
    header = ("study_id", "patient_id", "t2w", "lesion_id", "label", "position_mm_lps", "zone", "gland_mask")
    with (folder / "m.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return Planted(folder / "m.csv", t2w, gland)


def _plant(path: Path) -> None:
    image = nibabel.load(path)
    voxels = np.asarray(image.dataobj)
    image = nibabel.Nifti1Image(voxels, image.affine, image.header)
    image.header["descrip"] = b"MUELLER Hans 19451203"
    image.header["aux_file"] = b"PAT0815"
    image.header["intent_name"] = b"MUELLER"
    image.header["db_name"] = b"PAT0815"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"MUELLER Hans"))
    nibabel.save(image, path)
