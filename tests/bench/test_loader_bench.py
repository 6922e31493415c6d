"""The loader benchmark compares like with like, and its figures are what they are called."""

from __future__ import annotations

import numpy as np
import torch
from loader import markdown, summary
from loader_monai import changes, monai_loader
from torch.utils.data import default_collate

from prostate_mim.engine.augment import Augmentation
from prostate_mim.engine.batch import finish_batch
from prostate_mim.engine.data import DrawDataset, Region
from prostate_mim.spec import InputSpec
from prostate_mim.store import PreparedStudy
from prostate_mim.volume import Geometry

SPEC = InputSpec(size_zyx=(4, 24, 24))


def one_region() -> DrawDataset:
    """A region no larger than the crop, so that every random crop is the same."""
    voxels = np.random.default_rng(0).gamma(3, 100, SPEC.size_zyx).astype(np.int16)
    box = tuple((0, n) for n in SPEC.size_zyx)
    study = PreparedStudy(voxels, 1.0, 0.0, box, None, frozenset(), Geometry(SPEC.spacing_mm_zyx))
    return DrawDataset([Region(study, -1, 1)], SPEC, (0, 0, 0), 0)


def test_every_arm_hands_out_the_same_crop(tmp_path):
    """Without augmentation, all of MONAI's arms end at the very numbers of ours (float32 against exact percentiles)."""
    dataset = one_region()
    ours = finish_batch(default_collate([dataset[0]]), "cpu", SPEC, None, 0)["voxels"]
    for arm in ("persistent", "cache", "persistent_once"):
        (theirs,) = monai_loader(arm, dataset, Augmentation.none(), tmp_path / arm)(1, 1, 0)
        assert theirs.shape == ours.shape
        assert float((torch.as_tensor(theirs) - ours).abs().max()) < 1e-4, arm


def test_every_change_has_its_chance():
    """MONAI's list has the changes of ours, each at the same chance."""
    settings = Augmentation()
    chances = [change.prob if hasattr(change, "prob") else change.rand_affine.prob for change in changes(settings)]
    assert chances == [
        settings.thick_chance, settings.blur_chance, settings.flip_chance, settings.affine_chance, settings.bias_chance,
        settings.gamma_chance, settings.contrast_chance, settings.contrast_chance, settings.noise_chance,
    ]  # fmt: skip
    assert changes(Augmentation.none()) == []


def test_ratios_are_within_rounds():
    """By hand: rounds 10 : 1, 30 : 2 and 8 : 4 are ratios 10, 15 and 2; their median is 10, not 10 : 2."""
    ours, theirs = summary(2, {"ram": [10.0, 30.0, 8.0], "persistent": [1.0, 2.0, 4.0]})
    assert ours["speed_vs_persistent"] == 10.0
    assert ours["speed_vs_persistent_range"] == [2.0, 15.0]
    assert (ours["crops_per_second"], ours["crops_per_second_best"]) == (10.0, 30.0)
    assert "speed_vs_persistent" not in theirs
    assert "| 2 | ram | 10.0 | 30.0 | 10.0 |" in markdown([ours, theirs])
