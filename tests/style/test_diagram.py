"""The diagram in CONTRIBUTING.md is the package's imports: an arrow too many or too few is found."""

from __future__ import annotations

import re
from pathlib import Path

from package_source import FILES, parsed
from test_imports import imported, part_of

PAGE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"
Arrows = set[tuple[str, str]]


def drawn(page: str) -> Arrows:
    """Arrows of the page's mermaid diagram, ``a --> b & c`` for two of them."""
    (diagram,) = re.findall(r"```mermaid\n(.*?)```", page, re.DOTALL)
    lines = [line.split("-->") for line in diagram.splitlines() if "-->" in line]
    return {(begin.strip(), end.strip()) for begin, ends in lines for end in ends.split("&")}


def package_imports() -> dict[str, set[str]]:
    """The parts that each part imports, in functions and for types too."""
    found: dict[str, set[str]] = {}
    for file in FILES:
        if file != "__init__.py":
            own = part_of(file)
            found.setdefault(own, set()).update(name for _, name, _ in imported(parsed(file)) if name != own)
    return found


def reduced(imports: dict[str, set[str]], parts: set[str]) -> Arrows:
    """Arrows between ``parts`` from which all their imports follow, through parts that are not drawn too."""
    below = {part: _reached(imports, part) & parts for part in parts}
    return {(a, b) for a in parts for b in below[a] if not any(b in below[c] for c in below[a] - {b})}


def _reached(imports: dict[str, set[str]], part: str) -> set[str]:
    seen: set[str] = set()
    waiting = [*imports.get(part, ())]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += imports.get(name, ())
    return seen


def test_the_diagram_is_the_imports() -> None:
    """Both ways: what is drawn is there, and what is there between drawn parts follows from the drawing."""
    arrows = drawn(PAGE.read_text(encoding="utf-8"))
    assert arrows == reduced(package_imports(), {part for arrow in arrows for part in arrow})
    assert {"pretraining", "finetuning", "prediction", "deploy"} <= {part for arrow in arrows for part in arrow}


def test_arrows_by_hand() -> None:
    """The control: a -> c follows from a -> b -> c, also when b's import goes through a part that is not drawn."""
    imports = {"a": {"b", "c"}, "b": {"hidden"}, "hidden": {"c"}, "c": set()}
    assert reduced(imports, {"a", "b", "c"}) == {("a", "b"), ("b", "c")}
    assert drawn("```mermaid\nflowchart TD\n    a --> b & c\n    b --> c\n```\n") == {
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    }
