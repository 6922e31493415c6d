"""PROMISE12: both layouts of .mhd with .raw, sets that number their cases alike, and arrays without a spacing."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_volumes import ball, t2w_volume, write_csv, write_itk

from prostate_mim.datasets import import_dataset
from prostate_mim.errors import ManifestError
from prostate_mim.studies import Study

Opened = Callable[[Path], list[Study]]
Skipped = Callable[[Path], list[tuple[str, str]]]


def add_case(folder: Path, number: int, *, gland: bool) -> None:
    """``CaseNN.mhd`` with its ``.raw`` and, for training, its segmentation, by SimpleITK."""
    image = t2w_volume(number)
    write_itk(image, folder / f"Case{number:02d}.mhd")
    if gland:
        write_itk(ball(image, radius_mm=6), folder / f"Case{number:02d}_segmentation.mhd")


def rows_of(manifest: Path) -> dict[str, dict[str, str]]:
    with manifest.open(encoding="utf-8", newline="") as stream:
        return {row["study_id"]: row for row in csv.DictReader(stream)}


@pytest.mark.parametrize("layout", ["new", "old"])
def test_training_set_in_both_layouts(tmp_path: Path, layout: str, opened: Opened) -> None:
    """Four cases of three blocks, all with a gland, whether in one folder or in three parts."""
    parts = {"new": ["training_data"] * 4, "old": [f"TrainingData_Part{i}" for i in (1, 1, 2, 3)]}[layout]
    for number, part in zip((0, 12, 13, 49), parts, strict=True):
        add_case(tmp_path / "p12" / part, number, gland=True)
    summary = import_dataset("promise12", tmp_path / "p12", tmp_path / "p12.csv")
    assert (summary.studies, summary.patients, summary.lesions, summary.positives) == (4, 4, 0, 0)
    assert summary.skipped == {}
    rows = rows_of(tmp_path / "p12.csv")
    assert {name: row["centre"] for name, row in rows.items()} == {
        "train-Case00": "cases 00 to 12",
        "train-Case12": "cases 00 to 12",
        "train-Case13": "cases 13 to 25",
        "train-Case49": "cases 37 to 49",
    }
    assert any("assumed" in note for note in summary.notes)
    assert all(study.row.gland_mask is not None for study in opened(tmp_path / "p12.csv"))


def test_the_three_sets_number_their_cases_alike(tmp_path: Path, opened: Opened) -> None:
    """Case00 of training, test and live challenge are three patients; the last two have no gland mask."""
    for folder, gland in (("training_data", True), ("test_data", False), ("livechallenge_test_data", False)):
        add_case(tmp_path / "p12" / folder, 0, gland=gland)
    summary = import_dataset("promise12", tmp_path / "p12", tmp_path / "p12.csv")
    assert (summary.studies, summary.patients) == (3, 3)
    rows = rows_of(tmp_path / "p12.csv")
    assert {name: bool(row["gland_mask"]) for name, row in rows.items()} == {
        "train-Case00": True, "test-Case00": False, "live-Case00": False,
    }  # fmt: skip
    assert rows["test-Case00"]["centre"] == ""  # blocks are those of the training set
    assert {"1 study: no segmentation (test set)", "1 study: no segmentation (live set)"} <= set(summary.notes)
    assert len(opened(tmp_path / "p12.csv")) == 3


def test_what_is_damaged_or_there_twice_is_counted(tmp_path: Path, skipped: Skipped) -> None:
    """A short .raw, a .raw that is gone, a short segmentation, and a case in both layouts at once."""
    for number in range(5):
        add_case(tmp_path / "p12/training_data", number, gland=True)
    add_case(tmp_path / "p12/TrainingData_Part1", 4, gland=True)
    data = tmp_path / "p12/training_data"
    (data / "Case01.raw").write_bytes((data / "Case01.raw").read_bytes()[:-2])
    (data / "Case02.raw").unlink()
    (data / "Case03_segmentation.raw").write_bytes(b"")
    summary = import_dataset("promise12", tmp_path / "p12", tmp_path / "p12.csv")
    assert (summary.studies, summary.skipped) == (
        2,
        {
            "gland mask damaged, or off its image": 1,
            "image not readable as an axial volume": 2,
            "the same case a second time": 1,
        },
    )
    assert {item for item, _ in skipped(tmp_path / "p12.csv")} == {
        "train-Case01", "train-Case02", "train-Case03", "Case04.mhd",
    }  # fmt: skip


def write_arrays(folder: Path, number: int) -> None:
    """``image_trainNN.npy.gz`` and ``label_trainNN.npy.gz``."""
    import gzip
    import io

    image = t2w_volume(number)
    folder.mkdir(parents=True, exist_ok=True)
    for name, voxels in (("image", image.voxels), ("label", ball(image, radius_mm=6).voxels.astype("i1"))):
        stream = io.BytesIO()
        np.save(stream, voxels)
        (folder / f"{name}_train{number:02d}.npy.gz").write_bytes(gzip.compress(stream.getvalue()))


def test_a_spacing_is_never_invented(tmp_path: Path, opened: Opened) -> None:
    """Without a table every array is left out, with a table those it names come in, with its very numbers."""
    for number in (1, 5, 14):
        write_arrays(tmp_path / "arrays", number)
    with pytest.raises(ManifestError, match="3 bare array without a spacing"):
        import_dataset("promise12", tmp_path / "arrays", tmp_path / "none.csv")
    table = write_csv(
        tmp_path / "spacing.csv",
        """
        comment,Spacing mm ZYX,case
        by hand,3.6 1.25 1.25,Case01
        by hand,3 0.8 0.8,image_train14.npy.gz
        """,
    )
    summary = import_dataset("promise12", tmp_path / "arrays", tmp_path / "two.csv", labels=table)
    assert (summary.studies, sum(summary.skipped.values())) == (2, 1)
    assert {name: row["spacing_mm_zyx"] for name, row in rows_of(tmp_path / "two.csv").items()} == {
        "train-Case01": "3.6 1.25 1.25", "train-Case14": "3 0.8 0.8",
    }  # fmt: skip
    studies = opened(tmp_path / "two.csv")
    assert [study.volume.geometry.spacing_mm_zyx for study in studies] == [(3.6, 1.25, 1.25), (3.0, 0.8, 0.8)]


@pytest.mark.parametrize("text", ["case,spacing_mm_zyx\n1,3 0.5", "case,spacing_mm_zyx\n1,3 0.5 400", "case\n1"])
def test_a_table_without_spacings_is_refused(tmp_path: Path, text: str) -> None:
    """Two numbers, an impossible one, no column: the row is named, nothing is written."""
    write_arrays(tmp_path / "arrays", 1)
    with pytest.raises(ManifestError, match="spacing_mm_zyx"):
        import_dataset(
            "promise12", tmp_path / "arrays", tmp_path / "p12.csv", labels=write_csv(tmp_path / "t.csv", text)
        )
    assert not (tmp_path / "p12.csv").exists()


def test_the_real_arrays(real_data: Path, tmp_path: Path, opened: Opened) -> None:
    """Forty of them without a spacing; three with one that this test assumes."""
    folder = real_data / "promise12"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    with pytest.raises(ManifestError, match="40 bare array"):
        import_dataset("promise12", folder, tmp_path / "none.csv")
    numbers = (1, 17, 49)
    lines = "\n".join(f"{number},3.6 1.25 1.25" for number in numbers)
    table = write_csv(tmp_path / "assumed.csv", f"case,spacing_mm_zyx\n{lines}")
    summary = import_dataset("promise12", folder, tmp_path / "three.csv", labels=table)
    assert (summary.studies, summary.patients, sum(summary.skipped.values())) == (3, 3, 37)
    assert sorted(row["centre"] for row in rows_of(tmp_path / "three.csv").values()) == [
        "cases 00 to 12", "cases 13 to 25", "cases 37 to 49",
    ]  # fmt: skip
    for study in opened(tmp_path / "three.csv"):
        gland = study.read_mask("gland")
        assert gland is not None and 0.005 < (gland.voxels > 0).mean() < 0.5
