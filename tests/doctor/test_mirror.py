"""A hub that HF_ENDPOINT names, asked by the real client on 127.0.0.1: one that answers, and several that do not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from throw_away import Environment, Told

from prostate_mim.hub.serving import HubServer, Shelf


def ask(environment: Environment, url: str, **more: str) -> Told:
    return environment.doctor("--json", env={"HF_ENDPOINT": url, **more})


@contextmanager
def answering(status: int, kind: str) -> Iterator[tuple[str, list[str]]]:
    """A server that answers everything alike: its address, and the lines it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('authorization', '')}".strip())
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_hub_that_answers(bare: Environment, tmp_path: Path) -> None:
    """The control: our own hub."""
    with HubServer(Shelf(tmp_path)) as hub:
        told = ask(bare, hub.url)
        assert told["hub"] == {"name": "hub", "state": "ok", "found": f"'{hub.url}' answers", "fix": ""}
        assert ask(bare, f"{hub.url}/")["hub"]["state"] == "ok"


def test_one_question_without_a_token(bare: Environment) -> None:
    """It is asked once, and nothing that is secret is sent; with the offline switch, not at all."""
    with answering(200, "application/json") as (url, asked):
        assert ask(bare, url, HF_TOKEN="hf_secret")["hub"]["state"] == "ok"  # noqa: S106 - no real one
        assert asked == ["/api/models?limit=1"]
        told = ask(bare, url, HF_HUB_OFFLINE="1")
        assert told["hub"]["state"] == "ok" and "offline by HF_HUB_OFFLINE=1" in told["hub"]["found"]
        assert len(asked) == 1


@pytest.mark.parametrize(
    ("status", "kind", "state", "word"),
    [
        (200, "text/html", "fault", "not as a hub: HTTP 200, text/html"),  # a page to log in at
        (404, "text/html; charset=utf-8", "fault", "HTTP 404, text/html"),
        (502, "application/json", "fault", "HTTP 502"),
        (407, "text/html", "fault", "wants a login"),
        (401, "application/json", "ok", "answers"),
    ],
)
def test_answers_that_are_no_hub(bare: Environment, status: int, kind: str, state: str, word: str) -> None:
    """By the status and the kind of what comes."""
    with answering(status, kind) as (url, _):
        told = ask(bare, url)
    assert told["hub"]["state"] == state and word in told["hub"]["found"]
    assert told.code == 6  # no ONNX Runtime in there


def test_nobody_there(bare: Environment) -> None:
    """A port where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = ask(bare, f"http://127.0.0.1:{port}")
    assert told["hub"]["state"] == "fault" and "does not answer: ConnectError" in told["hub"]["found"]
    assert told["hub"]["fix"].startswith("export HF_HUB_OFFLINE=1 # ")


def test_silence(bare: Environment) -> None:
    """Somebody takes the call and says nothing: given up after some seconds."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        told = ask(bare, f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert told["hub"]["state"] == "fault" and "ReadTimeout" in told["hub"]["found"]


def test_through_a_proxy_that_is_not_there(bare: Environment, tmp_path: Path) -> None:
    """NO_PROXY forgets the hub on this machine: a setting, and a hub that does not answer; with it, both are fine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with HubServer(Shelf(tmp_path)) as hub:
        proxy = {"HTTP_PROXY": f"http://me:Geheim4711@127.0.0.1:{port}", "HTTPS_PROXY": "http://127.0.0.1:1"}
        told = ask(bare, hub.url, **proxy)
        assert told["proxies"]["state"] == told["hub"]["state"] == "fault"
        assert "Geheim4711" not in told.out + told.err
        value = told["proxies"]["fix"].removeprefix("export NO_PROXY=")
        told = ask(bare, hub.url, NO_PROXY=value, **proxy)
        assert told["proxies"]["state"] == told["hub"]["state"] == "ok"


def test_public_hub_is_not_asked(bare: Environment) -> None:
    """Without HF_ENDPOINT nobody is: the guard of the tests would have seen it."""
    told = bare.doctor("--json")
    assert told["hub"]["state"] == "ok" and "was not asked" in told["hub"]["found"]
