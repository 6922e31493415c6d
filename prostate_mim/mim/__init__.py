"""Masked image modelling, in the order of a training step.

Read ``model.py`` first::

    hide       hiding.py     asks a strategy (strategies/, one a file) which blocks (blocks.py) of each crop are hidden
    encode     encoding.py   the encoder on what is visible: exactly, by ``prostate_mim.masked``, or in a dense way
    decode     decoders/     features -> F values for every cell of the coarsest stage, one decoder a file
    compare    targets/      what should have been predicted, made of the clean crop, one kind a file
               losses.py     how far from it, on hidden and measured values only

``methods.py`` names the combinations, ``layout.py`` goes between voxels, cells and blocks, ``teacher.py`` is the slow
copy of the model that some targets and one strategy ask.
"""

from __future__ import annotations

from prostate_mim.mim.blocks import BlockGrid, expand_blocks, nothing_hidden
from prostate_mim.mim.hiding import block_difficulty, hide
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
    "block_difficulty",
    "expand_blocks",
    "find_method",
    "hide",
    "nothing_hidden",
    "random_hidden_blocks",
]
