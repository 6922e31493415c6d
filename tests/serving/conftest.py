"""Fixtures of a hub that is served: a shelf with users, a running server, real clients in processes of their own."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from prostate_mim.hub.serving import HubServer, Limits, Shelf, new_token

HERE = Path(__file__).resolve().parent


@dataclass
class Place:
    """A shelf, its server and its users' tokens."""

    root: Path
    shelf: Shelf
    hub: HubServer
    writer: str
    reader: str

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One request as it is: nothing of it is normalised."""
        where = urlsplit(self.hub.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=20)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def as_writer(self, method: str, path: str, values: Any) -> tuple[int, dict[str, str], bytes]:
        """A request with the writer's token and a JSON body."""
        return self.ask(method, path, json.dumps(values).encode(), {"Authorization": f"Bearer {self.writer}"})


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A writable hub; alice writes, bob reads. A file of 1 MB or more is uploaded by itself."""
    root = tmp_path / "shelf"
    root.mkdir()
    writer, reader = new_token(root, "alice", may_write=True), new_token(root, "bob", may_write=False)
    limits = Limits(upload_bytes=8_000_000, idle_s=5, large_bytes=1_000_000)
    shelf = Shelf(root)
    with HubServer(shelf, writable=True, limits=limits) as hub:
        yield Place(root, shelf, hub, writer, reader)


@pytest.fixture
def client(place: Place, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """(calls, python path of another version of the client, environment) -> answers of the real client."""

    def run(calls: list[dict[str, Any]], version: Path | None = None, **more: str) -> list[dict[str, Any]]:
        asked, answered = tmp_path / "asked.json", tmp_path / "answered.json"
        asked.write_text(json.dumps(calls))
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        own = {
            "HF_ENDPOINT": place.hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1",
        }  # fmt: skip
        path = {"PYTHONPATH": str(version)} if version else {}
        command = [sys.executable, str(HERE / "calls.py"), str(asked), str(answered)]
        done = subprocess.run(
            command, env=kept | own | path | more, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found, answers = json.loads(answered.read_text())
        if version is not None:
            assert found.startswith(version.name.rpartition("-")[2])
        return answers  # type: ignore[no-any-return]

    return run
