"""A folder of synthetic studies with its manifest: the embedded data set, as real files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prostate_mim.errors import UsageError
from prostate_mim.files import make_folder, write_text
from prostate_mim.phantom.study import PhantomStudy, make_study
from prostate_mim.volume import write_volume

LESION_COLUMNS = (
    "study_id", "patient_id", "t2w", "lesion_id", "label", "position_mm_lps",
    "lesion_mask", "gland_mask", "zone_mask", "zone", "centre",
)  # fmt: skip
STUDY_COLUMNS = ("study_id", "patient_id", "t2w", "gland_mask", "centre")
Row = dict[str, str]
THREADS = 2


def write_cohort(
    out: str | Path, studies: int, seed: int, *, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write ``studies`` synthetic studies as volume files, with ``manifest.csv`` (lesions) and ``studies.csv``.

    Study k is the same whatever ``studies`` is, and the same arguments give the same bytes. The manifest is written
    last: a folder without one is unfinished.

    Args:
        out: folder to create; may exist, but not with a manifest in it.
        studies: how many, at least 1.
        seed: 0 or larger.
        progress: called with (done, total) after each study.

    Returns:
        Path of ``manifest.csv``.

    Raises:
        UsageError: ``studies`` or ``seed`` is out of range, or ``out`` already holds a manifest.
    """
    if studies < 1:
        raise UsageError(f"phantom cohort of {studies} studies: ask for at least 1")
    if seed < 0:
        raise UsageError(f"phantom seed {seed} must be 0 or larger")
    manifest = Path(out) / "manifest.csv"
    if manifest.exists():
        raise UsageError(f"{manifest}: already there, and nothing is overwritten; choose an empty folder")
    folder = make_folder(out)
    lesion_rows: list[Row] = []
    study_rows: list[Row] = []
    for done, (study, row) in enumerate(_made(folder, studies, seed), 1):
        study_rows.append({name: row[name] for name in STUDY_COLUMNS})
        lesion_rows.extend(_lesion_rows(study, row))
        if progress is not None:
            progress(done, studies)
    write_text(folder / "studies.csv", _table(STUDY_COLUMNS, study_rows))
    write_text(manifest, _table(LESION_COLUMNS, lesion_rows))
    return manifest


def _made(folder: Path, studies: int, seed: int) -> Iterator[tuple[PhantomStudy, Row]]:
    """Studies in order, made and written two at a time: array work and compression release Python's lock."""
    from threadpoolctl import threadpool_limits

    def make(index: int) -> tuple[PhantomStudy, Row]:
        study = make_study(seed, index)
        return study, _write_study(folder, study, ".mha" if index % 2 else ".nii.gz")

    pool = ThreadPoolExecutor(max_workers=THREADS)
    try:
        with threadpool_limits(1):  # BLAS threads of their own would only get in the way
            yield from pool.map(make, range(studies))
    finally:
        pool.shutdown(cancel_futures=True)


def _write_study(folder: Path, study: PhantomStudy, suffix: str) -> Row:
    """Write the volumes of one study, and return the columns all its rows share."""
    name = study.study_id
    make_folder(folder / name)
    row = {
        "study_id": name,
        "patient_id": study.patient_id,
        "centre": study.centre,
        "t2w": f"{name}/t2w{suffix}",
        "gland_mask": f"{name}/gland.nii.gz",
        "zone_mask": f"{name}/zones.nii.gz",
    }
    write_volume(study.volume, folder / row["t2w"])
    write_volume(study.gland, folder / row["gland_mask"])
    write_volume(study.zones, folder / row["zone_mask"])
    for lesion in study.lesions:
        write_volume(lesion.mask, folder / _mask_path(study, lesion.lesion_id))
    return row


def _mask_path(study: PhantomStudy, lesion_id: str) -> str:
    return f"{study.study_id}/lesion-{lesion_id}.nii.gz"


def _lesion_rows(study: PhantomStudy, shared: Row) -> list[Row]:
    """One manifest row a lesion."""
    return [
        {
            **shared,
            "lesion_id": lesion.lesion_id,
            "label": str(lesion.label),
            "zone": lesion.zone,
            "position_mm_lps": " ".join(f"{v:.3f}" for v in lesion.position_mm_lps),
            "lesion_mask": _mask_path(study, lesion.lesion_id),
        }
        for lesion in study.lesions
    ]


def _table(columns: tuple[str, ...], rows: list[Row]) -> str:
    """CSV text with a header and Unix line ends."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
