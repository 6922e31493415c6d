"""The four notebooks run from the first cell to the last, offline and on the CPU, and what they say is true."""

from __future__ import annotations

import html
import itertools
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # notebook_running.py
sys.path.insert(0, str(Path(__file__).parents[1] / "looking"))  # looking_parts.py

import nbformat
import numpy as np
from looking_parts import needs_browser, screenshot
from nbclient.exceptions import CellExecutionError
from notebook_running import FOLDER, NAMES, ROOT, read, run, values


def after(notebook: Any, folder: Path, expression: str) -> Any:
    """Run a notebook with one more cell; what that cell's expression gives."""
    notebook.cells.append(nbformat.v4.new_code_cell(expression, id="added"))
    return values(run(notebook, folder))["added"]


def frames(notebook: Any) -> list[str]:
    """The pages of the viewer that a notebook shows."""
    shown = [
        output.data["text/html"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "display_data" and "srcdoc" in output.data.get("text/html", "")
    ]
    assert all(text.count("<iframe") == 1 for text in shown)
    return [html.unescape(re.search(r'srcdoc="([^"]*)"', text)[1]) for text in shown]  # type: ignore[index]


def check_frames(notebook: Any, most: int = 1) -> str:
    """The one page, whole, with a policy that lets it load nothing."""
    found = frames(notebook)
    assert len(found) == most
    (page,) = found
    assert page.startswith("<!doctype html>") and page.rstrip().endswith("</html>")
    assert "default-src 'none'" in page and 'id="volume"' in page
    return page


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed(name: str) -> None:
    """Valid, no outputs, fixed ids, a title, markdown before each code cell; links lead to files."""
    notebook = read(FOLDER / f"{name}.ipynb")
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert [cell.id for cell in notebook.cells] == [f"cell-{n:02d}" for n in range(len(notebook.cells))]
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    assert "not a medical device" in notebook.cells[0].source
    kinds = [cell.cell_type for cell in notebook.cells]
    assert ("code", "code") not in set(itertools.pairwise(kinds))
    assert all(len(cell.source.splitlines()) <= 25 for cell in code)
    told = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for link in re.findall(r"\]\(([^)#:]+)\)", told):
        assert (FOLDER / link).exists(), link
    for path in re.findall(r"`((?:docs|hub_cards|export)/[\w./-]+)`", told):
        assert (ROOT / path).exists(), path


def test_all_are_run() -> None:
    """No notebook lies there that this file does not know."""
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Any]:
    """The first notebook, run, and what it found."""
    notebook = read(FOLDER / "first-embedding.ipynb")
    found = after(
        notebook, tmp_path_factory.mktemp("first"),
        '{"alike": alike, "right": float(right), "commonest": float(commonest), "lesions": len(found), '
        '"length": len(vector), "stages": [tuple(stage.shape) for stage in stages]}',
    )  # fmt: skip
    return found, notebook


def test_first_embedding(first: tuple[dict[str, Any], Any]) -> None:
    """Near places are alike and far ones are not; a zone is told from vectors alone, better than by one guess."""
    found, notebook = first
    alike = found["alike"]
    assert 1 > alike[2.0] > alike[8.0] > alike[20.0]
    assert found["lesions"] >= 15 and found["right"] > found["commonest"] + 0.1
    channels = [shape[1] for shape in found["stages"]]
    assert channels == sorted(channels) and found["length"] > channels[-1]
    check_frames(notebook)


@needs_browser
def test_the_viewer_draws_in_a_notebook(first: tuple[dict[str, Any], Any], tmp_path: Path) -> None:
    """In a browser, in the frame that the notebook shows: a study in grey, the gland in yellow, and no complaint."""
    (shown,) = (html.escape(text) for text in frames(first[1]))
    frame = f'<!doctype html><body><iframe srcdoc="{shown}" width="100%" height="440"></iframe></body>'
    pixels, said = screenshot(frame, tmp_path, "notebook")
    # Chromium's software graphics speak of their own speed there, too.
    assert [line for line in said if "GL Driver Message (OpenGL, Performance" not in line] == []
    spread = pixels.max(-1) - pixels.min(-1)
    assert ((spread < 8) & (pixels.mean(-1) > 60) & (pixels.mean(-1) < 200)).mean() > 0.05
    assert (np.abs(pixels - (0xF0, 0xE4, 0x42)).sum(-1) < 60).sum() > 100


