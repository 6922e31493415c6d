"""huggingface_hub's own client against our hub: everything it writes it reads back, and each refusal has its error."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prostate_mim.hub.serving import new_token
from prostate_mim.hub.serving.access import change_access, read_access

Client = Callable[..., list[dict[str, Any]]]


def sha(data: bytes) -> str:
    """SHA-256."""
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A card, a nested file, an empty one, and weights that are large for this hub."""
    made = tmp_path / "folder"
    (made / "a/b").mkdir(parents=True)
    (made / "README.md").write_text("---\nlicense: mit\n---\n# x\n")
    (made / "a/b/notes.txt").write_text("deep")
    (made / "empty.txt").touch()
    (made / "model.safetensors").write_bytes(os.urandom(3_000_001))
    return made


def test_a_repository_from_its_making_to_its_history(place: Any, client: Client, folder: Path) -> None:
    """Upload, listing, tags, branches, a second commit, deletion; every revision gives the bytes it had."""
    own = {"token": place.writer, "repo_id": "alice/m"}
    answers = client([
        {"call": "whoami", "token": place.writer},
        {"call": "create_repo", **own},
        {"call": "create_repo", **own, "exist_ok": True},
        {"call": "create_repo", **own},
        {"call": "upload_folder", **own, "folder_path": str(folder)},
        {"call": "create_tag", **own, "tag": "v1"},
        {"call": "create_branch", **own, "branch": "next", "revision": "v1"},
        {"call": "upload_file", **own, "path_or_fileobj": str(folder / "a/b/notes.txt"), "path_in_repo": "README.md"},
        {"call": "delete_file", **own, "path_in_repo": "empty.txt"},
        {"call": "delete_folder", **own, "path_in_repo": "a", "revision": "next"},
        {"call": "model_info", "repo_id": "alice/m", "files_metadata": True},
        {"call": "list_repo_files", "repo_id": "alice/m", "revision": "next"},
        {"call": "list_repo_tree", "repo_id": "alice/m", "path_in_repo": "a", "recursive": True},
        {"call": "get_paths_info", "repo_id": "alice/m", "paths": ["README.md", "no"]},
        {"call": "list_repo_refs", "repo_id": "alice/m"},
        {"call": "list_repo_commits", "repo_id": "alice/m"},
        {"call": "snapshot", "repo_id": "alice/m", "revision": "v1"},
        {"call": "snapshot", "repo_id": "alice/m"},
        {"call": "list_models", "author": "alice"},
        {"call": "delete_tag", **own, "tag": "v1"},
        {"call": "sha256", "repo_id": "alice/m", "filename": "README.md", "revision": "v1", "force_download": True},
    ])  # fmt: skip
    values = [one.get("value", one.get("error")) for one in answers]
    assert values[0]["name"] == "alice"
    assert values[1] == values[2] and values[1]["repo_id"] == "alice/m" and values[3] == "HfHubHTTPError"
    original = {
        path.relative_to(folder).as_posix(): sha(path.read_bytes()) for path in folder.rglob("*") if path.is_file()
    }
    assert values[16] == original
    assert values[17] == {
        "README.md": sha(b"deep"), "a/b/notes.txt": sha(b"deep"), "model.safetensors": original["model.safetensors"],
    }  # fmt: skip
    info, first, titles = values[10], values[4]["oid"], [one["title"] for one in values[15]]
    assert {one["rfilename"]: one["size"] for one in info["siblings"]}["model.safetensors"] == 3_000_001
    assert len(titles) == 3 and titles[-1] == "Upload folder using huggingface_hub"
    assert values[11] == ["README.md", "empty.txt", "model.safetensors"]
    assert [one["path"] for one in values[12]] == ["a/b", "a/b/notes.txt"]
    assert [one["path"] for one in values[13]] == ["README.md"]
    refs = values[14]
    assert [(one["name"], one["target_commit"]) for one in refs["tags"]] == [("v1", first)]
    assert {one["name"] for one in refs["branches"]} == {"main", "next"}
    assert [one["id"] for one in values[18]] == ["alice/m"]
    assert values[19] is None and values[20] in ("RevisionNotFoundError", "ValueError")
    assert not list(place.root.glob("alice/m/uploads/*"))  # what was taken in is kept once
    assert place.shelf.open("alice/m").commits[first].folder.is_dir()


