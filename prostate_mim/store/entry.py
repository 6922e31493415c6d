"""One entry of a store: an array file and a JSON file. The JSON is written last, and without it there is no entry."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prostate_mim.errors import IntegrityError
from prostate_mim.files import explain_os_error, file_lock, make_folder, sha256_of, write_bytes, write_text
from prostate_mim.store.arrays import LABELS, VOXELS, StoredArray, StoredFile, encode
from prostate_mim.store.keys import FORMAT, canonical, digest
from prostate_mim.store.prepared import BITS, PreparedStudy
from prostate_mim.volume.geometry import Geometry

_ENTRIES, _LOCKS = "entries", "locks"
_LONGEST_JSON = 1 << 16
_FIELDS = {
    "format", "key", "array", "scale", "offset", "inside_zyx", "masks", "geometry", "voxel_hash", "digest",
}  # fmt: skip
_ARRAY_FIELDS = {"sha256", "shape"}
_GEOMETRY_FIELDS = {"spacing_mm_zyx", "origin_mm_lps", "direction"}


@dataclass(frozen=True)
class Entry:
    """Where one entry lies.

    Attributes:
        store: the store's folder.
        key: see ``entry_key``.
    """

    store: Path
    key: str

    @property
    def array(self) -> Path:
        """The blosc2 file."""
        return self.store / _ENTRIES / f"{self.key}.b2nd"

    @property
    def description(self) -> Path:
        """The JSON file."""
        return self.store / _ENTRIES / f"{self.key}.json"

    def read(self, *, mapped: bool, verify: bool) -> PreparedStudy | None:
        """Open the entry; None where there is none.

        Args:
            mapped: see ``StoredFile``.
            verify: read the whole array file and compare its hash.

        Raises:
            IntegrityError: it is damaged, or not what this version writes.
        """
        try:
            with self.description.open("rb") as stream:
                text = stream.read(_LONGEST_JSON)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise IntegrityError(f"its description cannot be read ({error.strerror})") from error
        study, sha256 = _parse(text, self, mapped)
        if verify:
            try:
                found = sha256_of(self.array)
            except OSError as error:
                raise IntegrityError(f"its array cannot be read ({error.strerror})") from error
            if found != sha256:
                raise IntegrityError("its array has not the hash that was written down")
        return study

    def write(self, study: PreparedStudy) -> None:
        """Write both files, each at once or not at all. Only for the holder of the entry's lock.

        Raises:
            ResourceError: the disk is full.
            UsageError: the store may not be written.
        """
        try:
            # Of a damaged entry; killed from here on, this is a missing entry and is made again.
            self.description.unlink(missing_ok=True)
        except OSError as error:
            raise explain_os_error(error, self.store) from error
        write_bytes(self.array, encode(study))
        write_text(self.description, _describe(study, self.key, sha256_of(self.array)))

    def sweep(self) -> None:
        """Remove what a killed process left half-written. Only for the holder of the entry's lock."""
        remove(self.store / _ENTRIES, f".{self.key}.*")

    @property
    def size_bytes(self) -> int:
        """Bytes of both files on disk."""
        return self.array.stat().st_size + self.description.stat().st_size


def make_store(store: Path) -> None:
    """Create the folders of a store; a complete one may be read-only.

    Raises:
        UsageError: it cannot be created.
    """
    for name in (_ENTRIES, _LOCKS):
        if not (store / name).is_dir():
            make_folder(store / name)


def remove(folder: Path, pattern: str) -> None:
    """Delete the files of a pattern.

    Raises:
        UsageError: the folder may not be written.
    """
    try:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise explain_os_error(error, folder) from error


def sweep_orphans(store: Path) -> None:
    """Remove half-written files of killed processes, also of entries that nobody asks for any more."""
    for key in {path.name.split(".")[1] for path in (store / _ENTRIES).glob(".*.tmp*")}:
        with locked(store, key, 0) as held:
            if held:
                Entry(store, key).sweep()


