"""pull, hub token, hub serve, hub push: processes as a user starts them, and the model that travels."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prostate_mim.hub import BUNDLED_DEFAULT, read_release, resolve
from prostate_mim.hub.release import verify_sums

PROGRAM = "from prostate_mim.cli import main; main()"


def command(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``prostate-mim`` as a process, offline but for loopback."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, words)], env={**kept, "NO_PROXY": "127.0.0.1", **environment},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def _in_the_foreground() -> None:
    """Shells let what they start in the background, these tests perhaps, ignore Ctrl-C; children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Served:
    """``hub serve`` as a process."""

    def __init__(self, shelf: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", PROGRAM, "hub", "serve", str(shelf), "--port", "0", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_in_the_foreground,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        self.url = next((word for word in self.line.split() if word.startswith("http")), "")


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """With the bundled model, as ``pull`` puts it there."""
    done = command("pull", BUNDLED_DEFAULT, "--to", tmp_path / "shelf", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["models"]
    assert found["name"] == f"prostate-mim/{BUNDLED_DEFAULT}" and not found["was_there"]
    return tmp_path / "shelf"


@pytest.fixture
def served(shelf: Path) -> Iterator[Served]:
    """For writing, by alice."""
    token = command("hub", "token", shelf, "alice", "--write", "--json")
    made = Served(shelf, "--write")
    made.token = json.loads(token.stdout)["token"]  # type: ignore[attr-defined]
    yield made
    made.process.kill()


def test_a_model_travels(shelf: Path, served: Any, tmp_path: Path) -> None:
    """Pulled, served, pushed under a tag, loaded from there, pulled elsewhere: the same bytes, verified each time."""
    hub = {"HF_ENDPOINT": served.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": served.token}
    pushed = command("hub", "push", BUNDLED_DEFAULT, "alice/enc", "--tag", "v1", "--json", **hub)
    assert pushed.returncode == 0, pushed.stderr
    name = json.loads(pushed.stdout)["name"]
    assert command("verify", name, **hub).returncode == 0
    there = command("pull", "alice/enc@v1", "--to", tmp_path / "other", **hub)
    assert there.returncode == 0, there.stderr
    assert verify_sums(tmp_path / "other/alice/enc") == verify_sums(resolve(BUNDLED_DEFAULT))
    again = command("pull", BUNDLED_DEFAULT, "--to", shelf)
    assert "was there" in again.stdout
    (shelf / "prostate-mim" / BUNDLED_DEFAULT / "README.md").write_text("edited")
    damaged = command("pull", BUNDLED_DEFAULT, "--to", shelf)
    assert damaged.returncode == 5 and "README.md" in damaged.stderr
    wrong = command("hub", "push", BUNDLED_DEFAULT, "alice/enc", **{**hub, "HF_TOKEN": "hf_wrong"})
    assert wrong.returncode == 2 and "HF_TOKEN" in wrong.stderr and wrong.stderr.count("\n") == 1
    twice = command("hub", "push", BUNDLED_DEFAULT, "alice/enc", "--tag", "v1", **hub)
    assert twice.returncode == 2 and "already" in twice.stderr


def test_ctrl_c_ends_the_server(served: Any) -> None:
    """130, and no traceback."""
    served.process.send_signal(signal.SIGINT)
    _, complaint = served.process.communicate(timeout=20)
    assert served.process.returncode == 130
    assert "Traceback" not in complaint


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    """A typo, nothing asked for, a folder that is not there, no writer, a hub that is not there."""
    (tmp_path / "empty").mkdir()
    for words, code, told in (
        (("pull", "resenc-s.mim-t2v", "--to", tmp_path / "x"), 3, "did you mean"),
        (("pull", "--to", tmp_path / "x"), 2, "--all"),
        (("hub", "serve", tmp_path / "no"), 3, "pull"),
        (("hub", "serve", tmp_path / "empty", "--write"), 2, "hub token"),
        (("hub", "token", tmp_path / "empty", "../x"), 2, "org/name"),
        (("hub", "push", BUNDLED_DEFAULT, "no-name"), 2, "org/name"),
    ):
        done = command(*words)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
        assert told in done.stderr
    none = command(
        "hub",
        "push",
        BUNDLED_DEFAULT,
        "a/b",
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HOME=str(tmp_path),
        HF_TOKEN="hf_x",  # noqa: S106
    )
    assert none.returncode == 4 and "HF_ENDPOINT" in none.stderr
    assert not (tmp_path / "x").exists()


def test_a_pulled_folder_loads_without_any_hub(shelf: Path) -> None:
    """By its path."""
    release = read_release(resolve(shelf / "prostate-mim" / BUNDLED_DEFAULT))
    assert release.revision == read_release(resolve(BUNDLED_DEFAULT)).revision
