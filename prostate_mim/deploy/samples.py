"""Inputs that an exported file is compared on: waves for the golden sample, and phantoms in the spec's own crops."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from prostate_mim.deploy.contract import FloatArray
from prostate_mim.manifest import Point
from prostate_mim.phantom import make_study
from prostate_mim.phantom.study import PhantomStudy
from prostate_mim.preprocess import prepare_input
from prostate_mim.spec import InputSpec
from prostate_mim.studies import split_zones
from prostate_mim.volume import Geometry, Volume

PHANTOMS = 12
_SEED = 20221229


def smooth(shape: tuple[int, int, int, int, int]) -> FloatArray:
    """(N, C, D, H, W) float32, different for each item, representable in float16; no patient in it.

    The first channel is a sum of plane waves, the others, masks, are 0 and 1.
    """
    rng = np.random.default_rng(_SEED)
    grid = np.stack(np.meshgrid(*map(np.arange, shape[2:]), indexing="ij"), -1)
    items = []
    for _ in range(shape[0]):
        waves = rng.normal(size=(6, 3)) * (1.2, 0.15, 0.15)
        image = np.sin(grid @ waves.T + rng.uniform(0, 6, 6)).sum(-1) / np.sqrt(3)
        items.append(np.stack([image, *(np.roll(image, number, 2) > 0 for number in range(1, shape[1]))]))
    return np.stack(items).astype(np.float16).astype(np.float32)


def smooth_study() -> Volume:
    """A small oblique volume of waves, representable in float16, for the golden sample of a whole pipeline.

    Finer than the usual contract along two axes and coarser along one, so that smoothing and interpolation both count.
    """
    tilt = np.deg2rad(9.0)
    direction = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    waves = 100 * smooth((1, 1, 10, 40, 44))[0, 0]
    voxels = (300 + np.rint(waves)).astype(np.float32)
    return Volume(voxels, Geometry((1.7, 0.7, 0.3), (-6.0, -14.0, 21.0), direction), "golden sample")


def phantom_studies() -> Iterator[tuple[Volume, Point]]:
    """Twelve phantoms as volumes, and the position of the first lesion of each."""
    for study in map(_study, range(PHANTOMS)):
        yield study.volume, study.lesions[0].position_mm_lps


@lru_cache(maxsize=4)
def phantom_inputs(spec: InputSpec) -> FloatArray:
    """(12, C, D, H, W) float32: what ``preprocess`` makes of twelve phantoms, around the first lesion of each."""
    return np.stack([_input(study, spec) for study in map(_study, range(PHANTOMS))])


@lru_cache(maxsize=PHANTOMS)
def _study(number: int) -> PhantomStudy:
    return make_study(_SEED, number)


def _input(study: PhantomStudy, spec: InputSpec) -> FloatArray:
    lesion = study.lesions[0]
    masks: dict[str, Volume] = {"gland": study.gland, "lesion": lesion.mask, **split_zones(study.zones)}
    return prepare_input(study.volume, spec, lesion.position_mm_lps, masks)
