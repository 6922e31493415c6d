"""Keyed hashes of the studies that a model was trained on."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from prostate_mim.errors import IntegrityError

_KEY_DIGITS = _DIGEST_DIGITS = 32


@dataclass(frozen=True)
class StudyHashes:
    """Which studies a model was trained on: it can be asked about a study at hand, and lists none.

    Attributes:
        key: 32 hex digits, another one for every release, so that two releases cannot be compared with each other.
        digests: HMAC-SHA256 of each study's voxel hash under the key, first 32 hex digits.
    """

    key: str
    digests: frozenset[str]

    @classmethod
    def make(cls, hashes: Iterable[str], key: str) -> StudyHashes:
        """Of the studies' voxel hashes."""
        return cls(key, frozenset(_keyed(key, found) for found in hashes))

    def extended(self, hashes: Iterable[str]) -> StudyHashes:
        """With further studies, under the same key."""
        return StudyHashes(self.key, self.digests | StudyHashes.make(hashes, self.key).digests)

    def contains(self, voxel_hash: str) -> bool:
        """Whether a study with these voxels is among them."""
        return _keyed(self.key, voxel_hash) in self.digests

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"key": self.key, "digests": sorted(self.digests)}

    @classmethod
    def from_dict(cls, values: object) -> StudyHashes:
        """From ``to_dict``'s values and nothing else.

        Raises:
            IntegrityError: other fields or values.
        """
        if not isinstance(values, dict) or set(values) != {"key", "digests"} or not isinstance(values["digests"], list):
            raise IntegrityError("a list of studies has exactly the fields key and digests")
        key, digests = values["key"], values["digests"]
        if not _is_hex(key, _KEY_DIGITS) or not all(_is_hex(one, _DIGEST_DIGITS) for one in digests):
            raise IntegrityError("key and digests of studies are 32 hex digits each, in lower case")
        if digests != sorted(set(digests)):
            raise IntegrityError("the digests of studies are sorted, and none is there twice")
        return cls(key, frozenset(digests))


def _keyed(key: str, voxel_hash: str) -> str:
    return hmac.new(bytes.fromhex(key), voxel_hash.encode(), hashlib.sha256).hexdigest()[:_DIGEST_DIGITS]


def _is_hex(value: object, digits: int) -> bool:
    return isinstance(value, str) and len(value) == digits and not set(value) - set("0123456789abcdef")
