"""Nothing that was read is run; each rule has a control that must be found out."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from package_source import FILES, called, parsed

_PICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}
_NEVER_CALLED = {"eval", "exec", "__import__", "print"}
_NEVER_CALLED_OF_A_MODULE = {"torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "builtins.eval"}
# Weights of others that exist in no other form: read as tensors only, said by the literal weights_only=True.
_TENSORS_ONLY = {"initialisations/tensor_files.py"}
# Import by string, where the strings are a literal table in the same file.
_IMPORTS_BY_NAME = {"__init__.py"}


def dangerous(tree: ast.AST, file: str = "") -> Iterator[str]:
    """Code that would run what was read, or print over a command's output."""
    for node in ast.walk(tree):
        found = ""
        if isinstance(node, ast.Import):
            found = next((alias.name for alias in node.names if alias.name.split(".")[0] in _PICKLERS), "")
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            root = (node.module or "").split(".")[0]
            found = next((name for name in names if root in _PICKLERS or name in _NEVER_CALLED_OF_A_MODULE), "")
        elif isinstance(node, ast.Call):
            found = _dangerous_call(node, file)
        if found:
            yield f"line {node.lineno}: {found}"  # type: ignore[attr-defined]


def _dangerous_call(node: ast.Call, file: str) -> str:
    owner, name = called(node)
    if file in _TENSORS_ONLY and f"{owner}.{name}" == "torch.load" and _tensors_only(node):
        return ""
    if (not owner and name in _NEVER_CALLED) or f"{owner}.{name}" in _NEVER_CALLED_OF_A_MODULE:
        return f"{owner}.{name}".strip(".")
    if name == "extractall" or owner in _PICKLERS:
        return name
    if name == "import_module" and file not in _IMPORTS_BY_NAME:
        return "import by string"
    for keyword in node.keywords:
        allowed = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        if keyword.arg == "allow_pickle" and not allowed:
            return "allow_pickle"
    return ""


def _tensors_only(node: ast.Call) -> bool:
    return any(
        k.arg == "weights_only" and isinstance(k.value, ast.Constant) and k.value.value is True for k in node.keywords
    )


@pytest.mark.parametrize("file", FILES)
def test_nothing_read_is_executed(file: str) -> None:
    """No pickle, torch.load, eval, exec, yaml.load, extractall, import by string, nor print."""
    assert list(dangerous(parsed(file), file)) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from pickle import loads", "import joblib", "from torch import load", "torch.load(path)",
        "eval(text)", "exec(text)", "yaml.load(text)", "archive.extractall()", "np.load(p, allow_pickle=True)",
        "np.load(p, allow_pickle=flag)", "print(1)", "__import__('os')", "importlib.import_module(name)",
    ],
)  # fmt: skip
def test_dangerous_code_is_found(code: str) -> None:
    """The control of the rule above."""
    assert list(dangerous(ast.parse(code)))


def test_torch_load_is_for_tensors_of_one_file() -> None:
    """The control of the exception: elsewhere it is found, and there too where anything else could be read."""
    safe, unsafe = (ast.parse(f"torch.load(path, weights_only={value})") for value in ("True", "flag"))
    (file,) = _TENSORS_ONLY
    assert not list(dangerous(safe, file))
    assert list(dangerous(safe, "hub/weights.py")) and list(dangerous(unsafe, file))


def test_harmless_code_is_not_found() -> None:
    """Evaluation mode, a console's print and a refused pickle are allowed."""
    assert not list(dangerous(ast.parse("model.eval(); console.print(1); np.load(p, allow_pickle=False)")))
