"""The rules of the code base that a machine can check, each with a control that must be found out.

A new module of the package must be placed in ORDER; an exception from a rule is a line with its reason here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "prostate_mim"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
LONGEST_FUNCTION = 50
LONGEST_MODULE = 330

# A module imports only from those before it; within a subpackage, freely.
ORDER = (
    "errors", "_version", "files", "spec", "volume", "preprocess", "modality", "manifest", "studies", "folds", "leaks",
    "phantom", "datasets", "store", "nets", "masked", "mim", "metrics", "hub", "deploy", "encoder", "initialisations",
    "classifier", "create", "formats", "config", "engine", "pictures", "reconstruction", "health", "contrastive",
    "pretraining", "finetuning", "prediction", "bench", "probing", "checking", "archive", "preview", "saliency",
    "looking", "study", "demo", "doctor", "console", "cli", "__main__",
)  # fmt: skip
# file -> modules it may import from above itself, inside a function or for types only.
UPWARD: dict[str, dict[str, str]] = {}

# file -> what it may call -> why that is not a second way to write files.
WRITERS: dict[str, dict[str, str]] = {
    "files.py": {
        "open": "the helper itself: append-only logs",
        "mkstemp": "the helper itself",
        "TemporaryFile": "the helper itself: a probe whether a folder can be written",
    },
    "hub/release.py": {"mkdtemp": "a whole folder is written beside its place and renamed when complete"},
    "hub/serving/shelf.py": {"mkdtemp": "a commit's folder is written beside its place and renamed when complete"},
    "looking/opening.py": {"mkdtemp": "a private folder for the page that the browser opens"},
    "health/drawing.py": {"savefig": "into memory; the page embeds the bytes"},
    "study/charts.py": {"savefig": "into memory; the page embeds the bytes"},
    "pictures.py": {"savefig": "into memory; the caller embeds the bytes"},
    "preview/picture.py": {"save": "into memory; the caller writes the bytes"},
    "engine/tracking.py": {"SummaryWriter": "TensorBoard owns its event files"},
}
_WRITING = {
    "write_text", "write_bytes", "touch", "save_file", "save_model", "savez", "savez_compressed", "savetxt", "tofile",
    "savefig", "to_csv", "to_filename", "WriteImage", "SummaryWriter", "mkstemp", "mkdtemp", "NamedTemporaryFile",
    "TemporaryFile", "SpooledTemporaryFile", "copy2", "copyfile", "copytree", "copyfileobj",
}  # fmt: skip
_LIBRARIES_THAT_SAVE = {"np", "numpy", "torch", "onnx", "nib", "nibabel", "image", "figure"}
_PICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}
_NEVER_CALLED = {"eval", "exec", "__import__", "print"}
_NEVER_CALLED_OF_A_MODULE = {"torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "builtins.eval"}
# Weights of others that exist in no other form: read as tensors only, said by the literal weights_only=True.
_TENSORS_ONLY = {"initialisations/tensor_files.py"}
# Import by string, where the strings are a literal table in the same file.
_IMPORTS_BY_NAME = {"__init__.py"}


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


# ------------------------------------------------------------------------------------------------ dangerous


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


# -------------------------------------------------------------------------------------------------- writing


def writing(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, callee) of calls that write files and stand outside every ``with atomic_path(...)``."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.With) and any(_is_atomic(item.context_expr) for item in node.items):
            continue
        if isinstance(node, ast.Call) and _writes(node):
            yield node.lineno, called(node)[1]
        stack.extend(ast.iter_child_nodes(node))


def _is_atomic(context: ast.expr) -> bool:
    return isinstance(context, ast.Call) and called(context)[1] == "atomic_path"


def _writes(node: ast.Call) -> bool:
    owner, name = called(node)
    if name in {"open", "fdopen"}:
        modes = [argument for argument in node.args if _is_mode(argument)]
        modes += [keyword.value for keyword in node.keywords if keyword.arg in {"mode", "flags"}]
        return any(not isinstance(m, ast.Constant) or bool(set(str(m.value)) & set("wax+")) for m in modes)
    if name in {"save", "dump"}:
        return owner in _LIBRARIES_THAT_SAVE
    if name in {"write_text", "write_bytes"} and owner in {"", "files"}:
        return False  # the helper
    return name in _WRITING


def _is_mode(argument: ast.expr) -> bool:
    return isinstance(argument, ast.Constant) and bool(re.fullmatch(r"[rwaxbt+]{1,3}", str(argument.value)))


@pytest.mark.parametrize("file", FILES)
def test_one_helper_writes_files(file: str) -> None:
    """Nothing is opened for writing outside files.py, but inside ``with atomic_path`` or with a reason above."""
    allowed = WRITERS.get(file, {})
    assert [hit for hit in writing(parsed(file)) if hit[1] not in allowed] == []


def test_every_allowance_is_used() -> None:
    """An exception from the rule that nobody needs any more is removed."""
    unused = {
        f"{file}: {name}"
        for file, names in WRITERS.items()
        for name in names
        if name not in {hit[1] for hit in writing(parsed(file))}
    }
    assert unused == set()


@pytest.mark.parametrize(
    "code",
    [
        "open(p, 'w')", "open(p, mode='ab')", "open(p, mode=mode)", "p.open('w')", "p.open('rb+')",
        "gzip.open(p, 'wb')", "p.write_text(t)", "p.write_bytes(b)", "np.save(p, a)", "np.savez(p, a)",
        "torch.save(a, p)", "save_file(t, p)", "a.tofile(p)", "shutil.copyfile(a, b)", "p.touch()",
    ],
)  # fmt: skip
def test_writing_is_found(code: str) -> None:
    """The control: found by itself, and not inside ``with atomic_path``."""
    assert list(writing(ast.parse(code)))
    assert not list(writing(ast.parse(f"with atomic_path(final) as p:\n    {code}")))


def test_reading_is_not_found() -> None:
    """Opening to read, and the helper, are allowed."""
    assert not list(writing(ast.parse("open(p); open(p, 'rb'); p.open('rb'); files.write_text(p, t); release.save(p)")))


# ----------------------------------------------------------------------------------------- size and docstrings

Function = ast.FunctionDef | ast.AsyncFunctionDef


def length(function: Function) -> int:
    """Lines from ``def`` to the end, without the docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if documented else 0)  # type: ignore[operator]


