"""A wheel holds the exported package and nothing else; every way to break that is noticed."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
import release_contents
from release_contents import sdist_problems, wheel_problems

WEIGHTS = ("tiny/weights/w.bin",)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "tiny" / "weights").mkdir(parents=True)
    (folder / "tiny" / "__init__.py").write_text("A = 1\n")
    (folder / "tiny" / "weights" / "w.bin").write_bytes(b"weights")
    return folder


def wheel(tree: Path, *, more: dict[str, bytes] | None = None, without: str = "", edit: str = "") -> Path:
    """A wheel of the tree, with a file too many, without one, or with one that was edited after RECORD was written."""
    info = "tiny-1.0.dist-info/"
    found = {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    contents = {**found, info + "METADATA": b"Name: tiny\n", info + "WHEEL": b"Wheel-Version: 1.0\n", **(more or {})}
    contents.pop(without, None)
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in contents.items()]
    contents[info + "RECORD"] = "\n".join([*lines, f"{info}RECORD,,"]).encode()
    if edit:
        contents[edit] += b"!"
    path = tree.parent / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def test_a_good_wheel(tree: Path) -> None:
    assert wheel_problems(wheel(tree), tree, "tiny", WEIGHTS) == []


@pytest.mark.parametrize("name", ["tests/test_a.py", "tiny/left.py", "notes.txt", "tiny/../etc.txt"])
def test_a_file_too_many(tree: Path, name: str) -> None:
    found = wheel_problems(wheel(tree, more={name: b"x"}), tree, "tiny", WEIGHTS)
    assert [line.partition(": ")[2] for line in found] == [f"{name} does not belong in it"]


def test_metadata_too_many(tree: Path) -> None:
    found = wheel_problems(wheel(tree, more={"tiny-1.0.dist-info/secret.txt": b"x"}), tree, "tiny")
    assert [line.partition(": ")[2] for line in found] == ["metadata secret.txt is not known here"]


def test_a_file_too_few(tree: Path) -> None:
    """A module that is not packed; weights that are needed, whether or not they were exported."""
    found = wheel_problems(wheel(tree, without="tiny/__init__.py"), tree, "tiny", WEIGHTS)
    assert [line.partition(": ")[2] for line in found] == ["tiny/__init__.py is missing"]
    (tree / WEIGHTS[0]).unlink()
    found = wheel_problems(wheel(tree), tree, "tiny", WEIGHTS)
    assert [line.partition(": ")[2] for line in found] == [f"{WEIGHTS[0]} is missing"]


def test_an_edited_file(tree: Path) -> None:
    """Told twice: it is not what was exported, and RECORD says so too."""
    found = [line.partition(": ")[2] for line in wheel_problems(wheel(tree, edit=WEIGHTS[0]), tree, "tiny")]
    assert found == [f"{WEIGHTS[0]} is not the file that was exported", f"RECORD has another digest of {WEIGHTS[0]}"]


def test_data_is_refused(tree: Path) -> None:
    """A volume that was committed into the package by mistake."""
    (tree / "tiny" / "study.nii.gz").write_bytes(b"voxels")
    found = wheel_problems(wheel(tree), tree, "tiny")
    assert [line.partition(": ")[2] for line in found] == ["tiny/study.nii.gz looks like data"]


def test_too_long(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release_contents, "MOST_BYTES", 100)
    (found,) = wheel_problems(wheel(tree), tree, "tiny")
    assert found.endswith("that an index takes")


def sdist(tree: Path, more: dict[str, bytes] | None = None, link: str = "") -> Path:
    found = {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    path = tree.parent / "tiny-1.0.tar.gz"
    own = {"PKG-INFO": b"", "setup.cfg": b"", "tiny.egg-info/SOURCES.txt": b"", "tests/test_readme.py": b""}
    with tarfile.open(path, "w:gz") as archive:
        for name, data in {**found, **own, **(more or {})}.items():
            info = tarfile.TarInfo(f"tiny-1.0/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo(f"tiny-1.0/{link}")
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
    return path


def test_sdist(tree: Path) -> None:
    assert sdist_problems(sdist(tree), tree, "tiny") == []
    for name in ("tests/data/study.mha", "shared/data.csv", "tests/release/check.py", "other.egg-info/PKG-INFO"):
        found = sdist_problems(sdist(tree, {name: b"x"}), tree, "tiny")
        assert found == [f"tiny-1.0.tar.gz: {name} does not belong in it"]
    found = sdist_problems(sdist(tree, link="tiny/__init__.py"), tree, "tiny")
    assert found == ["tiny-1.0.tar.gz: tiny-1.0/tiny/__init__.py is neither file nor folder"]
    made = sdist(tree)
    (tree / "tiny" / "new.py").write_text("")
    assert sdist_problems(made, tree, "tiny") == ["tiny-1.0.tar.gz: tiny/new.py is missing"]
