"""Made-up lesions: noise, brighter in the middle where the label is 1. No manifest, no file."""

from __future__ import annotations

import numpy as np

from prostate_mim.engine.data import Region
from prostate_mim.finetuning.lesions import Lesions
from prostate_mim.spec import InputSpec
from prostate_mim.store import PreparedStudy
from prostate_mim.volume import Geometry

SPEC = InputSpec(size_zyx=(8, 32, 32))
SHAPE = (10, 44, 44)  # the crop and finetune's jitter


def region(label: int, row: int, contrast: float = 250.0) -> Region:
    """A study around one lesion."""
    voxels = np.random.default_rng(row).normal(500, 100, SHAPE)
    voxels[3:7, 16:28, 16:28] += contrast * label
    box = tuple((0, n) for n in SHAPE)
    study = PreparedStudy(voxels.astype(np.int16), 1.0, 0.0, box, None, frozenset(), Geometry(SPEC.spacing_mm_zyx))
    return Region(study, label, row)


def lesions(count: int = 24, labels: np.ndarray | None = None, contrast: float = 250.0) -> Lesions:
    """Two lesions a patient, three folds, two zones."""
    patients = np.arange(count) // 2
    labels = (patients % 2).astype(np.int64) if labels is None else labels
    return Lesions(
        tuple(region(int(label), row, contrast) for row, label in enumerate(labels, 1)), labels, labels,
        tuple(f"p{n}" for n in patients), patients // 2 % 3, np.arange(count) % 2, ("PZ", "TZ"), ("",) * count,
    )  # fmt: skip