@contextmanager
def locked(store: Path, name: str, timeout_s: float) -> Iterator[bool]:
    """Hold the lock of one entry (or of the report); yields False where another process holds it.

    Raises:
        UsageError: the store may not be written, or its file system has no locks.
    """
    with file_lock(store / _LOCKS / f"{name}.lock", timeout_s) as held:
        yield held


def _describe(study: PreparedStudy, key: str, sha256: str) -> str:
    shape = (1 if study.labels is None else 2, *study.shape_zyx)
    values: dict[str, Any] = {
        "format": FORMAT,
        "key": key,
        "array": {"sha256": sha256, "shape": shape},
        "scale": study.scale,
        "offset": study.offset,
        "inside_zyx": study.inside_zyx,
        "masks": sorted(study.masks),
        "geometry": {
            "spacing_mm_zyx": study.geometry.spacing_mm_zyx,
            "origin_mm_lps": study.geometry.origin_mm_lps,
            "direction": np.asarray(study.geometry.direction, float).tolist(),
        },
        "voxel_hash": study.voxel_hash,
    }
    return canonical({**values, "digest": digest(canonical(values))}) + "\n"


def _parse(text: bytes, entry: Entry, mapped: bool) -> tuple[PreparedStudy, str]:
    """A closed schema -> the study and the hash its array must have."""
    try:
        values = json.loads(text)
        _check(set(values) == _FIELDS and set(values["array"]) == _ARRAY_FIELDS, "fields")
        stated = values.pop("digest")
        _check(stated == digest(canonical(values)), "digest")
        _check(values["format"] == FORMAT and values["key"] == entry.key, "key")
        shape = _whole(values["array"]["shape"], 4)
        masks = frozenset(values["masks"])
        _check(masks <= set(BITS) and shape[0] == (2 if masks else 1), "masks")
        box = tuple((a, b) for a, b in (_whole(pair, 2) for pair in values["inside_zyx"]))
        _check(len(box) == 3 and all(0 <= a < b <= n for (a, b), n in zip(box, shape[1:], strict=True)), "inside_zyx")
        scale, offset = _numbers([values["scale"], values["offset"]], 2)
        _check(scale > 0, "scale")
        geometry = _geometry(values["geometry"])
        voxels_hash = values["voxel_hash"]
        _check(isinstance(voxels_hash, str) and re.fullmatch("[0-9a-f]{64}", voxels_hash) is not None, "voxel_hash")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise IntegrityError("its description is damaged, or of another version") from error
    file = StoredFile(entry.array, (shape[0], shape[1], shape[2], shape[3]), mapped)
    labels = StoredArray(file, LABELS, np.uint8) if masks else None
    voxels = StoredArray(file, VOXELS, np.int16)
    study = PreparedStudy(voxels, scale, offset, (box[0], box[1], box[2]), labels, masks, geometry, voxels_hash)
    return study, str(values["array"]["sha256"])


def _geometry(values: dict[str, Any]) -> Geometry:
    _check(set(values) == _GEOMETRY_FIELDS, "geometry")
    z, y, x = _numbers(values["spacing_mm_zyx"], 3)
    origin = _numbers(values["origin_mm_lps"], 3)
    direction = np.asarray([_numbers(line, 3) for line in values["direction"]])
    _check(direction.shape == (3, 3), "direction")
    return Geometry((z, y, x), (origin[0], origin[1], origin[2]), direction)


def _check(good: bool, field: str) -> None:
    if not good:
        raise ValueError(field)


def _numbers(values: list[Any], count: int) -> list[float]:
    good = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    _check(good and len(values) == count and all(math.isfinite(value) for value in values), "numbers")
    return [float(value) for value in values]


def _whole(values: list[Any], count: int) -> list[int]:
    _check(len(values) == count and all(type(value) is int for value in values), "whole numbers")
    return values
