"""Names -> verified local release folders, and the folders themselves."""

from __future__ import annotations

from prostate_mim.hub.release import Release, read_release, write_release
from prostate_mim.hub.resolve import (
    BUNDLED_DEFAULT,
    UnpinnedRevisionWarning,
    available_models,
    list_models,
    open_release,
    resolve,
)
from prostate_mim.hub.studies import Studies

__all__ = [
    "BUNDLED_DEFAULT",
    "Release",
    "Studies",
    "UnpinnedRevisionWarning",
    "available_models",
    "list_models",
    "open_release",
    "read_release",
    "resolve",
    "write_release",
]
