"""Score a model of the zoo on what nobody trained on: ``evaluate.py NAME --work DIR`` writes its results.json.

Held out by ``hub_cards/heldout.json``, chosen before anything was trained: 6 PROMISE12 cases, PROSTATEx 0002 and 0009,
and 31 patients of the lesion crops. Each is scored at the end; no choice of recipe looks at them.

* masked error: random blocks, 60 % hidden, in windows around the gland; squared error of voxels inside the gland, in
  units of each block's variance, beside linear interpolation of the same hidden blocks.
* gland probe: linear, the last three stages together, windows at random offsets; fitted to all others.
* lesion probe: linear, on the crops of findings; fitted to all others.

Each probe beside random weights of the same network (the mean of 5 draws) and, where they fit it, ImageNet's.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prostate_mim.encoder import PreMIM
from prostate_mim.engine.runs import prepare_rows
from prostate_mim.finetuning.linear import fit_linear_probe
from prostate_mim.health import Watched
from prostate_mim.health.masked_error import masked_errors
from prostate_mim.health.windows import random_windows
from prostate_mim.initialisations import initialise
from prostate_mim.manifest import read_manifest
from prostate_mim.metrics import auroc
from prostate_mim.metrics.bootstrap import bootstrap, draw_weights
from prostate_mim.metrics.table import find_metric
from prostate_mim.mim.strategies import build_strategy, parse_ratio
from prostate_mim.preprocess import prepare_input
from prostate_mim.probing import ProbeTask, run_probe
from prostate_mim.probing.data import Questions, ask
from prostate_mim.reconstruction import MimRelease, load_mim
from prostate_mim.spec import InputSpec
from prostate_mim.studies import open_all

CARDS = Path(__file__).resolve().parents[1]
SEED, SEEDS, SAMPLES = 20261129, 5, 4000
WINDOWS, RATIO = 8, "0.6"
HELD_OUT = 1
GLAND = {"spacing_mm_zyx": (3.0, 0.8, 0.8), "size_zyx": (16, 64, 64), "region_zyx": (32, 192, 192)}
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# 2D crops: every slice of a shallow window is a copy, at the spacing they were cut at.
LESION = InputSpec(size_zyx=(4, 48, 48), single_slice="repeat")
IMAGENET, PHOTOGRAPHS = "imagenet", "effnet-lite0"
ELSEWHERE = "imagenet_elsewhere"
"""ImageNet's weights in effnet-lite0, beside a model of another network: what a user could take in its place."""
COILS = {"1": "endorectal coil", "2": "no endorectal coil", "3": "no endorectal coil", "4": "endorectal coil",
         "prostatex": "no endorectal coil"}  # fmt: skip
Floats = npt.NDArray[np.float64]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--work", type=Path, required=True, help="of train.py")
    given = parser.parse_args()
    release, store = given.work / given.name / "release", given.work / "store"
    model = PreMIM.from_pretrained(release)
    others = {"random": random_encoders(model.architecture)}
    others[IMAGENET if model.architecture == PHOTOGRAPHS else ELSEWHERE] = lambda: [initialise(IMAGENET, PHOTOGRAPHS)]
    found = {
        "name": given.name,
        "weights_sha256": model.load_report.files["model.safetensors"],
        "seed": SEED,
        "script": "hub_cards/zoo/evaluate.py",
        "masked_error": masked_error(load_mim(release), given.work / "data" / "heldout.csv", store),
        "gland": gland(model, others, given.work / "data" / "gland.csv", store),
        "lesions": lesions(model, others, given.work / "data" / "crops.csv"),
        "cost": cost(given.work / given.name),
    }
    target = CARDS / given.name / "results.json"
    if not found["cost"]["steps"] and target.exists():  # its logs are gone: what is known of it stays
        found["cost"] = json.loads(target.read_text())["cost"]
    target.write_text(json.dumps(found, indent=2) + "\n")


Encoders = Callable[[], Iterable[PreMIM]]


def random_encoders(architecture: str) -> Encoders:
    """Five draws of random weights."""
    return lambda: (initialise("random", architecture, seed=seed) for seed in range(SEEDS))


# ------------------------------------------------------------------------------------------------------- masked error


