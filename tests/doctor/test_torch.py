"""torch that is absent, broken, crashing; a torchvision of another torch, really installed by pip."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from throw_away import Environment, make_wheel

from prostate_mim.doctor.child import Answer
from prostate_mim.doctor.driver import Driver
from prostate_mim.doctor.torch_build import check_torch

TORCH = importlib.metadata.version("torch").partition("+")[0]


def test_torchvision_of_another_torch(tmp_path: Path) -> None:
    """It raises when imported, and its metadata asks for another torch: both are said; the fix removes it."""
    environment = Environment(tmp_path / "venv", links=("torch", "torchgen", "functorch"))
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    broken: dict[str, bytes | Path] = {
        "torchvision/__init__.py": b"import torch\nraise RuntimeError('operator torchvision::nms does not exist')\n"
    }
    made = make_wheel(wheels, "torchvision", "0.99.2", broken, requires="torch==9.15.0")
    environment.pip("install", "-q", "--no-deps", str(made))
    told = environment.doctor("--json")
    assert told["torchvision"]["state"] == "warning" and told["torch"]["state"] == "ok"
    assert "RuntimeError: operator torchvision::nms does not exist" in told["torchvision"]["found"]
    assert f"it belongs to torch 9.15.0, and {importlib.metadata.version('torch')}" in told["torchvision"]["found"]
    environment.shell(told["torchvision"]["fix"])

    fitting: dict[str, bytes | Path] = {"torchvision/__init__.py": b"import torch\n__version__ = '0.98.0'\n"}
    made = make_wheel(wheels, "torchvision", "0.98.0", fitting, requires=f"torch=={TORCH}")
    environment.pip("install", "-q", "--no-deps", str(made))
    told = environment.doctor("--json")
    assert told["torchvision"] == {
        "name": "torchvision", "state": "ok", "fix": "",
        "found": f"0.98.0 fits torch {importlib.metadata.version('torch')}",
    }  # fmt: skip


def test_torchvision_is_not_missed(bare: Environment) -> None:
    """The control: without it, nothing is found; torch's absence is a warning, because .onnx files run without."""
    told = bare.doctor("--json")
    assert told["torchvision"]["state"] == "not applicable"
    assert told["torch"]["state"] == "warning" and "torch>=2.11" in told["torch"]["fix"]
    assert told.report["versions"]["torch"] is None


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("raise ImportError('libcudart.so.12: cannot open shared object file')", "libcudart.so.12"),
        ("import ctypes; ctypes.string_at(0)", "crashed: Segmentation fault"),
        ("raise SystemExit(3)", "SystemExit"),
        ("import os; os._exit(9)", "crashed: exit code 9"),
        ("print('x' * 100000); x = [", "SyntaxError"),
    ],
)
def test_torch_that_breaks(tmp_path: Path, code: str, word: str) -> None:
    """However it breaks, it is one line of one finding, and every other check is made."""
    environment = Environment(tmp_path / "venv")
    made = make_wheel(tmp_path, "torch", "2.13.0", {"torch/__init__.py": code.encode()})
    environment.unpack(made)
    told = environment.doctor("--json")
    assert told.code == 6
    assert told["torch"]["state"] == "fault" and told["torch"]["found"].startswith("2.13.0 cannot be used: ")
    assert word in told["torch"]["found"] and "torch==2.13.0" in told["torch"]["fix"]
    assert len(told.report["findings"]) == 15


GPU = Driver(True, (13, 0), ("A GPU (9.0, 141 GB)",))
BUILT = {"version": "2.13.0", "cuda": "13.0", "devices": 1, "why": "", "right": True, "right_on_cuda": True}


@pytest.mark.parametrize(
    ("values", "driver", "state"),
    [
        (BUILT, GPU, "ok"),
        (BUILT | {"right_on_cuda": False}, GPU, "fault"),
        ({"version": "2.13.0", "cuda": "13.0", "devices": 1, "why": "no kernel image", "right": True}, GPU, "fault"),
        ({"version": "2.13.0", "cuda": "13.0", "devices": 0, "why": "no driver", "right": True}, Driver(False), "ok"),
        ({"version": "2.13.0+cpu", "cuda": None, "devices": 0, "why": "", "right": True}, GPU, "warning"),
        ({"version": "2.13.0+cpu", "cuda": None, "devices": 0, "why": "", "right": True}, Driver(False), "ok"),
        ({"version": "2.13.0+cpu", "cuda": None, "devices": 0, "why": "", "right": False}, Driver(False), "fault"),
    ],
)
def test_builds(values: dict[str, object], driver: Driver, state: str) -> None:
    """CPU and CUDA builds on machines with and without a GPU."""
    finding = check_torch(Answer(values), driver)
    assert (finding.state, bool(finding.fix)) == (state, state != "ok")


def test_openvino_that_breaks(tmp_path: Path) -> None:
    """It is optional, so a warning."""
    environment = Environment(tmp_path / "venv")
    made = make_wheel(tmp_path, "openvino", "2026.4.1", {"openvino/__init__.py": b"raise OSError('libtbb.so.12')"})
    environment.unpack(made)
    told = environment.doctor("--json")
    assert told["openvino"]["state"] == "warning" and "libtbb.so.12" in told["openvino"]["found"]
    assert "--force-reinstall" in told["openvino"]["fix"]
