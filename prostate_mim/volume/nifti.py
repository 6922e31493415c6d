"""NIfTI-1 and NIfTI-2: verified here (exact length, gzip checksums, one unambiguous geometry), as nibabel reads it."""

from __future__ import annotations

import logging
import math
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prostate_mim.errors import VolumeError
from prostate_mim.volume.checks import Array, check_size
from prostate_mim.volume.geometry import FloatArray
from prostate_mim.volume.orient import RawImage
from prostate_mim.volume.payload import GZIP, collect, inflated_chunks, raw_chunks

FORM_TOLERANCE_MM = 0.1
DECODED_TOLERANCE_MM = 1e-3
SPACING_TOLERANCE = 1e-3
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_REFUSED = {1: "bits", 32: "complex", 128: "RGB", 1536: "128-bit float", 1792: "complex", 2048: "complex", 2304: "RGBA"}
_TO_LPS = np.diag([-1.0, -1.0, 1.0])
_MAX_OFFSET = 1 << 24
_ROUNDING = 3 * 2.0**-23  # of the squared quaternion, single precision
# field -> (offset, struct format), for the two versions of the standard
_V1 = {
    "dim": (40, "8h"), "datatype": (70, "h"), "bitpix": (72, "h"), "pixdim": (76, "8f"), "vox_offset": (108, "f"),
    "scl_slope": (112, "f"), "scl_inter": (116, "f"), "xyzt_units": (123, "B"), "qform_code": (252, "h"),
    "sform_code": (254, "h"), "quatern": (256, "3f"), "qoffset": (268, "3f"), "srow": (280, "12f"),
    "magic": (344, "4s"),
}  # fmt: skip
_V2 = {
    "dim": (16, "8q"), "datatype": (12, "h"), "bitpix": (14, "h"), "pixdim": (104, "8d"), "vox_offset": (168, "q"),
    "scl_slope": (176, "d"), "scl_inter": (184, "d"), "xyzt_units": (500, "i"), "qform_code": (344, "i"),
    "sform_code": (348, "i"), "quatern": (352, "3d"), "qoffset": (376, "3d"), "srow": (400, "12d"), "magic": (4, "8s"),
}  # fmt: skip
_LAYOUTS = {348: (_V1, b"n+1\0", 352), 540: (_V2, b"n+2\0\r\n\x1a\n", 544)}


@dataclass(frozen=True)
class NiftiHeader:
    """The fields that decide voxels and geometry, already checked for size and number type.

    Attributes:
        version: of the standard, 1 or 2.
        sizes_ijk: voxel counts along the file's axes.
        dtype: number type on disk, with its byte order.
        offset: first byte of the voxels.
        values: every parsed field of the standard's names; scalars as 1-tuples.
    """

    version: int
    sizes_ijk: tuple[int, int, int]
    dtype: np.dtype[np.generic]
    offset: int
    values: dict[str, tuple[float, ...]]

    @property
    def total_bytes(self) -> int:
        """Exact length of the file."""
        return self.offset + math.prod(self.sizes_ijk) * self.dtype.itemsize


def parse_header(data: bytes | bytearray, name: str, max_voxels: int) -> NiftiHeader | None:
    """Parse and check a header, allocating nothing; None while ``data`` is too short to hold one.

    Raises:
        VolumeError: not a single-file NIfTI, 4-D, over ``max_voxels``, or a number type that is not real.
    """
    if len(data) < 4:
        return None
    order = next((o for o in "<>" if struct.unpack_from(o + "i", data)[0] in _LAYOUTS), None)
    if order is None:
        raise VolumeError(
            f"{name}: sizeof_hdr is {struct.unpack_from('<i', data)[0]}, must be 348 or 540; not a NIfTI file"
        )
    layout, magic, first = _LAYOUTS[struct.unpack_from(order + "i", data)[0]]
    if len(data) < first:
        return None
    fields = {key: struct.unpack_from(order + form, data, at) for key, (at, form) in layout.items()}
    if fields["magic"][0] != magic:
        raise VolumeError(
            f"{name}: magic is {fields['magic'][0]!r}, must be {magic!r}; convert to a single .nii or .nii.gz"
        )
    del fields["magic"]
    sizes = _sizes(fields["dim"], name, max_voxels)
    dtype = _dtype(fields, order, name)
    offset = fields["vox_offset"][0]
    if not (first <= offset <= _MAX_OFFSET and offset == int(offset)):
        raise VolumeError(
            f"{name}: vox_offset is {offset}, allowed whole numbers of {first} to {_MAX_OFFSET}; header damaged"
        )
    return NiftiHeader(1 if layout is _V1 else 2, sizes, dtype, int(offset), fields)


