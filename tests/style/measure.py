"""The package measured: sizes, docstrings, types, tests. The table of CONTRIBUTING.md, which a test compares.

``python tests/style/measure.py`` prints it, with the names of what is longest; ``--write`` puts it in its place.
"""

from __future__ import annotations

import argparse
import ast
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from package_source import FILES, PACKAGE, Function, parsed

ROOT = PACKAGE.parent
LONGEST_FUNCTION = 50
LONGEST_MODULE = 330
PLACE = re.compile(r"(<!-- style -->\n)(.*?)(<!-- /style -->)", re.DOTALL)


@dataclass(frozen=True)
class Style:
    """What ``models-of-style`` counts; lines include blank ones, functions go without their docstring."""

    modules: tuple[int, ...]
    functions: tuple[int, ...]
    documented: tuple[int, int]
    typed: tuple[int, int]
    tests: int

    def rows(self) -> list[tuple[str, str]]:
        """What is counted, and the figure: median / 90th percentile / longest for sizes."""
        lines = sum(self.modules)
        return [
            ("files, lines", f"{len(self.modules)}, {lines:,}"),
            ("lines of a module", _three(self.modules)),
            ("lines of a function", _three(self.functions)),
            (f"functions over {LONGEST_FUNCTION} lines", str(sum(n > LONGEST_FUNCTION for n in self.functions))),
            ("public names with a docstring", _share(*self.documented)),
            ("parameters and results with a type", _share(*self.typed)),
            ("lines of test per line of source", f"{self.tests / lines:.2f}"),
        ]

    def table(self) -> str:
        """Markdown."""
        rows = "\n".join(f"| {name} | {value} |" for name, value in self.rows())
        return f"| counted | median / 90 % / longest |\n|---|---|\n{rows}\n"


def measure(files: Sequence[str] = tuple(FILES)) -> Style:
    """Count the package; parameters called ``self`` and ``cls`` need no type."""
    trees = [parsed(file) for file in files]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, Function)]
    public = [pair for tree in trees for pair in public_names(tree)]
    typed = [is_typed for function in functions for is_typed in annotations(function)]
    return Style(
        tuple(len((PACKAGE / file).read_text(encoding="utf-8").splitlines()) for file in files),
        tuple(length(function) for function in functions),
        (sum(documented for _, documented in public), len(public)),
        (sum(typed), len(typed)),
        sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "tests").rglob("*.py")),
    )


def length(function: Function) -> int:
    """Lines from ``def`` to the end, without the docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if documented else 0)  # type: ignore[operator]


def public_names(node: ast.Module | ast.ClassDef) -> Iterator[tuple[str, bool]]:
    """("line 7: C", has it a docstring?) of public functions, classes and methods."""
    for child in node.body:
        if isinstance(child, Function | ast.ClassDef) and not child.name.startswith("_"):
            yield f"line {child.lineno}: {child.name}", ast.get_docstring(child) is not None
            if isinstance(child, ast.ClassDef):
                yield from public_names(child)


def annotations(function: Function) -> Iterator[bool]:
    """Whether each parameter, and the result, has a type."""
    given = function.args
    for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg):
        if argument is not None and argument.arg not in {"self", "cls"}:
            yield argument.annotation is not None
    yield function.returns is not None


def longest(count: int = 5) -> list[str]:
    """The longest functions: lines, file, name."""
    found = [
        (length(node), file, node.name)
        for file in FILES
        for node in ast.walk(parsed(file))
        if isinstance(node, Function)
    ]
    return [f"{lines} {file} {name}" for lines, file, name in sorted(found, reverse=True)[:count]]


def _three(sizes: Sequence[int]) -> str:
    ordered = sorted(sizes)
    return f"{statistics.median(ordered):g} / {ordered[int(0.9 * (len(ordered) - 1))]} / {ordered[-1]}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.4g} % of {whole:,}"


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into CONTRIBUTING.md")
    style, page = measure(), ROOT / "CONTRIBUTING.md"
    if parser.parse_args().write:
        text = page.read_text(encoding="utf-8")
        page.write_text(PLACE.sub(lambda found: found[1] + style.table() + found[3], text), encoding="utf-8")
    print(style.table() + "\nlongest functions:\n" + "\n".join(longest()))


if __name__ == "__main__":
    main()
