"""The tables: all that was computed is in them, in a fixed order, and names from data cannot break them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from study_files import Simulation, write_study

from prostate_mim.errors import IntegrityError, NotFoundError
from prostate_mim.study.evidence import Evidence, Group, read_evidence
from prostate_mim.study.records import COMPARISONS, RESULTS, read_table, table_path, write_table
from prostate_mim.study.tables import Table, all_tables, escape_latex, latex, markdown, write_tables
from prostate_mim.study.wording import glance, interval, number, number_range, p_value, share, signed, tallies, traps

GROUP = Group("lesions", "effnet-lite0", "linear")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("studies") / "small")


@pytest.fixture
def copy(out: Path, tmp_path: Path) -> Path:
    """The same tables, to be changed."""
    for path in out.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def cells(text: str) -> list[list[list[str]]]:
    """Every table of a Markdown text as rows of cells, as a real parser reads them."""
    tables: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and tables and token.level >= 4:
            kinds = {child.type for child in token.children or ()}
            assert kinds <= {"text", "text_special"}, f"markup in a cell: {kinds}"
            tables[-1][-1].append("".join(child.content for child in token.children or ()))
    return tables


# ------------------------------------------------------------------------------------------- what is in them


def test_every_comparison_is_there(out: Path) -> None:
    """As many lines as comparisons, each with its interval, p after Holm and what could be detected."""
    text = write_tables(out)[0].read_text()
    rows = [row for table in cells(text) if table[0][:2] == ["first", "second"] for row in table[1:]]
    compared = read_table(table_path(out, COMPARISONS), COMPARISONS)
    wanted = [
        [each["first"], each["second"], share(each["fraction"]), interval(each, "difference"),
         number(each["detectable"]), p_value(each["p_holm"])] for each in compared
    ]  # fmt: skip
    assert sorted([*row[:5], row[7]] for row in rows) == sorted(wanted)
    assert any(each["high"] < 0 for each in compared)  # the unfavourable is among them


def test_every_arm_is_in_every_table_and_controls_apart(out: Path) -> None:
    """Four arms in each table of arms, in both ways of writing; controls in a table of their own."""
    paths = write_tables(out)
    tables = [table for table in cells(paths[0].read_text()) if table[0][0] == "arm"]
    assert len(tables) == 4  # lesions: estimates, shares, subsets; voxels: estimates
    for table in tables:
        assert [row[0] for row in table[1:]] == ["random", "imagenet", "mim-block", "simclr"]
    found = [table for table in cells(paths[0].read_text()) if table[0][0] == "control"]
    assert [row[0] for row in found[0][1:]] == ["permuted:random"] * 3
    assert {row[-1] for row in found[0][1:]} <= {"yes", "no"}
    assert paths[1].read_text().count(r"\begin{tabular}") == len(cells(paths[0].read_text()))


def test_the_order_is_that_of_the_configuration(copy: Path) -> None:
    """Turning the configuration's list around turns the tables around; without one, references come first."""
    record = json.loads((copy / "study.json").read_text())
    names = [arm["name"] for arm in record["config"]["arms"]]
    record["config"]["arms"].reverse()
    (copy / "study.json").write_text(json.dumps(record))
    assert list(read_evidence(copy).spans[GROUP].arms) == names[::-1]
    (copy / "study.json").unlink()
    assert list(read_evidence(copy).spans[GROUP].arms) == ["random", "imagenet", "mim-block", "simclr"]


def test_the_order_is_not_that_of_the_results(copy: Path) -> None:
    """Turning every result around changes no arm's place: nothing is sorted by winner."""
    before = [table for table in all_tables(read_evidence(copy)) if table.header[0] == "arm"]
    rows = read_table(table_path(copy, RESULTS), RESULTS)
    turned = [
        {**row, "value": _turned(row["value"]), "low": _turned(row["high"]), "high": _turned(row["low"])}
        for row in rows
    ]
    write_table(table_path(copy, RESULTS), RESULTS, turned)
    after = [table for table in all_tables(read_evidence(copy)) if table.header[0] == "arm"]
    assert [[row[0] for row in table.rows] for table in before] == [[row[0] for row in table.rows] for table in after]
    assert [table.rows for table in before] != [table.rows for table in after]


