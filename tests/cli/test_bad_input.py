"""Bad input: one clear line on stderr, the exit code of the design, no traceback, nothing half-written."""

from __future__ import annotations

import csv
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from outcomes import refused

from prostate_mim.console import to_go_on

HEADER = ["study_id", "patient_id", "t2w", "lesion_id", "label", "position_mm_lps"]


@pytest.fixture
def table(cohort: Path, tmp_path: Path):
    """Write a manifest with edited rows of the cohort's; gives its path."""
    with cohort.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        row["t2w"] = str(cohort.parent / row["t2w"])

    def write(edit=None, header=HEADER) -> Path:
        if edit:
            edit(rows)
        path = tmp_path / "m.csv"
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, header, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


def finetune(run, manifest: Path, model: Path, out: Path):
    return run("finetune", "--manifest", manifest, "--model", model, "--out", out, "--folds", 2, "--device", "cpu")


EDITS = {
    "label not 0/1": (lambda rows: rows[1].update(label="2"), 9, ("row 2", "label is '2'", "0 or 1")),
    "duplicate study": (lambda rows: rows.append(dict(rows[0])), 9, ("same study_id", "row 1")),
    "unreadable path": (lambda rows: rows[0].update(t2w="gone.nii.gz"), 3, ("row 1", "t2w", "does not exist")),
    "lesion outside": (lambda rows: rows[0].update(position_mm_lps="900 0 0"), 9, ("row 1", "outside the volume")),
    "no place": (lambda rows: rows[0].update(position_mm_lps=""), 9, ("row 1", "no place")),
}


@pytest.mark.parametrize("name", EDITS)
def test_manifest_is_refused(run, table, small_encoder: Path, tmp_path: Path, name: str) -> None:
    """A wrong row is named by its number, before anything is trained; no release appears."""
    edit, code, texts = EDITS[name]
    refused(finetune(run, table(edit), small_encoder, tmp_path / "run"), code, *texts)
    assert not (tmp_path / "run" / "release").exists()


def test_missing_column(run, table, small_encoder: Path, tmp_path: Path) -> None:
    """A missing column is named, with the columns that were found."""
    manifest = table(header=[name for name in HEADER if name != "patient_id"])
    refused(finetune(run, manifest, small_encoder, tmp_path / "run"), 9, "column 'patient_id' is missing", "study_id")


def test_unknown_model_suggests_the_nearest(run, table, tmp_path: Path) -> None:
    """A misspelt model name is answered with the nearest one."""
    refused(finetune(run, table(), Path("resenc-s.mim-t2"), tmp_path / "run"), 3, "did you mean 'resenc-s.mim-t2w'")


def test_encoder_where_a_classifier_is_needed(run, small_encoder: Path, cohort: Path) -> None:
    """Predicting with an encoder says to fine-tune it first, and by which command."""
    command = f"finetune it first: prostate-mim finetune --model {small_encoder} --manifest "
    refused(run("predict", "--manifest", cohort, "--model", small_encoder), 2, command)


def test_missing_files(run, small_encoder: Path, tmp_path: Path) -> None:
    """A manifest, a study or a verify target that is not there is exit code 3."""
    refused(finetune(run, tmp_path / "no.csv", small_encoder, tmp_path / "run"), 3, "no such manifest")
    refused(run("predict", tmp_path / "no.nii.gz", "--model", small_encoder), 3, "no.nii.gz")
    refused(run("verify", tmp_path / "no.onnx"), 3, "no.onnx")


