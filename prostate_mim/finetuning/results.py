"""What fine-tuning found: figures with intervals over patients, and the files they are written to."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prostate_mim.files import write_text
from prostate_mim.finetuning.config import FinetuneConfig
from prostate_mim.finetuning.lesions import Lesions
from prostate_mim.finetuning.regions import Features
from prostate_mim.metrics import Auroc, Evaluation, Scored, auroc_interval, evaluate


@dataclass(frozen=True)
class FinetuneRun:
    """What fine-tuning found.

    Attributes:
        folds: one AUROC per fold, on lesions of patients it was not trained on; with ``test_fold`` that one's alone.
        pooled: AUROC of all out-of-fold probabilities together.
        release: the classifier trained on every row, or the ensemble of the folds' classifiers; with ``test_fold`` that
            which was tested.
        labels, probabilities: out-of-fold, one per manifest row; with ``test_fold`` one per row of it.
        allowed_overlap: why the figures may flatter: what ``allow_overlap`` let pass.
        evaluation: every metric of the out-of-fold probabilities, by zone and centre too.
        patients: the same of patients: a patient is positive if a lesion is, its probability that of its lesions
            together (``aggregate``).
    """

    folds: tuple[Auroc, ...]
    pooled: Auroc
    release: Path
    labels: tuple[int, ...]
    probabilities: tuple[float, ...]
    allowed_overlap: tuple[str, ...] = ()
    evaluation: Evaluation | None = None
    patients: Evaluation | None = None

    @property
    def mean(self) -> float | None:
        """Mean of the folds' AUROCs that are defined."""
        defined = [fold.value for fold in self.folds if fold.value is not None]
        return sum(defined) / len(defined) if defined else None


def score(
    lesions: Lesions, probabilities: Features, release: Path, overlap: tuple[str, ...], config: FinetuneConfig
) -> FinetuneRun:
    """Figures of out-of-fold probabilities (N,)."""

    def part(chosen: list[int]) -> Auroc:
        return auroc_interval(
            [int(lesions.labels[i]) for i in chosen],
            [float(probabilities[i]) for i in chosen],
            [lesions.patients[i] for i in chosen],
        )

    folds = [np.flatnonzero(lesions.folds == fold).tolist() for fold in sorted(set(lesions.folds.tolist()))]
    zones = tuple(lesions.zone_of(i) for i in range(len(lesions)))
    scored = Scored(lesions.labels, probabilities, lesions.patients, zones, lesions.centres)
    return FinetuneRun(
        folds=tuple(part(fold) for fold in folds),
        pooled=part(list(range(len(lesions)))),
        release=release,
        labels=tuple(lesions.labels.tolist()),
        probabilities=tuple(float(p) for p in probabilities),
        allowed_overlap=overlap,
        evaluation=evaluate(scored),
        patients=evaluate(scored.per_patient(config.aggregate)),
    )


def figures(run: FinetuneRun) -> dict[str, Any]:
    """What the release's card says of a run."""
    return {
        "auroc_folds": [dataclasses.asdict(fold) for fold in run.folds],
        "auroc_pooled": dataclasses.asdict(run.pooled),
        "auroc_mean": run.mean,
        "allowed_overlap": list(run.allowed_overlap),
    }


def write_results(run: Path, scored: FinetuneRun, lesions: Lesions, config: FinetuneConfig) -> None:
    """``results.json`` and ``predictions.csv``; rows are named by their numbers."""
    parts = {config.level: scored.evaluation, "patient": scored.patients}
    evaluations = {name: found.to_dict() for name, found in parts.items() if found is not None}
    values = {**figures(scored), "aggregate": config.aggregate, "evaluation": evaluations}
    values |= {} if config.test_fold is None else {"test_fold": config.test_fold}
    write_text(run / "results.json", json.dumps(values, indent=2) + "\n")
    lines = ["row,fold,label,probability"]
    for region, fold, label, probability in zip(
        lesions.regions, lesions.folds.tolist(), scored.labels, scored.probabilities, strict=True
    ):
        lines.append(f"{region.row},{fold},{label},{probability:.6f}")
    write_text(run / "predictions.csv", "\n".join(lines) + "\n")
