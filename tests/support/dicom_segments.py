"""Real DICOM segmentation objects for tests, written by highdicom from masks on a series of DICOM files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from dicom_series import uid

# What a series of ``write_dicom_series`` needs more, to be segmented.
SEGMENTABLE = {
    "FrameOfReferenceUID": uid("frame"), "StudyID": "1", "StudyTime": "120000", "PatientBirthDate": "",
    "PatientSex": "M", "AccessionNumber": "", "ReferringPhysicianName": "", "SeriesDate": "20110707",
    "SeriesTime": "120000", "Manufacturer": "maker",
}  # fmt: skip


def write_segments(
    path: Path,
    source: Sequence[Path],
    segments: Sequence[tuple[str, str, npt.NDArray[np.bool_]]],
    *,
    fractional: bool = False,
    series_number: int = 1006,
) -> Path:
    """Write one DICOM-SEG file; returns its path.

    Args:
        path: of the file; its folder is made.
        source: files of the series, in the order of the masks' slices.
        segments: label, description and (slice, row, column) mask of each; the first is number 1.
        fractional: of the FRACTIONAL type.
        series_number: of the object.
    """
    import highdicom as hd
    import pydicom
    from highdicom.sr.coding import CodedConcept

    tissue = CodedConcept("85756007", "SCT", "Tissue")
    prostate = CodedConcept("41216001", "SCT", "Prostate")
    described = []
    for number, (label, description, _) in enumerate(segments, 1):
        item = hd.seg.SegmentDescription(number, label, tissue, prostate, "MANUAL")
        if description:
            item.SegmentDescription = description
        described.append(item)
    pixels: Any = np.stack([mask for *_, mask in segments], axis=-1)
    made = hd.seg.Segmentation(
        source_images=[pydicom.dcmread(file) for file in source],
        pixel_array=pixels.astype(np.float32) if fractional else pixels.astype(np.uint8),
        segmentation_type="FRACTIONAL" if fractional else "BINARY",
        segment_descriptions=described,
        series_instance_uid=uid("segmentation", path),
        series_number=series_number,
        sop_instance_uid=uid("segmentation file", path),
        instance_number=1,
        manufacturer="maker",
        manufacturer_model_name="model",
        software_versions="1",
        device_serial_number="1",
        series_description="T2 Weighted Axial Segmentations",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path)
    return path
