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
    """A crop of an interpolated, padded study has the numbers of the code before there was a second version."""
    z, y, x = np.ogrid[:5, :30, :28]
    volume = Volume(((z * 37 + y * 11 + x * 7) % 101).astype(np.int16), Geometry((4.0, 0.7, 0.6), (1.0, 2.0, 3.0)))
    crop = prepare_crop(volume, InputSpec(size_zyx=(8, 32, 48)))
    norms = np.sqrt(np.square(crop.voxels.astype(float)).sum((1, 2)))
    before = [0.0, 41.68752, 21.08757, 27.71231, 41.54421, 27.71462, 21.02876, 41.5844]
    assert int(crop.inside.sum()) == 7616
    assert norms == pytest.approx(before, abs=2e-4)
    assert crop.voxels[4, 16, 10:34:4] == pytest.approx(
        [-0.15096, 1.03206, 2.2149, -1.72269, -0.53967, 0.64335], abs=1e-4
    )
    assert crop.geometry.origin_mm_lps == pytest.approx((-2.6, 4.1, -1.0))
    assert crop.repeated is None
