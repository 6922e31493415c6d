"""fastMRI prostate: reconstructed T2w images out of HDF5 files, PI-RADS scores of whole studies out of CSV files."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prostate_mim.datasets.found import DataSet, Found, FoundRow, ImportOptions, Skipped
from prostate_mim.datasets.tables import Record, column, read_table
from prostate_mim.errors import BackendError, ManifestError, NotFoundError
from prostate_mim.files import make_folder
from prostate_mim.manifest import letters_and_digits
from prostate_mim.volume import MAX_VOXELS, Geometry, Volume, write_volume

_T2_NAME = re.compile(r"file_prostate_axt2_0*(\d+)\.h5", re.IGNORECASE)
_IMAGE, _HEADER = "reconstruction_rss", "ismrmrd_header"
_MAX_HEADER = 1 << 20
_SPACING_MM = (0.1, 10.0)
# source -> (column of the volume table, lowest PI-RADS score that counts as positive)
_SOURCES = {
    "t2-pirads-3": ("t2_volume_level", 3),
    "t2-pirads-4": ("t2_volume_level", 4),
    "exam-pirads-3": ("exam_level", 3),
    "exam-pirads-4": ("exam_level", 4),
}
_VOLUME_COLUMNS = ("fastmri_pt_id", "t2_volume_level", "exam_level")
_SLICE_COLUMNS = ("fastmri_pt_id", "fastmri_rawfile", "data_split")
_NOTES = (
    "the files state no position and no orientation: rows are taken to run from anterior to posterior, columns from "
    "the patient's right to left, slices from foot to head, as in the set's DICOM; look at a few before you rely on it",
    "slices are taken to lie as far apart as they are thick: the header states no gap",
    "labels are a radiologist's PI-RADS score of the whole study, not histology, and no lesion has a place",
)
_UNLABELLED = "no table with t2_volume_level was found, so no row has a label; name its folder with --labels"


@dataclass(frozen=True)
class _Tables:
    """What the CSV files say: scores by patient number, patient number and split by name of the HDF5 file."""

    scores: Mapping[int, Record] = field(default_factory=dict)
    files: Mapping[str, Record] = field(default_factory=dict)


def find(folder: Path, options: ImportOptions) -> Found:
    """A row for every T2w file with an image; the images are written as NIfTI, because HDF5 states no geometry.

    Raises:
        NotFoundError: a label source was asked for, and no table of scores is there.
        ManifestError: a table is malformed, or two contradict each other.
        BackendError: h5py is missing.
    """
    tables = _tables(options.labels or folder)
    if options.label_source and not tables.scores:
        raise NotFoundError(f"{options.labels or folder}: no CSV with the columns {', '.join(_VOLUME_COLUMNS)}")
    source = options.label_source or next(iter(_SOURCES))
    rows: list[FoundRow] = []
    skipped: list[Skipped] = []
    seen: set[str] = set()
    for path in sorted(item for item in folder.rglob("*.h5") if not item.name.startswith(".")):
        name = _T2_NAME.fullmatch(path.name)
        reason = _not_t2(path) if name is None else "second file of one name" if path.name.lower() in seen else ""
        image = reason or _image(path)
        if name is None or isinstance(image, str):
            skipped.append(Skipped(path.name, str(image)))
            continue
        seen.add(path.name.lower())
        derived = make_folder(options.derived) / f"{path.stem}.nii.gz"
        write_volume(image, derived)
        rows.append(_row(path, int(name[1]), derived, tables, source))
    labelled = f"fastMRI prostate {_SOURCES[source][0]}: PI-RADS >= {_SOURCES[source][1]}" if tables.scores else ""
    return Found(tuple(rows), tuple(skipped), labelled, _NOTES if tables.scores else (*_NOTES[:2], _UNLABELLED))


def _not_t2(path: Path) -> str:
    return "diffusion, not T2w" if "axdiff" in path.name.lower() else "file name is not that of a T2w file"


def _row(path: Path, number: int, derived: Path, tables: _Tables, source: str) -> FoundRow:
    listed = tables.files.get(path.name.lower(), {})
    patient = _whole(column(listed, "fastmri_pt_id")) or number
    scores = tables.scores.get(patient, {})
    level, least = _SOURCES[source]
    score = _whole(scores.get(level, ""))
    split = column(listed, "data_split")
    extra: dict[str, str] = {"data_split": split, **scores}
    return FoundRow(
        study_id=path.stem,
        patient_id=f"fastmri_prostate_{patient:03d}",
        t2w=derived,
        label=None if score is None or score > 5 else int(score >= least),
        centre="NYU",
        extra={name: text for name, text in extra.items() if text},
    )


def _whole(text: str) -> int | None:
    """A whole number above 0 as tables write it, ``4`` or ``4.0``; None for anything else."""
    match = re.fullmatch(r"([1-9]\d{0,8})(?:\.0+)?", text)
    return int(match[1]) if match else None


def _tables(where: Path) -> _Tables:
    """The tables below a folder (or one table), known by their columns: their names differ between releases."""
    scores: dict[int, Record] = {}
    files: dict[str, Record] = {}
    for path in [where] if where.is_file() else sorted(where.rglob("*.csv")):
        if path.name.startswith(".") or not _of_the_set(path):
            continue
        rows = read_table(path)
        known = {letters_and_digits(name) for name in (rows[0] if rows else ())}
        if known >= {letters_and_digits(name) for name in _VOLUME_COLUMNS}:
            found = {_whole(column(row, "fastmri_pt_id")): row for row in rows}
            _agree(path, scores, {number: row for number, row in found.items() if number is not None})
        elif known >= {letters_and_digits(name) for name in _SLICE_COLUMNS}:
            # the diffusion files have a table of the same columns: their names tell them apart
            files.update({column(row, "fastmri_rawfile").lower(): row for row in rows})
    return _Tables(scores, files)


def _of_the_set(path: Path) -> bool:
    """Whether a table's first line names the set's patients; what else lies in a folder of downloads is not ours."""
    try:
        with path.open("rb") as stream:
            first = stream.readline(1 << 16)
    except OSError:
        return True  # read_table says what is wrong with it
    return letters_and_digits(_VOLUME_COLUMNS[0]) in letters_and_digits(first.decode("latin-1"))


def _agree(path: Path, scores: dict[int, Record], found: Mapping[int, Record]) -> None:
    """Add a table's scores; two tables that contradict each other are refused."""
    for number, row in found.items():
        values = {name: column(row, name) for name in _VOLUME_COLUMNS[1:]}
        if scores.setdefault(number, values) != values:
            raise ManifestError(
                f"{path}: contradicts another table of scores; keep one version, or name it by --labels"
            )


