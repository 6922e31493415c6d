"""MSD Task05: the channel that dataset.json calls T2, out of files that are whole to their last byte."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_volumes import ball, t2w_volume

from prostate_mim.datasets import ImportOptions, import_dataset, msd
from prostate_mim.errors import ManifestError, NotFoundError, ProstateMimError
from prostate_mim.studies import Study
from prostate_mim.volume import Volume, read_volume, voxel_hash, write_volume

Opened = Callable[[Path], list[Study]]


def write_both(path: Path, t2w: Volume, other: Volume, *, t2w_first: bool = True) -> None:
    """Two volumes of one grid in a 4-D file, by nibabel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    single = path.with_name("single.nii.gz")
    write_volume(t2w, single)
    affine = nibabel.load(single).affine
    single.unlink()
    channels = [t2w.voxels, other.voxels] if t2w_first else [other.voxels, t2w.voxels]
    image = nibabel.Nifti1Image(np.stack(channels, -1).transpose(2, 1, 0, 3).astype("f4"), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nibabel.save(image, path)


def write_tree(root: Path, *, t2w_first: bool = True, changes: dict[str, Any] | None = None) -> Path:
    """Three training studies and one test study, as they are unpacked, hidden files of another system too."""
    for number in (0, 1, 4, 3):
        t2w, adc = t2w_volume(number), t2w_volume(number + 100)
        test = number == 3
        name = f"prostate_{number:02d}.nii.gz"
        write_both(root / ("imagesTs" if test else "imagesTr") / name, t2w, adc, t2w_first=t2w_first)
        if not test:
            (root / "labelsTr").mkdir(exist_ok=True)
            whole, inner = ball(t2w, radius_mm=7).voxels, ball(t2w, radius_mm=4).voxels
            write_volume(Volume(whole + inner, t2w.geometry), root / "labelsTr" / name)  # 1 = PZ around 2 = TZ
    (root / "imagesTr" / "._prostate_00.nii.gz").write_bytes(b"\0\5\26\7")
    names = [f"prostate_{number:02d}.nii.gz" for number in (0, 1, 4)]
    content: dict[str, Any] = {
        "name": "PROSTATE",
        "tensorImageSize": "4D",
        "modality": {"0": "T2", "1": "ADC"} if t2w_first else {"0": "ADC", "1": "T2"},
        "labels": {"0": "background", "1": "PZ", "2": "TZ"},
        "numTraining": 3,
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
        "test": ["./imagesTs/prostate_03.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps({**content, **(changes or {})}))
    return root


@pytest.mark.parametrize("t2w_first", [True, False])
def test_counts_and_the_channel_by_its_name(tmp_path: Path, t2w_first: bool, opened: Opened) -> None:
    """Four studies, three with zones; T2w is taken wherever it lies, voxel for voxel."""
    root = write_tree(tmp_path / "Task05_Prostate", t2w_first=t2w_first)
    summary = import_dataset("msd", root, tmp_path / "msd.csv")
    assert (summary.studies, summary.patients, summary.lesions, summary.skipped) == (4, 4, 0, {})
    assert "gland_mask holds zones (0 = background, 1 = PZ, 2 = TZ); above 0 is gland" in summary.notes
    assert "1 study: no labels (test set)" in summary.notes
    for study in opened(tmp_path / "msd.csv"):
        number = int(study.row.study_id.removeprefix("prostate_"))
        expected = t2w_volume(number)
        assert voxel_hash(study.volume) == voxel_hash(expected)
        assert study.volume.geometry.spacing_mm_zyx == expected.geometry.spacing_mm_zyx
        np.testing.assert_allclose(study.volume.centre_mm_lps, expected.centre_mm_lps, atol=1e-4)
        gland = study.read_mask("gland")
        assert (gland is None) == (number == 3)
        if gland is not None:
            np.testing.assert_array_equal(gland.voxels > 0, ball(expected, radius_mm=7).voxels > 0)


def test_made_files_lie_beside_the_manifest(tmp_path: Path) -> None:
    """The data set's own folder stays as it was, and the folder above it can be given too."""
    root = write_tree(tmp_path / "in" / "Task05_Prostate")
    before = sorted((path.name, path.stat().st_mtime_ns) for path in root.rglob("*"))
    import_dataset("msd", tmp_path / "in", tmp_path / "out" / "msd.csv")
    assert sorted((path.name, path.stat().st_mtime_ns) for path in root.rglob("*")) == before
    made = sorted(path.name for path in (tmp_path / "out" / "msd-files").iterdir())
    assert made == [f"prostate_{number:02d}_t2w.nii.gz" for number in (0, 1, 3, 4)]
    with (tmp_path / "out" / "msd.csv").open() as stream:
        assert next(csv.DictReader(stream))["t2w"] == "msd-files/prostate_00_t2w.nii.gz"
    read_volume(tmp_path / "out" / "msd-files" / made[0])


def test_damaged_files_are_left_out(tmp_path: Path) -> None:
    """The end of a 4-D file is ADC, and its loss still refuses the file; so does a lost label, or a lost file."""
    root = write_tree(tmp_path / "Task05_Prostate")
    image, label = root / "imagesTr/prostate_00.nii.gz", root / "labelsTr/prostate_01.nii.gz"
    image.write_bytes(image.read_bytes()[:-12])
    label.write_bytes(label.read_bytes()[:-12])
    (root / "imagesTs/prostate_03.nii.gz").unlink()
    summary = import_dataset("msd", root, tmp_path / "msd.csv")
    assert (summary.studies, summary.skipped) == (
        1,
        {
            "4-D file damaged, or its T2w channel refused": 1,
            "in dataset.json, but the file is not there": 1,
            "label file damaged, or off its image": 1,
        },
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": {"0": "FLAIR", "1": "T1w"}}, "no channel is called T2"),
        ({"modality": None}, "no channel is called T2"),
        ({"training": [{"image": "../../secret.nii.gz"}]}, "no path within"),
        ({"training": [{"image": "/etc/passwd"}]}, "no path within"),
        ({"training": [{"image": 3}]}, "no path within"),
        ({"training": [{"label": "labelsTr/x.nii.gz"}]}, "names no image"),
        ({"training": {}}, "is no list"),
    ],
)
def test_another_dataset_json_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Another task, entries that lead out of the folder, or no list: nothing is written."""
    root = write_tree(tmp_path / "Task05_Prostate", changes=changes)
    with pytest.raises(ManifestError, match=message):
        import_dataset("msd", root, tmp_path / "msd.csv")
    assert not (tmp_path / "msd.csv").exists() and not (tmp_path / "msd-files").exists()


def test_no_dataset_json(tmp_path: Path) -> None:
    """Nothing there, and something that is no JSON."""
    with pytest.raises(NotFoundError, match=r"no dataset\.json"):
        import_dataset("msd", tmp_path, tmp_path / "msd.csv")
    (tmp_path / "dataset.json").write_text("[" * 5000)
    with pytest.raises(ManifestError, match="JSON"):
        import_dataset("msd", tmp_path, tmp_path / "msd.csv")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["T2", "imagesTr/a.nii.gz"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.sampled_from(["0", "image"]), inner),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({}, optional={key: JSON for key in ("modality", "labels", "training", "test")}))
def test_any_json_is_read_or_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    """Whatever the file holds: rows, a list of what was left out, or one of our errors; never another exception."""
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"0": "T2"}, **content}), encoding="utf-8")
    try:
        found = msd.DATASET.find(tmp_path, ImportOptions(None, None, tmp_path / "files"))
    except ProstateMimError as error:
        assert "\n" not in str(error)
    else:
        assert found.rows == () and all("\n" not in note for note in found.notes)


def test_names_no_system_takes_are_files_that_are_not_there(tmp_path: Path) -> None:
    """Names too long for any file system, or that cannot be encoded."""
    names = ["imagesTr/" + "a" * 5000, "imagesTr/\ud800.nii.gz"]
    content = {"modality": {"0": "T2"}, "training": [], "test": names}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    found = msd.DATASET.find(tmp_path, ImportOptions(None, None, tmp_path / "files"))
    assert found.skipped_counts() == {"in dataset.json, but the file is not there": 2}
