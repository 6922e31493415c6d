"""The cache of huggingface_hub and the temporary folder: can they be written, and is there room."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from prostate_mim.doctor.commands import either, quoted, set_variable
from prostate_mim.doctor.finding import Finding, State, one_line, some
from prostate_mim.errors import ProstateMimError
from prostate_mim.files import make_folder

CACHE, TEMPORARY = "cache-folder", "temporary-folder"
LEAST_MB, WANTED_MB = 200, 2000
"""Free space under which a check is a fault, and a warning: one model with its ONNX file, and several with a cohort."""
_MB = 1_000_000
_MOST_LOOKED_AT = 500


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where huggingface_hub keeps what it fetches; the same rules as its own, without importing it."""
    base = environ.get("XDG_CACHE_HOME", os.path.join(os.path.expanduser("~"), ".cache"))
    home = _expanded(environ.get("HF_HOME", os.path.join(base, "huggingface")))
    legacy = environ.get("HUGGINGFACE_HUB_CACHE", os.path.join(home, "hub"))
    return Path(_expanded(environ.get("HF_HUB_CACHE", legacy)))


def _expanded(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))


def check_cache(folder: Path, *, offline: bool = False) -> Finding:
    """Whether models can be fetched into it: writable, one's own, on a disk with room. Nothing is made there.

    Args:
        offline: nothing will be fetched; a folder that can be read is enough.
    """
    move = set_variable("HF_HOME", "/a/folder/of/yours")
    there = _first_that_exists(folder)
    if not there.is_dir():
        kind = "a dead link" if there.is_symlink() and not there.exists() else "a file"
        found = f"{folder} cannot be a folder: {there} is {kind}"
        return Finding(CACHE, "fault", found, either(_remove(there), f"or: {move}"))
    if offline:
        return Finding(
            CACHE, "ok", f"{folder}: {'' if folder.exists() else 'not there; '}offline, nothing goes into it"
        )
    reason = _unwritable(there)
    if reason:
        owner = _owner(there)
        by = f"; it belongs to {owner}" if owner else ""
        mend = either(_own(there), f"or: {move}") if owner else move
        return Finding(CACHE, "fault", f"{reason}{by}", mend)
    foreign = _foreign(folder)
    if foreign:
        found = f"{folder}: {some(foreign)} cannot be written or belong to somebody else"
        return Finding(CACHE, "warning", found, _own(folder))
    if not folder.is_absolute():
        found = f"{folder} is relative: every working folder gets a cache of its own"
        return Finding(CACHE, "warning", found, move)
    made = "" if folder.exists() else "not made yet, "
    return _room(CACHE, folder, there, made, move)


def check_temporary(environ: Mapping[str, str]) -> Finding:
    """Whether there is one, the one that was asked for, with room."""
    move = set_variable("TMPDIR" if sys.platform != "win32" else "TEMP", "/a/folder/with/room")
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        return Finding(TEMPORARY, "fault", f"there is none that can be written ({one_line(str(error), 200)})", move)
    reason = _unwritable(folder)
    if reason:
        return Finding(TEMPORARY, "fault", reason, move)
    asked = environ.get("TMPDIR", "")
    if asked and Path(os.path.abspath(asked)) != Path(os.path.abspath(folder)):
        found = f"TMPDIR is {asked!r}, which cannot be written; {folder} is taken in its place"
        return Finding(TEMPORARY, "warning", found, move)
    return _room(TEMPORARY, folder, folder, "", move)


def _room(name: str, folder: Path, there: Path, made: str, move: str) -> Finding:
    try:
        free = shutil.disk_usage(there).free // _MB
    except OSError as error:
        return Finding(name, "warning", f"{folder}: its free space cannot be told ({error.strerror})", move)
    found = f"{folder}: {made}{_size(free)} free"
    if free < WANTED_MB:
        state: State = "fault" if free < LEAST_MB else "warning"
        least = _size(LEAST_MB if state == "fault" else WANTED_MB)
        return Finding(name, state, f"{found}, less than {least}", either(move, "or free some space"))
    return Finding(name, "ok", found)


def _size(megabytes: int) -> str:
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes} MB"


def _unwritable(folder: Path) -> str:
    """Why a folder that exists cannot be written; empty if it can."""
    try:
        make_folder(folder)
    except ProstateMimError as error:
        return one_line(str(error)).partition(";")[0]
    return ""


def _first_that_exists(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists; a dead link counts."""
    for path in (folder, *folder.parents):
        with suppress(OSError):
            if path.exists() or path.is_symlink():
                return path
    return Path.cwd()


def _foreign(folder: Path) -> list[str]:
    """Names of what lies in the cache, two levels deep, and cannot be written or is somebody else's: after one sudo."""
    found = []
    for number, entry in enumerate(_two_levels(folder)):
        if number == _MOST_LOOKED_AT:
            break
        with suppress(OSError):
            if not os.access(entry, os.W_OK) or _owner(entry):
                found.append(entry.relative_to(folder).as_posix())
    return found


def _two_levels(folder: Path) -> list[Path]:
    entries: list[Path] = []
    with suppress(OSError):
        for entry in sorted(folder.iterdir()):
            entries.append(entry)
            if entry.is_dir() and not entry.is_symlink():
                entries.extend(sorted(entry.iterdir()))
    return entries


def _owner(path: Path) -> str:
    """Who else a path belongs to; empty if to whoever runs this, or where nobody can tell."""
    if sys.platform == "win32":
        return ""
    with suppress(OSError):
        owner = path.lstat().st_uid
        if owner != os.geteuid():
            return f"user {owner}"
    return ""


def _own(path: Path) -> str:
    return f'sudo chown -R "$(id -u)" {quoted(str(path))}' if sys.platform != "win32" else "take its ownership"


def _remove(path: Path) -> str:
    return f"rm {quoted(str(path))}" if sys.platform != "win32" else f"del {quoted(str(path))}"