@pytest.mark.parametrize("file", FILES)
def test_functions_and_modules_are_short(file: str) -> None:
    """At most 50 lines a function (docstring apart) and 330 a module."""
    functions = [node for node in ast.walk(parsed(file)) if isinstance(node, Function)]
    assert [f"{f.name}: {length(f)}" for f in functions if length(f) > LONGEST_FUNCTION] == []
    assert len((PACKAGE / file).read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE


def undocumented(node: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Public functions, classes and methods without a docstring."""
    for child in node.body:
        if isinstance(child, Function | ast.ClassDef) and not child.name.startswith("_"):
            if ast.get_docstring(child) is None:
                yield f"line {child.lineno}: {child.name}"
            if isinstance(child, ast.ClassDef):
                yield from undocumented(child)


@pytest.mark.parametrize("file", FILES)
def test_public_names_are_documented(file: str) -> None:
    """Every module and every public function, class and method says what it is."""
    tree = parsed(file)
    assert ast.get_docstring(tree) is not None
    assert list(undocumented(tree)) == []


def test_length_and_documentation_are_measured() -> None:
    """The control: by hand, 2 lines beside a docstring of 3; one class and one method without docstring."""
    tree = ast.parse(
        'def f():\n    """A\n\n    b."""\n    return 1\n\nclass C:\n    def g(self): ...\n    def _h(self): ...'
    )
    assert isinstance(tree.body[0], ast.FunctionDef)
    assert length(tree.body[0]) == 2
    assert list(undocumented(tree)) == ["line 7: C", "line 8: g"]


# ------------------------------------------------------------------------------------------------ vocabulary


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


# --------------------------------------------------------------------------------------------------- imports


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
