"""Which blocks are hidden: one strategy a file."""

from __future__ import annotations

from prostate_mim.mim.strategies.random import random_hidden_blocks

__all__ = ["random_hidden_blocks"]
