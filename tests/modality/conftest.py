"""One phantom, and the encoder that the outlier score's statistics are of."""

from __future__ import annotations

import pytest

from prostate_mim.encoder import PreMIM
from prostate_mim.modality.reference import bundled_reference
from prostate_mim.phantom import make_study
from prostate_mim.volume import Volume


@pytest.fixture(scope="session")
def good() -> Volume:
    """An axial T2w phantom: 23 slices 3.3 mm apart, field of view 153 mm."""
    return make_study(77, 0).volume


@pytest.fixture(scope="session")
def bundled() -> PreMIM:
    """The bundled encoder."""
    return PreMIM.from_pretrained(bundled_reference().encoder)
