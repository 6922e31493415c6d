"""The crop that is drawn: of a study, of a row of a manifest with its masks, or of a phantom."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prostate_mim.errors import UsageError
from prostate_mim.manifest import read_manifest
from prostate_mim.phantom import make_study
from prostate_mim.preprocess import BoolArray, Crop, mask_on_grid, prepare_crop
from prostate_mim.spec import InputSpec
from prostate_mim.studies import MASKS, open_study
from prostate_mim.volume import read_volume


@dataclass(frozen=True)
class Shown:
    """The crop that is drawn.

    Attributes:
        crop: (z, y, x) z-scored.
        masks: by name of ``MASKS``, (z, y, x) bool on the crop's grid, or None where there is none or nobody asked.
        label: how the picture names the study: never a path or an identifier.
    """

    crop: Crop
    masks: dict[str, BoolArray | None]
    label: str

    def missing(self, name: str) -> str:
        """Why a strategy could not look at a mask."""
        return f"no {name} mask" if self.masks[name] is None else f"no {name} in the crop"


def phantom_shown(spec: InputSpec, seed: int) -> Shown:
    """The first phantom of a seed around the centre of its gland, with the masks of gland and lesions."""
    study = make_study(seed, 0)
    centre = study.gland.geometry.index_to_position(np.argwhere(study.gland.voxels > 0).mean(0))
    crop = prepare_crop(study.volume, spec, centre)
    gland, *lesions = (
        mask_on_grid(mask, crop.geometry, spec.size_zyx) & crop.inside
        for mask in (study.gland, *(lesion.mask for lesion in study.lesions))
    )
    return Shown(crop, {"gland": gland, "lesion": np.logical_or.reduce(lesions)}, f"phantom seed {seed}")


def manifest_shown(spec: InputSpec, path: Path, row: int, masks: Collection[str]) -> Shown:
    """A row of a manifest around its centre.

    Args:
        spec: the input contract.
        path: of the manifest.
        row: 1 is the first after the header.
        masks: which of ``MASKS`` to read; no other mask file is opened.

    Raises:
        UsageError: there is no such row.
        ManifestError, VolumeError, NotFoundError: as ``open_study`` and ``Study.read_mask``.
    """
    manifest = read_manifest(path)
    study = open_study(manifest, manifest.row(row), masks)
    crop = prepare_crop(study.volume, spec, study.centre_mm_lps)
    found = {name: study.mask_on(crop, name) if name in masks else None for name in MASKS}
    return Shown(crop, found, f"row {row}")


def file_shown(spec: InputSpec, path: Path, spacing_mm_zyx: tuple[float, float, float] | None = None) -> Shown:
    """The middle of a study; no masks.

    Raises:
        VolumeError, NotFoundError: as ``read_volume``.
    """
    crop = prepare_crop(read_volume(path, spacing_mm_zyx=spacing_mm_zyx), spec)
    return Shown(crop, dict.fromkeys(MASKS), "study")


def open_shown(
    spec: InputSpec,
    *,
    study: Path | None = None,
    manifest: Path | None = None,
    row: int | None = None,
    masks: Collection[str] = MASKS,
    spacing_mm_zyx: tuple[float, float, float] | None = None,
    seed: int = 0,
) -> Shown:
    """The crop of a study, or of a manifest's row, or of a phantom where neither is given.

    Args:
        spec: the input contract.
        study: a file or DICOM folder.
        manifest: CSV of studies.
        row: of the manifest; 1 is the first after the header, and taken if None.
        masks: which of ``MASKS`` to read from the manifest.
        spacing_mm_zyx: of a study that is a bare array.
        seed: of the phantom.

    Raises:
        UsageError: study and manifest are both given, there is no such row, or what is given does not go together.
        ManifestError, VolumeError, NotFoundError: what is given cannot be read.
    """
    if study is not None and manifest is not None:
        raise UsageError("give one study or --manifest, not both (without either a phantom is drawn)")
    if row is not None and manifest is None:
        raise UsageError("--row is of a manifest; give --manifest too")
    if spacing_mm_zyx is not None and study is None:
        raise UsageError("--spacing is of a study file; give one, or write spacing_mm_zyx into the manifest")
    if study is not None:
        return file_shown(spec, study, spacing_mm_zyx)
    if manifest is not None:
        return manifest_shown(spec, manifest, 1 if row is None else row, masks)
    return phantom_shown(spec, seed)
