"""The whole verb: pretraining with a teacher is killed, goes on, and publishes the same weights (T3.4)."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from nursery import Nursery
from pretrain_lives import TEACHING, teaching_with
from safetensors.torch import load_file
from small_training import last, losses, same_run

from prostate_mim.engine.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from prostate_mim.errors import UsageError
from prostate_mim.pretraining import PretrainConfig, pretrain
from prostate_mim.store import prepare

STEPS = TEACHING.loop.steps


def published(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "release" / "model.safetensors")


def same_release(left: Path, right: Path) -> bool:
    a, b = published(left), published(right)
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def test_killed_pretraining_goes_on(nursery: Nursery, studies: Path, straight_pretrain: Path, tmp_path: Path) -> None:
    """Kill -9 in the middle of a step, then resume: the same weights, teacher, average, losses, bit for bit."""
    run = tmp_path / "run"
    life = nursery.run("pretrain_lives.killed", studies, run, 5, workers=2)
    assert life.code == -signal.SIGKILL, life.stderr
    assert last(run).step == 4
    assert len(losses(run)) == 5
    pretrain(studies, run, teaching_with(workers=2), resume=True)
    assert same_run(run, straight_pretrain)
    assert same_release(run, straight_pretrain)
    resumed = json.loads((run / "run.json").read_text())["resumed"]
    assert [entry["step"] for entry in resumed] == [4]


def stopped(run: Path, folder: Path, step: int, change=lambda checkpoint: checkpoint) -> Path:
    folder.mkdir()
    write_checkpoint(folder, change(read_checkpoint(run / f"checkpoint-{step:08d}.safetensors")))
    shutil.copy(run / "metrics.jsonl", folder)
    return folder


def test_killed_before_publishing(studies: Path, straight_pretrain: Path, tmp_path: Path) -> None:
    """After the last checkpoint and before the release there is nothing left to train, and it is published."""
    run = stopped(straight_pretrain, tmp_path / "run", STEPS)
    pretrain(studies, run, TEACHING, resume=True)
    assert same_run(run, straight_pretrain)
    assert same_release(run, straight_pretrain)


def test_a_forgotten_teacher_is_another_run(studies: Path, straight_pretrain: Path, tmp_path: Path) -> None:
    """Negative control: a teacher that begins anew gives other numbers."""

    def forget(checkpoint: Checkpoint) -> Checkpoint:
        names = [name for name in checkpoint.tensors if name.startswith("model.teacher.") and name.endswith("weight")]
        assert names
        fresh = {name: torch.ones_like(checkpoint.tensors[name]) for name in names}
        return dataclasses.replace(checkpoint, tensors={**checkpoint.tensors, **fresh})

    run = stopped(straight_pretrain, tmp_path / "run", STEPS - 2, forget)
    pretrain(studies, run, TEACHING, resume=True)
    assert not same_run(run, straight_pretrain)


def test_other_configuration_or_data_is_refused(studies: Path, straight_pretrain: Path, tmp_path: Path) -> None:
    """The method, the crop, the data, each by name, old and new; how one looks at a run may change."""
    run = stopped(straight_pretrain, tmp_path / "run", 4)
    method = dataclasses.replace(TEACHING.method, ratio="0.7")
    for changed, said in (
        (dataclasses.replace(TEACHING, method=method), r"method\.ratio '0\.5' -> '0\.7'"),
        (dataclasses.replace(TEACHING, jitter_zyx=(1, 2, 3)), r"jitter_zyx \[4, 48, 48\] -> \[1, 2, 3\]"),
        (teaching_with(learning_rate=0.5), r"loop\.learning_rate 0\.003 -> 0\.5"),
    ):
        with pytest.raises(UsageError, match=said):
            pretrain(studies, run, changed, resume=True)
    lines = studies.read_text().splitlines(keepends=True)
    fewer = studies.parent / "fewer.csv"
    fewer.write_text("".join(lines[:-1]))
    with pytest.raises(UsageError, match=r"data '[0-9a-f]+' -> '[0-9a-f]+'"):
        pretrain(fewer, run, TEACHING, resume=True)
    assert not (run / "release").exists()


def test_other_code_that_prepares_the_same_goes_on(
    studies: Path, straight_pretrain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the studies hold is compared (other data is refused above), not the names of their entries."""
    run = stopped(straight_pretrain, tmp_path / "run", STEPS - 2)
    monkeypatch.setattr(prepare, "code_fingerprint", lambda: "c0de" * 16)
    pretrain(studies, run, TEACHING, resume=True)
    assert same_release(run, straight_pretrain)
    stated = [json.loads((one / "run.json").read_text())["data_fingerprint"] for one in (run, straight_pretrain)]
    assert stated[0] != stated[1]  # the control: it is other code


def test_occupied_run_folder_is_refused(studies: Path, straight_pretrain: Path, tmp_path: Path) -> None:
    """A finished run is never overwritten, with or without --resume; one that has begun only goes on."""
    before = (straight_pretrain / "metrics.jsonl").read_bytes()
    for resume in (False, True):
        with pytest.raises(UsageError, match="finished"):
            pretrain(studies, straight_pretrain, TEACHING, resume=resume)
    assert (straight_pretrain / "metrics.jsonl").read_bytes() == before
    with pytest.raises(UsageError, match="holds a run already; go on with --resume"):
        pretrain(studies, stopped(straight_pretrain, tmp_path / "run", 4), TEACHING)


def test_run_folder_holds_what_is_promised(straight_pretrain: Path) -> None:
    """Metrics as JSON lines, the resolved configuration, the record, checkpoints, and a release that loads."""
    from prostate_mim.config import read_config
    from prostate_mim.encoder import PreMIM
    from prostate_mim.reconstruction import load_mim

    line = json.loads((straight_pretrain / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"step", "seconds", "loss", "learning_rate", "gradient_norm", "studies_per_second"} <= set(line)
    assert read_config(straight_pretrain / "config.toml", PretrainConfig) == TEACHING
    assert json.loads((straight_pretrain / "run.json").read_text())["finished_step"] == STEPS
    assert last(straight_pretrain).step == STEPS
    assert not list(straight_pretrain.glob(".*"))
    assert PreMIM.from_pretrained(straight_pretrain).spec == TEACHING.spec
    assert load_mim(straight_pretrain).model.method == TEACHING.method
