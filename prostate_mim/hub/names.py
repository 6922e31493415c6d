"""Names that come from outside: of repositories, revisions and files. What is not plainly harmless is refused."""

from __future__ import annotations

import re

from prostate_mim.errors import UsageError

_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.+-]{0,94}[A-Za-z0-9_+-])?")
_FILE_PART = re.compile(r"[A-Za-z0-9_.](?:[A-Za-z0-9_.+ -]{0,118}[A-Za-z0-9_+-])?")
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_./-]{0,118}[A-Za-z0-9_-])?")
COMMIT = re.compile(r"[0-9a-f]{40}")
# Devices of Windows, whatever follows the first dot.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{name}{number}" for name in ("com", "lpt") for number in range(10))}
_DEEPEST = 6


def checked_id(text: str) -> str:
    """``org/name``, as it is.

    Raises:
        UsageError: anything that could leave a folder, be hidden, or be another file on another system.
    """
    parts = text.split("/")
    if len(parts) != 2 or not all(_PART.fullmatch(part) and _is_harmless(part) for part in parts):
        raise UsageError(f"repository {_shown(text)}: expected org/name, of letters, digits and . _ - +")
    if parts[1].endswith(".git") or ".." in text or "--" in text:
        raise UsageError(f"repository {_shown(text)}: a name has no '..' and no '--', and does not end in .git")
    return text


def checked_path(text: str) -> str:
    """A file's path within a repository, with ``/``, as it is.

    Raises:
        UsageError: absolute, upward, hidden (but ``.gitattributes`` and ``.gitignore``), a device, too deep or long.
    """
    parts = text.split("/")
    plain = len(parts) <= _DEEPEST and all(_FILE_PART.fullmatch(part) and _is_harmless(part) for part in parts)
    hidden = [part for part in parts if part.startswith(".") and part not in (".gitattributes", ".gitignore")]
    if not plain or hidden or ".." in text:
        raise UsageError(
            f"file {_shown(text)}: expected a path within the repository, at most {_DEEPEST} names of letters, digits, "
            "spaces and . _ - +"
        )
    return text


def checked_revision(text: str) -> str:
    """A commit, branch or tag, as it is.

    Raises:
        UsageError: not a name of one.
    """
    if not _REVISION.fullmatch(text) or ".." in text or "//" in text:
        raise UsageError(f"revision {_shown(text)}: expected a commit, a branch or a tag")
    return text


def _is_harmless(part: str) -> bool:
    return part.partition(".")[0].lower() not in _DEVICES


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
