"""A manifest row -> its volume, its masks and the centre to crop around. Errors speak of rows, not of paths."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from prostate_mim.errors import ManifestError, NotFoundError, ProstateMimError, UsageError
from prostate_mim.manifest import Manifest, ManifestRow, Point
from prostate_mim.preprocess import BoolArray, Crop, mask_on_crop
from prostate_mim.spec import CHANNELS
from prostate_mim.volume import Volume, read_mask, read_volume
from prostate_mim.volume.grids import distance_to_mask_mm, grid_note, holds_any, labelled_places

MASKS = CHANNELS[1:]
_ZONES = {"pz": 1, "tz": 2}  # labels of a zone_mask
FARTHEST_FROM_GLAND_MM = 10.0
"""Gland masks made by machines are often a little small; of the real findings none lies over 0.5 mm outside."""

_SHORTEST_NAME = 4  # a shorter file name identifies nobody, and would be found inside other words


@dataclass(frozen=True)
class Study:
    """An opened row.

    Attributes:
        row: where it came from.
        volume: the T2w series.
        centre_mm_lps: (x, y, z) of the lesion, else of the gland, else of the image; at level ``study`` not of the
            lesion.
        where: how messages name the row.
        masks: the masks that the row names, by ``MASKS``: labels on their own grids, at least one above 0 (but for
            ``pz`` and ``tz``, which a zone mask gives both).
        notes: what a person should know of this row, one line each, without the row's name, a path or a patient; the
            caller shows them once, on standard error.
    """

    row: ManifestRow
    volume: Volume
    centre_mm_lps: Point
    where: str
    masks: Mapping[str, Volume] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def read_mask(self, name: str) -> Volume | None:
        """One of the row's masks; None where the row has none. A position is no mask.

        Args:
            name: one of ``MASKS``; ``lesion`` is the row's own lesion, not every lesion of the study.

        Returns:
            (z, y, x) labels on the mask's own grid; at least one is above 0, but for ``pz`` and ``tz``.

        Raises:
            UsageError: an unknown name, or ``open_study`` was told not to read it.
        """
        if name not in MASKS:
            raise UsageError(f"mask {name!r} is unknown; choose one of {', '.join(MASKS)}")
        if name not in self.masks and _file_of(name) in _mask_paths(self.row):
            raise UsageError(f"{self.where}: the {name} mask was left out when the study was opened; ask for it there")
        return self.masks.get(name)

    def mask_on(self, crop: Crop, name: str) -> BoolArray | None:
        """The row's mask on the grid of one of the study's crops: (z, y, x) bool, False in padding; None without one.

        Raises:
            UsageError: an unknown name.
        """
        found = self.read_mask(name)
        return None if found is None else mask_on_crop(found, crop)


def open_study(manifest: Manifest, row: ManifestRow, masks: Collection[str] = MASKS) -> Study:
    """Read one row's volume and masks, and find its centre.

    Args:
        manifest: for messages.
        row: one of its rows.
        masks: which of ``MASKS`` to read and check; one that the centre depends on is read all the same.

    Raises:
        VolumeError, NotFoundError: as ``read_volume`` and ``read_mask``, with the row in place of the path.
        ManifestError: the lesion lies outside the volume, or over ``FARTHEST_FROM_GLAND_MM`` from the gland; a mask is
            empty, or nothing of it lies within the volume.
    """
    return _place(manifest, row, _read_volume(manifest, row), masks, None)


def open_all(manifest: Manifest) -> Iterator[Study]:
    """Every row in order; what consecutive rows share is read once."""
    last: Study | None = None
    for row in manifest.rows:
        shared = last is not None and _read_of(last.row) == _read_of(row)
        volume = last.volume if shared and last else _read_volume(manifest, row)
        last = _place(manifest, row, volume, MASKS, last if shared else None)
        yield last


def split_zones(zone_mask: Volume) -> dict[str, Volume]:
    """A volume of labels 1 (peripheral zone) and 2 (transition zone) as the masks ``pz`` and ``tz``, 0 and 1."""
    return {
        name: replace(zone_mask, voxels=(zone_mask.voxels == label).astype(np.uint8)) for name, label in _ZONES.items()
    }


def mask_paths(texts: Collection[str]) -> dict[str, Path]:
    """``gland=FILE`` and so on, as commands take them -> what ``read_masks`` reads.

    Raises:
        UsageError: no name, or one twice.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise UsageError(f"--mask {text}: which mask is it? give gland=FILE, lesion=FILE or zone=FILE")
        if name in found:
            raise UsageError(f"--mask: {name} is given twice; give each mask once")
        found[name] = Path(path)
    return found


