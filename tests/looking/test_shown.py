"""What a page shows of a study file: masks lie where their geometry says, and one that does not fit is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prostate_mim.errors import VolumeError
from prostate_mim.looking.shown import file_looked
from prostate_mim.phantom import make_study
from prostate_mim.volume import Geometry, Volume, write_volume


def test_a_mask_elsewhere_is_said_or_refused(tmp_path: Path) -> None:
    """On its own grid nothing is said; half a slice off, the distance; empty, that; half a metre off, it is refused."""
    study = make_study(5, 0)
    place = study.gland.geometry
    write_volume(study.volume, tmp_path / "t2w.mha")
    write_volume(Volume(np.zeros_like(study.gland.voxels), place), tmp_path / "empty.mha")
    for name, step in (("own", 0.0), ("half", 0.5), ("far", 500.0)):
        x, y, z = (float(v) for v in place.index_to_position((step, 0, 0)))
        moved = Geometry(place.spacing_mm_zyx, (x, y, z), place.direction)
        write_volume(Volume(study.gland.voxels, moved), tmp_path / f"{name}.mha")

    def notes(*masks: str) -> tuple[str, ...]:
        return file_looked(tmp_path / "t2w.mha", masks).notes

    assert notes(str(tmp_path / "own.mha")) == ()
    (note,) = notes(str(tmp_path / "half.mha"))
    assert note.startswith("mask is on another grid") and f"up to {place.spacing_mm_zyx[0] / 2:.2f} mm" in note
    assert notes(f"zones={tmp_path / 'empty.mha'}") == ("zones is empty",)
    with pytest.raises(VolumeError, match="gland: nothing of it lies within the study"):
        notes(f"gland={tmp_path / 'far.mha'}")
