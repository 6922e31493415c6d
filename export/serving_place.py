"""Where the service lives: its socket, and its private folder, which also goes when an earlier service was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prostate_mim.errors import UsageError

_PREFIX = "prostate-mim-service-"


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket bound to an address; nobody can connect yet.

    Raises:
        UsageError: no such address, or it is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.closing(bound):
            bound.bind(address)
            yield bound
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"{host}, port {port}: cannot listen ({reason}); choose another --host or --port") from None


@contextmanager
def private_root() -> Iterator[Path]:
    """A folder that only this user reads, locked while the service runs and removed with it.

    Raises:
        UsageError: temporary files cannot be written.
    """
    base = Path(tempfile.gettempdir())
    _remove_left_behind(base)
    try:
        root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    except OSError as error:
        raise UsageError(f"{base}: uploads cannot be written ({error.strerror}); set TMPDIR to a folder") from None
    handle = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)
        os.close(handle)


def _remove_left_behind(base: Path) -> None:
    """Folders of services that were killed: the lock went with them."""
    for folder in base.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(handle)
