"""What the tests of the page share: the process that serves it, and a proxy that hears what leaves the machine."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from socket_guard import LOOPBACK

# Whatever page is open, Chromium itself asks its maker for the time, for updates and for what fields are for; no switch
# stops all of it. Fonts, which pages ask for, are of the same maker.
_CHROMIUMS_OWN = re.compile(r"[/ .](?!fonts)[a-z0-9-]+\.(google|googleapis|gvt1)\.com[:/]")
ROOT = Path(__file__).resolve().parents[2]
SPACE = ROOT / "export" / "space"


@dataclass(frozen=True)
class Served:
    """The page of a process that runs.

    Attributes:
        address: ``http://127.0.0.1:port``.
        temporary: where the process keeps temporary files.
        log: its standard error.
        process: the process itself.
    """

    address: str
    temporary: Path
    log: Path
    process: subprocess.Popen[str]

    @property
    def uploads(self) -> list[str]:
        """Names of temporary files with anything in them."""
        return [path.name for path in self.temporary.rglob("*") if path.is_file() and path.stat().st_size]


def _listen_to_ctrl_c() -> None:
    """What a shell starts in the background ignores it, and so do its children: this very test run, perhaps."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def serving(folder: Path, *arguments: object) -> Iterator[Served]:
    """``app.py`` as a user starts it: loopback and nothing else, temporary files in one place. SIGTERM at the end.

    Stopped so, it must leave nothing in the folder for temporary files.
    """
    temporary, log = folder / "temporary", folder / "stderr"
    temporary.mkdir()
    path = os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])
    environment = {**os.environ, LOOPBACK: "1", "PYTHONPATH": path, "TMPDIR": str(temporary)}
    command = [sys.executable, str(SPACE / "app.py"), *map(str, arguments), "--port", "0"]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stream, text=True, env=environment, preexec_fn=_listen_to_ctrl_c
        )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), log.read_text()
        yield Served(address, temporary, log, process)
        if process.poll() is None:
            process.terminate()
            assert process.wait(30) == 143
        assert list(temporary.glob("prostate-mim-space-*")) == []
    finally:
        process.kill()
        process.wait()


@dataclass
class Proxy:
    """What a browser would send anywhere but to this machine ends here, and is written down.

    Attributes:
        address: ``127.0.0.1:port``.
        heard: first line of each request.
    """

    address: str
    heard: list[str] = field(default_factory=list)

    @property
    def foreign(self) -> list[str]:
        """What was heard, without what Chromium asks its maker whatever page is open."""
        return [line for line in self.heard if not _CHROMIUMS_OWN.search(line)]


@contextmanager
def listening_proxy() -> Iterator[Proxy]:
    """Refuses all that it hears."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = Proxy(f"127.0.0.1:{listening.getsockname()[1]}")

        def answer() -> None:
            with suppress(OSError):
                while True:
                    asked, _ = listening.accept()
                    with asked:
                        made.heard.append(asked.recv(4096).split(b"\r\n")[0].decode(errors="replace"))
                        asked.sendall(b"HTTP/1.1 502 no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        yield made
