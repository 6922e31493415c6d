"""The study's tables, as Markdown and as LaTeX (booktabs): every arm and every comparison, favourable or not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prostate_mim.files import write_text
from prostate_mim.study.evidence import Evidence, Group, Row, read_evidence
from prostate_mim.study.records import ALL, PERMUTED
from prostate_mim.study.wording import (
    MISSING,
    ORDER_RULE,
    facts,
    heading,
    interval,
    metric,
    number,
    number_range,
    p_value,
    share,
    tallies,
)  # fmt: skip

MARKDOWN, LATEX = "table.md", "table.tex"
MAIN_METRICS = (
    "auroc", "dice", "balanced_accuracy", "correct", "average_precision", "sensitivity_at_specificity_90",
    "specificity_at_sensitivity_90", "brier", "ece",
)  # fmt: skip
_CHANCE = 0.5
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "−": "$-$", "–": "--",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "→": r"$\rightarrow$", "[": "{[}", "]": "{]}",
    '"': "{''}", "\n": " ",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Plain text in cells; each way of writing escapes it.

    Attributes:
        name: of its LaTeX label: letters, digits, ``-``.
        title: above it.
        note: below it.
        header: names of the columns.
        rows: cells, as many as the header.
        words: how many columns from the left hold words; the others hold numbers.
    """

    name: str
    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1


def write_tables(out: Path) -> tuple[Path, Path]:
    """Write ``table.md`` and ``table.tex`` into a study's folder.

    Args:
        out: with the study's parquet files.

    Returns:
        the two paths.

    Raises:
        NotFoundError, IntegrityError, BackendError: as ``read_evidence``.
        UsageError, ResourceError: they cannot be written.
    """
    evidence = read_evidence(out)
    tables = all_tables(evidence)
    write_text(out / MARKDOWN, "\n\n".join(markdown(table) for table in tables) + f"\n\n{ORDER_RULE}\n")
    start = "% Needs \\usepackage{booktabs}. " + ORDER_RULE.replace("%", "per cent") + "\n\n"
    write_text(out / LATEX, start + "\n".join(latex(table) for table in tables))
    return out / MARKDOWN, out / LATEX


def all_tables(evidence: Evidence) -> list[Table]:
    """Every table of the study: by group its estimates, differences, shares and subsets; then the controls."""
    tables = [overview(evidence)] if evidence.comparisons else []
    for group in evidence.groups:
        tables += tables_of(evidence, group)
    tables += [table] if (table := controls(evidence)) is not None else []
    return tables


def overview(evidence: Evidence, *, every_share: bool = True) -> Table:
    """One row per group, share of labels (the largest alone, if so wished) and reference: how all intervals lie."""
    rows = []
    for group in evidence.groups:
        for fraction in evidence.spans[group].fractions[0 if every_share else -1 :]:
            for tally in tallies(evidence, group, fraction):
                detectable = number_range(tally.detectable)
                counts = map(str, (tally.compared, len(tally.above), len(tally.below), tally.across, tally.kept))
                rows.append((group.task, heading(group), tally.second, share(fraction), *counts, detectable))
    return Table(
        "overview",
        "All comparisons, counted" + ("" if every_share else ", at the largest share of labels"),
        "How many 95 % intervals of paired differences from the reference lie above 0, below 0 and across it; how many "
        "have p < 0.05 after Holm's correction; and the smallest and largest detectable difference.",
        ("task", "network", "reference", "labels", "arms", "above 0", "below 0", "across 0", "Holm p < 0.05",
         "detectable"),
        tuple(rows),
        words=3,
    )  # fmt: skip


def tables_of(evidence: Evidence, group: Group) -> Iterator[Table]:
    """The tables of one group."""
    span = evidence.spans[group]
    for level in span.levels:
        yield estimates(evidence, group, span.fractions[-1], level)
    for name in span.metrics:
        yield from differences(evidence, group, name)
    if len(span.fractions) > 1:
        yield shares(evidence, group)
    if span.subsets:
        yield subsets(evidence, group)


def estimates(evidence: Evidence, group: Group, fraction: float, level: str) -> Table:
    """One row an arm: its metrics with intervals, at one share of labels."""
    span = evidence.spans[group]
    names = [name for name in MAIN_METRICS if name in span.metrics] or list(span.metrics)
    rows = tuple(
        (arm, *(interval(evidence.result(group, arm, fraction, name, level=level)) for name in names))
        for arm in span.arms
    )
    return Table(
        f"estimates-{group.task}-{group.architecture}-{group.mode}-{level}",
        f"{heading(group, task=True)}, by {level}, {share(fraction)} of the labels",
        f"Value [95 % interval over patients]. {facts(evidence, group, level)}",
        ("arm", *(metric(name, way=True) for name in names)),
        rows,
    )


def differences(evidence: Evidence, group: Group, name: str) -> Iterator[Table]:
    """Every comparison of a group in one metric, at every share of labels; nothing where nothing was compared."""
    rows = evidence.compared(group, metric=name)
    if not rows:
        return
    yield Table(
        f"differences-{group.task}-{group.architecture}-{group.mode}-{name}",
        f"{heading(group, task=True)}: paired differences of {metric(name)}",
        "First minus second, on the same patients, with the 95 % interval of the paired bootstrap. Detectable: the "
        "true difference that 4 of 5 studies of this size would find. Holm: the bootstrap's p corrected over the "
        "comparisons of one network, mode and share of labels.",
        ("first", "second", "labels", "difference", "detectable", "p DeLong", "p bootstrap", "p Holm", "p seeds"),
        tuple(_difference(row) for row in rows),
        words=2,
    )


