"""mask-preview through the command line: what the decoded pixels say, and that bad input is one line."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from outcomes import refused
from PIL import Image

from prostate_mim import PreMIM
from prostate_mim.mim.layout import to_blocks
from prostate_mim.mim.strategies import STRATEGIES
from prostate_mim.preprocess import prepare_crop
from prostate_mim.pretraining import PretrainConfig, make_model, mim_details
from prostate_mim.preview import Preview, PreviewConfig, open_shown
from prostate_mim.reconstruction import block_errors, load_mim, reconstruct
from prostate_mim.spec import InputSpec
from prostate_mim.volume import read_volume

HIDDEN = (0x00, 0x72, 0xB2)
GLAND = (0xF0, 0xE4, 0x42)
# The crop of these tests is a cube of 24 mm, so that every panel is a square of 235 pixels, 12 apart.
PANEL, GAP, FIRST, PITCH = 235, 12, 90, 30 + 235 + 12
EVERY = [name for name in STRATEGIES if name != "mixture"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release with a decoder, random weights and 18 blocks a crop."""
    torch.manual_seed(0)
    spec = InputSpec(size_zyx=(8, 48, 48))
    mim = make_model(PretrainConfig(spec=spec))
    encoder = PreMIM("resenc-s", spec, name="resenc-s.random", details={"mim": mim_details(mim, spec)})
    return encoder.eval().save_pretrained(tmp_path_factory.mktemp("preview") / "release", decoder=mim.decoder)


def pixels(path: Path) -> np.ndarray:
    """(height, width, 3) uint8."""
    return np.asarray(Image.open(path).convert("RGB"))


def panel(image: np.ndarray, row: int, column: int) -> np.ndarray:
    """One panel of the picture, found by the layout."""
    top, left = FIRST + row * PITCH, GAP + column * (PANEL + GAP)
    return image[top : top + PANEL, left : left + PANEL]


def share(image: np.ndarray, colour: tuple[int, int, int] = HIDDEN) -> float:
    """Part of the pixels that have exactly this colour."""
    return float((image == np.array(colour)).all(-1).mean())


def rows_of(image: np.ndarray) -> int:
    """Rows of panels, by their pitch: bands whose first panel is not white page."""
    found = 0
    while FIRST + found * PITCH + PANEL <= len(image) and (panel(image, found, 0) != 255).any(-1).mean() > 0.5:
        found += 1
    return found


def test_every_strategy_has_its_row(run, model: Path, tmp_path: Path) -> None:
    """On a fresh machine, without data: a phantom, one row each, the hidden share as reported."""
    out = tmp_path / "new" / "all.png"
    made = run("mask-preview", "--model", model, "--out", out, "--json")
    assert made.code == 0, made.err
    assert [row["strategy"] for row in made.json["rows"]] == EVERY
    assert [row["used"] for row in made.json["rows"]] == EVERY  # a phantom has all the masks
    assert [row["strategy"] for row in made.json["rows"] if not row["self_supervised"]] == ["lesion"]
    assert made.json["study"] == "phantom seed 0"
    assert made.json["left_out"] == []
    image = pixels(out)
    assert image.shape[1] == 1000
    assert rows_of(image) == len(EVERY)
    gutters = [GAP + PANEL + 2 + column * (PANEL + GAP) for column in range(3)]
    for row in range(len(EVERY)):  # nothing spills from one panel into the next
        top = FIRST + row * PITCH
        assert all((image[top : top + PANEL, left : left + GAP - 4] == 255).all() for left in gutters)
    assert share(image[:, 998:]) == 0
    assert (image[:, 990:] == 255).all()  # no title is clipped at the edge
    assert out.stat().st_size < 400_000
    for number, row in enumerate(made.json["rows"]):
        assert row["count"] / row["of"] == row["share"]
        assert row["error"] > 0
        seen = panel(image, number, 1), panel(image, number, 2)
        if row["what"] != "blocks hidden":
            assert share(np.stack(seen)) == 0
        else:
            assert 0 < share(np.stack(seen)) < 1


