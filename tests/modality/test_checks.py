"""The cheap checks: every wrong input is flagged with the number that is off, and its original is not."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from wrong_inputs import WRONG, volume_of

from prostate_mim.modality.checks import GEOMETRY, Limit, check_crop, check_volume, measured
from prostate_mim.modality.measures import symmetry
from prostate_mim.phantom import make_study
from prostate_mim.volume import Volume
from prostate_mim.volume.geometry import Geometry


def made(kind: str, volume: Volume) -> Volume:
    return WRONG[kind](volume, np.random.default_rng(5))


@pytest.mark.parametrize("index", range(4))
def test_good_phantoms_pass(index: int) -> None:
    """The control of all below: nothing is off with an unchanged phantom."""
    assert check_volume(make_study(78, index).volume) == ()


@pytest.mark.parametrize(
    ("kind", "check", "low", "high"),
    [
        ("sagittal", "left-right symmetry", -1, 0.45),
        ("coronal", "field of view y", 75, 77),  # the stack's height: 23 slices of 3.3 mm are 75.9
        ("head", "typical intensity", 0, 0.06),
        ("CT, Hounsfield units", "lowest value", -1300, -1000),
        ("CT, 1024 added", "middle intensities", 0, 0.08),
        ("inverted", "darkest intensity", 0.12, 1),
        ("localiser", "slice spacing", 10, 10),
        ("localiser", "slices", 3, 5),
        ("noise only", "sharpness", 0.95, 1.05),
        ("noise only", "left-right symmetry", -0.2, 0.2),
        ("low resolution", "pixel spacing", 2, 2),
        ("low resolution, upsampled", "sharpness", 0.2, 0.29),
        ("pixels repeated", "repeated pixels", 0.45, 0.6),
        ("spacing x 2", "field of view x", 304, 307),
        ("spacing x 2", "slice spacing", 6.6, 6.6),
        ("spacing / 2", "field of view x", 76, 77),
        ("corner of the pelvis", "left-right symmetry", -1, 0.45),
    ],
)
def test_wrong_input_is_flagged_with_its_number(good: Volume, kind: str, check: str, low: float, high: float) -> None:
    """The named check speaks, its value is the one made, and the message holds value and range."""
    found = {finding.check: finding for finding in check_volume(made(kind, good))}
    finding = found[check]
    assert isinstance(finding.value, float)
    assert low <= finding.value <= high
    assert f"{finding.value:.3g}" in finding.message
    assert finding.allowed in finding.message
    assert "\n" not in finding.message


def test_crop_is_asked_for_spacing_sign_and_repetition_only() -> None:
    """A small 2-D crop passes; as a whole series it would not; and a negative, repeated or coarse one is flagged."""
    rng = np.random.default_rng(0)
    crop = volume_of(rng.integers(100, 900, (1, 40, 40)), (3.0, 0.5, 0.5))
    assert check_crop(crop) == ()
    assert {"slices", "field of view x"} <= {finding.check for finding in check_volume(crop)}
    negative = volume_of(crop.voxels - 500, (3.0, 0.5, 0.5))
    assert [finding.check for finding in check_crop(negative)] == ["lowest value", "negative values"]
    repeated = volume_of(crop.voxels.repeat(2, 1).repeat(2, 2), (3.0, 2.0, 2.0))
    assert [finding.check for finding in check_crop(repeated)] == ["pixel spacing", "repeated pixels"]


def test_limit_is_inclusive_and_worded() -> None:
    """By hand: 0.2 and 1.4 pass, 1.41 does not; one-sided ranges say so; NaN cannot be told and passes."""
    limit = next(limit for limit in GEOMETRY if limit.check == "pixel spacing")
    assert limit.finding(0.2) is limit.finding(1.4) is limit.finding(float("nan")) is None
    finding = limit.finding(1.41)
    assert finding is not None
    assert (finding.value, finding.allowed) == (1.41, "0.2 to 1.4 mm")
    assert Limit("a", "b", 10, float("inf"), "c", "", "d").allowed == "at least 10"
    assert Limit("a", "b", -float("inf"), 0.3, "c", "", "d").allowed == "at most 0.3"


def test_measures_do_not_depend_on_the_grey_scale(good: Volume) -> None:
    """Ten times the values: the same ratios; the number type does not matter either."""
    louder = Volume(good.voxels.astype(np.float64) * 10, good.geometry, "x")
    before, after = measured(good), measured(louder)
    del before["lowest"], after["lowest"]
    assert before == pytest.approx(after, rel=1e-3, abs=1e-6)


def test_symmetry_by_hand() -> None:
    """A mirror image of itself has 1, also with its plane 1.5 blocks off; a ramp, whose mirror falls, is near -1."""
    rows, columns = np.mgrid[:80, :80]
    bowl = ((columns - 39.5) ** 2 + rows)[None].repeat(4, 0)
    assert symmetry(volume_of(bowl, (3.0, 1.0, 1.0))) == pytest.approx(1)
    moved = ((columns - 42.5) ** 2 + rows)[None].repeat(4, 0)
    assert symmetry(volume_of(moved, (3.0, 1.0, 1.0))) == pytest.approx(1)
    ramp = Volume((columns.astype(np.float32) ** 2)[None].repeat(4, 0), Geometry((3.0, 1.0, 1.0)), "ramp")
    assert symmetry(ramp) < -0.8


@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 3, 50), (2, 41, 43), (1, 1, 1)])
def test_any_size_and_constant_images_can_be_measured(shape: tuple[int, int, int]) -> None:
    """No warning and no error, whatever the image: measures that mean nothing there are NaN."""
    for voxels in (np.zeros(shape), np.full(shape, -3), np.arange(np.prod(shape)).reshape(shape)):
        check_volume(volume_of(voxels, (3.0, 0.5, 0.5)))
        check_crop(volume_of(voxels, (3.0, 0.5, 0.5)))


def test_checks_need_no_torch() -> None:
    """Importing and calling them, as the ONNX runtime does, brings in no torch."""
    code = (
        "import sys, numpy as np\n"
        "from prostate_mim.modality import check_modality\n"
        "from prostate_mim.volume import read_volume\n"
        "check_modality(read_volume(np.arange(8000.).reshape(20, 20, 20), spacing_mm_zyx=(3, 1, 1)))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