def _difference(row: Row) -> tuple[str, ...]:
    values = (p_value(row[name]) for name in ("p_delong", "p_bootstrap", "p_holm", "p_seeds"))
    return (
        row["first"], row["second"], share(row["fraction"]), interval(row, "difference"), number(row["detectable"]),
        *values,
    )  # fmt: skip


def shares(evidence: Evidence, group: Group) -> Table:
    """One row an arm, one column a share of labels."""
    span = evidence.spans[group]
    rows = tuple(
        (arm, *(interval(evidence.result(group, arm, each, span.leading)) for each in span.fractions))
        for arm in span.arms
    )
    return Table(
        f"shares-{group.task}-{group.architecture}-{group.mode}",
        f"{heading(group, task=True)}: {metric(span.leading)} by share of the training labels",
        "Value [95 % interval over patients]; test patients are the same at every share.",
        ("arm", *map(share, span.fractions)),
        rows,
    )


def subsets(evidence: Evidence, group: Group) -> Table:
    """One row an arm, one column a zone or centre, at the largest share of labels."""
    span = evidence.spans[group]
    found = {
        name: [evidence.result(group, arm, span.fractions[-1], span.leading, subset=name) for arm in span.arms]
        for name in (ALL, *span.subsets)
    }
    counts = {name: next((row for row in rows if row is not None), None) for name, rows in found.items()}
    header = tuple(f"{name.replace('=', ' ')} ({_counted(row)})" for name, row in counts.items())
    rows = tuple((arm, *(interval(found[name][place]) for name in found)) for place, arm in enumerate(span.arms))
    return Table(
        f"subsets-{group.task}-{group.architecture}-{group.mode}",
        f"{heading(group, task=True)}: {metric(span.leading)} by zone and centre",
        f"Value [95 % interval over patients] at {share(span.fractions[-1])} of the labels; in brackets: positive of "
        "all rows. Small parts have wide intervals, and nothing is corrected for looking at several of them.",
        ("arm", *header),
        rows,
    )


def _counted(row: Row | None) -> str:
    if row is None:
        return "0"
    return f"{row['positives']} of {row['rows']}" if row["positives"] else f"{row['patients']} patients"


def controls(evidence: Evidence) -> Table | None:
    """Arms that must not succeed, with whether their interval covers 0.5; None where none were computed."""
    rows = [row for row in evidence.controls() if row["metric"] == "auroc"]
    if not rows:
        return None
    cells = tuple(
        (row["arm"].partition(":")[2], row["task"], f"{row['architecture']}, {row['mode']}", share(row["fraction"]),
         row["level"], interval(row), _covers(row))
        for row in rows
    )  # fmt: skip
    covering = [said for row in rows if (said := _covers(row)) != MISSING]
    return Table(
        "controls",
        "Controls: AUROC",
        f"Permuted: the labels were shuffled, anew for every seed, so that there is nothing to learn; value and "
        f"interval (Student's t) are of the mean over these permutations. Of {len(covering)} intervals "
        f"{covering.count('yes')} cover 0.5, where about 1 of 20 misses it by chance. By patient it may lie "
        "above 0.5: who has more lesions has a higher maximum and more chances of a positive one. Duplicated: rows "
        "were counted twice, which must not narrow the interval of the arm of that name. Place: what the place in "
        "the window alone tells, without any feature. Location: what the place in the body tells, in mm from the "
        "middle of the scan, and of parts of the gland from the gland's too; an arm that is no better may know places "
        "and nothing else.",
        ("control", "task", "network", "labels", "by", "AUROC", "interval covers 0.5"),
        cells,
        words=3,
    )


def _covers(row: Row) -> str:
    if not row["arm"].startswith(PERMUTED):
        return MISSING  # only shuffled labels promise 0.5
    if row["low"] is None or row["high"] is None:
        return "no interval"
    return "yes" if row["low"] <= _CHANCE <= row["high"] else "no"


def markdown(table: Table) -> str:
    """A heading, the table (numbers to the right), the note."""
    rule = [":--" if place < table.words else "--:" for place in range(len(table.header))]
    lines = [table.header, rule, *table.rows]
    drawn = "\n".join(f"| {' | '.join(map(escape_markdown, line))} |" for line in lines)
    return f"### {escape_markdown(table.title)}\n\n{drawn}\n\n{escape_markdown(table.note)}"


def escape_markdown(text: str) -> str:
    """Text as Markdown shows it, whatever is in it: nothing ends a cell, begins markup or is taken for HTML."""
    return re.sub(r"([\\`*_<>|#~]|\](?=[(\[:]))", r"\\\1", " ".join(text.split()))


def latex(table: Table) -> str:
    """A ``table`` float with booktabs rules."""
    shape = "l" * table.words + "r" * (len(table.header) - table.words)
    lines = [_line(table.header), r"\midrule", *map(_line, table.rows)]
    return "\n".join([
        r"\begin{table}", r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{escape_latex(table.title)}. {escape_latex(table.note)}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9]+', '-', table.name)}}}", rf"\begin{{tabular}}{{{shape}}}", r"\toprule",
        *lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
    ])  # fmt: skip


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(escape_latex, cells)) + r" \\"


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it, whatever is in it."""
    return "".join(_LATEX.get(letter, letter) for letter in text)