@pytest.mark.parametrize(("ratio", "units"), [("0.34", 3), ("0.6", 5), ("0.78", 7)])
def test_hidden_colour_covers_the_hidden_share(run, model: Path, tmp_path: Path, ratio: str, units: int) -> None:
    """Columns cross every slice: in any axial slice the coloured share is that of the whole crop, borders apart."""
    made = run(
        "mask-preview",
        "--model",
        model,
        "--strategy",
        "column",
        "--ratio",
        ratio,
        "--out",
        tmp_path / "p.png",
        "--json",
    )
    (row,) = made.json["rows"]
    assert row["share"] == pytest.approx(units / 9)
    image = pixels(tmp_path / "p.png")
    assert share(panel(image, 0, 1)) == pytest.approx(units / 9, rel=0.06)
    assert share(panel(image, 0, 0)) == 0  # the control: the study itself has none
    assert share(panel(image, 0, 3)) < 0.1  # and the reconstruction borders only


def test_pixels_are_the_blocks(model: Path) -> None:
    """Each block of each plane is coloured where it is hidden, and nowhere else; inverted it would be found out."""
    preview = Preview(model, PreviewConfig(("random", "slice", "grid"), slices=2))
    shown = open_shown(preview.mim.spec)
    rows = preview.rows(shown)
    image = np.asarray(Image.open(io.BytesIO(preview.png(shown, rows))).convert("RGB"))
    for number, row in enumerate(rows):
        for cut, (z, y) in enumerate(((2, 16), (5, 31))):
            top = FIRST + number * (30 + 2 * (PANEL + GAP)) + cut * (PANEL + GAP)
            for column, plane, (tall, wide) in (
                (1, row.hidden[z, ::16, ::16], (3, 3)),
                (2, row.hidden[::-1, y][::4, ::16], (2, 3)),
            ):
                left = GAP + column * (PANEL + GAP)
                middles = [
                    [
                        image[top + int((a + 0.5) * PANEL / tall), left + int((b + 0.5) * PANEL / wide)]
                        for b in range(wide)
                    ]
                    for a in range(tall)
                ]
                coloured = (np.array(middles) == np.array(HIDDEN)).all(-1)
                assert np.array_equal(coloured, plane)
                assert not np.array_equal(coloured, ~plane)


def test_error_is_that_of_the_card(model: Path) -> None:
    """Random blocks of the release's own size: mean squared error in variances of the block; another seed differs."""
    preview, other = (Preview(model, PreviewConfig(("random",), seed=seed)) for seed in (4, 5))
    shown = open_shown(preview.mim.spec)
    mim = load_mim(model)
    hidden, filled = (torch.from_numpy(values)[None, None] for values in reconstruct(mim, shown.crop, seed=4))
    truth = torch.from_numpy(shown.crop.voxels)[None, None]
    errors = block_errors(mim.model.grid, truth, filled, filled)[0]
    expected = float(errors[to_blocks(hidden, mim.model.grid.block_zyx)].mean())
    assert preview.rows(shown)[0].error == pytest.approx(expected, rel=1e-5)
    assert other.rows(shown)[0].error != pytest.approx(expected, rel=1e-5)


def test_visible_voxels_are_the_study(model: Path) -> None:
    """What was visible is drawn as it was, in the input and in the reconstruction."""
    preview = Preview(model, PreviewConfig(("blockwise", "frequency")))
    shown = open_shown(preview.mim.spec)
    blocks, bands = preview.rows(shown)
    assert np.array_equal(blocks.filled[~blocks.hidden], shown.crop.voxels[~blocks.hidden])
    assert not np.array_equal(blocks.filled[blocks.hidden], shown.crop.voxels[blocks.hidden])
    assert np.array_equal(blocks.given, shown.crop.voxels)
    spectra = [np.fft.fft2(values) for values in (shown.crop.voxels, bands.given, bands.filled)]
    kept = np.abs(spectra[1]) > 1e-2
    np.testing.assert_allclose(spectra[2][kept], spectra[0][kept], atol=1e-2)
    assert not np.allclose(spectra[2][~kept], spectra[0][~kept], atol=1e-2)


