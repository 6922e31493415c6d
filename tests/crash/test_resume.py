"""A killed run goes on as if nothing had happened, bit for bit on the CPU; what must break that, does (T3.4, T3.7)."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nursery import Nursery
from small_training import STEPS, last, losses, made_net, same_run, same_tensors, train_small

from prostate_mim.engine.checkpoint import Checkpoint, find_checkpoints, load_newest, read_checkpoint, write_checkpoint
from prostate_mim.engine.identity import check_same_run
from prostate_mim.errors import IntegrityError, ProstateMimError, UsageError

Straight = Callable[..., Path]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """Uninterrupted runs with a checkpoint at every step, each made once."""
    runs: dict[tuple[int, bool], Path] = {}

    def run(accumulate: int = 1, memory: bool = False) -> Path:
        key = accumulate, memory
        if key not in runs:
            runs[key] = tmp_path_factory.mktemp("straight")
            train_small(runs[key], accumulate=accumulate, memory=memory)
        return runs[key]

    return run


def stopped(straight: Path, folder: Path, step: int) -> Path:
    """The run as it was when it stopped after ``step``: its newest checkpoint, and what it had logged, and more."""
    folder.mkdir()
    for done in (step - 1, step):
        if done > 0:
            shutil.copy(straight / f"checkpoint-{done:08d}.safetensors", folder)
    text = (straight / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(text[: step + 1]) + '{"step": 3, "lo')
    return folder


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_stop_anywhere(straight: Straight, tmp_path: Path, workers: int, accumulate: int) -> None:
    """Stopped after each of 12 steps: the same weights, statistics, optimiser, average and losses, bit for bit."""
    whole = straight(accumulate)
    weights = None
    for step in range(1, STEPS + 1):
        run = stopped(whole, tmp_path / str(step), step)
        found = train_small(run, resume=True, workers=workers, accumulate=accumulate, checkpoint_every=STEPS)
        assert same_run(run, whole), step
        weights = weights or found
        assert same_tensors(found, weights)


def test_the_straight_runs_differ(straight: Straight) -> None:
    """Control: the comparison sees a difference of one micro-batch; and all that is promised is in a checkpoint."""
    assert not same_run(straight(1), straight(2))
    names = {name.partition(".")[0] for name in last(straight()).tensors}
    entries = {name.rpartition(".")[2] for name in last(straight()).tensors if name.startswith("optimizer")}
    assert names == {"model", "optimizer", "average"}
    assert entries == {"exp_avg", "exp_avg_sq", "step"}
    steps = {float(v) for k, v in last(straight()).tensors.items() if k.startswith("optimizer") and k.endswith("step")}
    assert steps == {12.0, 7.0}  # one number was not used in the first five steps


def test_workers_change_nothing(straight: Straight, tmp_path: Path) -> None:
    """A straight run with two loader processes is the one without."""
    train_small(tmp_path / "run", workers=2, checkpoint_every=STEPS)
    assert same_run(tmp_path / "run", straight())


@pytest.mark.parametrize("step", [1, 2, 3, 7, 11])
def test_stop_after_running_out_of_memory(straight: Straight, tmp_path: Path, step: int) -> None:
    """What the run has settled on, here its micro-batches, goes on too."""
    run = stopped(straight(memory=True), tmp_path / "run", step)
    train_small(run, resume=True, memory=True)
    assert last(run).state["settled"]["pieces"] == 2
    assert same_run(run, straight(memory=True))


# ---------------------------------------------------------------------------------- seven pieces, each of them lost

STOP = 7


def tensors_of(part: str, checkpoint: Checkpoint) -> list[str]:
    parameters = dict(made_net().named_parameters())
    chosen = {
        "parameters": lambda name: name.startswith("model.") and name[6:] in parameters,
        "statistics": lambda name: name.startswith("model.") and name[6:] not in parameters,
        "exp_avg": lambda name: name.endswith(".exp_avg"),
        "exp_avg_sq": lambda name: name.endswith(".exp_avg_sq"),
        "counts": lambda name: name.startswith("optimizer.") and name.endswith(".step"),
        "average": lambda name: name.startswith("average."),
    }[part]
    found = [name for name in checkpoint.tensors if chosen(name)]
    assert found
    return found


def without(checkpoint: Checkpoint, part: str, how: str) -> Checkpoint:
    """The checkpoint with one piece left out, or as it was when the run began."""
    tensors, state = dict(checkpoint.tensors), json.loads(json.dumps(checkpoint.state))
    if part == "step":
        return dataclasses.replace(checkpoint, step=0 if how == "reset" else STOP - 1)
    if part == "settled":
        state["settled"] = {} if how == "drop" else {**state["settled"], "pieces": 1}
        return dataclasses.replace(checkpoint, state=state)
    beginning = made_net().state_dict()
    for name in tensors_of(part, checkpoint):
        value = tensors.pop(name)
        if how == "reset":
            plain = name.partition(".")[2]
            tensors[name] = torch.zeros_like(value) if name.startswith("optimizer.") else beginning[plain]
    return dataclasses.replace(checkpoint, tensors=tensors)


@pytest.mark.parametrize("how", ["drop", "reset"])
@pytest.mark.parametrize(
    "part", ["parameters", "statistics", "exp_avg", "exp_avg_sq", "counts", "average", "step", "settled"]
)
def test_a_lost_piece_is_another_run(straight: Straight, tmp_path: Path, part: str, how: str) -> None:
    """Negative control: without any one of the pieces (step and settled choices count as one) it is another run."""
    whole = straight(memory=True)
    write_checkpoint(tmp_path, without(read_checkpoint(whole / f"checkpoint-{STOP:08d}.safetensors"), part, how))
    shutil.copy(whole / "metrics.jsonl", tmp_path)
    refused = None
    try:
        train_small(tmp_path, resume=True, memory=True)
    except Exception as error:
        refused = error
    if refused is None:
        assert not same_run(tmp_path, whole)
    else:
        assert isinstance(refused, ProstateMimError), repr(refused)[:300]


def test_an_untouched_copy_is_the_same_run(straight: Straight, tmp_path: Path) -> None:
    """Control of the control: written anew but whole, it is the same run."""
    whole = straight(memory=True)
    write_checkpoint(tmp_path, read_checkpoint(whole / f"checkpoint-{STOP:08d}.safetensors"))
    shutil.copy(whole / "metrics.jsonl", tmp_path)
    train_small(tmp_path, resume=True, memory=True)
    assert same_run(tmp_path, whole)


# ------------------------------------------------------------------------------------------- damage and kill -9


def test_resume_past_a_damaged_checkpoint(
    straight: Straight, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the checkpoint before the damaged one, said aloud, to the same end; the damaged one is replaced."""
    run = stopped(straight(), tmp_path / "run", 6)
    newest = find_checkpoints(run)[0]
    newest.write_bytes(newest.read_bytes()[:-100])
    train_small(run, resume=True)
    assert "checkpoint-00000006.safetensors: this checkpoint is damaged" in capsys.readouterr().err
    assert same_run(run, straight())
    assert read_checkpoint(newest).step == 6
    for path in find_checkpoints(run):
        path.write_bytes(b"")
    with pytest.raises(IntegrityError, match="none of its"):
        train_small(run, resume=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_three_times(nursery: Nursery, straight: Straight, tmp_path: Path, workers: int) -> None:
    """Kill -9 in the middle of three optimiser steps, a checkpoint at every second: the same run at the end."""
    for at in (2, 3, 4):  # steps this process has begun: it dies in its 3rd, 4th and 5th
        life = nursery.run(
            "small_training.killed_in_step", tmp_path, at, resume=True, workers=workers, checkpoint_every=2, keep_last=1
        )
        assert life.code == -signal.SIGKILL, life.stderr
    assert last(tmp_path).step == 8  # 2; then 4 after it; then 8
    train_small(tmp_path, resume=True, workers=workers, checkpoint_every=2, keep_last=1)
    assert same_run(tmp_path, straight())


def test_killed_before_the_first_checkpoint(nursery: Nursery, straight: Straight, tmp_path: Path) -> None:
    """With nothing to go on from it starts anew, and the log holds every step once."""
    life = nursery.run("small_training.killed_in_step", tmp_path, 3, checkpoint_every=6)
    assert life.code == -signal.SIGKILL
    assert load_newest(tmp_path) is None
    assert len(losses(tmp_path)) == 3
    train_small(tmp_path, resume=True)
    assert same_run(tmp_path, straight())


def test_the_beginning_is_logged_once(nursery: Nursery, tmp_path: Path) -> None:
    """Killed before its first checkpoint, with a look before the first step: begun anew, that look is there once."""
    for _ in range(2):
        life = nursery.run(
            "small_training.killed_in_step", tmp_path, 1, look=True, health_every=20, checkpoint_every=20, resume=True
        )
        assert life.code == -signal.SIGKILL, life.stderr
        assert [line["step"] for line in losses(tmp_path)] == [0, 1]


def test_killed_from_outside(nursery: Nursery, straight: Straight, tmp_path: Path) -> None:
    """Kill -9 as it comes, again and again, until the run is through."""
    for attempt in range(1, 5):
        life = nursery.begin("small_training.slow", tmp_path, resume=True, keep_last=1 + attempt % 2)
        while life.hear() not in (3 * attempt - 1, "finished", None):
            pass
        if life.code is None and life.said[-1] != "finished":
            life.kill()
        life.end()
        assert life.code in (0, -signal.SIGKILL), life.stderr
    train_small(tmp_path, resume=True)
    assert same_run(tmp_path, straight())


@pytest.mark.parametrize(("bytes_left", "file"), [(3000, "checkpoint-00000005"), (300, "metrics.jsonl")])
def test_full_disk_ends_the_run(
    nursery: Nursery, straight: Straight, tmp_path: Path, bytes_left: int, file: str
) -> None:
    """One clear error, exit code 7, the checkpoint before intact; with room again it goes on to the same end."""
    life = nursery.run("small_training.short_of_disk", tmp_path, 4, bytes_left)
    assert life.code == 7, life.stderr
    errors = [line for line in life.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert file in errors[0]
    assert "no space left" in errors[0]
    assert "Traceback" not in life.stderr
    assert last(tmp_path).step == 4
    assert not list(tmp_path.glob(".checkpoint*"))
    train_small(tmp_path, resume=True)
    assert same_run(tmp_path, straight())


# --------------------------------------------------------------------------------------- a changed configuration


def test_changed_configuration_is_refused(straight: Straight, tmp_path: Path) -> None:
    """It names the key, old and new; named, it is allowed, and the run is then another one."""
    run = stopped(straight(), tmp_path / "run", 6)
    before = sorted(path.name for path in run.iterdir())
    for change, said in (
        ({"learning_rate": 0.5}, r"loop\.learning_rate 0\.003 -> 0\.5"),
        ({"batch": 2}, r"loop\.batch 4 -> 2"),
        ({"steps": 20}, r"loop\.steps 12 -> 20"),
        ({"accumulate": 2}, r"loop\.accumulate 1 -> 2"),
        ({"ema": 0.5}, r"loop\.ema 0\.9 -> 0\.5"),
        ({"seed": 4}, r"loop\.seed 3 -> 4"),
        ({"precision": "bf16"}, r"loop\.precision 'fp32' -> 'bf16'"),
    ):
        with pytest.raises(UsageError, match=said):
            train_small(run, resume=True, **change)
    assert sorted(path.name for path in run.iterdir()) == before
    with pytest.raises(UsageError, match=r"--allow-change loop\.learning_rate"):
        train_small(run, resume=True, learning_rate=0.5)
    train_small(run, resume=True, learning_rate=0.5, allow_change=("loop.learning_rate",))
    assert last(run).step == STEPS
    assert losses(run)[:6] == losses(straight())[:6]
    assert not same_run(run, straight())


def test_only_what_is_named_may_change(straight: Straight, tmp_path: Path) -> None:
    """One permission is not another."""
    run = stopped(straight(), tmp_path / "run", 6)
    with pytest.raises(UsageError, match=r"loop\.seed 3 -> 4") as caught:
        train_small(run, resume=True, seed=4, learning_rate=0.5, allow_change=("loop.learning_rate",))
    assert "learning_rate" not in str(caught.value)


def test_the_advice_can_be_followed(straight: Straight, tmp_path: Path) -> None:
    """Everything that has changed is named at once, with the options that allow it: the second try goes on."""
    run = stopped(straight(), tmp_path / "run", 6)
    changed = {"seed": 4, "learning_rate": 0.5, "steps": 7}
    with pytest.raises(UsageError) as caught:
        train_small(run, resume=True, **changed)
    said = str(caught.value)
    assert "loop.learning_rate 0.003 -> 0.5, loop.seed 3 -> 4, loop.steps 12 -> 7" in said
    assert "with --allow-change loop.learning_rate --allow-change loop.seed --allow-change loop.steps, or" in said
    train_small(run, resume=True, allow_change=tuple(re.findall(r"--allow-change ([\w.]+)", said)), **changed)
    assert last(run).step == 7


@pytest.mark.parametrize(
    ("before", "now", "named"),
    [
        ((400, 40), (500, 50), "loop.steps"),
        ((400, 40), (90, 9), "loop.steps"),
        ((400, 20), (500, 50), "loop.steps loop.warmup"),
        ((400, 40), (500, 60), "loop.steps loop.warmup"),
        ((400, 40), (400, 50), "loop.warmup"),
    ],
)
def test_a_warmup_that_nobody_gave_follows_the_steps(before: Any, now: Any, named: str) -> None:
    """By hand: 10 % of the steps, at most 50; any other was given, and is named."""
    first, second = ({"loop": {"steps": steps, "warmup": warmup}} for steps, warmup in (before, now))
    with pytest.raises(UsageError) as caught:
        check_same_run(Path("run"), first, second)
    assert re.findall(r"--allow-change ([\w.]+)", str(caught.value)) == named.split()
    check_same_run(Path("run"), first, second, named.split())


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("loop.learning_rte", "loop.learning_rate"), ("learning_rate", "loop.learning_rate"), ("data.row", "data.rows")],
)
def test_a_misspelt_permission_names_the_nearest(straight: Straight, tmp_path: Path, name: str, nearest: str) -> None:
    """Even where nothing has changed."""
    run = stopped(straight(), tmp_path / "run", 6)
    with pytest.raises(UsageError, match=f"--allow-change {name}: .*did you mean {nearest}"):
        train_small(run, resume=True, allow_change=(name,))


