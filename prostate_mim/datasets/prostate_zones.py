"""ProstateZones: zones and urethra drawn on PROSTATEx studies, in one of two layouts.

As its publisher's script arranges it: ``Train|Validate|Test/ProstateX-0000/`` with ``tra-0000`` (a folder of DICOM
slices, or ``tra-0000.nrrd``) beside ``Seg-0000.nrrd``. Or as downloaded: PROSTATEx's own tree, and by ``--labels`` the
record's folder with ``Singles/Seg-0000.nrrd`` and ``Duplicates/R1/Seg-0015_R1.nrrd``. Two readers drew the test
studies.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prostate_mim.datasets.drawn_on import drawn_on, readable
from prostate_mim.datasets.found import DataSet, Found, FoundRow, ImportOptions, Skipped
from prostate_mim.datasets.mask_files import FILLED, look_at_mask
from prostate_mim.datasets.prostatex import CENTRE, find_candidates

_PATIENT = re.compile(r"ProstateX-(\d{4})", re.IGNORECASE)
_SEGMENTATION = re.compile(r"Seg-(\d{4})(?:_(R\d))?(?:\.seg)?\.nrrd", re.IGNORECASE)
_IMAGES = ("", ".nrrd", ".nii.gz", ".nii", ".mha")
_SPLITS = {"train": "train", "validate": "validation", "validation": "validation", "test": "test"}
_READERS = ("R1", "R2")

_NO_IMAGE = "patient without an axial T2w image"
_BAD_IMAGE = "patient whose axial T2w image is damaged or no axial stack"
_SEVERAL = "patient with several axial T2w series, none or several on the segmentation's grid"
_NO_MASK = "patient without a segmentation of the chosen reader"
_BAD_MASK = "segmentation that is damaged, empty, or off its image"


@dataclass(frozen=True)
class _Case:
    """A patient: images that may be the right one, and segmentations by reader (an only one's reader is empty)."""

    patient_id: str
    images: tuple[Path, ...]
    drawings: Mapping[str, Path]
    split: str


def find(folder: Path, options: ImportOptions) -> Found:
    """A row for each patient that has an axial image and a segmentation; all its labels together are the gland.

    Raises:
        BackendError: pydicom is missing.
    """
    reader = options.label_source or _READERS[0]
    cases, skipped = (_arranged(folder), []) if options.labels is None else _downloaded(folder, options.labels)
    rows: list[FoundRow] = []
    values: Counter[int] = Counter()
    for case in cases:
        row = _row(case, reader, values)
        if isinstance(row, Skipped):
            skipped.append(row)
        else:
            rows.append(row)
    source = f"ProstateZones, reader {reader} where there are two"
    return Found(tuple(rows), tuple(skipped), source, _notes(values))


def _arranged(folder: Path) -> list[_Case]:
    """Folders of patients; ``Images/`` repeats them without segmentations where there are splits."""
    found = sorted(item for item in folder.rglob("*") if item.is_dir() and _PATIENT.fullmatch(item.name))
    places = [item for item in found if item.parent.name.lower() in _SPLITS] or found
    cases = []
    for place in places:
        number = place.name[-4:]
        images = [path for end in _IMAGES if (path := place / f"tra-{number}{end}").exists()]
        drawings = _drawings(place.iterdir()).get(number, {})
        split = _SPLITS.get(place.parent.name.lower(), "")
        cases.append(_Case(f"ProstateX-{number}", tuple(images[:1]), drawings, split))
    return sorted(cases, key=lambda case: case.patient_id)


def _downloaded(folder: Path, labels: Path) -> tuple[list[_Case], list[Skipped]]:
    """PROSTATEx's patients with the segmentations that lie elsewhere."""
    candidates, skipped = find_candidates(folder)
    drawings = _drawings(labels.rglob("*"))
    cases = []
    for patient in sorted({*candidates, *(f"ProstateX-{number}" for number in drawings)}):
        images = tuple(item.path for item in candidates.get(patient, []))
        cases.append(_Case(patient, images, drawings.get(patient[-4:], {}), ""))
    return cases, skipped


def _drawings(paths: Iterable[Path]) -> dict[str, dict[str, Path]]:
    """Number of the patient -> reader -> file."""
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in sorted(paths):
        match = _SEGMENTATION.fullmatch(path.name)
        if match:
            found[match[1]][(match[2] or "").upper()] = path
    return found


def _row(case: _Case, reader: str, values: Counter[int]) -> FoundRow | Skipped:
    drawing = case.drawings.get("") or case.drawings.get(reader)
    if drawing is None:
        return Skipped(case.patient_id, _NO_MASK)
    if not case.images:
        return Skipped(case.patient_id, _NO_IMAGE)
    images = readable(case.images)
    if not images:
        return Skipped(case.patient_id, _BAD_IMAGE)
    chosen = drawn_on(drawing, images)
    if chosen is None:
        return Skipped(case.patient_id, _SEVERAL)
    image, volume = chosen
    look = look_at_mask(drawing, volume)
    if look.state != FILLED:
        return Skipped(case.patient_id, _BAD_MASK)
    values.update(look.values)
    extra = {"split": case.split} if case.split else {}
    return FoundRow(case.patient_id, case.patient_id, image, gland_mask=drawing, centre=CENTRE, extra=extra)


def _notes(values: Counter[int]) -> tuple[str, ...]:
    held = ", ".join(f"{value} in {count}" for value, count in sorted(values.items()))
    return (
        "gland_mask is the segmentation itself: everything above 0 counts as gland, the urethra too; which value is "
        f"which zone is in the publisher's description. Values and in how many studies: {held}",
        "the studies are PROSTATEx's: never train on one of these sets, or on PI-CAI, and test on another",
    )


DATASET = DataSet(
    name="prostate-zones",
    title="ProstateZones (zones and urethra on PROSTATEx)",
    licence="images: CC BY 3.0 (PROSTATEx, TCIA); segmentations: as stated at doi:10.5281/zenodo.10718469",
    citation=(
        "Holmlund et al., ProstateZones: segmentations of the prostatic zones and urethra for the PROSTATEx dataset, "
        "Sci Data 2024, data doi:10.5281/zenodo.10718469; Litjens et al., ProstateX Challenge data, The Cancer Imaging "
        "Archive 2017, doi:10.7937/K9TCIA.2017.MURS5CL"
    ),
    url="https://zenodo.org/records/10718469",
    find=find,
    labels_help="the folder with the record's segmentations (Singles, Duplicates), where FOLDER is PROSTATEx itself",
    label_sources=_READERS,
)
