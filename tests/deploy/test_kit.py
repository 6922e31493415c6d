"""The deployment kit, run as a hospital would run it: a Python without torch, one command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest

from prostate_mim.classifier import LesionClassifier
from prostate_mim.deploy.available import CPU, why_no_cuda
from prostate_mim.deploy.session import OnnxClassifier
from prostate_mim.modality import check_volume
from prostate_mim.volume import Volume, read_volume, write_volume

ROOT = Path(__file__).resolve().parents[2]
KIT = ROOT / "export"
NO_CUDA = why_no_cuda(onnxruntime)
# Hides torch and monai, so that an import of either fails as it would on a machine without them.
_RUN = (
    "import os, runpy, sys; sys.modules.update(torch=None, monai=None); sys.argv = sys.argv[1:]; "
    "sys.path.insert(0, os.path.dirname(sys.argv[0])); runpy.run_path(sys.argv[0], run_name='__main__')"
)


def run(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _RUN, str(KIT / script), *map(str, arguments)]
    path = os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])  # the latter cuts its network off
    own = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=own)


@pytest.fixture(scope="module")
def study(make_volume: Callable[..., Volume], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "study.nii.gz"
    write_volume(make_volume(), path)
    return path


def test_prediction(study: Path, classifier: LesionClassifier, classifier_file: Path) -> None:
    ran = run("run_study.py", "--model", classifier_file, study, "--position", "-2.5 4.0 45.0", "--device", "cpu")
    assert (ran.returncode, ran.stderr) == (0, "")
    found = json.loads(ran.stdout)
    expected = classifier.predict(read_volume(study), (-2.5, 4.0, 45.0))
    assert found.pop("probability") == pytest.approx(expected.probability, abs=1e-5)
    assert found == {
        "model": expected.model,
        "revision": expected.revision,
        "spec": classifier.spec.fingerprint,
        "device": CPU,
        "flags": [finding.message for finding in check_volume(read_volume(study))],
        "reason": "asked for",
        "position_mm_lps": [-2.5, 4.0, 45.0],
    }
    assert any("field of view" in flag for flag in found["flags"])


def test_several_positions(study: Path, classifier_file: Path) -> None:
    """A line each, in order, with the number of each alone; without any, the image centre is said."""
    options = ("--model", classifier_file, study, "--device", "cpu")
    places = ("-2.5 4.0 45.0", "1,2,44")
    both = [json.loads(line) for line in _lines(*options, "--position", places[0], "--position", places[1])]
    assert [row["position_mm_lps"] for row in both] == [[-2.5, 4.0, 45.0], [1.0, 2.0, 44.0]]
    assert both[0]["probability"] != both[1]["probability"]
    model = OnnxClassifier(classifier_file, "cpu")
    for row in both:
        alone = model.predict(read_volume(study), tuple(row["position_mm_lps"]))
        assert row["probability"] == pytest.approx(alone.probability, abs=1e-6)
    (middle,) = _lines(*options)
    centre = [float(value) for value in read_volume(study).centre_mm_lps]
    assert json.loads(middle)["position_mm_lps"] == pytest.approx(centre, abs=1e-3)


def test_nothing_is_written(study: Path, classifier_file: Path, tmp_path: Path) -> None:
    """Neither into the home folder nor beside temporary files: ONNX Runtime's telemetry would, from 1.31 on."""
    places = {name: str(tmp_path) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    ran = run("run_study.py", "--model", classifier_file, study, "--device", "cpu", **places)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert not list(tmp_path.rglob("*"))


def _lines(*arguments: object) -> list[str]:
    ran = run("run_study.py", *arguments)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.splitlines()


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (2, ["--model", "{model}", "{study}", "--position", "1 2"]),
        (2, ["--model", "{model}", "{study}", "--position", "nan 0 0"]),
        (2, ["{study}"]),
        (2, ["--model", "{model}", "{study}", "--device", "tpu"]),
        (3, ["--model", "missing.onnx", "{study}"]),
        (3, ["--model", "{model}", "missing.nii.gz"]),
        (5, ["--model", "{study}", "{study}"]),
        (9, ["--model", "{model}", "{study}", "--position", "900 0 0", "--device", "cpu"]),
    ],
)
def test_errors_are_one_line(code: int, arguments: list[str], study: Path, classifier_file: Path) -> None:
    ran = run("run_study.py", *(item.format(model=classifier_file, study=study) for item in arguments))
    assert ran.returncode == code
    assert ran.stdout == ""
    assert re.fullmatch(r"error: [^\n]+\n", ran.stderr)


@pytest.mark.skipif(NO_CUDA is None, reason="CUDA may work here")
def test_cuda_never_runs_on_cpu(study: Path, classifier_file: Path) -> None:
    for ran in (
        run("run_study.py", "--model", classifier_file, study, "--device", "cuda"),
        run("smoke_gpu.py", classifier_file),
    ):
        assert (ran.returncode, ran.stdout) == (6, "")
        assert re.fullmatch(r"error: [^\n]+CUDA was asked for[^\n]+\n", ran.stderr)


@pytest.mark.gpu
@pytest.mark.skipif(NO_CUDA is not None, reason=f"needs an NVIDIA GPU: {NO_CUDA}")
def test_smoke_on_gpu(classifier_file: Path) -> None:
    ran = run("smoke_gpu.py", classifier_file)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["provider"] == "CUDAExecutionProvider"


def test_smoke_usage() -> None:
    assert run("smoke_gpu.py").returncode == 2


def test_missing_packages_are_named(study: Path, classifier_file: Path, tmp_path: Path) -> None:
    """A Python without onnxruntime: exit code 6 and what to install, not a traceback."""
    hidden = _RUN.replace("monai=None", "monai=None, onnxruntime=None")
    words = [str(KIT / "run_study.py"), "--device", "cpu", "--model", str(classifier_file), str(study)]
    ran = subprocess.run([sys.executable, "-c", hidden, *words], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 6
    assert re.fullmatch(r"error: [^\n]*pip install onnxruntime[^\n]*\n", ran.stderr)


def _names(file: str) -> dict[str, str]:
    lines = [line for line in (KIT / file).read_text().splitlines() if line and not line.startswith("#")]
    return {re.split(r"[\[<>=]", line)[0]: line for line in lines}


def test_requirements_never_meet() -> None:
    cpu, cuda = _names("requirements-cpu.txt"), _names("requirements-cuda.txt")
    assert "onnxruntime" in cpu and "onnxruntime-gpu" not in cpu
    assert "onnxruntime-gpu" in cuda and "onnxruntime" not in cuda
    assert "[cuda,cudnn]" in cuda["onnxruntime-gpu"]
    assert cpu.keys() - {"onnxruntime"} == cuda.keys() - {"onnxruntime-gpu"}
    assert not {"torch", "monai"} & (cpu.keys() | cuda.keys())


def test_kit_is_not_a_package() -> None:
    assert not list(KIT.rglob("__init__.py"))
