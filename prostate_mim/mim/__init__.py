"""Masked image modelling: hide blocks -> encode -> decode -> loss. Read ``model.py`` first."""

from __future__ import annotations

from prostate_mim.mim.blocks import BlockGrid, expand_blocks
from prostate_mim.mim.model import MaskedImageModel, MimOutput
from prostate_mim.mim.strategies import random_hidden_blocks

__all__ = ["BlockGrid", "MaskedImageModel", "MimOutput", "expand_blocks", "random_hidden_blocks"]
