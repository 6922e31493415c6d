"""docs/recipes/hospital.md, run on phantoms as DICOM series, without a network: to a service that answers."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from blocks import BlockError, Line, check_line
from dicom_series import write_dicom_series
from recipe_pages import RECIPES, ROOT, Ran, RecipePage, command, environment, shell, smaller, working_in
from small_volumes import SAGITTAL, t2w_volume

from prostate_mim import LesionClassifier
from prostate_mim.phantom import PhantomStudy, make_study
from prostate_mim.volume import Volume

for module in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
    pytest.importorskip(module, reason="needs export/requirements-service.txt")
pytest.importorskip("pydicom", reason="needs the extra 'datasets'")
if shutil.which("curl") is None:
    pytest.skip("curl is not here", allow_module_level=True)

FIRST = (10.2, -31.5, 40.0)
"""Where the page's first lesion lies; phantoms are moved there."""
EXAMS = {"P001": "20240105", "P002": "20240219"}
PATIENTS = 6
WHEELS = os.environ.get("PROSTATE_MIM_KIT_WHEELS")
SMALLER_CONFIG = {"folds = 5": "folds = 2"}
WAIT_S = 120


@dataclass
class Service:
    """The line that serves, as the page has it; by environment variables on a free port, and with one worker."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    port: int = 0

    def start(self, text: str) -> Ran:
        """Run the line until it listens."""
        log = self.folder / "service.log"
        (self.folder / "tmp").mkdir()
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                ["bash", "-c", f"exec {text}"], stderr=stream,
                env=environment(PROSTATE_MIM_PORT="0", PROSTATE_MIM_CONCURRENCY="1", TMPDIR=str(self.folder / "tmp")),
            )  # fmt: skip
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            for line in log.read_text().splitlines():
                if '"listening"' in line and line.endswith("}"):
                    self.port = int(json.loads(line)["url"].rpartition(":")[2])
                    return Ran(text, 0, "", line)
            time.sleep(0.05)
        return Ran(text, 1, "", log.read_text())

    def ask(self, text: str) -> Ran:
        """The line of curl, with the port that was free."""
        return shell(text.replace("127.0.0.1:8080", f"127.0.0.1:{self.port}"))

    def stop(self) -> None:
        """As Ctrl-C would."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            finally:
                self.process.kill()


def moved(study: PhantomStudy, place: tuple[float, float, float]) -> tuple[Volume, list[tuple[int, str]]]:
    """A phantom as 12-bit DICOM has it, its first lesion at ``place``; (label, position) of every lesion."""
    shift = np.subtract(place, study.lesions[0].position_mm_lps)
    geometry = study.volume.geometry
    origin = tuple(float(v) for v in np.add(geometry.origin_mm_lps, shift))
    volume = Volume(np.clip(study.volume.voxels, 0, 4095), replace(geometry, origin_mm_lps=origin))
    places = [np.add(one.position_mm_lps, shift) for one in study.lesions]
    return volume, [
        (one.label, " ".join(f"{v:.3f}" for v in at)) for one, at in zip(study.lesions, places, strict=True)
    ]


def write_hospital(folder: Path) -> None:
    """``dicom/`` and ``lesions.csv`` as the page shows them, and what is wrong in many a hospital's folder."""
    rows: list[tuple[str, ...]] = []
    for number in range(1, PATIENTS + 1):
        patient = f"P{number:03d}"
        volume, lesions = moved(make_study(11, number), FIRST)
        series = f"{patient}/{EXAMS.get(patient, '20240301')}/t2_tse_tra"
        write_dicom_series(folder / "dicom" / series, volume, patient_id=patient, study=patient)
        for place, (label, position) in enumerate(lesions, 1):
            rows.append((series, patient, f"E{number:03d}", str(place), "yes" if label else "no", position))
    write_dicom_series(folder / "dicom/P099/20240401/t2_tse_sag", t2w_volume(1, direction=SAGITTAL), study="sag")
    rows.append(("P099/20240401/t2_tse_sag", "P099", "E099", "1", "0", "0 0 0"))
    write_table(folder / "lesions.csv", rows)


