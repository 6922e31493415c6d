"""What a run says of itself: temperatures at their limit, folds of few patients."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from made_lesions import lesions

from prostate_mim.finetuning import FinetuneConfig, FinetuneRun
from prostate_mim.finetuning.results import score, summary, warn_of_limits, write_results

CONFIG = FinetuneConfig(calibrate=True)


def made(tmp_path: Path, temperatures: tuple[float, ...], config: FinetuneConfig = CONFIG) -> FinetuneRun:
    """Three folds of four patients, all in the right order; written down."""
    found = lesions(24)
    probabilities = np.where(found.labels == 1, 0.6, 0.4) + np.linspace(0, 0.05, 24)
    run = dataclasses.replace(score(found, probabilities, tmp_path, (), config), temperatures=temperatures)
    write_results(tmp_path, run, found, config)
    return run


@pytest.mark.parametrize(
    ("temperatures", "named"),
    [
        ((1.0, 2.0, 19.0, 0.06), []),
        ((19.9987, 2.0, 3.0, 19.9987), ["temperature 20 is the limit (fold 0, release)"]),
        ((1.0, 0.050003, 20.0), ["20 is the limit (fold 2)", "0.05 is the limit (fold 1)"]),
        ((), []),
    ],
)  # fmt: skip
def test_a_temperature_at_its_limit_is_warned_of(
    temperatures: tuple[float, ...], named: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each limit, with whose they are; the numbers are in results.json, if there are any."""
    run = made(tmp_path, temperatures)
    warn_of_limits(run, CONFIG)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(named)
    assert all(line.startswith("warning: ") and name in line for line, name in zip(lines, named, strict=True))
    written = json.loads((tmp_path / "results.json").read_text())
    release = temperatures[3] if len(temperatures) == 4 else None
    expected = {"folds": list(temperatures[:3]), "release": release}
    assert written.get("temperatures") == (expected if temperatures else None)


def test_summary_for_a_person(tmp_path: Path) -> None:
    """Folds of few patients have no interval in words; results.json keeps the numbers."""
    run = made(tmp_path, (1.5, 2.0, 3.0, 2.25))
    *folds, pooled, patients, temperature, release = summary(run, CONFIG)
    assert folds == [f"fold {n}: AUROC 1.000 (too few patients for an interval)" for n in range(3)]
    assert pooled == "all folds together: AUROC 1.000 [1.000, 1.000]"  # 12 lesions of each label
    assert patients == "patients (max): AUROC 1.000 (too few patients for an interval)"  # 6 of each
    assert temperature == "temperature: 1.50 (fold 0), 2.00 (fold 1), 3.00 (fold 2), 2.25 (release)"
    assert release == f"release: {tmp_path}"
    written = json.loads((tmp_path / "results.json").read_text())
    assert [(fold["low"], fold["high"]) for fold in written["auroc_folds"]] == [(1, 1)] * 3
    alone = dataclasses.replace(run, folds=run.folds[:1], temperatures=(1.5,))
    first, *_, temperature, _ = summary(alone, dataclasses.replace(CONFIG, test_fold=2))
    assert first.startswith("fold 2: ") and temperature == "temperature: 1.50 (fold 2)"
