"""A multipart body -> files of our own names in a private folder, while it arrives; refused at the first bad byte.

A client's file names decide a suffix of a fixed list and nothing else: they are never used as paths and never kept.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from run_study import Point, position

from prostate_mim.errors import UsageError

MASKS = ("gland", "lesion", "zone")
MOST_POSITIONS = 64
MOST_FILES = 4096
_SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd")
_TYPES = f"{', '.join(_SUFFIXES)}, or the DICOM files of one series"
_HEAD = 512  # bytes that tell what a file is
_LONGEST_TEXT = 200
_GZIP = b"\x1f\x8b"
_PACKED = (
    b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"7z\xbc\xaf\x27\x1c", b"Rar!", b"\xfd7zXZ", b"BZh",
    b"\x28\xb5\x2f\xfd", b"\x1f\x9d", b"LZIP", b"\x04\x22\x4d\x18",
)  # fmt: skip
# The parser warns of bad bytes by repeating them.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


class RefusedError(UsageError):
    """A request that gets another answer than a prediction.

    Attributes:
        status: of HTTP.
        kind: one word for logs and metrics.
    """

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


@dataclass
class Upload:
    """What arrived.

    Attributes:
        folder: of the request; the worker removes nothing, whoever made the folder does.
        study: name in ``folder`` of a file, or of the folder of DICOM slices; empty while there is none.
        masks: names in ``folder`` by ``MASKS``.
        positions: (x, y, z) in mm, LPS.
        files: how many.
        size: bytes of the whole body so far.
    """

    folder: Path
    study: str = ""
    masks: dict[str, str] = field(default_factory=dict)
    positions: list[Point] = field(default_factory=list)
    files: int = 0
    size: int = 0


async def receive(
    chunks: AsyncIterator[bytes], content_type: str, upload: Upload, limit_bytes: int, timeout_s: float
) -> None:
    """Take a body to its end.

    Args:
        chunks: of the body.
        content_type: header of the request.
        upload: is filled; its folder exists.
        limit_bytes: of the body.
        timeout_s: for all of it.

    Raises:
        RefusedError: 400 not the form that is expected, 408 too slow, 413 too large, 415 another type of file, 422 an
            empty file or a bad position.
        OSError: the disk is full, or the folder is gone.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise RefusedError(415, "type", "send multipart/form-data with a file in the field 'study'")
    parts = _Parts(upload)
    try:
        parser = MultipartParser(options[b"boundary"], parts.callbacks())  # type: ignore[arg-type]
        async with asyncio.timeout(timeout_s):
            async for chunk in chunks:
                upload.size += len(chunk)
                if upload.size > limit_bytes:
                    raise too_large(limit_bytes)
                parser.write(chunk)
    except FormParserError:
        raise RefusedError(400, "form", "the multipart body is damaged; send it again") from None
    except TimeoutError:
        raise RefusedError(408, "slow", f"the upload took over {timeout_s:g} s; send it faster, or less") from None
    finally:
        parts.close()
    if not parts.complete:
        raise RefusedError(400, "form", "the multipart body ends early; send it again")
    if not upload.study:
        raise RefusedError(400, "form", "the field 'study' is missing; send the image in it")


def too_large(limit_bytes: int) -> RefusedError:
    """The answer to a body over the limit."""
    return RefusedError(413, "size", f"over {limit_bytes // 1_000_000} MB; crop the study, or raise --limit-mb")