@torch.inference_mode()
def masked_error(mim: MimRelease, manifest: Path, store: Path) -> dict[str, Any]:
    """Mean over held-out volumes, inside the gland, with the paired difference from interpolation."""
    mim.model.strategy, mim.model.ratio = build_strategy("random"), parse_ratio(RATIO)  # the same blocks for all models
    region = tuple(size + 16 * (axis > 0) + 8 for axis, size in enumerate(mim.spec.size_zyx))
    listed = read_manifest(manifest)
    rows = prepare_rows(listed, mim.spec.with_size(region), store=store).rows  # type: ignore[arg-type]
    each = []
    for row in rows:
        windows = random_windows([Watched(row.study)], mim.spec, WINDOWS, SEED)
        values, _ = masked_errors(mim.model, windows, mim.spec.spacing_mm_zyx, WINDOWS, SEED)
        each.append(values)
    own, linear = (np.array([values[key] for values in each]) for key in ("error_gland", "interpolation_gland"))
    centres = [row.centre or "" for row in listed.rows]
    return {
        "volumes": len(each),
        "windows": WINDOWS,
        "ratio": float(RATIO),
        "model": mean_with_interval(own),
        "interpolation": mean_with_interval(linear),
        "interpolation_with_true_mean": mean_with_interval(np.array([v["interpolation_centred_gland"] for v in each])),
        "block_mean": mean_with_interval(np.array([v["block_mean_gland"] for v in each])),
        "minus_interpolation": mean_with_interval(own - linear),
        **groups(own, centres),
    }


# -------------------------------------------------------------------------------------------------------------- probes


def gland(model: PreMIM, others: dict[str, Encoders], manifest: Path, store: Path) -> dict[str, Any]:
    """AUROC of gland voxels, a value per held-out patient, and paired differences."""
    task = ProbeTask(kind="gland", manifest=str(manifest), penalties=PENALTIES, test_folds=(HELD_OUT,), **GLAND)  # type: ignore[arg-type]
    asked = [ask(task, SEED + seed, store=store) for seed in range(SEEDS)]
    own = gland_values([model], task, asked)
    found: dict[str, Any] = {"patients": len(own["auroc"]), "windows": task.windows}
    found |= {"auroc": mean_with_interval(own["auroc"]), "dice": mean_with_interval(own["dice"])}
    listed = read_manifest(manifest).rows
    found["fitted"] = sum(row.fold != HELD_OUT for row in listed)
    rows = {row.patient_id: row for row in listed if row.fold == HELD_OUT}
    found |= groups(own["auroc"], [row.centre or "" for row in rows.values()])
    for name, encoders in others.items():
        theirs = gland_values(encoders(), task, asked)
        found[name] = {key: mean_with_interval(theirs[key]) for key in ("auroc", "dice")}
        found[f"minus_{name}"] = {key: mean_with_interval(own[key] - theirs[key]) for key in ("auroc", "dice")}
    return found


def gland_values(encoders: Iterable[PreMIM], task: ProbeTask, asked: list[Questions]) -> dict[str, Floats]:
    """Per patient, the mean over seeds of windows; several encoders take turns with the seeds."""
    drawn = list(encoders)
    runs = [
        run_probe(drawn[seed % len(drawn)], task, SEED + seed, questions=questions)
        for seed, questions in enumerate(asked)
    ]
    return {key: np.mean([run.values[key] for run in runs], 0) for key in ("auroc", "dice")}


