"""Probabilities of one DICOM series -> a DICOM structured report: TID 1500 in a Comprehensive 3D SR.

Each lesion is a measurement group with the probability as a number (no unit, 0 to 1), inferred from a 3D point in the
patient (LPS, mm); the slice nearest to the point is named as its source. The report is unverified, qualified as
RESEARCH, and says so in words. It carries the patient and study of the series, as any object of a study must.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prostate_mim.errors import BackendError, UsageError, VolumeError
from prostate_mim.files import atomic_path

NOTICE = "Research use only. Not for diagnosis: the software is not a medical device."
SCHEME = "99PROSTATEMIM"
PROBABILITY = ("probability-label-1", SCHEME, "Probability of label 1 of the model")
_SERIES_NUMBER = 9901
_NEEDED = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns",
    "ImagePositionPatient",
)  # fmt: skip
# Type 2 in every image object: they have to be there and may be empty, which means unknown. De-identifiers drop some.
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip


def check_request(out: Path, study: Path, positions: Sequence[object]) -> None:
    """Refuse before any computing what could not be reported afterwards.

    Raises:
        UsageError: the study is a file, no position was given, or ``out`` lies nowhere or in the series' own folder.
        BackendError: pydicom or highdicom is missing.
    """
    if study.is_file():
        raise UsageError(f"--sr {out}: a report refers to DICOM slices, and {study} is no folder of them; leave it out")
    if not positions:
        raise UsageError(f"--sr {out}: a report needs the place of each lesion; give --position 'x y z'")
    if out.is_dir() or out.resolve().parent == study.resolve():
        raise UsageError(f"--sr {out}: must be a file outside of the series' folder, which holds one series only")
    if not out.parent.is_dir():
        raise UsageError(f"--sr {out}: cannot be written (no such folder); make the folder first")
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise BackendError(f"--sr {out}: {error}; pip install -r requirements-sr.txt") from error


def write_report(out: Path, folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write one report of all lesions, atomically.

    Args:
        out: the file.
        folder: of the series that ``read_volume`` has read.
        rows: as ``run_study.predictions`` gives them, one for each lesion.

    Raises:
        VolumeError: a slice lacks what a report must repeat.
        UsageError, ResourceError: the file cannot be written.
    """
    slices = _slices(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # their texts repeat values of the header, a name perhaps
        try:
            report = _report(slices, rows)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise VolumeError(
                f"{folder}: a DICOM field cannot be repeated in a report ({type(error).__name__}); leave out --sr"
            ) from None
        with atomic_path(out) as temporary:
            report.save_as(temporary, enforce_file_format=True)


def _slices(folder: Path) -> list[Any]:
    """The headers of all slices, along the patient; what may be empty is there."""
    import pydicom

    found = []
    for path in sorted(item for item in folder.iterdir() if item.is_file() and not item.name.startswith(".")):
        with path.open("rb") as stream:
            if stream.read(132)[128:] != b"DICM":  # notes beside the slices, which read_volume passes over too
                continue
        header = pydicom.dcmread(path, stop_before_pixels=True)
        lacking = [keyword for keyword in _NEEDED if not header.get(keyword)]
        if lacking:
            raise VolumeError(f"{folder}: a slice has no {lacking[0]}, which a report refers to; leave out --sr")
        for keyword in _MAY_BE_EMPTY:
            if keyword not in header:
                setattr(header, keyword, "")
        found.append(header)
    return found


def _report(slices: Sequence[Any], rows: Sequence[dict[str, Any]]) -> Any:
    """The whole object."""
    import highdicom as hd
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from pydicom.sr.codedict import codes

    name, revision = rows[0]["model"], rows[0]["revision"]
    maker = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=_uid(name, revision), name="prostate-mim", model_name=name
        ),
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=maker),
        procedure_reported=codes.cid100.ImagingProcedure,
        title=codes.DCM.ImagingMeasurementReport,
        imaging_measurements=[_group(number, row, slices) for number, row in enumerate(rows, 1)],
    )
    for text in (NOTICE, *dict.fromkeys(f"Image check: {flag}" for row in rows for flag in row["flags"])):
        content[0].ContentSequence.append(_comment(text))
    return hd.sr.Comprehensive3DSR(
        evidence=slices, content=content, series_instance_uid=hd.UID(), series_number=_SERIES_NUMBER,
        sop_instance_uid=hd.UID(), instance_number=1, manufacturer="prostate-mim", manufacturer_model_name=name,
        software_versions=revision, device_serial_number=revision[:16], is_complete=True, is_final=False,
        is_verified=False, content_qualification="RESEARCH", series_description="prostate-mim: research use only",
        coding_schemes=[CodingSchemeIdentificationItem(SCHEME, name="prostate-mim")],
    )  # fmt: skip


def _group(number: int, row: dict[str, Any], slices: Sequence[Any]) -> Any:
    """One lesion."""
    import highdicom as hd
    import numpy as np
    from pydicom.sr.codedict import codes

    point = np.asarray([row["position_mm_lps"]], float)
    nearest = min(slices, key=lambda item: _distance_mm(item, point[0]))
    algorithm = hd.sr.AlgorithmIdentification(row["model"], row["revision"], parameters=[f"spec {row['spec']}"])
    probability = hd.sr.Measurement(
        name=hd.sr.CodedConcept(*PROBABILITY),
        value=row["probability"],
        unit=codes.UCUM.NoUnits,
        algorithm_id=algorithm,
        referenced_coordinates=[
            hd.sr.CoordinatesForMeasurement3D("POINT", point, str(slices[0].FrameOfReferenceUID))
        ],
    )  # fmt: skip
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=f"Lesion {number}"),
        finding_type=codes.SCT.Lesion,
        finding_sites=[hd.sr.FindingSite(codes.SCT.Prostate)],
        measurements=[probability],
        source_images=[hd.sr.SourceImageForMeasurementGroup.from_source_image(nearest)],
    )


def _comment(text: str) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    return hd.sr.TextContentItem(codes.DCM.Comment, text, hd.sr.RelationshipTypeValues.CONTAINS)


def _distance_mm(header: Any, point: Any) -> float:
    """How far a point (x, y, z) lies from the plane of a slice."""
    import numpy as np

    along = np.asarray(header.ImageOrientationPatient, float)
    normal = np.cross(along[:3], along[3:])
    return float(abs((point - np.asarray(header.ImagePositionPatient, float)) @ normal))


def _uid(*parts: str) -> str:
    """The same identifier for the same model."""
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=["prostate-mim", *parts]))
