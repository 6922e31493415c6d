"""What an entry is called: a hash of everything that decides its voxels. Another file, spec or code is another name."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from prostate_mim._version import __version__
from prostate_mim.errors import NotFoundError
from prostate_mim.files import sha256_of
from prostate_mim.manifest import ManifestRow
from prostate_mim.spec import IMAGE, InputSpec

FORMAT = 2
"""Version of the files of an entry."""

_DECIDING = ("spec.py", "preprocess.py", "studies.py", "volume", "store")
_HEADER = 1 << 16
_DATA_FILE = re.compile(rb"\s*(?:ElementDataFile|data ?file)\s*[:=]\s*(.+?)\s*$", re.IGNORECASE)


def canonical(values: object) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(text: str) -> str:
    """SHA-256 of a text, 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def code_fingerprint() -> str:
    """Hash of the package's version and of the source of every module that decides stored voxels."""
    package = resources.files("prostate_mim")
    sources: dict[str, str] = {}
    for name in _DECIDING:
        part = package / name
        modules = [part] if part.is_file() else [item for item in part.iterdir() if item.name.endswith(".py")]
        for module in modules:
            sources[f"{name}/{module.name}"] = hashlib.sha256(module.read_bytes()).hexdigest()
    return digest(canonical({"version": __version__, "sources": sources}))


def entry_key(row: ManifestRow, spec: InputSpec, code: str, where: str) -> str:
    """The name of a row's entry.

    Args:
        row: its files are hashed whole, whatever their sizes and times say.
        spec: with the size of the region.
        code: ``code_fingerprint()``.
        where: how messages name the row.

    Raises:
        NotFoundError: a file is gone or cannot be read.
    """
    values: dict[str, Any] = {
        "format": FORMAT,
        "code": code,
        "spec": spec.with_channels(IMAGE).to_dict(),  # masks are stored whatever the network looks at
        "sha256": row.sha256,  # stated by the manifest: the reader compares it, so a changed one is no hit
        "spacing_mm_zyx": row.spacing_mm_zyx,
        "position_mm_lps": row.position_mm_lps,
        "is_crop": row.is_crop,
        "level": row.level,
    }
    for name in ("t2w", "gland_mask", "lesion_mask", "zone_mask"):
        path: Path | None = getattr(row, name)
        try:
            values[name] = None if path is None else content_hash(path)
        except OSError:
            raise NotFoundError(
                f"{where} ({name}): the file is no longer there or may not be read; check the path in the manifest"
            ) from None
    return digest(canonical(values))


def content_hash(path: Path) -> str:
    """SHA-256 of what a volume consists of: one file, a header with its data file, or a folder of slices.

    Raises:
        OSError: it cannot be read.
    """
    if not path.is_file() and not path.is_dir():
        raise OSError("neither a file nor a folder")  # a pipe or a device would be read for ever
    if path.is_dir():
        parts = sorted(item for item in path.iterdir() if item.is_file() and not item.name.startswith("."))
    else:
        parts = list(_data_files(path))
        if not parts:
            return sha256_of(path)
        parts.append(path)
    return digest(canonical([[part.name, sha256_of(part)] for part in parts]))


def _data_files(path: Path) -> Iterator[Path]:
    """Files beside a MetaImage or NRRD header that hold its voxels."""
    if path.suffix.lower() not in (".mhd", ".mha", ".nrrd"):
        return
    with path.open("rb") as stream:
        lines = stream.read(_HEADER).splitlines()
    for line in lines:
        found = _DATA_FILE.match(line)
        name = found.group(1).decode("latin-1") if found else ""
        if name and len(name) < 200 and not set(name) & set("/\\\0"):
            data = path.parent / name
            if data.is_file() and data != path:
                yield data
