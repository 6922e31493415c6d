"""How single pages are made: notebooks, flow charts, copies of the repository's pages, sentences as markup."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import links
import pytest
from api_pages import shorten, tidy
from flow_chart import BOX_HEIGHT, Chart, parsed
from made_files import MadeFolder
from mirror import Mirror, in_docs, resolved, targets
from notebook_pages import as_markdown
from rst import escaped
from site_building import ROOT


def cell(kind: str, source: str, *outputs: dict[str, object]) -> dict[str, object]:
    return {"cell_type": kind, "source": source.splitlines(keepends=True), "outputs": list(outputs)}


def test_a_notebook_is_its_text_code_and_outputs() -> None:
    """In order; colours of a terminal are gone, a picture is inside the page, HTML is not taken over."""
    shown = {"image/png": "QUJD\nREVG\n", "text/plain": "<Figure>"}
    notebook = {
        "cells": [
            cell("markdown", "# Title\n\ntext"),
            cell("code", "print(1)", {"output_type": "stream", "name": "stdout", "text": ["\x1b[1m1\x1b[0m\n"]}),
            cell("code", "draw()", {"output_type": "display_data", "data": shown}),
            cell("code", "x", {"output_type": "execute_result", "data": {"text/html": "<script>", "text/plain": "x"}}),
            cell("code", ""),
        ]
    }
    assert as_markdown(notebook) == (
        "# Title\n\ntext\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n```python\ndraw()\n```\n\n"
        "![What the cell above draws](data:image/png;base64,QUJDREVG)\n\n```python\nx\n```\n\n```text\nx\n```\n"
    )


def test_code_with_fences_stays_inside_its_own() -> None:
    """A fence is longer than any in what it holds."""
    assert as_markdown({"cells": [cell("code", 'a = "```"')]}) == '````python\na = "```"\n````\n'


def test_the_chart_of_contributing_is_drawn() -> None:
    """All boxes and arrows; boxes of a row do not overlap; arrows go down."""
    (text,) = re.findall(r"```mermaid\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.S)
    chart = Chart(parsed(text))
    picture = chart.svg()
    names = {name for arrow in parsed(text) for name in arrow}
    assert set(re.findall(r">([\w -]+)</text>", picture)) == names
    assert picture.count("marker-end") == len(chart.arrows) > 10
    for row in chart.rows:
        edges = [(chart.x[name] - chart.width(name) / 2, chart.x[name] + chart.width(name) / 2) for name in row]
        assert all(right < left for (_, right), (left, _) in pairwise(edges))
    assert all(chart.layer[begin] < chart.layer[end] for begin, end in chart.arrows)
    assert "NaN" not in picture and BOX_HEIGHT > 0


def test_other_charts_are_left_as_they_are() -> None:
    """What is not understood is not half drawn; a circle is refused."""
    assert parsed("sequenceDiagram\n  a->>b: hello") == []
    assert parsed("flowchart TD\n  a -->|yes| b") == []
    assert parsed("flowchart TD\n  a --> b & c") == [("a", "b"), ("a", "c")]
    with pytest.raises(ValueError, match="circle"):
        Chart([("a", "b"), ("b", "a")])


def test_links_of_a_page() -> None:
    """Relative ones and pictures; not those in code, nor with a scheme, nor within the page."""
    text = (
        "[a](b.md#c) ![d](e%20f.png) [g](https://h) [i](#j)\n\n```\n[k](l.md)\n```\n\n| [m](n) |\n|---|\n| `[o](p)` |\n"
    )
    assert list(targets(text)) == ["b.md", "e f.png", "n"]
    assert resolved("docs/concepts/x.md", "../../hub_cards/STUDY.md") == "hub_cards/STUDY.md"


@pytest.mark.parametrize(
    ("page", "code", "said"),
    [
        ('<p id="b"><a href="#b">x</a>', 0, "dead: 0"),
        ('<a href="#c">x</a>', 1, "#c: no such anchor"),
        ("", 3, "make docs"),
    ],
)
def test_the_checker_by_hand(tmp_path: Path, page: str, code: int, said: str) -> None:
    """Returns 1 for a dead link, 3 for a folder without pages, with one line on stderr."""
    if page:
        (tmp_path / "a.html").write_text(page)
    command = [sys.executable, str(Path(links.__file__)), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, int(code == 3))
    assert said in done.stdout + done.stderr


def test_what_is_led_to_is_copied(tmp_path: Path) -> None:
    """Pages, what they lead to, code as a page, a folder as its list; nothing outside; what is stale goes."""
    docs = tmp_path / "docs"
    (tmp_path / "code").mkdir()
    (docs / "repository").mkdir(parents=True)
    (docs / "repository" / "stale.md").write_text("old")
    (tmp_path / "README.md").write_text("[code](code/a.py) [up](../secret.md) [folder](code) [docs](docs/x.md)")
    (tmp_path / "code" / "a.py").write_text("print('```')")
    (tmp_path / "code" / "weights.bin").write_bytes(b"\xff\xfe\x00")
    (tmp_path.parent / "secret.md").write_text("secret")
    (docs / "_build").mkdir()
    (docs / "_build" / "built.md").write_text("[not read](../../LICENSE)")
    (tmp_path / "LICENSE").write_text("licence")
    (docs / "x.md").write_text("[binary](../code/weights.bin) [again](../README.md) [none](../none.md)")
    Mirror(tmp_path).run()
    made = {path.relative_to(docs / "repository").as_posix() for path in (docs / "repository").rglob("*.*")}
    assert made == {"README.md", "code/a.py.md", "code/index.md", "code/weights.bin"}
    assert in_docs(docs, "code/a.py") == ("page", "repository/code/a.py")
    assert in_docs(docs, "code") == ("page", "repository/code/index")
    assert in_docs(docs, "docs/x.md") == ("page", "x")
    assert in_docs(docs, "code/weights.bin") == ("file", "/repository/code/weights.bin")
    assert in_docs(docs, "none.md") is None


def test_an_unchanged_file_keeps_its_time(tmp_path: Path) -> None:
    """Sphinx then reads it no second time; a changed one is written anew, whole."""
    MadeFolder(tmp_path).write("a/b.rst", "one")
    before = (tmp_path / "a" / "b.rst").stat().st_mtime_ns
    MadeFolder(tmp_path).write("a/b.rst", "one")
    assert (tmp_path / "a" / "b.rst").stat().st_mtime_ns == before
    folder = MadeFolder(tmp_path)
    folder.write("a/b.rst", "two")
    folder.write("c.rst", "three")
    folder.finish()
    assert {path.name: path.read_text() for path in tmp_path.rglob("*.rst")} == {"b.rst": "two", "c.rst": "three"}


def test_a_block_of_names_in_running_text_is_a_list() -> None:
    """With its continued lines; a section of Google's style stays as it is."""
    lines = [
        "Takes",
        "",
        "    a: one",
        "        and more;",
        "    b: two",
        "",
        "and returns.",
        "",
        "Args:",
        "    c: three",
    ]
    tidy(None, "", "", None, None, lines)  # type: ignore[arg-type]
    assert lines[2:5] == ["* ``a``: one", "  and more;", "* ``b``: two"]
    assert lines[6:] == ["and returns.", "", "Args:", "    c: three"]


def test_defaults_without_a_form_in_python_are_dots() -> None:
    """So that a signature can be read, and holds no address of this run."""
    given = "(a: int = 1, b: X = <factory>, c: Y = <object object at 0x7f00>)"
    assert shorten(None, "", "", None, None, given, "X") == ("(a: int = 1, b: X = ..., c: Y = ...)", "X")  # type: ignore[arg-type]
    assert shorten(None, "", "", None, None, None, "") is None  # type: ignore[arg-type]


def test_sentences_keep_their_characters() -> None:
    """Stars, bars and underscores are no markup; literals stay."""
    assert escaped("0.6|0.75, name_ and *.nii; see ``a_*``") == r"0.6\|0.75, name\_ and \*.nii; see ``a_*``"
