"""Words that say nothing are not used."""

from __future__ import annotations

import ast

import pytest
from package_source import FILES, parsed


def bare_masks(tree: ast.AST) -> list[int]:
    """Lines with a variable or an argument called only ``mask``: is what it marks hidden, visible or measured?"""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "mask"]
    arguments = [node for node in ast.walk(tree) if isinstance(node, ast.arg) and node.arg == "mask"]
    return [node.lineno for node in (*names, *arguments)]


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith(("mim/", "engine/"))])
def test_no_bare_mask(file: str) -> None:
    """In the masked training, hidden, visible and counted have their names; ``mask`` says none of them."""
    assert bare_masks(parsed(file)) == []


def test_bare_mask_is_found() -> None:
    """The control: a variable, an argument; not a word within a name."""
    assert bare_masks(ast.parse("mask = 1\ndef f(mask): ...\nmask_ratio = lesion_mask")) == [1, 2]