def lesions(model: PreMIM, others: dict[str, Encoders], manifest: Path) -> dict[str, Any]:
    """AUROC of significant findings among held-out patients, and paired differences."""
    listed = read_manifest(manifest, labels=True)
    crops = [
        torch.from_numpy(prepare_input(study.volume, LESION, study.centre_mm_lps))[None] for study in open_all(listed)
    ]
    labels = np.array([row.label for row in listed.rows])
    patients = [row.patient_id for row in listed.rows]
    test = np.array([row.fold == HELD_OUT for row in listed.rows])

    owners = np.unique([who for who, held in zip(patients, test, strict=True) if held], return_inverse=True)[1]

    def areas(encoders: Iterable[PreMIM]) -> Floats:
        """(1 + SAMPLES,) AUROC of all held-out findings and of every draw of patients: the mean over the encoders."""
        made = []
        for one in encoders:
            given = probabilities(one, crops, labels, patients, test)
            drawn = bootstrap(labels[test], given, owners, [find_metric("auroc")], SAMPLES, SEED)[0]
            made.append(np.concatenate([[auroc(labels[test], given)], drawn]))
        return np.asarray(np.mean(made, 0))

    own = areas([model])
    found: dict[str, Any] = {"lesions": int(test.sum()), "positives": int(labels[test].sum())}
    found |= {"patients": int(owners.max()) + 1, "auroc": with_percentiles(own)}
    for name, encoders in others.items():
        theirs = areas(encoders())
        found[name] = {"auroc": with_percentiles(theirs)}
        found[f"minus_{name}"] = {"auroc": with_percentiles(own - theirs)}
    return found


@torch.inference_mode()
def probabilities(
    encoder: PreMIM, crops: list[torch.Tensor], labels: npt.NDArray[np.int_], patients: list[str], test: Any
) -> Floats:
    """Of the held-out findings, by a probe of all others; the mean over seeds of its inner folds."""
    features = np.concatenate([means(encoder, crop) for crop in crops])
    known = [who for who, held in zip(patients, test, strict=True) if not held]
    made = [
        fit_linear_probe(features[~test], labels[~test], known, seed=SEED + seed).probabilities(features[test])
        for seed in range(SEEDS)
    ]
    return np.asarray(np.mean(made, 0))


def means(encoder: PreMIM, crop: torch.Tensor) -> Floats:
    """(1, C): the last three stages together, each the mean over the crop."""
    stages = encoder.encoder(crop)[-3:]
    return np.asarray(torch.cat([stage.mean((2, 3, 4)) for stage in stages], 1).double().numpy())


# ------------------------------------------------------------------------------------------------------------- figures


def mean_with_interval(values: Floats) -> list[float]:
    """Mean over patients and its 95 % percentile interval over draws of patients."""
    weights = np.concatenate(list(draw_weights(np.arange(len(values)), SAMPLES, SEED)))
    drawn = weights @ values / weights.sum(1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return [round(float(v), 4) for v in (values.mean(), low, high)]


def with_percentiles(values: Floats) -> list[float]:
    """The first of the values, and the 95 % percentile interval of the others, where they are defined."""
    low, high = np.nanpercentile(values[1:], (2.5, 97.5))
    return [round(float(v), 4) for v in (values[0], low, high)]


def groups(values: Floats, centres: list[str]) -> dict[str, Any]:
    """Means by centre and by coil: [mean, patients]."""
    found: dict[str, Any] = {}
    for title, names in (("by_centre", centres), ("by_coil", [COILS[centre] for centre in centres])):
        kinds = sorted(set(names))
        own = {kind: values[[name == kind for name in names]] for kind in kinds}
        found[title] = {kind: [round(float(part.mean()), 4), len(part)] for kind, part in own.items()}
    return found


def cost(home: Path) -> dict[str, Any]:
    """Steps, crops and core hours of all runs of the model, as their logs say."""
    steps = crops = 0
    seconds, hardware = 0.0, ""
    for run in (home / "encoder", home / "decoder"):
        if run.exists():
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            record = json.loads((run / "run.json").read_text())
            batch = tomllib.loads((run / "config.toml").read_text())["loop"]["batch"]
            steps, crops = steps + len(lines), crops + len(lines) * batch
            seconds += step_seconds([line["studies_per_second"] for line in lines], batch)
            hardware = f"{record['hardware']['cpu']}, {record['hardware']['cores']} cores"
    return {"steps": steps, "crops": crops, "core_hours": round(seconds / 3600, 2), "hardware": hardware}


def step_seconds(rates: list[float], batch: int) -> float:
    """Time of all steps; one that is ten times the middle one had been paused, and counts as the middle one."""
    taken = np.array([batch / rate if rate else np.inf for rate in rates])
    middle = np.median(taken)
    return float(np.where(taken > 10 * middle, middle, taken).sum())


if __name__ == "__main__":
    main()
