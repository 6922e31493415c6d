"""The package's own source, as syntax trees: what the rules of this folder look at."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "prostate_mim"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def parsed(file: str) -> ast.Module:
    """The syntax tree of one file of the package."""
    return ast.parse((PACKAGE / file).read_text(encoding="utf-8"), file)


def called(node: ast.Call) -> tuple[str, str]:
    """(what it is called on, name): ("torch", "load"), ("", "open"), ("?", "save") for anything but a plain name."""
    if isinstance(node.func, ast.Name):
        return "", node.func.id
    if isinstance(node.func, ast.Attribute):
        owner = node.func.value
        return owner.id if isinstance(owner, ast.Name) else "?", node.func.attr
    return "?", ""
