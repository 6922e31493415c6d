"""The whole main path through the command line, on phantoms: every step real, a few steps of training each."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from prostate_mim import OnnxClassifier, OnnxEncoder, PreMIM, read_volume
from prostate_mim.deploy.prediction import Prediction


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def first_lesion(cohort: Path) -> tuple[Path, str]:
    with cohort.open(newline="") as stream:
        row = next(csv.DictReader(stream))
    return cohort.parent / row["t2w"], row["position_mm_lps"]


def test_1_pretrain(run, cohort: Path, work: Path) -> None:
    """Pretraining writes a release whose name and crop are what was asked for."""
    made = run(
        "pretrain", "--manifest", cohort.parent / "studies.csv", "--out", work / "mim", "--steps", 3, "--batch", 2,
        "--size", "8 32 32", "--mask-ratio", 0.5, "--name", "resenc-s.tiny", "--device", "cpu", "--json",
    )  # fmt: skip
    assert made.code == 0, made.err
    assert made.json["release"] == str(work / "mim" / "release") and set(made.json) == {"release", "hidden_tissue"}
    verdict = made.json["hidden_tissue"]
    assert (verdict["step"], verdict["restored"]) == (3, False) and "not yet below" in verdict["text"]
    assert f"hidden tissue: {verdict['text']}\n" in run("report", work / "mim").out
    shown = run("info", work / "mim", "--json").json
    assert shown["name"] == "resenc-s.tiny"
    assert shown["spec"]["size_zyx"] == [8, 32, 32]


@pytest.mark.parametrize("mode", ["linear", "full"])
def test_2_finetune(run, cohort: Path, work: Path, mode: str) -> None:
    """Fine-tuning reports one AUROC per patient-grouped fold with its interval, and releases a classifier."""
    # Pretrained on these very phantoms to save time: refused, unless it is allowed and written down.
    words = (
        "finetune", "--model", work / "mim", "--manifest", cohort, "--out", work / mode, "--mode", mode, "--folds", 2,
        "--epochs", 1, "--device", "cpu", "--json",
    )  # fmt: skip
    refused = run(*words)
    assert (refused.code, refused.out) == (9, "")
    assert "the model was trained on this study" in refused.err
    made = run(*words, "--allow-overlap")
    assert made.code == 0, made.err
    results = made.json
    assert all("the model was trained on this study" in message for message in results["allowed_overlap"])
    assert len(results["allowed_overlap"]) == len({row["study_id"] for row in csv.DictReader(cohort.open(newline=""))})
    released = json.loads((work / mode / "release" / "config.json").read_text())["details"]["finetuning"]
    record = json.loads((work / mode / "run.json").read_text())
    assert released["allowed_overlap"] == record["allowed_overlap"] == results["allowed_overlap"]
    assert record["finished"] and record["task"] == "finetune"
    assert len(results["auroc_folds"]) == 2
    for fold in [*results["auroc_folds"], results["auroc_pooled"]]:
        assert 0 <= fold["low"] <= fold["value"] <= fold["high"] <= 1
    with (work / mode / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    patients = [row["patient_id"] for row in csv.DictReader(cohort.open(newline=""))]
    fold_of = {patient: row["fold"] for patient, row in zip(patients, rows, strict=True)}
    assert all(fold_of[patient] == row["fold"] for patient, row in zip(patients, rows, strict=True))
    assert not list((work / mode).glob("*/checkpoint-*"))


def test_3_predict_and_embed(run, cohort: Path, work: Path) -> None:
    """One study and a manifest give the same probability; embeddings are one float32 row per manifest row."""
    path, position = first_lesion(cohort)
    one = run("predict", path, "--position", position, "--model", work / "full", "--json").json
    table = run("predict", "--manifest", cohort, "--model", work / "full", "--json").json
    of_kit = {field.name for field in dataclasses.fields(Prediction)}  # what run_study.py and the service say
    assert {"study_id", "lesion_id"} | of_kit == set(one) == set(table[0])
    assert (one["study_id"], one["lesion_id"], one["reason"]) == (None, None, "the model lies there")
    assert one["position_mm_lps"] == table[0]["position_mm_lps"] == [float(v) for v in position.split()]
    assert one["probability"] == pytest.approx(table[0]["probability"], abs=1e-6)
    with cohort.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["study_id"] for row in table] == [row["study_id"] for row in rows]
    done = run("embed", "--model", work / "mim", "--manifest", cohort, "--out", work / "E.npz", "--json")
    assert done.code == 0, done.err
    with np.load(work / "E.npz", allow_pickle=False) as arrays:
        assert arrays["embedding"].shape == (len(rows), done.json["size"])
        assert arrays["embedding"].dtype == np.float32
        assert list(arrays["lesion_id"]) == [row["lesion_id"] for row in rows]
        x, y, z = (float(v) for v in position.split())
        expected = PreMIM.from_pretrained(work / "mim").embed(read_volume(path), (x, y, z))
        np.testing.assert_allclose(arrays["embedding"][0], expected, atol=1e-5)
        alone = run("embed", path, "--position", position, "--model", work / "mim", "--out", work / "one.npz", "--json")
        assert (alone.code, alone.json["rows"], alone.err) == (0, 1, "")
        with np.load(work / "one.npz", allow_pickle=False) as one_row:
            assert (one_row["study_id"].tolist(), one_row["lesion_id"].tolist()) == ([""], [""])
            np.testing.assert_array_equal(one_row["embedding"][0], arrays["embedding"][0])
    middle = run("embed", path, "--model", work / "mim", "--out", work / "one.npz")
    assert middle.err == "warning: no position: centre of the image\n"


def test_4_export_equals_torch(run, cohort: Path, work: Path) -> None:
    """The ONNX file, run from the same file on disk, gives the same probability within 1e-5; so does verify."""
    path, position = first_lesion(cohort)
    x, y, z = (float(v) for v in position.split())
    expected = run("predict", path, "--position", position, "--model", work / "full", "--json").json["probability"]
    assert run("export", work / "full", "--onnx", "--out", work / "a.onnx").code == 0
    deployed = OnnxClassifier(work / "a.onnx", device="cpu")
    assert deployed.predict(read_volume(path), (x, y, z)).probability == pytest.approx(expected, abs=1e-5)
    assert run("verify", work / "a.onnx", "--json").json["kind"] == "classifier"
    assert run("verify", work / "full", "--json").json["golden_difference"] < 1e-5


def test_5_export_encoder(run, cohort: Path, work: Path) -> None:
    """The exported encoder embeds as the library does."""
    path, _ = first_lesion(cohort)
    assert run("export", work / "mim", "--onnx", "--out", work / "e.onnx").code == 0
    volume = read_volume(path)
    expected = PreMIM.from_pretrained(work / "mim").embed(volume)
    np.testing.assert_allclose(OnnxEncoder(work / "e.onnx", device="cpu").embed(volume), expected, atol=1e-4)


def test_6_no_identifier_leaves_the_manifest(cohort: Path, work: Path) -> None:
    """No study id, patient id or path of the manifest is in any file that training, embedding aside, wrote."""
    with cohort.open(newline="") as stream:
        planted = {row[name] for row in csv.DictReader(stream) for name in ("study_id", "patient_id", "t2w")}
    secrets = [text.encode() for text in planted] + [str(cohort.parent).encode()]
    written = [p for p in work.rglob("*") if p.is_file() and p.suffix != ".npz"]
    assert len(written) > 15
    assert [p.name for p in written if any(secret in p.read_bytes() for secret in secrets)] == []
    found = (work / "E.npz").read_bytes()  # negative control: the search does find an id where one belongs
    assert any(text.encode("utf-32-le") in found for text in planted)


def test_importing_and_help_need_no_torch() -> None:
    """``import prostate_mim`` and ``--help`` leave torch, monai and SimpleITK unloaded."""
    code = (
        "import sys, prostate_mim\n"
        "from prostate_mim import cli\n"
        "sys.argv = ['prostate-mim', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'monai', 'SimpleITK', 'nibabel', 'onnxruntime', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pretrain" in done.stdout


def test_phantom_command(run, tmp_path: Path) -> None:
    """The phantom command prints where both manifests are, as JSON on stdout alone."""
    made = run("phantom", "--out", tmp_path / "p", "--studies", 1, "--seed", 7, "--json")
    assert made.code == 0
    assert Path(made.json["manifest"]).exists()
    assert Path(made.json["studies_manifest"]) == tmp_path / "p" / "studies.csv"
    assert Path(made.json["studies_manifest"]).exists()
    assert json.loads(made.out)["studies"] == 1
