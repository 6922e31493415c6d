"""The service as a process of its own, and requests to it: what the load test and the tests share. Linux."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from load_uploads import Request

KIT = Path(__file__).resolve().parent
WAIT_S = 60.0


class Running:
    """``service.py`` in a process of its own.

    Attributes:
        port: that it listens on.
        token: that it expects.
        log: its standard error.
        temporary: its TMPDIR.
    """

    def __init__(
        self, model: Path, folder: Path, *options: str, before: Callable[[], None] | None = None,
        python: str = sys.executable,
    ) -> None:  # fmt: skip
        self.token = secrets.token_urlsafe(24)
        (folder / "token").write_text(self.token, encoding="ascii")
        command = [python, str(KIT / "service.py"), "--model", str(model), "--port", "0", "--device", "cpu"]
        self.log, self.temporary = folder / "service.log", folder / "tmp"
        self.temporary.mkdir()
        command += ["--token-file", str(folder / "token"), *options]
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(  # noqa: S603 - our own script
                command,
                stderr=stream,
                preexec_fn=before or foreground,
                env={**os.environ, "TMPDIR": str(self.temporary)},
            )
        self.port = self._port()

    def _port(self) -> int:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            for line in self.log.read_text().splitlines():
                if '"listening"' in line and line.endswith("}"):
                    return int(json.loads(line)["url"].rpartition(":")[2])
            time.sleep(0.05)
        self.process.kill()
        raise RuntimeError(f"the service did not start: {self.log.read_text()[-500:]}")

    def get(self, path: str) -> str:
        """The body of a GET."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Authorization": f"Bearer {self.token}"})
            return connection.getresponse().read().decode()

    def send(self, request: Request) -> tuple[int, dict[str, Any]]:
        """One POST: status, 0 without an answer, and the answer."""
        token = self.token if request.token else "wrong"
        length = len(request.body) if request.declared is None else request.declared
        head = (
            f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n"
            f"Content-Type: {request.content_type}\r\nContent-Length: {length}\r\n\r\n"
        )
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S) as connection:
                with contextlib.suppress(ConnectionError):  # refused before all was sent: the answer may be there
                    connection.sendall(head.encode() + request.body[: request.sent])
                return (0, {}) if request.goes else _read(connection)
        except OSError:
            return 0, {}

    def resident_mb(self) -> float:
        """Of the service and its workers."""
        return sum(_resident_kb(process) for process in (self.process.pid, *self.children())) / 1024

    def children(self) -> list[int]:
        """Process ids of the workers."""
        pid = self.process.pid
        with contextlib.suppress(OSError):
            return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; its exit code."""
        self.process.send_signal(number)
        try:
            return self.process.wait(WAIT_S)
        finally:
            self.process.kill()


def foreground() -> None:
    """What a shell starts in the background ignores Ctrl-C, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _read(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    answer = http.client.HTTPResponse(connection)
    try:
        answer.begin()
        return answer.status, json.loads(answer.read())
    except (http.client.HTTPException, ValueError):
        return 0, {}


def _resident_kb(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    return 0