def test_what_may_change_freely(straight: Straight, tmp_path: Path) -> None:
    """How a run goes on changes nothing of what it computes."""
    run = stopped(straight(), tmp_path / "run", 6)
    free = {
        "workers": 1,
        "loader_timeout": 60.0,
        "checkpoint_every": 5,
        "keep_last": 1,
        "keep_best": True,
        "health_every": 7,
    }
    train_small(run, resume=True, **free)
    assert [path.name for path in find_checkpoints(run)] == ["checkpoint-00000012.safetensors"]
    a, b = last(run), last(straight())
    assert same_tensors(a.tensors, b.tensors)
    assert losses(run) == losses(straight())


def test_an_average_cannot_begin_on_the_way(tmp_path: Path) -> None:
    """A run without a moving average is refused one, in words, even where the change is allowed."""
    train_small(tmp_path, ema=0.0, steps=3)
    with pytest.raises(UsageError, match=r"no moving average.*loop\.ema"):
        train_small(tmp_path, ema=0.9, steps=4, resume=True, allow_change=("loop.ema", "loop.steps"))


def test_more_steps_by_name(tmp_path: Path, straight: Straight) -> None:
    """A finished run is lengthened only by name; fewer steps than are done do nothing at all."""
    run = stopped(straight(), tmp_path / "run", 12)
    weights = train_small(run, resume=True, steps=14, allow_change=("loop.steps",))
    assert last(run).step == 14
    again = train_small(run, resume=True, steps=5, allow_change=("loop.steps",))
    assert last(run).step == 14
    assert same_tensors(weights, again)