def test_damaged_release(run, small_encoder: Path, tmp_path: Path) -> None:
    """One flipped bit in the weights is exit code 5 and names the file."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in small_encoder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    refused(run("info", folder), 5, "model.safetensors", "sha256")


def test_unwritable_folder(run, table, small_encoder: Path, tmp_path: Path) -> None:
    """An output folder that cannot be made is refused before any work, exit code 2."""
    (tmp_path / "file").write_text("")
    refused(finetune(run, table(), small_encoder, tmp_path / "file" / "run"), 2, "cannot be written")


def test_wrong_options(run, small_encoder: Path, cohort: Path, tmp_path: Path) -> None:
    """Malformed numbers, impossible blocks and unknown modes are usage errors that name both sides."""
    studies = cohort.parent / "studies.csv"
    base = ("pretrain", "--manifest", studies, "--out", tmp_path / "run", "--device", "cpu")
    refused(run(*base, "--block-mm", "12 8"), 2, "--block-mm", "three numbers")
    refused(run(*base, "--block-mm", "12 0 8"), 2, "block of 0.0 mm along y", "multiple of 8 mm")
    refused(run(*base, "--block-mm", "12 -8 8"), 2, "block of -8.0 mm along y")
    refused(run(*base, "--block-mm", "12 nan 8"), 2, "block of nan mm along y")
    refused(run(*base, "--block-mm", "12 30 8"), 2, "crop of 96 voxels along y", "block of 64 voxels", "16, 32, 48, 96")
    refused(run(*base, "--size", "16 96 90"), 2, "crop of 90 voxels along x", "stride 16")
    refused(run(*base, "--mask-ratio", "1"), 2, "mask ratio")
    refused(run(*base, "--mask-ratio", "0.9..0.5"), 2, "mask ratio", "smaller number first")
    refused(run(*base, "--mask-ratio", "most"), 2, "mask ratio 'most' is not understood")
    refused(run(*base, "--method", "fcmea"), 3, "did you mean 'fcmae'")
    refused(run(*base, "--strategy", "colum"), 3, "did you mean 'column'")
    refused(run(*base, "--target", "hogs"), 3, "did you mean 'hog'")
    refused(run(*base, "--decoder", "u-net"), 3, "did you mean 'unet'")
    refused(run(*base, "--loss", "l3"), 3, "did you mean 'l")
    refused(run(*base, "--method", "spark", "--target", "hog"), 2, "decoder 'unet'", "target 'hog'")
    refused(run(*base, "--target", "hog", "--loss", "ssim"), 2, "loss 'ssim'", "target 'hog'")
    refused(run(*base, "--target", "hog", "--strategy", "frequency"), 2, "strategy 'frequency'", "target 'hog'")
    refused(run(*base, "--device", "tpu"), 2, "device 'tpu'")
    refused(run(*base, "--precision", "fp8"), 2, "fp8")
    refused(run(*base, "--architecture", "resenc-z"), 3, "resenc-s")
    refused(run("export", small_encoder), 2, "--onnx")
    refused(run("embed", "--manifest", studies, "--out", tmp_path / "E.npz", "--model", "nobody"), 3, "nobody")
    assert not (tmp_path / "E.npz").exists()


def test_too_few_patients(run, table, small_encoder: Path, tmp_path: Path) -> None:
    """More folds than patients of the rarer label: the message gives a number that works."""

    def one_positive(rows) -> None:
        for row in rows:
            row["label"] = "0"
        rows[0]["label"] = "1"

    refused(finetune(run, table(one_positive), small_encoder, tmp_path / "run"), 2, "only 1 patients", "label 1")


def test_full_disk_leaves_nothing_behind(cohort: Path, tmp_path: Path) -> None:
    """With no space for weights or checkpoints, pretraining ends with code 7 and no half-written file."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    command = [
        sys.executable, "-m", "prostate_mim", "pretrain", "--manifest", str(cohort.parent / "studies.csv"), "--out",
        str(tmp_path / "run"), "--steps", "2", "--batch", "1", "--size", "8 32 32", "--mask-ratio", "0.5",
        "--device", "cpu", "--health-every", "0", "--set", "region_zyx=[8, 48, 48]",
    ]  # fmt: skip
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert "no space left" in done.stderr.splitlines()[-1]
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert left == ["config.toml", "metrics.jsonl", "report.html", "run.json", "tensorboard"]


def test_what_to_type_after_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quoted for the shell, --resume once, the program as it was called; nothing for what is simply repeated."""
    program = "/usr/bin/prostate-mim"
    asked = [program, "pretrain", "--out", "a b", "--size", "8 32 32"]
    expected = "; go on with: prostate-mim pretrain --out 'a b' --size '8 32 32' --resume"
    assert to_go_on(asked) == to_go_on([*asked, "--resume"]) == expected
    assert to_go_on([program, "study", "--out", "s"]) == "; go on with: prostate-mim study --out s"
    assert to_go_on(["/x/prostate_mim/__main__.py", "finetune"]).endswith(": python -m prostate_mim finetune --resume")
    assert to_go_on([program, "bench"]) == to_go_on([program]) == ""
    monkeypatch.setenv("WORLD_SIZE", "2")  # what the launcher was told is not known here
    assert to_go_on(asked) == "; go on with the same command and --resume"


def test_interrupt_says_how_to_go_on(run, cohort: Path, tmp_path: Path) -> None:
    """Ctrl-C during training is one line and exit code 130, and --resume goes on, with what it may change."""
    arguments = [
        "pretrain", "--manifest", str(cohort.parent / "studies.csv"), "--out", str(tmp_path / "run"), "--steps", "400",
        "--batch", "1", "--size", "8 32 32", "--mask-ratio", "0.5", "--device", "cpu", "--checkpoint-every", "1",
        "--health-every", "0", "--set", "region_zyx=[8, 48, 48]",
    ]  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "prostate_mim", *arguments], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list((tmp_path / "run").glob("checkpoint-*")):
        time.sleep(0.02)  # leave the processor to the training
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.count("--resume") == 1
    words = shlex.split(err.splitlines()[-1].partition("go on with: ")[2])
    assert words == ["python", "-m", "prostate_mim", *arguments, "--resume"]
    assert "Traceback" not in err
    assert not list((tmp_path / "run").glob(".*tmp*"))
    last = max(int(path.name.split("-")[1].split(".")[0]) for path in (tmp_path / "run").glob("checkpoint-*"))
    again = (*words[3:], "--steps", last + 1)
    refused(run(*again), 2, "(loop.steps 400 -> ", "with --allow-change loop.steps, or")  # its warm-up goes with it
    assert run(*again, "--allow-change", "loop.steps").code == 0
    assert (tmp_path / "run" / "release").exists()
