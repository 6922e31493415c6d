"""The wheel holds ``prostate_mim`` and nothing else, and what it needs at run time."""

from __future__ import annotations

import configparser
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PLATFORMS = {
    "linux x86-64": ({"sys_platform": "linux", "platform_machine": "x86_64"}, "onnxruntime-gpu"),
    "windows x64": ({"sys_platform": "win32", "platform_machine": "AMD64"}, "onnxruntime-gpu"),
    "windows arm64": ({"sys_platform": "win32", "platform_machine": "ARM64"}, "onnxruntime"),
    "linux aarch64": ({"sys_platform": "linux", "platform_machine": "aarch64"}, "onnxruntime"),
    "mac arm64": ({"sys_platform": "darwin", "platform_machine": "arm64"}, "onnxruntime"),
    "mac x86-64": ({"sys_platform": "darwin", "platform_machine": "x86_64"}, "onnxruntime"),
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy of what git tracks, so that stray files of this machine prove nothing."""
    work = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (work / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            (work / "src" / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(work / "dist"), "."]
    done = subprocess.run(command, cwd=work / "src", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next((work / "dist").glob("*.whl")))


def test_one_top_level(wheel: zipfile.ZipFile) -> None:
    """Nothing but the package and its metadata: no tests, no kit, no cards."""
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"prostate_mim"}


def test_every_module_and_the_weights_are_in(wheel: zipfile.ZipFile) -> None:
    """Every tracked file of the package is in the wheel, py.typed and the bundled weights included."""
    command = ["git", "ls-files", "prostate_mim"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split()
    assert sorted(set(tracked) - set(wheel.namelist())) == []
    assert "prostate_mim/py.typed" in wheel.namelist()
    assert "prostate_mim/weights/resenc-s.mim-t2w/model.safetensors" in wheel.namelist()
    assert {"prostate_mim/hub/models.json", "prostate_mim/formats/monai_bundle.py"} <= set(wheel.namelist())


def requirements() -> list[Requirement]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return [Requirement(line) for line in parser["options"]["install_requires"].strip().splitlines()]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_one_onnx_runtime_per_platform(platform: str) -> None:
    """Exactly one of the two ONNX Runtime wheels, which overwrite each other, on every platform."""
    environment, expected = PLATFORMS[platform]
    chosen = [r.name for r in requirements() if r.name.startswith("onnxruntime") and r.marker.evaluate(environment)]
    assert chosen == [expected]


def test_never_torchvision() -> None:
    """Neither the requirements nor the pinned set know torchvision; torch is pinned to the CPU-safe release."""
    names = {requirement.name for requirement in requirements()}
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert "torchvision" not in names
    assert not any(line.startswith(("torchvision", "timm")) for line in pinned)
    assert "torch==2.13.0" in pinned
