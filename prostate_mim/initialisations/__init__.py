"""Where an encoder's weights begin, as data: INITIALISATIONS is the whole table.

Every arm of a comparison gets its encoder here, so that architecture, input and everything after it are the same and
only the weights differ. No package of pretrained weights is imported: only the file that it installs is read.
"""

from __future__ import annotations

from prostate_mim.initialisations.norms import calibrate_norms
from prostate_mim.initialisations.table import INITIALISATIONS, Initialisation, initialise, release_card

__all__ = ["INITIALISATIONS", "Initialisation", "calibrate_norms", "initialise", "release_card"]
