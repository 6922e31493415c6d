"""Twelve kinds of faults on the way: a verified file arrives, or an error, and never a bad file in the cache."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

WEIGHTS = "model.safetensors"
# kind -> (fault, errors it may end with; none: it must load all the same)
FAULTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "cut at 0 %": ({"kind": "cut", "share": 0.0}, ("NetworkError",)),
    "cut at 1 %": ({"kind": "cut", "share": 0.01}, ("NetworkError",)),
    "cut at 50 %": ({"kind": "cut", "share": 0.5}, ("NetworkError",)),
    "cut at 99.9 %": ({"kind": "cut", "share": 0.999}, ("NetworkError",)),
    "wrong length": ({"kind": "short"}, ("NetworkError", "IntegrityError")),
    "wrong bytes": ({"kind": "flip"}, ("IntegrityError",)),
    "redirect to another host": ({"kind": "redirect"}, ("IntegrityError", "NetworkError")),
    "404": ({"kind": "missing"}, ("IntegrityError", "NetworkError", "NotFoundError")),
    "503 three times": ({"kind": "busy", "times": 3}, ()),
    "slow": ({"kind": "slow"}, ()),
    "html with status 200": ({"kind": "html"}, ("NetworkError", "IntegrityError")),
    "gzip-encoded": ({"kind": "gzip"}, ("NetworkError", "IntegrityError", "")),
}


def repository(fault: str) -> str:
    """Its own for each, so that one client can meet all."""
    return "org/f-" + "".join(letter if letter.isalnum() else "-" for letter in fault.lower()).strip("-").replace(
        "--", "-"
    )


@pytest.fixture(scope="module")
def met(
    hub: Any, releases: Path, start_client: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, dict[str, Any]], list[dict[str, str]]]:
    """(cache, answer by fault, what the other host was sent), of clients with a token."""
    home = tmp_path_factory.mktemp("faults") / "home"
    wrong = bytearray((releases / "encoder16" / WEIGHTS).read_bytes())
    wrong[-100] ^= 1
    with hub.faults.Elsewhere(bytes(wrong)) as elsewhere:
        for name, (fault, _) in FAULTS.items():
            hub.commit(repository(name), releases / "encoder16")
            more = {"elsewhere": elsewhere.url} if fault["kind"] == "redirect" else {}
            hub.proxy.faults[repository(name)] = hub.faults.Fault(**fault, **more)
        names = list(FAULTS)
        parts = [names[0::3], names[1::3], names[2::3]]  # some wait, and can do so beside each other
        asked = [[("open", f"{repository(name)}@main") for name in part] for part in parts]
        clients = [start_client(home, hub.url, actions, token=hub.token) for actions in asked]
        answers = {
            name: answer
            for part, client in zip(parts, clients, strict=True)
            for name, answer in zip(part, client.results(timeout=300), strict=True)
        }
    return home, answers, elsewhere.seen


def test_there_are_twelve() -> None:
    """As many as were promised, each of its own kind."""
    assert len(FAULTS) == len({repository(name) for name in FAULTS}) == 12


@pytest.mark.parametrize("fault", FAULTS)
def test_a_verified_file_or_an_error(met: Any, hub: Any, releases: Path, fault: str) -> None:
    """And the fault really happened."""
    answer, allowed = met[1][fault], FAULTS[fault][1]
    good = hashlib.sha256((releases / "encoder16" / WEIGHTS).read_bytes()).hexdigest()[:16]
    assert hub.proxy.faults[repository(fault)].fired
    if "error" in answer:
        assert answer["error"] in allowed, answer
        assert "\n" not in answer["message"]
    else:
        assert not allowed or "" in allowed
        assert answer["revision"] == good


def test_the_cache_holds_verified_files_only(met: Any, releases: Path) -> None:
    """Whatever lies under a name that a reader would open is byte for byte of the release."""
    good = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (releases / "encoder16").iterdir()}
    caches = [home for home in (met[0] / "hub").glob("models--org--f-*")]
    assert len(caches) == 12
    files = [
        path
        for cache in caches
        for path in [*cache.glob("snapshots/*/*"), *cache.glob("blobs/*")]
        if not path.name.endswith(".incomplete")
    ]
    assert len(files) >= 12 * 4
    for path in files:
        assert hashlib.sha256(path.read_bytes()).hexdigest() in good, path


def test_another_host_is_not_sent_the_token(met: Any) -> None:
    """A redirect elsewhere is followed without what would let it write here."""
    assert met[2] and not [headers for headers in met[2] if "authorization" in headers]
