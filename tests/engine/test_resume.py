"""A killed run goes on as if nothing had happened, bit for bit on the CPU; and what must break that, does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from prostate_mim.engine.checkpoint import find_checkpoints, load_newest, read_checkpoint
from prostate_mim.engine.loop import LoopConfig
from prostate_mim.errors import IntegrityError, UsageError
from prostate_mim.mim import Method
from prostate_mim.pretraining import PretrainConfig, pretrain
from prostate_mim.spec import InputSpec

STEPS = 8
CONFIG = PretrainConfig(
    spec=InputSpec(size_zyx=(8, 32, 32)),
    method=Method(ratio="0.5"),
    loop=LoopConfig(steps=STEPS, batch=2, warmup=2, checkpoint_every=2, device="cpu", seed=5),
)
SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import time
from test_resume import CONFIG
import prostate_mim.engine.loop as loop
from prostate_mim.pretraining import pretrain
step = loop._step
def slow(*a, **k):
    time.sleep(0.3)
    return step(*a, **k)
loop._step = slow
pretrain({manifest!r}, {run!r}, CONFIG)
"""


@pytest.fixture(scope="module")
def studies(cohort: Path) -> Path:
    return cohort.parent / "studies.csv"


@pytest.fixture(scope="module")
def straight(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "straight"
    pretrain(studies, run, CONFIG)
    return run


def killed_run(studies: Path, run: Path) -> int:
    """Start the same run in another process and kill it with SIGKILL between two checkpoints."""
    code = SCRIPT.format(folder=str(Path(__file__).parent), manifest=str(studies), run=str(run))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        metrics = run / "metrics.jsonl"
        if metrics.exists() and len(metrics.read_text().splitlines()) >= 5:
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.02)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    return read_checkpoint(find_checkpoints(run)[0]).step


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "release" / "model.safetensors")


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_killed_run_equals_straight_run(studies: Path, straight: Path, tmp_path: Path) -> None:
    """SIGKILL between checkpoints, then resume: the same weights and the same losses, bit for bit."""
    run = tmp_path / "killed"
    step = killed_run(studies, run)
    assert 0 < step < STEPS
    pretrain(studies, run, CONFIG, resume=True)
    expected, found = weights(straight), weights(run)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert losses(run) == losses(straight)


@pytest.mark.parametrize(
    "lost", ["optimizer.0.exp_avg", "optimizer.3.exp_avg_sq", "model.decoder.to_cells.linear.bias"]
)
def test_a_lost_piece_breaks_equality(studies: Path, straight: Path, tmp_path: Path, lost: str) -> None:
    """Negative control: zero one saved tensor, and the resumed run is another run."""
    run = tmp_path / "damaged"
    run.mkdir()
    source = next(path for path in find_checkpoints(straight) if read_checkpoint(path).step < STEPS)
    checkpoint = read_checkpoint(source)
    checkpoint.tensors[lost].add_(1.0)
    (run / source.name).write_bytes(save(checkpoint.tensors, {"state": json.dumps(checkpoint.state)}))
    pretrain(studies, run, CONFIG, resume=True)
    expected, found = weights(straight), weights(run)
    assert any(not torch.equal(expected[key], found[key]) for key in expected)


def test_two_checkpoints_are_kept(straight: Path) -> None:
    """Older checkpoints are deleted only after newer ones are on disk; two remain."""
    assert [read_checkpoint(path).step for path in find_checkpoints(straight)] == [STEPS, STEPS - 2]


def test_damaged_checkpoint_falls_back_aloud(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A truncated newest checkpoint is passed over with a warning; with none left it is an error."""
    for path in find_checkpoints(straight):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    newest, older = find_checkpoints(tmp_path)
    newest.write_bytes(newest.read_bytes()[:-100])
    found = load_newest(tmp_path)
    assert found is not None
    assert found.step == STEPS - 2
    assert "damaged" in capsys.readouterr().err
    older.write_bytes(b"")
    with pytest.raises(IntegrityError, match="none of its 2 checkpoints"):
        load_newest(tmp_path)


def test_other_configuration_is_refused(studies: Path, straight: Path, tmp_path: Path) -> None:
    """Resuming with another learning rate names the old and the new value."""
    for path in find_checkpoints(straight)[1:]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    loop = LoopConfig(**{**CONFIG.loop.__dict__, "learning_rate": 0.5})
    changed = PretrainConfig(**{**CONFIG.__dict__, "loop": loop})
    with pytest.raises(UsageError, match=r"learning_rate 0\.003 -> 0\.5"):
        pretrain(studies, tmp_path, changed, resume=True)


def test_occupied_run_folder_is_refused(studies: Path, straight: Path) -> None:
    """A finished run is never overwritten, with or without --resume."""
    before = (straight / "metrics.jsonl").read_bytes()
    for resume in (False, True):
        with pytest.raises(UsageError, match="finished"):
            pretrain(studies, straight, CONFIG, resume=resume)
    assert (straight / "metrics.jsonl").read_bytes() == before


def test_run_folder_holds_what_is_promised(straight: Path) -> None:
    """Metrics as JSON lines, TensorBoard events, and a release that loads."""
    from prostate_mim.encoder import PreMIM
    from prostate_mim.reconstruction import load_mim

    line = json.loads((straight / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"step", "seconds", "loss", "learning_rate", "gradient_norm", "studies_per_second"} <= set(line)
    assert list((straight / "tensorboard").glob("events.*"))
    assert PreMIM.from_pretrained(straight).spec == CONFIG.spec
    assert load_mim(straight).model.method == CONFIG.method
