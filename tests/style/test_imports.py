"""Imports go one way. A new module of the package must be placed in ORDER."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from package_source import FILES, Function, parsed

# A module imports only from those before it; within a subpackage, freely.
ORDER = (
    "errors", "_version", "files", "spec", "volume", "preprocess", "modality", "manifest", "studies", "folds", "leaks",
    "phantom", "datasets", "store", "nets", "masked", "mim", "metrics", "hub", "deploy", "encoder", "initialisations",
    "classifier", "create", "loading", "formats", "config", "engine", "pictures", "reconstruction", "health",
    "contrastive", "pretraining", "finetuning", "prediction", "bench", "probing", "checking", "archive", "preview",
    "saliency", "looking", "study", "demo", "doctor", "console", "cli", "__main__",
)  # fmt: skip
# file -> modules it may import from above itself, inside a function or for types only.
UPWARD: dict[str, dict[str, str]] = {}


def imported(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """(line, module of this package, at import time?) of every import, wherever it stands."""
    deferred: set[int] = set()
    for node in ast.walk(tree):
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if isinstance(node, Function) or for_types:
            deferred |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        for name in _targets(node):
            yield node.lineno, name, id(node) not in deferred  # type: ignore[attr-defined]


def _targets(node: ast.AST) -> set[str]:
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: a relative import; write the whole name"
        names = (
            [f"{node.module}.{a.name}" for a in node.names] if node.module == "prostate_mim" else [node.module or ""]
        )
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "prostate_mim" and len(part) > 1}


def upward(tree: ast.AST, own: str, allowed: dict[str, str]) -> list[str]:
    """Imports against ORDER by a module of the part ``own``; ``allowed`` ones must be deferred."""
    place = ORDER.index(own)
    return [
        f"line {line}: {own} imports {name}"
        for line, name, at_once in imported(tree)
        if name != own and (name not in ORDER or ORDER.index(name) >= place) and (at_once or name not in allowed)
    ]


def part_of(file: str) -> str:
    """``hub/release.py`` -> ``hub``; ``cli.py`` -> ``cli``."""
    return file.partition("/")[0].removesuffix(".py")


@pytest.mark.parametrize("file", [file for file in FILES if file != "__init__.py"])
def test_imports_go_one_way(file: str) -> None:
    """A module imports only what is before it in ORDER, in functions and for types too."""
    assert upward(parsed(file), part_of(file), UPWARD.get(file, {})) == []


def test_order_is_complete() -> None:
    """Every module of the package has a place in ORDER, once."""
    assert {part_of(file) for file in FILES} - {*ORDER, "__init__"} == set()
    assert len(set(ORDER)) == len(ORDER)


def test_public_face_imports_nothing() -> None:
    """``import prostate_mim`` brings in the version alone: everything else loads when it is used."""
    assert [name for _, name, at_once in imported(parsed("__init__.py")) if at_once] == ["_version"]


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from prostate_mim.encoder import PreMIM", 1),
        ("import prostate_mim.cli", 1),
        ("from prostate_mim import encoder", 1),
        ("def f():\n    from prostate_mim.encoder import PreMIM", 1),
        ("if TYPE_CHECKING:\n    from prostate_mim.encoder import PreMIM", 1),
        ("def f():\n    from prostate_mim.finetuning import finetune", 0),
        ("from prostate_mim.finetuning import finetune", 1),
        ("from prostate_mim.hub.release import FILES\nfrom prostate_mim.errors import UsageError", 0),
    ],
)
def test_upward_import_is_found(code: str, found: int) -> None:
    """The control: from hub, the encoder is above; finetuning is allowed here if it is deferred."""
    assert len(upward(ast.parse(code), "hub", {"finetuning": "for this test"})) == found
