"""What commands say of studies, places and names, before anything is computed."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from outcomes import refused

from prostate_mim.manifest import ManifestRow
from prostate_mim.volume import read_volume


def test_what_is_wrong_is_said_before_torch_is_there(cohort: Path, small_encoder: Path, tmp_path: Path) -> None:
    """Files, places and names are looked at without it; the control: where nothing is wrong, it is needed."""
    with cohort.open(newline="") as stream:
        study = str(cohort.parent / next(csv.DictReader(stream))["t2w"])
    out, nothing = str(tmp_path / "a.nii.gz"), str(tmp_path / "no.csv")
    far = ("--position", "1 2 900", "--model", str(small_encoder))
    for code, arguments in (
        (3, ("predict", nothing, "--model", str(small_encoder))),
        (9, ("predict", study, *far)),
        (2, ("predict", study, "--model", str(small_encoder))),  # an encoder
        (3, ("embed", "--manifest", nothing, "--out", out)),
        (3, ("embed", study, "--model", str(tmp_path / "nobody"), "--out", out)),
        (9, ("embed", study, *far, "--out", out)),
        (2, ("explain", study, "--model", str(small_encoder), "--out", out, "--method", "lime")),
        (9, ("view", study, *far[:2], "--out", str(tmp_path / "a.html"))),
        (6, ("embed", study, "--model", str(small_encoder), "--out", out)),
    ):
        program = "import sys; sys.modules['torch'] = None; from prostate_mim.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
        if code == 6:
            assert "ModuleNotFoundError" in done.stderr or "torch" in done.stderr
        else:
            assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["25,7 31,9 -38,5", "1 2", "a b c", "nan 0 0", "inf 0 0"])
def test_a_place_is_three_numbers(run, small_encoder: Path, text: str) -> None:
    """What is meant and how to write it; decimal commas too are told apart from separators."""
    for words in (("predict", "--model", small_encoder), ("embed", "--out", "E.npz"), ("view",)):
        refused(
            run(*words, __file__, "--position", text), 2, "x y z in mm, with decimal points, e.g. '10.2 -31.5 40.0'"
        )


def test_a_place_outside_says_where_the_study_is(run, cohort: Path, small_encoder: Path, tmp_path: Path) -> None:
    """By predict and by view: voxels in the order of the file's axes, the centre in mm, and the usual reason."""
    with cohort.open(newline="") as stream:
        study = cohort.parent / next(csv.DictReader(stream))["t2w"]
    volume = read_volume(study)
    centre = " ".join(f"{value:.1f}" for value in volume.centre_mm_lps)
    size = " ".join(map(str, volume.shape_zyx))
    for command in (("predict", study, "--model", small_encoder), ("view", study, "--out", tmp_path / "a.html")):
        told = ("position 1.0 2.0 900.0 mm LPS", "voxel z y x ", f" of {size})", f"its centre is {centre};", "negate x")
        refused(run(*command, "--position", "1 2 900"), 9, str(study), *told)
    # The control: that very centre is inside.
    assert run("view", study, "--position", centre, "--out", tmp_path / "a.html").code == 0


def test_options_of_a_study_are_not_lost_beside_a_manifest(run, cohort: Path, small_encoder: Path) -> None:
    """A position that no row would look at is refused, as a mask is."""
    for command in (("predict",), ("embed", "--out", "E.npz")):
        words = (*command, "--manifest", cohort, "--model", small_encoder)
        refused(run(*words, "--position", "1 2 3"), 2, "--position is for one study")
        refused(run(*words, "--mask", "gland=g.nii.gz"), 2, "--mask is for one study")
        refused(run(*words, "study.nii.gz"), 2, "either one study or --manifest")


def test_a_mistyped_run_folder_is_not_found(run, small_encoder: Path, tmp_path: Path, monkeypatch) -> None:
    """``runs/mim`` has the form of a hub's name; where runs is a folder here, it is taken for a path."""
    (tmp_path / "runs" / "mim").mkdir(parents=True)
    (tmp_path / "runs" / "mim" / "release").symlink_to(small_encoder)
    (tmp_path / "runs" / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    refused(run("info", "runs/mum"), 3, "no such folder here; did you mean runs/mim?", "runs/mum@<commit>")
    refused(run("info", f"{tmp_path}/runs/mum"), 3, f"did you mean '{tmp_path}/runs/mim'")
    refused(run("info", "org/mum"), 2, "40 hex digits")  # the control: no folder org is here
    assert run("info", "runs/mim").code == 0
    monkeypatch.chdir(tmp_path / "runs")
    refused(run("info", "mim2"), 3, "did you mean 'mim'")
    assert "did you mean 'mim'" not in run("info", "zzz").err  # not alike, and no folder was named


@pytest.mark.parametrize(
    ("given", "has"),
    [
        ({}, False),
        ({"gland_mask": Path("g")}, True),
        ({"lesion_mask": Path("l")}, True),
        ({"position_mm_lps": (1.0, 2.0, 3.0)}, True),
        ({"is_crop": True}, True),
        ({"position_mm_lps": (1.0, 2.0, 3.0), "level": "study"}, False),
    ],
)
def test_what_gives_a_row_its_place(given: dict[str, Any], has: bool) -> None:
    """A position, a lesion, a crop or the gland; else the centre of the image is taken, which is flagged."""
    assert ManifestRow(1, "s", "p", Path("t2w"), **given).has_place is has
