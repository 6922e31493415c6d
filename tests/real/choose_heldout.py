"""Choose, once, the patients that no pretraining or fine-tuning may see: ``hub_cards/heldout.json``.

Run ``python tests/real/choose_heldout.py --data ../shared/data`` to write the list again: it is a pure function of the
seed and of the file names, so it writes the same bytes (``test_manifests.py`` holds it to that).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

SEED = 20261123
ROOT = Path(__file__).resolve().parents[2]
HELDOUT_FILE = ROOT / "hub_cards" / "heldout.json"
PROMISE12_CENTRES = {"1": range(0, 13), "2": range(13, 26), "3": range(26, 37), "4": range(37, 50)}
CROP_SHARE = 0.2
RULE = (
    "Ranked by sha256 of '<seed>:<id>', the first of each kind: one PROMISE12 case per centre and 2 more of any; "
    "of the PROSTATEx patients 0000-0009 with a PI-CAI gland mask and a crop, one with and one without a significant "
    "finding; 20 % of the lesion-crop patients, those 2 included and the other patients 0000-0009 excluded, with the "
    "share of patients that have a significant finding kept."
)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file as dictionaries."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def ranked(ids: Iterable[str], seed: int = SEED) -> list[str]:
    """``ids`` in an order fixed by ``seed`` alone, whatever the order given, the platform or the Python version."""
    return sorted(ids, key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).hexdigest())


def promise12_cases(data: Path) -> list[str]:
    """Two-digit numbers of the PROMISE12 cases present, ascending."""
    return sorted(p.name[len("image_train") :][:2] for p in (data / "promise12").glob("image_train*.npy.gz"))


def promise12_centre(case: str) -> str:
    """Centre 1 to 4 of a PROMISE12 case, by its block of case numbers."""
    return next(centre for centre, block in PROMISE12_CENTRES.items() if int(case) in block)


def patient_id(prox_id: str) -> str:
    """``ProstateX-0012`` -> ``prostatex-0012``."""
    return prox_id.lower()


def patients_with_label(rows: list[dict[str, str]]) -> dict[str, bool]:
    """Patient -> whether any of the patient's rows is clinically significant."""
    found: dict[str, bool] = {}
    for row in rows:
        patient = patient_id(row["ProxID"])
        found[patient] = found.get(patient, False) or row["ClinSig"].upper() in ("TRUE", "1")
    return found


def choose_promise12(data: Path) -> list[str]:
    """Six cases: the first ranked of every centre, then the first two ranked of the rest."""
    order = ranked(f"promise12-{case}" for case in promise12_cases(data))
    first = [next(i for i in order if promise12_centre(i[-2:]) == centre) for centre in PROMISE12_CENTRES]
    return sorted(first + [i for i in order if i not in first][:2])


def choose_prostatex(data: Path) -> list[str]:
    """Two full-volume patients with a gland mask and a crop: one with a significant finding and one without."""
    folder = data / "prostatex"
    significant = patients_with_label(read_rows(folder / "ProstateX-Findings-Train.csv"))
    masked = {patient_id(r["ProxID"]) for r in read_rows(folder / "picai_labels" / "prostatex_to_picai.csv")}
    cropped = patients_with_label(read_rows(data / "lesion_crops" / "index.csv"))
    order = ranked(p for p in significant if p in masked and p in cropped)
    return sorted(next(p for p in order if significant[p] is wanted) for wanted in (True, False))


def choose_crops(data: Path, prostatex: list[str]) -> list[str]:
    """A fifth of the crop patients, label-stratified, ``prostatex`` included and other full-volume patients not."""
    label = patients_with_label(read_rows(data / "lesion_crops" / "index.csv"))
    full = patients_with_label(read_rows(data / "prostatex" / "ProstateX-Findings-Train.csv"))
    count = round(CROP_SHARE * len(label))
    positives = round(count * sum(label.values()) / len(label))
    chosen = list(prostatex)
    order = [p for p in ranked(label) if p not in full]
    for wanted, quota in ((True, positives), (False, count - positives)):
        room = quota - sum(label[p] is wanted for p in prostatex)
        chosen += [p for p in order if label[p] is wanted][:room]
    return sorted(chosen)


def choose(data: Path) -> dict[str, object]:
    """The whole held-out list, as it is written to ``hub_cards/heldout.json``."""
    prostatex = choose_prostatex(data)
    return {
        "seed": SEED,
        "rule": RULE,
        "promise12": choose_promise12(data),
        "prostatex": prostatex,
        "lesion_crops": choose_crops(data, prostatex),
    }


def read_heldout(path: Path = HELDOUT_FILE) -> dict[str, set[str]]:
    """``promise12``, ``prostatex`` and ``lesion_crops`` of the held-out list, as sets of patient ids."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    return {kind: set(stored[kind]) for kind in ("promise12", "prostatex", "lesion_crops")}


def main() -> None:
    """Write the list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the real data")
    parser.add_argument("--out", type=Path, default=HELDOUT_FILE, help="JSON file to write")
    options = parser.parse_args()
    options.out.write_text(json.dumps(choose(options.data), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
