"""What fine-tuning found: figures with intervals over patients, and the files they are written to."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prostate_mim.files import write_text
from prostate_mim.finetuning.config import FinetuneConfig
from prostate_mim.finetuning.lesions import Lesions
from prostate_mim.finetuning.linear import HOTTEST, at_limit
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
        temperatures: with ``calibrate``, of the folds' classifiers in the order of ``folds``, then that of ``release``
            where it is another one; 1 where there was nothing to fit it to. Without ``calibrate`` none.
    """

    folds: tuple[Auroc, ...]
    pooled: Auroc
    release: Path
    labels: tuple[int, ...]
    probabilities: tuple[float, ...]
    allowed_overlap: tuple[str, ...] = ()
    evaluation: Evaluation | None = None
    patients: Evaluation | None = None
    temperatures: tuple[float, ...] = ()

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


def warn_of_limits(run: FinetuneRun, config: FinetuneConfig) -> None:
    """One line on stderr for each limit of ``fit_temperature`` that a classifier's temperature lies at."""
    reached = [(name, value) for name, value in _named(run, config) if at_limit(value)]
    hot, cold = ([name for name, value in reached if (value > 1) is upper] for upper in (True, False))
    if hot:
        sys.stderr.write(
            f"warning: temperature {HOTTEST:g} is the limit ({', '.join(hot)}): the scores do not rank what was "
            "held out, and all probabilities are near 0.5; a low ECE then means nothing: look at the AUROC, and get "
            "more lesions or another model\n"
        )
    if cold:
        sys.stderr.write(
            f"warning: temperature {1 / HOTTEST:g} is the limit ({', '.join(cold)}): the scores divide what was held "
            "out without a mistake, and all probabilities are near 0 or 1; do not trust them, get more lesions\n"
        )


def _folds(run: FinetuneRun, config: FinetuneConfig) -> list[tuple[str, Auroc]]:
    """The folds that were tested, by name."""
    return [(f"fold {config.test_fold or number}", fold) for number, fold in enumerate(run.folds)]


def _named(run: FinetuneRun, config: FinetuneConfig) -> list[tuple[str, float]]:
    """Temperatures with whose they are."""
    names = [*(name for name, _ in _folds(run, config)), "release"]
    return list(zip(names, run.temperatures, strict=False))


def summary(run: FinetuneRun, config: FinetuneConfig) -> list[str]:
    """Lines for a person."""
    lines = [f"{name}: AUROC {fold}" for name, fold in _folds(run, config)]
    if config.test_fold is None:
        lines.append(f"all folds together: AUROC {run.pooled}")
    if run.patients is not None:
        found, counts = run.patients.overall["auroc"], run.patients.counts["all"]
        area = Auroc(found.value, found.low, found.high, counts.rows, counts.positives, counts.patients)
        lines.append(f"patients ({config.aggregate}): AUROC {found if found.value is None else area}")
    if run.temperatures:
        lines.append("temperature: " + ", ".join(f"{value:.2f} ({name})" for name, value in _named(run, config)))
    return [*lines, f"release: {run.release}"]


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
    if scored.temperatures:
        own, more = scored.temperatures[: len(scored.folds)], scored.temperatures[len(scored.folds) :]
        values["temperatures"] = {"folds": list(own), "release": more[0] if more else None}
    write_text(run / "results.json", json.dumps(values, indent=2) + "\n")
    lines = ["row,fold,label,probability"]
    for region, fold, label, probability in zip(
        lesions.regions, lesions.folds.tolist(), scored.labels, scored.probabilities, strict=True
    ):
        lines.append(f"{region.row},{fold},{label},{probability:.6f}")
    write_text(run / "predictions.csv", "\n".join(lines) + "\n")
