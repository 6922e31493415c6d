"""``prostate-mim explain``: the map, the page, the numbers; one line for every bad input; a picture in a browser."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from saliency_parts import rotation, study_with_ball

from prostate_mim.classifier import LesionClassifier
from prostate_mim.deploy.prediction import NO_POSITION
from prostate_mim.encoder import PreMIM
from prostate_mim.errors import ProstateMimError, VolumeError
from prostate_mim.spec import InputSpec
from prostate_mim.volume import Geometry, Volume, read_volume, write_volume

WHERE = (-8.0, 2.0, 36.0)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release with a random head, an oblique study in a file that names a patient, and a manifest of it."""
    made = tmp_path_factory.mktemp("MUELLER")
    torch.manual_seed(0)
    model = LesionClassifier(PreMIM("resenc-s", InputSpec(size_zyx=(8, 32, 32)), name="small"))
    torch.nn.init.normal_(model.head.linear.weight, std=0.05)
    model.save_pretrained(made / "release")
    geometry = Geometry((3.0, 0.7, 0.7), (-40.0, -30.0, 5.0), rotation(8))
    volume = study_with_ball(geometry, (20, 90, 90), WHERE)
    write_volume(volume, made / "PAT0815.nii.gz")
    np.save(made / "bare.npy", volume.voxels)
    with (made / "m.csv").open("w", newline="") as stream:
        x, y, z = WHERE
        rows = [
            ("study_id", "patient_id", "t2w", "position_mm_lps"),
            ("s", "PAT0815", "PAT0815.nii.gz", f"{x} {y} {z}"),
        ]
        csv.writer(stream).writerows(rows)
    return made


def in_process(*arguments: object) -> None:
    from prostate_mim.cli import app

    app([str(argument) for argument in arguments], standalone_mode=False)


def test_map_page_and_numbers(folder: Path, tmp_path: Path) -> None:
    """As a process: JSON alone on stdout; the map on the study's grid; the same map in the page; no name anywhere."""
    out, html = tmp_path / "new" / "map.nii.gz", tmp_path / "new" / "page.html"
    x, y, z = WHERE
    done = subprocess.run(
        [
            sys.executable, "-m", "prostate_mim", "explain", str(folder / "PAT0815.nii.gz"), "--model",
            str(folder / "release"), "--position", f"{x} {y} {z}", "--out", str(out), "--html", str(html), "--check",
            "--json",
        ],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert told["flags"] and NO_POSITION not in told["flags"]  # a ball is no prostate, and its place was given
    assert (done.returncode, done.stderr.splitlines()) == (0, [f"warning: {flag}" for flag in told["flags"]])
    assert (told["out"], told["html"], told["method"], told["stage"]) == (str(out), str(html), "gradcam", 3)
    assert [step["shuffled"] for step in told["check"]][-1] == "all"
    assert told["model"] == "small.classifier" and len(told["revision"]) == 16 and 0 < told["probability"] < 1
    assert told["centre_mm_lps"] == list(WHERE)
    found, image = nibabel.load(out), nibabel.load(folder / "PAT0815.nii.gz")
    assert found.shape == image.shape and np.allclose(found.affine, image.affine)
    page = html.read_text()
    block = re.search(r'<script type="text/plain" id="saliency">([^<]*)<', page)
    assert block is not None
    shown = nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(block[1])))
    stored = np.asarray(found.dataobj)
    assert np.allclose(np.asarray(shown.dataobj), stored / stored.max(), atol=1e-4)
    assert f"probability {told['probability']:.3f} by small.classifier" in page
    raw = gzip.decompress(out.read_bytes())
    assert not any(word in text for text in (page, raw.decode("latin-1")) for word in ("MUELLER", "PAT0815"))


