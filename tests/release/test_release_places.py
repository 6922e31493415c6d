"""A fresh environment, for real: made, filled from a wheel without an index, tried; and everything that goes wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import release_places
from release_places import (
    Place,
    environment,
    install,
    interpreters,
    new_place,
    same_numbers,
    tried,
    version_of,
    wanted,
)  # fmt: skip
from release_requirements import Plan, Refused
from release_rows import FAILED, NOT_RUN, OK

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
TRIAL = 'import json, tiny; print(json.dumps({"version": tiny.__version__, "vector": [1.0, 2.0]}))'


def _script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_interpreters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This one is found; a shim that does not run, and one that is another version than its name, are not taken."""
    _script(tmp_path / "python3.12", "echo 'not installed' >&2; exit 127")
    _script(tmp_path / "python3.13", "echo 3.9")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "nowhere" / "here"))
    found = interpreters([])
    assert found[HERE] == Path(sys.executable)
    for version in {"3.11", "3.12", "3.13"} - {HERE}:
        assert "is not on this machine" in str(found[version])
    asked = _script(tmp_path / "mine", "echo 3.13")
    assert interpreters([asked])["3.13"] == (Path(sys.executable) if HERE == "3.13" else asked)
    assert version_of(tmp_path / "nothing") is None


@pytest.fixture
def offline(tiny_wheel: Path) -> tuple[str, ...]:
    return "--no-index", "--find-links", str(tiny_wheel.parent)


def test_one_environment(tmp_path: Path, project: Path, tiny_wheel: Path, offline: tuple[str, ...]) -> None:
    """Made, installed and tried; then, in the same one, everything that a trial must notice."""
    row, place = environment(
        Path(sys.executable),
        tiny_wheel,
        project,
        tmp_path / "env",
        "newest",
        smoke=TRIAL,
        command=None,
        options=offline,
    )
    assert row.name == f"install, Python {HERE}, newest"
    assert (row.status, row.detail) == (OK, "1 packages") and place is not None
    assert place.said == {"version": "1.2.3", "vector": [1.0, 2.0]}
    work = tmp_path / "env" / "trial"
    assert "nothing_like_it" in tried(place, None, "import nothing_like_it", work)
    assert "AssertionError" in tried(place, None, "assert 1 > 2", work)
    assert tried(place, "pip", TRIAL, work) == ""  # a command that is there
    _script(place.folder / "bin" / "broken", "echo it is broken >&2; exit 1")
    assert tried(place, "broken", TRIAL, work) == "broken --help: it is broken"
    _script(place.folder / "bin" / "other", "echo help of something else")
    assert tried(place, "other", TRIAL, work).startswith("other --help: ")
    _needs(place.folder, "absent")
    assert "requires absent" in tried(place, None, TRIAL, work)


def _needs(folder: Path, name: str) -> None:
    """Let the installed package want another one."""
    (metadata,) = folder.glob("lib/*/site-packages/tiny-1.2.3.dist-info/METADATA")
    metadata.write_text(metadata.read_text() + f"Requires-Dist: {name}\n")


def test_what_cannot_be_installed(tmp_path: Path, project: Path, tiny_wheel: Path, offline: tuple[str, ...]) -> None:
    """A lowest version that is not there fails and is named; so does one that setup.cfg does not name."""
    place = new_place(Path(sys.executable), tmp_path / "env")
    assert not isinstance(place, str)
    for line, told in (("tiny>=1.2", "tiny==1.2"), ("tiny<2", "names no lowest version")):
        (project / "setup.cfg").write_text(f"[options]\ninstall_requires =\n    {line}\n")
        status, reason = install(place, tiny_wheel, project, "lowest", list(offline))
        assert status == FAILED and told in reason and "\n" not in reason
    (project / "setup.cfg").write_text("[options]\ninstall_requires =\n    tiny>=1.2.3\n")
    assert install(place, tiny_wheel, project, "lowest", list(offline)) == (OK, "1 packages")


def test_torch_is_the_pinned_one(
    tmp_path: Path, project: Path, tiny_wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the lowest torch is not to be had, or is a CUDA build, the pinned one is taken, and that is said."""
    (project / "setup.cfg").write_text("[options]\ninstall_requires =\n    torch>=2.11\n    a>=1\n")
    (project / "constraints.txt").write_text("torch==2.13.0\n")
    place = Place(Path(sys.executable), tmp_path)
    instead = "torch==2.13.0 in place of torch==2.11, which"
    answers = (
        (Plan({"torch": "2.11"}, ()), "torch==2.11", "with torch==2.11"),
        (Plan({"torch": "2.11"}, ("nvidia-x",)), "torch==2.13.0", f"{instead} is a CUDA build here"),
        (Refused("no", False), "torch==2.13.0", f"{instead} is not to be had here"),
    )
    for answer, torch, remark in answers:
        monkeypatch.setattr(release_places, "plan", lambda *_, answer=answer: answer)
        assert wanted(place, tiny_wheel, project, "lowest") == ([str(tiny_wheel), torch, "a==1"], remark)
    assert wanted(place, tiny_wheel, project, "newest") == ([str(tiny_wheel), "torch==2.13.0"], "")
    monkeypatch.setattr(release_places, "plan", lambda *_: Plan({}, ("nvidia-a", "nvidia-b")))
    status, told = install(place, tiny_wheel, project, "newest", [])
    assert status == NOT_RUN and "2 packages of CUDA" in told
    monkeypatch.setattr(release_places, "plan", lambda *_: Refused("ERROR: No matching distribution", True))
    assert install(place, tiny_wheel, project, "newest", [])[0] == NOT_RUN


def test_same_numbers() -> None:
    assert same_numbers([]).status == same_numbers([{"vector": [1.0]}]).status == NOT_RUN
    assert same_numbers([{"vector": [1.0, 2.0]}, {"vector": [1.0, 2.00005]}]).status == OK
    assert same_numbers([{"vector": [1.0, 2.0]}, {"vector": [1.0, 2.001]}]).status == FAILED
