"""Wheels of ONNX Runtime: several of them share one folder, overwrite each other silently, and pip does not mind."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import importlib.util
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prostate_mim.doctor.commands import install, uninstall
from prostate_mim.doctor.finding import Finding, some

NAME = "onnxruntime-wheels"
PACKAGE = "onnxruntime"
# As setup.cfg asks for them; the extra brings CUDA's and cuDNN's libraries, 2 GB.
_GPU, _CPU, _EXTRA = (1, 28), (1, 24), "[cuda,cudnn]"
_NAMES = ("onnxruntime", "onnxruntime-gpu")
_FAMILY = re.compile(r"onnxruntime(-|$)|ort-nightly")
_START = f"{PACKAGE}/__init__.py"
_DIGESTS = ("sha256", "sha384", "sha512")  # that the format of RECORD allows


@dataclass(frozen=True)
class Wheel:
    """One installed distribution that owns the import package ``onnxruntime``.

    Attributes:
        name, version: of the distribution.
        home: the folder of site-packages it lies in.
        files: how many files of the package it lists; 0 where it has no list.
        missing: those that are not there.
        changed: those of another size or digest than it lists.
    """

    name: str
    version: str
    home: Path
    files: int = 0
    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    @property
    def damaged(self) -> int:
        """How many files are missing or changed."""
        return len(self.missing) + len(self.changed)

    @property
    def shown(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"

    @property
    def library(self) -> Path:
        """Where its CUDA provider is, if it has one."""
        return self.home / PACKAGE / "capi" / "libonnxruntime_providers_cuda.so"

    @property
    def cuda(self) -> str:
        """The CUDA version it was built with, such as ``13.0``; empty for a CPU wheel."""
        try:
            told = (self.home / PACKAGE / "capi" / "build_and_package_info.py").read_text("utf-8", "replace")
        except OSError:
            return ""
        found = re.search(r"^cuda_version\s*=\s*['\"]([\d.]+)['\"]", told, re.MULTILINE)
        return found[1] if found else ""


def installed_wheels(path: Sequence[str] | None = None) -> list[Wheel]:
    """Every wheel whose package is ``onnxruntime``, with its files compared to its RECORD.

    Args:
        path: folders to look in; ``sys.path`` if left out.
    """
    wheels: dict[tuple[str, Path], Wheel] = {}
    for found in importlib.metadata.distributions(path=list(sys.path if path is None else path)):
        name = _name(found)
        if not _FAMILY.match(name):
            continue
        record = _record(found)
        if not (_START in record if record else name in _NAMES):
            continue
        home = Path(str(found.locate_file(""))).resolve()
        wheel = _compared(Wheel(name, found.version, home, len(record)), record)
        # An upgrade that was cut short leaves two versions of one wheel; what lies there is the one that fits better.
        wheels[name, home] = min(wheel, wheels.get((name, home), wheel), key=lambda one: one.damaged)
    return list(wheels.values())


def _name(found: importlib.metadata.Distribution) -> str:
    """As packages are compared by; empty where the metadata tells none."""
    try:
        return re.sub(r"[-_.]+", "-", found.metadata["Name"] or "").lower()
    except (LookupError, TypeError, ValueError, OSError):  # by Python's version, of metadata that is not there
        return ""


def _record(found: importlib.metadata.Distribution) -> dict[str, tuple[str, str, str]]:
    """Path -> (way of hashing, digest, size) of the package's files in its RECORD; empty if there is none to read.

    ``Distribution.files`` leaves out what is missing (Python 3.12 and newer), and just that is asked here.
    """
    try:
        rows = list(csv.reader((found.read_text("RECORD") or "").splitlines()))
    except (ValueError, csv.Error, OSError):
        return {}
    files = {}
    for row in rows:
        if len(row) == 3 and row[0].startswith(f"{PACKAGE}/"):  # path, digest, size, as the format has it
            way, _, digest = row[1].partition("=")
            if way in _DIGESTS:
                files[row[0]] = (way, digest, row[2])
    return files


def _compared(wheel: Wheel, record: Mapping[str, tuple[str, str, str]]) -> Wheel:
    missing, changed = [], []
    for name, listed in record.items():
        path = wheel.home / name
        try:
            if not path.is_file():
                missing.append(name)
            elif not _same(path, *listed):
                changed.append(name)
        except OSError:  # unreadable is as good as not the wheel's
            changed.append(name)
    return replace(wheel, missing=tuple(missing), changed=tuple(changed))


def _same(path: Path, way: str, digest: str, size: str) -> bool:
    if size.isdecimal() and path.stat().st_size != int(size):
        return False
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, way).digest()
    return base64.urlsafe_b64encode(found).decode().rstrip("=") == digest


def wanted(*, gpu: bool) -> str:
    """The requirement of this platform, as setup.cfg has it: exactly one wheel.

    Args:
        gpu: there is an NVIDIA GPU, so that the libraries of CUDA are wanted, too.
    """
    gpu_wheel = (sys.platform, platform.machine()) in (("linux", "x86_64"), ("win32", "AMD64"))
    return f"onnxruntime-gpu{_EXTRA if gpu else ''}>={_dotted(_GPU)}" if gpu_wheel else f"onnxruntime>={_dotted(_CPU)}"


def check_wheels(wheels: Sequence[Wheel], *, gpu: bool) -> Finding:
    """None, one or several; whether the files that lie there are those of the wheel."""
    if not wheels:
        return _without_wheel(gpu)
    if len(wheels) > 1:
        return _several(wheels, gpu)
    (wheel,) = wheels
    damaged = [*wheel.missing, *wheel.changed]
    repair = install(f"{wheel.name}=={wheel.version}", again=True)
    if _START in wheel.missing:
        found = (
            f"{wheel.shown} is an empty shell: {len(wheel.missing)} of its {wheel.files} files are missing; they went "
            "when the other wheel was uninstalled"
        )
        return Finding(NAME, "fault", found, repair)
    if damaged:
        found = (
            f"{wheel.shown}: {len(damaged)} of its {wheel.files} files are missing or not the wheel's own, such as "
            f"{some(damaged, 1)}"
        )
        return Finding(NAME, "fault", found, repair)
    if _release(wheel.version) < (_GPU if wheel.name == "onnxruntime-gpu" else _CPU):
        return Finding(NAME, "warning", f"{wheel.shown} is older than {wanted(gpu=gpu)}", install(wanted(gpu=gpu)))
    compared = f"{wheel.files} files as in the wheel" if wheel.files else "it has no list of its files to compare with"
    return Finding(NAME, "ok", f"{wheel.shown}, {compared}")


def _several(wheels: Sequence[Wheel], gpu: bool) -> Finding:
    names = [wheel.name for wheel in wheels]
    mixed = [
        f"{wheel.damaged} of {wheel.files} files are no longer those of {wheel.name}"
        for wheel in wheels
        if wheel.damaged
    ]
    found = f"{' and '.join(wheel.shown for wheel in wheels)} are both installed" if len(wheels) == 2 else (
        f"{len(wheels)} wheels are installed: {', '.join(wheel.shown for wheel in wheels)}"
    )  # fmt: skip
    found += " and share one folder" if len({wheel.home for wheel in wheels}) == 1 else ", in several folders"
    fix = f"{uninstall(*dict.fromkeys(names))} && {install(wanted(gpu=gpu))}"
    return Finding(NAME, "fault", "; ".join([found, *mixed]), fix)


def _without_wheel(gpu: bool) -> Finding:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        return Finding(NAME, "fault", "ONNX Runtime is not installed; no .onnx can be run", install(wanted(gpu=gpu)))
    if spec.origin is None:
        found = f"no wheel of ONNX Runtime is installed, and an empty shell of its folder is left ({_places(spec)})"
        return Finding(NAME, "fault", found, install(wanted(gpu=gpu)))
    return Finding(NAME, "ok", f"{spec.origin}, which no wheel owns: its files cannot be compared")


def _places(spec: object) -> str:
    return ", ".join(getattr(spec, "submodule_search_locations", None) or ["?"])


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
