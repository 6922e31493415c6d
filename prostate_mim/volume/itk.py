"""The one place that lets SimpleITK read, after our own checks have passed: DICOM, MetaImage and NRRD.

SimpleITK alone accepts every bit-flipped compressed .mha (200 of 200 measured), and one flipped letter in the name of
a header field makes it return garbage voxels. So voxels are those our own pass verified, and what SimpleITK reads in
the header (sizes, number type, geometry) must agree. A header that could mean other voxels to SimpleITK without any of
that changing (byte order, where the voxels start) is decoded by both, and every bit must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import VolumeError
from prostate_mim.volume.checks import Array
from prostate_mim.volume.orient import RawImage

# number type without its byte order -> SimpleITK's name of it
_PIXELS = {
    **{f"i{size}": f"sitkInt{8 * size}" for size in (1, 2, 4, 8)},
    **{f"u{size}": f"sitkUInt{8 * size}" for size in (1, 2, 4, 8)},
    **{f"f{size}": f"sitkFloat{8 * size}" for size in (4, 8)},
}


def read_series(paths: Sequence[Path], name: str) -> RawImage:
    """Read the ordered files of one DICOM series.

    Args:
        paths: the files in order of position, already verified.
        name: the folder, as the user gave it.

    Raises:
        VolumeError: SimpleITK refuses the file, or it is not a 3-D image of real numbers.
    """
    import SimpleITK

    files = [str(path) for path in paths]
    image = _attempt(lambda: SimpleITK.ReadImage(files, imageIO="GDCMImageIO"), name)
    return _raw(image, name, "ImageOrientationPatient")


def read_verified(path: Path, image_io: str, verified: RawImage, name: str, *, decode: bool) -> RawImage:
    """Read a MetaImage or NRRD file of which every byte has been verified.

    Args:
        path: the file (the header, where the voxels are in a second one).
        image_io: ITK's name of the format's reader.
        verified: what our own pass found.
        name: the file, as the user gave it.
        decode: let SimpleITK decode the voxels too (costs as much as all else), and compare them.

    Returns:
        RawImage: the verified voxels, with the geometry as SimpleITK reports it.

    Raises:
        VolumeError: SimpleITK refuses the file, or reads anything other than ``verified``.
    """
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(image_io)
    _attempt(reader.ReadImageInformation, name)
    _agree(name, "size", reader.GetSize(), verified.voxels.shape[::-1])  # before anything is allocated
    _check_type(reader, name, verified.voxels.dtype)
    found = _framed(reader, verified.voxels, verified.field)
    _agree(name, "spacing", found.spacing_mm_ijk, verified.spacing_mm_ijk)
    _agree(name, "origin", found.origin_mm_lps, verified.origin_mm_lps)
    _agree(name, "direction", found.direction.ravel(), verified.direction.ravel())
    if not decode:
        return found
    decoded = _raw(_attempt(reader.Execute, name), name, verified.field).voxels
    voxels = verified.voxels.astype(verified.voxels.dtype.newbyteorder("="), copy=False)
    bits = f"u{voxels.itemsize}"  # as bits, NaN equals NaN
    if decoded.dtype != voxels.dtype or not np.array_equal(decoded.view(bits), voxels.view(bits)):
        raise VolumeError(
            f"{name}: SimpleITK reads {decoded.dtype} voxels other than the {voxels.dtype} ones its bytes hold;"
            " the header is ambiguous, convert the file again"
        )
    return found


def _check_type(reader: Any, name: str, dtype: np.dtype[np.generic]) -> None:
    """Refuse a number type other than ``dtype``, and voxels of several values."""
    import SimpleITK

    stated = getattr(SimpleITK, _PIXELS[dtype.str[1:]])
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1 or reader.GetPixelID() != stated:
        kind = SimpleITK.GetPixelIDValueAsString(reader.GetPixelID())
        raise VolumeError(
            f"{name}: SimpleITK reads {reader.GetDimension()}-D voxels of {reader.GetNumberOfComponents()} {kind}, the"
            f" header says 3-D voxels of 1 {dtype.name}; the header is ambiguous, convert the file again"
        )


def _agree(name: str, what: str, found: npt.ArrayLike, stated: npt.ArrayLike) -> None:
    a, b = np.asarray(found, float), np.asarray(stated, float)
    if a.shape != b.shape or not np.allclose(a, b, rtol=1e-9, atol=1e-9):
        shown = [" ".join(f"{value:.9g}" for value in values) for values in (a, b)]
        raise VolumeError(
            f"{name}: SimpleITK reads {what} {shown[0]} but the header says {shown[1]};"
            " the header is ambiguous, convert the file again"
        )


def _attempt(step: Callable[[], Any], name: str) -> Any:
    try:
        with _quiet():
            return step()
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1][:300] if lines else "no reason given"
        raise VolumeError(f"{name}: SimpleITK cannot read it ({reason}); convert it again") from error


def _raw(image: Any, name: str, field: str) -> RawImage:
    import SimpleITK

    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        parts = image.GetNumberOfComponentsPerPixel()
        raise VolumeError(f"{name}: {image.GetDimension()}-D with {parts} values a voxel, must be 3-D, 1 value")
    voxels = SimpleITK.GetArrayFromImage(image)
    if voxels.dtype.kind not in "iuf":
        raise VolumeError(f"{name}: voxel type {voxels.dtype} is not a real number; store int16 or float32")
    return _framed(image, voxels, field)


def _framed(source: Any, voxels: Array, field: str) -> RawImage:
    """Voxels with the geometry of an image, or of a reader that has read the header."""
    i, j, k = (float(value) for value in source.GetSpacing())
    x, y, z = (float(value) for value in source.GetOrigin())
    direction = np.asarray(source.GetDirection(), float).reshape(3, 3)
    return RawImage(voxels, (i, j, k), (x, y, z), direction, field)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ITK's warnings off standard error: what they say is either checked by us or irrelevant."""
    import SimpleITK

    display: Any = SimpleITK.ProcessObject
    before = display.GetGlobalWarningDisplay()
    display.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        display.SetGlobalWarningDisplay(before)
