"""docs/comparison.md: every cell has a source or says "not checked", sources are known, what it says of us is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "comparison.md"
TEXT = PAGE.read_text(encoding="utf-8")
LABEL = re.compile(r"\[([A-Z]\d+)\](?!:)")
DEFINED = dict(re.findall(r"^\[([A-Z]\d+)\]: (\S+)$", TEXT, re.M))
NOT_CHECKED = "not checked"
PUBLIC = ("github.com", "huggingface.co", "arxiv.org", "pypi.org", "docs.lightly.ai")
# Cells that need no source: they say that there is nothing, of us.
OWN_WORDS = {"no known ones: this is new"}


def tables(text: str = TEXT) -> list[list[list[str]]]:
    """Tables as rows of cells, without the line of dashes."""
    found: list[list[list[str]]] = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        rows = [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in block.splitlines()]
        found.append([[cell.strip("| ") for cell in row] for row in rows if not set("".join(row)) <= set("|-: ")])
    return found


def unsourced(text: str) -> list[str]:
    """Cells of the tables of projects that neither name a source nor say "not checked"."""
    return [
        f"{row[0]} / {head}: {cell}"
        for table in tables(text)
        if table[0][1:2] == ["prostate-mim"]
        for row in table[1:]
        for head, cell in zip(table[0][1:], row[1:], strict=True)
        if not LABEL.search(cell) and cell != NOT_CHECKED and cell not in OWN_WORDS
    ]


def test_every_cell_has_a_source() -> None:
    """Three tables, with the peers that the page promises, and no claim of unknown origin."""
    compared = [table for table in tables() if table[0][1:2] == ["prostate-mim"]]
    assert len(compared) == 3
    named = {name for table in compared for name in table[0]}
    peers = {"nnssl", "SparK", "ConvNeXt V2", "MedicalNet", "Models Genesis", "fmcib", "nnU-Net v2", "TorchIO"}
    assert peers | {"picai_baseline", "lightly-train", "MONAI 1.6.1"} <= named
    assert all(len(row) == len(table[0]) for table in compared for row in table)
    assert unsourced(TEXT) == []


def test_a_cell_without_a_source_is_noticed() -> None:
    """The control."""
    assert unsourced(TEXT.replace("| any 2D CNN [S1] |", "| any 2D CNN |")) == ["networks / SparK: any 2D CNN"]


def test_sources_are_defined_listed_and_used() -> None:
    """Labels in cells, the list and the definitions are one set; links lead to public pages or to files here."""
    body, listed = TEXT.split("## Sources\n")
    used, explained = set(LABEL.findall(body)), set(re.findall(r"\*\*([A-Z]\d+)\*\*", listed))
    assert used == set(DEFINED) == explained
    for label, link in DEFINED.items():
        if label.startswith("O"):
            assert (PAGE.parent / link).exists(), link
        else:
            assert re.fullmatch(
                r"https://(github\.com|huggingface\.co|arxiv\.org|pypi\.org|docs\.lightly\.ai)/\S+", link
            )


def test_what_others_do_better_is_said() -> None:
    """A section of its own, that is not shorter than the one on us."""
    sections = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))
    better = sections["Where others are better"]
    assert better.count("\n- **") >= 6
    assert len(better) > len(sections["What is here and was not found elsewhere"])
    assert TEXT.count(NOT_CHECKED) > 20  # nobody has looked at everything


def test_what_it_says_of_us() -> None:
    """Numbers in our own column are those of the registries."""
    from prostate_mim.hub.registry import read_registry
    from prostate_mim.nets import ARCHITECTURES

    assert f"{len(ARCHITECTURES)} are registered [O1]" in TEXT
    sizes = [entry.parameters / 1e6 for entry in read_registry().values()]
    assert f"{min(sizes):.0f} to {max(sizes):.0f} M parameters [O9]" in TEXT
    assert {entry.license for entry in read_registry().values()} == {"LicenseRef-research-only"}


def test_the_version_of_monai_is_the_tested_one() -> None:
    """The page names the version that was read: the one that is installed with the tests."""
    from importlib.metadata import version

    if version("monai") != "1.6.1":
        pytest.skip("another version of MONAI is installed; the page was written of 1.6.1")
    import ast
    import importlib.util

    spec = importlib.util.find_spec("monai")
    assert spec is not None and spec.origin is not None
    scripts = Path(spec.origin).parent / "bundle" / "scripts.py"
    names = {node.name for node in ast.parse(scripts.read_text()).body if isinstance(node, ast.FunctionDef)}
    assert {"onnx_export", "trt_export", "ckpt_export"} <= names
