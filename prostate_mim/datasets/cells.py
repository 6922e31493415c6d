"""Cells of a table of the user's as a manifest's values. What a manifest would refuse is refused here, by its row."""

from __future__ import annotations

from prostate_mim.errors import ManifestError
from prostate_mim.manifest import Point

_FLAGS = {"1": 1, "1.0": 1, "yes": 1, "true": 1, "0": 0, "0.0": 0, "no": 0, "false": 0}
_GRADES = {**{str(grade): grade for grade in range(6)}, **{f"{grade}.0": grade for grade in range(6)}}
_UNKNOWN = ("", "n/a", "nan")
_DIGITS = set("0123456789abcdef")


def flag(text: str, where: str, name: str) -> int | None:
    """0 or 1 in the words that tables have for it; None where nothing is said."""
    if text.lower() in _UNKNOWN:
        return None
    if text.lower() not in _FLAGS:
        raise _wrong(text, where, name, "0 or 1, yes or no, true or false, or nothing")
    return _FLAGS[text.lower()]


def grade(text: str, where: str, name: str) -> int | None:
    """An ISUP grade group, 0 for no cancer; None where nothing is said."""
    if text.lower() in _UNKNOWN:
        return None
    if text not in _GRADES:
        raise _wrong(text, where, name, "an ISUP grade group, 1 to 5, or 0 for no cancer, or nothing")
    return _GRADES[text]


def digest(text: str, where: str, name: str) -> str:
    """A SHA-256 in small letters; empty where nothing is said."""
    if text and (len(text) != 64 or set(text.lower()) - _DIGITS):
        raise _wrong(text, where, name, "64 hex digits, or nothing")
    return text.lower()


def whole(text: str, where: str, name: str) -> int | None:
    """A whole number of at most 9 digits, 0 or more; None where nothing is said."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise _wrong(text, where, name, "a whole number, 0 or more")
    return int(text)


def three(text: str, where: str, name: str) -> Point | None:
    """Three numbers in mm, separated by spaces or commas; None where nothing is said."""
    if not text:
        return None
    try:
        first, second, third = (float(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise _wrong(text, where, name, "three numbers in mm") from None
    return first, second, third


def _wrong(text: str, where: str, name: str, wanted: str) -> ManifestError:
    return ManifestError(f"{where}: {name} is {text[:40]!r}, expected {wanted}")
