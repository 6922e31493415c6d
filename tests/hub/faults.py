"""A proxy on 127.0.0.1 before a real hub that does to one file's body what networks do to bodies."""

from __future__ import annotations

import gzip
import http.client
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import urlsplit

PASSED_ON = ("etag", "x-repo-commit", "x-linked-size", "x-linked-etag", "content-type", "x-error-code", "accept-ranges",
             "content-range")  # fmt: skip
ASKED = ("range", "accept-encoding", "authorization", "if-none-match")
HTML = b"<html><body>Please log in to the hospital network</body></html>"


@dataclass
class Fault:
    """What happens to a file.

    Attributes:
        kind: ``cut``, ``short`` (a length that is too small), ``long``, ``flip``, ``redirect``, ``missing``, ``busy``
            (503), ``slow``, ``html``, ``gzip``.
        file: whose; the end of the path.
        share: of the body that is sent before the cut.
        times: how often; -1 is always.
        elsewhere: of ``redirect``: a URL.
        fired: how often it happened.
    """

    kind: str
    file: str = "model.safetensors"
    share: float = 0.0
    times: int = -1
    elsewhere: str = ""
    fired: int = 0


class FaultyProxy:
    """Passes requests on to ``target``, except for faults.

    Attributes:
        faults: by ``org/name``; add to it while it runs.
        requests: ``METHOD path`` of everything asked, in order.
    """

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target)
        self.faults: dict[str, Fault] = {}
        self.requests: list[str] = []
        self.lock = Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultyProxy:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def due(self, path: str, method: str) -> Fault | None:
        """The fault, where it is this file's turn. Bodies are damaged, and refusals come to every method."""
        plain = path.partition("?")[0]
        fault = next((fault for name, fault in self.faults.items() if name in plain), None)
        if fault is None or not plain.endswith(fault.file):
            return None
        if method == "HEAD" and fault.kind not in ("missing", "busy", "redirect"):
            return None
        with self.lock:
            if fault.times == 0:
                return None
            fault.times -= 1
            fault.fired += 1
        return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.proxy.requests.append(f"{self.command} {self.path}")
        fault = self.proxy.due(self.path, self.command)
        status, headers, body = self._asked()
        if fault is None:
            return self._answer(status, headers, body)
        if fault.kind in ("missing", "busy"):
            code = {"missing": 404, "busy": 503}[fault.kind]
            return self._answer(code, {"X-Error-Code": "EntryNotFound"} if code == 404 else {}, b"")
        if fault.kind == "redirect":
            return self._answer(302, headers | {"Location": fault.elsewhere}, b"")
        self._damaged(fault, status, headers, body)

    def _damaged(self, fault: Fault, status: int, headers: dict[str, str], body: bytes) -> None:
        middle = len(body) // 2
        if fault.kind == "flip":
            self._answer(status, headers, body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :])
        elif fault.kind == "html":
            self._answer(200, headers | {"content-type": "text/html"}, HTML)
        elif fault.kind == "gzip":
            self._answer(status, headers | {"Content-Encoding": "gzip"}, gzip.compress(body))
        elif fault.kind == "short":
            self._answer(status, headers, body, length=len(body) // 3)
        elif fault.kind == "long":
            self._answer(status, headers, body, length=len(body) + 1000)
        elif fault.kind == "cut":
            self._answer(status, headers, body, sent=int(len(body) * fault.share))
        elif fault.kind == "slow":
            self._answer(status, headers, body, pause=0.1)

    def _asked(self) -> tuple[int, dict[str, str], bytes]:
        """What the hub itself answers."""
        target = self.proxy.target
        connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=20)
        try:
            given = {key: value for key in ASKED if (value := self.headers.get(key))}
            connection.request(self.command, self.path, headers=given)
            answer = connection.getresponse()
            kept = {key: value for key, value in answer.getheaders() if key.lower() in PASSED_ON}
            if self.command == "HEAD":
                kept["Content-Length"] = answer.headers.get("Content-Length", "0")
            return answer.status, kept, answer.read()
        finally:
            connection.close()

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes, length: int = -1, sent: int = -1, pause: float = 0
    ) -> None:
        """Say ``length``, send ``sent`` bytes, and end the connection where the two differ."""
        self.send_response(status)
        told = len(body) if length < 0 else length
        for key, value in ({"Content-Length": str(told)} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        whole = body if sent < 0 else body[:sent]
        parts = 12 if pause else 1
        size = max(1, -(-len(whole) // parts))
        try:
            for start in range(0, len(whole), size):
                self.wfile.write(whole[start : start + size])
                self.wfile.flush()
                time.sleep(pause)
        except OSError:
            pass  # the client has left
        if length >= 0 or sent >= 0:
            self.close_connection = True


class Elsewhere:
    """Another host: gives ``body`` for whatever is asked, and keeps the headers that it was sent."""

    def __init__(self, body: bytes) -> None:
        seen: list[dict[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Nothing on stderr."""

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                seen.append({key.lower(): value for key, value in self.headers.items()})
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

        self.seen = seen
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/file"

    def __enter__(self) -> Elsewhere:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
