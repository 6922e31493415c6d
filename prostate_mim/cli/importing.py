"""Commands for public data sets: data import, data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prostate_mim.cli import options
from prostate_mim.console import plain, show, waiting

if TYPE_CHECKING:
    from prostate_mim.datasets import DataSet, ImportSummary


def import_(
    name: Annotated[str, typer.Argument(help="Data set: one of those that 'data sets' lists.")],
    folder: Annotated[Path, typer.Argument(help="Where it was unpacked, in the layout its publisher gives it.")],
    out: Annotated[Path, typer.Option("--out", help="CSV to write: the manifest for training and prediction.")],
    labels: Annotated[Path | None, typer.Option(help="Labels that lie elsewhere; 'data sets' says which.")] = None,
    label_source: Annotated[
        str | None, typer.Option(help="Which of several sets of labels; the data set's default if left out.")
    ] = None,
    labelled_only: Annotated[
        bool, typer.Option("--labelled-only", help="Only lesions with a label and a place, as fine-tuning wants them.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Read a public data set as it was downloaded, and write a manifest of it. Nothing is downloaded or changed."""
    from prostate_mim.datasets import import_dataset

    with waiting("reading every image and mask once"):
        summary = import_dataset(
            name, folder, out, labels=labels, label_source=label_source, labelled_only=labelled_only
        )
    if as_json:
        show(plain(summary), as_json=True)
    else:
        show(_lines(summary), as_json=False)


def sets(as_json: options.Json = False) -> None:
    """List the public data sets that can be imported, with their licences."""
    from prostate_mim.datasets import DATASETS

    listed = [_entry(dataset) for _, dataset in sorted(DATASETS.items())]
    show(listed if as_json else [_text(entry) for entry in listed], as_json)


def _lines(summary: ImportSummary) -> list[str]:
    """What a person should know after an import, the most important first."""
    unlabelled = summary.lesions - summary.positives - summary.negatives
    lines = [
        f"{summary.manifest}: {_count(summary.studies, 'study', 'studies')} of "
        f"{_count(summary.patients, 'patient', 'patients')}, {_count(summary.lesions, 'lesion', 'lesions')}",
    ]
    if summary.positives + summary.negatives:
        without = f", {unlabelled} lesions without" if unlabelled > 0 else ""
        lines.append(f"labels: {summary.positives} positive, {summary.negatives} negative{without}")
    else:
        lines.append("labels: none")
    if summary.label_source:
        lines.append(f"label source: {summary.label_source}")
    if summary.skipped_list is None:
        lines.append("left out: none")
    else:
        lines.append(f"left out: {sum(summary.skipped.values())} (which: {summary.skipped_list})")
        lines += [f"  {count}  {reason}" for reason, count in summary.skipped.items()]
    lines += [f"note: {note}" for note in summary.notes]
    terms = (("licence", summary.licence), ("cite", summary.citation), ("from", summary.url))
    return lines + [f"{what}: {text}" for what, text in terms if text]


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _entry(dataset: DataSet) -> dict[str, str]:
    """What ``data sets`` says of one; the keys of its JSON."""
    return {
        "name": dataset.name,
        "title": dataset.title,
        "licence": dataset.licence,
        "url": dataset.url,
        "labels": dataset.labels_help,
        "label_sources": ", ".join(dataset.label_sources),
    }


def _text(entry: dict[str, str]) -> str:
    headings = {
        "licence": "licence",
        "url": "from",
        "labels": "--labels",
        "label_sources": "--label-source (the first is the default)",
    }
    lines = [f"    {heading}: {entry[key]}" for key, heading in headings.items() if entry[key]]
    return "\n".join([f"{entry['name']}: {entry['title']}", *lines])
