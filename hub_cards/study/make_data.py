"""Manifests and phantoms of the study: ``python hub_cards/study/make_data.py --data ../shared/data --out DIR``.

Who is in what:

* ``promise12.csv``: all 40 PROMISE12 cases with their gland masks. Fold 1 holds 10 of them, tested and never pretrained
  on; fold 0 the other 30. The 10 are, within each centre, the first by sha256 of ``<SEED>:<id>`` (2, 3, 2 and 3 of
  centres 1 to 4): chosen before anything was trained.
* ``development.csv``: those 30 in 3 folds of their own, for choosing the recipe.
* ``pretrain.csv``: those 30 and 30 phantoms of another seed than those with labels, and nobody else. No PROSTATEx
  patient is in it, so every lesion crop, finding and zone mask of PROSTATEx is of somebody whom no arm has seen.
* ``crops.csv``: the 246 lesion crops of 156 PROSTATEx patients, in 5 patient-grouped folds.
* ``findings.csv``: the 15 findings in 3D, for a demonstration. ``zones.csv``: the PROSTATEx studies with PI-CAI masks.
* ``phantoms.csv``: the first 600 lesions of a phantom cohort, in 5 folds.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import sys
from pathlib import Path

from prostate_mim.folds import assign_folds
from prostate_mim.manifest import read_manifest
from prostate_mim.phantom import write_cohort

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "real"))
import make_manifests as real  # noqa: E402
from choose_heldout import read_rows  # noqa: E402

SEED = 20261123
TESTED_OF_CENTRE = {"1": 2, "2": 3, "3": 2, "4": 3}
PHANTOM_LESIONS, PHANTOM_STUDIES, PHANTOM_SEED = 600, 400, 7
UNLABELLED_STUDIES, UNLABELLED_SEED = 30, 8
FOLDS, ZONE_FOLDS, DEVELOPMENT_FOLDS = 5, 3, 3
UNLABELLED = ("study_id", "patient_id", "t2w", "spacing_mm_zyx", "centre")
Row = dict[str, str]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data")
    parser.add_argument("--out", type=Path, required=True, help="where the manifests and phantoms go")
    given = parser.parse_args()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    unlabelled = write_real(given.data.resolve(), out) + write_phantoms(out)
    write(out / "pretrain.csv", [{name: row.get(name, "") for name in UNLABELLED} for row in unlabelled])


def write_real(data: Path, out: Path) -> list[Row]:
    """The manifests of real studies, their paths relative to ``out``; returns the rows of PROMISE12's fold 0."""
    cases = real.promise12_rows(data, out)
    tested = tested_cases(cases)
    for row in cases:
        row["fold"] = str(int(row["study_id"] in tested))
    write(out / "promise12.csv", cases)
    known = [row for row in cases if row["fold"] == "0"]
    write(out / "development.csv", [{**row, "fold": str(n % DEVELOPMENT_FOLDS)} for n, row in enumerate(known)])
    crops = real.crops_rows(data, out) + real.crops_rows(data, out, heldout=True)
    write_with_folds(out / "crops.csv", sorted(crops, key=lambda row: (row["patient_id"], row["lesion_id"])))
    write(out / "findings.csv", real.findings_rows(data, out))
    write(out / "zones.csv", zone_rows(data, out))
    return known


def tested_cases(cases: list[Row]) -> set[str]:
    """Ids of the PROMISE12 cases that are tested."""
    chosen: set[str] = set()
    for centre, count in TESTED_OF_CENTRE.items():
        names = [row["study_id"] for row in cases if row["centre"] == centre]
        chosen.update(sorted(names, key=lambda name: hashlib.sha256(f"{SEED}:{name}".encode()).hexdigest())[:count])
    return chosen


def zone_rows(data: Path, out: Path) -> list[Row]:
    """One row per PROSTATEx study with masks of gland and zones; its lesion mask where a csPCa lesion was drawn."""
    labels = data / "prostatex" / "picai_labels"
    rows = []
    for patient, (series, path) in real.findings_series(data).items():
        gland = real.gland_mask_path(data, patient)
        if gland is None or not real.same_grid(gland, path):
            continue
        zones = next((labels / "anatomical_delineations" / "zonal_pz_tz").rglob(gland.name), None)
        lesions = next((labels / "csPCa_lesion_delineations").rglob(gland.name), None)
        row = {"study_id": f"{patient}-series{series}", "patient_id": patient, "t2w": real.relative(path, out)}
        row |= {"gland_mask": real.relative(gland, out), "centre": "prostatex"}
        row["zone_mask"] = real.relative(zones, out) if zones else ""
        row["lesion_mask"] = real.relative(lesions, out) if lesions and holds_lesion(lesions) else ""
        rows.append(row)
    # Three folds; the few patients with a lesion mask are dealt out first, so that every fold has one.
    dealt = sorted(rows, key=lambda row: (not row["lesion_mask"], row["patient_id"]))
    for number, row in enumerate(dealt):
        row["fold"] = str(number % ZONE_FOLDS)
    return rows


def holds_lesion(path: Path) -> bool:
    """Whether a mask of the study's csPCa lesions has any."""
    import nibabel as nib
    import numpy as np

    return bool((np.asarray(nib.load(path).dataobj) > 0).any())


def write_phantoms(out: Path) -> list[Row]:
    """The labelled cohort, cut to its first 600 lesions; returns the rows of an unlabelled one of other patients."""
    if not (out / "phantoms" / "manifest.csv").exists():
        write_cohort(out / "phantoms", PHANTOM_STUDIES, PHANTOM_SEED)
    if not (out / "unlabelled" / "manifest.csv").exists():
        write_cohort(out / "unlabelled", UNLABELLED_STUDIES, UNLABELLED_SEED)
    lesions = moved(out / "phantoms" / "manifest.csv", out)
    if len(lesions) < PHANTOM_LESIONS:
        raise SystemExit(f"the cohort has {len(lesions)} lesions, {PHANTOM_LESIONS} are needed: raise PHANTOM_STUDIES")
    write_with_folds(out / "phantoms.csv", lesions[:PHANTOM_LESIONS])
    return moved(out / "unlabelled" / "studies.csv", out)


def moved(source: Path, out: Path) -> list[Row]:
    """Rows of a manifest with their paths made relative to ``out``."""
    rows = read_rows(source)
    for row in rows:
        for name in ("t2w", "gland_mask", "lesion_mask", "zone_mask"):
            if row.get(name):
                row[name] = os.path.relpath(source.parent / row[name], out)
    return rows


def write_with_folds(path: Path, rows: list[Row]) -> None:
    """A manifest with a ``fold`` column: patients apart, balanced by label."""
    write(path, rows)
    folds = assign_folds(read_manifest(path, labels=True), FOLDS, SEED)
    write(path, [row | {"fold": str(fold)} for row, fold in zip(rows, folds, strict=True)])


def write(path: Path, rows: list[Row]) -> None:
    """Rows as CSV; the columns are the first row's."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
