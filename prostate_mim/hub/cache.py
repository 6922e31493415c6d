"""Releases from a hub through huggingface_hub's cache; what is damaged there is put apart and fetched once more.

huggingface_hub compares lengths, and only while it downloads; a file that lies in its cache is trusted for ever. So
every file is compared with SHA256SUMS at every load, here.
"""

from __future__ import annotations

import errno
import time
from contextlib import suppress
from pathlib import Path

from prostate_mim.errors import IntegrityError, NetworkError, NotFoundError, ProstateMimError, UsageError
from prostate_mim.files import explain_os_error, file_lock
from prostate_mim.hub.release import CONFIG, FILES, damaged_files, verify_sums

QUARANTINE = "quarantine"
_ORPHAN_S = 60.0
"""A download that writes nothing for so long is dead: huggingface_hub itself gives up after 10 s of silence."""
_RELINKED_S = (0.02, 0.1, 0.4, 1.0)
# What only this machine's disk says; everything else that goes wrong while fetching is the hub's or the network's.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)


def fetch(repository: str, revision: str) -> Path:
    """The verified files of a release at one revision, in huggingface_hub's cache.

    A damaged file there is moved into ``quarantine/`` beside it and fetched once more; one that the hub itself gives
    damaged stays out of the cache.

    Args:
        repository: ``org/name``.
        revision: commit, tag or branch.

    Returns:
        The snapshot's folder; its name is the commit.

    Raises:
        NotFoundError: no such repository or revision, or it holds no release.
        NetworkError: the hub cannot be reached, and the cache does not hold the release.
        IntegrityError: the hub gave other bytes than the release was made of.
        UsageError, ResourceError: the cache cannot be written, or the disk is full.
    """
    name = f"{repository}@{revision}"
    folder = _snapshot(repository, revision)
    _sweep(folder)
    damaged = _put_apart(folder)
    if damaged:
        try:
            folder = _snapshot(repository, revision)
        except ProstateMimError as error:
            raise _explain_damage(name, folder, damaged) from error
        again = _put_apart(folder)
        if again:
            raise IntegrityError(
                f"{name}: the hub gives {again[0]} otherwise than the release's SHA256SUMS says; it was put apart in "
                f"{_home(folder) / QUARANTINE}; tell whoever publishes it"
            )
        if not all((folder / one).exists() for one in damaged):  # offline, huggingface_hub gives what it has
            raise _explain_damage(name, folder, damaged)
    _check(name, folder)
    return folder


def _check(name: str, folder: Path) -> None:
    """Refuse a snapshot that is no whole release.

    Where file systems have no locks, another process may fetch the same: huggingface_hub removes a link before it makes
    it again. So what is missing is looked for once more, a little later.
    """
    for pause_s in (*_RELINKED_S, None):
        try:
            if not (folder / CONFIG).is_file():
                raise NotFoundError(f"{name}: the repository holds no release of this package (no {CONFIG})")
            verify_sums(folder)
        except (NotFoundError, IntegrityError, FileNotFoundError):
            if pause_s is None:
                raise
            time.sleep(pause_s)
        else:
            return


def _snapshot(repository: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(FILES)))
    except MemoryError:
        raise
    except Exception as error:  # errors of its HTTP client (httpx or httpx2, by version) pass through it
        raise _explain(error, f"{repository}@{revision}", revision) from error


def _sweep(folder: Path) -> None:
    """Remove what killed downloads of this repository left: huggingface_hub begins anew each time, under a new name.

    Such a file goes if nothing was written to it for a while and nobody holds its lock; a cache that cannot be written
    keeps it.
    """
    home = _home(folder)
    for left in (home / "blobs").glob("*.incomplete"):
        lock = home.parent / ".locks" / home.name / f"{left.name.partition('.')[0]}.lock"
        with suppress(OSError, UsageError):
            if time.time() - left.stat().st_mtime > _ORPHAN_S and lock.parent.is_dir():
                with file_lock(lock) as mine:
                    if mine:
                        left.unlink(missing_ok=True)


def _put_apart(folder: Path) -> list[str]:
    """Move every damaged file of a snapshot out of it; returns their names."""
    damaged = damaged_files(folder)
    for name in damaged:
        link = folder / name
        blob = link.resolve()  # the snapshot holds links where the system has them
        apart = _home(folder) / QUARANTINE / f"{time.time_ns()}-{name}"
        try:
            with suppress(FileNotFoundError):  # another process was faster
                apart.parent.mkdir(exist_ok=True)
                blob.replace(apart)
                link.unlink(missing_ok=True)
        except OSError as error:
            raise IntegrityError(
                f"{link}: the cached file is damaged and cannot be put apart ({error.strerror}); remove it, or set "
                "HF_HOME to a folder you may write to"
            ) from error
    return damaged


def _home(folder: Path) -> Path:
    """``models--org--name``, the cache's folder of the repository that ``folder`` is a snapshot of."""
    return folder.parent.parent


def _explain_damage(name: str, folder: Path, damaged: list[str]) -> IntegrityError:
    return IntegrityError(
        f"{name}: the cached {damaged[0]} was damaged and was put apart in {_home(folder) / QUARANTINE}; it could not "
        "be fetched again: connect to the hub (HF_ENDPOINT, HF_HUB_OFFLINE), or copy the release folder here"
    )


def _explain(error: Exception, name: str, revision: str) -> ProstateMimError:
    """What a failed fetch means to who asked for it."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return NotFoundError(f"{name}: the repository is gated; accept its terms and log in first")
    if isinstance(error, RevisionNotFoundError):
        return NotFoundError(f"{name}: the repository exists, the revision {revision!r} does not")
    if isinstance(error, RepositoryNotFoundError):
        return NotFoundError(
            f"{name}: no such folder here, and no such repository on the hub, or it is private; check the spelling"
        )
    if isinstance(error, HFValidationError):
        return NotFoundError(f"{name}: no such folder here, and not a name that a hub allows; check the spelling")
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return explain_os_error(error, Path(error.filename or "the cache of huggingface_hub (HF_HOME)"))
    return NetworkError(
        f"{name}: no such folder here, and the hub did not answer as a hub does ({type(error).__name__}); "
        "check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or copy the release folder here"
    )
