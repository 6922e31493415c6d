#!/usr/bin/env python3
"""Wheel and sdist from a clean export of git, the same bytes every time.

    python tests/release/release_build.py --out dist

setuptools makes a wheel reproducible where SOURCE_DATE_EPOCH is set, and an sdist not: times of its own files and of
the gzip header differ. Therefore the sdist is written once more, with times, owners and order of our own.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from release_rows import run

ROOT = Path(__file__).resolve().parents[2]
_FILE, _PROGRAM = 0o644, 0o755


class BuildError(Exception):
    """Git or the build said no; one line."""


def export(repository: Path, folder: Path, ref: str = "HEAD", *, working_tree: bool = False) -> Path:
    """Copy what a commit holds, or what a commit of the working tree would hold, into an empty folder.

    Args:
        repository: root of a git checkout.
        folder: is created.
        ref: a commit.
        working_tree: files as they lie there, untracked ones too, but nothing that git ignores.

    Raises:
        BuildError: git refuses, or ``ref`` is unknown.
    """
    folder.mkdir(parents=True)
    if working_tree:
        for name in _listed(repository, "ls-files", "-z", "--cached", "--others", "--exclude-standard"):
            if (repository / name).is_file():  # a file that was removed is still listed
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(repository / name, folder / name)
    else:
        done = subprocess.run(["git", "archive", "--format=tar", ref], cwd=repository, capture_output=True)
        if done.returncode:
            raise BuildError(f"{repository}: git archive {ref}: {done.stderr.decode(errors='replace').strip()}")
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(folder, filter="data")
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(_PROGRAM if path.stat().st_mode & 0o100 else _FILE)  # whatever this machine's umask is
    return folder


def _listed(repository: Path, *words: str) -> list[str]:
    done = subprocess.run(["git", *words], cwd=repository, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{repository}: git {words[0]}: {done.stderr.strip()}")
    return [name for name in done.stdout.split("\0") if name]


def commit_time(repository: Path, ref: str = "HEAD") -> int:
    """Seconds since 1970 of a commit: the time that goes into archives."""
    return int(_listed(repository, "log", "-1", "--format=%ct", ref)[0])


def changed(repository: Path) -> int:
    """How many files of the working tree are not as in HEAD, new ones counted."""
    return len(_listed(repository, "status", "--porcelain", "-z"))


def build(python: str | Path, tree: Path, out: Path, epoch: int) -> list[Path]:
    """sdist, and the wheel from the sdist: what is missing in one cannot be in the other.

    Args:
        python: of an environment with build, setuptools and wheel.
        tree: the exported source; it is not written to.
        out: is created.
        epoch: seconds since 1970 that all files get.

    Returns:
        The two files, sorted by name.

    Raises:
        BuildError: the build failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source"
        shutil.copytree(tree, source, symlinks=True)
        command = [python, "-m", "build", "--no-isolation", "--outdir", out, source]
        done = run(command, Path(scratch), more={"SOURCE_DATE_EPOCH": str(epoch)})
    if done.code:
        raise BuildError(f"python -m build: {done.reason}")
    for path in out.glob("*.tar.gz"):
        normalise(path, epoch)
    return sorted(path for path in out.iterdir() if path.suffix in (".whl", ".gz"))


def normalise(path: Path, epoch: int) -> None:
    """Write an sdist once more: sorted, one time, no owner, plain modes; contents stay."""
    with tarfile.open(path) as archive:
        found = [(member, _content(archive, member)) for member in archive.getmembers()]
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in sorted(found, key=lambda pair: pair[0].name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.mode = _PROGRAM if member.isdir() or member.mode & 0o100 else _FILE
            member.pax_headers = {}
            archive.addfile(member, None if content is None else io.BytesIO(content))
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=9, mtime=epoch) as stream:
        stream.write(plain.getvalue())
    path.write_bytes(packed.getvalue())


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    stream = archive.extractfile(member) if member.isfile() else None
    return None if stream is None else stream.read()


def members(path: Path) -> dict[str, tuple[str, object]]:
    """Name -> (SHA-256 of the content, time) of the files of a wheel or an sdist."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return {info.filename: (_digest(wheel.read(info)), info.date_time) for info in wheel.infolist()}
    with tarfile.open(path) as archive:
        return {member.name: (_digest(_content(archive, member) or b""), member.mtime) for member in archive}


def differences(first: Path, second: Path) -> list[str]:
    """What two builds of one file differ in; nothing if they are equal byte for byte."""
    if first.read_bytes() == second.read_bytes():
        return []
    one, two = members(first), members(second)
    told = [f"{first.name}: {name} is in one build only" for name in sorted(set(one) ^ set(two))]
    for name in sorted(set(one) & set(two)):
        if one[name] != two[name]:
            what = "content" if one[name][0] != two[name][0] else "time"
            told.append(f"{first.name}: {name} differs in its {what}")
    return told or [f"{first.name}: the same files in archives of other bytes"]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main(argv: list[str] | None = None) -> int:
    """Build once into a folder; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("dist"))
    parser.add_argument("--ref", default="HEAD")
    given = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            tree = export(ROOT, Path(scratch) / "tree", given.ref)
            made = build(sys.executable, tree, given.out.resolve(), commit_time(ROOT, given.ref))
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path in made:
        print(f"{_digest(path.read_bytes())}  {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
