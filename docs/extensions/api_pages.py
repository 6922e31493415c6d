"""The reference of the Python names: a page for every public module, a section for every public name."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from made_files import MadeFolder
from public_names import SECTIONS, Public, everything, public
from rst import escaped, title
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment

_LONGEST_VALUE = 60
_UNWRITTEN = re.compile(r"<[\w .]+>")
_NAMED = re.compile(r"^( +)(\w+): (.+)$")
_INTRODUCTION = """What is listed here is public; everything else may change without notice. Names of ``prostate_mim``
load their modules when they are first used. Axes are ``(z, y, x)``, positions ``x y z`` in mm, LPS.

"""


def page(module: str) -> str:
    """The page of one module."""
    parts = [title(module), f".. automodule:: {module}\n   :no-members:\n\n"]
    for one in public(module):
        parts += [title(f"``{one.name}``", "-"), _section(one), "\n"]
    return "".join(parts)


def _section(one: Public) -> str:
    if (first := _shown_as()[one.real]) != one.full:
        kind = "class" if isinstance(one.node, ast.ClassDef) else "function" if one.node else "data"
        return f".. py:{kind}:: {one.name}\n   :module: {one.module}\n\n   The same as :py:obj:`{first}`.\n"
    if isinstance(one.node, ast.ClassDef):
        bases = [ast.unparse(base) for base in one.node.bases]
        kind = "exception" if any(base.endswith(("Error", "Warning", "Exception")) for base in bases) else "class"
        inherits = "   :show-inheritance:\n" if bases else ""
        return f".. auto{kind}:: {one.full}\n   :members:\n{inherits}"
    return f".. autofunction:: {one.full}\n" if one.node else _constant(one)


def _constant(one: Public) -> str:
    """A constant: autodoc does not find what is said of it in the module that it was imported from."""
    lines = [f".. py:data:: {one.name}", f"   :module: {one.module}"]
    if one.annotation is not None:
        lines.append(f"   :type: {ast.unparse(one.annotation)}")
    said = [escaped(one.comment)] if one.comment else []
    if isinstance(one.value, ast.Dict):
        keys = [str(key.value) for key in one.value.keys if isinstance(key, ast.Constant)]
        said += ["Keys: " + ", ".join(f"``{key}``" for key in keys) + "."] if keys else []
    elif one.value is not None and len(shown := ast.unparse(one.value)) <= _LONGEST_VALUE:
        lines.append(f"   :value: {shown}")
    return "\n".join([*lines, "", *(f"   {text}\n" for text in said)]) + "\n"


def index() -> str:
    """The list of modules with what they are, as their docstrings say it."""
    parts = [title("Python"), _INTRODUCTION]
    for heading, modules in SECTIONS.items():
        parts.append(title(heading, "-"))
        for module in modules:
            names = ", ".join(f":py:obj:`~{one.full}`" for one in public(module))
            parts.append(f":doc:`{module}`\n   {names}\n\n")
    entries = "".join(f"   {module}\n" for modules in SECTIONS.values() for module in modules)
    return "".join(parts) + f".. toctree::\n   :hidden:\n\n{entries}"


def make(app: Sphinx) -> None:
    """Write the pages."""
    folder = MadeFolder(Path(app.srcdir) / "reference" / "api")
    folder.write("index.rst", index())
    for modules in SECTIONS.values():
        for module in modules:
            folder.write(f"{module}.rst", page(module))
    folder.finish()


@cache
def _shown_as() -> dict[str, str]:
    """Name by which a type may be mentioned -> name under which it has its section."""
    found: dict[str, str] = {}
    for one in everything():
        found.setdefault(one.real, one.full)
        found.setdefault(one.name, one.full)
    return found


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Node) -> Any:
    """A type by the name of its own module, or by its bare name, leads to its section."""
    target = str(node.get("reftarget", ""))
    if node.get("refdomain") != "py" or _shown_as().get(target, target) == target:
        return None
    python = env.get_domain("py")
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", _shown_as()[target], node, content)


def tidy(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """An indented block of ``name: text`` in running text is a list; sections such as ``Args:`` are napoleon's."""
    indent = ""
    for place, line in enumerate(lines):
        named = _NAMED.match(line)
        if named and not indent and place and not lines[place - 1].strip():
            indent = named[1]
        if not line.startswith(indent) or not line.strip():
            indent = ""
        elif indent:
            starts = named and named[1] == indent
            lines[place] = f"* ``{named[2]}``: {named[3]}" if starts and named else "  " + line.strip()


def shorten(app: Sphinx, what: str, name: str, value: object, options: object, given: str | None, result: str) -> Any:
    """A default that Python cannot write, such as ``<factory>`` or an object with an address, is three dots."""
    return (_UNWRITTEN.sub("...", given), result) if given else None


def reword(app: Sphinx, doctree: nodes.document) -> None:
    """Between a field's name and what is said of it stands a dash, not two hyphens."""
    for text in list(doctree.findall(nodes.Text)):
        if str(text) == " -- ":
            text.parent.replace(text, nodes.Text(" – "))


def setup(app: Sphinx) -> dict[str, bool]:
    """For Sphinx."""
    app.connect("builder-inited", make)
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-signature", shorten)
    app.connect("doctree-read", reword)
    for group in PythonDomain.directives["class"].doc_field_types:  # shared by all kinds of objects
        if group.name == "variable":
            group.label = "Attributes"
    app.connect("autodoc-process-docstring", tidy, priority=400)  # before napoleon's 500
    return {"parallel_read_safe": True}