def write_table(path: Path, rows: list[tuple[str, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("file", "patient_id", "study_id", "lesion_id", "label", "position_mm_lps"))
        writer.writerows(rows)


Made = tuple[RecipePage, dict[str, Ran], Service]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """The page, run; what became of its lines, by their first words; the service, still running."""
    folder = tmp_path_factory.mktemp("hospital")
    write_hospital(folder)
    (folder / "docs" / "recipes").mkdir(parents=True)
    smaller(RECIPES / "hospital.toml", folder / "docs" / "recipes" / "hospital.toml", SMALLER_CONFIG)
    shutil.copytree(ROOT / "export", folder / "export", ignore=shutil.ignore_patterns("__pycache__"))

    def carried(text: str) -> Ran:
        """The line that copies; then the checkout is out of reach, as on the machine without internet."""
        ran = shell(text)
        shutil.rmtree(folder / "export")
        shutil.rmtree(folder / "docs")
        return ran

    service = Service(folder)
    page = RecipePage(
        "hospital", folder,
        left_out={"pip download": "asks an index for packages", "pip install": "needs what that downloads"},
        own={"cp -r export": carried, "python carry/export/service.py": service.start, "curl ": service.ask},
    )  # fmt: skip
    try:
        yield page, {" ".join(one.text.split()[:3]): one for one in page.run()}, service
    finally:
        service.stop()


def test_what_was_carried_is_what_is_used(made: Made) -> None:
    """The model lies in the folder, verified, and the classifier says that it is made of it."""
    page, _, _ = made
    release = page.folder / "carry/models/prostate-mim/resenc-s.mim-t2w"
    assert (release / "SHA256SUMS").is_file()
    assert page.names["encoder"].load_report.source == "folder"
    config = json.loads((page.folder / "runs/hospital/release/config.json").read_text())
    assert config["name"] == "hospital.lesions"


def test_what_pip_is_asked_for_is_there(made: Made) -> None:
    """Extras and requirement files of every line exist; what is installed was downloaded, and no word more."""
    page, _, _ = made
    torch, fetched, installed = [text for _, text in page.steps() if text.startswith("pip ")]
    for text in (torch, fetched, installed):
        check_line(Line("docs/recipes/hospital.md:1", text))
    with pytest.raises(BlockError, match="there is no data"):
        check_line(Line("docs/recipes/hospital.md:1", installed.replace("datasets", "data")))
    with pytest.raises(BlockError, match="no such file"):
        check_line(Line("docs/recipes/hospital.md:1", installed.replace("-service", "-serving")))
    assert "'prostate-mim[datasets]' -r export/requirements-service.txt -d carry/wheels" in fetched
    assert "--find-links carry/wheels 'prostate-mim[datasets]' -r carry/export/requirements-service.txt" in installed


@pytest.mark.skipif(WHEELS is None, reason="needs PROSTATE_MIM_KIT_WHEELS, a folder of downloaded wheels")
def test_the_service_brings_no_second_onnx_runtime(made: Made) -> None:
    """By pip, without an index: what the service needs, in a new environment. The control brings the other one."""
    page, _, _ = made
    kit = page.folder / "carry" / "export"

    def brought(*files: str) -> set[str]:
        options = ["--no-index", "--find-links", str(WHEELS), "--dry-run", "--ignore-installed", "--quiet"]
        asked = [word for name in files for word in ("-r", str(kit / name))]
        command = [sys.executable, "-m", "pip", "install", *options, "--report", "-", *asked]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return {item["metadata"]["name"] for item in json.loads(done.stdout)["install"]}

    service = brought("requirements-service.txt")
    assert {"fastapi", "uvicorn", "python-multipart", "prometheus_client"} <= service
    assert not any(name.startswith("onnxruntime") for name in service)
    assert "onnxruntime" in brought("requirements-service.txt", "requirements-cpu.txt")


def test_import_and_check_say_what_is_wrong(made: Made) -> None:
    """The sagittal series is left out with its reason; what is left is flagged nowhere."""
    page, ran, _ = made
    with (page.folder / "hospital-skipped.csv").open(newline="") as stream:
        assert [row["reason"] for row in csv.DictReader(stream)] == ["image not readable as an axial volume"]
    assert f"{PATIENTS} studies of {PATIENTS} patients" in ran["prostate-mim data import"].out
    assert "nothing flagged" in ran["prostate-mim data check"].out


def test_the_check_finds_what_it_is_for(made: Made, tmp_path: Path) -> None:
    """A series under two patients' ids, and one of another kind: exit code 9, both rows in flagged.csv, no name."""
    page, _, _ = made
    dicom = page.folder / "dicom"
    shutil.copytree(dicom / "P001/20240105", tmp_path / "dicom/P001/20240105")
    volume, lesions = moved(make_study(11, 1), FIRST)
    for name, voxels in (("P777", volume.voxels), ("P888", np.clip(4095 - volume.voxels.astype(int), 0, 4095))):
        write_dicom_series(tmp_path / "dicom" / name / "s", Volume(voxels, volume.geometry), study=name)
    position = lesions[0][1]
    rows = [("P001/20240105/t2_tse_tra", "P001", "E1", "1", "1", position)]
    rows += [(f"{name}/s", name, name, "1", "0", position) for name in ("P777", "P888")]
    write_table(tmp_path / "lesions.csv", rows)
    lines = [text for _, text in page.steps() if text.startswith("prostate-mim data")]
    with working_in(tmp_path):
        imported, checked = (command(line.replace("carry", str(page.folder / "carry"))) for line in lines)
    assert (imported.code, checked.code) == (0, 9), imported.err
    with (tmp_path / "flagged.csv").open(newline="") as stream:
        found = list(csv.DictReader(stream))
    assert [(row["row"], row["value"]) for row in found if row["check"] == "overlap"] == [("1 2", "same voxels")]
    assert {row["row"] for row in found if row["check"] != "overlap"} == {"3"}
    assert {"darkest intensity", "outlier score"} <= {row["check"] for row in found}
    assert "P001" not in (tmp_path / "flagged.csv").read_text() + checked.err + checked.out


def test_figures_have_intervals_and_a_temperature(made: Made) -> None:
    """Four calibration figures as printed are those of results.json; the head was given a temperature."""
    page, ran, _ = made
    results = json.loads((page.folder / "runs/hospital/results.json").read_text())
    overall = results["evaluation"]["lesion"]["overall"]
    (printed,) = [one.out for text, one in ran.items() if text.startswith("from prostate_mim import")]
    for name in ("brier", "ece", "calibration_slope", "calibration_intercept"):
        assert f"{name}: {overall[name]['value']:.3f}" in printed
    temperatures = results["temperatures"]
    assert len(temperatures["folds"]) == len(results["auroc_folds"]) == 2
    assert f"fold and the release: {(*temperatures['folds'], temperatures['release'])}" in printed
    assert temperatures["release"] != 1
    assert temperatures["release"] == float(LesionClassifier.from_pretrained(page.folder / "runs/hospital").temperature)


def test_the_service_gives_what_predict_gives(made: Made) -> None:
    """One lesion of a DICOM series, by curl and by the library; no flags."""
    _, ran, _ = made
    (served,) = [json.loads(one.out) for text, one in ran.items() if text.startswith("curl")]
    predicted = json.loads(ran["prostate-mim predict dicom/P001/20240105/t2_tse_tra"].out)
    (answer,) = served["predictions"]
    assert answer["probability"] == pytest.approx(predicted["probability"], abs=1e-5)
    assert 0 < answer["probability"] < 1
    assert answer["position_mm_lps"] == list(FIRST)
    assert answer["flags"] == predicted["flags"] == []
    assert (answer["model"], answer["revision"]) == (predicted["model"], predicted["revision"])
    assert "differs from torch by" in ran["prostate-mim verify hospital.onnx"].out
