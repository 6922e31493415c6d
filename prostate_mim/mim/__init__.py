"""Masked image modelling: hide blocks -> encode -> decode -> loss. Read ``model.py`` first."""

from __future__ import annotations

from prostate_mim.mim.blocks import BlockGrid, expand_blocks
from prostate_mim.mim.hiding import hide
from prostate_mim.mim.methods import METHODS, Method, find_method
from prostate_mim.mim.model import MaskedImageModel, MimBatch, MimOutput
from prostate_mim.mim.strategies import random_hidden_blocks

__all__ = [
    "METHODS",
    "BlockGrid",
    "MaskedImageModel",
    "Method",
    "MimBatch",
    "MimOutput",
    "expand_blocks",
    "find_method",
    "hide",
    "random_hidden_blocks",
]
