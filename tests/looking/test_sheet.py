"""The contact sheet: what a tile shows, rows that cannot be read, several pages, equal bytes."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from looking_parts import CUBE_MM, Pixels, Planted, bounds, cube_centre, cube_study, near
from PIL import Image

from prostate_mim.errors import NotFoundError, UsageError
from prostate_mim.looking import SheetConfig, write_sheets
from prostate_mim.looking.sheet import Panel, Tile, sheet_png
from prostate_mim.looking.tiles import read_tile
from prostate_mim.manifest import read_manifest
from prostate_mim.volume import Geometry, Volume, write_volume

GLAND, MARKED, ALARM = "#F0E442", "#4DD2FF", "#FF8A70"
TOP = 84  # rows of a page above its tiles: title and legend, in the colours of the marks


def pixels(data: bytes | Path) -> Pixels:
    raw = data if isinstance(data, bytes) else data.read_bytes()
    return np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")).astype(int)


def manifest_of(folder: Path, volumes: list[Volume | None]) -> Path:
    """A manifest with one study each; None is a file of rubbish."""
    rows = []
    for number, volume in enumerate(volumes):
        path = folder / f"secret{number}.nii.gz"
        if volume is None:
            path.write_bytes(b"secret rubbish")
        else:
            write_volume(volume, path)
        rows.append((f"secret-{number}", f"secret-p{number}", path.name))
    with (folder / "m.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("study_id", "patient_id", "t2w"), *rows])
    return folder / "m.csv"


@pytest.mark.parametrize(
    ("spacing_yx", "shape_yx"), [((1.0, 1.0), (96, 96)), ((0.5, 1.0), (120, 96)), ((1, 0.4), (60, 200))]
)
def test_mm_are_equal_along_both_axes(spacing_yx: tuple[float, float], shape_yx: tuple[int, int]) -> None:
    """A square of 20 mm is a square in the picture, whatever the spacing; its outline fits and the circle is round."""
    rows, columns = (round(20 / mm) for mm in spacing_yx)
    grey = np.full(shape_yx, 40, np.uint8)
    square = np.zeros(shape_yx, bool)
    square[10 : 10 + rows, 20 : 20 + columns] = True
    grey[square] = 255
    centre = (10 + (rows - 1) / 2, 20 + (columns - 1) / 2)
    panel = Panel(grey, spacing_yx, {"gland": square}, marker_yx=centre)
    drawn = pixels(sheet_png([Tile("row 1", "", (panel,))], "row 1", columns=1, panel=400))[TOP:]
    scale = 400 / max(n * mm for n, mm in zip(shape_yx, spacing_yx, strict=True))
    top, bottom, left, right = bounds(near(drawn, GLAND))
    assert bottom - top + 1 == pytest.approx(20 * scale, abs=3)
    assert right - left + 1 == pytest.approx(20 * scale, abs=3)
    up, down, west, east = bounds(near(drawn, MARKED))
    assert (down - up, east - west) == pytest.approx((18 * scale, 18 * scale), abs=4)
    assert ((up + down) / 2, (west + east) / 2) == pytest.approx(((top + bottom) / 2, (left + right) / 2), abs=2)


def test_the_patients_left_is_on_the_right(planted: Planted, tmp_path: Path) -> None:
    """The cube at the patient's left and front is right and above of the middle, outlined and marked."""
    out = tmp_path / "sheet.png"
    summary = write_sheets(planted.manifest, out, SheetConfig(columns=1, slices=1, limit=1, panel=300))
    assert summary == {"sheets": [str(out)], "rows": 1, "unreadable": []}
    drawn = pixels(out)[TOP : TOP + 308, 14 : 14 + 308]
    cube = drawn.min(-1) > 230
    top, bottom, left, right = bounds(near(drawn, GLAND))
    assert (left + right) / 2 > 180 and (top + bottom) / 2 < 120
    assert (bottom - top, right - left) == pytest.approx([300 / 96 * CUBE_MM] * 2, abs=4)
    assert cube[top + 4 : top + 10, left + 4 : left + 10].all() and not cube[bottom + 10 : bottom + 40].any()
    assert near(drawn, MARKED).sum() > 50


def test_slices_are_9_mm_apart_and_may_lie_beyond_the_stack(planted: Planted) -> None:
    """By hand: the cube's middle is between slices 14 and 15 of 20 of 3 mm; three of them on either side."""
    manifest = read_manifest(planted.manifest)
    tile = read_tile(manifest, manifest.rows[0], 3)
    assert [panel.caption if panel else None for panel in tile.panels] == ["12 / 20", "15 / 20", "18 / 20"]
    wide = read_tile(manifest, manifest.rows[0], 9)
    assert [panel is None for panel in wide.panels] == [False] * 6 + [True] * 3
    assert tile.heading == "row 1: PZ, label 1"
    assert tile.facts == "96 × 96 × 20 of 1.00 × 1.00 × 3.00 mm = 96 × 96 × 60 mm"
    assert read_tile(manifest, manifest.rows[2], 3).panels[1].marker_yx is None  # type: ignore[union-attr]


