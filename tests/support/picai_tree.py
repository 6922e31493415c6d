"""PI-CAI's public set as its publishers lay it out, with phantoms for patients: images, picai_labels, splits.

ROOT/images/picai_public_images_fold{0..4}/<patient>/<patient>_<study>_{t2w,adc,hbv,sag,cor}.mha
ROOT/picai_labels/clinical_information/marksheet.csv
ROOT/picai_labels/csPCa_lesion_delineations/{human_expert/{original,resampled,Pooch25},AI/Bosma22a}/<key>.nii.gz
ROOT/picai_labels/anatomical_delineations/{whole_gland,zonal_pz_tz}/AI/<source>/<key>.nii.gz
ROOT/splits.json                            nnU-Net's list of {"train": [...], "val": [...]}, as picai_baseline has it
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from small_volumes import CORONAL, SAGITTAL, t2w_volume

from prostate_mim.phantom import PhantomStudy, make_study
from prostate_mim.phantom.study import patient_of, plan_patient
from prostate_mim.volume import Volume, write_volume

FOLDS = 5
COLUMNS = (
    "patient_id", "study_id", "mri_date", "patient_age", "psa", "psad", "prostate_volume", "histopath_type",
    "lesion_PIRADS", "lesion_GS", "lesion_ISUP", "case_ISUP", "case_csPCa", "center",
)  # fmt: skip
CENTRES = ("RUMC", "PCNN", "ZGT")
GRADES = (2, 3, 5)


@dataclass(frozen=True)
class PicaiStudy:
    """One study of the tree.

    Attributes:
        key: ``<patient>_<study>``, as in every file name.
        fold: the publisher's.
        positive: ``case_csPCa`` is YES.
        expert: a human expert of the first set delineated it; else, if positive, only those of Pooch25 did.
    """

    key: str
    fold: int
    positive: bool
    expert: bool


def write_picai_tree(root: Path, *, folds: int = FOLDS, a_fold: int = 2, seed: int = 7) -> list[PicaiStudy]:
    """Write ``images/``, ``picai_labels/`` and ``splits.json``; half of each fold is positive.

    The first patient of fold 0 has two studies, and the last positive one is delineated in Pooch25 only.

    Args:
        root: where to; made if need be.
        folds: how many of the five archives are there.
        a_fold: patients in each fold; even.
        seed: of the phantoms.
    """
    labels = root / "picai_labels"
    made: list[PicaiStudy] = []
    rows: list[dict[str, str]] = []
    chosen = {positive: _patients(seed, positive) for positive in (True, False)}
    for number in range(folds * a_fold + 1):
        again = number == folds * a_fold  # a second study of the first patient
        fold, place = (0, 0) if again else divmod(number, a_fold)
        positive = place % 2 == 0
        study = make_study(seed, next(chosen[positive]))
        expert = not (positive and fold == folds - 1)
        found = PicaiStudy(f"{10000 + (0 if again else number)}_{1000000 + number}", fold, positive, expert)
        _write_images(root / "images", found, study)
        _write_labels(labels, found, study)
        rows.append(_record(found, number))
        made.append(found)
    _write_sheet(labels / "clinical_information" / "marksheet.csv", rows)
    splits = [
        {"train": [one.key for one in made if one.fold != fold], "val": [one.key for one in made if one.fold == fold]}
        for fold in range(folds)
    ]
    (root / "splits.json").write_text(json.dumps(splits, indent=4))
    return made


def _patients(seed: int, positive: bool) -> Iterator[int]:
    """Phantoms of different patients with, or without, a significant lesion."""
    index = 0
    while True:
        _, lesions = plan_patient(seed, index)
        if patient_of(seed, index) == index and any(lesion.label for lesion in lesions) == positive:
            yield index
        index += 1


def _write_images(images: Path, found: PicaiStudy, study: PhantomStudy) -> None:
    """The T2w series, and the four others of the same study, which nothing of ours may read."""
    folder = images / f"picai_public_images_fold{found.fold}" / found.key.split("_")[0]
    folder.mkdir(parents=True, exist_ok=True)
    write_volume(study.volume, folder / f"{found.key}_t2w.mha")
    for name, direction in (("adc", None), ("hbv", None), ("sag", SAGITTAL), ("cor", CORONAL)):
        write_volume(t2w_volume(1, direction=direction), folder / f"{found.key}_{name}.mha")


def _write_labels(labels: Path, found: PicaiStudy, study: PhantomStudy) -> None:
    """Delineations of the sources that cover a study; benign ones have an empty mask."""
    lesions, anatomy = labels / "csPCa_lesion_delineations", labels / "anatomical_delineations"
    drawn = _drawn(study)
    value = GRADES[found.fold % len(GRADES)]
    if found.expert:
        for name in ("original", "resampled"):
            _write_mask(lesions / "human_expert" / name, found.key, drawn * value, study)
    else:
        _write_mask(lesions / "human_expert/Pooch25", found.key, drawn, study)
    _write_mask(lesions / "AI/Bosma22a", found.key, drawn, study)
    for name in ("Bosma22b", "Guerbet23"):
        _write_mask(anatomy / "whole_gland/AI" / name, found.key, study.gland.voxels, study)
    for name in ("HeviAI23", "Yuan23"):
        _write_mask(anatomy / "zonal_pz_tz/AI" / name, found.key, study.zones.voxels, study)


def _drawn(study: PhantomStudy) -> np.ndarray:
    """(z, y, x) uint8: 1 in every significant lesion; benign ones are not delineated."""
    drawn = np.zeros(study.volume.shape_zyx, np.uint8)
    for lesion in study.lesions:
        if lesion.label:
            drawn |= lesion.mask.voxels
    return drawn


def _write_mask(folder: Path, key: str, voxels: np.ndarray, study: PhantomStudy) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_volume(Volume(voxels.astype(np.uint8), study.volume.geometry), folder / f"{key}.nii.gz")


def _record(found: PicaiStudy, number: int) -> dict[str, str]:
    """A line of the marksheet; lists of lesions, and N/A where nothing was graded, as the publishers write them."""
    patient, study = found.key.split("_")
    grade = str(GRADES[found.fold % len(GRADES)])
    graded = f"{grade},N/A" if found.positive else "N/A"
    return {
        "patient_id": patient, "study_id": study, "mri_date": f"2019-07-{number + 1:02d}", "patient_age": "66",
        "psa": "7.7", "psad": "0.14", "prostate_volume": "55", "histopath_type": "MRBx" if found.positive else "",
        "lesion_PIRADS": "4,3" if found.positive else "3", "lesion_GS": "4+3,N/A" if found.positive else "N/A",
        "lesion_ISUP": graded, "case_ISUP": grade if found.positive else "0",
        "case_csPCa": "YES" if found.positive else "NO", "center": CENTRES[number % len(CENTRES)],
    }  # fmt: skip


def _write_sheet(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
