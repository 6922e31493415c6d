"""The study's report: one HTML file without a script, readable without a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from prostate_mim.files import write_text
from prostate_mim.study import background, curves, figures, markup
from prostate_mim.study.case_table import case_table
from prostate_mim.study.charts import Drawing
from prostate_mim.study.evidence import Evidence, Group, read_evidence
from prostate_mim.study.tables import Table, controls, differences, estimates, overview, shares, subsets
from prostate_mim.study.wording import (
    HOW_TO_READ,
    ORDER_RULE,
    facts,
    glance,
    heading,
    metric,
    share,
    study_title,
    traps,
    unfinished,
)  # fmt: skip

REPORT = "report.html"
_READ, _TRAPS, _CONTROLS, _BEHIND, _RECORDS = "How to read it", "Traps", "Controls", "Tasks and arms", "Records"


def write_study_report(out: Path) -> Path:
    """Write ``out/report.html``: self-contained, without a script, from what lies in the folder.

    Args:
        out: a study's folder: its parquet files; ``study.json``, ``run.json`` and ``cases/`` where they are there.

    Returns:
        Path of the page.

    Raises:
        NotFoundError: there are no results.
        IntegrityError: a table is damaged, or holds no result.
        UsageError, ResourceError: the page cannot be written.
        BackendError: pyarrow is missing.
    """
    evidence = read_evidence(out)
    path = out / REPORT
    write_text(path, make_page(evidence, out))
    return path


def make_page(evidence: Evidence, out: Path) -> str:
    """The page's HTML; see ``write_study_report``."""
    tasks = list(dict.fromkeys(group.task for group in evidence.groups))
    overviews = ["Overview"] if evidence.comparisons else []
    ends = [_CONTROLS, _READ, _TRAPS, _BEHIND, _RECORDS]
    title = study_title(evidence.study)
    return markup.document(
        title,
        [
            markup.header(title, _subtitle(evidence), _tiles(evidence)),
            markup.navigation([*overviews, *map(_task_heading, tasks), *ends]),
            "<main>",
            markup.listed(filter(None, [unfinished(evidence)]), "warnings"),
            *(_overview(evidence) for _ in overviews),
            *(_task(evidence, task, out) for task in tasks),
            _controls(evidence),
            _how_to_read(),
            markup.section(_TRAPS, "", [markup.listed(traps(evidence), "traps")]),
            _behind(evidence),
            _records(evidence),
            "</main>",
            '<footer><div class="quiet"></div></footer>',
        ],
    )


def _task_heading(task: str) -> str:
    return f"Task {task}"


