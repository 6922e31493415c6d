"""The oldest client that setup.cfg allows, and MONAI's own loader, against our hub."""

from __future__ import annotations

import configparser
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

MONAI = """
import sys, torch
from monai.bundle import load
from monai.networks.nets import Regressor
net = Regressor((1, 8, 8), (1,), (2, 2), (2, 2))
where = {"source": "huggingface_hub", "repo": "alice/bundle", "bundle_dir": sys.argv[1]}
loaded = load("bundle", model=net, progress=False, **where)
print(sum(float(value.sum()) for value in loaded.state_dict().values()))
"""


@pytest.fixture
def oldest() -> Path:
    """Folder of the oldest client; its version is that of setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    lines = parser["options"]["install_requires"].splitlines()
    (version,) = [found[1] for line in lines if (found := re.match(r"huggingface-hub>=([\d.]+)", line))]
    (folder, *_) = [*ROOT.glob(f".clients/huggingface_hub-{version}*"), None]
    if folder is None:
        pytest.skip(f"huggingface_hub {version} is not installed in .clients/; .ci/run does that")
    return folder


def test_the_oldest_client(
    place: Any, client: Callable[..., list[dict[str, Any]]], oldest: Path, tmp_path: Path
) -> None:
    """Makes, uploads (a large file too), tags, lists and reads back."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(os.urandom(2_000_000))
    own = {"token": place.writer, "repo_id": "alice/m"}
    answers = client([
        {"call": "create_repo", **own, "private": True},
        {"call": "create_repo", **own, "exist_ok": True},
        {"call": "upload_folder", **own, "folder_path": str(folder)},
        {"call": "create_tag", **own, "tag": "v1"},
        {"call": "model_info", **own},
        {"call": "snapshot", **own, "revision": "v1"},
        {"call": "sha256", "repo_id": "alice/m", "filename": "config.json", "token": place.reader},
        {"call": "sha256", **own, "filename": "no.json"},
    ], oldest)  # fmt: skip
    expected = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert answers[5].get("value") == expected, answers
    assert answers[4]["value"]["sha"] == answers[2]["value"]["oid"]
    assert answers[6]["error"] == "RepositoryNotFoundError" and "EntryNotFoundError" in answers[7]["error"]


def test_monai_loads_from_it(place: Any, tmp_path: Path) -> None:
    """``monai.bundle.load(source="huggingface_hub")``: the weights that were put there."""
    torch = pytest.importorskip("torch")
    nets = pytest.importorskip("monai.networks.nets")
    net = nets.Regressor((1, 8, 8), (1,), (2, 2), (2, 2))
    (tmp_path / "models").mkdir()
    torch.save(net.state_dict(), tmp_path / "models/model.pt")
    place.shelf.create("alice/bundle")
    weights = (tmp_path / "models/model.pt").read_bytes()
    made = place.shelf.commit("alice/bundle", "main", {"models/model.pt": weights}, title="", author="alice")
    place.shelf.name_commit("alice/bundle", "tags", "0.1.0", made.sha)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    own = {"HF_ENDPOINT": place.hub.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", MONAI, str(tmp_path / "bundles")], env=kept | own, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    expected = sum(float(value.sum()) for value in net.state_dict().values())
    assert float(done.stdout.split()[-1]) == pytest.approx(expected, rel=1e-6)
