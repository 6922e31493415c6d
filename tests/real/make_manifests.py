"""Manifests of the real data, for tests and for training the bundled weights.

``python tests/real/make_manifests.py --data ../shared/data --out DIR [--heldout]`` writes ``pretrain.csv``,
``findings.csv``, ``findings_dicom.csv`` and ``crops.csv``; with ``--heldout`` also ``pretrain_heldout.csv`` and
``crops_heldout.csv``. Nobody named in ``hub_cards/heldout.json`` is in ``pretrain.csv`` or ``crops.csv``;
the two findings manifests hold everybody, because they check geometry and train nothing.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import string
import sys
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from choose_heldout import (
    patient_id,
    promise12_cases,
    promise12_centre,
    read_heldout,
    read_rows,
)

Row = dict[str, str]

# ASSUMED: PROMISE12 as stored here has neither spacing nor orientation. Key: (centre, matrix); value "z y x" in mm.
# Why: Litjens et al. 2014 give ranges per scanner (from memory: 0.25-0.28 x 2.2-3, 0.325-0.625 x 3-3.6, 0.5-0.75 x
# 3.6-4 and 0.625 x 3.6 mm), and in-plane doubles here, because the arrays are downsampled by 2. Taken: a field of view
# of 140, 200, 200, 160 or 200 mm / matrix. One value per matrix cannot be right: at centre 1 the gland is 1.3 times
# as wide in voxels as at centre 3, on the same 256 matrix, because the field of view is smaller; at 0.8 mm or more its
# glands would be 61 to 95 mm wide. The comments give the resulting gland widths in mm, median (range); only cases 18
# (70) and 23 (94, a gland that fills the pelvis in the image as well) are beyond 65, and 17 (39) is under 40.
# Seen in all 40 stacks: rows run anterior -> posterior (rectum below the gland), slices apex -> base (bladder at
# high z); none is flipped. Left and right cannot be told, and are assumed as usual (the patient's right in column 0).
ASSUMED_SPACING_MM_ZYX = {
    ("1", 256): "2.2 0.547 0.547",  # 7 cases: 50 (42-65); endorectal coil, 512 matrix, thin slices
    ("2", 160): "3.6 1.25 1.25",  # 11 cases: 54 (39-94); no coil, 320 matrix
    ("3", 256): "3.3 0.78 0.78",  # 9 cases: 53 (47-62); no coil, 512 matrix; slices between 3 and 3.6, taken midway
    ("3", 128): "3.3 1.25 1.25",  # 1 case: 40; 256 matrix
    ("4", 160): "3.6 1.25 1.25",  # 12 cases: 53 (45-61); endorectal coil, 320 matrix
}
# ASSUMED: the crops were cut from PROSTATEx axial T2w, which is 0.5 x 0.5 x 3 mm in nearly every patient.
CROP_SPACING_MM_ZYX = "3.0 0.5 0.5"
# Patient 0001 has two axial series on the same grid, so geometry cannot tell which one the PI-CAI masks were made on.
# Series 10 repeats series 6 nine minutes later, is sharper, and the mask's border lies on stronger edges in it
# (in-plane gradient 0.71 against 0.64, PZ/TZ contrast 1.56 against 1.25). Findings use series 10 only.
FINDINGS_SERIES = {"prostatex-0001": "10"}

PRETRAIN_COLUMNS = ["study_id", "patient_id", "t2w", "gland_mask", "spacing_mm_zyx", "centre"]
FINDINGS_COLUMNS = ["study_id", "patient_id", "t2w", "lesion_id", "label", "position_mm_lps", "zone", "gland_mask"]
CROPS_COLUMNS = ["study_id", "patient_id", "t2w", "lesion_id", "label", "zone", "spacing_mm_zyx", "is_crop"]


def relative(path: Path, out: Path) -> str:
    """``path`` as seen from the folder ``out``, with forward slashes."""
    return Path(os.path.relpath(path.resolve(), out.resolve())).as_posix()


def npy_gz_shape(path: Path) -> tuple[int, ...]:
    """Shape in the header of a gzipped .npy file, without reading its voxels."""
    with gzip.open(path, "rb") as stream:
        version = np.lib.format.read_magic(stream)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return tuple(reader(stream)[0])


def write_manifest(path: Path, columns: list[str], rows: list[Row]) -> None:
    """Write ``rows`` as CSV."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def gland_mask_path(data: Path, patient: str) -> Path | None:
    """PI-CAI whole-gland mask of a PROSTATEx patient, where there is one."""
    labels = data / "prostatex" / "picai_labels"
    known = {patient_id(r["ProxID"]): r["picai_id"] for r in read_rows(labels / "prostatex_to_picai.csv")}
    folder = labels / "anatomical_delineations" / "whole_gland" / "AI" / "Bosma22b"
    return folder / f"{known[patient]}.nii.gz" if patient in known else None


