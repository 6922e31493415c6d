"""Names -> verified local release folders, and the folders themselves."""

from __future__ import annotations

from prostate_mim.hub.release import Release, read_release, write_release
from prostate_mim.hub.resolve import BUNDLED_DEFAULT, list_models, resolve

__all__ = ["BUNDLED_DEFAULT", "Release", "list_models", "read_release", "resolve", "write_release"]