def test_fine_tune_and_explain(tmp_path: Path) -> None:
    """The interval lies above chance; the map is what the text says of it, and changes when weights are shuffled."""
    notebook = read(FOLDER / "fine-tune-and-explain.ipynb")
    found = after(
        notebook, tmp_path,
        '{"auroc": run.pooled.value, "low": run.pooled.low, "lesions": run.pooled.lesions, "near": near, "even": even, '
        '"label": lesion.label, "p": made.probability, "rank": [step.rank for step in steps], '
        '"strongest": explained.strongest}',
    )  # fmt: skip
    assert found["auroc"] > 0.6 and found["low"] > 0.5 and found["lesions"] > 48
    assert found["label"] == 1 and found["p"] > 0.5
    assert found["strongest"] > 0 and 0.2 < found["even"] < 0.4 and found["near"] < found["even"]  # as its text says
    assert len(found["rank"]) == 5 and max(found["rank"]) < 0.7
    assert 'id="saliency"' in check_frames(notebook)


def test_masking_strategies(tmp_path: Path) -> None:
    """Hidden means hidden, to the bit, while the plain network looks; six strategies hide what they were asked to."""
    notebook = read(FOLDER / "masking-strategies.ipynb")
    found = after(
        notebook, tmp_path,
        '{"masked": float((seen - seen_of_nonsense).abs().max()), "leak": leak, "size": float(seen.abs().max()), '
        '"plain": float((zeroed - zeroed_of_nonsense).abs().max()), '
        '"rows": {row.name: (row.counts[0] / row.counts[1], row.error) for row in rows}}',
    )  # fmt: skip
    assert found["masked"] == 0.0 and found["size"] > 0
    assert found["plain"] > 0.1 and found["leak"] > 0.05
    assert [name.split()[0] for name in found["rows"]] == ["random", "grid", "blockwise", "column", "gland", "hard"]
    assert all(abs(share - 0.6) < 0.1 for share, _ in found["rows"].values())
    assert found["rows"]["random"][1] < 1  # better than knowing each block's mean
    check_frames(notebook)


def test_export_and_serve(tmp_path: Path) -> None:
    """One probability from torch, the file and the service; a bit more or less is refused; the service ends as told."""
    notebook = read(FOLDER / "export-and-serve.ipynb")
    found = after(
        notebook, tmp_path,
        '{"difference": difference, "refused": refused, "code": process.returncode, "pid": process.pid, '
        '"ours": [answer.probability for answer in answers], '
        '"theirs": [one["probability"] for one in served["predictions"]]}',
    )  # fmt: skip
    assert found["difference"] < 1e-5
    assert "damaged" in found["refused"]
    assert len(found["ours"]) == len(found["theirs"]) >= 1
    assert found["theirs"] == pytest.approx(found["ours"], abs=1e-4)  # positions went as text, in micrometres
    assert found["code"] == 143
    with pytest.raises(ProcessLookupError):
        os.kill(found["pid"], 0)
    check_frames(notebook)


def test_outside_of_a_checkout_it_says_where_to_start(tmp_path: Path) -> None:
    """The service is looked for in the folder that one works in and above; where it is not, one sentence."""
    (tmp_path / "export").mkdir()  # another one, without the service
    with pytest.raises(CellExecutionError, match=r"export/service\.py is in no folder above this one; [^\"]*\n"):
        run(read(FOLDER / "export-and-serve.ipynb"), tmp_path)


def test_a_cell_that_fails_is_noticed(tmp_path: Path) -> None:
    """The control: an assertion that does not hold ends the run with its reason, and later cells are not run."""
    cells = [nbformat.v4.new_code_cell(text) for text in ("a = 1", "assert a == 2, 'a is not 2'", "a = 3")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    with pytest.raises(CellExecutionError, match="a is not 2"):
        run(notebook, tmp_path)
    assert [cell.execution_count for cell in cells] == [1, 2, None]


def test_a_kernel_has_no_network(tmp_path: Path, nothing_is_sent: list[str]) -> None:
    """The control of *offline*: what a cell asks of the network is refused, and this test would fail for it."""
    cell = nbformat.v4.new_code_cell("import socket\nsocket.create_connection(('example.org', 80))")
    with pytest.raises(CellExecutionError, match="NetworkRefusedError"):
        run(nbformat.v4.new_notebook(cells=[cell]), tmp_path)
    refused = Path(os.environ["PROSTATE_MIM_TESTS_REFUSED"]).read_text().splitlines()
    nothing_is_sent.append(refused[-1])
    assert "example.org" in refused[-1]
