"""Names on a hub: what is served is what is loaded, and everything that goes wrong has its own error.

The hub is a real HTTP server; huggingface_hub is the real client, in processes of its own.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from prostate_mim.encoder import PreMIM
from prostate_mim.files import sha256_of

WEIGHTS = "model.safetensors"
NOWHERE = "0" * 40


@dataclass
class Session:
    """One process that asked the hub for everything in turn.

    Attributes:
        home: its cache.
        old, new: the two commits of ``org/good``; tag v1 and branch main.
        answers: by ``action name``.
        cut: the answer of another process, for ``org/cut``.
    """

    home: Path
    old: str
    new: str
    answers: dict[str, dict[str, Any]]
    cut: Callable[[], dict[str, Any]]


@pytest.fixture(scope="module")
def session(hub: Any, releases: Path, start_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Publish, then ask for everything."""
    root = tmp_path_factory.mktemp("clients")
    old = hub.commit("org/good", releases / "encoder", "v1")
    new = hub.commit("org/good", releases / "other", "main")
    bad = hub.commit("org/bad", releases / "encoder16", "main", corrupt=WEIGHTS)
    hub.commit("org/cut", releases / "encoder16", "main", cut=WEIGHTS)
    hub.commit("org/proxy", releases / "encoder16", "main", html=True)
    empty = tmp_path_factory.mktemp("notes")
    (empty / "notes.md").write_text("no model here")
    hub.commit("org/empty", empty, "main")
    cut = start_client(root / "cut", hub.url, [("open", "org/cut")])
    actions = [
        ("load", f"org/good@{old}"), ("load", "org/good@v1"), ("load", "org/good"), ("load", "org/good@main"),
        ("load", f"org/good@{NOWHERE}"), ("load", "org/good@v9"), ("fetch", f"org/bad@{bad}"), ("load", "org/bad"),
        ("open", "org/proxy"), ("open", "org/empty"), ("open", "org/na--me"), ("open", "org/größe"),
    ]  # fmt: skip
    client = start_client(root / "online", hub.url, actions)
    answers = dict(zip((f"{a} {n}" for a, n in actions), client.results(), strict=True))
    answers["fetch org/bad"] = answers.pop(f"fetch org/bad@{bad}")
    return Session(root / "online", old, new, answers, lambda: cut.results()[0])


def test_commit_loads_bit_for_bit(session: Session, encoder: PreMIM, digest: Any) -> None:
    """A 40-hex revision gives exactly the saved tensors."""
    assert session.answers[f"load org/good@{session.old}"]["tensors"] == digest(encoder.encoder.state_dict())


def test_tag_and_branch_load_their_commit(session: Session, encoder: PreMIM, digest: Any) -> None:
    """A tag gives its commit's weights; main, and no revision, give the newer ones."""
    answers = session.answers
    assert answers["load org/good@v1"]["tensors"] == digest(encoder.encoder.state_dict())
    newer = answers["load org/good@main"]["tensors"]
    assert newer == answers["load org/good"]["tensors"] != answers["load org/good@v1"]["tensors"]


@pytest.mark.parametrize("revision", [NOWHERE, "v9"])
def test_missing_revision_is_named(session: Session, revision: str) -> None:
    """A revision that does not exist is named, apart from a repository that does not."""
    answer = session.answers[f"load org/good@{revision}"]
    assert answer["error"] == "NotFoundError"
    assert f"the revision {revision!r} does not" in answer["message"]


def test_corrupt_body_is_refused_here_only(session: Session, releases: Path) -> None:
    """A flipped bit of the right length passes huggingface_hub (negative control) and not us."""
    fetched = session.answers["fetch org/bad"]
    assert fetched["config.json"] == sha256_of(releases / "encoder16/config.json")
    assert fetched[WEIGHTS] != sha256_of(releases / f"encoder16/{WEIGHTS}")
    answer = session.answers["load org/bad"]
    assert answer["error"] == "IntegrityError"
    assert f"{WEIGHTS}: sha256 is {fetched[WEIGHTS][:16]}" in answer["message"]