def read_masks(
    paths: Mapping[str, str | Path], volume: Volume, *, spacing_mm_zyx: Point | None = None
) -> dict[str, Volume]:
    """Masks of one volume that is in no manifest, by the names of ``MASKS``, checked as those of a manifest are.

    Args:
        paths: of files, by ``gland``, ``lesion`` and ``zone``; a zone mask (1 peripheral, 2 transition) gives two.
        volume: what they are of.
        spacing_mm_zyx: of bare arrays.

    Raises:
        UsageError: another name.
        VolumeError, NotFoundError: as ``read_mask``.
        ManifestError: a mask is empty, of another place, or holds labels that are no zones.
    """
    masks: dict[str, Volume] = {}
    for name, path in paths.items():
        if name not in ("gland", "lesion", "zone"):
            raise UsageError(f"mask {name!r} is unknown; choose gland, lesion or zone")
        mask = read_mask(path, spacing_mm_zyx=spacing_mm_zyx)
        if not (mask.voxels > 0).any():
            raise ManifestError(f"{path}: the mask is empty; leave it out, or give another")
        _fit(str(path), name, mask, volume, bare=spacing_mm_zyx is not None)
        masks |= _zones(str(path), mask) if name == "zone" else {name: mask}
    return masks


def without_hash(manifest: Manifest) -> str:
    """A note on what a ``sha256`` would show; empty where every row has one, or is a folder, which cannot have one."""
    rows = sum(row.sha256 is None and not row.t2w.is_dir() for row in manifest.rows)
    if not rows:
        return ""
    return (
        f"{rows} of {len(manifest.rows)} rows have no sha256. The column is optional: with it, a changed bit in an "
        "uncompressed file is found too. How to add it: docs/data.md, What is refused, and what cannot be seen"
    )


def _read_of(row: ManifestRow) -> tuple[Path, str | None, Point | None]:
    """All that decides what ``read_volume`` returns for a row."""
    return row.t2w, row.sha256, row.spacing_mm_zyx


def _read_volume(manifest: Manifest, row: ManifestRow) -> Volume:
    with _speak_of(f"{manifest.where(row)} (t2w)", row.t2w):
        return read_volume(row.t2w, spacing_mm_zyx=row.spacing_mm_zyx, sha256=row.sha256)


def _place(manifest: Manifest, row: ManifestRow, volume: Volume, wanted: Collection[str], last: Study | None) -> Study:
    """Read the masks (not again those of ``last``, a study of the same volume) and check that all lies together."""
    where = manifest.where(row)
    named = Volume(volume.voxels, volume.geometry, source=f"{where} (t2w)")
    masks: dict[str, Volume] = {}
    notes: list[str] = []
    needed = {_file_of(name) for name in (*wanted, _central(row))}
    for name, path in _mask_paths(row).items():
        if name in needed:
            shared = last is not None and _mask_paths(last.row).get(name) == path
            found, note = _of(last, name) if shared and last else _read_masks(where, row, name, path, named)
            masks.update(found)
            notes += [note] if note else []
    centre = _centre(row, named, masks)
    if not named.contains(centre):
        raise ManifestError(
            f"{where}: the lesion at ({centre[0]:.1f}, {centre[1]:.1f}, {centre[2]:.1f}) mm lies outside the volume; "
            "position_mm_lps is x y z in LPS (not RAS, not voxels) of this very series"
        )
    _check_gland(where, row, masks)
    return Study(row, named, centre, where, masks, tuple(notes))


def _central(row: ManifestRow) -> str:
    """The mask whose middle is the centre, if the row has it; empty where the centre is not a mask's."""
    if row.is_crop or (row.position_mm_lps is not None and row.level == "lesion"):
        return ""
    return "lesion" if row.lesion_mask and row.level == "lesion" else "gland"


def _mask_paths(row: ManifestRow) -> dict[str, Path]:
    paths = {"gland": row.gland_mask, "lesion": row.lesion_mask, "zone": row.zone_mask}
    return {name: path for name, path in paths.items() if path is not None}


def _file_of(name: str) -> str:
    """Which of ``_mask_paths`` holds a mask: both zones lie in one file."""
    return "zone" if name in _ZONES else name


def _of(study: Study, name: str) -> tuple[dict[str, Volume], str]:
    """What an opened study has of one of ``_mask_paths``, and the note about it."""
    found = {kept: mask for kept, mask in study.masks.items() if _file_of(kept) == name}
    return found, next((note for note in study.notes if note.startswith(f"{name}_mask ")), "")


