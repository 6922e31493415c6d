"""Weights files of others: tensors and nothing else, the right file, and no code run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from prostate_mim.errors import IntegrityError, NotFoundError, UsageError
from prostate_mim.files import sha256_of
from prostate_mim.initialisations.tensor_files import read_tensor_file

WEIGHTS = {"conv1.weight": torch.arange(6.0).reshape(1, 1, 2, 3), "bn1.num_batches_tracked": torch.tensor(4)}


def written(folder: Path, content: Any, name: str = "weights.pth", *, old: bool = False) -> Path:
    torch.save(content, folder / name, _use_new_zipfile_serialization=not old)
    return folder / name


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("old", [False, True])
def test_every_form_gives_the_same_tensors(tmp_path: Path, wrapper: str | None, prefix: str, old: bool) -> None:
    """Zip or old format, wrapped or not, with or without DataParallel's prefix."""
    content: Any = {prefix + key: value for key, value in WEIGHTS.items()}
    if wrapper:
        content = {wrapper: content, "epoch": 3}
    file = read_tensor_file(written(tmp_path, content, old=old))
    assert list(file.tensors) == list(WEIGHTS)
    assert all(torch.equal(file.tensors[key], WEIGHTS[key]) for key in WEIGHTS)
    assert file.sha256 == sha256_of(tmp_path / "weights.pth")


def test_safetensors(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "weights.safetensors")
    assert set(read_tensor_file(tmp_path / "weights.safetensors").tensors) == set(WEIGHTS)


def test_a_prefix_on_some_keys_is_a_name(tmp_path: Path) -> None:
    """Only DataParallel's prefix, which is before every key, is taken off."""
    path = written(tmp_path, {"module.a": torch.zeros(1), "b": torch.zeros(1)})
    assert list(read_tensor_file(path).tensors) == ["module.a", "b"]


class Hostile:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("old", [False, True])
def test_code_in_a_file_is_not_run(tmp_path: Path, old: bool) -> None:
    """A pickle that would make a folder is refused, and the folder is not there."""
    path = written(tmp_path, {"weight": Hostile(tmp_path / "made")}, old=old)
    with pytest.raises(IntegrityError, match="holds code"):
        read_tensor_file(path)
    assert not (tmp_path / "made").exists()
    pickle.loads(pickle.dumps(Hostile(tmp_path / "made")))  # noqa: S301 - negative control: it would have been made
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([torch.zeros(1)], "holds list"), ({}, "holds dict"), (torch.zeros(2), "holds Tensor"),
        ({"a": 3}, "'a' is int"), ({3: torch.zeros(1)}, "'3'"), ({"a": {"b": torch.zeros(1)}}, "'a' is dict"),
        ({"a": torch.tensor([float("nan")])}, "not finite"),
    ],
)  # fmt: skip
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: Any, says: str) -> None:
    with pytest.raises(IntegrityError, match=says):
        read_tensor_file(written(tmp_path, content))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a weights file", b"\x80\x02garbage", b"PK\x03\x04"])
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(IntegrityError, match=name) as caught:
        read_tensor_file(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_cut_files_are_refused(tmp_path: Path, share: float) -> None:
    """At every length."""
    whole = written(tmp_path, WEIGHTS).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(IntegrityError, match=r"cut\.pth"):
        read_tensor_file(tmp_path / "cut.pth")


def test_the_hash_is_compared_first(tmp_path: Path) -> None:
    """Another file than expected is refused before it is read; the right one passes, in capitals too."""
    path = written(tmp_path, WEIGHTS)
    right = sha256_of(path)
    assert read_tensor_file(path, right.upper()).sha256 == right
    path.write_bytes(b"no pickle")
    with pytest.raises(IntegrityError, match="expected " + right[:16]):
        read_tensor_file(path, right)
    with pytest.raises(UsageError, match="64 hex digits"):
        read_tensor_file(path, right[:10])


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        read_tensor_file(tmp_path / "weights.pth")
    with pytest.raises(UsageError, match="not a file"):
        read_tensor_file(tmp_path)