def test_what_does_not_exist_has_its_own_error(place: Any, client: Client) -> None:
    """Repository, revision and file, as code that was written for the real hub tells them apart."""
    own = {"token": place.writer, "repo_id": "alice/m"}
    answers = client([
        {"call": "create_repo", **own},
        {"call": "commit", **own, "files": {"config.json": "{}"}, "commit_message": "one"},
        {"call": "sha256", "repo_id": "alice/no", "filename": "config.json"},
        {"call": "sha256", "repo_id": "alice/m", "filename": "config.json", "revision": "v9"},
        {"call": "sha256", "repo_id": "alice/m", "filename": "no.json"},
        {"call": "commit", **own, "files": {"x.json": "{}"}, "commit_message": "two", "parent_commit": "0" * 40},
        {"call": "commit", **own, "files": {"x.json": "{}"}, "commit_message": "two", "revision": "no"},
        {"call": "delete_file", **own, "path_in_repo": "no.json"},
        {"call": "create_tag", **own, "tag": "v1", "revision": "v9"},
    ])  # fmt: skip
    errors = [one.get("error") for one in answers[2:]]
    assert errors[:3] == ["RepositoryNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError"]
    assert "moved on" in answers[5]["message"]
    assert errors[4] == "RevisionNotFoundError" and errors[6] == "RevisionNotFoundError"
    assert "not there" in answers[7]["message"]
    assert list(place.shelf.open("alice/m").at("main").files) == ["config.json"]


def test_private_and_gated(place: Any, client: Client, tmp_path: Path) -> None:
    """Who is not named is told that a private repository is absent, and gets no file of a gated one."""
    new_token(place.root, "carol", may_write=False)
    own = {"token": place.writer}
    files = {"files": {"config.json": "{}"}, "commit_message": "one"}
    client([
        {"call": "create_repo", **own, "repo_id": "alice/private", "private": True},
        {"call": "commit", **own, "repo_id": "alice/private", **files},
        {"call": "create_repo", **own, "repo_id": "alice/gated"},
        {"call": "commit", **own, "repo_id": "alice/gated", **files},
    ])  # fmt: skip
    carol = new_token(place.root, "carol", may_write=False)
    assert read_access(place.root).private == {"alice/private": ()}
    named = {"private": {"alice/private": ("carol",)}, "gated": {"alice/gated": ("carol",)}}
    change_access(place.root, lambda old: replace(old, **named))
    got = {"call": "sha256", "filename": "config.json"}
    answers = client([
        {**got, "repo_id": f"alice/{name}", "token": token, "cache_dir": str(tmp_path / f"{name}{token}")}
        for name in ("private", "gated") for token in (None, place.reader, carol, place.writer)
    ] + [{"call": "list_models", "token": token} for token in (None, carol)])  # fmt: skip
    plain = [one.get("error", "got") for one in answers[:8]]
    assert plain[2:4] == plain[6:8] == ["got", "got"]
    for answer, cause in zip(answers[:2], ("401", "404"), strict=True):
        assert "RepositoryNotFound" in answer["error"] + answer["message"] or cause in answer["message"]
    assert plain[4:6] != ["got", "got"] and all("ated" in one["error"] + one["message"] for one in answers[4:6])
    listed = [[one["id"] for one in answer["value"]] for answer in answers[8:]]
    assert listed == [["alice/gated"], ["alice/gated", "alice/private"]]


def test_tokens_decide_who_writes(place: Any, client: Client) -> None:
    """Nobody, a wrong token, a reader and a writer; a new token ends the old one."""
    tokens = (None, "hf_wrong", place.reader, place.writer)
    answers = client(
        [{"call": "create_repo", "repo_id": f"alice/{n}", "token": token} for n, token in enumerate(tokens)]
    )
    assert ["error" in one for one in answers] == [True, True, True, False]
    assert place.shelf.names() == ["alice/3"]
    new_token(place.root, "alice", may_write=True)
    (late,) = client([{"call": "create_repo", "repo_id": "alice/late", "token": place.writer}])
    assert late["error"]
    kept = (place.root / "access.json").read_text()
    assert place.writer not in kept and place.reader not in kept


def test_offline_after_one_download(place: Any, client: Client) -> None:
    """What was fetched works without the hub; a commit is asked for once, a branch by one HEAD."""
    own = {"token": place.writer, "repo_id": "alice/m"}
    _, made = client([
        {"call": "create_repo", **own},
        {"call": "commit", **own, "files": {"config.json": "{}"}, "commit_message": "one"},
    ])  # fmt: skip
    got = {"call": "sha256", "repo_id": "alice/m", "filename": "config.json"}
    lines: list[str] = []
    place.hub.log = lines.append
    client([{**got, "revision": made["value"]["oid"]}] * 2 + [got] * 2)
    first = [line.split()[1] for line in lines]
    assert first == ["HEAD", "GET", "HEAD", "HEAD"]
    offline, missing = client([got, {**got, "filename": "other.json"}], HF_HUB_OFFLINE="1")
    assert offline["value"] == sha(b"{}") and missing["error"] == "LocalEntryNotFoundError"
    assert len(lines) == 4
