"""Saving survives kill -9 at any moment, a full disk, lost permissions and a lost folder (T3.1, T3.2, T3.5)."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pytest
from nursery import Life, Nursery
from writing import is_whole, made, refusal

from prostate_mim.engine.checkpoint import (
    Checkpoint,
    find_checkpoints,
    load_newest,
    read_score,
    sweep,
    write_checkpoint,
)
from prostate_mim.errors import IntegrityError

KILLS = 100


def orphans(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def killed_after(life: Life, seconds: float) -> int:
    """Let it write for a while, then kill -9; the last step it has said to be written, 0 if none."""
    assert life.hear() == "swept"
    time.sleep(seconds)
    life.kill()
    assert life.end() == -9
    return max((said for said in life.said if isinstance(said, int)), default=0)


@pytest.mark.parametrize("keep_last", [1, 2])
def test_kill_9_during_save_loses_nothing(nursery: Nursery, tmp_path: Path, keep_last: int) -> None:
    """A hundred kills (with both settings): what was said to be written can be loaded, whole, or a later one."""
    rng = random.Random(keep_last)
    write_checkpoint(tmp_path, made(1))
    newest, torn = 1, 0
    for _ in range(KILLS // 2):
        acknowledged = killed_after(nursery.begin("writing.forever", tmp_path, keep_last), rng.uniform(0, 0.1))
        found = load_newest(tmp_path)
        assert found is not None
        assert is_whole(found)
        assert found.step >= max(acknowledged, newest)
        newest = found.step
        assert len(orphans(tmp_path)) <= 1  # the life before swept what the one before it had left
        torn += len(orphans(tmp_path))
    assert newest > 1
    assert torn >= KILLS // 20  # the kills did hit saves on the way


def test_writing_in_place_loses_a_checkpoint(nursery: Nursery, tmp_path: Path) -> None:
    """Negative control: the same kills lose the checkpoint of a writer that overwrites its file."""
    rng = random.Random(3)
    for _ in range(KILLS):
        killed_after(nursery.begin("writing.forever_in_place", tmp_path), rng.uniform(0, 0.05))
        try:
            load_newest(tmp_path)
        except IntegrityError:
            return
    pytest.fail("no kill hit a write")


def test_sweep_takes_orphans_only(tmp_path: Path) -> None:
    """Half-written checkpoints go; checkpoints and the files of others stay."""
    write_checkpoint(tmp_path, made(3))
    stays = {"checkpoint-00000003.safetensors", "metrics.jsonl", ".hidden", ".checkpoint-notes.txt"}
    for name in stays - {"checkpoint-00000003.safetensors"}:
        (tmp_path / name).write_text("x")
    for name in (".checkpoint-00000004.safetensors.abc.tmp.safetensors", ".checkpoint-00000005.safetensors.x_1.tmp"):
        (tmp_path / name).write_bytes(b"half")
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == stays


# ------------------------------------------------------------------------------- every moment, one after another

SCORES = {1: 0.3, 2: 0.1, 3: float("nan"), 4: 0.5}


def history(folder: Path, keep_last: int, keep_best: bool) -> None:
    folder.mkdir()
    for step, score in SCORES.items():
        write_checkpoint(folder, made(step, score=score), keep_last=keep_last, keep_best=keep_best)


@pytest.mark.parametrize("score", [0.4, 0.05])
@pytest.mark.parametrize("keep_best", [False, True])
@pytest.mark.parametrize("keep_last", [1, 2, 3])
def test_killed_at_every_step_of_a_save(
    nursery: Nursery, tmp_path: Path, keep_last: int, keep_best: bool, score: float
) -> None:
    """Killed before each touch of a file, from the first to the last deletion: never without a whole checkpoint."""
    if score == 0.05 and not keep_best:
        pytest.skip("scores do not matter")
    seen = []
    for event in range(40):
        folder = tmp_path / str(event)
        history(folder, keep_last, keep_best)
        life = nursery.run("writing.killed_at", folder, event, keep_last, keep_best, score)
        found = load_newest(folder)
        assert found is not None
        assert is_whole(found)
        assert found.step >= 4
        if keep_best:
            best = min(value for path in find_checkpoints(folder) if (value := read_score(path)) is not None)
            assert best == min(0.1, score) or (best == 0.1 and found.step == 4)
        seen += life.said
        if life.code == 0:
            break
    assert life.code == 0
    assert {"os.rename", "os.remove"} <= set(seen)
    assert found.step == 5


def test_deleting_first_is_found_out(nursery: Nursery, tmp_path: Path) -> None:
    """Negative control: a writer that makes room before it writes is caught without a checkpoint."""
    for event in range(10):
        folder = tmp_path / str(event)
        history(folder, 1, False)
        nursery.run("writing.killed_at", folder, event, 1, False, 0.4, delete_first=True)
        if load_newest(folder) is None:
            return
    pytest.fail("it always had a checkpoint")


# ------------------------------------------------------------------------------------------- what is kept, by hand


@pytest.mark.parametrize(
    ("keep_last", "keep_best", "kept"),
    [
        (1, False, [6]), (2, False, [5, 6]), (3, False, [4, 5, 6]),
        (1, True, [2, 6]), (2, True, [2, 5, 6]), (3, True, [2, 4, 5, 6]),
    ],
)  # fmt: skip
def test_retention(tmp_path: Path, keep_last: int, keep_best: bool, kept: list[int]) -> None:
    """The newest, and the lowest finite score: neither NaN, nor minus infinity, nor none at all."""
    nothing = float("nan")
    for step, score in enumerate([0.3, 0.1, nothing, float("-inf"), None, 0.2], 1):
        write_checkpoint(tmp_path, made(step, score=score), keep_last=keep_last, keep_best=keep_best)
    assert [int(path.stem[-8:]) for path in reversed(find_checkpoints(tmp_path))] == kept


def test_no_score_is_no_best(tmp_path: Path) -> None:
    """Where nothing finite was scored, the newest stay and nothing else."""
    for step in range(1, 5):
        write_checkpoint(tmp_path, made(step, score=float("nan")), keep_last=1, keep_best=True)
        assert [int(path.stem[-8:]) for path in find_checkpoints(tmp_path)] == [step]
    assert read_score(find_checkpoints(tmp_path)[0]) is None


@pytest.mark.parametrize("keep_best", [False, True])
@pytest.mark.parametrize("keep_last", [1, 2])
def test_damaged_newer_ones_do_not_push_out_the_good(tmp_path: Path, keep_last: int, keep_best: bool) -> None:
    """Resumed before damaged checkpoints, a run keeps what it writes: they do not count as the newest, nor as best."""
    write_checkpoint(tmp_path, made(4, score=0.5))
    for step in (8, 9):
        path = write_checkpoint(tmp_path, made(step, score=0.1), keep_last=9)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    write_checkpoint(tmp_path, made(5, score=0.4), keep_last=keep_last, keep_best=keep_best)
    found = load_newest(tmp_path)
    assert found is not None
    assert found.step == 5


# ------------------------------------------------------------------------------------- the disk says no


def intact(folder: Path) -> bool:
    found = load_newest(folder)
    return found is not None and found.step == 1 and is_whole(found) and not orphans(folder)


def test_full_disk_at_any_offset(nursery: Nursery, tmp_path: Path) -> None:
    """Twenty places where the disk is full: one clear error each, nothing left behind, the checkpoint before intact."""
    whole = write_checkpoint(tmp_path, made(1)).stat().st_size
    offsets = [whole * k // 20 for k in range(20)]
    life = nursery.run("writing.on_a_full_disk", tmp_path, [*offsets, 10 * whole])
    assert life.code == 0, life.stderr
    *full, room = life.said
    for name, code, text in full:
        assert (name, code) == ("ResourceError", 7)
        assert "checkpoint-00000002" in text
        assert "no space" in text
        assert "\n" not in text
    assert room == ["", 0, ""]  # the control: with room it is written
    (tmp_path / "checkpoint-00000002.safetensors").unlink()
    assert intact(tmp_path)


def test_full_disk_keeps_the_one_before(nursery: Nursery, tmp_path: Path) -> None:
    """The same without room at the end."""
    whole = write_checkpoint(tmp_path, made(1)).stat().st_size
    assert nursery.run("writing.on_a_full_disk", tmp_path, [0, whole // 2, whole - 1]).code == 0
    assert intact(tmp_path)


def test_permission_lost(nursery: Nursery, tmp_path: Path) -> None:
    """A folder that has become read-only: one clear error, the checkpoint before intact."""
    write_checkpoint(tmp_path, made(1))
    life = nursery.run("writing.without_permission", tmp_path)
    assert life.code == 0, life.stderr
    name, code, text = life.said[0]
    assert (name, code) == ("UsageError", 2)
    assert "cannot be written (Permission denied)" in text
    assert intact(tmp_path)


def test_folder_removed_or_replaced(tmp_path: Path) -> None:
    """A run folder that is gone, or has become a file: one clear error, and nothing is made in its place."""
    folder, aside = tmp_path / "run", tmp_path / "aside"
    folder.mkdir()
    write_checkpoint(folder, made(1))
    shutil.move(folder, aside)
    name, code, text = refusal(folder)
    assert (name, code) == ("UsageError", 2)
    assert "cannot be written" in text
    assert not folder.exists()
    folder.write_text("a file")
    assert refusal(folder)[:2] == ["UsageError", 2]
    assert folder.read_text() == "a file"
    assert intact(aside)


def test_a_checkpoint_is_what_was_given(tmp_path: Path) -> None:
    """Every type, scalars, empty and strided tensors come back bit for bit."""
    import torch

    tensors = {
        "a": torch.arange(6).reshape(2, 3).t(), "b": torch.tensor(1.5, dtype=torch.float64), "c": torch.zeros(0, 4),
        "d": torch.tensor([float("nan"), -0.0]).bfloat16(), "e": torch.tensor([True, False]),
        "f": torch.zeros(1, 2, 3, 4, 5).to(memory_format=torch.channels_last_3d) + 1,
    }  # fmt: skip
    write_checkpoint(tmp_path, Checkpoint(7, tensors, {"x": [1, "ü"]}, 0.25))
    found = load_newest(tmp_path)
    assert found is not None
    assert (found.step, found.state, found.score) == (7, {"x": [1, "ü"]}, 0.25)
    assert set(found.tensors) == set(tensors)
    for name, value in tensors.items():
        assert found.tensors[name].dtype == value.dtype
        assert torch.equal(found.tensors[name], value) or name == "d"
    assert torch.equal(found.tensors["d"].view(torch.int16), tensors["d"].view(torch.int16))
