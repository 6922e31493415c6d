"""A signal ends a run in order: the step is finished, a checkpoint written, the exit code says which signal."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nursery import Nursery
from small_training import last, losses, same_run, train_small

from prostate_mim.engine.checkpoint import find_checkpoints
from prostate_mim.engine.signals import StopRequest

AT = 5  # the signal comes during the 6th step; checkpoints are at 4, 8 and 12


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("straight")
    train_small(run, checkpoint_every=4)
    return run


@pytest.mark.parametrize(
    ("number", "workers", "group"),
    [(signal.SIGTERM, 0, False), (signal.SIGUSR1, 0, False), (signal.SIGINT, 0, False), (signal.SIGTERM, 2, True)],
)
def test_a_signal_saves_and_ends(
    nursery: Nursery, straight: Path, tmp_path: Path, number: int, workers: int, group: bool
) -> None:
    """A checkpoint at exactly the step that was going on; then the straight run's end. SLURM signals workers too."""
    life = nursery.run(
        "small_training.signalled", tmp_path, int(number), AT, group=group, workers=workers, checkpoint_every=4
    )
    assert life.code == 128 + number, life.stderr
    assert life.said == list(range(AT + 1))
    ctrl_c = number == signal.SIGINT
    hint = "" if ctrl_c else ", go on with --resume"  # after Ctrl-C the command says how
    assert f"asked to stop after step {AT + 1}; its checkpoint is written{hint}\n" in life.stderr
    assert life.stderr.count("stopping after this step; a checkpoint is written\n") == ctrl_c
    assert "Traceback" not in life.stderr
    assert [path.name for path in find_checkpoints(tmp_path)] == [
        f"checkpoint-{n:08d}.safetensors" for n in (AT + 1, 4)
    ]
    assert len(losses(tmp_path)) == AT + 1
    train_small(tmp_path, resume=True, workers=workers, checkpoint_every=4)
    assert same_run(tmp_path, straight)


def test_the_same_signal_twice_at_once_is_one(nursery: Nursery, straight: Path, tmp_path: Path) -> None:
    """A launcher hands on a signal that its processes have had already: they must still save."""
    life = nursery.run("small_training.signalled", tmp_path, int(signal.SIGTERM), AT, times=3, checkpoint_every=4)
    assert life.code == 143, life.stderr
    assert last(tmp_path).step == AT + 1


def test_a_second_signal_stops_at_once(nursery: Nursery, straight: Path, tmp_path: Path) -> None:
    """Later on it means now: nothing more is saved, and nothing is lost that was."""
    life = nursery.run(
        "small_training.signalled", tmp_path, int(signal.SIGTERM), AT, times=2, gap=0.6, checkpoint_every=4
    )
    assert life.code == -signal.SIGTERM, life.stderr
    assert last(tmp_path).step == 4
    train_small(tmp_path, resume=True, checkpoint_every=4)
    assert same_run(tmp_path, straight)


def test_without_a_signal_it_finishes(nursery: Nursery, straight: Path, tmp_path: Path) -> None:
    """Control: the same process, left alone; and a signal in the last step asks for nothing that is not done."""
    assert nursery.run("small_training.signalled", tmp_path / "a", 0, AT, checkpoint_every=4).code == 0
    assert same_run(tmp_path / "a", straight)
    life = nursery.run("small_training.signalled", tmp_path / "b", int(signal.SIGTERM), 11, checkpoint_every=4)
    assert (life.code, life.said[-1]) == (0, "finished")
    assert same_run(tmp_path / "b", straight)


def test_without_a_handler_a_signal_loses_steps(nursery: Nursery, tmp_path: Path) -> None:
    """Negative control: SIGALRM, which nobody handles, ends the process without a checkpoint of its step."""
    life = nursery.run("small_training.signalled", tmp_path, int(signal.SIGALRM), AT, checkpoint_every=4)
    assert life.code == -signal.SIGALRM
    assert last(tmp_path).step == 4


def test_handlers_are_put_back() -> None:
    """Whatever was there before, is there afterwards; exit codes by hand."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    with StopRequest() as stop:
        assert all(signal.getsignal(number) != handler for number, handler in before.items())
        os.kill(os.getpid(), signal.SIGUSR1)
        assert (stop.signal, stop.exit_code) == (signal.SIGUSR1, 138)
    assert {number: signal.getsignal(number) for number in before} == before


# ------------------------------------------------------------------------------------------ the command itself


def command(*arguments: str, run: Path) -> subprocess.Popen[bytes]:
    """``python -m prostate_mim pretrain`` in a session of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "prostate_mim", "pretrain", "--out", str(run), *arguments],
        stderr=(run.parent / "stderr").open("wb"), stdout=subprocess.DEVNULL, env=environment, start_new_session=True,
    )  # fmt: skip


def signal_after(process: subprocess.Popen[bytes], run: Path, lines: int, number: int) -> int:
    """Send a signal when the run has logged so many steps; its exit code."""
    try:
        while process.poll() is None and (not (run / "metrics.jsonl").exists() or len(losses_so_far(run)) < lines):
            time.sleep(0.02)
        process.send_signal(number)
        return process.wait(120)
    finally:
        process.kill()
        process.wait()


def losses_so_far(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines()


def test_the_command_stops_and_goes_on(
    studies: Path, teaching: object, straight_pretrain: Path, tmp_path: Path
) -> None:
    """Ctrl-C gives 130 and SIGTERM 143, each with a checkpoint; resumed, the weights are the straight run's."""
    from safetensors.torch import load_file

    from prostate_mim.config import write_config
    from prostate_mim.pretraining import pretrain

    write_config(tmp_path / "run.toml", teaching)
    arguments = ("--manifest", str(studies), "--config", str(tmp_path / "run.toml"))
    run = tmp_path / "run"
    code = signal_after(command(*arguments, run=run), run, 2, signal.SIGINT)
    said = (tmp_path / "stderr").read_text()
    assert code == 130, said
    words = ["python", "-m", "prostate_mim", "pretrain", "--out", str(run), *arguments, "--resume"]
    assert said.endswith(f"error: interrupted; no file is half-written; go on with: {shlex.join(words)}\n")
    assert said.count("--resume") == 1
    assert "Traceback" not in said
    first = last(run).step
    assert first == len(losses_so_far(run))
    code = signal_after(command(*arguments, "--resume", run=run), run, first + 1, signal.SIGTERM)
    said = (tmp_path / "stderr").read_text()
    assert code == 143, said
    assert "Traceback" not in said
    assert last(run).step > first
    pretrain(studies, run, teaching, resume=True)
    straight = load_file(straight_pretrain / "release" / "model.safetensors")
    found = load_file(run / "release" / "model.safetensors")
    assert all((found[name] == value).all() for name, value in straight.items())
    assert losses(run) == losses(straight_pretrain)
