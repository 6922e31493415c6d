"""Many processes at once without a lock, and processes that are killed while they fetch: the cache stays good."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from prostate_mim.errors import ProstateMimError
from prostate_mim.files import sha256_of
from prostate_mim.hub import cache

WEIGHTS = "model.safetensors"
PROCESSES, ROUNDS, KILLS = 8, 25, 40


@pytest.fixture
def racing(hub: Any, environment_of: Any, tmp_path: Path) -> Any:
    """Run racing.py with the hub: (words) -> what it wrote."""

    def run(action: str, *words: str) -> Any:
        out = tmp_path / f"{action}.json"
        script = str(Path(__file__).with_name("racing.py"))
        done = subprocess.run(
            [sys.executable, script, action, str(out), *words], env=environment_of(tmp_path / "home", hub.url),
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(out.read_text())

    return run


def test_eight_processes_and_no_lock(hub: Any, releases: Path, racing: Any, tmp_path: Path) -> None:
    """25 rounds: every process gets the verified file every time, and the cache holds nothing else."""
    names = [f"org/race-{number}" for number in range(ROUNDS)]
    for name in names:
        hub.commit(name, releases / "encoder16")
    found = racing("race", str(PROCESSES), *(f"{name}@main" for name in names))
    good = sha256_of(releases / "encoder16" / WEIGHTS)
    assert len(found) == PROCESSES * ROUNDS
    assert [one for one in found if one != good] == []
    lying = list((tmp_path / "home/hub").glob(f"models--org--race-*/snapshots/*/{WEIGHTS}"))
    assert len(lying) == ROUNDS and {sha256_of(path) for path in lying} == {good}


@pytest.mark.parametrize("file", ["config.json", WEIGHTS, "SHA256SUMS"])
def test_a_link_that_is_made_anew_is_waited_for(releases: Path, tmp_path: Path, file: str) -> None:
    """Another process removes it first; what does not come back is missed in the end."""
    folder = tmp_path / "snapshot"
    shutil.copytree(releases / "encoder16", folder)
    (folder / file).rename(tmp_path / file)
    back = threading.Timer(0.1, (tmp_path / file).rename, [folder / file])
    back.start()
    cache._check("org/model@main", folder)
    back.join()
    (folder / file).unlink()
    with pytest.raises(ProstateMimError, match=f"{file}"):
        cache._check("org/model@main", folder)


def test_forty_kills(hub: Any, releases: Path, racing: Any) -> None:
    """Kill -9 while it downloads, 40 times: the next call succeeds, and what the dead left is removed."""
    hub.commit("org/killed", releases / "encoder16")
    hub.proxy.faults["org/killed"] = hub.faults.Fault("slow")
    found = racing("kill", str(KILLS), "org/killed@main")
    assert found["died"] >= KILLS - 2, "most died while they worked"
    assert found["left"] > 5, "and many in the middle of the file"
    assert found["next"] == sha256_of(releases / "encoder16" / WEIGHTS)
    assert found["left_then"] == 0
