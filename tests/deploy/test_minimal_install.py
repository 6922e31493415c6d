"""A hospital's machine: the wheel without its dependencies and the four packages of the kit predict what torch does.

The packages come from pip's index, the only use of the network in this suite: pip's process alone gets an environment
without the guard. Where no index is reachable, all of this is skipped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from dicom_series import write_dicom_series
from packaging.requirements import Requirement

from prostate_mim.classifier import LesionClassifier
from prostate_mim.phantom import PhantomStudy, make_study
from prostate_mim.volume import read_volume, write_volume

ROOT = Path(__file__).resolve().parents[2]
KIT = ROOT / "export"
GUARD = ROOT / "tests" / "support" / "no_sockets"
FOUR = {"numpy", "simpleitk", "nibabel", "onnxruntime"}
ABSENT = (
    "torch", "monai", "scipy", "isal", "onnx", "onnxscript", "safetensors", "sklearn", "huggingface_hub", "blosc2",
    "matplotlib", "pydicom", "threadpoolctl", "typer",
)  # fmt: skip
_NO_INDEX = re.compile(
    r"Retrying|[Cc]onnection (broken|refused|error)|[Tt]imed? ?out|\(from versions: none\)|no matching distributions"
)
_PACKAGED = ("prostate_mim", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


def asked(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git tracks or would track, so that stray files of this machine prove nothing."""
    work = tmp_path_factory.mktemp("wheel")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *_PACKAGED]
    for name in filter(None, asked(listing, cwd=ROOT, check=True).stdout.split("\0")):
        if (ROOT / name).is_file():
            (work / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, work / "src" / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", work / "dist", "."]
    done = asked(command, cwd=work / "src")
    assert done.returncode == 0, done.stdout + done.stderr
    return next((work / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The Python of a fresh environment with the kit's requirements, as the README of the kit installs them."""
    folder = tmp_path_factory.mktemp("minimal")
    venv.create(folder / "venv", with_pip=False)
    made = folder / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        made,
        "install",
        "--no-compile",
        "--retries",
        "1",
        "--timeout",
        "20",
    ]
    (folder / "same.txt").write_text(f"onnxruntime=={onnxruntime.__version__}\n")  # as the one that exported
    pinned = ["-c", ROOT / "constraints.txt", "-c", folder / "same.txt"]
    unguarded = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = asked([*pip, *pinned, "-r", KIT / "requirements-cpu.txt"], env=unguarded)
    if done.returncode and _NO_INDEX.search(done.stderr + done.stdout):
        pytest.skip(
            "no package index is reachable, from which pip could install numpy, SimpleITK, nibabel, onnxruntime"
        )
    assert done.returncode == 0, done.stdout + done.stderr
    done = asked([*pip, "--no-deps", "--no-index", wheel], env=unguarded)
    assert done.returncode == 0, done.stdout + done.stderr
    yield made
    shutil.rmtree(folder / "venv")


@pytest.fixture(scope="module")
def phantom() -> PhantomStudy:
    """Its grid is not the model's: it has to be resampled."""
    return make_study(5, 1)


@pytest.fixture(scope="module")
def studies(phantom: PhantomStudy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same phantom in the forms that hospitals have."""
    folder = tmp_path_factory.mktemp("studies")
    paths = {suffix: folder / f"study{suffix}" for suffix in (".nii.gz", ".mha")}
    for path in paths.values():
        write_volume(phantom.volume, path)
    write_dicom_series(folder / "dicom", phantom.volume)
    write_volume(phantom.gland, folder / "gland.nii.gz")
    return {**paths, "DICOM": folder / "dicom", "gland": folder / "gland.nii.gz"}


def within(python: Path, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run in the fresh environment, without network and without this checkout."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return asked([python, *arguments], cwd=cwd, env={**clean, "PYTHONPATH": str(GUARD)})


def test_requirements_are_the_four() -> None:
    """Both files; of CUDA's, the GPU build of ONNX Runtime with the libraries it needs."""
    for file, build, extras in (("cpu", "onnxruntime", set()), ("cuda", "onnxruntime-gpu", {"cuda", "cudnn"})):
        lines = (KIT / f"requirements-{file}.txt").read_text().splitlines()
        found = {r.name.lower(): r for r in map(Requirement, (line for line in lines if line and line[0] != "#"))}
        assert found.keys() == FOUR - {"onnxruntime"} | {build}
        assert found[build].extras == extras


def test_nothing_else_is_installed(python: Path, tmp_path: Path) -> None:
    """Torch and the rest cannot be imported, nor anything but the four, what these need, and the wheel."""
    code = (
        "import importlib.metadata as m, importlib.util as u, json, prostate_mim, sys\n"
        "names = {d.metadata['Name'].lower().replace('_', '-'): d.requires or [] for d in m.distributions()}\n"
        f"found = [name for name in {ABSENT!r} if u.find_spec(name)]\n"
        "print(json.dumps([names, found, prostate_mim.__file__, u.find_spec('onnxruntime') is not None]))"
    )
    ran = within(python, "-c", code, cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    names, found, file, control = json.loads(ran.stdout)
    assert found == []
    assert control  # the question can be answered with yes
    assert Path(file).is_relative_to(python.parents[1])
    needed = {Requirement(text).name.lower() for name in FOUR for text in names[name] if "extra ==" not in text}
    assert names.keys() - FOUR - {"prostate-mim"} <= needed
    assert names.keys() >= FOUR


@pytest.mark.parametrize("kind", [".nii.gz", ".mha", "DICOM"])
def test_the_kit_predicts_what_torch_does(
    kind: str,
    python: Path,
    studies: dict[str, Path],
    phantom: PhantomStudy,
    classifier: LesionClassifier,
    classifier_file: Path,
    tmp_path: Path,
) -> None:
    """The same probability to 1e-5, at a position off the centre; a mask is read as well."""
    volume = read_volume(studies[kind])
    assert volume.geometry.spacing_mm_zyx != pytest.approx(classifier.spec.spacing_mm_zyx)
    x, y, z = (float(v) for v in volume.centre_mm_lps + np.array([7.0, -4.0, 2.5]))
    command = ["run_study.py", "--model", classifier_file, studies[kind], "--position", f"{x} {y} {z}"]
    ran = within(python, KIT / command[0], *command[1:], f"--mask=gland={studies['gland']}", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    found = json.loads(ran.stdout)
    expected = classifier.predict(volume, (x, y, z))
    assert found["probability"] == pytest.approx(expected.probability, abs=1e-5)
    assert (found["revision"], found["spec"]) == (expected.revision, expected.spec)
    assert abs(classifier.predict(volume).probability - expected.probability) > 1e-4  # elsewhere it is another


def test_a_phantom_without_files(
    python: Path, phantom: PhantomStudy, classifier: LesionClassifier, classifier_file: Path, tmp_path: Path
) -> None:
    """As Python: a phantom made there is the one made here, and so is what the model says; nothing big was imported."""
    code = (
        "import json, sys\nfrom prostate_mim import OnnxClassifier\nfrom prostate_mim.phantom import make_study\n"
        f"made = OnnxClassifier({str(classifier_file)!r}, device='cpu').predict(make_study(5, 1).volume)\n"
        f"print(json.dumps([made.probability, sorted(set({ABSENT!r}) & set(sys.modules))]))"
    )
    ran = within(python, "-c", code, cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    probability, imported = json.loads(ran.stdout)
    assert imported == []
    assert probability == pytest.approx(classifier.predict(phantom.volume).probability, abs=1e-5)


def test_errors_are_one_line(python: Path, studies: dict[str, Path], classifier_file: Path, tmp_path: Path) -> None:
    """A missing study, a missing model, and a damaged file, which the standard library's zlib finds here."""
    damaged = tmp_path / "damaged.nii.gz"
    packed = bytearray(studies[".nii.gz"].read_bytes())
    packed[len(packed) // 2] ^= 1
    damaged.write_bytes(packed)
    cases = [
        (3, ["--model", classifier_file, "missing.nii.gz"], "missing.nii.gz"),
        (3, ["--model", "missing.onnx", studies[".mha"]], "missing.onnx"),
        (9, ["--model", classifier_file, damaged], "damaged gzip data"),
    ]
    for code, arguments, message in cases:
        ran = within(python, KIT / "run_study.py", *arguments, cwd=tmp_path)
        assert (ran.returncode, ran.stdout) == (code, "")
        assert re.fullmatch(rf"error: [^\n]*{re.escape(message)}[^\n]*\n", ran.stderr)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged.nii.gz"]