def test_corrupt_copy_can_be_replaced(
    session: Session, hub: Any, releases: Path, start_client: Any, tmp_path: Path
) -> None:
    """Removing the cache folder that the message names is enough to fetch the release anew."""
    shutil.copytree(session.home, tmp_path / "home", symlinks=True)
    named = session.answers["load org/bad"]["message"].rpartition("remove the copy in the cache: ")[2]
    copy = tmp_path / "home" / Path(named).relative_to(session.home)
    hub.repositories["org/bad"].corrupt = ""
    try:
        first = start_client(tmp_path / "home", hub.url, [("open", "org/bad")]).results()[0]
        assert first["error"] == "IntegrityError"
        shutil.rmtree(copy)
        second = start_client(tmp_path / "home", hub.url, [("open", "org/bad")]).results()[0]
    finally:
        hub.repositories["org/bad"].corrupt = WEIGHTS
    assert second["revision"] == sha256_of(releases / f"encoder16/{WEIGHTS}")[:16]


def test_cut_connection_is_a_network_error(session: Session) -> None:
    """A body that never ends is a network error, not a traceback of the HTTP client."""
    answer = session.cut()
    assert answer["error"] == "NetworkError"
    assert "org/cut" in answer["message"]


def test_login_page_is_a_network_error(session: Session) -> None:
    """A proxy's HTML page with status 200 is a network error that names HF_ENDPOINT."""
    answer = session.answers["open org/proxy"]
    assert answer["error"] == "NetworkError"
    assert "HF_ENDPOINT" in answer["message"]


def test_repository_without_release(session: Session) -> None:
    """A repository of something else is said to hold no release."""
    answer = session.answers["open org/empty"]
    assert answer["error"] == "NotFoundError"
    assert "no release" in answer["message"]


@pytest.mark.parametrize("name", ["org/na--me", "org/größe"])
def test_names_no_hub_allows(session: Session, name: str) -> None:
    """A name that huggingface_hub refuses to ask for is not found."""
    answer = session.answers[f"open {name}"]
    assert answer["error"] == "NotFoundError"
    assert name in answer["message"]


def test_missing_repository_ends_with_3(hub: Any, run_command: Any, tmp_path: Path) -> None:
    """``prostate-mim info`` of an unknown repository says so in one line and ends with exit code 3."""
    done = run_command(tmp_path, hub.url, "info", "org/nothing")
    assert done.returncode == 3, done.stderr
    assert "no such repository" in done.stderr and done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_corrupt_body_ends_with_5(session: Session, hub: Any, run_command: Any, tmp_path: Path) -> None:
    """``prostate-mim info`` of damaged weights ends with exit code 5."""
    done = run_command(tmp_path, hub.url, "info", "org/bad")
    assert done.returncode == 5, done.stderr


def test_hub_down_ends_with_4(run_command: Any, tmp_path: Path) -> None:
    """Nobody listens and nothing is cached: one line, exit code 4."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        done = run_command(tmp_path, endpoint, "info", "org/good@v1")
    assert done.returncode == 4, done.stderr
    assert "did not answer" in done.stderr and done.stderr.count("\n") == 1


def test_offline(session: Session, hub: Any, encoder: PreMIM, start_client: Any, digest: Any) -> None:
    """Offline, a warm cache loads by commit and tag without one request, and a cold one is a network error."""
    before = len(hub.requests)
    actions = [("load", f"org/good@{session.old}"), ("load", "org/good@v1"), ("open", "org/cold"), ("open", "org/bad")]
    commit, tag, cold, damaged = start_client(session.home, hub.url, actions, offline=True).results()
    assert hub.requests[before:] == []
    assert commit["tensors"] == tag["tensors"] == digest(encoder.encoder.state_dict())
    assert cold["error"] == "NetworkError" and "HF_HUB_OFFLINE" in cold["message"]
    assert damaged["error"] == "IntegrityError"


def test_only_release_files_are_fetched(
    hub: Any, releases: Path, start_client: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A pickle beside the weights is never downloaded."""
    folder = tmp_path_factory.mktemp("extra") / "release"
    shutil.copytree(releases / "encoder16", folder)
    torch.save({}, folder / "pytorch_model.bin")
    hub.commit("org/extra", folder, "main")
    answer = start_client(tmp_path / "home", hub.url, [("open", "org/extra")]).results()[0]
    assert "revision" in answer
    assert not (Path(answer["folder"]) / "pytorch_model.bin").exists()
    assert not [request for request in hub.requests if "pytorch_model.bin" in request]
