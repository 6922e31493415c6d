"""Tables of data sets: .csv, .tsv and .xlsx, read by the names of their columns, never by position."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from prostate_mim.errors import BackendError, ManifestError, NotFoundError
from prostate_mim.manifest import letters_and_digits

Record = dict[str, str]
_MAX_BYTES = 1 << 28


def read_table(path: Path, required: Sequence[str] = ()) -> list[Record]:
    """Rows of a table; keys are the column names as written, without surrounding spaces; all values are text.

    Args:
        path: ``.csv``, ``.tsv`` or ``.xlsx`` (its first sheet; needs openpyxl).
        required: columns that must be there; compared without regard to case, spaces and punctuation.

    Raises:
        NotFoundError: no such file.
        ManifestError: it is no table, or a required column is missing; the message names the columns found.
        BackendError: an .xlsx and no openpyxl.
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: no such table; check the path")
    if path.stat().st_size > _MAX_BYTES:
        raise ManifestError(f"{path}: {path.stat().st_size} bytes are more than a table of studies has; is it one?")
    rows = _sheet(path) if path.suffix.lower() == ".xlsx" else _text(path)
    if not rows:
        raise ManifestError(f"{path}: the table is empty; download it again")
    header = [" ".join(str(cell).split()) for cell in rows[0]]
    known = {letters_and_digits(name) for name in header}
    missing = [name for name in required if letters_and_digits(name) not in known]
    if missing:
        raise ManifestError(
            f"{path}: column {missing[0]!r} is missing (found: {', '.join(header)[:300]}); is it another version?"
        )
    return [dict(zip(header, _padded(row, len(header)), strict=True)) for row in rows[1:] if any(row)]


def column(record: Record, name: str, default: str = "") -> str:
    """A cell by its column's name, compared without regard to case, spaces and punctuation."""
    wanted = letters_and_digits(name)
    return next((text for key, text in record.items() if letters_and_digits(key) == wanted), default)


def find_file(folder: Path, patterns: Iterable[str], what: str) -> Path:
    """The one file below a folder whose name matches one of the patterns, tried in order; case matters not.

    Raises:
        NotFoundError: none.
        ManifestError: several for the first pattern that matches any.
    """
    patterns = tuple(patterns)
    files = sorted(item for item in folder.rglob("*") if item.is_file())
    files = [item for item in files if not item.name.startswith(".") and "__MACOSX" not in item.parts]
    for pattern in patterns:
        found = [item for item in files if fnmatchcase(item.name.lower(), pattern.lower())]
        if len(found) > 1:
            raise ManifestError(f"{folder}: {len(found)} files match {pattern} ({what}); name one with --labels")
        if found:
            return found[0]
    raise NotFoundError(f"{folder}: no {' or '.join(patterns)} ({what}); download it, or name it with --labels")


def _padded(row: Sequence[str], length: int) -> list[str]:
    cells = [str(cell).strip() for cell in row[:length]]
    return cells + [""] * (length - len(cells))


def _text(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        try:
            text = path.read_text(encoding="latin-1")  # sheets of hospitals are often not UTF-8
        except OSError as error:
            raise ManifestError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    first = text.partition("\n")[0]
    mark = "\t" if path.suffix.lower() == ".tsv" else ";" if first.count(";") > first.count(",") else ","
    try:
        return [row for row in csv.reader(io.StringIO(text), delimiter=mark) if row]
    except csv.Error as error:
        raise ManifestError(f"{path}: is no table ({error}); download it again") from error


def _sheet(path: Path) -> list[list[str]]:
    try:
        import openpyxl
    except ImportError as error:
        raise BackendError(f"reading .xlsx needs openpyxl ({error}); pip install 'prostate-mim[datasets]'") from error
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        sheet = book.worksheets[0]
        return [["" if cell is None else str(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, IndexError) as error:
        raise ManifestError(f"{path}: is no .xlsx sheet ({type(error).__name__}); download it again") from error
