"""Shared by the whole suite: no network, a small phantom cohort, a tiny fast encoder release."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parent.parent
NO_SOCKETS = Path(__file__).resolve().parent / "support" / "no_sockets"
sys.path.insert(0, str(NO_SOCKETS))

from socket_guard import LOG, LOOPBACK, LOOPBACK_USERS, install  # noqa: E402

_OWN_LOG = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Cut the network off: this process here, its children by ``sitecustomize`` on PYTHONPATH."""
    if LOG not in os.environ or hasattr(config, "workerinput"):  # else this is a test run within a test
        handle, name = tempfile.mkstemp(prefix="refused-", suffix=".log")
        os.close(handle)
        os.environ[LOG], config.stash[_OWN_LOG] = name, Path(name)
    before = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(NO_SOCKETS), *before]))
    install()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the list of refusals."""
    if _OWN_LOG in config.stash:
        config.stash[_OWN_LOG].unlink(missing_ok=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Around a test with all of its fixtures: loopback for those that need it."""
    if item.nodeid.removeprefix("tests/").startswith(tuple(LOOPBACK_USERS)):
        os.environ[LOOPBACK] = "1"
    try:
        return (yield)
    finally:
        os.environ.pop(LOOPBACK, None)


def refusals() -> list[str]:
    """What this run was refused so far."""
    return Path(os.environ[LOG]).read_text(encoding="utf-8").splitlines()


@pytest.fixture(autouse=True)
def nothing_is_sent(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Fail a test that reached for the network, even if its code took the refusal for a bad connection.

    Hands out the list of attempts that a test expects, empty to begin with.
    """
    before, expected = len(refusals()), []
    yield expected
    assert refusals()[before:] == expected, "reached for the network"


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve phantom studies on disk; the manifest's path."""
    from prostate_mim.phantom import write_cohort

    return write_cohort(tmp_path_factory.mktemp("cohort"), 12, seed=3)


@pytest.fixture(scope="session")
def small_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release folder of resenc-s with random weights and a small crop: fast, and not the bundled one."""
    import torch

    from prostate_mim.encoder import PreMIM
    from prostate_mim.spec import InputSpec

    torch.manual_seed(0)
    model = PreMIM("resenc-s", InputSpec(size_zyx=(8, 32, 32)), name="resenc-s.random")
    return model.save_pretrained(tmp_path_factory.mktemp("releases") / "small")
