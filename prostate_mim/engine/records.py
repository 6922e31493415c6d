"""run.json: what ran, on what, when, and which weights came out. Plain JSON with a closed list of keys.

No path, no host name and no identifier of a patient is in it: the command line keeps its words and numbers, and
what looks like a path becomes ``<path>``.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from prostate_mim._version import __version__
from prostate_mim.errors import UsageError, nearest
from prostate_mim.files import sha256_of, write_text

NAME = "run.json"
FORMAT = 2
PACKAGES = ("torch", "monai", "accelerate", "numpy", "scipy", "blosc2", "safetensors", "nibabel", "SimpleITK")
GIVEN_AT_BEGIN = ("task", "step", "ranks", "seed", "data_fingerprint", "counts", "allowed_overlap")
GIVEN_AT_FINISH = ("step", "weights_sha256")
KEYS = (
    "format", "task", "code", "packages", "hardware", "ranks", "seed", "command", "data_fingerprint", "counts",
    "allowed_overlap", "started", "resumed", "finished", "finished_step", "weights_sha256",
)  # fmt: skip
_SOURCE = Path(__file__).resolve().parents[1]
_OPTION = re.compile(r"--?[A-Za-z][A-Za-z0-9_-]*$")
# A file's ending: .csv, .nii.gz, .safetensors; not 0.5, 1e-3 or resenc-s.mim-t2w.
_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,11}$")


def begin_record(run: Path, values: Mapping[str, Any]) -> None:
    """Write ``run/run.json`` as a process of the run begins; what an earlier process wrote stays.

    A later process adds ``{"step", "time"}`` to ``resumed``, and to that ``"changed"`` with what is no longer as in
    the record (code, packages, hardware, ranks, data); the run counts as unfinished again.

    Args:
        values: any of ``GIVEN_AT_BEGIN``: task ("pretrain"), step (done before this process; 0 anew), ranks
            (processes), seed, data_fingerprint (of the store's entries), counts (name -> number, such as studies),
            allowed_overlap (what ``--allow-overlap`` let pass, one line each).

    Raises:
        UsageError: an unknown key, or a value that is not plain JSON; or the folder cannot be written.
        ResourceError: the disk is full.
    """
    given = _closed(values, GIVEN_AT_BEGIN)
    step = int(given.pop("step", 0))
    now = {**_circumstances(), **given}
    record = read_record(run)
    if record is None:
        record = {**dict.fromkeys(KEYS), "format": FORMAT, **now, "started": _utc(), "resumed": []}
        if step:
            record["resumed"].append({"step": step, "time": _utc()})
    else:
        entry: dict[str, Any] = {"step": step, "time": _utc()}
        changed = {key: value for key, value in now.items() if key != "command" and record[key] != value}
        record["resumed"].append({**entry, "changed": changed} if changed else entry)
        record.update(finished=None, finished_step=None, weights_sha256=None)
    _write(run, record)


def finish_record(run: Path, **values: Any) -> None:
    """Add the end of the run: the time, and any of ``GIVEN_AT_FINISH``.

    Args:
        values: step (optimiser steps done), weights_sha256 (of the published weights, 64 hex digits).

    Raises:
        UsageError: an unknown key, or a value that is not plain JSON; or the folder cannot be written.
        ResourceError: the disk is full.
    """
    given = _closed(values, GIVEN_AT_FINISH)
    record = read_record(run)
    if record is None:  # lost or damaged on the way: what can still be said is
        record = {**dict.fromkeys(KEYS), "format": FORMAT, **_circumstances(), "resumed": []}
    record.update(finished=_utc(), finished_step=given.get("step"), weights_sha256=given.get("weights_sha256"))
    _write(run, record)


def read_record(run: Path) -> dict[str, Any] | None:
    """The record of a run folder, or None; a damaged one is set aside as ``run.json.damaged``, aloud."""
    path = run / NAME
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if sorted(record) != sorted(KEYS) or record["format"] != FORMAT or not isinstance(record["resumed"], list):
            raise ValueError("its keys are not those of this format")
    except (ValueError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        sys.stderr.write(f"warning: {NAME} is damaged ({reason}); set aside as {NAME}.damaged, a new one begins\n")
        path.replace(run / f"{NAME}.damaged")
        return None
    return dict(record)


def without_paths(text: str, *, look: bool = False) -> str:
    """``text``, or ``<path>`` where it is one: a separator, a leading ``~`` or ``.``, or the ending of a file.

    Args:
        look: count a word that exists on the disk as a path too (``--out runs``).
    """
    option, equals, value = text.partition("=")
    if equals and _OPTION.match(option):
        return f"{option}={without_paths(value, look=look)}"
    separated = "/" in text or "\\" in text or text.startswith(("~", ".."))
    looks_like_one = separated or text == "." or _ENDING.search(text) is not None
    return "<path>" if looks_like_one or (look and text and os.path.lexists(text)) else text


def command_line(arguments: Sequence[str]) -> list[str]:
    """A command without its paths: ``["/x/bin/prostate-mim", "pretrain", "/data/m.csv"]`` keeps the first two words."""
    if not arguments:
        return []
    return [Path(arguments[0]).name, *(without_paths(argument, look=True) for argument in arguments[1:])]


def source_fingerprint(folder: Path = _SOURCE) -> str:
    """SHA-256 over the names and contents of the ``.py`` files of the package, 64 hex digits."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        total.update(f"{path.relative_to(folder).as_posix()}\0{sha256_of(path)}\n".encode())
    return total.hexdigest()


def _closed(values: Mapping[str, Any], allowed: tuple[str, ...]) -> dict[str, Any]:
    for key in values:
        if key not in allowed:
            near = nearest(key, allowed, 0)
            raise UsageError(f"{NAME}: {key!r} is no key of a record; did you mean {near}? ({', '.join(allowed)})")
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(values), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{NAME}: a value is not plain JSON ({error}); give words and finite numbers") from error
    return {key: without_paths(value) if isinstance(value, str) else value for key, value in plain.items()}


def _circumstances() -> dict[str, Any]:
    return {"code": _code(), "packages": _packages(), "hardware": _hardware(), "command": command_line(sys.argv)}


def _code(folder: Path = _SOURCE) -> dict[str, Any]:
    """Version and hash of the sources; commit and dirty flag where the package lies in its own checkout."""
    found: dict[str, Any] = {"version": __version__, "source_sha256": source_fingerprint(folder)}
    # An installation inside somebody else's repository must not be given that one's commit.
    if (folder.parent / ".git").exists():
        commit = _git(folder.parent, "rev-parse", "HEAD")
        changes = _git(folder.parent, "status", "--porcelain", "--", folder.name)
        found |= {"commit": commit, "dirty": None if changes is None else bool(changes)}
    return found


def _git(folder: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603 - no shell
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _packages() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _hardware() -> dict[str, Any]:
    """CPU model, cores this process may use, memory in bytes, and the GPUs torch sees."""
    import torch

    gpus = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": usable,
        "memory_bytes": _memory_bytes(),
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in gpus],
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None  # not on this system


def _utc() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _write(run: Path, record: dict[str, Any]) -> None:
    write_text(run / NAME, json.dumps(record, indent=2, allow_nan=False) + "\n")
