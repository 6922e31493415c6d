"""Full fine-tuning of a cell: the training loop, its checkpoints, the same numbers after an interruption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prostate_mim.errors import TrainingError
from prostate_mim.study import StudyConfig, read_study, run_study
from prostate_mim.study.records import PREDICTIONS, read_table, table_path

TUNING = '\n[finetune]\nmode = "full"\nepochs = 1\n[finetune.loop]\nbatch = 8\nwarmup = 1\ndevice = "cpu"\n'


@pytest.fixture
def config(variant: Callable[..., Path]) -> StudyConfig:
    """One arm, one seed, both modes, batch norms set on the training crops."""
    return read_study(
        variant(
            ('seeds = [0, 1]\nfractions = [0.5, 1.0]', 'seeds = [0]\nfractions = [1.0]\nmodes = ["linear", "full"]'),
            ('\n[[arms]]\nname = "blocks"\n', ""), ("folds = 2", "folds = 2\ncalibrate_norms = true"), more=TUNING,
        )
    )  # fmt: skip


def predictions(out: Path, mode: str) -> list[dict[str, Any]]:
    """Of one mode."""
    return [row for row in read_table(table_path(out, PREDICTIONS), PREDICTIONS) if row["mode"] == mode]


def test_full_cells_go_on_and_repeat(
    config: StudyConfig, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after its first fold, a cell goes on and ends as one that was not; its checkpoints are removed."""
    whole = run_study(config, tmp_path / "whole", store=store)
    assert whole.done == 2 and not any((whole.out / "training").iterdir())
    from prostate_mim.study import cells

    real, calls = cells.fit_and_predict, 0

    def stumbling(*values: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise TrainingError("stumbled")
        return real(*values)

    monkeypatch.setattr(cells, "fit_and_predict", stumbling)
    with pytest.raises(TrainingError, match="1 of 2 cells failed"):
        run_study(config, tmp_path / "again", store=store)
    assert any((tmp_path / "again" / "training").iterdir())
    monkeypatch.undo()
    again = run_study(config, tmp_path / "again", store=store)
    assert again.computed == 1
    for mode in ("linear", "full"):
        assert predictions(again.out, mode) == predictions(whole.out, mode)
    assert predictions(whole.out, "full") != [
        {**row, "mode": "full"} for row in predictions(whole.out, "linear")
    ]  # it has trained
