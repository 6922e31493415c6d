"""The 246 PROSTATEx lesion crops through the linear probe: labels of other patients give nothing, a leak everything."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from make_manifests import CROPS_COLUMNS, crops_rows, write_manifest

from prostate_mim import LesionClassifier, PreMIM, finetune
from prostate_mim.engine.runs import prepare_rows, region_of
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.finetuning import FinetuneConfig, cross_fit, region_features
from prostate_mim.finetuning.regions import JITTER_ZYX
from prostate_mim.finetuning.subsets import inner_folds
from prostate_mim.manifest import read_manifest
from prostate_mim.metrics import auroc_interval

CONFIG = FinetuneConfig(loop=LoopConfig(device="cpu", trackers=()))


@pytest.fixture(scope="module")
def model() -> LesionClassifier:
    torch.manual_seed(0)
    encoder = PreMIM("resnet10")
    return LesionClassifier(encoder, dataclasses.replace(encoder.spec, size_zyx=(4, 64, 64), single_slice="repeat"))


@pytest.fixture(scope="module")
def crops(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crops")
    rows = crops_rows(real_data, folder) + crops_rows(real_data, folder, heldout=True)
    write_manifest(folder / "crops.csv", CROPS_COLUMNS, rows)
    return folder / "crops.csv"


def test_permuted_labels_and_a_planted_leak(crops: Path, model: LesionClassifier, tmp_path: Path) -> None:
    """With labels of other patients four of five intervals or more cover 0.5; a feature that is the label is seen.

    The real estimate is within what such data can give.
    """
    run = finetune(model, crops, tmp_path / "run", CONFIG)
    assert (run.pooled.lesions, run.pooled.positives, run.pooled.patients) == (246, 46, 156)
    assert 0.4 < run.pooled.value < 0.75  # a higher one would be a leak
    rows = read_manifest(crops).rows
    patients = [row.patient_id for row in rows]
    labels = np.array([row.label for row in rows])
    wide = model.spec.with_size(tuple(n + 2 * j for n, j in zip(model.spec.size_zyx, JITTER_ZYX, strict=True)))
    regions = [region_of(one) for one in prepare_rows(read_manifest(crops), wide).rows]
    features = region_features(model, regions, "cpu")
    covered = 0
    for seed in range(5):
        permuted = permute_patients(labels, patients, seed)
        folds = inner_folds(permuted, patients, 5, seed)
        probabilities = cross_fit(features, permuted, patients, folds, seed=seed, config=CONFIG)
        found = auroc_interval(permuted.tolist(), probabilities.tolist(), patients, samples=300)
        covered += found.low < 0.5 < found.high
        leaky = cross_fit(np.c_[features, known(permuted)], permuted, patients, folds, seed=seed, config=CONFIG)
        assert auroc_interval(permuted.tolist(), leaky.tolist(), patients, samples=100).low > 0.7
    assert covered >= 4


def known(labels: np.ndarray) -> np.ndarray:
    """(N, 100) features that are the label, as of an encoder that saw it.

    A single one among 896 standardised ones is nearly lost: the probe's penalty shares the weight out.
    """
    return np.repeat(labels[:, None], 100, 1)


def permute_patients(labels: np.ndarray, patients: list[str], seed: int) -> np.ndarray:
    """Labels of patients in another order: still alike within a patient, as far as counts of lesions allow."""
    rng = np.random.default_rng(seed)
    blocks: dict[str, list[int]] = {}
    for row, patient in enumerate(patients):
        blocks.setdefault(patient, []).append(row)
    order = rng.permutation(list(blocks))
    drawn = np.concatenate([labels[blocks[str(patient)]] for patient in order])
    made = np.zeros_like(labels)
    made[np.concatenate([blocks[patient] for patient in blocks])] = drawn
    return made
