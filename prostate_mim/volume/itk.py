"""The one place that lets SimpleITK (GDCM) read pixels: slices of DICOM, after our own checks have passed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from prostate_mim.errors import VolumeError
from prostate_mim.volume.orient import RawImage


def read_series(paths: Sequence[Path], name: str) -> RawImage:
    """Read the ordered files of one DICOM series.

    Args:
        paths: the files in order of position, already verified.
        name: the folder, as the user gave it.

    Raises:
        VolumeError: SimpleITK refuses the file, or it is not a 3-D image of real numbers.
    """
    import SimpleITK

    try:
        with _quiet():
            image = SimpleITK.ReadImage([str(path) for path in paths], imageIO="GDCMImageIO")
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1] if lines else "no reason given"
        raise VolumeError(f"{name}: SimpleITK cannot read it ({reason}); convert it again") from error
    return _raw(image, name)


def _raw(image: Any, name: str) -> RawImage:
    import SimpleITK

    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        parts = image.GetNumberOfComponentsPerPixel()
        raise VolumeError(f"{name}: {image.GetDimension()}-D with {parts} values a voxel, must be 3-D, 1 value")
    i, j, k = (float(value) for value in image.GetSpacing())
    x, y, z = (float(value) for value in image.GetOrigin())
    direction = np.asarray(image.GetDirection(), float).reshape(3, 3)
    voxels = SimpleITK.GetArrayFromImage(image)
    if voxels.dtype.kind not in "iuf":
        raise VolumeError(f"{name}: voxel type {voxels.dtype} is not a real number; store int16 or float32")
    return RawImage(voxels, (i, j, k), (x, y, z), direction, "ImageOrientationPatient")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ITK's warnings off standard error: what they say is either checked by us or irrelevant."""
    import SimpleITK

    display: Any = SimpleITK.ProcessObject
    before = display.GetGlobalWarningDisplay()
    display.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        display.SetGlobalWarningDisplay(before)
