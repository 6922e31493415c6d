"""Real DICOM files for tests, written by pydicom from a volume: one MR image object per slice, as scanners do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from prostate_mim.volume import Volume

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"


def uid(*parts: object) -> str:
    """A unique identifier that depends on the parts only."""
    import pydicom.uid

    return str(pydicom.uid.generate_uid(entropy_srcs=[str(part) for part in parts]))


def write_dicom_series(
    folder: Path,
    volume: Volume,
    *,
    patient_id: str = "P1",
    study: str = "study",
    series_number: int = 4,
    description: str = "t2_tse_tra",
    tags: dict[str, Any] | None = None,
) -> list[Path]:
    """Write a volume (z, y, x; whole numbers 0 to 4095) as ``1-01.dcm, 1-02.dcm ...``; returns the files, by slice.

    Args:
        folder: of the series; made where missing.
        patient_id: tag PatientID, and PatientName alike.
        study: equal texts give equal StudyInstanceUID.
        series_number: tag SeriesNumber; with ``study`` it decides SeriesInstanceUID.
        description: tag SeriesDescription.
        tags: further tags of every slice by keyword (``{"RescaleSlope": "2"}``), in place of those above.
    """
    from pydicom.dataset import FileDataset, FileMetaDataset

    folder.mkdir(parents=True, exist_ok=True)
    direction = np.asarray(volume.geometry.direction, float)
    z, y, x = volume.geometry.spacing_mm_zyx
    series = uid(study, series_number)
    paths = []
    for index, plane in enumerate(volume.voxels):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MR_IMAGE
        meta.MediaStorageSOPInstanceUID = uid(study, series_number, index)
        meta.TransferSyntaxUID = EXPLICIT_LITTLE
        path = folder / f"1-{index + 1:02d}.dcm"
        made = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        made.SOPClassUID, made.SOPInstanceUID = MR_IMAGE, meta.MediaStorageSOPInstanceUID
        made.Modality, made.PatientID, made.PatientName = "MR", patient_id, patient_id
        made.StudyInstanceUID, made.SeriesInstanceUID = uid(study), series
        made.StudyDate, made.SeriesNumber, made.SeriesDescription = "20110707", series_number, description
        made.InstanceNumber = index + 1
        made.ImagePositionPatient = [f"{v:.9g}" for v in volume.geometry.index_to_position((index, 0, 0))]
        made.ImageOrientationPatient = [f"{v:.9g}" for v in (*direction[:, 0], *direction[:, 1])]
        made.PixelSpacing, made.SliceThickness = [f"{y:.9g}", f"{x:.9g}"], f"{z:.9g}"
        made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
        made.Rows, made.Columns = plane.shape
        made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
        made.PixelData = np.ascontiguousarray(plane, dtype="<u2").tobytes()
        for keyword, value in (tags or {}).items():
            setattr(made, keyword, value)
        made.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
