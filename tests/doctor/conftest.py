"""Wheels of ONNX Runtime as files, and an environment that is in order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # throw_away.py
from throw_away import Environment, installed_files, make_wheel

GPU_VERSION, CPU_VERSION = "1.31.1", "1.32.0"


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``onnxruntime-gpu``: the files that are installed here, as a wheel again.

    Without the providers, 285 MB that no other wheel has files of the same name of.
    """
    return _wheel(tmp_path_factory.mktemp("wheels"), "onnxruntime-gpu", GPU_VERSION, {})


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``onnxruntime``, as the CPU wheel: most files under the same names, one that differs, one less.

    The core library has the version in its name, so that the wheels do not share that one.
    """
    told = f"package_name = 'onnxruntime'\n__version__ = '{CPU_VERSION}'\n"
    own = {"onnxruntime/capi/build_and_package_info.py": told.encode()}
    return _wheel(tmp_path_factory.mktemp("stand-in"), "onnxruntime", CPU_VERSION, own, "libonnxruntime.so")


def _wheel(folder: Path, name: str, version: str, own: dict[str, bytes], less: str = "?") -> Path:
    left_out = ("_providers_", less)
    files = {name: path for name, path in installed_files().items() if not any(part in name for part in left_out)}
    if not files:
        pytest.skip("onnxruntime-gpu is not installed here; wheels cannot be made from it")
    make_wheel(folder, name, version, {**files, **own})
    return folder


@pytest.fixture(scope="session")
def real_cpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the real CPU wheel, 27 MB from pip's index; where there is none, the test is skipped."""
    folder = tmp_path_factory.mktemp("real-cpu")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--timeout", "5", "--retries", "0",
               "-d", str(folder), "onnxruntime>=1.28"]  # fmt: skip
    # pip alone may reach its index: it is another program's download, and all of this package stays cut off.
    outside = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, env=outside, capture_output=True, text=True, timeout=200, check=False)
    if done.returncode or not list(folder.glob("*.whl")):
        pytest.skip("the CPU wheel of onnxruntime cannot be had: no package index is reached from here")
    return folder


@pytest.fixture(scope="session")
def gpu_only(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with ``onnxruntime-gpu`` as pip installed it here, without torch; tests only look at it."""
    if not installed_files():
        pytest.skip("onnxruntime-gpu is not installed here")
    return Environment(tmp_path_factory.mktemp("gpu-only") / "venv", links=("onnxruntime",))


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment without ONNX Runtime and torch: what is looked at there is everything else, and it is quick."""
    return Environment(tmp_path_factory.mktemp("bare") / "venv")
