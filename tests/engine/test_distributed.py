"""Two gloo processes on the CPU train as one does: same losses, same weights, same batch norms, sharded or not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prostate_mim.engine.checkpoint import load_newest
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.errors import UsageError
from prostate_mim.mim import Method
from prostate_mim.pretraining import PretrainConfig, make_model, pretrain
from prostate_mim.spec import InputSpec

SCRIPT = Path(__file__).parent / "ranks.py"
ALONE = [
    {"name": "resenc"},
    {"name": "norms", "architecture": "resnet10", "learning_rate": 1e-4},
]
TOGETHER = [
    {"name": "resenc"},
    {"name": "pieces", "accumulate": 2},
    {"name": "norms", "architecture": "resnet10", "learning_rate": 1e-4},
    {"name": "apart", "architecture": "resnet10", "learning_rate": 1e-4, "synchronised": False},
]
SHARDED = {"ACCELERATE_USE_FSDP": "true"}


def launch(
    ranks: int, manifest: Path, out: Path, cases: list[dict[str, Any]], **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the cases in one process, or in several by torchrun."""
    command = [sys.executable]
    if ranks > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command += ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(port)]
    command += [str(SCRIPT), str(manifest), str(out), json.dumps(cases)]
    return subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, capture_output=True, text=True, timeout=400,
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def studies(cohort: Path) -> Path:
    return cohort.parent / "studies.csv"


@pytest.fixture(scope="module")
def alone(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    done = launch(1, studies, out, ALONE)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def together(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("together")
    done = launch(2, studies, out, TOGETHER)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "release" / "model.safetensors")


def running(run: Path) -> dict[str, torch.Tensor]:
    found = {key: value for key, value in weights(run).items() if "running_" in key}
    assert found
    return found


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Relative to the size of all weights: AdamW takes whole steps for gradients of whatever size, rounded or not."""
    assert a.keys() == b.keys()
    keys = [key for key in a if a[key].is_floating_point()]
    apart = sum(float((a[key].double() - b[key].double()).square().sum()) for key in keys)
    return (apart / sum(float(a[key].double().square().sum()) for key in keys)) ** 0.5


@pytest.mark.parametrize(("one", "two"), [("resenc", "resenc"), ("resenc", "pieces"), ("norms", "norms")])
def test_same_curve_at_the_same_global_batch(alone: Path, together: Path, one: str, two: str) -> None:
    """Loss after loss to 1e-5, and the weights, with accumulation and with batch norms too."""
    assert losses(together / two) == pytest.approx(losses(alone / one), abs=1e-5)
    assert difference(weights(alone / one), weights(together / two)) < 1e-3


def test_batch_norms_are_synchronised(alone: Path, together: Path) -> None:
    """Running statistics are those of the global batch."""
    seen = json.loads((together / "norms" / "seen.json").read_text())
    assert any("OverRanks" in name for name in seen["norms"])
    own, shared, apart = (running(run / name) for run, name in
                          ((alone, "norms"), (together, "norms"), (together, "apart")))  # fmt: skip
    assert difference(own, shared) < 1e-3  # reached: 1e-5
    assert difference(own, apart) > 1e-2  # the control


def test_unsynchronised_norms_are_found_out(alone: Path, together: Path) -> None:
    """The control: with statistics of each process's share the same comparison fails."""
    assert losses(together / "apart") != pytest.approx(losses(alone / "norms"), abs=1e-5)


def test_one_rank_writes(together: Path) -> None:
    """One line a step, though two processes trained."""
    lines = [json.loads(line) for line in (together / "resenc" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert json.loads((together / "resenc" / "run.json").read_text())["ranks"] == 2


def test_sharded_parameters_train_alike(studies: Path, alone: Path, tmp_path: Path) -> None:
    """FSDP: parameters are really sharded, the curve is the same, and one process resumes its checkpoint."""
    done = launch(2, studies, tmp_path, [{"name": "sharded", "health_every": 2, "accumulate": 2}], **SHARDED)
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "sharded"
    assert json.loads((run / "seen.json").read_text())["sharded"] is True
    assert losses(run) == pytest.approx(losses(alone / "resenc"), abs=1e-5)
    assert difference(weights(alone / "resenc"), weights(run)) < 1e-3
    found = load_newest(run)
    assert found is not None
    assert not any(name.startswith("module.") for name in found.part("model"))
    for path in (run / "release").iterdir():
        path.unlink()
    (run / "release").rmdir()
    (run / "checkpoint-00000004.safetensors").unlink()
    done = launch(1, studies, tmp_path, [{"name": "sharded", "accumulate": 2, "resume": True}])
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(run) == pytest.approx(losses(alone / "resenc"), abs=1e-5)


def test_a_teacher_is_refused_when_sharded(studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It follows whole parameters. Said before any study is read; without sharding the same method is accepted."""
    config = PretrainConfig(
        spec=InputSpec(size_zyx=(8, 32, 32)),
        method=Method(target="features"),
        loop=LoopConfig(device="cpu"),
    )
    assert make_model(config).teacher is not None
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UsageError, match="teacher"):
        pretrain(studies, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_a_signal_to_one_rank_stops_both(studies: Path, together: Path, tmp_path: Path) -> None:
    """SIGTERM reaches rank 1 alone: both finish that step, one checkpoint is written, and the run goes on from it."""
    done = launch(2, studies, tmp_path, [{"name": "stopped", "stop_at": 2}])
    assert done.returncode != 0
    assert "asked to stop after step 3" in done.stderr
    found = load_newest(tmp_path / "stopped")
    assert found is not None
    assert found.step == 3
    done = launch(2, studies, tmp_path, [{"name": "stopped", "resume": True}])
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "stopped") == losses(together / "resenc")
    assert difference(weights(together / "resenc"), weights(tmp_path / "stopped")) == 0