def test_a_row_of_a_manifest_and_a_bare_array(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same lesion by its row; an array with --spacing; both as lines for a person."""
    release = folder / "release"
    in_process("explain", "--manifest", folder / "m.csv", "--model", release, "--out", tmp_path / "row.nii.gz")
    said = capsys.readouterr().out
    assert said.startswith("probability: 0.") and "mm from the centre of the crop" in said
    assert "of the map within 10 mm of the centre;" in said
    x, y, z = WHERE
    study = folder / "PAT0815.nii.gz"
    in_process("explain", study, "--model", release, "--position", f"{x} {y} {z}", "--out", tmp_path / "file.nii.gz")
    assert (tmp_path / "row.nii.gz").read_bytes() == (tmp_path / "file.nii.gz").read_bytes()
    in_process(
        "explain", folder / "bare.npy", "--spacing", "3 0.7 0.7", "--model", release, "--out", tmp_path / "bare.mha",
        "--method", "occlusion", "--box-mm", "9 6 6",
    )  # fmt: skip
    assert read_volume(tmp_path / "bare.mha").shape_zyx == (20, 90, 90)


def test_a_missing_position_is_said(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As predict does: the map is of the centre of the image, with the same flag."""
    study = folder / "PAT0815.nii.gz"
    in_process("explain", study, "--model", folder / "release", "--out", tmp_path / "map.nii.gz", "--json")
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["flags"][-1] == NO_POSITION and f"warning: {NO_POSITION}" in said.err.splitlines()
    assert told["centre_mm_lps"] == pytest.approx(read_volume(study).centre_mm_lps)


def test_strict_refuses_what_is_no_prostate(folder: Path, tmp_path: Path) -> None:
    """As predict does; no map is written."""
    study, out = folder / "PAT0815.nii.gz", tmp_path / "map.nii.gz"
    with pytest.raises(VolumeError, match="leave out --strict to go on in spite of it"):
        in_process("explain", study, "--model", folder / "release", "--out", out, "--strict")
    assert not out.exists()


GOOD = ("explain", "{f}/PAT0815.nii.gz", "--model", "{f}/release", "--out", "{t}/map.nii.gz")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("explain", "{f}/PAT0815.nii.gz", "--out", "{t}/map.nii.gz"), 2, "--model is missing"),
        (("explain", "{f}/PAT0815.nii.gz", "--model", "{f}/release"), 2, "--out is missing"),
        (("explain", "--model", "{f}/release", "--out", "{t}/map.nii.gz"), 2, "either one study or --manifest"),
        ((*GOOD[:-1], "{t}/map.png"), 2, "a map is written as .nii.gz"),
        ((*GOOD[:-1], "{f}"), 2, "a map is written as"),
        ((*GOOD[:-1], "{f}/PAT0815.nii.gz"), 2, "is the study itself"),
        ((*GOOD, "--html", "{t}/page.png"), 2, "ends in .html"),
        ((*GOOD, "--method", "lime"), 2, "gradcam, hirescam or occlusion"),
        ((*GOOD, "--stage", "9"), 2, "stage 9 does not exist"),
        ((*GOOD, "--stage", "2", "--method", "occlusion"), 2, "--stage is of gradcam"),
        ((*GOOD, "--box-mm", "9 9 9"), 2, "--box-mm is of occlusion"),
        ((*GOOD, "--box-mm", "9 9", "--method", "occlusion"), 2, "three numbers"),
        ((*GOOD, "--box-mm", "9 90 9", "--method", "occlusion"), 2, "larger than the crop"),
        ((*GOOD, "--position", "900 0 0"), 9, "outside the volume"),
        ((*GOOD, "--position", "1 2"), 2, "three numbers"),
        ((*GOOD, "--row", "1"), 2, "--row is of a manifest"),
        (("explain", "{f}/none.nii.gz", *GOOD[2:]), 3, "no such file"),
        (("explain", "{f}/bare.npy", *GOOD[2:]), 9, "spacing"),
        (("explain", "--manifest", "{f}/m.csv", "--row", "4", *GOOD[2:]), 2, "rows 1 to 1"),
        (("explain", "{f}/PAT0815.nii.gz", "--model", "{f}/nothing", *GOOD[4:]), 3, "nothing"),
        (("explain", "{f}/PAT0815.nii.gz", "--model", "resenc-s.mim-t2w", *GOOD[4:]), 2, "encoder"),
    ],
)
def test_refusals(arguments: tuple[str, ...], code: int, words: str, folder: Path, tmp_path: Path) -> None:
    """One line that says what; nothing is written, and the study is as it was."""
    before = (folder / "PAT0815.nii.gz").read_bytes()
    with pytest.raises(ProstateMimError) as caught:
        in_process(*(text.format(f=folder, t=tmp_path) for text in arguments))
    assert caught.value.exit_code == code and words in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [] and (folder / "PAT0815.nii.gz").read_bytes() == before


def test_a_map_can_be_looked_at_later(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``view --saliency`` takes what ``explain`` wrote; an empty map is said, the image itself is no map."""
    study, page = folder / "PAT0815.nii.gz", tmp_path / "page.html"
    in_process("explain", study, "--model", folder / "release", "--out", tmp_path / "map.nii.gz")
    in_process("view", study, "--saliency", tmp_path / "map.nii.gz", "--out", page)
    assert 'id="saliency"' in page.read_text() and 'id="opacity"' in page.read_text()
    assert "empty" not in capsys.readouterr().err
    volume = read_volume(study)
    write_volume(Volume(np.zeros(volume.shape_zyx, np.float32), volume.geometry), tmp_path / "empty.nii.gz")
    in_process("view", study, "--saliency", tmp_path / "empty.nii.gz", "--out", page)
    assert "the saliency map is empty" in capsys.readouterr().err
    write_volume(Volume(volume.voxels - 300, volume.geometry), tmp_path / "image.nii.gz")
    with pytest.raises(ProstateMimError, match="none below 0"):
        in_process("view", study, "--saliency", tmp_path / "image.nii.gz", "--out", page)
