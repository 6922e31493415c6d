"""The study as one Markdown page with PNG figures beside it, for a repository that shows both."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

from prostate_mim.files import make_folder, write_bytes
from prostate_mim.study import background, curves, figures
from prostate_mim.study.charts import Drawing, png
from prostate_mim.study.evidence import Evidence, Group, read_evidence
from prostate_mim.study.records import STUDY
from prostate_mim.study.tables import Table, controls, escape_markdown, markdown, overview, tables_of
from prostate_mim.study.wording import (
    HOW_TO_READ,
    ORDER_RULE,
    facts,
    glance,
    heading,
    study_title,
    traps,
    unfinished,
)

MOST_BYTES = 200_000
_LONG = 25  # rows of a table that is folded
_MOST = 250  # values of a record that are listed; a study of many arms has thousands


def study_markdown(out: Path, figures_folder: Path | None = None, *, prefix: str = "") -> str:
    """The page's text; the figures are written as PNG.

    Args:
        out: a study's folder.
        figures_folder: where ``<figure>.png`` go, each under 200 kB; no figures if None.
        prefix: of their addresses in the text: the folder as seen from the page, such as ``study/``.

    Raises:
        NotFoundError, IntegrityError, BackendError: as ``read_evidence``.
        UsageError: a figure cannot be made small enough, or the folder cannot be written.
        ResourceError: the disk is full.
    """
    evidence = read_evidence(out)
    if figures_folder is not None:
        make_folder(figures_folder)
    lines = [f"# {escape_markdown(study_title(evidence.study))}", *_preface(evidence)]
    if evidence.comparisons:
        lines += ["## Overview", markdown(overview(evidence))]
    for group in evidence.groups:
        lines.append(f"## {escape_markdown(heading(group, task=True))}")
        lines += _group(evidence, group, figures_folder, prefix)
    lines += ["## Controls", *_tables(controls(evidence), background.checks(evidence))]
    lines += [
        "## How to read it",
        "\n".join(f"- **{escape_markdown(a)}**: {escape_markdown(b)}" for a, b in HOW_TO_READ),
    ]
    lines += ["## Traps", "\n".join(f"- {escape_markdown(line)}" for line in traps(evidence))]
    lines += ["## Tasks and arms"]
    lines += _tables(background.tasks(evidence), background.arms(evidence), background.guard(evidence))
    lines += ["## Records", *_records(evidence)]
    return "\n\n".join(lines) + "\n"


def _preface(evidence: Evidence) -> Iterator[str]:
    if said := unfinished(evidence):
        yield f"**{said}**"
    yield f"Every number and figure on this page is made from the study's tables. {ORDER_RULE}"


def _group(evidence: Evidence, group: Group, folder: Path | None, prefix: str) -> Iterator[str]:
    most = evidence.spans[group].fractions[-1]
    yield escape_markdown(facts(evidence, group))
    if lines := glance(evidence, group, most):
        yield "\n".join(f"- {escape_markdown(line)}" for line in lines)
    drawings = (
        figures.forest(evidence, group, most),
        figures.estimates(evidence, group, most),
        figures.efficiency(evidence, group),
        curves.roc(evidence, group, most),
        curves.reliability(evidence, group, most),
        curves.decision(evidence, group, most),
    )
    if folder is not None:
        for drawing in drawings:
            if drawing is not None:
                yield _figure(drawing, folder, prefix)
    for table in tables_of(evidence, group):
        yield _folded(table)


def _figure(drawing: Drawing, folder: Path, prefix: str) -> str:
    write_bytes(folder / f"{drawing.name}.png", png(drawing, MOST_BYTES))
    alt = escape_markdown(drawing.alt).replace("[", "(").replace("]", ")")  # brackets would end the description
    title, text = escape_markdown(drawing.title), escape_markdown(drawing.text)
    return f"**{title}**\n\n![{alt}]({prefix}{drawing.name}.png)\n\n{text}"


def _folded(table: Table) -> str:
    """Long tables are a click away; what is folded is still all there."""
    text = markdown(table)
    if len(table.rows) <= _LONG:
        return text
    return f"<details><summary>{html.escape(table.title)} ({len(table.rows)} rows)</summary>\n\n{text}\n\n</details>"


def _tables(*tables: Table | None) -> list[str]:
    return [_folded(table) for table in tables if table is not None] or ["None were recorded."]


def _records(evidence: Evidence) -> Iterator[str]:
    for name, rows in background.records(evidence):
        if len(rows) > _MOST:
            yield f"**{escape_markdown(name)}**: {len(rows):,} values, all in {STUDY}."
            continue
        listed = "\n".join(f"| {escape_markdown(key)} | {escape_markdown(value)} |" for key, value in rows.items())
        text = f"| {escape_markdown(name)} | |\n| :-- | :-- |\n{listed}"
        folded = f"<details><summary>{html.escape(name)}</summary>\n\n{text}\n\n</details>"
        yield folded if len(rows) > _LONG else text
