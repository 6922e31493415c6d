"""import_dataset: the folder of a data set -> a checked manifest, beside it a list of what was left out."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from prostate_mim.datasets.catalogue import DATASETS
from prostate_mim.datasets.found import DataSet, Found, FoundRow, ImportOptions, Skipped
from prostate_mim.errors import ManifestError, NotFoundError, UsageError, nearest
from prostate_mim.files import atomic_path, make_folder, write_text
from prostate_mim.manifest import read_manifest

_COLUMNS = (
    "study_id", "patient_id", "t2w", "lesion_id", "label", "position_mm_lps", "lesion_mask", "gland_mask", "zone",
    "centre", "fold", "spacing_mm_zyx", "is_crop",
)  # fmt: skip
_ALWAYS = ("study_id", "patient_id", "t2w")


@dataclass(frozen=True)
class ImportSummary:
    """What was imported.

    Attributes:
        dataset: name of the set.
        manifest: the CSV.
        studies, patients: how many different ones the rows name.
        lesions: rows that say where a lesion is.
        positives, negatives: rows with label 1 and 0.
        skipped: how many things became no row, by reason; which ones is in the list beside the manifest.
        skipped_list: that list; None where nothing was left out.
        label_source: where labels come from; a column of the manifest too.
        notes: what a user should know.
        licence, citation, url: of the set.
    """

    dataset: str
    manifest: Path
    studies: int
    patients: int
    lesions: int
    positives: int
    negatives: int
    skipped: dict[str, int]
    skipped_list: Path | None
    label_source: str
    notes: tuple[str, ...]
    licence: str
    citation: str
    url: str


def import_dataset(
    name: str,
    folder: str | Path,
    out: str | Path,
    *,
    labels: str | Path | None = None,
    label_source: str | None = None,
    labelled_only: bool = False,
) -> ImportSummary:
    """Read a data set's folder as it was downloaded, and write a manifest of it.

    Args:
        name: key of ``DATASETS``.
        folder: the data set, in the layout its publisher gives it. Nothing in it is changed.
        out: the CSV to write; its paths are relative to its own folder.
        labels: labels that do not lie in ``folder``; see the data set's ``labels_help``.
        label_source: one of the data set's ``label_sources``.
        labelled_only: leave out rows without a label or a place, which fine-tuning refuses and pretraining can use.

    Raises:
        UsageError: an unknown set or source, an option this set has no use for, or ``out`` exists or cannot be written.
        NotFoundError: the folder, or a table in it, is not there.
        ManifestError: nothing usable is in the folder, or a table is malformed.
        VolumeError: a file that has to be converted is damaged.
        BackendError: a library of the extra ``datasets`` is missing.
    """
    dataset = _dataset(name)
    source, final = Path(folder), Path(out)
    if not source.is_dir():
        raise NotFoundError(f"{source}: no such folder; give the folder that the data set was unpacked into")
    if final.exists():
        raise UsageError(f"{final}: already there, and nothing is overwritten; choose another --out")
    derived = final.with_name(f"{final.stem}-files")
    options = ImportOptions(_labels(dataset, labels), _label_source(dataset, label_source), derived)
    make_folder(final.parent)
    with _all_or_nothing(derived):
        found = dataset.find(source, options)
        if labelled_only:
            found = _labelled(found)
        if not found.rows:
            reasons = "; ".join(f"{count} {reason}" for reason, count in found.skipped_counts().items())
            raise ManifestError(f"{source}: no study of {dataset.title} ({reasons or 'nothing that looks like one'})")
        with atomic_path(final) as temporary:
            temporary.write_text(_csv(found, final.parent), encoding="utf-8")
            read_manifest(temporary)  # what is published must be readable: a refusal here leaves nothing behind
    return _summary(dataset, found, final, _write_skipped(found, final))


def _dataset(name: str) -> DataSet:
    if name not in DATASETS:
        near = nearest(name.lower(), DATASETS)
        hint = f"did you mean {near}?" if near else "choose " + ", ".join(sorted(DATASETS))
        raise UsageError(f"data set {name!r} is unknown; {hint}")
    return DATASETS[name]


@contextmanager
def _all_or_nothing(derived: Path) -> Iterator[None]:
    """Remove the files that an import has made if it ends without a manifest, by Ctrl-C too."""
    there = derived.exists()
    try:
        yield
    except BaseException:
        if not there:
            shutil.rmtree(derived, ignore_errors=True)
        raise


def _labelled(found: Found) -> Found:
    kept = tuple(row for row in found.rows if row.label is not None and row.has_lesion)
    others = [row for row in found.rows if row.label is None or not row.has_lesion]
    reasons = {True: "without a label", False: "labelled, but without a place"}
    left = tuple(Skipped(f"{row.study_id} {row.lesion_id}".strip(), reasons[row.label is None]) for row in others)
    return replace(found, rows=kept, skipped=(*found.skipped, *left))


def _labels(dataset: DataSet, labels: str | Path | None) -> Path | None:
    if labels is None:
        return None
    if not dataset.labels_help:
        raise UsageError(f"--labels has no use for {dataset.name}: its labels lie in its own folder; leave it out")
    if not Path(labels).exists():
        raise NotFoundError(f"{labels}: not there; --labels of {dataset.name} is {dataset.labels_help}")
    return Path(labels)


def _label_source(dataset: DataSet, label_source: str | None) -> str | None:
    if label_source is not None and label_source not in dataset.label_sources:
        choice = f"choose {', '.join(dataset.label_sources)}" if dataset.label_sources else "leave it out"
        raise UsageError(f"label source {label_source!r} is unknown for {dataset.name}; {choice}")
    return label_source


def _csv(found: Found, folder: Path) -> str:
    """The manifest's text. Columns that no row fills are left out."""
    rows = [_cells(row, folder, found.label_source) for row in found.rows]
    extra = sorted({name for row in rows for name in row} - set(_COLUMNS))
    filled = [name for name in _COLUMNS if name in _ALWAYS or any(row.get(name) for row in rows)]
    return _table([*filled, *extra], rows)