def _image(path: Path) -> Volume | str:
    """The reconstructed image of a file, or in a few words why it has none that can be used.

    Raises:
        BackendError: h5py is missing.
    """
    try:
        import h5py
    except ImportError as error:
        raise BackendError(f"reading HDF5 needs h5py ({error}); pip install 'prostate-mim[datasets]'") from error
    try:
        with h5py.File(path, "r") as file:
            stored, header = (_own(h5py, file, name) for name in (_IMAGE, _HEADER))
            if stored is None:
                return f"no {_IMAGE} in the file"
            if header is None or header.size != 1:
                return f"no {_HEADER} in the file"
            if stored.ndim != 3 or stored.dtype.kind not in "fiu" or not 0 < stored.size <= MAX_VOXELS:
                return f"{_IMAGE} is no 3-D image"
            spacing = _spacing(header[()], stored.shape)
            return spacing if isinstance(spacing, str) else _volume(stored[()], spacing, path)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):  # what h5py answers damage with
        return "HDF5 file is damaged"


def _own(h5py: Any, file: Any, name: str) -> Any:
    """A data set that lies in this very file; None where there is none, or where it is kept in another file."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return None
    found = file[name]
    outside = not isinstance(found, h5py.Dataset) or found.external is not None or found.is_virtual
    return None if outside else found


def _volume(voxels: Any, spacing: tuple[float, float, float], path: Path) -> Volume | str:
    image = np.ascontiguousarray(voxels, np.float32)
    if not np.isfinite(image).all() or image.min() == image.max():
        return f"{_IMAGE} is constant or not finite"
    return Volume(image, Geometry(spacing), str(path))


def _spacing(header: Any, shape: tuple[int, int, int]) -> tuple[float, float, float] | str:
    """(z, y, x) mm out of the header's XML, or why it states none.

    Only plain XML is parsed: a document type could define entities that expand without end.
    """
    while isinstance(header, np.ndarray):
        header = header.reshape(-1)[0]
    data = header.encode() if isinstance(header, str) else bytes(header)
    try:
        text = data.decode("utf-8").rstrip("\0")
    except UnicodeDecodeError:
        return "header is no XML"
    if len(data) > _MAX_HEADER or "<!doctype" in text.lower() or "<!entity" in text.lower() or "\0" in text:
        return "header is not plain XML"
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - no document type, bounded above
        size, field_mm = (_xyz(root, name) for name in ("matrixSize", "fieldOfView_mm"))
    except (ElementTree.ParseError, ValueError):
        return "header is no XML"
    if size is None or field_mm is None or not all(math.isfinite(v) and v > 0 for v in (*size, *field_mm)):
        return "header states no field of view"
    if (size[1], size[0]) != shape[1:] or size[2] not in (1, shape[0]):
        return "header is of another image size"
    x, y, z = (length / count for length, count in zip(field_mm, size, strict=True))
    if not all(_SPACING_MM[0] <= value <= _SPACING_MM[1] for value in (z, y, x)):
        return "header states an impossible field of view"
    return z, y, x


def _xyz(root: ElementTree.Element, name: str) -> tuple[float, float, float] | None:
    """x, y, z of one element of the first reconSpace; namespaces differ between versions and are passed over."""

    def child(parent: ElementTree.Element | None, wanted: str) -> ElementTree.Element | None:
        items = () if parent is None else parent.iter()
        return next((item for item in items if item.tag.rpartition("}")[2] == wanted), None)

    found = child(child(root, "reconSpace"), name)
    cells = [child(found, axis) for axis in "xyz"]
    numbers = [float(cell.text or "") for cell in cells if cell is not None]
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else None


DATASET = DataSet(
    name="fastmri-prostate",
    title="fastMRI prostate",
    licence="NYU fastMRI data sharing agreement; research only, no redistribution; check the terms you signed",
    citation=(
        "Tibrewala R, Dutt T, Tong A, et al. FastMRI Prostate: A public, biparametric MRI dataset to advance machine "
        "learning for prostate cancer imaging. Scientific Data 2024;11:404. doi:10.1038/s41597-024-03252-w"
    ),
    url="https://fastmri.med.nyu.edu",
    find=find,
    labels_help="the folder with the CSV files of PI-RADS scores (volume_exam_labels.csv, t2_slice_level_labels.csv)",
    label_sources=tuple(_SOURCES),
)