def _turned(value: float | None) -> float | None:
    return None if value is None else 1 - value


def test_sentences_follow_the_numbers(copy: Path) -> None:
    """Every difference turned around: what lay above 0 is now said to lie below, and nothing else."""
    before = read_evidence(copy)
    rows = read_table(table_path(copy, COMPARISONS), COMPARISONS)
    turned = [{**row, "difference": -row["difference"], "low": -row["high"], "high": -row["low"]} for row in rows]
    write_table(table_path(copy, COMPARISONS), COMPARISONS, turned)
    after = read_evidence(copy)
    assert any(tally.above for tally in tallies(before, GROUP, 1.0))
    for old, new in zip(tallies(before, GROUP, 1.0), tallies(after, GROUP, 1.0), strict=True):
        assert (new.above, new.below, new.across) == (old.below, old.above, old.across)
    assert glance(before, GROUP, 1.0) != glance(after, GROUP, 1.0)
    assert traps(before) == traps(after)


def test_what_is_missing_is_a_dash(copy: Path) -> None:
    """No value: a dash. A value without an interval says so. No comparison: no table of differences."""
    rows = read_table(table_path(copy, RESULTS), RESULTS)
    for row in rows:
        if row["arm"] == "random":
            row.update(value=None, low=None, high=None)
        if row["arm"] == "imagenet":
            row.update(low=None, high=None)
    write_table(table_path(copy, RESULTS), RESULTS, rows)
    write_table(table_path(copy, COMPARISONS), COMPARISONS, [])
    table = all_tables(read_evidence(copy))[0]
    assert set(table.rows[0][1:]) == {"–"}
    assert all(cell.endswith("(no interval)") for cell in table.rows[1][1:])
    assert not [table for table in all_tables(read_evidence(copy)) if "first" in table.header]


def test_damaged_and_missing_tables_are_refused(copy: Path, tmp_path: Path) -> None:
    """In one line that says what to do."""
    path = table_path(copy, RESULTS)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(IntegrityError, match="damaged"):
        write_tables(copy)
    rows = [row for row in read_table_of(data, tmp_path) if row["arm"].startswith("control:")]
    write_table(path, RESULTS, rows)
    with pytest.raises(IntegrityError, match="no result of any arm"):
        write_tables(copy)
    path.unlink()
    with pytest.raises(NotFoundError, match="prostate-mim study"):
        write_tables(copy)
    (copy / "study.json").write_text("[]")
    write_table(path, RESULTS, read_table_of(data, tmp_path))
    with pytest.raises(IntegrityError, match=r"study\.json"):
        write_tables(copy)


def read_table_of(data: bytes, folder: Path) -> list[dict[str, object]]:
    (folder / "whole.parquet").write_bytes(data)
    return read_table(folder / "whole.parquet", RESULTS)


def test_references_come_from_the_configuration(copy: Path) -> None:
    """Arms are references by what they are initialised with, whatever they are called."""
    evidence = read_evidence(copy)
    assert evidence.references(GROUP) == ["random", "imagenet"]
    record = json.loads((copy / "study.json").read_text())
    record["config"]["arms"][0]["initialisation"] = "pretrained"
    (copy / "study.json").write_text(json.dumps(record))
    assert read_evidence(copy).references(GROUP) == ["imagenet"]


