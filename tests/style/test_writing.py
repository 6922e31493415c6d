"""One helper writes files; an exception is a line with its reason here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from package_source import FILES, called, parsed

# file -> what it may call -> why that is not a second way to write files.
WRITERS: dict[str, dict[str, str]] = {
    "files.py": {
        "open": "the helper itself: append-only logs",
        "mkstemp": "the helper itself",
        "mkdtemp": "the helper itself, for whole folders",
        "TemporaryFile": "the helper itself: a probe whether a folder can be written",
    },
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
