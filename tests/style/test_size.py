"""Short functions and modules, docstrings, types, and enough tests; CONTRIBUTING.md tells the figures."""

from __future__ import annotations

import ast
import re

import pytest
from measure import LONGEST_FUNCTION, LONGEST_MODULE, PLACE, ROOT, Style, annotations, length, measure, public_names
from package_source import FILES, PACKAGE, Function, parsed


@pytest.mark.parametrize("file", FILES)
def test_functions_and_modules_are_short(file: str) -> None:
    """At most 50 lines a function (docstring apart) and 330 a module."""
    functions = [node for node in ast.walk(parsed(file)) if isinstance(node, Function)]
    assert [f"{f.name}: {length(f)}" for f in functions if length(f) > LONGEST_FUNCTION] == []
    assert len((PACKAGE / file).read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("file", FILES)
def test_public_names_are_documented_and_everything_is_typed(file: str) -> None:
    """Every module and every public function, class and method says what it is; every parameter of what type."""
    tree = parsed(file)
    assert ast.get_docstring(tree) is not None
    assert [name for name, documented in public_names(tree) if not documented] == []
    functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
    assert [f.name for f in functions if not all(annotations(f))] == []


def test_what_is_measured() -> None:
    """The control: by hand, 2 lines beside a docstring of 3; a class and a method without docstring; types missing."""
    tree = ast.parse(
        'def f(a: int, *b: int) -> int:\n    """A\n\n    b."""\n    return 1\n\n'
        "class C:\n    def g(self, c, *, d: int): ...\n    def _h(self) -> None: ..."
    )
    first, second = tree.body
    assert isinstance(first, ast.FunctionDef) and isinstance(second, ast.ClassDef)
    assert length(first) == 2
    assert list(public_names(tree)) == [("line 1: f", True), ("line 7: C", False), ("line 8: g", False)]
    assert list(annotations(first)) == [True, True, True]
    assert list(annotations(second.body[0])) == [False, True, False]  # type: ignore[arg-type]


def test_the_table() -> None:
    """By hand: medians, the 90th percentile as the value at that place in order, shares."""
    style = Style((10, 20, 60), (1, 2, 3, 60), (3, 4), (1, 1), 45)
    assert [value for _, value in style.rows()] == [
        "3, 90", "20 / 20 / 60", "2.5 / 3 / 60", "1", "75 % of 4", "100 % of 1", "0.50",
    ]  # fmt: skip


def test_contributing_tells_what_is_measured() -> None:
    """The table there, but for counts that every commit changes: bars and shares hold, sizes within a fifth."""
    style = measure()
    found = PLACE.search((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert found is not None
    told = dict(line.strip("| ").split(" | ") for line in found[2].splitlines()[2:])
    for name, value in style.rows():
        old, new = (numbers(text) for text in (told[name], value))
        assert old == pytest.approx(new, rel=0.2, abs=1), f"{name}: make style writes it anew"
    assert style.tests / sum(style.modules) >= 0.7


def numbers(text: str) -> list[float]:
    return [float(word) for word in re.findall(r"[0-9.]+", text.replace(",", ""))]
