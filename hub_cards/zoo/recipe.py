"""training.toml of a model: how it is made, as plain values against a closed schema."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from prostate_mim.config import read_config
from prostate_mim.pretraining import PretrainConfig

CARDS = Path(__file__).resolve().parents[1]
FILE = "training.toml"


@dataclass(frozen=True)
class DecoderRun:
    """A decoder for weights that were not pretrained with one that paints voxels.

    Attributes:
        run: its pretraining; begins at the model's own weights, which stay as they are.
    """

    run: PretrainConfig


@dataclass(frozen=True)
class Recipe:
    """How a model of the zoo is made.

    Attributes:
        manifest: of ``make_data.py``'s.
        about: one sentence for the card.
        average: share of the pretrained weights in a mean with those that pretraining began with; 1 is no mean.
        pretraining: of the encoder.
        decoder: of a second run for the decoder alone, or None.
    """

    manifest: str
    about: str
    average: float = 1.0
    pretraining: PretrainConfig = field(default_factory=PretrainConfig)
    decoder: DecoderRun | None = None


def read_recipe(name: str) -> Recipe:
    """The recipe of a model by name."""
    return read_config(CARDS / name / FILE, Recipe)
