"""Names on a hub: what is served is what is loaded, and everything that goes wrong has its own error.

The hub is the package's own server behind a proxy that has faults; huggingface_hub is the real client, in processes of
its own.
"""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from prostate_mim.encoder import PreMIM
from prostate_mim.files import sha256_of

WEIGHTS = "model.safetensors"
NOWHERE = "0" * 40


def test_commit_loads_bit_for_bit(session: Any, encoder: PreMIM, digest: Any) -> None:
    """A 40-hex revision gives exactly the saved tensors."""
    assert session.answers[f"load org/good@{session.old}"]["tensors"] == digest(encoder.encoder.state_dict())


def test_tag_and_branch_load_their_commit(session: Any, encoder: PreMIM, digest: Any) -> None:
    """A tag gives its commit's weights, main the newer ones; both warn, and name the commit that stays."""
    answers = session.answers
    assert answers["load org/good@v1"]["tensors"] == digest(encoder.encoder.state_dict())
    assert answers["load org/good@main"]["tensors"] != answers["load org/good@v1"]["tensors"]
    for name, commit in (("v1", session.old), ("main", session.new)):
        (said,) = answers[f"load org/good@{name}"]["warned"]
        assert f"org/good@{commit}" in said
    assert answers[f"load org/good@{session.old}"]["warned"] == []


def test_a_branch_must_be_asked_for(session: Any) -> None:
    """Without a revision nothing is loaded; the message says what loads the same bytes for ever."""
    answer = session.answers["load org/good"]
    assert answer["error"] == "UsageError" and "org/good@<commit>" in answer["message"]


@pytest.mark.parametrize("revision", [NOWHERE, "v9"])
def test_missing_revision_is_named(session: Any, revision: str) -> None:
    """A revision that does not exist is named, apart from a repository that does not."""
    answer = session.answers[f"load org/good@{revision}"]
    assert answer["error"] == "NotFoundError"
    assert f"the revision {revision!r} does not" in answer["message"]


def test_corrupt_body_is_refused_here_only(session: Any, releases: Path) -> None:
    """A flipped bit of the right length passes huggingface_hub (negative control) and not us."""
    fetched = session.answers["fetch org/bad@main"]
    assert fetched["config.json"] == sha256_of(releases / "encoder16/config.json")
    assert fetched[WEIGHTS] != sha256_of(releases / f"encoder16/{WEIGHTS}")
    answer = session.answers["load org/bad@main"]
    assert answer["error"] == "IntegrityError"
    assert f"the hub gives {WEIGHTS} otherwise" in answer["message"]


def test_bad_copies_are_put_apart_and_replaced_once_the_hub_is_well(
    session: Any, hub: Any, releases: Path, start_client: Any, tmp_path: Path
) -> None:
    """What was damaged lies in quarantine, not in the cache; nobody has to remove anything by hand."""
    home = tmp_path / "home"
    shutil.copytree(session.home, home, symlinks=True)
    (cache,) = (home / "hub").glob("models--org--bad")
    assert list((cache / "quarantine").iterdir()) and not list(cache.glob(f"snapshots/*/{WEIGHTS}"))
    fault = hub.proxy.faults.pop("org/bad")
    try:
        answer = start_client(home, hub.url, [("open", "org/bad@main")]).results()[0]
    finally:
        hub.proxy.faults["org/bad"] = fault
    assert answer["revision"] == sha256_of(releases / f"encoder16/{WEIGHTS}")[:16]


def test_login_page_is_a_network_error(session: Any) -> None:
    """A proxy's HTML page with status 200 is a network error that names HF_ENDPOINT."""
    answer = session.answers["open org/proxy@main"]
    assert answer["error"] == "NetworkError"
    assert "HF_ENDPOINT" in answer["message"]


def test_repository_without_release(session: Any) -> None:
    """A repository of something else is said to hold no release."""
    answer = session.answers["open org/empty@main"]
    assert answer["error"] == "NotFoundError"
    assert "no release" in answer["message"]


@pytest.mark.parametrize("name", ["org/na--me@main", "org/größe@main"])
def test_names_no_hub_allows(session: Any, name: str) -> None:
    """A name that huggingface_hub refuses to ask for is not found."""
    answer = session.answers[f"open {name}"]
    assert answer["error"] == "NotFoundError"
    assert name in answer["message"]


def test_missing_repository_ends_with_3(hub: Any, run_command: Any, tmp_path: Path) -> None:
    """``prostate-mim info`` of an unknown repository says so in one line and ends with exit code 3."""
    done = run_command(tmp_path, hub.url, "info", "org/nothing@main")
    assert done.returncode == 3, done.stderr
    assert "no such repository" in done.stderr and done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_corrupt_body_ends_with_5(session: Any, hub: Any, run_command: Any, tmp_path: Path) -> None:
    """``prostate-mim info`` of damaged weights ends with exit code 5."""
    done = run_command(tmp_path, hub.url, "info", "org/bad@main")
    assert done.returncode == 5, done.stderr


def test_hub_down_ends_with_4(run_command: Any, tmp_path: Path) -> None:
    """Nobody listens and nothing is cached: one line, exit code 4."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        done = run_command(tmp_path, endpoint, "info", "org/good@v1")
    assert done.returncode == 4, done.stderr
    assert "did not answer" in done.stderr and done.stderr.count("\n") == 1


def test_offline(session: Any, hub: Any, encoder: PreMIM, start_client: Any, digest: Any) -> None:
    """Offline, a warm cache gives commit and tag without one request, and a cold one is a network error."""
    before = len(hub.proxy.requests)
    actions = [
        ("open", f"org/good@{session.old}"),
        ("open", "org/good@v1"),
        ("open", "org/cold@main"),
        ("open", "org/bad@main"),
    ]
    commit, tag, cold, damaged = start_client(session.home, hub.url, actions, offline=True).results()
    assert hub.proxy.requests[before:] == []
    assert commit["folder"] == tag["folder"]
    loaded = PreMIM.from_pretrained(commit["folder"])
    assert digest(loaded.encoder.state_dict()) == digest(encoder.encoder.state_dict())
    assert cold["error"] == "NetworkError" and "HF_HUB_OFFLINE" in cold["message"]
    assert damaged["error"] == "NetworkError", (
        "its weights were put apart: test_registry.py has one that is damaged here"
    )


def test_only_release_files_are_fetched(session: Any, hub: Any) -> None:
    """A pickle beside the weights is never downloaded."""
    folder = Path(session.answers["open org/extra@main"]["folder"])
    assert (folder / WEIGHTS).exists()
    assert not (folder / "pytorch_model.bin").exists()
    assert not [request for request in hub.proxy.requests if "pytorch_model.bin" in request]