def same_grid(first: Path, second: Path) -> bool:
    """Whether two NIfTI files have the same shape and voxel positions (0.01 mm at the matrix entries)."""
    a, b = nib.load(first), nib.load(second)
    return bool(a.shape == b.shape and np.allclose(a.affine, b.affine, atol=0.01))


def prostatex_series(data: Path) -> list[tuple[str, str, Path]]:
    """(patient, series number, file) of every axial PROSTATEx NIfTI file, ascending."""
    found = []
    for path in (data / "prostatex" / "nifti").glob("*.nii.gz"):
        prox, _, series = path.name.removesuffix(".nii.gz").split("_")
        found.append((patient_id(prox), series.removeprefix("series"), path))
    return sorted(found, key=lambda entry: (entry[0], int(entry[1])))


def mask_on_grid(data: Path, patient: str, t2w: Path, out: Path) -> str:
    """Manifest entry of the patient's gland mask, or an empty string where none lies on the grid of ``t2w``."""
    mask = gland_mask_path(data, patient)
    return relative(mask, out) if mask is not None and same_grid(mask, t2w) else ""


def promise12_rows(data: Path, out: Path) -> list[Row]:
    """One row per PROMISE12 case, with the assumed spacing."""
    rows = []
    for case in promise12_cases(data):
        image = data / "promise12" / f"image_train{case}.npy.gz"
        centre = promise12_centre(case)
        rows.append(
            {
                "study_id": f"promise12-{case}",
                "patient_id": f"promise12-{case}",
                "t2w": relative(image, out),
                "gland_mask": relative(image.with_name(f"label_train{case}.npy.gz"), out),
                "spacing_mm_zyx": ASSUMED_SPACING_MM_ZYX[centre, npy_gz_shape(image)[-1]],
                "centre": centre,
            }
        )
    return rows


def prostatex_rows(data: Path, out: Path) -> list[Row]:
    """One row per axial PROSTATEx series (patient 0001 has two)."""
    return [
        {
            "study_id": f"{patient}-series{series}",
            "patient_id": patient,
            "t2w": relative(path, out),
            "gland_mask": mask_on_grid(data, patient, path, out),
            "centre": "prostatex",
        }
        for patient, series, path in prostatex_series(data)
    ]


def prostate158_rows(data: Path, out: Path) -> list[Row]:
    """The one Prostate158 study."""
    t2w = relative(data / "prostate158" / "020" / "t2.nii.gz", out)
    return [{"study_id": "prostate158-020", "patient_id": "prostate158-020", "t2w": t2w, "centre": "prostate158"}]


def pretrain_rows(data: Path, out: Path, heldout: bool = False) -> list[Row]:
    """Every full volume that is not held out, or (``heldout``) only those that are."""
    lists = read_heldout()
    kept_apart = lists["promise12"] | lists["prostatex"]
    rows = promise12_rows(data, out) + prostatex_rows(data, out) + prostate158_rows(data, out)
    return [row for row in rows if (row["patient_id"] in kept_apart) is heldout]


def unique_lesion_ids(keys: list[tuple[str, str]]) -> list[str]:
    """Lesion ids for (patient, fid): the fid, and where a patient has it twice a, b, ... after it in file order."""
    total, seen = Counter(keys), Counter[tuple[str, str]]()
    ids = []
    for key in keys:
        letter = string.ascii_lowercase[seen[key]] if total[key] > 1 else ""
        seen[key] += 1
        ids.append(key[1] + letter)
    return ids


