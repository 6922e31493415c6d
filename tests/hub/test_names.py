"""Names for from_pretrained that want out of the cache: nothing is read or written beside it (T2.8)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from canaries import Canary
from hostile_names import DEVICES, HOSTILE, SHAPES, UPWARD

from prostate_mim.errors import NotFoundError
from prostate_mim.hub import resolve

SECRET = "not of the cache"  # noqa: S105 - a word to look for
# As names on a hub, with and without revisions that are hostile themselves. A NUL and half a pair reach no process.
NAMES = sorted(
    name
    for name in {
        *HOSTILE,
        *(f"local-dir:{name}" for name in (*UPWARD, *DEVICES, *SHAPES)),
        *(f"org/good@{name}" for name in (*UPWARD, *DEVICES, *SHAPES)),
        *(f"{name}@main" for name in HOSTILE),
    }
    if name and "\0" not in name and "\ud800" not in name
)


def tree(root: Path) -> dict[str, int]:
    """Every file below a folder and its size."""
    return {str(path.relative_to(root)): path.lstat().st_size for path in root.rglob("*") if not path.is_dir()}


def test_hostile_names_stay_inside(hub: Any, releases: Path, start_client: Any, tmp_path: Path) -> None:
    """Each ends with one of our errors; beside the cache nothing appears, and nothing of a neighbour is a model."""
    assert len(NAMES) > 300
    home = tmp_path / "jail" / "home"
    home.parent.mkdir()
    (tmp_path / "secret.txt").write_text(SECRET)
    (tmp_path / "jail" / "secret.txt").write_text(SECRET)
    client = start_client(home, hub.url, [("open", name) for name in NAMES], folder=home.parent)
    answers = client.results(timeout=240)
    wrong = {name: answer for name, answer in zip(NAMES, answers, strict=True) if "error" not in answer}
    assert wrong == {}
    assert not [answer for answer in answers if SECRET in answer["message"]]
    beside = {name for name in tree(tmp_path) if not name.startswith("jail/home/")}
    assert beside == {"secret.txt", "jail/secret.txt"}
    models = {path.name for path in (home / "hub").glob("models--*")}
    assert not [name for name in models if ".." in name or name.count("--") > 2], models


@pytest.mark.parametrize("name", ["weights.pt", "pytorch_model.bin", "model.ckpt"])
def test_a_pickle_offered_by_path_is_no_model(tmp_path: Path, name: str) -> None:
    """A file of torch.save is refused by its path, before anything of it is read."""
    canary = tmp_path / "canary"
    torch.save({"weights": Canary(canary)}, tmp_path / name)
    for asked in (tmp_path / name, f"local-dir:{tmp_path / name}"):
        with pytest.raises(NotFoundError, match="is a file"):
            resolve(asked)
    assert not canary.exists()
    torch.load(tmp_path / name, weights_only=False)
    assert canary.exists(), "the control: the canary is alive"