def _read_masks(where: str, row: ManifestRow, name: str, path: Path, volume: Volume) -> tuple[dict[str, Volume], str]:
    """What a file of ``_mask_paths`` holds, by ``MASKS``, checked against the volume; and a note, often empty."""
    where = f"{where} ({name}_mask)"
    mask = _filled_mask(where, row, path)
    note = _fit(where, name, mask, volume, bare=row.spacing_mm_zyx is not None)
    return (_zones(where, mask) if name == "zone" else {name: mask}), note


def _zones(where: str, mask: Volume) -> dict[str, Volume]:
    """A zone mask as one mask for each zone.

    Raises:
        ManifestError: labels that are not zones.
    """
    strange = np.setdiff1d(mask.voxels, (0, *_ZONES.values()))
    if len(strange):
        raise ManifestError(
            f"{where}: holds the label {strange[0]}, expected 1 = peripheral zone and 2 = transition zone; relabel it"
        )
    return split_zones(mask)


def _filled_mask(where: str, row: ManifestRow, path: Path) -> Volume:
    with _speak_of(where, path):
        mask = read_mask(path, spacing_mm_zyx=row.spacing_mm_zyx)
    if not (mask.voxels > 0).any():
        raise ManifestError(f"{where}: the mask is empty; remove it or give a position")
    return mask


def _fit(where: str, name: str, mask: Volume, volume: Volume, *, bare: bool) -> str:
    """Refuse a mask that is not of this volume; a note where it is on another grid, empty where on the same.

    Args:
        bare: arrays without a place: only an equal shape tells that they match.
    """
    if bare and mask.shape_zyx != volume.shape_zyx:
        raise ManifestError(
            f"{where}: the mask has {mask.shape_zyx} voxels, the volume {volume.shape_zyx}; "
            "arrays without geometry need one shape"
        )
    note = grid_note(mask, volume)
    if note and not holds_any(labelled_places(mask), volume):
        raise ManifestError(
            f"{where}: nothing of the mask lies within the volume; it needs the geometry of this very series"
        )
    return f"{name}_mask {note}" if note else ""


def _check_gland(where: str, row: ManifestRow, masks: Mapping[str, Volume]) -> None:
    """Refuse a lesion far from the gland: it belongs to another patient, or its coordinates to another frame."""
    if "gland" not in masks:
        return
    lesion = {"lesion_mask": labelled_places(masks["lesion"])} if "lesion" in masks else {}
    position = {} if row.position_mm_lps is None else {"position_mm_lps": np.array([row.position_mm_lps])}
    for name, places in {**lesion, **position}.items():
        distance = distance_to_mask_mm(places, masks["gland"])
        if distance > FARTHEST_FROM_GLAND_MM:
            raise ManifestError(
                f"{where} ({name}): the lesion lies {distance:.1f} mm from the gland mask, at most "
                f"{FARTHEST_FROM_GLAND_MM:g} mm allowed; both must be of this very series, in LPS"
            )


def _centre(row: ManifestRow, volume: Volume, masks: Mapping[str, Volume]) -> Point:
    """(x, y, z) in mm of the position, else of the middle of the lesion's voxels, of the gland's, of the image.

    At level ``study`` neither position nor lesion counts.
    """
    if row.position_mm_lps is not None and row.level == "lesion":
        return row.position_mm_lps
    mask = masks.get(_central(row))
    middle = volume.centre_mm_lps if mask is None else labelled_places(mask).mean(0)
    x, y, z = (float(v) for v in middle)
    return x, y, z


@contextmanager
def _speak_of(where: str, path: Path) -> Iterator[None]:
    """Replace the path in a reader's message by the row: paths of patients stay in the manifest."""
    try:
        yield
    except NotFoundError:  # its hint would name a neighbouring file
        raise NotFoundError(f"{where}: the file is no longer there; check the path in the manifest") from None
    except ProstateMimError as error:
        raise type(error)(f"{where}: {_without(path, str(error))}") from None


def _without(path: Path, message: str) -> str:
    """A reader's message without the name of its file, of the slices in it, or of a data file named alike."""
    # Readers show a path on one line of at most 500 printable letters.
    shown = "".join(c if c.isprintable() else "?" for c in " ".join(str(path).split())[:500])
    inner = sorted((f"{shown}/{name}" for name in os.listdir(path)), key=len, reverse=True) if path.is_dir() else []
    stem = path.name.split(".")[0]
    for name in (*inner, shown, str(path), path.name, stem):
        if len(name) >= _SHORTEST_NAME:
            message = message.replace(name, "the file")
    return message.removeprefix("the file:").strip()
