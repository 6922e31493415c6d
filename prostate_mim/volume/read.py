"""Reading: one function for images, one for masks, every refusal a VolumeError of one line."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from prostate_mim.errors import NotFoundError, ProstateMimError, ResourceError, VolumeError, nearest
from prostate_mim.volume import arrays, checks, dicom, metaimage, nifti, nrrd
from prostate_mim.volume.checks import MAX_VOXELS, Array
from prostate_mim.volume.geometry import Volume
from prostate_mim.volume.orient import RawImage, canonical

SUPPORTED = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".npy", ".npy.gz", ".npz")
Source = str | os.PathLike[str] | Array


def read_volume(
    source: Source,
    *,
    spacing_mm_zyx: Sequence[float] | None = None,
    sha256: str | None = None,
    max_voxels: int = MAX_VOXELS,
) -> Volume:
    """Read one axial series strictly, in the canonical orientation; nothing is repaired or resampled.

    Args:
        source: ``.nii``, ``.nii.gz``, ``.mha``, ``.mhd``, ``.nrrd``, a folder with exactly one DICOM series
            (uncompressed: nothing in compressed slices tells of damage), a bare array (``.npy``, ``.npy.gz``,
            ``.npz``) or a numpy array (z, y, x), or (y, x) taken as depth 1.
        spacing_mm_zyx: spacing of a bare array, needed there; elsewhere it must agree with the file within 1%.
        sha256: expected hash of the (single) file, 64 hex digits.
        max_voxels: most voxels allowed, checked before anything is allocated.

    Returns:
        Volume: voxels (z, y, x), x to the patient's Left, y to Posterior, z to Superior, of the file's number type
        (float32 where NIfTI or DICOM rescales); physical positions are the file's. Bare arrays start at (0, 0, 0).

    Raises:
        NotFoundError: the path does not exist.
        VolumeError: damaged, truncated, implausible, constant, 4-D, or not axial.
        ResourceError: out of memory.
    """
    volume = _read(source, spacing_mm_zyx, sha256, max_voxels)
    with_name = volume.source
    checks.check_finite(with_name, volume.voxels)
    checks.check_varies(with_name, volume.voxels)
    return volume


def read_mask(source: Source, *, spacing_mm_zyx: Sequence[float] | None = None) -> Volume:
    """Read a mask like ``read_volume`` does, as int16 labels (0 to 32767); it may be empty.

    Args:
        source: as for ``read_volume``. Labels stored as floating point (within 0.01 of whole) are rounded.
        spacing_mm_zyx: as for ``read_volume``.

    Raises:
        NotFoundError: the path does not exist.
        VolumeError: as for ``read_volume``, or values that are not labels.
        ResourceError: out of memory.
    """
    volume = _read(source, spacing_mm_zyx, None, MAX_VOXELS)
    return Volume(checks.as_labels(volume.source, volume.voxels), volume.geometry, volume.source)


def read_stored(source: str | os.PathLike[str]) -> RawImage:
    """Read an image or a mask strictly, on the axes of its own file: what ``write_mask_like`` writes on.

    Args:
        source: any format of ``read_volume`` that stores a place; not a bare array.

    Raises:
        NotFoundError: the path does not exist.
        VolumeError: damaged, implausible, not axial, or a bare array.
        ResourceError: out of memory.
    """
    name = one_line(source)
    with typed_errors(name):
        path = Path(source)
        kind = _kind(path, name)
        if kind in (".npy", ".npz"):
            raise VolumeError(f"{name}: a bare array stores no place; give the volume that was read from it")
        image = _read_image(path, name, kind, MAX_VOXELS, alone=False)
        canonical(image, name)
        return image


def _read(source: Source, spacing: Sequence[float] | None, sha256: str | None, max_voxels: int) -> Volume:
    """Dispatch by the kind of source."""
    name = "array" if isinstance(source, np.ndarray) else one_line(source)
    with typed_errors(name):
        stated = None if spacing is None else _spacing(name, spacing)
        if isinstance(source, np.ndarray):
            if sha256 is not None:
                raise VolumeError(f"{name}: sha256 is for files, not arrays; leave it out")
            volume = canonical(arrays.array_image(source, name, stated, max_voxels), name, any_stack=True)
            shared = np.may_share_memory(volume.voxels, source)
            return replace(volume, voxels=volume.voxels.copy()) if shared else volume  # the caller may change its own
        if not isinstance(source, str | os.PathLike):
            raise VolumeError(f"{name}: source is a {type(source).__name__}, must be a path or a numpy array")
        return _read_path(Path(source), name, stated, sha256, max_voxels)


@contextmanager
def typed_errors(name: str) -> Iterator[None]:
    """Turn every foreign exception into one of ours, in one line that names the file."""
    try:
        yield
    except ProstateMimError:
        raise
    except MemoryError as error:
        raise ResourceError(f"{name}: out of memory while reading; close other programs or crop the volume") from error
    except FileNotFoundError as error:
        raise NotFoundError(f"{name}: vanished while reading; check the path") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise VolumeError(f"{name}: cannot be read ({reason}); check the path and its permissions") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise VolumeError(f"{name}: cannot be read ({reason}); convert or copy the file again") from error


def one_line(value: object) -> str:
    """A text as messages show it: one line of at most 500 printable letters."""
    text = " ".join(str(value).split())[:500]
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _spacing(name: str, spacing: Sequence[float]) -> tuple[float, float, float]:
    try:
        values = [float(value) for value in spacing]
    except (TypeError, ValueError):
        values = []
    checks.check_spacing(name, "spacing_mm_zyx", values)
    z, y, x = values
    return z, y, x


def _read_path(
    path: Path, name: str, spacing: tuple[float, float, float] | None, sha256: str | None, max_voxels: int
) -> Volume:
    kind = _kind(path, name)
    if sha256 is not None:
        _check_hash(path, name, sha256, kind)
    if kind in (".npy", ".npz"):
        if spacing is None:
            raise VolumeError(
                f"{name}: spacing_mm_zyx is missing and a bare array stores none; give it as (z, y, x) in mm"
            )
        array = (arrays.read_npz if kind == ".npz" else arrays.read_npy)(path, name, max_voxels)
        return canonical(arrays.array_image(array, name, spacing, max_voxels), name, any_stack=True)
    volume = canonical(_read_image(path, name, kind, max_voxels, alone=sha256 is not None), name)
    found = volume.geometry.spacing_mm_zyx
    if spacing is not None and not all(math.isclose(a, b, rel_tol=0.01) for a, b in zip(spacing, found, strict=True)):
        raise VolumeError(f"{name}: spacing_mm_zyx {spacing} contradicts the file's {found} (1% allowed); leave it out")
    return volume


def _read_image(path: Path, name: str, kind: str, max_voxels: int, *, alone: bool) -> RawImage:
    if kind == "folder":
        return dicom.read_dicom(path, name, max_voxels)
    if kind == ".nii":
        return nifti.read_nifti(path, name, max_voxels)
    if kind == ".nrrd":
        return nrrd.read_nrrd(path, name, max_voxels, alone=alone)
    return metaimage.read_meta(path, name, max_voxels, alone=alone)


def _kind(path: Path, name: str) -> str:
    """``folder``, or the suffix without ``.gz``.

    Raises:
        NotFoundError: nothing there; the nearest name in the folder is suggested.
        VolumeError: an unsupported suffix, or neither a file nor a folder.
    """
    if not path.exists():
        raise NotFoundError(f"{name}: no such file or folder; {_suggestion(path)}")
    if path.is_dir():
        return "folder"
    lower = path.name.lower()
    suffix = next((item for item in sorted(SUPPORTED, key=len, reverse=True) if lower.endswith(item)), None)
    if suffix is None:
        found = path.suffix or "no extension"
        raise VolumeError(
            f"{name}: {found} is not supported, allowed {', '.join(SUPPORTED)} or a folder of DICOM slices"
        )
    if not path.is_file():
        raise VolumeError(f"{name}: is neither a file nor a folder; copy the volume to a plain file")
    return suffix.removesuffix(".gz")


def _suggestion(path: Path) -> str:
    try:
        near = nearest(path.name, sorted(os.listdir(path.parent)))
    except OSError:
        return "check the path"
    return f"did you mean {near}?" if near else "check the path"


def _check_hash(path: Path, name: str, sha256: str, kind: str) -> None:
    expected = sha256.strip().lower()
    if kind == "folder":
        raise VolumeError(f"{name}: sha256 is for single files, not folders; convert the series or leave it out")
    if len(expected) != 64 or set(expected) - set("0123456789abcdef"):
        raise VolumeError(f"{name}: sha256 is {sha256[:70]!r}, must be 64 hex digits; correct it")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise VolumeError(f"{name}: sha256 is {found}, expected {expected}; the file was changed, copy it again")