def no_space(error: OSError) -> Exception:
    """The answer to a full disk; any other error of the system stays what it is."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error
    return RefusedError(507, "disk", "no space left for uploads; try later, or tell the operator")


class _Parts:
    """Callbacks of the parser: one part after the other, into a text or a file."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self._name, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._part: _Text | _File | None = None
        self.complete = False

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin, "on_header_field": self._header_name, "on_header_value": self._header_value,
            "on_header_end": self._header_end, "on_headers_finished": self._open, "on_part_data": self._data,
            "on_part_end": self._end, "on_end": self._finish,
        }  # fmt: skip

    def close(self) -> None:
        """Close a file that was left open."""
        if isinstance(self._part, _File):
            self._part.close()

    def _begin(self) -> None:
        self._disposition = b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if bytes(self._name).lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _open(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("latin-1")
        if name == "position":
            self._part = _Text()
        elif name == "study" or name in MASKS:
            if b"filename" not in options:
                raise RefusedError(400, "form", f"the field '{name}' must be a file, with a file name")
            self._part = _File(self._upload, name, options[b"filename"].decode("latin-1"))
        else:
            raise RefusedError(400, "form", f"a field is none of study, position, {', '.join(MASKS)}; leave it out")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._part is not None:
            self._part.write(data[start:end])

    def _end(self) -> None:
        if isinstance(self._part, _Text):
            _add_position(self._upload, self._part)
        elif self._part is not None:
            self._part.finish()
        self._part = None

    def _finish(self) -> None:
        self.complete = True


class _Text:
    """A short field."""

    def __init__(self) -> None:
        self.value = bytearray()

    def write(self, data: bytes) -> None:
        self.value += data
        if len(self.value) > _LONGEST_TEXT:
            raise RefusedError(422, "position", f"a position has over {_LONGEST_TEXT} letters; give 'x y z' in mm, LPS")


def _add_position(upload: Upload, text: _Text) -> None:
    if len(upload.positions) == MOST_POSITIONS:
        raise RefusedError(422, "position", f"over {MOST_POSITIONS} positions; send fewer at once")
    try:
        upload.positions.append(position(text.value.decode("latin-1")))
    except argparse.ArgumentTypeError:
        number = len(upload.positions) + 1
        raise RefusedError(
            422, "position", f"position {number} is not three numbers 'x y z' in mm, LPS; correct it"
        ) from None  # fmt: skip


class _File:
    """A file of a field; it gets its name, and a place on the disk, when its first bytes told what it is."""

    def __init__(self, upload: Upload, name: str, client_name: str) -> None:
        upload.files += 1
        if upload.files > MOST_FILES:
            raise RefusedError(413, "files", f"over {MOST_FILES} files; send one series")
        self._upload, self._name, self._number = upload, name, upload.files
        lower = client_name.lower()
        self._suffix = next((suffix for suffix in _SUFFIXES if lower.endswith(suffix)), "")
        self._head = bytearray()
        self._stream: IO[bytes] | None = None

    def write(self, data: bytes) -> None:
        if self._stream is None:
            self._head += data
            if len(self._head) < _HEAD:
                return
            data = self._opened()
        self._stream.write(data)  # type: ignore[union-attr]

    def finish(self) -> None:
        """The part is over."""
        if self._stream is None:
            if not self._head:
                raise RefusedError(422, "empty", f"file {self._number} is empty; send it again")
            head = self._opened()
            self._stream.write(head)  # type: ignore[attr-defined]
        stream, self._stream = self._stream, None
        stream.close()  # type: ignore[union-attr]

    def close(self) -> None:
        """After an error: what is told is that error."""
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.close()

    def _opened(self) -> bytes:
        """Open the file under a name of our own; the bytes to begin it with."""
        head = bytes(self._head)
        self._head.clear()
        self._stream = (self._upload.folder / self._place(head)).open("xb")
        return head

    def _place(self, head: bytes) -> str:
        is_dicom = not self._suffix and head[128:132] == b"DICM"
        gzipped = head.startswith(_GZIP) and self._suffix != ".nii.gz"
        if not is_dicom and (gzipped or head.startswith(_PACKED) or head[257:262] == b"ustar"):
            raise RefusedError(415, "archive", f"file {self._number} is packed; archives are not opened: send {_TYPES}")
        if not is_dicom and not self._suffix:
            raise RefusedError(415, "type", f"file {self._number} is of another type; send {_TYPES}")
        return self._study_name(is_dicom) if self._name == "study" else self._mask_name(is_dicom)

    def _study_name(self, is_dicom: bool) -> str:
        upload = self._upload
        if not is_dicom:
            if upload.study:
                raise RefusedError(400, "form", "several images; send one file, or the DICOM files of one series")
            upload.study = f"study{self._suffix}"
            return upload.study
        if upload.study not in ("", "study"):
            raise RefusedError(400, "form", "DICOM files beside another image; send one of the two")
        if not upload.study:
            upload.study = "study"
            (upload.folder / "study").mkdir()
        return f"study/{self._number:04d}.dcm"

    def _mask_name(self, is_dicom: bool) -> str:
        if is_dicom:
            raise RefusedError(415, "type", f"the {self._name} mask is a DICOM file; send {', '.join(_SUFFIXES)}")
        if self._name in self._upload.masks:
            raise RefusedError(400, "form", f"two {self._name} masks; send one")
        self._upload.masks[self._name] = f"{self._name}{self._suffix}"
        return self._upload.masks[self._name]