def _sizes(dim: tuple[int, ...], name: str, max_voxels: int) -> tuple[int, int, int]:
    if not 2 <= dim[0] <= 7:
        raise VolumeError(f"{name}: dim[0] is {dim[0]}, must be 3; the header is damaged")
    extra = [size for size in dim[4 : dim[0] + 1] if size != 1]
    if extra:
        raise VolumeError(
            f"{name}: dim is {dim[0]}-D with dim[4:] = {extra}, only 3-D volumes are read; split the series"
        )
    sizes = (dim[1], dim[2], dim[3] if dim[0] > 2 else 1)
    check_size(name, "dim", sizes, max_voxels)
    return sizes


def _dtype(fields: dict[str, tuple[int, ...]], order: str, name: str) -> np.dtype[np.generic]:
    code, bits = fields["datatype"][0], fields["bitpix"][0]
    if code not in _TYPES:
        kind = _REFUSED.get(code, "unknown")
        raise VolumeError(f"{name}: datatype is {code} ({kind}), allowed {sorted(_TYPES)}; store int16 or float32")
    dtype: np.dtype[np.generic] = np.dtype(order + _TYPES[code])
    if bits != 8 * dtype.itemsize:
        raise VolumeError(
            f"{name}: bitpix is {bits} but datatype {code} has {8 * dtype.itemsize}; the header is damaged"
        )
    return dtype


def read_nifti(path: Path, name: str, max_voxels: int) -> RawImage:
    """Read ``.nii`` or ``.nii.gz`` to its last byte; voxels keep their type unless the header rescales (float32 then).

    Raises:
        VolumeError: damaged, wrong length, ambiguous or missing geometry, or nibabel reads it otherwise.
    """
    found: list[NiftiHeader] = []

    def declare(data: bytearray) -> int | None:
        header = parse_header(data, name, max_voxels)
        if header is None:
            return None
        found.append(header)
        return header.total_bytes

    data = whole_file(path, name, declare)
    return image_of(found[0], data, name)


def image_of(header: NiftiHeader, data: bytearray | memoryview, name: str) -> RawImage:
    """The image in the verified bytes of a file, whose header was parsed from them.

    Raises:
        VolumeError: ambiguous or missing geometry, or nibabel reads it otherwise.
    """
    spacing, candidates, field = _frame(header, name)
    voxels, matrix = _decode(header, data, name)
    gap = min(_gap(matrix, candidate, header.sizes_ijk) for candidate in candidates)
    if not gap <= DECODED_TOLERANCE_MM:
        raise VolumeError(f"{name}: nibabel's affine is {gap:.3g} mm off the header's {field}; convert it again")
    affine = _TO_LPS @ matrix
    x, y, z = (float(value) for value in affine[:, 3])
    return RawImage(voxels, spacing, (x, y, z), affine[:, :3] / np.asarray(spacing), field)


def whole_file(path: Path, name: str, declare: Callable[[bytearray], int | None]) -> memoryview:
    """Every byte of the (decompressed) file, exactly as many as ``declare`` finds in its header.

    Raises:
        VolumeError: damaged, another length, compressed where the name says otherwise, or refused by ``declare``.
    """
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        if zipped != (path.suffix.lower() == ".gz"):
            state = "gzip-compressed" if zipped else "not gzip-compressed"
            raise VolumeError(
                f"{name}: the content is {state} but the name says otherwise; rename it (.nii or .nii.gz)"
            )
        return collect(inflated_chunks(stream, name, GZIP) if zipped else raw_chunks(stream), name, declare)


