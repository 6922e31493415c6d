"""What the study has computed, in one file: ``python hub_cards/study/keep.py save|load --studies OUT``.

``kept.parquet`` holds every cell (out-of-fold predictions, values of probes) and the SHA-256 of every encoder behind
them, under their keys. ``make study`` loads it first, so that tables and page are made again in minutes and hours of
training are left out; a key holds all that decides its numbers, so what has changed since is computed anew.
``make study KEPT=`` computes everything. Patients are running numbers here; no voxel and no id is in the file.

Cells whose metadata hold ``data`` are older than the package's own resampling: they were computed on regions that
SciPy resampled, which differ from today's by one step of the stored integers (a 512th of a study's deviation) in less
than 0.1 % of the voxels. ``was`` is the key that they had then.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pyarrow as arrow
from pyarrow import parquet

from prostate_mim.files import atomic_path, write_bytes

KEPT = Path(__file__).resolve().parent / "kept.parquet"
STUDIES, ENCODERS = ("study", "finetune", "recipe"), "study"
_PLACE = re.compile(rf"(({'|'.join(STUDIES)})/cells/[0-9a-f]{{32}}\.parquet|{ENCODERS}/weights/[0-9a-f]{{32}}\.json)")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("save", "load"))
    parser.add_argument("--studies", type=Path, required=True, help="holds study, finetune and recipe")
    parser.add_argument("--file", type=Path, default=KEPT, help="the file of what is kept")
    given = parser.parse_args()
    count = (save if given.what == "save" else load)(given.studies, given.file)
    print(f"{given.what}: {count} files")


def save(studies: Path, file: Path) -> int:
    """Write the file; returns how many cells and notes are in it.

    Raises:
        SystemExit: there are none; what was kept before stays.
    """
    found = sorted(path.relative_to(studies).as_posix() for path in studies.glob("*/*/*") if path.is_file())
    names = [name for name in found if _PLACE.fullmatch(name)]
    if not names:
        raise SystemExit(f"error: {studies}: holds no cell of a study; check --studies. {file} is left as it is")
    table = arrow.table({"name": names, "content": [(studies / name).read_bytes() for name in names]})
    with atomic_path(file) as path:
        parquet.write_table(table, path, compression="zstd", compression_level=19, use_dictionary=False)
    return len(names)


def load(studies: Path, file: Path) -> int:
    """Put in place what is not there; returns how many files that were. Nothing, where nothing is kept.

    Raises:
        SystemExit: a name in the file is of no cell and no note: nothing is written.
    """
    rows = parquet.read_table(file).to_pylist() if file.exists() else []
    for row in rows:
        if not _PLACE.fullmatch(row["name"]):
            raise SystemExit(f"error: {file}: {row['name']!r} is the name of no cell; restore the file from git")
    missing = [row for row in rows if not (studies / row["name"]).exists()]
    for row in missing:
        (studies / row["name"]).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(studies / row["name"], row["content"])
    return len(missing)


if __name__ == "__main__":
    main()
