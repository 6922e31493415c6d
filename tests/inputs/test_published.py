"""What was published before channels and single slices came in is still the same contract, by its very fingerprint."""

from __future__ import annotations

import json

import numpy as np
import pytest

from prostate_mim.hub.resolve import BUNDLED
from prostate_mim.preprocess import prepare_crop
from prostate_mim.spec import InputSpec
from prostate_mim.volume import Geometry, Volume

NAME = "resenc-s.mim-t2w"


def test_the_bundled_contract_is_what_it_was():
    """Its fingerprint is a literal, and its JSON goes through the reader and back unchanged."""
    written = json.loads((BUNDLED / NAME / "config.json").read_text())["spec"]
    spec = InputSpec.from_dict(written)
    assert spec.fingerprint == "94a40a308d420200"
    assert spec.to_dict() == written
    assert (spec.single_slice, spec.channels, spec.version) == ("pad", ("t2w",), 1)


def test_voxels_are_what_they_were():
    """A crop of an interpolated, padded study has the numbers that releases of format 2 were trained on."""
    z, y, x = np.ogrid[:5, :30, :28]
    volume = Volume(((z * 37 + y * 11 + x * 7) % 101).astype(np.int16), Geometry((4.0, 0.7, 0.6), (1.0, 2.0, 3.0)))
    crop = prepare_crop(volume, InputSpec(size_zyx=(8, 32, 48)))
    norms = np.sqrt(np.square(crop.voxels.astype(float)).sum((1, 2)))
    before = [0.0, 41.70183, 21.03208, 27.62539, 41.56068, 27.69687, 21.08252, 41.62412]
    assert int(crop.inside.sum()) == 7616
    assert norms == pytest.approx(before, abs=2e-4)
    assert crop.voxels[4, 16, 10:34:4] == pytest.approx(
        [0.16784, 1.35289, 2.23853, -1.40658, -0.22153, 0.96352], abs=1e-4
    )
    assert crop.geometry.origin_mm_lps == pytest.approx((-2.6, 4.5, -1.0))
    assert crop.repeated is None
