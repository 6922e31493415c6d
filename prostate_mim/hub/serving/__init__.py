"""A hub without internet: a folder of models served in the protocol that huggingface_hub's client speaks."""

from __future__ import annotations

from prostate_mim.hub.serving.access import Access, new_token, read_access
from prostate_mim.hub.serving.server import HubServer, Limits
from prostate_mim.hub.serving.shelf import Shelf

__all__ = ["Access", "HubServer", "Limits", "Shelf", "new_token", "read_access"]