def _cells(row: FoundRow, folder: Path, label_source: str) -> dict[str, str]:
    clash = set(row.extra) & set(_COLUMNS)
    if clash:
        raise ManifestError(f"an importer's further column {min(clash)!r} is one of the manifest's own")
    cells = {
        "study_id": row.study_id,
        "patient_id": row.patient_id,
        "t2w": _relative(row.t2w, folder),
        "lesion_id": row.lesion_id,
        "label": "" if row.label is None else str(row.label),
        "position_mm_lps": _three(row.position_mm_lps),
        "lesion_mask": _relative(row.lesion_mask, folder),
        "gland_mask": _relative(row.gland_mask, folder),
        "zone": row.zone,
        "centre": row.centre,
        "fold": "" if row.fold is None else str(row.fold),
        "spacing_mm_zyx": _three(row.spacing_mm_zyx),
        "is_crop": "1" if row.is_crop else "",
    }
    sources = {"label_source": label_source} if label_source else {}
    return {**cells, **sources, **row.extra}


def _three(values: Sequence[float] | None) -> str:
    return "" if values is None else " ".join(f"{value:.10g}" for value in values)


def _relative(path: Path | None, folder: Path) -> str:
    """As seen from the manifest, with forward slashes; absolute where there is no way (another drive)."""
    if path is None:
        return ""
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return str(path.resolve())


def _table(columns: Sequence[str], rows: Iterable[dict[str, str]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _write_skipped(found: Found, manifest: Path) -> Path | None:
    if not found.skipped:
        return None
    path = manifest.with_name(f"{manifest.stem}-skipped.csv")
    write_text(path, _table(("item", "reason"), [{"item": s.item, "reason": s.reason} for s in found.skipped]))
    return path


def _summary(dataset: DataSet, found: Found, manifest: Path, skipped_list: Path | None) -> ImportSummary:
    rows = found.rows
    return ImportSummary(
        dataset=dataset.name,
        manifest=manifest,
        studies=len({row.study_id for row in rows}),
        patients=len({row.patient_id for row in rows}),
        lesions=sum(row.has_lesion for row in rows),
        positives=sum(row.label == 1 for row in rows),
        negatives=sum(row.label == 0 for row in rows),
        skipped=found.skipped_counts(),
        skipped_list=skipped_list,
        label_source=found.label_source,
        notes=found.notes,
        licence=dataset.licence,
        citation=dataset.citation,
        url=dataset.url,
    )
