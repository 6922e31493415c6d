"""NCI-ISBI 2013: TCIA's collections Prostate-3T and PROSTATE-DIAGNOSIS (DICOM) with the challenge's zone labels (NRRD).

Images: any DICOM tree whose PatientID are ``Prostate3T-01-0001`` or ``ProstateDx-01-0001``. Labels, in the same folder
or in that of ``--labels``: ``Training|Leaderboard|Test/ProstateDx-01-0001.nrrd``; 1 is the peripheral zone, 2 the
central gland. Some were drawn on another slice spacing than the images have; they lie right in space.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from prostate_mim.datasets.dicom_tree import Series, crowded, find_series, names_t2
from prostate_mim.datasets.drawn_on import drawn_on, readable
from prostate_mim.datasets.found import DataSet, Found, FoundRow, ImportOptions, Skipped
from prostate_mim.datasets.mask_files import FILLED, look_at_mask

_PATIENT = re.compile(r"(Prostate3T|ProstateDx)-(\d{2})-(\d{4})", re.IGNORECASE)
_CENTRES = {"Prostate3T": "RUMC", "ProstateDx": "BMC"}
_SPLITS = {"training": "train", "leaderboard": "leaderboard", "test": "test"}

_NO_AXIAL = "patient without an axial series"
_CROWDED = "axial series whose folder holds files of another series"
_SEVERAL = "patient with several axial series of which neither labels nor descriptions single one out"
_DAMAGED = "patient whose axial series is damaged or incomplete"
_BAD_LABEL = "labels that are damaged, empty, or off the patient's series"
_LABEL_ALONE = "labels of a patient whose images are not in the folder"


def find(folder: Path, options: ImportOptions) -> Found:
    """A row for each patient whose axial T2w series is clear; labels are its gland mask where there are any.

    Raises:
        BackendError: pydicom is missing.
    """
    series, skipped = _axial_series(folder)
    labels = _labels([folder, *([options.labels] if options.labels else [])])
    rows: list[FoundRow] = []
    for patient in sorted({*series, *labels}):
        if patient not in series:
            skipped.append(Skipped(patient, _LABEL_ALONE))
            continue
        row = _row(patient, series[patient], labels.get(patient), skipped)
        if row is not None:
            rows.append(row)
    source = "NCI-ISBI 2013" if labels else ""
    return Found(tuple(rows), tuple(skipped), source, _notes(rows))


def _axial_series(folder: Path) -> tuple[dict[str, list[Series]], list[Skipped]]:
    """Patient -> its axial series that lie alone in their folders."""
    everything = find_series(folder)
    shared = crowded(everything)
    found: dict[str, list[Series]] = defaultdict(list)
    skipped: list[Skipped] = []
    seen, packed = set(), set()
    for item in everything:
        # One collection was published with a wrong PatientID once; its folder was named right.
        patient = _patient_of(item.patient_id) or _patient_of(str(item.folder.relative_to(folder)))
        seen.add(patient)
        if not patient or item.stack != "axial" or item.modality == "SEG":
            continue
        if item.folder in shared:
            packed.add(patient)
            skipped.append(Skipped(str(item.folder.relative_to(folder)), _CROWDED))
        else:
            found[patient].append(item)
    skipped += [Skipped(patient, _NO_AXIAL) for patient in sorted(seen - packed - {"", *found})]
    return dict(found), skipped


def _patient_of(text: str) -> str:
    match = _PATIENT.search(text)
    if match is None:
        return ""
    spelt = next(name for name in _CENTRES if name.lower() == match[1].lower())
    return f"{spelt}-{match[2]}-{match[3]}"


def _labels(folders: Sequence[Path]) -> dict[str, Path]:
    """Patient -> label file; a name may go on after the identifier, and a corrected file replaces the first."""
    found: dict[str, Path] = {}
    for path in (item for folder in folders for item in sorted(folder.rglob("*.nrrd"))):
        patient = _patient_of(path.name)
        hidden = path.name.startswith(".") or "__MACOSX" in path.parts
        if patient and not hidden and (patient not in found or "correct" in path.name.lower()):
            found[patient] = path
    return found


def _row(patient: str, series: Sequence[Series], labels: Path | None, skipped: list[Skipped]) -> FoundRow | None:
    """The row of a patient; None, with the reason in ``skipped``, where no series is clear or readable."""
    described = [item for item in series if names_t2(item.description)] or list(series)
    images = readable([item.folder for item in described])
    if not images:
        skipped.append(Skipped(patient, _DAMAGED))
        return None
    chosen = drawn_on(labels, images)
    if chosen is None:
        skipped.append(Skipped(patient, _SEVERAL))
        return None
    image, volume = chosen
    gland = labels
    if labels is not None and look_at_mask(labels, volume).state != FILLED:
        skipped.append(Skipped(patient, _BAD_LABEL))
        gland = None
    split = "" if labels is None else _SPLITS.get(labels.parent.name.lower(), "")
    return FoundRow(
        patient,
        patient,
        image,
        gland_mask=gland,
        centre=_CENTRES[patient.partition("-")[0]],
        extra={"split": split} if split else {},
    )


def _notes(rows: Sequence[FoundRow]) -> tuple[str, ...]:
    bare = sum(row.gland_mask is None for row in rows)
    notes = [f"studies without labels: {bare}; good for pre-training"] if bare else []
    return (
        *notes,
        "gland_mask holds 1 for the peripheral zone and 2 for the central gland: everything above 0 is gland",
        "Prostate-3T is from the hospital of PROSTATEx, PI-CAI and a part of PROMISE12; whether patients are shared is "
        "not published: run 'data check' before testing on one and training on another",
    )


DATASET = DataSet(
    name="nci-isbi",
    title="NCI-ISBI 2013 challenge (Prostate-3T and PROSTATE-DIAGNOSIS)",
    licence="CC BY 3.0 (TCIA)",
    citation=(
        "Bloch et al., NCI-ISBI 2013 Challenge: Automated Segmentation of Prostate Structures, The Cancer Imaging "
        "Archive 2015, doi:10.7937/K9/TCIA.2015.zF0vlOPv; images: Litjens et al., Prostate-3T, "
        "doi:10.7937/K9/TCIA.2015.QJTV5IL5; Bloch et al., PROSTATE-DIAGNOSIS, doi:10.7937/K9/TCIA.2015.FOQEUJVT"
    ),
    url="https://www.cancerimagingarchive.net/analysis-result/isbi-mr-prostate-2013/",
    find=find,
    labels_help="the folder with the challenge's NRRD files (Training, Leaderboard, Test)",
)
