"""What a hub answers: JSON, files in whole or in part, and errors by the codes that the client knows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True)
class Answer:
    """A response.

    Attributes:
        status: of HTTP.
        body: bytes; of a file, what ``file`` says is sent instead.
        headers: beside Content-Length.
        file: path, first byte and number of bytes.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    file: tuple[Path, int, int] | None = None

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return self.file[2] if self.file else len(self.body)

    def chunks(self) -> Iterator[bytes]:
        """The body."""
        if self.file is None:
            yield self.body
            return
        path, first, left = self.file
        with path.open("rb") as stream:
            stream.seek(first)
            while left and (chunk := stream.read(min(left, _CHUNK))):
                left -= len(chunk)
                yield chunk


class Refused(Exception):  # noqa: N818 - an answer, not a fault of the program
    """Carries the answer that says no."""

    def __init__(self, status: int, message: str, code: str = "", **more: str) -> None:
        super().__init__(message)
        headers = {"Content-Type": "application/json", "X-Error-Message": _header(message)}
        if code:
            headers["X-Error-Code"] = code
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        self.answer = Answer(status, json.dumps({"error": message, **more}).encode(), headers)


def as_json(values: Any, status: int = 200) -> Answer:
    """An answer in JSON."""
    return Answer(status, json.dumps(values).encode(), {"Content-Type": "application/json"})


def as_file(path: Path, size: int, etag: str, commit: str, asked: str | None) -> Answer:
    """A file, or the part of it that a Range header asks for.

    Args:
        size: in bytes.
        etag: SHA-256 of the whole file, which the client keeps it under.
        commit: 40 hex digits.
        asked: the Range header; one range only, others are answered with the whole file.

    Raises:
        Refused: the range lies outside of the file.
    """
    headers = {
        "Content-Type": "application/octet-stream", "ETag": f'"{etag}"', "X-Linked-Etag": f'"{etag}"',
        "X-Linked-Size": str(size), "X-Repo-Commit": commit, "Accept-Ranges": "bytes",
        "Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff",
    }  # fmt: skip
    found = _RANGE.fullmatch(asked or "")
    if found is None or not (found[1] or found[2]):
        return Answer(200, headers=headers, file=(path, 0, size))
    first, last = (int(found[1]), int(found[2] or size - 1)) if found[1] else (max(0, size - int(found[2])), size - 1)
    last = min(last, size - 1)
    if first > last:
        refused = Refused(416, f"the file has {size} bytes")
        refused.answer = Answer(
            416, refused.answer.body, {**refused.answer.headers, "Content-Range": f"bytes */{size}"}
        )
        raise refused
    headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    return Answer(206, headers=headers, file=(path, first, last - first + 1))


def _header(text: str) -> str:
    """Text as a header can hold it: one line of Latin letters."""
    return " ".join(text.split()).encode("ascii", "replace").decode()[:300]
