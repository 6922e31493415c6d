"""The only code that opens a file for writing: temporary name in the same folder, fsync, rename. Folders likewise."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prostate_mim.errors import ProstateMimError, ResourceError, UsageError


def explain_os_error(error: OSError, path: Path) -> ProstateMimError:
    """Turn an operating-system refusal to write ``path`` into one of our one-line errors."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ResourceError(f"{path}: no space left on the disk; free some space, or write to another disk")
    reason = os.strerror(error.errno) if error.errno else str(error)
    return UsageError(f"{path}: cannot be written ({reason}); choose a folder you may write to")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is flushed to disk and renamed to ``path``.

    Nothing is left behind when the body raises. The suffix of ``path`` is kept, because writers such as
    nibabel choose the format by it.

    Raises:
        UsageError: the folder does not exist or may not be written.
        ResourceError: the disk is full.
    """
    final = Path(path)
    suffix = "".join(final.suffixes[-2:])
    try:
        handle, name = tempfile.mkstemp(prefix=f".{final.name}.", suffix=f".tmp{suffix}", dir=final.parent)
        os.close(handle)
    except OSError as error:
        raise explain_os_error(error, final) from error
    temporary = Path(name)
    try:
        yield temporary
        _flush(temporary)
        temporary.chmod(0o644)
        temporary.replace(final)
        _flush_folder(final.parent)
    except OSError as error:
        raise explain_os_error(error, final) from error
    finally:
        with suppress(OSError):  # the folder may be gone; that is not what the user should hear of
            temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power failure, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    write_bytes(path, text.encode())


def append_line(path: str | Path, line: str) -> None:
    """Append one line to a log that only ever grows (metrics as JSON lines)."""
    try:
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
    except OSError as error:
        raise explain_os_error(error, Path(path)) from error


def make_folder(path: str | Path) -> Path:
    """Create ``path`` (and parents) and make sure it can be written now, not after an hour of work."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise explain_os_error(error, folder) from error
    return folder


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; when the body has filled it, it is renamed to ``path``.

    Nothing is left behind when the body raises.

    Args:
        path: must not exist yet, or be an empty folder; folders above it are made.

    Raises:
        UsageError: something is there already, or the folder cannot be written.
        ResourceError: the disk is full.
    """
    final = Path(path)
    temporary = _temporary_beside(final)
    try:
        yield temporary
        temporary.chmod(0o755)
        if final.exists():
            final.rmdir()
        temporary.rename(final)
    except (ResourceError, UsageError) as error:  # it names the temporary folder, which nobody asked for
        raise type(error)(str(error).replace(temporary.name, final.name)) from error
    except OSError as error:
        raise explain_os_error(error, final) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary_beside(final: Path) -> Path:
    try:
        if final.exists() and (not final.is_dir() or any(final.iterdir())):
            raise UsageError(f"{final}: already exists and is not empty; choose another folder or remove it")
        make_folder(final.parent)
        return Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".tmp", dir=final.parent))
    except OSError as error:
        raise explain_os_error(error, final) from error


@contextmanager
def file_lock(path: Path, timeout_s: float = 0.0) -> Iterator[bool]:
    """Hold the lock that ``path`` (made if need be) stands for; yields False where another process holds it.

    The operating system owns the lock and frees it when its holder dies, however it dies.

    Raises:
        UsageError: the folder may not be written, or its file system has no locks.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout_s, poll_interval=0.02)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise explain_os_error(error, path.parent) from error
    try:
        if isinstance(lock, SoftFileLock):  # what it falls back to would outlive a killed process
            raise UsageError(f"{path.parent}: its file system has no file locks; choose a folder on another one")
        yield True
    finally:
        lock.release()


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