def findings(data: Path) -> list[Row]:
    """The 15 findings as manifest columns, without an image."""
    rows = read_rows(data / "prostatex" / "ProstateX-Findings-Train.csv")
    ids = unique_lesion_ids([(row["ProxID"], row["fid"]) for row in rows])
    return [
        {
            "patient_id": patient_id(row["ProxID"]),
            "lesion_id": lesion,
            "label": str(int(row["ClinSig"].upper() == "TRUE")),
            "position_mm_lps": row["pos"],
            "zone": row["zone"],
        }
        for row, lesion in zip(rows, ids, strict=True)
    ]


def findings_series(data: Path) -> dict[str, tuple[str, Path]]:
    """Patient -> (series number, NIfTI file) of the one axial series that its findings are placed on."""
    chosen: dict[str, tuple[str, Path]] = {}
    for patient, series, path in prostatex_series(data):
        if FINDINGS_SERIES.get(patient, series) == series:
            if patient in chosen:
                raise ValueError(f"{path.name}: a second axial series of the same patient; name one in FINDINGS_SERIES")
            chosen[patient] = (series, path)
    return chosen


def findings_rows(data: Path, out: Path) -> list[Row]:
    """One row per finding, on the NIfTI series."""
    rows = []
    chosen = findings_series(data)
    for finding in findings(data):
        patient = finding["patient_id"]
        series, t2w = chosen[patient]
        mask = mask_on_grid(data, patient, t2w, out)
        rows.append(finding | {"study_id": f"{patient}-series{series}", "t2w": relative(t2w, out), "gland_mask": mask})
    return rows


def dicom_folder(data: Path, patient: str, series: str) -> Path | None:
    """Raw DICOM folder of one series, named ``<DCMSerNum>.000000-...`` by TCIA, where it was kept."""
    prox = "ProstateX-" + patient.removeprefix("prostatex-")
    return next((data / "prostatex" / "dicom" / prox).glob(f"*/{series}.000000-*"), None)


def findings_dicom_rows(data: Path, out: Path) -> list[Row]:
    """The rows of :func:`findings_rows` whose series is present as raw DICOM, with the folder as image."""
    rows = []
    for row in findings_rows(data, out):
        folder = dicom_folder(data, row["patient_id"], row["study_id"].rpartition("-series")[2])
        if folder is not None:
            rows.append(row | {"t2w": relative(folder, out)})
    return rows


def crops_rows(data: Path, out: Path, heldout: bool = False) -> list[Row]:
    """One row per lesion crop of the patients not held out, or (``heldout``) only of those that are."""
    kept_apart = read_heldout()["lesion_crops"]
    index = read_rows(data / "lesion_crops" / "index.csv")
    ids = unique_lesion_ids([(row["ProxID"], row["fid"].lower()) for row in index])
    return [
        {
            "study_id": patient_id(row["ProxID"]),
            "patient_id": patient_id(row["ProxID"]),
            "t2w": relative(data / "lesion_crops" / "t2_npy" / row["file"], out),
            "lesion_id": lesion,
            "label": row["ClinSig"],
            "zone": row["zone"],
            "spacing_mm_zyx": CROP_SPACING_MM_ZYX,
            "is_crop": "1",
        }
        for row, lesion in zip(index, ids, strict=True)
        if (patient_id(row["ProxID"]) in kept_apart) is heldout
    ]


def write_all(data: Path, out: Path, heldout: bool = False) -> None:
    """Write every manifest into the folder ``out``; the held-out ones only on request."""
    out.mkdir(parents=True, exist_ok=True)
    write_manifest(out / "pretrain.csv", PRETRAIN_COLUMNS, pretrain_rows(data, out))
    write_manifest(out / "findings.csv", FINDINGS_COLUMNS, findings_rows(data, out))
    write_manifest(out / "findings_dicom.csv", FINDINGS_COLUMNS, findings_dicom_rows(data, out))
    write_manifest(out / "crops.csv", CROPS_COLUMNS, crops_rows(data, out))
    if heldout:
        write_manifest(out / "pretrain_heldout.csv", PRETRAIN_COLUMNS, pretrain_rows(data, out, heldout=True))
        write_manifest(out / "crops_heldout.csv", CROPS_COLUMNS, crops_rows(data, out, heldout=True))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data")
    parser.add_argument("--out", type=Path, required=True, help="folder for the manifests")
    parser.add_argument("--heldout", action="store_true", help="also write the two held-out manifests")
    options = parser.parse_args()
    write_all(options.data, options.out, options.heldout)


if __name__ == "__main__":
    main()
