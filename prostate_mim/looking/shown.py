"""What a page shows: a study file with masks, or a row of a manifest with all lesions of its study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from prostate_mim.errors import UsageError, VolumeError
from prostate_mim.looking.heat import Heat, read_heat
from prostate_mim.looking.page import Marker, study_page
from prostate_mim.manifest import Manifest, ManifestRow, Point, read_manifest
from prostate_mim.studies import Study, open_study
from prostate_mim.volume import Volume, read_mask, read_volume
from prostate_mim.volume.grids import grid_note, holds_any, labelled_places

# Zones by their usual short names; any other text of a manifest's zone column is not repeated.
ZONES = ("PZ", "TZ", "CZ", "AS", "AFS", "AFMS", "SV")


@dataclass(frozen=True, eq=False)
class Looked:
    """A study to look at.

    Attributes:
        volume: the T2w series.
        title: ``study`` or ``row 3``: never a path or an identifier.
        masks: by the name in the legend.
        markers: places with labels.
        focus_mm_lps: (x, y, z) where to look first; None is the middle.
        notes: what a person should know of it, one line each; no path, no identifier.
        heat: a saliency map over it.
    """

    volume: Volume
    title: str
    masks: Mapping[str, Volume] = field(default_factory=dict)
    markers: Sequence[Marker] = ()
    focus_mm_lps: Point | None = None
    notes: tuple[str, ...] = ()
    heat: Heat | None = None

    def page(self) -> str:
        """HTML, as ``study_page`` makes it.

        Raises:
            VolumeError: as ``study_page``.
        """
        return study_page(
            self.volume, self.masks, self.markers, self.title, focus_mm_lps=self.focus_mm_lps, heat=self.heat
        )

    def with_saliency(self, path: Path, spacing_mm_zyx: Point | None = None) -> Looked:
        """The same with a saliency map from a file; an empty one is said.

        Raises:
            VolumeError, NotFoundError: as ``read_heat``.
        """
        heat = read_heat(path, self.volume, spacing_mm_zyx)
        empty = () if (heat.volume.voxels > 0).any() else ("the saliency map is empty",)
        return replace(self, heat=heat, notes=(*self.notes, *empty))


def open_looked(
    *,
    study: Path | None = None,
    masks: Sequence[str] = (),
    position_mm_lps: Point | None = None,
    spacing_mm_zyx: Point | None = None,
    manifest: Path | None = None,
    row: int | None = None,
) -> Looked:
    """A study file with what is given for it, or a row of a manifest with what the manifest says of it.

    Args:
        study: as ``file_looked``, with ``masks``, ``position_mm_lps`` and ``spacing_mm_zyx``.
        manifest: as ``row_looked``, with ``row``; the first if None.

    Raises:
        UsageError: both or neither are given, or an option of the other one.
        ManifestError, VolumeError, NotFoundError: what is given cannot be read.
    """
    if study is not None and manifest is None:
        if row is not None:
            raise UsageError("--row is of a manifest; give --manifest too")
        return file_looked(study, masks, position_mm_lps, spacing_mm_zyx)
    if manifest is None or study is not None:
        raise UsageError("give either one study or --manifest, not both and not neither")
    of_file = (("--mask", masks), ("--position", position_mm_lps), ("--spacing", spacing_mm_zyx))
    for option, given in of_file:
        if given:
            raise UsageError(f"{option} is of a study file; a row of a manifest has it in its own columns")
    return row_looked(manifest, 1 if row is None else row)


def file_looked(
    study: Path,
    masks: Sequence[str] = (),
    position_mm_lps: Point | None = None,
    spacing_mm_zyx: Point | None = None,
) -> Looked:
    """A study file or DICOM folder.

    Args:
        study: as ``read_volume`` takes it.
        masks: mask files, or ``name=file`` where the legend shall call one by a name; the others are ``mask``, or
            ``mask 1``, ``mask 2``: the name of a file may name a patient.
        position_mm_lps: (x, y, z) of a marker.
        spacing_mm_zyx: of bare arrays.

    Raises:
        VolumeError, NotFoundError: a file cannot be read, a bare mask has another shape than the study, or nothing of
            a mask lies within the study.
        UsageError: two masks of one name.
    """
    volume = read_volume(study, spacing_mm_zyx=spacing_mm_zyx)
    read: dict[str, Volume] = {}
    notes = []
    for number, text in enumerate(masks, 1):
        name, path = _named(text, "mask" if len(masks) == 1 else f"mask {number}")
        if name in read:
            raise UsageError(f"--mask {name}= is given twice; use another name")
        found = read_mask(path, spacing_mm_zyx=spacing_mm_zyx)
        if spacing_mm_zyx is not None and found.shape_zyx != volume.shape_zyx:
            raise VolumeError(
                f"{name}: the mask has {found.shape_zyx} voxels, the study {volume.shape_zyx}; "
                "arrays without geometry need one shape"
            )
        read[name] = Volume(found.voxels, found.geometry, source=name)
        notes.append(_note(read[name], volume))
    markers = [] if position_mm_lps is None else [Marker(position_mm_lps, "position", chosen=True)]
    said = tuple(note for note in notes if note)
    return Looked(volume, "study", read, markers, notes=said)


def _note(mask: Volume, volume: Volume) -> str:
    """As for the masks of a manifest's row; an empty mask shows nothing and is no mistake."""
    places = labelled_places(mask)
    if not len(places):
        return f"{mask.source} is empty"
    if not holds_any(places, volume):
        raise VolumeError(f"{mask.source}: nothing of it lies within the study; it needs the geometry of this series")
    note = grid_note(mask, volume)
    return f"{mask.source} {note}" if note else ""


def _named(text: str, otherwise: str) -> tuple[str, Path]:
    """``gland=file`` -> its parts; a file whose own name has ``=`` in it stays whole."""
    name, equals, path = text.partition("=")
    if equals and name and name.replace("-", "").replace("_", "").isalnum() and not Path(text).exists():
        return name, Path(path)
    return otherwise, Path(text)


def row_looked(path: Path, number: int) -> Looked:
    """A row of a manifest: its volume and masks, with markers at every lesion of its study.

    Args:
        path: of the manifest.
        number: 1 is the first row after the header.

    Raises:
        UsageError: there is no such row.
        ManifestError, VolumeError, NotFoundError: as ``open_study``.
    """
    manifest = read_manifest(path)
    study = open_study(manifest, manifest.row(number))
    place = study.centre_mm_lps if study.row.has_place else None
    where = {name: f"{study.where} ({name}_mask)" for name in study.masks}
    masks = {name: Volume(given.voxels, given.geometry, where[name]) for name, given in study.masks.items()}
    return Looked(study.volume, f"row {number}", masks, _markers(manifest, study), place, study.notes)


def _markers(manifest: Manifest, study: Study) -> list[Marker]:
    """One for each row of the study that says where its lesion is."""
    markers = []
    for row in manifest.rows:
        chosen = row.number == study.row.number
        same = row.study_id == study.row.study_id and row.t2w == study.row.t2w
        place = study.centre_mm_lps if chosen and row.has_lesion else row.position_mm_lps
        if same and not row.is_crop and place is not None and study.volume.contains(place):
            markers.append(Marker(place, lesion_text(row), chosen))
    return markers


def lesion_text(row: ManifestRow) -> str:
    """``row 3: PZ, label 1``: what may be said of a lesion in a picture."""
    said = [row.zone.upper()] if row.zone.upper() in ZONES else []
    said += [f"label {row.label}"] if row.label is not None else []
    return f"row {row.number}" + (": " + ", ".join(said) if said else "")
