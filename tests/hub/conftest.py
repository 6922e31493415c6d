"""Fixtures of the hub tests: published models, a running hub, and clients in processes of their own."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from prostate_mim.classifier import LesionClassifier
from prostate_mim.encoder import PreMIM
from prostate_mim.hub import Studies
from prostate_mim.hub.serving import HubServer, Shelf, new_token
from prostate_mim.leaks import StudyHashes

HERE = Path(__file__).resolve().parent


def _beside(name: str) -> ModuleType:
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(f"hub_test_{name}", HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _randomised(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for value in module.state_dict().values():
        value.copy_(torch.randn(value.shape, generator=generator) * 0.05 + 0.01)


def _encoder(seed: int) -> PreMIM:
    seen = Studies(pretraining=StudyHashes.make([f"{number:064x}" for number in range(3)], f"{seed:032x}"))
    model = PreMIM(name="resenc-s.test", details={"seed": seed}, studies=seen)
    _randomised(model.encoder, seed)
    return model.eval()


@pytest.fixture(scope="session")
def encoder() -> PreMIM:
    """An encoder whose every weight was drawn anew."""
    return _encoder(1)


@pytest.fixture(scope="session")
def classifier() -> LesionClassifier:
    """A classifier whose encoder and head were drawn anew."""
    model = LesionClassifier(_encoder(2))
    _randomised(model.head, 3)
    model.head.scale.abs_().add_(0.5)
    return model.eval()


@pytest.fixture(scope="session")
def releases(encoder: PreMIM, classifier: LesionClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``encoder``, ``encoder16``, ``other`` (other weights), ``classifier``, ``classifier16``; never edit."""
    root = tmp_path_factory.mktemp("releases")
    encoder.save_pretrained(root / "encoder")
    encoder.save_pretrained(root / "encoder16", dtype="float16")
    _encoder(4).save_pretrained(root / "other", dtype="float16")
    classifier.save_pretrained(root / "classifier")
    classifier.save_pretrained(root / "classifier16", dtype="float16")
    return root


@pytest.fixture(scope="session")
def digest() -> Callable[[dict[str, torch.Tensor]], str]:
    """SHA-256 of tensors, as the client computes it."""
    return _beside("client").digest  # type: ignore[no-any-return]


@dataclass
class Hub:
    """The package's own server behind a proxy that has faults.

    Attributes:
        url: of the proxy.
        proxy: its ``faults`` and ``requests``.
        shelf: what is served.
        faults: the module that has ``Fault``.
        token: of a user who may read.
    """

    url: str
    proxy: Any
    shelf: Shelf
    faults: ModuleType
    token: str

    def commit(self, name: str, folder: Path, tag: str = "") -> str:
        """Publish a folder's files as a commit of main, and nothing else in it; returns its 40 hex digits."""
        if name not in self.shelf.names():
            self.shelf.create(name)
        before = self.shelf.open(name)
        gone = dict.fromkeys(before.at("main").files) if before.branches else {}
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        sha = self.shelf.commit(name, "main", gone | files, title="test", author="nobody").sha
        if tag:
            self.shelf.name_commit(name, "tags", tag, sha)
        return sha


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub that runs."""
    faults = _beside("faults")
    shelf = Shelf(tmp_path_factory.mktemp("shelf"))
    token = new_token(shelf.root, "reader", may_write=False)
    with HubServer(shelf) as server, faults.FaultyProxy(server.url) as proxy:
        yield Hub(proxy.url, proxy, shelf, faults, token)


class Client:
    """A process that talks to a hub; ``results`` waits for it."""

    def __init__(
        self,
        home: Path,
        endpoint: str,
        actions: list[tuple[str, str]],
        offline: bool = False,
        token: str = "",
        folder: Path | None = None,
    ) -> None:
        home.mkdir(exist_ok=True)
        self._out = home / f"results-{uuid.uuid4().hex}.json"
        words = [word for pair in actions for word in pair]
        command = [sys.executable, str(HERE / "client.py"), str(self._out), *words]
        own = environment(home, endpoint, offline) | ({"HF_TOKEN": token} if token else {})
        self._process = subprocess.Popen(command, env=own, stderr=subprocess.PIPE, text=True, cwd=folder)
        self._results: list[dict[str, Any]] | None = None

    def results(self, timeout: float = 60) -> list[dict[str, Any]]:
        """One dictionary per action; fails with the process's stderr if it did not end well."""
        if self._results is None:
            _, complaint = self._process.communicate(timeout=timeout)
            assert self._process.returncode == 0, complaint[-3000:]
            self._results = json.loads(self._out.read_text())
        return self._results


def environment(home: Path, endpoint: str, offline: bool = False) -> dict[str, str]:
    """The environment of a process whose hub is ``endpoint`` and whose cache is in ``home``."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    return kept | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def start_client() -> type[Client]:
    """The class of the processes."""
    return Client


NOWHERE = "0" * 40


@dataclass
class Asking:
    """A process that asks the hub for everything in turn.

    Attributes:
        home: its cache.
        old, new: the two commits of ``org/good``: tag v1 and branch main.
    """

    home: Path
    old: str
    new: str
    actions: list[tuple[str, str]]
    client: Client

    @property
    def answers(self) -> dict[str, dict[str, Any]]:
        """By ``action name``."""
        return dict(zip((f"{a} {n}" for a, n in self.actions), self.client.results(), strict=True))


@pytest.fixture(scope="module")
def session(hub: Any, releases: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    """Publish, and start to ask; nobody asks any more when the module's tests are over."""
    root = tmp_path_factory.mktemp("clients")
    old = hub.commit("org/good", releases / "encoder", "v1")
    new = hub.commit("org/good", releases / "other")
    for name, fault in (("bad", hub.faults.Fault("flip")), ("proxy", hub.faults.Fault("html", file=""))):
        hub.commit(f"org/{name}", releases / "encoder16")
        hub.proxy.faults[f"org/{name}"] = fault
    (root / "notes").mkdir()
    (root / "notes/notes.md").write_text("no model here")
    hub.commit("org/empty", root / "notes")
    extra = Path(shutil.copytree(releases / "encoder16", root / "extra"))
    torch.save({}, extra / "pytorch_model.bin")
    hub.commit("org/extra", extra)
    actions = [
        ("load", f"org/good@{old}"), ("load", "org/good@v1"), ("load", "org/good"), ("load", "org/good@main"),
        ("load", f"org/good@{NOWHERE}"), ("load", "org/good@v9"), ("fetch", "org/bad@main"), ("load", "org/bad@main"),
        ("open", "org/proxy@main"), ("open", "org/empty@main"), ("open", "org/na--me@main"), ("open", "org/größe@main"),
        ("open", "org/extra@main"),
    ]  # fmt: skip
    client = Client(root / "online", hub.url, actions)
    yield Asking(root / "online", old, new, actions, client)
    client.results()


@pytest.fixture(scope="session")
def run_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``prostate-mim`` with a hub: (home, endpoint, words...) -> the finished process."""

    def run(home: Path, endpoint: str, *words: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
        program = "from prostate_mim.cli import main; main()"
        command = [sys.executable, "-c", program, *words]
        return subprocess.run(
            command, env=environment(home, endpoint, offline), capture_output=True, text=True, timeout=60, check=False
        )

    return run


@pytest.fixture(scope="session")
def environment_of() -> Callable[..., dict[str, str]]:
    """(home, endpoint, offline) -> the environment of a process that talks to a hub."""
    return environment
