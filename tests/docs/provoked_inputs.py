"""Volumes, manifests and overlap that are refused: see provoking.py."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from dicom_series import write_dicom_series
from provoking import command, provokes, saved, table
from small_volumes import SAGITTAL, ball, t2w_volume

from prostate_mim.volume import read_volume, write_volume

# ------------------------------------------------------------------ volumes


def edited_nifti(folder: Path, **fields: tuple[int, str, float]) -> Path:
    """A .nii with other header fields: byte, format and value of each."""
    path = saved(folder, "edited.nii")
    data = bytearray(path.read_bytes())
    for at, kind, value in fields.values():
        struct.pack_into(kind, data, at, value)
    path.write_bytes(data)
    return path


@provokes
def no_such_file(folder: Path) -> None:
    saved(folder)
    read_volume(folder / "stduy.nii.gz")


@provokes
def truncated_gzip(folder: Path) -> None:
    path = saved(folder)
    path.write_bytes(path.read_bytes()[:-200])
    read_volume(path)


@provokes
def damaged_gzip(folder: Path) -> None:
    path = saved(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)
    read_volume(path)


@provokes
def truncated_plain(folder: Path) -> None:
    path = saved(folder, "study.nii")
    path.write_bytes(path.read_bytes()[:-500])
    read_volume(path)


@provokes
def gzip_under_another_name(folder: Path) -> None:
    saved(folder).rename(folder / "study.nii")
    read_volume(folder / "study.nii")


@provokes
def unsupported_suffix(folder: Path) -> None:
    (folder / "study.png").write_bytes(b"x")
    read_volume(folder / "study.png")


@provokes
def no_orientation(folder: Path) -> None:
    read_volume(edited_nifti(folder, qform_code=(252, "<h", 0), sform_code=(254, "<h", 0)))


@provokes
def forms_disagree(folder: Path) -> None:
    both = {"qform_code": (252, "<h", 1), "sform_code": (254, "<h", 1)}
    read_volume(edited_nifti(folder, **both, qoffset_x=(268, "<f", 77.0)))


@provokes
def four_dimensional(folder: Path) -> None:
    voxels = np.random.default_rng(0).normal(300, 50, (16, 16, 6, 3)).astype("f4")
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([0.5, 0.5, 3.0, 1.0])), folder / "study.nii.gz")
    read_volume(folder / "study.nii.gz")


@provokes
def sagittal_stack(folder: Path) -> None:
    read_volume(saved(folder, volume=t2w_volume(direction=SAGITTAL)))


@provokes
def impossible_spacing(folder: Path) -> None:
    voxels = np.random.default_rng(0).normal(300, 50, (16, 16, 6)).astype("f4")
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([0.05, 0.05, 3.0, 1.0])), folder / "study.nii.gz")
    read_volume(folder / "study.nii.gz")


@provokes
def constant_image(folder: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.full((8, 8, 4), 7, "i2"), np.diag([1.0, 1.0, 3.0, 1.0])), folder / "a.nii.gz")
    read_volume(folder / "a.nii.gz")


@provokes
def not_finite(folder: Path) -> None:
    voxels = t2w_volume().voxels.astype("f4")
    voxels[0, 0, :3] = np.nan
    np.save(folder / "study.npy", voxels)
    read_volume(folder / "study.npy", spacing_mm_zyx=(3.0, 0.5, 0.5))


@provokes
def bare_array(folder: Path) -> None:
    np.save(folder / "study.npy", t2w_volume().voxels)
    read_volume(folder / "study.npy")


@provokes
def two_series(folder: Path) -> None:
    write_dicom_series(folder / "both", t2w_volume(), series_number=4)
    for number, path in enumerate(write_dicom_series(folder / "other", t2w_volume(1), series_number=5)):
        path.rename(folder / "both" / f"2-{number:02d}.dcm")
    read_volume(folder / "both")


@provokes
def missing_slice(folder: Path) -> None:
    write_dicom_series(folder / "series", t2w_volume())[3].unlink()
    read_volume(folder / "series")


@provokes
def first_slices_missing(folder: Path) -> None:
    write_dicom_series(folder / "series", t2w_volume())[0].unlink()
    read_volume(folder / "series")


@provokes
def compressed_dicom(folder: Path) -> None:
    for path in write_dicom_series(folder / "series", t2w_volume()):
        jpeg, plain = b"1.2.840.10008.1.2.4.70", b"1.2.840.10008.1.2.1\0"
        data = path.read_bytes()
        at = data.index(plain)
        made = data[: at - 2] + len(jpeg).to_bytes(2, "little") + jpeg + data[at + len(plain) :]
        group = made.index(b"UL\x04\x00") + 4  # the length of the file's meta group grows by as much
        grown = int.from_bytes(made[group : group + 4], "little") + len(jpeg) - len(plain)
        path.write_bytes(made[:group] + grown.to_bytes(4, "little") + made[group + 4 :])
    read_volume(folder / "series")


@provokes
def changed_file(folder: Path) -> None:
    path = saved(folder)
    expected = hashlib.sha256(path.read_bytes() + b"x").hexdigest()
    read_volume(path, sha256=expected)


@provokes
def position_outside(folder: Path) -> None:
    from prostate_mim import InputSpec
    from prostate_mim.preprocess import preprocess

    preprocess(read_volume(saved(folder)), InputSpec(), (10.2, -31.5, 940.0))


@provokes
def not_like_t2w(folder: Path) -> None:
    """``--strict`` refuses; without it the same is a warning."""
    from prostate_mim.modality import check_modality
    from prostate_mim.modality.guard import refuse_flagged

    volume = read_volume(saved(folder, volume=t2w_volume()))
    refuse_flagged(check_modality(volume), str(folder / "study.nii.gz"))


# ------------------------------------------------------------------ manifests


def opened(manifest: Path) -> None:
    """Read a manifest and every row of it, as a training does."""
    from prostate_mim.manifest import read_manifest
    from prostate_mim.studies import open_all

    list(open_all(read_manifest(manifest, labels=True)))


@provokes
def no_manifest(folder: Path) -> None:
    opened(folder / "manifest.csv")


@provokes
def column_missing(folder: Path) -> None:
    opened(table(folder).write(drop="patient_id"))


@provokes
def wrong_label(folder: Path) -> None:
    made = table(folder)
    made.rows[1]["label"] = "2"
    opened(made.write())


@provokes
def label_empty(folder: Path) -> None:
    made = table(folder)
    made.rows[1]["label"] = ""
    opened(made.write())


@provokes
def file_of_a_row_missing(folder: Path) -> None:
    made = table(folder)
    made.rows[2]["t2w"] = "gone.nii.gz"
    opened(made.write())


@provokes
def study_twice(folder: Path) -> None:
    made = table(folder)
    made.rows[3] |= {"study_id": "s0", "patient_id": "p0", "t2w": "v0.nii.gz"}
    opened(made.write())


@provokes
def patient_in_two_folds(folder: Path) -> None:
    made = table(folder)
    for number, row in enumerate(made.rows):
        row |= {"fold": str(number % 2), "patient_id": f"p{number // 2}"}
    opened(made.write())


@provokes
def no_place(folder: Path) -> None:
    made = table(folder)
    made.rows[0]["position_mm_lps"] = ""
    opened(made.write())


@provokes
def lesion_outside(folder: Path) -> None:
    made = table(folder)
    made.rows[0] |= {"position_mm_lps": "90 0 0", "gland_mask": ""}
    opened(made.write())


@provokes
def lesion_far_from_gland(folder: Path) -> None:
    made = table(folder)
    write_volume(ball(t2w_volume(), (-6.0, -6.0, -6.0), 1.5), folder / "far.nii.gz")
    made.rows[0] |= {"position_mm_lps": "6 6 6", "gland_mask": "far.nii.gz"}
    opened(made.write())


@provokes
def empty_mask(folder: Path) -> None:
    made = table(folder)
    write_volume(ball(t2w_volume(), radius_mm=0.0), folder / "empty.nii.gz")
    made.rows[0]["gland_mask"] = "empty.nii.gz"
    opened(made.write())


@provokes
def unreadable_row(folder: Path) -> None:
    made = table(folder)
    path = folder / "v1.nii.gz"
    path.write_bytes(path.read_bytes()[:-100])
    opened(made.write())


@provokes
def too_few_patients(folder: Path) -> None:
    from prostate_mim.folds import assign_folds
    from prostate_mim.manifest import read_manifest

    assign_folds(read_manifest(table(folder, studies=4).write()), 5, 0)


@provokes
def rows_flagged(folder: Path) -> None:
    command("data", "check", table(folder, studies=2).write())


# ------------------------------------------------------------------ leaks


def hashed(manifest: Path) -> tuple[Any, dict[int, str]]:
    from prostate_mim.manifest import read_manifest
    from prostate_mim.volume import voxel_hash

    listed = read_manifest(manifest)
    return listed, {row.number: voxel_hash(read_volume(row.t2w)) for row in listed.rows}


@provokes
def same_voxels_twice(folder: Path) -> None:
    from prostate_mim.leaks import refuse, same_voxels

    listed, hashes = hashed(table(folder, studies=3, volumes=2).write())
    refuse(same_voxels(listed.rows, hashes), False, str(listed.path))


@provokes
def model_saw_a_study(folder: Path) -> None:
    from prostate_mim.leaks import StudyHashes, model_saw, refuse

    listed, hashes = hashed(table(folder, studies=2).write())
    seen = StudyHashes.make([hashes[1]], "0" * 32)
    refuse(model_saw(listed.rows, hashes, seen), False, str(listed.path))


@provokes
def one_person_two_ids(folder: Path) -> None:
    from prostate_mim.leaks import refuse, same_person

    listed, _ = hashed(table(folder, studies=2).write())
    refuse(same_person(listed.rows, {"p0": "11373", "p1": "11373"}), False, str(listed.path))