def test_numbers_as_text() -> None:
    """By hand; a rounded zero has no sign."""
    assert [number(v) for v in (0.7364, -0.0004, None, float("nan"), -0.5)] == ["0.736", "0.000", "–", "–", "−0.500"]
    assert [signed(v) for v in (0.0121, -0.0121, 0.0002, None)] == ["+0.012", "−0.012", "0.000", "–"]
    assert [p_value(v) for v in (0.0312, 0.0002, None, 1.0)] == ["0.031", "< 0.001", "–", "1.000"]
    assert [share(v) for v in (0.05, 1.0, 0.125)] == ["5 %", "100 %", "12.5 %"]
    assert [number_range(v) for v in ((), (0.1, 0.1), (0.1, 0.3))] == ["–", "0.100", "0.100 to 0.300"]
    assert interval({"value": 0.736, "low": 0.678, "high": 0.792}) == "0.736 [0.678, 0.792]"


# ------------------------------------------------------------------------------------------- escaping

TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=20)
SPECIAL = st.text(st.sampled_from("\\`*_<>|#~[]()!&%${}^\"' -+.1a:\n"), max_size=12)


@given(first=st.one_of(TEXTS, SPECIAL), second=SPECIAL)
def test_markdown_shows_names_as_they_are(first: str, second: str) -> None:
    """A real parser reads back every cell, whatever is in it: no cell ends early, nothing becomes markup."""
    table = Table("t", "title", "note", ("arm", "value"), ((f"x{first}x", f"x{second}x"),))
    assert cells(markdown(table))[0][1] == [" ".join(f"x{text}x".split()) for text in (first, second)]


def test_unescaped_markdown_is_found_out() -> None:
    """The control: the same reader sees a cell that ends early, and refuses markup."""
    assert cells("| a |\n| :-- |\n| x|y |\n")[0][1] == ["x"]
    with pytest.raises(AssertionError, match="markup"):
        cells("| a |\n| :-- |\n| *x* |\n")


LATEX = {
    r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<",
    r"\textgreater{}": ">", r"\textbar{}": "|", "{[}": "[", "{]}": "]", r"\&": "&", r"\%": "%", r"\$": "$", r"\#": "#",
    r"\_": "_", r"\{": "{", r"\}": "}", "{''}": '"',
}  # fmt: skip


@given(SPECIAL)
def test_latex_prints_names_as_they_are(text: str) -> None:
    """What LaTeX reads of it is the text: every special letter stands in one of the known ways, and none is left."""
    pattern = "|".join(re.escape(written) for written in sorted(LATEX, key=len, reverse=True))
    text = text.replace("\n", " ")
    assert re.sub(pattern, lambda found: LATEX[found[0]], escape_latex(text)) == text
    assert not re.search(r"[\\{}$&#^_~%]", re.sub(pattern, "", escape_latex(text)))


def test_latex_tables_are_whole(out: Path) -> None:
    """Every row has the columns of its table; every begin has its end; rules are those of booktabs."""
    text = write_tables(out)[1].read_text()
    assert re.findall(r"\\begin\{(\w+)\}", text) == [name for _ in all_tables(read_evidence(out)) for name in
                                                     ("table", "tabular")]  # fmt: skip
    assert text.count(r"\begin{") == text.count(r"\end{")
    for shape, body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, re.S):
        assert body.startswith("\\toprule\n") and body.endswith("\\bottomrule\n") and body.count(r"\midrule") == 1
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert rows and {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(shape)}


def test_a_hostile_arm_breaks_no_table(tmp_path: Path) -> None:
    """An arm called like markup is one cell of every table."""
    out = write_study(tmp_path / "small", Simulation(patients=12, probe=False, fractions=(1.0,)))
    name = "a|b\\ & <c> $d_e$ [f](g)"
    for kind in (RESULTS, COMPARISONS):
        rows = read_table(table_path(out, kind), kind)
        write_table(
            table_path(out, kind),
            kind,
            [{key: name if value == "simclr" else value for key, value in row.items()} for row in rows],
        )
    evidence: Evidence = read_evidence(out)
    for table in all_tables(evidence):
        found = cells(markdown(table))[0]
        assert [tuple(row) for row in found[1:]] == list(table.rows)
        assert all(line.count(r" \\") == 1 for line in latex(table).splitlines() if line.endswith(r"\\"))
