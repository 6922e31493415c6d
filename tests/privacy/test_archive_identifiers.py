"""No identifier leaves the manifest over an archive either: what Ray's processes write, log and say."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from planted import HEADERS, PATHS, STUDY, plant
from running import Command, Wrote, found
from searching import hits

from prostate_mim.classifier import LesionClassifier
from prostate_mim.encoder import PreMIM

EXCEPTED = {"out/part-*.parquet": [STUDY]}  # the key of the caller's own table


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Ray's own files go there: a short path, for its sockets' names are paths too."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        yield Path(folder)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_an_archive(tmp_path: Path, small_encoder: Path, ray_folder: Path) -> None:
    """On a real cluster, with rows that fail; Ray's own logs are searched too."""
    torch.manual_seed(0)
    model = LesionClassifier(PreMIM.from_pretrained(small_encoder)).save_pretrained(tmp_path / "model")
    planted = plant(tmp_path / "planted")
    work = tmp_path / "work"
    work.mkdir()
    command = [
        *(sys.executable, "-m", "prostate_mim", "predict", "--manifest", planted.bad, "--model", model),
        *("--engine", "ray", "--workers", "1", "--shard-rows", "10", "--out", work / "out"),
    ]
    home = {"HOME": str(work / "home"), "RAY_TMPDIR": str(ray_folder), "TMPDIR": str(work)}
    wrote = Wrote(0, work / "said.stdout", work / "said.stderr", [])
    with wrote.stdout.open("wb") as stdout, wrote.stderr.open("wb") as stderr:
        done = subprocess.run(command, env={**os.environ, **home}, stdout=stdout, stderr=stderr, check=False)
    assert done.returncode == 9, wrote.stderr.read_text()[-2000:]  # some rows failed
    own = {wrote.stdout, wrote.stderr}
    wrote.files += [path for place in (work, ray_folder) for path in place.rglob("*") if path.is_file()]
    wrote.files = [path for path in wrote.files if path not in own]
    assert sum(path.suffix == ".parquet" for path in wrote.files) == 2
    assert any("session_" in str(path) for path in wrote.files), "Ray's logs are elsewhere"
    assert found(wrote, Command("archive", "", excepted=EXCEPTED), work) == []
    parts = [hit for path in work.glob("out/*.parquet") for hit in hits(path, [STUDY, *HEADERS, *PATHS])]
    assert parts  # the control: the search does see into them