def _subtitle(evidence: Evidence) -> str:
    parts = []
    if evidence.record.get("started"):
        parts.append(f"started {evidence.record['started']}")
    parts.append(f"page written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    parts.append("research software, not a medical device")
    return " · ".join(parts)


def _tiles(evidence: Evidence) -> list[tuple[str, str]]:
    spans = evidence.spans.values()
    counts = evidence.study.get("counts")
    tiles = [
        (str(len({group.task for group in evidence.groups})), "tasks"),
        (str(len({arm for span in spans for arm in span.arms})), "arms"),
        (str(len({group.architecture for group in evidence.groups})), "networks"),
        (str(len({seed for span in spans for seed in span.seeds})), "seeds"),
        (str(len(evidence.comparisons)), "paired comparisons"),
    ]
    if isinstance(counts, dict) and counts.get("cells"):
        tiles.append((f"{counts.get('done', 0)} / {counts['cells']}", "cells computed"))
    if time := background.duration(evidence):
        tiles.append((time, "wall time"))
    return tiles


def _overview(evidence: Evidence) -> str:
    short, whole = overview(evidence, every_share=False), overview(evidence)
    inside = [markup.table(short)]
    if len(whole.rows) > len(short.rows):
        inside.append(markup.folded("The same at every share of labels", markup.table(whole)))
    return markup.section("Overview", f"Counted from all comparisons. {ORDER_RULE}", inside)


def _task(evidence: Evidence, task: str, out: Path) -> str:
    groups = [group for group in evidence.groups if group.task == task]
    inside = [piece for group in groups for piece in _group(evidence, group)]
    inside += [piece for group in groups if (piece := _cases(evidence, group, out, group == groups[0]))]
    return markup.section(_task_heading(task), "", inside)


def _group(evidence: Evidence, group: Group) -> Iterator[str]:
    span = evidence.spans[group]
    most = span.fractions[-1]
    yield f"<h3>{markup.escape(heading(group))}</h3>"
    yield f'<p class="quiet">{markup.escape(facts(evidence, group))}</p>'
    yield markup.listed(glance(evidence, group, most), "glance")
    table = estimates(evidence, group, most, span.levels[0])
    yield markup.table(
        dataclasses.replace(table, note=f"Value [95 % interval over patients], {share(most)} of labels.")
    )
    drawings = (
        figures.estimates(evidence, group, most),
        figures.forest(evidence, group, most),
        figures.efficiency(evidence, group),
        curves.roc(evidence, group, most),
        curves.reliability(evidence, group, most),
        curves.decision(evidence, group, most),
    )
    yield from (markup.figure(drawing) for drawing in drawings if drawing is not None)
    yield from _further(evidence, group)


def _further(evidence: Evidence, group: Group) -> Iterator[str]:
    """What is a click away: forests at smaller shares of labels, and every table."""
    span = evidence.spans[group]
    smaller = [figures.forest(evidence, group, fraction) for fraction in span.fractions[:-1]]
    forests: list[Drawing] = [drawing for drawing in smaller if drawing is not None]
    if forests:
        title = "Paired differences at " + ", ".join(map(share, span.fractions[:-1])) + " of the labels"
        yield markup.folded(title, "".join(map(markup.figure, forests)))
    tables: list[Table] = [estimates(evidence, group, span.fractions[-1], level) for level in span.levels[1:]]
    tables += [shares(evidence, group)] if len(span.fractions) > 1 else []
    tables += [table for name in span.metrics for table in differences(evidence, group, name)]
    tables += [subsets(evidence, group)] if span.subsets else []
    for table in tables:
        yield markup.folded(f"Table: {table.title.partition(': ')[2]}", markup.table(table))


def _cases(evidence: Evidence, group: Group, out: Path, first: bool) -> str:
    """The first group's table has the pictures; the others name the same rows."""
    fraction = evidence.spans[group].fractions[-1]
    drawn = case_table(evidence, group, fraction, out, pictures=first)
    if not drawn:
        return ""
    return markup.folded(f"Every case: {heading(group)}, {share(fraction)} of the labels", drawn)


def _controls(evidence: Evidence) -> str:
    found = [table for table in (controls(evidence), background.checks(evidence)) if table is not None]
    line = "Pipelines that must find nothing, and mistakes that must be caught." if found else "No controls were run."
    return markup.section(_CONTROLS, line, map(markup.table, found))


def _how_to_read() -> str:
    terms = "".join(f"<dt>{markup.escape(a)}</dt><dd>{markup.escape(b)}</dd>" for a, b in HOW_TO_READ)
    return markup.section(_READ, "", [f'<dl class="read">{terms}</dl>'])


def _behind(evidence: Evidence) -> str:
    made = (background.tasks(evidence), background.arms(evidence), background.guard(evidence))
    return markup.section(
        _BEHIND, "What was compared on what, and why the test patients are new to every arm.",
        [markup.folded(table.title, markup.table(table), opened=True) for table in made if table is not None],
    )  # fmt: skip


def _records(evidence: Evidence) -> str:
    cards = [markup.folded(name, markup.name_value_table(rows), opened=name != "Configuration")
             for name, rows in background.records(evidence)]  # fmt: skip
    metrics = {metric(name) for span in evidence.spans.values() for name in span.metrics}
    return markup.section(_RECORDS, f"Metrics in the tables: {', '.join(sorted(metrics))}.",
                          [f'<div class="grid records">{"".join(cards)}</div>'])  # fmt: skip