def _decode(header: NiftiHeader, data: bytearray | memoryview, name: str) -> tuple[Array, FloatArray]:
    """Voxels (k, j, i) and the (3, 4) RAS matrix from the verified bytes; nibabel must read the same layout and scale.

    nibabel gets the bytes before the voxels (header and extensions); with one layout there is one way to take the
    voxels, and a copy by nibabel would cost half as much as inflating them. Only rescaled voxels are decoded by it.
    """
    import nibabel

    stated = (header.sizes_ijk, header.dtype, header.offset, *_scale(header, name))
    scaled = stated[3:] != (1.0, 0.0)
    with _by_nibabel(name):
        kind = nibabel.Nifti1Image if header.version == 1 else nibabel.Nifti2Image
        image = kind.from_bytes(bytes(data if scaled else data[: header.offset]))
        proxy: Any = image.dataobj
        sizes = (*image.shape, 1)[:3]
        found = (sizes, image.get_data_dtype(), proxy.offset, float(proxy.slope), float(proxy.inter))
        if found != stated:
            raise VolumeError(
                f"{name}: nibabel reads (sizes, type, offset, slope, intercept) {found}, the header says {stated};"
                " convert it again"
            )
        if scaled:
            voxels: Array = np.asarray(proxy).T.reshape(header.sizes_ijk[::-1]).astype(np.float32)
        else:
            voxels = np.frombuffer(data, header.dtype, offset=header.offset).reshape(header.sizes_ijk[::-1])
    return voxels, np.asarray(image.affine[:3], float)


@contextmanager
def _by_nibabel(name: str) -> Iterator[None]:
    """Keep nibabel's remarks off standard error, and name its refusals; infinite and NaN voxels are refused later."""
    logger = logging.getLogger("nibabel.global")
    before, logger.disabled = logger.disabled, True
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (VolumeError, MemoryError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise VolumeError(f"{name}: nibabel cannot read it ({reason}); convert or copy the file again") from error
    finally:
        logger.disabled = before


def _scale(header: NiftiHeader, name: str) -> tuple[float, float]:
    """Slope and intercept, (1, 0) where the header says there is none."""
    slope, inter = header.values["scl_slope"][0], header.values["scl_inter"][0]
    if slope == 0 or math.isnan(slope):
        return 1.0, 0.0
    if not (1e-12 < slope < 1e12 and abs(inter) < 1e12):
        raise VolumeError(
            f"{name}: scl_slope {slope:g} and scl_inter {inter:g}, allowed 1e-12 < slope < 1e12 and |inter| < 1e12"
        )
    return slope, inter


def _frame(header: NiftiHeader, name: str) -> tuple[tuple[float, float, float], list[FloatArray], str]:
    """Spacing (i, j, k) and the (3, 4) RAS matrix of the sform, else those of the qform; where both are set they agree.

    Several matrices are those within rounding of one another; the last is the name of the form.
    """
    values = header.values
    codes = {form: int(values[form + "_code"][0]) for form in ("sform", "qform")}
    for form, code in codes.items():
        if not 0 <= code <= 5:
            raise VolumeError(f"{name}: {form}_code is {code}, allowed 0 to 5; the header is damaged")
    units = int(values["xyzt_units"][0]) & 7
    if units not in (0, 2):
        raise VolumeError(f"{name}: xyzt_units says {units} for space, allowed 2 (mm) or 0; convert to mm")
    if not any(codes.values()):
        raise VolumeError(
            f"{name}: sform_code and qform_code are both 0, so orientation is unknown; convert from DICOM again"
        )
    qforms = _qforms(values, name) if codes["qform"] else []
    field, candidates = ("sform", [_sform(values, name)]) if codes["sform"] else ("qform", qforms)
    spacing = _spacing(np.linalg.norm(candidates[0][:, :3], axis=0), values["pixdim"][1:4], field, name)
    gap = min((_gap(candidates[0], qform, header.sizes_ijk) for qform in qforms), default=0.0)
    if not gap <= FORM_TOLERANCE_MM:
        raise VolumeError(
            f"{name}: sform and qform disagree by {gap:.3g} mm, at most {FORM_TOLERANCE_MM:g} allowed; correct it"
        )
    return spacing, candidates, field


def _sform(values: dict[str, tuple[float, ...]], name: str) -> FloatArray:
    matrix = np.asarray(values["srow"], float).reshape(3, 4)
    if not np.isfinite(matrix).all() or not np.abs(matrix).max() < 1e6:
        raise VolumeError(f"{name}: sform has values that are not finite or over 1e6; correct the header")
    return np.asarray(matrix)


def _gap(first: FloatArray, second: FloatArray, sizes_ijk: tuple[int, int, int]) -> float:
    """Largest distance in mm between two (3, 4) matrices at the corners of the grid."""
    corners = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]) * (np.array(sizes_ijk) - 1)
    return float(np.linalg.norm((first - second) @ np.c_[corners, np.ones(8)].T, axis=0).max())