def test_a_row_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    """The damaged file is a tile with its reason, without path or id; its neighbours are drawn."""
    volume, _ = cube_study()
    path = manifest_of(tmp_path, [volume, None, volume])
    manifest = read_manifest(path)
    tile = read_tile(manifest, manifest.rows[1], 3)
    assert tile.reason and not tile.panels
    assert "secret" not in tile.reason and str(tmp_path) not in tile.reason and "row 2" not in tile.reason
    summary = write_sheets(path, tmp_path / "sheet.png", SheetConfig(columns=3))
    assert (summary["rows"], summary["unreadable"]) == (3, [2])
    drawn = pixels(tmp_path / "sheet.png")[TOP:]
    thirds = np.array_split(near(drawn, ALARM), 3, axis=1)
    assert [part.sum() > 20 for part in thirds] == [False, True, False]


def test_nothing_that_names_a_patient_is_said(planted: Planted) -> None:
    """All words of the tiles, and the picture's bytes."""
    manifest = read_manifest(planted.manifest)
    tiles = [read_tile(manifest, row, 3) for row in manifest.rows]
    said = " ".join(f"{tile.heading} {tile.facts} {tile.reason} {tile.remark}" for tile in tiles)
    assert [tile.heading for tile in tiles] == ["row 1: PZ, label 1", "row 2: label 0", "row 3"]
    data = sheet_png(tiles, "rows 1 to 3 of 3", columns=3, panel=100)
    for word in planted.words:
        assert word not in said and word.encode() not in data
    assert b"tEXt" not in data and b"tIME" not in data


def test_many_rows_make_several_pages(tmp_path: Path) -> None:
    """5 rows at 2 a page: three files; one page keeps the name; the same manifest gives the same bytes."""
    rng = np.random.default_rng(0)
    noise = [Volume(rng.integers(0, 99, (4, 24, 24)).astype(np.int16), Geometry((3.0, 1.0, 1.0))) for _ in range(5)]
    path = manifest_of(tmp_path, [*noise])
    seen: list[tuple[int, int]] = []
    config = SheetConfig(rows_per_page=2, panel=60)
    summary = write_sheets(
        path, tmp_path / "a" / "sheet.png", config, progress=lambda done, of: seen.append((done, of))
    )
    names = [Path(name).name for name in summary["sheets"]]
    assert names == ["sheet-001.png", "sheet-002.png", "sheet-003.png"]
    assert seen == [(n, 5) for n in range(1, 6)]
    again = write_sheets(path, tmp_path / "b" / "sheet.png", config)
    pages = [Path(name).read_bytes() for name in summary["sheets"]]
    assert pages == [Path(name).read_bytes() for name in again["sheets"]]
    assert len(set(pages)) == 3
    one = write_sheets(path, tmp_path / "c" / "sheet.png", SheetConfig(limit=2, panel=60))
    assert [Path(name).name for name in one["sheets"]] == ["sheet.png"]


def test_every_number_type_can_be_drawn(tmp_path: Path) -> None:
    """Unsigned, floating point and negative values."""
    volume, _ = cube_study(value=250)
    kinds = [volume.voxels.astype(kind) for kind in ("uint8", "uint16", "float32")] + [volume.voxels - 200]
    path = manifest_of(tmp_path, [Volume(voxels, volume.geometry) for voxels in kinds])
    manifest = read_manifest(path)
    panels = [read_tile(manifest, row, 1).panels[0] for row in manifest.rows]
    grey = [panel.grey for panel in panels if panel is not None]
    assert len(grey) == 4 and len(np.unique(grey[0])) > 10
    assert all(np.array_equal(one, grey[0]) for one in grey)


def test_refusals(tmp_path: Path, planted: Planted) -> None:
    """Not a PNG, no manifest, no rows, a page beyond what a PNG holds."""
    with pytest.raises(UsageError, match=r"ends in \.png"):
        write_sheets(planted.manifest, tmp_path / "sheet.jpg")
    with pytest.raises(NotFoundError):
        write_sheets(tmp_path / "none.csv", tmp_path / "sheet.png")
    with pytest.raises(UsageError, match="--rows-per-page is 0"):
        SheetConfig(rows_per_page=0)
    with pytest.raises(UsageError, match="too large"):
        SheetConfig(columns=100, slices=9)


def test_cube_centre_is_known() -> None:
    """By hand: columns 60 to 83 from -30 mm, rows 16 to 39 from -20 mm, slices 11 to 18 of 3 mm from 10 mm."""
    assert cube_centre(cube_study()[1]) == pytest.approx((41.5, 7.5, 53.5))
