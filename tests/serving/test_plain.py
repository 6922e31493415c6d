"""A plain folder of files is a repository: no server wrote it, and pushing to it keeps what was there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prostate_mim.errors import IntegrityError, NotFoundError, UsageError
from prostate_mim.hub.serving import HubServer, Shelf, new_token


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """With ``org/plain``: two files, a hidden one, a link out of it."""
    folder = tmp_path / "shelf/org/plain"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub/x.txt").write_text("x")
    (folder / ".hidden").write_text("no")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "shelf/org/away").symlink_to(tmp_path)
    return Shelf(tmp_path / "shelf")


def test_its_commit_is_of_its_contents(shelf: Shelf) -> None:
    """The same bytes have the same commit, however often they are asked for; others another. Links are not followed."""
    assert shelf.names() == ["org/plain"]
    first = shelf.open("org/plain").at("main")
    assert set(first.files) == {"config.json", "sub/x.txt"}
    assert shelf.open("org/plain").at("main").sha == first.sha == Shelf(shelf.root).open("org/plain").at("main").sha
    (shelf.root / "org/plain/sub/x.txt").write_text("yy")
    assert shelf.open("org/plain").at("main").sha != first.sha
    with pytest.raises(NotFoundError):
        shelf.open("org/plain").at(first.sha)
    with pytest.raises(NotFoundError):
        shelf.open("org/away")


def test_a_first_push_keeps_what_was_there(shelf: Shelf) -> None:
    """The old commit stays, its files are shared, and the new one is added."""
    first = shelf.open("org/plain").at("main")
    made = shelf.commit("org/plain", "main", {"new.txt": b"new"}, title="t", author="a", parent=first.sha)
    repository = Shelf(shelf.root).open("org/plain")
    assert [one.sha for one in repository.history(repository.at("main"))] == [made.sha, first.sha]
    assert set(made.files) == {"config.json", "sub/x.txt", "new.txt"}
    assert (made.folder / "sub/x.txt").samefile(repository.at(first.sha).folder / "sub/x.txt")
    with (shelf.root / "org/plain/config.json").open("r+") as stream:  # in place, as editors do
        stream.write("[]")
    assert [(one.folder / "config.json").read_text() for one in repository.commits.values()] == ["{}", "{}"]
    with pytest.raises(UsageError, match="moved on"):
        shelf.commit("org/plain", "main", {"other.txt": b""}, title="t", author="a", parent=first.sha)


def test_a_damaged_record_is_said(shelf: Shelf) -> None:
    """Every way in which it can be no record of commits."""
    shelf.commit("org/plain", "main", {"new.txt": b"new"}, title="t", author="a")
    record = shelf.root / "org/plain/repository.json"
    whole = record.read_text()
    for damaged in (
        "",
        "[]",
        "{}",
        whole[:-20],
        whole.replace('"main": "', '"main": "0'),
        whole.replace("sub/x", "../x"),
    ):
        record.write_text(damaged)
        with pytest.raises(IntegrityError, match="damaged"):
            shelf.open("org/plain")
    record.write_text(whole)
    assert shelf.open("org/plain").at("main").files["new.txt"].size == 3


def test_nobody_writes_without_a_token(shelf: Shelf, tmp_path: Path) -> None:
    """A hub for writing needs a writer; what is no folder, or no port, is said."""
    with pytest.raises(UsageError, match="hub token"):
        HubServer(shelf, writable=True)
    with pytest.raises(NotFoundError, match="pull"):
        Shelf(tmp_path / "no")
    new_token(shelf.root, "alice", may_write=True)
    with HubServer(shelf, writable=True), pytest.raises(UsageError, match="another server"):
        HubServer(shelf, writable=True)
    with HubServer(shelf, writable=True):
        pass
    with HubServer(shelf) as hub, pytest.raises(UsageError, match="cannot listen"):
        HubServer(shelf, port=int(hub.url.rpartition(":")[2]))


def test_a_disk_that_is_full_leaves_the_repository_as_it_was(shelf: Shelf, monkeypatch: Any) -> None:
    """The commit's folder is taken away again, the branch stays."""
    first = shelf.commit("org/plain", "main", {"a.txt": b"a"}, title="t", author="a")
    monkeypatch.setattr("pathlib.Path.rename", _full)
    with pytest.raises(Exception, match="space"):
        shelf.commit("org/plain", "main", {"b.txt": b"b"}, title="t", author="a")
    monkeypatch.undo()
    assert shelf.open("org/plain").at("main").sha == first.sha
    assert not list((shelf.root / "org/plain/commits").glob(".new*"))


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")
