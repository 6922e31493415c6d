"""A damaged checkpoint is noticed and passed over aloud; another release's is refused by name (T3.3, T3.6)."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from writing import is_whole, made

from prostate_mim.engine.checkpoint import (
    find_checkpoints,
    load_newest,
    newest_state,
    read_checkpoint,
    read_score,
    write_checkpoint,
)
from prostate_mim.errors import IntegrityError, UsageError

OLD, NEW = 3, 4


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Two checkpoints; the newest one's bytes are to be damaged."""
    for step in (OLD, NEW):
        write_checkpoint(tmp_path, made(step, score=0.5))
    return find_checkpoints(tmp_path)[0]


def falls_back(newest: Path, data: bytes, capsys: pytest.CaptureFixture[str]) -> bool:
    """Whether, with these bytes in its place, the checkpoint before is loaded, whole, and a line says so."""
    newest.write_bytes(data)
    capsys.readouterr()
    found = load_newest(newest.parent)
    said = capsys.readouterr().err.splitlines()
    aloud = len(said) == 1 and said[0].startswith("warning:") and newest.name in said[0] and "damaged" in said[0]
    return found is not None and found.step == OLD and is_whole(found) and aloud


def test_the_first_look_reads_headers_alone(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the newest file that has one; silently, as ``load_newest`` says it; nothing where there is none."""
    assert newest_state(pair.parent) == made(NEW, score=0.5).state
    pair.write_bytes(pair.read_bytes()[:20])
    assert newest_state(pair.parent) == made(OLD, score=0.5).state
    for path in find_checkpoints(pair.parent):
        path.write_bytes(b"none")
    assert newest_state(pair.parent) is None
    assert capsys.readouterr().err == ""


def parts(data: bytes) -> dict[str, range]:
    """Where the length of the header, the header, and the data lie."""
    header = 8 + int.from_bytes(data[:8], "little")
    return {"length": range(8), "header": range(8, header), "data": range(header, len(data))}


def test_truncation_at_fifty_offsets(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From nothing to all but one byte."""
    whole = pair.read_bytes()
    offsets = sorted({len(whole) * k // 47 for k in range(47)} | {7, 8, len(whole) - 1})
    assert len(offsets) == 50
    assert all(falls_back(pair, whole[:offset], capsys) for offset in offsets)
    assert not falls_back(pair, whole, capsys)  # the control: undamaged, it is loaded


def test_bytes_added(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither is a longer file a checkpoint."""
    assert falls_back(pair, pair.read_bytes() + b"\0", capsys)


def flips(data: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Eight flipped bits in the length, 21 in the header, 21 in the data: (part, place, bytes)."""
    rng = random.Random(0)
    for part, places in parts(data).items():
        for place in places if part == "length" else rng.sample(places, 21):
            damaged = bytearray(data)
            damaged[place] ^= 1 << rng.randrange(8)
            yield part, place, bytes(damaged)


def test_fifty_flipped_bits(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever a bit is flipped, it is noticed; without the digest safetensors takes flipped data for good."""
    whole = pair.read_bytes()
    damages = list(flips(whole))
    assert len(damages) == 50
    accepted = set()
    for part, place, data in damages:
        assert falls_back(pair, data, capsys), (part, place)
        try:
            load(data)
            accepted.add(part)
        except SafetensorError:
            pass
    assert {"data", "header"} <= accepted  # the control: this is why there is a digest


def test_every_bit_of_the_state(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The state's own text, where a flipped bit makes another number of steps, or another format."""
    whole = pair.read_bytes()
    start = whole.index(b'"{\\"format') + 1
    for place in range(start, start + 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        assert falls_back(pair, bytes(damaged), capsys), place


def test_all_damaged_is_an_error(pair: Path) -> None:
    """With none left to fall back to, nothing is begun anew in silence."""
    for path in find_checkpoints(pair.parent):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="none of its 2 checkpoints can be read"):
        load_newest(pair.parent)


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    """Neither an empty folder nor one that is not there is an error."""
    assert load_newest(tmp_path) is None
    assert load_newest(tmp_path / "nowhere") is None


def test_a_damaged_score_is_none(pair: Path) -> None:
    """A header that cannot be read has no score, and so is never the best."""
    assert read_score(pair) == 0.5
    pair.write_bytes(pair.read_bytes()[:100])
    assert read_score(pair) is None


# ------------------------------------------------------------------------------------------ another release's


def first_format(folder: Path, step: int) -> Path:
    """A checkpoint as the first release wrote it: numbered optimiser entries, a generator's state, no digest."""
    tensors = {
        "model.w": torch.ones(3), "optimizer.0.exp_avg": torch.ones(3), "optimizer.0.step": torch.tensor(float(step)),
        "random.torch": torch.get_rng_state(),
    }  # fmt: skip
    state = {"format": 1, "step": step, "groups": [{"lr": 0.1, "params": [0]}], "config": {"seed": 0}}
    path = folder / f"checkpoint-{step:08d}.safetensors"
    path.write_bytes(save(tensors, metadata={"state": json.dumps(state)}))
    return path


def test_the_first_format_is_refused_by_version(tmp_path: Path) -> None:
    """It names both formats and what to do, and is neither passed over as damaged nor half-read."""
    first_format(tmp_path, 2)
    path = first_format(tmp_path, 9)
    for read in (lambda: read_checkpoint(path), lambda: load_newest(tmp_path)):
        with pytest.raises(UsageError, match=r"checkpoint-00000009.*format 1 .*another release.*reads 2.*new --out"):
            read()


def test_a_later_format_is_refused_by_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for what a later release will write; its digest is right."""
    monkeypatch.setattr("prostate_mim.engine.checkpoint.FORMAT", 3)
    write_checkpoint(tmp_path, made(5))
    monkeypatch.undo()
    with pytest.raises(UsageError, match="format 3 is of another release"):
        load_newest(tmp_path)


def test_other_safetensors_are_no_checkpoints(tmp_path: Path) -> None:
    """Weights under a checkpoint's name are damaged, not a run of 0 steps."""
    for step, metadata in enumerate([None, {"state": "[]"}, {"state": "{}"}, {"state": '{"format": 2, "step": 1}'}]):
        path = tmp_path / f"checkpoint-{step:08d}.safetensors"
        path.write_bytes(save({"w": torch.ones(2)}, metadata=metadata))
        with pytest.raises(IntegrityError, match="damaged"):
            read_checkpoint(path)