def test_manifest_rows_bring_their_masks(run, model: Path, cohort: Path, tmp_path: Path) -> None:
    """With the row's masks gland and lesion are what they say; a study alone falls back by name, and says why."""
    asked = ["--model", model, "--strategy", "gland", "--strategy", "lesion", "--json", "--out"]
    full = run("mask-preview", "--manifest", cohort, "--row", 2, *asked, tmp_path / "full.png")
    assert full.code == 0, full.err
    assert [row["used"] for row in full.json["rows"]] == ["gland", "lesion"]
    assert full.json["study"] == "row 2"
    image = pixels(tmp_path / "full.png")
    assert share(panel(image, 0, 0), GLAND) > 0
    assert share(panel(image, 1, 0), GLAND) == 0
    with cohort.open(newline="") as stream:
        path = cohort.parent / next(csv.DictReader(stream))["t2w"]
    bare = run("mask-preview", path, *asked, tmp_path / "bare.png")
    assert [row["used"] for row in bare.json["rows"]] == ["random", "random"]
    assert bare.json["study"] == "study"
    preview = Preview(model, PreviewConfig(("gland", "lesion")))
    names = [row.name for row in preview.rows(open_shown(preview.mim.spec, study=path))]
    assert names == ["gland → random (no gland mask)", "lesion → random (no lesion mask)"]


def test_only_masks_that_are_looked_at_are_read(run, model: Path, cohort: Path, tmp_path: Path) -> None:
    """A damaged gland mask stops the gland strategy and no other."""
    with cohort.open(newline="") as stream:
        row = next(csv.DictReader(stream))
    (tmp_path / "bad.nii.gz").write_bytes(b"damaged")
    manifest = tmp_path / "m.csv"
    command = ["mask-preview", "--manifest", manifest, "--model", model, "--out", tmp_path / "p.png", "--strategy"]
    # The mask also says where the centre is, where no lesion does: give the position, then only strategies look at it.
    manifest.write_text(
        "study_id,patient_id,t2w,gland_mask,position_mm_lps\n"
        f"a,b,{cohort.parent / row['t2w']},bad.nii.gz,{row['position_mm_lps']}\n"
    )
    assert run(*command, "random").code == 0
    refused(run(*command, "gland"), 9, "row 1", "gland_mask")


def test_same_seed_same_picture(run, model: Path, tmp_path: Path) -> None:
    """Two runs give the same bytes; another seed does not; an existing picture is replaced."""
    out = tmp_path / "p.png"
    made = []
    for seed in (1, 1, 2):
        assert run("mask-preview", "--model", model, "--strategy", "hard", "--seed", seed, "--out", out).code == 0
        made.append(out.read_bytes())
    assert made[0] == made[1] != made[2]
    assert list(tmp_path.iterdir()) == [out]


def test_mixture_says_what_it_drew(run, model: Path, tmp_path: Path) -> None:
    """A mixture is one row that names the part that was drawn; a strategy given twice has one row."""
    text = "mixture:column=1,slice=0.5"
    command = ["mask-preview", "--model", model, "--strategy", text, "--strategy", "random", "--strategy", "random"]
    made = run(*command, "--out", tmp_path / "p.png", "--json")
    assert [row["strategy"] for row in made.json["rows"]] == [text, "random"]
    assert made.json["rows"][0]["used"] in {"column", "slice"}


def test_too_few_units_are_left_out_of_all(run, model: Path, tmp_path: Path) -> None:
    """Of two slabs no 80 % can be hidden: named alone it is refused, in all it is left out, and the picture says so."""
    command = ["mask-preview", "--model", model, "--ratio", "0.8", "--out", tmp_path / "p.png", "--json"]
    made = run(*command).json
    assert [row["strategy"] for row in made["rows"]] == [name for name in EVERY if name != "slice"]
    assert len(made["left_out"]) == 1
    refused(run(*command, "--strategy", "slice"), 2, "strategy slice", "2 of 2")


