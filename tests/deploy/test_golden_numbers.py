"""Committed numbers of the bundled encoder: what another version of a library moves is seen here first."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from prostate_mim.deploy.session import OnnxClassifier

GOLDEN = Path(__file__).with_name("golden")
RTOL = 1e-4


@pytest.fixture(scope="module")
def made() -> ModuleType:
    found = importlib.util.spec_from_file_location("make_numbers", GOLDEN / "make_numbers.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def differences(records: list[dict], committed: list[dict]) -> float:
    """Largest difference, relative to the largest number of its kind in its record."""
    worst = 0.0
    for record, golden in zip(records, committed, strict=True):
        assert set(record) == set(golden)
        for key, value in golden.items():
            for expected, found in zip(np.atleast_2d(value), np.atleast_2d(record[key]), strict=True):
                worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max()))
    return worst


def test_numbers_are_the_committed_ones(made: ModuleType) -> None:
    committed = json.loads((GOLDEN / "numbers.json").read_text())
    assert len(committed) == 5 and [len(stage) for stage in committed[0]["sampled"]] == [16, 16, 16]
    assert differences(made.numbers(made.bundled_classifier()), committed) <= RTOL


@torch.no_grad()
def test_a_small_change_is_noticed(made: ModuleType) -> None:
    """One thousandth on one norm; of a convolution before a norm it would make no difference."""
    model = made.bundled_classifier()
    norms = [value for name, value in model.encoder.encoder.named_parameters() if name.endswith("norm2.weight")]
    norms[-1].mul_(1.001)
    assert differences(made.numbers(model), json.loads((GOLDEN / "numbers.json").read_text())) > RTOL


def test_the_exported_file_gives_the_committed_probabilities(made: ModuleType, tmp_path: Path) -> None:
    from prostate_mim.phantom import make_study

    model = OnnxClassifier(made.bundled_classifier().export_onnx(tmp_path / "a.onnx"), "cpu")
    for index, golden in enumerate(json.loads((GOLDEN / "numbers.json").read_text())):
        study = make_study(made.SEED, index)
        found = model.predict(study.volume, study.lesions[0].position_mm_lps).probability
        assert found == pytest.approx(golden["probability"], rel=RTOL)
