"""The tests have no network: what reaches for it is refused, in this process and in others, and is seen."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from socket_guard import LOG, LOOPBACK, LOOPBACK_USERS, NetworkRefusedError, is_local

DOCUMENTATION = ("192.0.2.1", 80)  # a block that belongs to nobody (RFC 5737)
HERE = Path(__file__).resolve().parent


def connect() -> None:
    with socket.socket() as client:
        client.settimeout(0.5)
        client.connect(DOCUMENTATION)


def listen() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))


def send() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.sendto(b"name", DOCUMENTATION)


REACHING: dict[str, Callable[[], object]] = {
    "socket.connect 192.0.2.1": connect,
    "socket.bind 127.0.0.1": listen,
    "socket.sendto 192.0.2.1": send,
    "socket.getaddrinfo example.org": lambda: socket.getaddrinfo("example.org", 443),
    "socket.gethostbyname example.org": lambda: socket.gethostbyname("example.org"),
}


@pytest.mark.parametrize("what", REACHING)
def test_this_process_is_refused(what: str, nothing_is_sent: list[str]) -> None:
    """To connect, to listen, to send, to look a name up: refused, and written down even where it is swallowed."""
    with pytest.raises(NetworkRefusedError, match=what):
        REACHING[what]()
    (line,) = Path(os.environ[LOG]).read_text().splitlines()[-1:]
    assert line.startswith(f"{what} by ")
    nothing_is_sent.append(line)


def child(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


CODE = (
    f"import socket\ntry: socket.create_connection({DOCUMENTATION}, 0.5)\nexcept OSError as e: print(type(e).__name__)"
)


def test_a_child_is_refused(nothing_is_sent: list[str], tmp_path: Path) -> None:
    """A Python process that a test starts has no network either; its attempt fails the test that started it."""
    log = tmp_path / "refused.log"
    done = child(CODE, **{LOG: str(log)})
    assert done.stdout.strip() == "NetworkRefusedError", done.stderr
    assert [line.split(" by ")[0] for line in log.read_text().splitlines()] == [
        f"socket.getaddrinfo {DOCUMENTATION[0]}"
    ]
    done = child(CODE)  # by default it is this run's list, which the fixture above compares
    nothing_is_sent += Path(os.environ[LOG]).read_text().splitlines()[-1:]
    assert len(nothing_is_sent) == 1


def test_without_the_guard_a_child_is_not_refused() -> None:
    """The control: it is the guard that refuses, not this machine's lack of a network."""
    listening = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print('bound')"
    assert child(listening, PYTHONPATH="").stdout.strip() == "bound"
    assert child(listening, **{LOOPBACK: "1"}).stdout.strip() == "bound"


def test_somebody_elses_sitecustomize_still_runs(tmp_path: Path) -> None:
    """Python imports one module of that name; the one that was there before is not lost."""
    (tmp_path / "sitecustomize.py").write_text("MARK = 'theirs'\n")
    path = os.pathsep.join([os.environ["PYTHONPATH"], str(tmp_path)])
    done = child("import sitecustomize; print(sitecustomize.MARK)\n" + CODE, PYTHONPATH=path, **{LOG: os.devnull})
    assert done.stdout.split() == ["theirs", "NetworkRefusedError"], done.stderr


def test_unix_sockets_are_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of a loader hand file descriptors over them."""
    here, there = socket.socketpair()
    here.sendmsg([b"a"])
    assert there.recv(1) == b"a"
    monkeypatch.chdir(tmp_path)  # such a path has room for about 100 letters
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("short")
        server.listen()
        client.connect("short")
    here.close()
    there.close()


def test_what_is_local() -> None:
    """By hand."""
    assert all(is_local(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost", socket.gethostname()))
    assert not any(is_local(host) for host in ("", "192.168.0.1", "169.254.169.254", "example.org"))
    assert is_local("", wildcard=True)
    assert not is_local("127.0.0.1.example.org")


def test_who_may_use_loopback_is_there() -> None:
    """Every entry of the list names tests that exist."""
    assert [name for name in LOOPBACK_USERS if not (HERE.parent / name).exists()] == []
