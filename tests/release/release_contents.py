"""What is in a wheel and an sdist: the package, its weights and its metadata, and nothing else."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import tarfile
import zipfile
from pathlib import Path

MOST_BYTES = 100_000_000
"""What a package index takes without asking."""
_METADATA = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
# setuptools adds tests/test_*.py to every sdist by itself; the package index never installs them.
_OF_SDIST = re.compile(
    r"PKG-INFO|setup\.cfg|pyproject\.toml|README\.md|LICENSE|tests/test_\w+\.py|{package}\.egg-info/[\w.-]+"
)
_DATA = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".dcm", ".npz", ".npy", ".csv", ".xlsx", ".h5", ".onnx", ".pt")


def packaged(tree: Path, package: str) -> set[str]:
    """Files of the package in an exported tree, as a wheel names them."""
    return {path.relative_to(tree).as_posix() for path in (tree / package).rglob("*") if path.is_file()}


def wheel_problems(path: Path, tree: Path, package: str, needed: tuple[str, ...] = ()) -> list[str]:
    """What is wrong with a wheel; nothing if it holds the exported package file by file, and its metadata.

    Args:
        path: the wheel.
        tree: the export that it was built from.
        package: the only folder that may be in it.
        needed: files that must be there, such as weights.
    """
    with zipfile.ZipFile(path) as wheel:
        contents = {info.filename: wheel.read(info) for info in wheel.infolist() if not info.is_dir()}
    info = "-".join(path.name.split("-")[:2]) + ".dist-info/"
    expected = packaged(tree, package)
    inside = {name for name in contents if not name.startswith(info)}
    problems = [f"{path.name}: {name} does not belong in it" for name in sorted(inside - expected)]
    problems += [f"{path.name}: {name} is missing" for name in sorted((expected | set(needed)) - inside)]
    problems += [f"{path.name}: {name} is not the file that was exported" for name in _edited(contents, tree, expected)]
    problems += [f"{path.name}: {name} looks like data" for name in sorted(inside) if name.endswith(_DATA)]
    unknown = {name.removeprefix(info) for name in contents if name.startswith(info)} - _METADATA
    problems += [f"{path.name}: metadata {name} is not known here" for name in sorted(unknown)]
    problems += [f"{path.name}: {why}" for why in _record_problems(contents, info + "RECORD")]
    return problems + _too_long(path)


def _edited(contents: dict[str, bytes], tree: Path, expected: set[str]) -> list[str]:
    return sorted(name for name in expected & set(contents) if (tree / name).read_bytes() != contents[name])


def _record_problems(contents: dict[str, bytes], record: str) -> list[str]:
    """RECORD lists every file with its SHA-256; pip does not check that, so we do."""
    if record not in contents:
        return ["it has no RECORD"]
    rows = list(csv.reader(io.StringIO(contents[record].decode())))
    listed = {name: digest for name, digest, _ in rows}
    problems = [f"RECORD and files differ: {name}" for name in sorted(set(listed) ^ set(contents))]
    for name, digest in listed.items():
        if name in contents and name != record and digest != _recorded(contents[name]):
            problems.append(f"RECORD has another digest of {name}")
    return problems


def _recorded(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def sdist_problems(path: Path, tree: Path, package: str) -> list[str]:
    """What is wrong with an sdist: it holds the package, what builds it, and nothing else."""
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive if not member.isdir()}
        odd = [member.name for member in archive if not (member.isfile() or member.isdir())]
    expected = packaged(tree, package)
    allowed = re.compile(_OF_SDIST.pattern.replace("{package}", re.escape(package)))
    extra = sorted(name for name in names - expected if not allowed.fullmatch(name))
    problems = [f"{path.name}: {name} does not belong in it" for name in extra]
    problems += [f"{path.name}: {name} is missing" for name in sorted(expected - names)]
    problems += [f"{path.name}: {name} is neither file nor folder" for name in odd]
    return problems + _too_long(path)


def _too_long(path: Path) -> list[str]:
    size = path.stat().st_size
    if size <= MOST_BYTES:
        return []
    return [f"{path.name}: {size / 1e6:.0f} MB, more than the {MOST_BYTES / 1e6:.0f} MB that an index takes"]
