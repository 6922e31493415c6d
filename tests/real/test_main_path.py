"""The main path on real prostate MRI: pretrain -> fine-tune -> predict (NIfTI and DICOM) -> ONNX, a few steps each."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from make_manifests import write_all

from prostate_mim import LesionClassifier, OnnxClassifier, PreMIM, finetune, pretrain, read_volume
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.errors import ManifestError
from prostate_mim.finetuning import FinetuneConfig
from prostate_mim.pretraining import PretrainConfig
from prostate_mim.spec import InputSpec

SPEC = InputSpec(size_zyx=(8, 64, 64))


@pytest.fixture(scope="module")
def manifests(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    write_all(real_data, folder, heldout=True)
    return folder


@pytest.fixture(scope="module")
def classifier(manifests: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pretrained on PROMISE12, PROSTATEx and Prostate158, fine-tuned on the 15 PROSTATEx findings."""
    work = tmp_path_factory.mktemp("runs")
    loop = LoopConfig(steps=4, batch=4, warmup=2, device="cpu")
    release = pretrain(manifests / "pretrain.csv", work / "mim", PretrainConfig(spec=SPEC, loop=loop))
    model = LesionClassifier(PreMIM.from_pretrained(release))
    # A small learning rate: saturated probabilities would agree whatever the input.
    lesions = LoopConfig(batch=4, learning_rate=1e-5, warmup=1, device="cpu")
    config = FinetuneConfig(mode="full", folds=3, epochs=1, loop=lesions)
    # The path is tested, not the figure: the findings lie in volumes that were just pretrained on.
    with pytest.raises(ManifestError, match="the model was trained on this study"):
        finetune(model, manifests / "findings.csv", work / "refused", config)
    run = finetune(model, manifests / "findings.csv", work / "lesions", config, allow_overlap=True)
    assert len(run.allowed_overlap) == 8  # one a study: 8 of the 10 patients were pretrained on
    assert run.pooled.lesions == 15
    assert run.pooled.positives == 4
    assert all(fold.value is not None for fold in run.folds)
    return run.release


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as stream:
        return {f"{row['patient_id']} {row['lesion_id']}": row for row in csv.DictReader(stream)}


def test_nifti_dicom_and_onnx_agree(manifests: Path, classifier: Path, tmp_path: Path) -> None:
    """The same finding from .nii.gz and from its DICOM folder: within 1e-4; from the exported file: within 1e-5."""
    model = LesionClassifier.from_pretrained(classifier)
    deployed = OnnxClassifier(model.export_onnx(tmp_path / "a.onnx"), device="cpu")
    nifti, dicom = rows(manifests / "findings.csv"), rows(manifests / "findings_dicom.csv")
    assert len(dicom) == 2
    found = []
    for key, row in dicom.items():
        x, y, z = (float(v) for v in row["position_mm_lps"].split())
        first = read_volume(manifests / nifti[key]["t2w"])
        second = read_volume(manifests / row["t2w"])
        probability = model.predict(first, (x, y, z)).probability
        assert model.predict(second, (x, y, z)).probability == pytest.approx(probability, abs=1e-4)
        assert deployed.predict(first, (x, y, z)).probability == pytest.approx(probability, abs=1e-5)
        assert 0.01 < probability < 0.99
        found.append(probability)
    elsewhere = model.predict(first, (x + 15, y, z)).probability  # negative control: the place matters
    assert abs(elsewhere - found[-1]) > 1e-4


def test_release_keeps_no_patient(classifier: Path) -> None:
    """The released configuration says what was done, and names no patient."""
    text = (classifier / "config.json").read_text() + (classifier / "README.md").read_text()
    assert json.loads((classifier / "config.json").read_text())["details"]["finetuning"]["mode"] == "full"
    assert "prostatex-0" not in text.lower()
    assert "promise12-" not in text
