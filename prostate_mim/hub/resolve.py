"""A name -> a local release folder: bundled with the package, a folder on disk, or org/name@revision on a hub."""

from __future__ import annotations

import difflib
import errno
import re
from pathlib import Path

from prostate_mim.errors import IntegrityError, NetworkError, NotFoundError, ProstateMimError
from prostate_mim.files import explain_os_error
from prostate_mim.hub.release import CONFIG, FILES, verify_sums

BUNDLED = Path(__file__).resolve().parent.parent / "weights"
BUNDLED_DEFAULT = "resenc-s.mim-t2w"
# What only this machine's disk says; everything else that goes wrong while fetching is the hub's or the network's.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?")


def list_models() -> list[str]:
    """Names that ``from_pretrained`` loads without a network."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{CONFIG}"))


def resolve(name: str | Path) -> Path:
    """Find the folder a name means; ``read_release`` verifies its contents.

    A run folder stands for the release inside it. A folder on disk wins over a hub name.

    Raises:
        NotFoundError: nothing has that name; the nearest bundled name is suggested.
        NetworkError: a hub name, and the hub cannot be reached.
        IntegrityError: the hub gave other bytes than the release was made of.
    """
    text = str(name)
    if text in list_models():
        return BUNDLED / text
    folder = _on_disk(text)
    if folder is not None and folder.is_dir():
        return folder if (folder / CONFIG).exists() or not (folder / "release").is_dir() else folder / "release"
    if folder is not None:
        raise NotFoundError(f"{text}: is a file; a model is a release folder, a bundled name or org/name@revision")
    if _HUB_NAME.fullmatch(text) and not text.startswith((".", "/")):
        return _from_hub(text)
    near = difflib.get_close_matches(text, list_models(), n=1, cutoff=0.3)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise NotFoundError(f"model {text!r}: no such bundled name or folder{hint} (prostate-mim list shows the names)")


def _on_disk(text: str) -> Path | None:
    try:
        folder = Path(text).expanduser()
        return folder if folder.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long for a path, no such home folder, a NUL inside
        return None


def _from_hub(name: str) -> Path:
    """Fetch the fixed list of release files at one revision through huggingface_hub's cache, and verify them.

    huggingface_hub compares lengths only, and keeps what it fetched; so a damaged file is found here, where the
    cache is known that must be removed before another fetch can help.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES)))
    except MemoryError:
        raise
    except Exception as error:  # errors of its HTTP client (httpx or httpx2, by version) pass through it
        raise _explain(error, name, revision or "main") from error
    if not (folder / CONFIG).is_file():
        raise NotFoundError(f"{name}: the repository holds no release of this package (no {CONFIG})")
    try:
        verify_sums(folder)
    except IntegrityError as error:
        raise IntegrityError(f"{error}; first remove the copy in the cache: {folder.parent.parent}") from error
    return folder


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
