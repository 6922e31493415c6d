"""A study's folder from a seeded simulation: lesions with a difficulty, arms with a strength, seeds with noise.

Every number in the tables is computed from the simulated predictions by plain numpy, so that pages and figures have
something coherent to show; the estimates are small (few bootstrap draws) and no test of the metrics themselves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prostate_mim.study.records import CASES, COMPARISONS, CONTROL, PREDICTIONS, RESULTS, table_path, write_table

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
# arm -> how far its mean score of positives lies above that of negatives, with all labels
STRENGTHS = {
    "random": 0.45, "imagenet": 0.55, "mim-block": 0.95, "mim-slab": 0.8, "mim-voxel": 0.5, "mim-centre": 0.85,
    "mim-mixed": 0.9, "genesis": 0.7, "simclr": 0.3,
}  # fmt: skip
INITIALISATIONS = {"random": "random", "imagenet": "imagenet"}
_DRAWS = 100


@dataclass(frozen=True)
class Simulation:
    """What is simulated.

    Attributes:
        patients: of the lesion task; each has one to four lesions.
        arms: of ``STRENGTHS``.
        architectures, modes, fractions, seeds: the grid of the lesion task.
        probe: a task of voxels beside it.
        controls: permuted labels in the lesion task.
        seed: of everything.
    """

    patients: int = 40
    arms: tuple[str, ...] = ("random", "imagenet", "mim-block", "simclr")
    architectures: tuple[str, ...] = ("effnet-lite0",)
    modes: tuple[str, ...] = ("linear",)
    fractions: tuple[float, ...] = (0.1, 0.5, 1.0)
    seeds: int = 2
    probe: bool = True
    controls: bool = True
    seed: int = 0


@dataclass
class _Rows:
    predictions: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    cases: list[dict[str, Any]] = field(default_factory=list)


def write_study(out: Path, simulation: Simulation | None = None) -> Path:
    """Fill ``out`` with the tables and ``study.json`` of a simulated study."""
    simulation = simulation or Simulation()
    out.mkdir(parents=True, exist_ok=True)
    rows = _Rows()
    rng = np.random.default_rng(simulation.seed)
    lesions = _Lesions(rng, simulation.patients)
    for architecture in simulation.architectures:
        for mode in simulation.modes:
            for fraction in simulation.fractions:
                _lesion_group(rows, simulation, lesions, rng, architecture, mode, fraction)
    if simulation.probe:
        _probe_group(rows, simulation, rng)
    for name, found in (
        (PREDICTIONS, rows.predictions), (RESULTS, rows.results), (COMPARISONS, rows.comparisons), (CASES, rows.cases),
    ):  # fmt: skip
        write_table(table_path(out, name), name, found)
    for file, values in zip(("study.json", "run.json"), _record(simulation), strict=True):
        (out / file).write_text(json.dumps(values, indent=1))
    return out


class _Lesions:
    """Labels, patients, zones and difficulties; arrays (N,)."""

    def __init__(self, rng: np.random.Generator, patients: int) -> None:
        counts = rng.integers(1, 5, patients)
        self.patient = np.repeat(np.arange(1, patients + 1), counts)
        risk = rng.normal(0, 0.8, patients)[self.patient - 1]
        self.label = (rng.normal(risk - 0.6, 1.0) > 0).astype(np.int64)
        self.zone = rng.choice(["PZ", "TZ", "AS"], len(self.label), p=[0.6, 0.3, 0.1])
        self.fold = self.patient % 5
        self.difficulty = rng.normal(0, 1.0, len(self.label))

    def scores(self, rng: np.random.Generator, strength: float, own: float) -> FloatArray:
        """Probabilities of one seed of an arm."""
        latent = strength * self.label + 0.7 * self.difficulty + own * rng.normal(0, 1, len(self.label))
        return np.asarray(1 / (1 + np.exp(-(latent - 1.1))))


def _lesion_group(
    rows: _Rows, simulation: Simulation, lesions: _Lesions, rng: np.random.Generator, architecture: str, mode: str,
    fraction: float,
) -> None:  # fmt: skip
    group = {"task": "lesions", "architecture": architecture, "mode": mode, "fraction": fraction}
    means: dict[str, FloatArray] = {}
    seeds: dict[str, list[FloatArray]] = {}
    arms = {arm: STRENGTHS[arm] * (0.5 + 0.5 * fraction**0.3) for arm in simulation.arms}
    if simulation.controls:
        arms[f"{CONTROL}permuted:random"] = 0.0
    for arm, strength in arms.items():
        seeds[arm] = [lesions.scores(rng, strength * 1.6, 0.5) for _ in range(simulation.seeds)]
        means[arm] = np.mean(seeds[arm], axis=0)
        for seed, probabilities in enumerate(seeds[arm]):
            rows.predictions += [
                {**group, "arm": arm, "seed": seed, "row": at + 1, "patient": int(lesions.patient[at]),
                 "fold": int(lesions.fold[at]), "zone": str(lesions.zone[at]), "centre": "",
                 "label": int(lesions.label[at]), "probability": float(probabilities[at])}
                for at in range(len(probabilities))
            ]  # fmt: skip
        _lesion_results(rows, {**group, "arm": arm}, lesions, seeds[arm], means[arm], rng)
    _compare(rows, group, "auroc", {arm: _drawn(lesions, means[arm], auroc) for arm in simulation.arms})


def _lesion_results(
    rows: _Rows, cell: dict[str, Any], lesions: _Lesions, seeds: list[FloatArray], mean: FloatArray,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    for name, metric in METRICS.items():
        for subset in ("all", "zone=PZ", "zone=TZ"):
            kept = np.ones(len(mean), bool) if subset == "all" else lesions.zone == subset.removeprefix("zone=")
            drawn = _drawn(lesions, mean, metric, kept)
            rows.results.append({
                **cell, "seed": "all", "metric": name, "level": "lesion", "subset": subset,
                **_estimate(metric(lesions.label[kept], mean[kept]), drawn),
                "rows": int(kept.sum()), "patients": len(np.unique(lesions.patient[kept])),
                "positives": int(lesions.label[kept].sum()),
            })  # fmt: skip
        for seed, scores in enumerate(seeds):
            rows.results.append({
                **cell, "seed": str(seed), "metric": name, "level": "lesion", "subset": "all",
                "value": float(metric(lesions.label, scores)), "low": None, "high": None, "rows": len(mean),
                "patients": len(np.unique(lesions.patient)), "positives": int(lesions.label.sum()),
            })  # fmt: skip


def _probe_group(rows: _Rows, simulation: Simulation, rng: np.random.Generator) -> None:
    group = {"task": "gland voxels", "architecture": simulation.architectures[0], "mode": "probe", "fraction": 1.0}
    patients = max(8, simulation.patients // 3)
    shared = rng.normal(0, 0.03, patients)
    drawn: dict[str, dict[str, FloatArray]] = {"auroc": {}, "dice": {}}
    for arm in simulation.arms:
        for metric, middle in (("auroc", 0.86), ("dice", 0.3)):
            base = middle + 0.08 * STRENGTHS[arm] + shared + rng.normal(0, 0.02, patients)
            seeds = [np.clip(base + rng.normal(0, 0.01, patients), 0, 1) for _ in range(simulation.seeds)]
            cell = {**group, "arm": arm}
            for seed, values in enumerate(seeds):
                rows.cases += [
                    {**cell, "seed": seed, "patient": at + 1, "metric": metric, "value": float(value)}
                    for at, value in enumerate(values)
                ]
            mean = np.mean(seeds, axis=0)
            picks = np.random.default_rng(1).integers(0, patients, (_DRAWS, patients))
            drawn[metric][arm] = np.concatenate([[mean.mean()], mean[picks].mean(1)])
            common = {**cell, "metric": metric, "level": "patient", "subset": "all", "rows": patients,
                      "patients": patients, "positives": 0}  # fmt: skip
            rows.results.append({**common, "seed": "all", **_estimate(float(mean.mean()), drawn[metric][arm])})
            rows.results += [
                {**common, "seed": str(seed), "value": float(values.mean()), "low": None, "high": None}
                for seed, values in enumerate(seeds)
            ]
    for metric, found in drawn.items():
        _compare(rows, group, metric, found)


def _compare(rows: _Rows, group: dict[str, Any], metric: str, drawn: dict[str, FloatArray]) -> None:
    """``drawn``: per arm, the value on the whole set and then on each bootstrap draw of the same patients."""
    first_rows = len(rows.comparisons)
    for second in (arm for arm in ("random", "imagenet") if arm in drawn):
        for first in drawn:
            if first == second:
                continue
            differences = drawn[first] - drawn[second]
            error = float(differences[1:].std())
            p = float(min(1.0, 2 * min((differences[1:] <= 0).mean(), (differences[1:] >= 0).mean()) + 1 / _DRAWS))
            rows.comparisons.append({
                **group, "metric": metric, "first": first, "second": second, "difference": float(differences[0]),
                "low": float(np.percentile(differences[1:], 2.5)), "high": float(np.percentile(differences[1:], 97.5)),
                "p_delong": p if metric == "auroc" and group["mode"] != "probe" else None, "p_bootstrap": p,
                "p_holm": None, "p_seeds": 0.5, "detectable": 2.8 * error,
            })  # fmt: skip
    family = sorted(rows.comparisons[first_rows:], key=lambda row: row["p_bootstrap"])
    largest = 0.0
    for place, row in enumerate(family):
        largest = max(largest, min(1.0, row["p_bootstrap"] * (len(family) - place)))
        row["p_holm"] = largest


def _drawn(lesions: _Lesions, scores: FloatArray, metric: Any, kept: Any = None) -> FloatArray:
    """The value on the whole, and on ``_DRAWS`` bootstrap draws of patients that are the same for every arm."""
    rng = np.random.default_rng(7)
    kept = np.ones(len(scores), bool) if kept is None else kept
    members = [np.flatnonzero((lesions.patient == one) & kept) for one in np.unique(lesions.patient[kept])]
    picks = (np.concatenate([members[at] for at in rng.integers(0, len(members), len(members))])
             for _ in range(_DRAWS))  # fmt: skip
    values = [metric(lesions.label[kept], scores[kept])]
    values += [metric(lesions.label[pick], scores[pick]) for pick in picks]
    return np.array(values)


def _estimate(value: float, drawn: FloatArray) -> dict[str, Any]:
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None}
    low, high = np.nanpercentile(drawn[1:], (2.5, 97.5))
    return {"value": float(value), "low": float(low), "high": float(high)}


def auroc(labels: IntArray, scores: FloatArray) -> float:
    """NaN where a class is missing."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    if not len(positive) or not len(negative):
        return float("nan")
    return float((positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean())


def brier(labels: IntArray, scores: FloatArray) -> float:
    """Mean squared error of the probabilities."""
    return float(((scores - labels) ** 2).mean())


def ece(labels: IntArray, scores: FloatArray) -> float:
    """Ten bins of equal width."""
    places = np.minimum((scores * 10).astype(int), 9)
    gaps = [abs((scores - labels)[places == at].sum()) for at in range(10)]
    return float(sum(gaps) / len(labels))


METRICS = {"auroc": auroc, "brier": brier, "ece": ece}


def _record(simulation: Simulation) -> tuple[dict[str, Any], dict[str, Any]]:
    """study.json and run.json, with the keys that the study writes."""
    tasks = [{"name": "lesions", "kind": "lesions"}]
    tasks += [{"name": "gland voxels", "kind": "voxels"}] if simulation.probe else []
    arms = [{"name": arm, "initialisation": INITIALISATIONS.get(arm, "pretrained")} for arm in simulation.arms]
    study = {
        "format": 1, "name": "simulated",
        "config": {
            "name": "simulated", "seed": simulation.seed, "seeds": list(range(simulation.seeds)), "arms": arms,
            "fractions": list(simulation.fractions), "modes": list(simulation.modes), "tasks": tasks,
        },
        "tasks": [
            {**task, "level": "lesion", "rows": 100, "patients": simulation.patients, "positives": 30, "folds": 5,
             "zones": {"PZ": 60, "TZ": 40}, "centres": {}, "data_fingerprint": "ab" * 32,
             "spec": {"size_zyx": [16, 96]}}
            for task in tasks
        ],
        "arms": [
            {**arm, "architecture": each, "method": {"strategy": "blocks", "ratio": "0.6"}, "steps": 1500, "batch": 12,
             "objective": "mim", "details": None, "parameters": 3_400_000,
             "encoders": [{"task": "lesions", "seed": seed, "fold": None, "weights_sha256": "cd" * 32}
                          for seed in range(simulation.seeds)]}
            for arm in arms for each in simulation.architectures
        ],
        "guard": [
            {"task": task["name"], "arm": arm["name"], "architecture": each, "seed": seed, "fold": None,
             "proven": True, "proof": "no study in common", "findings": []}
            for task in tasks for arm in arms for each in simulation.architectures for seed in range(simulation.seeds)
        ],
        "controls": [{"name": "control:planted leak", "task": "lesions", "passed": True, "what": "a planted leak was "
                      "refused"}] if simulation.controls else [],
        "counts": {"cells": 40, "done": 40, "failed": 0, "missing": 0},
    }  # fmt: skip
    run = {
        "format": 2, "task": "study", "seed": simulation.seed, "command": ["prostate-mim", "study", "<path>"],
        "hardware": {"cpu": "simulated", "cores": 2, "memory_bytes": 2**33},
        "packages": {"torch": "2.13.0", "numpy": np.__version__}, "code": {"version": "0.0.0"},
        "started": "2026-11-23T12:00:00+00:00", "finished": "2026-11-23T13:30:00+00:00",
    }  # fmt: skip
    return study, run
