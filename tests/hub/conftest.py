"""Fixtures of the hub tests: published models, a running hub, and clients in processes of their own."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
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


@pytest.fixture(scope="session")
def hub() -> Iterator[Any]:
    """A hub that runs (class ``Hub`` of server.py)."""
    with _beside("server").Hub() as running:
        yield running


class Client:
    """A process that talks to a hub; ``results`` waits for it."""

    def __init__(self, home: Path, endpoint: str, actions: list[tuple[str, str]], offline: bool = False) -> None:
        home.mkdir(exist_ok=True)
        self._out = home / f"results-{len(list(home.iterdir()))}.json"
        words = [word for pair in actions for word in pair]
        command = [sys.executable, str(HERE / "client.py"), str(self._out), *words]
        self._process = subprocess.Popen(
            command, env=environment(home, endpoint, offline), stderr=subprocess.PIPE, text=True
        )
        self._results: list[dict[str, Any]] | None = None

    def results(self) -> list[dict[str, Any]]:
        """One dictionary per action; fails with the process's stderr if it did not end well."""
        if self._results is None:
            _, complaint = self._process.communicate(timeout=60)
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
    """A process that asks the hub for everything in turn, started early: the tests of release folders run meanwhile.

    Attributes:
        home: its cache.
        old, new: the two commits of ``org/good``: tag v1 and branch main.
    """

    home: Path
    old: str
    new: str
    actions: list[tuple[str, str]]
    client: Client
    cut: Client

    @property
    def answers(self) -> dict[str, dict[str, Any]]:
        """By ``action name``."""
        return dict(zip((f"{a} {n}" for a, n in self.actions), self.client.results(), strict=True))


@pytest.fixture(scope="session", autouse=True)
def session(hub: Any, releases: Path, tmp_path_factory: pytest.TempPathFactory) -> Asking:
    """Publish, and start to ask."""
    root = tmp_path_factory.mktemp("clients")
    old = hub.commit("org/good", releases / "encoder", "v1")
    new = hub.commit("org/good", releases / "other", "main")
    hub.commit("org/bad", releases / "encoder16", "main", corrupt="model.safetensors")
    hub.commit("org/cut", releases / "encoder16", "main", cut="model.safetensors")
    hub.commit("org/proxy", releases / "encoder16", "main", html=True)
    (root / "notes").mkdir()
    (root / "notes/notes.md").write_text("no model here")
    hub.commit("org/empty", root / "notes", "main")
    extra = Path(shutil.copytree(releases / "encoder16", root / "extra"))
    torch.save({}, extra / "pytorch_model.bin")
    hub.commit("org/extra", extra, "main")
    actions = [
        ("load", f"org/good@{old}"), ("load", "org/good@v1"), ("load", "org/good"), ("load", "org/good@main"),
        ("load", f"org/good@{NOWHERE}"), ("load", "org/good@v9"), ("fetch", "org/bad"), ("load", "org/bad"),
        ("open", "org/proxy"), ("open", "org/empty"), ("open", "org/na--me"), ("open", "org/größe"),
        ("open", "org/extra"),
    ]  # fmt: skip
    client = Client(root / "online", hub.url, actions)
    return Asking(root / "online", old, new, actions, client, Client(root / "cut", hub.url, [("open", "org/cut")]))


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
