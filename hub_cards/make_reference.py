"""How the modality guard's statistics were made, and how well it tells good volumes from wrong ones.

    python hub_cards/make_reference.py --data ../shared/data --work DIR [--write]

Statistics and limit come from the volumes that the bundled encoder was trained on (34 PROMISE12, 9 PROSTATEx series,
1 Prostate158) and 44 phantoms; the limit is 1.1 times the largest score in cross-validation over patients. The table
is of volumes that neither the encoder nor the statistics have seen: those of ``heldout.json``, phantoms of another
seed, and wrong inputs made of both (``tests/support/wrong_inputs.py``). ``--write`` stores the statistics in the
package. Takes a few minutes on 2 CPU cores; the same data give the same file.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from prostate_mim.encoder import PreMIM
from prostate_mim.files import write_bytes
from prostate_mim.manifest import read_manifest
from prostate_mim.modality import check_volume
from prostate_mim.modality.reference import BUNDLED, Reference, features_of, fit
from prostate_mim.phantom import make_study
from prostate_mim.studies import open_all
from prostate_mim.volume import Volume

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))
from wrong_inputs import WRONG  # noqa: E402

ENCODER = "resenc-s.mim-t2w"
SEED = 20261123
PHANTOMS, FRESH_PHANTOMS, CHANGED_PHANTOMS = 44, 24, 8
DIRECTIONS, FOLDS, MARGIN = 8, 8, 1.1
REAL, PHANTOM = 0, 1
MADE_OF = (
    "34 PROMISE12 volumes (spacing assumed), 9 PROSTATEx series, 1 Prostate158 volume, and 44 phantoms; "
    "research only, see the encoder's card"
)
Named = tuple[str, Volume]


def real_volumes(data: Path, work: Path, name: str) -> list[Named]:
    """(patient, volume) of a manifest that ``tests/real/make_manifests.py`` writes."""
    script = ROOT / "tests" / "real" / "make_manifests.py"
    command = [sys.executable, str(script), "--data", str(data), "--out", str(work), "--heldout"]
    subprocess.run(command, check=True)
    return [(study.row.patient_id, study.volume) for study in open_all(read_manifest(work / name))]


def phantoms(seed: int, count: int) -> list[Named]:
    """(patient, volume) of synthetic studies."""
    made = (make_study(seed, index) for index in range(count))
    return [(study.patient_id, study.volume) for study in made]


def make_reference(encoder: PreMIM, real: Sequence[Named], synthetic: Sequence[Named], directions: int) -> Reference:
    """Statistics of good volumes, with the limit from cross-validation over patients."""
    named = [*real, *synthetic]
    vectors = np.stack([features_of(volume, encoder) for _, volume in named])
    groups = np.repeat((REAL, PHANTOM), (len(real), len(synthetic)))
    folds = np.array([int(hashlib.sha256(patient.encode()).hexdigest(), 16) % FOLDS for patient, _ in named])
    scores = np.zeros(len(vectors))
    for fold in np.unique(folds):
        part = _reference(encoder, vectors[folds != fold], groups[folds != fold], directions, limit=1.0)
        scores[folds == fold] = [part.score(vector) for vector in vectors[folds == fold]]
    return _reference(encoder, vectors, groups, directions, limit=MARGIN * float(scores.max()))


def _reference(encoder: PreMIM, vectors: np.ndarray, groups: np.ndarray, directions: int, limit: float) -> Reference:
    mean, scale, centres, kept, variances, rest = fit(vectors, groups, directions)
    return Reference(
        mean, scale, centres, kept, variances, float(rest[0]), limit,
        encoder=encoder.name, revision=encoder.revision, spec=encoder.spec.fingerprint, made_of=MADE_OF,
    )  # fmt: skip


def judged(volumes: Sequence[Volume], encoder: PreMIM, reference: Reference) -> tuple[np.ndarray, np.ndarray]:
    """(scores, whether a cheap check found something), one entry a volume."""
    scores = np.array([reference.score(features_of(volume, encoder)) for volume in volumes])
    return scores, np.array([bool(check_volume(volume)) for volume in volumes])


def table(encoder: PreMIM, reference: Reference, real: Sequence[Named], synthetic: Sequence[Named]) -> str:
    """Markdown: false alarms on good volumes, then detection of each kind of wrong one."""
    good = [judged([volume for _, volume in part], encoder, reference) for part in (real, synthetic)]
    lines = ["| good volumes | n | flagged by cheap checks | by the score | largest score |", "|---|---|---|---|---|"]
    for name, (scores, cheap) in zip(("held-out real", "fresh phantoms"), good, strict=True):
        over = int((scores > reference.limit).sum())
        lines.append(f"| {name} | {len(scores)} | {int(cheap.sum())} | {over} | {scores.max():.2f} |")
    lines += ["", "| wrong input | from | n | cheap checks | AUROC of the score | score over limit | either |"]
    lines.append("|---|---|---|---|---|---|---|")
    for kind, change in WRONG.items():
        parts = (real, synthetic[:CHANGED_PHANTOMS])
        for name, part, (normal, _) in zip(("real", "phantom"), parts, good, strict=True):
            wrong = [change(volume, np.random.default_rng((SEED, index))) for index, (_, volume) in enumerate(part)]
            scores, cheap = judged(wrong, encoder, reference)
            truth = np.repeat((0, 1), (len(normal), len(scores)))
            area = roc_auc_score(truth, np.concatenate([normal, scores]))
            over = scores > reference.limit
            cells = (int(cheap.sum()), f"{area:.2f}", int(over.sum()), int((over | cheap).sum()))
            lines.append(f"| {kind} | {name} | {len(scores)} | " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Make the statistics, print the table, and store them on request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--write", action="store_true", help="store the statistics in the package")
    arguments = parser.parse_args()
    encoder = PreMIM.from_pretrained(ENCODER)
    real = real_volumes(arguments.data, arguments.work, "pretrain.csv")
    reference = make_reference(encoder, real, phantoms(SEED, PHANTOMS), DIRECTIONS)
    flagged = sum(bool(check_volume(volume)) for _, volume in real)
    print(f"limit {reference.limit:.3f}; cheap checks flag {flagged} of {len(real)} real training volumes")
    if arguments.write:
        write_bytes(BUNDLED, reference.to_bytes())
    held_out = real_volumes(arguments.data, arguments.work, "pretrain_heldout.csv")
    print(table(encoder, reference, held_out, phantoms(SEED + 2, FRESH_PHANTOMS)))


if __name__ == "__main__":
    main()
