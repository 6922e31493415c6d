"""run.json: closed, plain, without paths, and true over kills, resumes and damage."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prostate_mim._version import __version__
from prostate_mim.engine import records
from prostate_mim.engine.records import begin_record, command_line, finish_record, read_record, without_paths
from prostate_mim.errors import UsageError

GIVEN = {"task": "pretrain", "ranks": 2, "seed": 7, "data_fingerprint": "ab" * 32, "counts": {"studies": 12}}
WEIGHTS = "0123456789abcdef" * 4


def test_a_run_from_beginning_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key, the values by hand, and nothing of where the data lies."""
    data = tmp_path / "PAT-0042" / "manifest.csv"
    arguments = ["/opt/bin/prostate-mim", "pretrain", str(data), "--steps", "20", f"--out={tmp_path}", "--lr", "3e-3"]
    monkeypatch.setattr(sys, "argv", arguments)
    begin_record(tmp_path, GIVEN)
    record = read_record(tmp_path)
    assert record is not None
    assert set(record) == set(records.KEYS)
    assert {key: record[key] for key in GIVEN} == GIVEN
    assert record["command"] == ["prostate-mim", "pretrain", "<path>", "--steps", "20", "--out=<path>", "--lr", "3e-3"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record["started"])
    assert (record["resumed"], record["finished"], record["weights_sha256"]) == ([], None, None)
    assert record["code"]["version"] == __version__
    assert record["packages"]["torch"].startswith("2.")
    assert record["hardware"]["cores"] >= 1
    assert record["hardware"]["memory_bytes"] > 2**28
    finish_record(tmp_path, step=20, weights_sha256=WEIGHTS)
    done = read_record(tmp_path)
    assert done is not None
    assert (done["weights_sha256"], done["finished_step"]) == (WEIGHTS, 20)
    assert {**done, "finished": None, "finished_step": None, "weights_sha256": None} == record
    text = (tmp_path / "run.json").read_text()
    for secret in ("PAT-0042", str(tmp_path), f'"{socket.gethostname()}"'):
        assert secret not in text


def test_a_resume_adds(tmp_path: Path) -> None:
    """What the first process wrote stays; the second adds itself and what has changed; the end is open again."""
    begin_record(tmp_path, GIVEN)
    first = read_record(tmp_path)
    finish_record(tmp_path, weights_sha256=WEIGHTS)
    begin_record(tmp_path, {**GIVEN, "step": 10})
    begin_record(tmp_path, {**GIVEN, "ranks": 4, "step": 15})
    record = read_record(tmp_path)
    assert first is not None
    assert record is not None
    assert [entry["step"] for entry in record["resumed"]] == [10, 15]
    assert set(record["resumed"][0]) == {"step", "time"}
    assert record["resumed"][1]["changed"] == {"ranks": 4}
    assert {**record, "resumed": []} == first


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"format": 1}', b'{"resumed": []}'])
def test_damage_is_never_fatal(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: bytes) -> None:
    """Set aside, said aloud, and a new record begins; at the end of a run too."""
    begin_record(tmp_path, GIVEN)
    assert capsys.readouterr().err == ""  # the control: an undamaged one is no reason to speak
    (tmp_path / "run.json").write_bytes(damage)
    begin_record(tmp_path, {**GIVEN, "step": 5})
    assert "run.json is damaged" in capsys.readouterr().err
    assert (tmp_path / "run.json.damaged").read_bytes() == damage
    record = read_record(tmp_path)
    assert record is not None
    assert [entry["step"] for entry in record["resumed"]] == [5]
    (tmp_path / "run.json").write_bytes(damage)
    finish_record(tmp_path, weights_sha256=WEIGHTS)
    record = read_record(tmp_path)
    assert record is not None
    assert (record["weights_sha256"], record["started"]) == (WEIGHTS, None)


def test_the_keys_are_closed(tmp_path: Path) -> None:
    """An unknown key is answered with the nearest, a value that is no JSON is refused; no file is left."""
    with pytest.raises(UsageError, match="did you mean ranks"):
        begin_record(tmp_path, {"rank": 2})
    with pytest.raises(UsageError, match="did you mean weights_sha256"):
        finish_record(tmp_path, weights="x")
    for value in (float("nan"), tmp_path, {1, 2}):
        with pytest.raises(UsageError, match="not plain JSON"):
            begin_record(tmp_path, {"counts": {"studies": value}})
    assert list(tmp_path.iterdir()) == []


