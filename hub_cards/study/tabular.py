"""What lesions give away without any network: ``python hub_cards/study/tabular.py --data DIR``.

DIR is the folder of ``make_data.py``'s --out. The same rows and folds as the study's tasks ``lesion crops`` and
``phantom lesions``; logistic regressions on standardised values, out of fold, C = 1. Whoever is no better than these
has learnt nothing of lesions: a network sees the size of a small crop by the padding around it, and where in the body
it lies by what is around the lesion.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import zoom
from sklearn.linear_model import LogisticRegression

from prostate_mim.manifest import ManifestRow, read_manifest
from prostate_mim.metrics import Scored, interval
from prostate_mim.probing.location import powers
from prostate_mim.studies import labelled_places, open_study

ZONES = ("PZ", "TZ", "AS", "SV")
SAMPLES = 2000
Floats = npt.NDArray[np.float64]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of make_data.py")
    parser.add_argument("--out", type=Path, help="JSON file of the numbers")
    given = parser.parse_args()
    found = {"lesion crops": crops(given.data / "crops.csv"), "phantom lesions": places(given.data / "phantoms.csv")}
    for name, one in found.items():
        print(f"{name}\n{table(one)}")
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def crops(path: Path) -> dict[str, list[float]]:
    """Of crops: name -> AUROC, lower and upper end of its 95 % interval over patients."""
    rows = [row for row in read_manifest(path, labels=True).rows if row.fold is not None]
    values = {name: np.asarray([read(row) for row in rows], float) for name, read in _READ.items()}
    values["zone, size and intensities"] = np.concatenate([values[name] for name in ("zone", "size", "intensities")], 1)
    return _scored(rows, values)


def places(path: Path) -> dict[str, list[float]]:
    """Of lesions in whole scans with a gland mask: the same of where they lie."""
    listed = read_manifest(path, labels=True)
    rows = [row for row in listed.rows if row.fold is not None]
    zone = np.asarray([_zone(row) for row in rows])
    studies = [open_study(listed, row, ("gland",)) for row in rows]
    lesions = np.asarray([study.row.position_mm_lps for study in studies])
    scans = np.asarray([study.volume.centre_mm_lps for study in studies])
    glands = np.asarray([labelled_places(study.masks["gland"]).mean(0) for study in studies])
    place = np.concatenate([powers((lesions - middle) / 30, 2) for middle in (scans, glands)], 1)
    return _scored(rows, {"zone": zone, "place from the middles of scan and gland": place})


def _scored(rows: Sequence[ManifestRow], values: Mapping[str, Floats]) -> dict[str, list[float]]:
    labels = np.asarray([row.label for row in rows])
    folds = np.asarray([row.fold for row in rows])
    patients = [row.patient_id for row in rows]
    found = {}
    for name, features in values.items():
        scored = Scored(labels, out_of_fold(features, labels, folds), tuple(patients))
        one = interval(scored, "auroc", samples=SAMPLES, seed=0)
        found[name] = [round(float(number), 4) for number in (one.value, one.low, one.high) if number is not None]
    return found


def out_of_fold(features: Floats, labels: npt.NDArray[np.int_], folds: npt.NDArray[np.int_]) -> Floats:
    """(N,) probabilities, each by a regression that saw nobody of the row's fold."""
    found = np.zeros(len(labels))
    for fold in np.unique(folds):
        test = folds == fold
        mean, deviation = features[~test].mean(0), features[~test].std(0)
        scaled = (features - mean) / np.where(deviation > 0, deviation, 1)
        model = LogisticRegression(max_iter=2000).fit(scaled[~test], labels[~test])
        found[test] = model.predict_proba(scaled[test])[:, 1]
    return found


def table(found: dict[str, list[float]]) -> str:
    """Markdown."""
    lines = ["| logistic regression on | AUROC (95 % interval) |", "| :-- | --: |"]
    lines += [f"| {name} | {value:.3f} ({low:.3f} to {high:.3f}) |" for name, (value, low, high) in found.items()]
    return "\n".join(lines)


def _crop(row: ManifestRow) -> Floats:
    return np.asarray(np.load(os.fspath(row.t2w)), float).squeeze()


def _size(row: ManifestRow) -> list[float]:
    return [float(np.log(count)) for count in _crop(row).shape]


def _intensities(row: ManifestRow) -> list[float]:
    crop = _crop(row)
    return [float(np.log1p(value)) for value in (crop.mean(), crop.std(), *np.percentile(crop, (5, 25, 50, 75, 95)))]


def _pixels(row: ManifestRow) -> list[float]:
    crop = _crop(row)
    crop = (crop - crop.mean()) / (crop.std() + 1e-6)
    small = zoom(crop, [16 / count for count in crop.shape], order=1)
    return [float(value) for value in small.ravel()]


def _zone(row: ManifestRow) -> list[float]:
    return [float(row.zone == zone) for zone in ZONES]


_READ = {
    "zone": _zone,
    "size": _size,
    "intensities": _intensities,
    "16 x 16 pixels": _pixels,
}


if __name__ == "__main__":
    main()