def _qforms(values: dict[str, tuple[float, ...]], name: str) -> list[FloatArray]:
    """The (3, 4) RAS matrix of the quaternion, offset and pixdim fields, then those within rounding of it.

    The standard stores b, c, d and leaves a = sqrt(1 - b^2 - c^2 - d^2), which near half a turn (every axial series)
    loses half the digits: single precision moves the far corner of a prostate volume by up to 0.15 mm.
    """
    b, c, d = values["quatern"]
    rest = 1.0 - (b * b + c * c + d * d)
    if not rest >= -1e-5:
        raise VolumeError(
            f"{name}: qform quaternion (b, c, d) = ({b:g}, {c:g}, {d:g}) is longer than 1; correct the header"
        )
    if not all(abs(value) < 1e6 for value in (*values["pixdim"][:4], *values["qoffset"])):
        raise VolumeError(f"{name}: qform or pixdim has values that are not finite or over 1e6; correct the header")
    if values["pixdim"][0] not in (-1.0, 0.0, 1.0):
        raise VolumeError(f"{name}: pixdim[0] is {values['pixdim'][0]:g}, must be 1 or -1; correct the header")
    squares = [rest if rest > _ROUNDING else 0.0, rest - _ROUNDING, rest, rest + _ROUNDING]
    return [_qform(values, math.sqrt(max(square, 0.0))) for square in squares]


def _qform(values: dict[str, tuple[float, ...]], a: float) -> FloatArray:
    b, c, d = values["quatern"]
    qfac = values["pixdim"][0]
    rotation = np.array([
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ])  # fmt: skip
    zooms = np.asarray(values["pixdim"][1:4]) * np.array([1.0, 1.0, -1.0 if qfac < 0 else 1.0])
    matrix = np.c_[rotation * zooms[None, :], np.asarray(values["qoffset"], float)]
    return np.asarray(matrix)


def _spacing(lengths: FloatArray, pixdim: tuple[float, ...], field: str, name: str) -> tuple[float, float, float]:
    """Spacing in mm; where the affine only rounds pixdim, pixdim's shortest decimal (0.4, not 0.4000000059)."""
    for axis, (length, stated) in enumerate(zip(lengths, pixdim, strict=True), start=1):
        if not abs(length - stated) <= SPACING_TOLERANCE * stated:
            raise VolumeError(
                f"{name}: pixdim[{axis}] is {stated:g} mm but the {field} says {length:g} mm; correct the header"
            )
    i, j, k = (
        float(str(np.float32(stated))) if abs(length - stated) <= 3e-7 * stated else float(length)
        for length, stated in zip(lengths, pixdim, strict=True)
    )
    return i, j, k