def test_no_image_is_said(model: Path) -> None:
    """A picture without reconstruction is drawn all the same."""
    preview = Preview(model, PreviewConfig(("random",)))
    shown = open_shown(preview.mim.spec)
    (row,) = preview.rows(shown)
    row = dataclasses.replace(row, filled=None, error=None)
    image = np.asarray(Image.open(io.BytesIO(preview.png(shown, [row]))).convert("RGB"))
    assert (panel(image, 0, 3) == 255).all(-1).mean() > 0.9
    assert "error" not in row.detail


def test_bad_input(run, model: Path, small_encoder: Path, cohort: Path, tmp_path: Path) -> None:
    """Every mistake is one line with its exit code, and no picture."""
    out = tmp_path / "p.png"

    def preview(*arguments: object):
        return run("mask-preview", "--model", model, "--out", out, *arguments)

    refused(preview("--strategy", "randon"), 3, "did you mean 'random'")
    refused(preview("--strategy", "mixture:random=1,colunm=1"), 3, "did you mean 'column'")
    refused(preview("--strategy", "mixture"), 2, "no parts")
    refused(preview("--strategy", "gland:weight=x"), 2, "weight=x")
    refused(preview("--ratio", "1"), 2, "between 0 and 1")
    refused(preview("--ratio", "0.99"), 2, "hides 18 of 18")
    refused(preview("--ratio", "much"), 2, "'much'")
    refused(preview("--block-mm", "12 8"), 2, "--block-mm")
    refused(preview("--block-mm", "12 -8 8"), 2, "no size")
    refused(preview("--slices", 9), 2, "8 slices")
    refused(preview("--seed", -1), 2, "phantom seed")
    refused(preview(tmp_path / "no.nii.gz"), 3, "no.nii.gz")
    refused(preview("--manifest", tmp_path / "no.csv"), 3, "no such manifest")
    refused(preview("--manifest", cohort, "--row", 900), 2, "--row is 900")
    refused(preview("--row", 1), 2, "give --manifest")
    refused(preview("--spacing", "3 1 1"), 2, "study file")
    refused(preview(tmp_path / "a.nii.gz", "--manifest", cohort), 2, "not both")
    (tmp_path / "bad.nii.gz").write_bytes(b"nothing")
    refused(preview(tmp_path / "bad.nii.gz"), 9, "bad.nii.gz")
    assert not out.exists()
    refused(run("mask-preview", "--model", small_encoder, "--out", out), 2, "no decoder")
    refused(run("mask-preview", "--model", "resenc-s.mim-t2", "--out", out), 3, "did you mean")
    refused(run("mask-preview", "--model", model, "--out", tmp_path / "p.jpg"), 2, "only PNG")
    (tmp_path / "folder.png").mkdir()
    refused(run("mask-preview", "--model", model, "--out", tmp_path / "folder.png"), 2, "is a folder")
    (tmp_path / "file").write_text("")
    refused(run("mask-preview", "--model", model, "--out", tmp_path / "file" / "p.png"), 2, "cannot be written")


def test_no_identifier_is_in_the_picture(run, model: Path, cohort: Path, tmp_path: Path) -> None:
    """The file holds pixels and a palette, no text at all; so no path and no id."""
    run("mask-preview", "--manifest", cohort, "--model", model, "--strategy", "random", "--out", tmp_path / "p.png")
    data = (tmp_path / "p.png").read_bytes()
    place, kinds = 8, []
    while place < len(data):
        kinds.append(data[place + 4 : place + 8].decode())
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    assert set(kinds) == {"IHDR", "PLTE", "IDAT", "IEND"}


def test_crop_of_a_file_is_its_middle(model: Path, cohort: Path) -> None:
    """A study file is cropped as everywhere else."""
    with cohort.open(newline="") as stream:
        path = cohort.parent / next(csv.DictReader(stream))["t2w"]
    spec = load_mim(model).spec
    shown = open_shown(spec, study=path)
    assert np.array_equal(shown.crop.voxels, prepare_crop(read_volume(path), spec).voxels)
