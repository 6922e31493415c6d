"""A manifest as sheets of pictures: every row is a tile with slices through its centre, or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import ProstateMimError, UsageError
from prostate_mim.files import write_bytes
from prostate_mim.looking.embedding import grey_window
from prostate_mim.looking.sheet import SLICE_STEP_MM, Panel, Tile, sheet_png
from prostate_mim.looking.shown import lesion_text
from prostate_mim.manifest import Manifest, ManifestRow, read_manifest
from prostate_mim.pictures import check_png
from prostate_mim.preprocess import mask_on_grid
from prostate_mim.studies import Study, open_study
from prostate_mim.volume import Volume

_LONGEST_SIDE = 65_000  # pixels of a PNG that viewers still open


@dataclass(frozen=True)
class SheetConfig:
    """How a sheet is laid out.

    Attributes:
        columns: tiles beside one another.
        rows_per_page: rows of the manifest on one page.
        slices: axial slices of each; the middle one goes through the lesion, else the gland, else the image's middle.
        limit: most rows to draw, from the first; None is all.
        panel: pixels of a slice's longer side.
    """

    columns: int = 3
    rows_per_page: int = 24
    slices: int = 3
    limit: int | None = None
    panel: int = 190

    def __post_init__(self) -> None:
        for name in ("columns", "rows_per_page", "slices", "limit", "panel"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be 1 or more")
        lines = -(-self.rows_per_page // self.columns)
        if max(self.columns * self.slices, lines) * 2 * self.panel > _LONGEST_SIDE:
            raise UsageError("the page would be too large for a PNG; use fewer columns, slices or rows per page")


def write_sheets(
    manifest_path: str | Path,
    out: str | Path,
    config: SheetConfig | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Draw a whole manifest. The pictures name row numbers, never patients, studies or files.

    Args:
        manifest_path: CSV of studies or lesions.
        out: the PNG; ``sheet-001.png`` and so on where one page is not enough. The same files give the same bytes.
        config: layout.
        progress: called with (done, of) after each row.

    Returns:
        ``sheets`` (paths), ``rows`` drawn and ``unreadable`` (row numbers), ready for JSON.

    Raises:
        UsageError: not a .png, or it cannot be written.
        ManifestError, NotFoundError: the manifest itself is wrong. A row that cannot be read is a tile that says why.
    """
    config = config or SheetConfig()
    target = check_png(Path(out))
    manifest = read_manifest(manifest_path)
    rows = manifest.rows[: config.limit]
    pages = [rows[start : start + config.rows_per_page] for start in range(0, len(rows), config.rows_per_page)]
    sheets, unreadable, done = [], [], 0
    for number, page in enumerate(pages, 1):
        tiles = []
        for row in page:
            tiles.append(read_tile(manifest, row, config.slices))
            done += 1
            if progress is not None:
                progress(done, len(rows))
        unreadable += [row.number for row, tile in zip(page, tiles, strict=True) if tile.reason]
        path = target if len(pages) == 1 else target.with_name(f"{target.stem}-{number:03d}.png")
        write_bytes(path, sheet_png(tiles, _title(page, manifest), columns=config.columns, panel=config.panel))
        sheets.append(str(path))
    return {"sheets": sheets, "rows": len(rows), "unreadable": unreadable}


def _title(page: tuple[ManifestRow, ...], manifest: Manifest) -> str:
    first, last = page[0].number, page[-1].number
    rows = f"row {first}" if first == last else f"rows {first} to {last}"
    return f"{rows} of {len(manifest.rows)}"


def read_tile(manifest: Manifest, row: ManifestRow, slices: int) -> Tile:
    """One row as its tile; the reason where its volume or a mask cannot be read."""
    heading = lesion_text(row)
    try:
        study = open_study(manifest, row)
    except ProstateMimError as error:
        return Tile(heading, "", (), reason=_reason(manifest, row, error))
    masks = {} if row.is_crop else study.masks
    return Tile(heading, _facts(study.volume), _panels(study, masks, slices), remark="; ".join(study.notes))


def _reason(manifest: Manifest, row: ManifestRow, error: ProstateMimError) -> str:
    """The message without the manifest's path and the row, which the tile's heading says already."""
    return str(error).removeprefix(manifest.where(row)).lstrip(": ").strip() or type(error).__name__


def _facts(volume: Volume) -> str:
    sizes, spacings = volume.shape_zyx[::-1], volume.geometry.spacing_mm_zyx[::-1]
    field = " × ".join(f"{n * s:.0f}" for n, s in zip(sizes, spacings, strict=True))
    return f"{' × '.join(map(str, sizes))} of {' × '.join(f'{s:.2f}' for s in spacings)} mm = {field} mm"


def _panels(study: Study, masks: Mapping[str, Volume], slices: int) -> tuple[Panel | None, ...]:
    """Slices from below to above; None where the stack has ended."""
    volume, row = study.volume, study.row
    z, y, x = (float(v) for v in volume.geometry.position_to_index(study.centre_mm_lps))
    middle = int(np.clip(np.rint(z), 0, volume.shape_zyx[0] - 1))
    window = grey_window(volume)
    panels: list[Panel | None] = []
    for number in range(slices):
        offset = (number - (slices - 1) // 2) * SLICE_STEP_MM / volume.geometry.spacing_mm_zyx[0]
        at = middle + int(np.rint(offset))
        if not 0 <= at < volume.shape_zyx[0]:
            panels.append(None)
            continue
        marked = offset == 0 and row.has_lesion and not row.is_crop
        panels.append(
            Panel(
                grey=_grey(volume.voxels[at], window),
                spacing_mm_yx=volume.geometry.spacing_mm_zyx[1:],
                outlines={name: _mask_slice(mask, volume, at) for name, mask in masks.items()},
                marker_yx=(y, x) if marked else None,
                crop_yx=None if row.is_crop else (y, x),
                caption=f"{at + 1} / {volume.shape_zyx[0]}",
            )
        )
    return tuple(panels)


def _grey(values: npt.NDArray[Any], window: tuple[float, float]) -> npt.NDArray[np.uint8]:
    low, high = window
    scaled = (values.astype(np.float64) - low) / (high - low)
    return np.asarray(np.clip(scaled * 255, 0, 255).round().astype(np.uint8))


def _mask_slice(mask: Volume, volume: Volume, at: int) -> npt.NDArray[np.bool_]:
    """(y, x) bool: a mask of any grid on one slice of the volume."""
    _, rows, columns = volume.shape_zyx
    geometry = volume.geometry.regrid((at, 0, 0), volume.geometry.spacing_mm_zyx)
    return np.asarray(mask_on_grid(mask, geometry, (1, rows, columns))[0])