PATHS = (
    "/a",
    "a/b",
    "a\\b",
    "C:\\x",
    "m.csv",
    "x.nii.gz",
    "~",
    "~/x",
    ".",
    "..",
    "run.toml",
    "w.safetensors",
    "a b.csv",
)
WORDS = ("pretrain", "--steps", "20", "0.5", "1e-3", "3.5e-4", "--json", "resenc-s", "resenc-s.mim-t2w", "-1.5", "")


@pytest.mark.parametrize("text", PATHS)
def test_paths_are_hidden(text: str) -> None:
    """As an argument and as an option's value."""
    assert without_paths(text) == "<path>"
    assert without_paths(f"--out={text}") == "--out=<path>"


@pytest.mark.parametrize("text", WORDS)
def test_words_and_numbers_stay(text: str) -> None:
    """The control of the law above and below."""
    assert without_paths(text) == text
    assert command_line(["prostate-mim", text, f"--x={text}"]) == ["prostate-mim", text, f"--x={text}"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="/\\\0"), min_size=1), min_size=2, max_size=4))
def test_no_path_survives(parts: list[str]) -> None:
    """Whatever the folders are called: nothing with a separator is left in a command."""
    for argument in ("/".join(parts), "--manifest=" + "/".join(parts)):
        shown = command_line(["prostate-mim", argument])[1]
        assert "/" not in shown


def test_a_bare_name_of_a_folder_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--out runs`` beside a folder called runs; the same word without the folder stays."""
    monkeypatch.chdir(tmp_path)
    assert command_line(["prostate-mim", "--out", "runs"]) == ["prostate-mim", "--out", "runs"]
    (tmp_path / "runs").mkdir()
    assert command_line(["prostate-mim", "--out", "runs"]) == ["prostate-mim", "--out", "<path>"]
    assert command_line([]) == []


def test_the_source_fingerprint(tmp_path: Path) -> None:
    """The same for the same sources; another for another text, name, or file; nothing but .py counts."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.py").write_text("x = 1\n")
    before = records.source_fingerprint(tmp_path)
    (tmp_path / "a" / "notes.txt").write_text("n")
    assert records.source_fingerprint(tmp_path) == before
    seen = {before}
    (tmp_path / "a" / "one.py").write_text("x = 2\n")
    seen.add(records.source_fingerprint(tmp_path))
    (tmp_path / "a" / "one.py").rename(tmp_path / "a" / "two.py")
    seen.add(records.source_fingerprint(tmp_path))
    (tmp_path / "three.py").write_text("")
    seen.add(records.source_fingerprint(tmp_path))
    assert len(seen) == 4
    assert re.fullmatch("[0-9a-f]{64}", records.source_fingerprint())


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_commit_and_dirty_of_a_real_checkout(tmp_path: Path) -> None:
    """A checkout has a commit, and is dirty after a change; an installation inside another repository has neither."""
    package = tmp_path / "checkout" / "package"
    package.mkdir(parents=True)
    (package / "one.py").write_text("x = 1\n")

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        command = ["git", "-C", str(package.parent), *who, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    clean = records._code(package)
    assert (clean["commit"], clean["dirty"]) == (git("rev-parse", "HEAD"), False)
    (package / "two.py").write_text("")
    assert records._code(package)["dirty"] is True
    installed = package.parent / "site" / "package"
    installed.mkdir(parents=True)
    assert "commit" not in records._code(installed)


def test_no_process_of_a_killed_run_tears_the_record(tmp_path: Path) -> None:
    """Kill -9 while the record is written again and again: it is always whole."""
    script = (
        "import sys; from pathlib import Path\n"
        "from prostate_mim.engine.records import _write, begin_record, read_record\n"
        "run = Path(sys.argv[1]); begin_record(run, {}); record = read_record(run); sys.stdout.write('go\\n')\n"
        "sys.stdout.flush()\n"
        "while True: _write(run, record)"
    )
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        process.kill()
        process.wait()
        process.stdout.close()
        assert read_record(tmp_path) is not None
    assert not (tmp_path / "run.json.damaged").exists()
    assert os.listdir(tmp_path)
