"""The modules of this folder, for the tests of it, and a tiny project under git that is built for real."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest
from trial_git import git

sys.path.insert(0, str(Path(__file__).parent))

_SETUP = """[metadata]
name = tiny
version = 1.2.3
description = a package of one module
license = Apache-2.0
license_files = LICENSE
long_description = file: README.md
long_description_content_type = text/markdown

[options]
packages = tiny
python_requires = >=3.11

[options.package_data]
tiny = weights/*
"""
_FILES = {
    "setup.cfg": _SETUP,
    "pyproject.toml": '[build-system]\nrequires = ["setuptools>=77"]\nbuild-backend = "setuptools.build_meta"\n',
    "README.md": "# tiny\n",
    "LICENSE": "Apache-2.0\n",
    "tiny/__init__.py": '"""One module."""\n\n__version__ = "1.2.3"\n',
    "tiny/weights/w.bin": "weights\n",
    "notes/private.txt": "of nobody's business\n",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A git repository with one commit."""
    folder = tmp_path / "project"
    for name, text in _FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    return folder


@pytest.fixture
def tiny_wheel(project: Path, tmp_path: Path) -> Path:
    """The wheel of the tiny project, built by hand, which is quicker."""
    path = tmp_path / "wheels" / "tiny-1.2.3-py3-none-any.whl"
    path.parent.mkdir()
    info = "tiny-1.2.3.dist-info"
    contents = {
        "tiny/__init__.py": (project / "tiny" / "__init__.py").read_text(),
        f"{info}/METADATA": "Metadata-Version: 2.4\nName: tiny\nVersion: 1.2.3\nLicense-Expression: MIT\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [f"{name},," for name in (*contents, f"{info}/RECORD")]
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in {**contents, f"{info}/RECORD": "\n".join(lines)}.items():
            wheel.writestr(name, text)
    return path
