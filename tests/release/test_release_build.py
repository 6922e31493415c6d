"""Exports of git, builds that are equal byte for byte, and builds that are not."""

from __future__ import annotations

import gzip
import io
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from release_build import BuildError, build, changed, commit_time, differences, export, members, normalise
from trial_git import git

EPOCH = 1_700_000_000


def test_export_holds_what_is_committed(project: Path, tmp_path: Path) -> None:
    """Edits and new files are not in a commit, and are in the working tree; what git ignores is in neither."""
    (project / "README.md").write_text("# edited\n")
    (project / "new.txt").write_text("new\n")
    (project / ".gitignore").write_text("*.log\n")
    (project / "a.log").write_text("log\n")
    (project / "LICENSE").unlink()
    committed = export(project, tmp_path / "a")
    lying = export(project, tmp_path / "b", working_tree=True)
    assert (committed / "README.md").read_text() == "# tiny\n"
    assert (lying / "README.md").read_text() == "# edited\n"
    assert not (committed / "new.txt").exists() and (lying / "new.txt").exists()
    assert (committed / "LICENSE").exists() and not (lying / "LICENSE").exists()
    assert not (committed / "a.log").exists() and not (lying / "a.log").exists()
    assert not (committed / ".git").exists() and not (lying / ".git").exists()
    assert changed(project) == 4  # README.md, LICENSE, new.txt, .gitignore


def test_export_has_plain_modes(project: Path, tmp_path: Path) -> None:
    """Modes of files go into a wheel, so they must not depend on who checked the source out."""
    (project / "README.md").chmod(0o600)
    (project / "tiny" / "__init__.py").chmod(0o775)
    tree = export(project, tmp_path / "a", working_tree=True)
    assert (tree / "README.md").stat().st_mode & 0o777 == 0o644
    assert (tree / "tiny" / "__init__.py").stat().st_mode & 0o777 == 0o755


def test_unknown_commit_is_refused(project: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="nothing-like-it"):
        export(project, tmp_path / "a", "nothing-like-it")


def test_two_builds_are_equal(project: Path, tmp_path: Path) -> None:
    """A real build in two folders at two times gives the same bytes; one line more is noticed, and named."""
    epoch = commit_time(project)
    tree = export(project, tmp_path / "first")
    one = build(sys.executable, tree, tmp_path / "one", epoch)
    shutil.copytree(tree, tmp_path / "elsewhere" / "second")
    two = build(sys.executable, tmp_path / "elsewhere" / "second", tmp_path / "two", epoch)
    assert [path.name for path in one] == ["tiny-1.2.3-py3-none-any.whl", "tiny-1.2.3.tar.gz"]
    assert [differences(a, b) for a, b in zip(one, two, strict=True)] == [[], []]
    assert sorted(path.name for path in tree.iterdir()) == sorted(
        ["LICENSE", "README.md", "notes", "pyproject.toml", "setup.cfg", "tiny"]
    )  # the export is not written to
    with (tree / "tiny" / "__init__.py").open("a") as stream:
        stream.write("A = 1\n")
    three = build(sys.executable, tree, tmp_path / "three", epoch)
    for before, after in zip(one, three, strict=True):
        assert any("tiny/__init__.py differs in its content" in line for line in differences(before, after))


def test_build_that_fails_says_why(project: Path, tmp_path: Path) -> None:
    tree = export(project, tmp_path / "a")
    (tree / "setup.cfg").write_text("[metadata]\nname = tiny\nversion = not a version\n")
    with pytest.raises(BuildError, match="python -m build: "):
        build(sys.executable, tree, tmp_path / "out", EPOCH)


def _sdist(path: Path, mtime: int, order: int = 1) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name in ("tiny-1/a.txt", "tiny-1/b.txt")[::order]:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid, info.uname, info.mode = 2, mtime, 1000, "somebody", 0o600
            archive.addfile(info, io.BytesIO(b"hi"))


def test_sdists_are_made_equal(tmp_path: Path) -> None:
    """Times, owners, modes and order differ before, nothing after; contents stay."""
    one, two = tmp_path / "one" / "t.tar.gz", tmp_path / "two" / "t.tar.gz"
    for path, mtime, order in ((one, 1_000, 1), (two, 2_000, -1)):
        path.parent.mkdir()
        _sdist(path, mtime, order)
    assert differences(one, two) == [
        "t.tar.gz: tiny-1/a.txt differs in its time", "t.tar.gz: tiny-1/b.txt differs in its time",
    ]  # fmt: skip
    contents = {name: digest for name, (digest, _) in members(one).items()}
    for path in (one, two):
        normalise(path, EPOCH)
    assert differences(one, two) == []
    assert {name: digest for name, (digest, _) in members(one).items()} == contents
    with tarfile.open(one) as archive:
        assert {(m.mtime, m.uid, m.uname, m.mode) for m in archive} == {(EPOCH, 0, "", 0o644)}


def test_times_outside_of_members_are_noticed(tmp_path: Path) -> None:
    """The same files, another gzip header: said as what it is."""
    for folder, mtime in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        _sdist(tmp_path / folder / "t.tar.gz", 5)
        plain = gzip.decompress((tmp_path / folder / "t.tar.gz").read_bytes())
        (tmp_path / folder / "t.tar.gz").write_bytes(gzip.compress(plain, mtime=mtime))
    found = differences(tmp_path / "one" / "t.tar.gz", tmp_path / "two" / "t.tar.gz")
    assert found == ["t.tar.gz: the same files in archives of other bytes"]


def test_a_file_in_one_build_only(tmp_path: Path) -> None:
    for folder, names in (("one", ("a",)), ("two", ("a", "b"))):
        (tmp_path / folder).mkdir()
        with zipfile.ZipFile(tmp_path / folder / "t-1-py3-none-any.whl", "w") as wheel:
            for name in names:
                wheel.writestr(zipfile.ZipInfo(name), b"x")
    one, two = (tmp_path / folder / "t-1-py3-none-any.whl" for folder in ("one", "two"))
    assert differences(one, two) == [f"{one.name}: b is in one build only"]


def test_the_time_is_the_commits(project: Path) -> None:
    """Whenever it is built, archives say when it was committed."""
    git(project, "commit", "-q", "--allow-empty", "-m", "second", "--date", "@5 +0000")
    assert commit_time(project) >= commit_time(project, "HEAD~1") > 5  # the committer's time, not the author's
