"""Throw-away virtual environments that really have a fault, real wheels to make it with, and the doctor run in them."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(sysconfig.get_paths()["purelib"])
ROOT = Path(__file__).resolve().parents[2]
# Heavy, or what faults are made of: an environment gets them only where a test puts them there.
APART = ("onnxruntime", "torch", "torchgen", "functorch", "torchvision", "openvino")
# The command by itself, as the command line runs it.
COMMAND = """
import typer
from prostate_mim.cli.doctor import doctor
from prostate_mim.console import run_app
app = typer.Typer(pretty_exceptions_enable=False)
app.command()(doctor)
run_app(app)
"""
_OURS = ("HF_", "HUGGING", "TRANSFORMERS_", "SSL_CERT", "REQUESTS_CA", "CURL_CA", "XDG_", "CUDA", "PIP_", "TMPDIR")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@dataclass(frozen=True)
class Told:
    """What the doctor said.

    Attributes:
        code: its exit code.
        out, err: what it wrote.
    """

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """Of ``--json``."""
        values: dict[str, Any] = json.loads(self.out)
        return values

    def __getitem__(self, name: str) -> dict[str, str]:
        (finding,) = [one for one in self.report["findings"] if one["name"] == name]
        return finding

    def states(self) -> dict[str, str]:
        """Name -> state, of warnings and faults."""
        return {one["name"]: one["state"] for one in self.report["findings"] if one["state"] in ("warning", "fault")}


def clean(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment without this machine's proxies, certificates, hub and caches."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_OURS) and k.lower() not in _PROXIES}
    return kept | {"HF_HOME": str(home / "hf"), "OMP_NUM_THREADS": "1"} | dict(more or {})


def ask_doctor(
    python: Path | str, home: Path, *arguments: str, env: Mapping[str, str] | None = None, before: tuple[str, ...] = ()
) -> Told:
    """Run ``doctor`` with an interpreter, from a folder that is not the checkout.

    Args:
        before: words in front of the command, such as ``setpriv`` and its options.
    """
    command = [*before, str(python), "-P", "-c", COMMAND, *arguments]
    done = subprocess.run(
        command, cwd=home, env=clean(home, env), capture_output=True, text=True, timeout=300, check=False
    )
    return Told(done.returncode, done.stdout, done.stderr)


class Environment:
    """A virtual environment: all packages of this one as links, but ``APART``; pip works in it.

    Args:
        folder: to make it in.
        links: those of ``APART`` that it gets as links.
    """

    def __init__(self, folder: Path, links: tuple[str, ...] = ()) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
        self.python = folder / "bin" / "python"
        (self.site,) = folder.glob("lib/python3.*/site-packages")
        for entry in PROJECT.iterdir():
            name = entry.name.split("-")[0].split(".")[0].lower()
            apart = next((one for one in APART if name == one or name.startswith(f"{one}_")), "")
            if entry.name != "__pycache__" and (not apart or apart in links):
                (self.site / entry.name).symlink_to(entry)

    def unpack(self, wheel: Path) -> None:
        """Install a wheel of ``make_wheel`` as pip would lay it out, in a tenth of pip's time."""
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.site)

    def pip(self, *arguments: str, find: Path | None = None) -> None:
        """Run pip of this environment, without any index.

        Args:
            find: a folder of wheels.
        """
        self.shell(" ".join(["python", "-m", "pip", *arguments]), find)

    def shell(self, line: str, find: Path | None = None) -> None:
        """One line as a person types it, with this environment's programs first; pip has wheels of ``find`` only."""
        own = {
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}", "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1", "PIP_NO_COMPILE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }  # fmt: skip
        more = {"PIP_FIND_LINKS": str(find)} if find else {}
        done = subprocess.run(
            ["sh", "-c", line], env=clean(self.folder, own | more), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def doctor(self, *arguments: str, env: Mapping[str, str] | None = None) -> Told:
        """The doctor, run by this environment's interpreter."""
        return ask_doctor(self.python, self.folder, *arguments, env=env)


def installed_files(name: str = "onnxruntime_gpu") -> dict[str, Path]:
    """Files of the import package of ONNX Runtime that is installed here; empty if it is another wheel."""
    found = list(PROJECT.glob(f"{name}-*.dist-info/RECORD"))
    if not found:
        return {}
    with found[0].open(newline="", encoding="utf-8") as stream:
        listed = [row[0] for row in csv.reader(stream) if row[1]]
    return {name: PROJECT / name for name in listed if name.startswith("onnxruntime/")}


def make_wheel(folder: Path, name: str, version: str, files: Mapping[str, Path | bytes], requires: str = "") -> Path:
    """A wheel that pip installs: these files under these names, with an honest RECORD."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
    tag = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    path = folder / f"{info.removesuffix('.dist-info')}-py3-none-any.whl"
    rows = []
    with zipfile.ZipFile(path, "w") as archive:
        for place, content in {**files, f"{info}/METADATA": metadata.encode(), f"{info}/WHEEL": tag.encode()}.items():
            data = content if isinstance(content, bytes) else content.read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            rows.append(f"{place},sha256={digest},{len(data)}\n")
            archive.writestr(place, data)
        archive.writestr(f"{info}/RECORD", "".join([*rows, f"{info}/RECORD,,\n"]))
    return path
