"""Notebooks as pages: their text, their code, and the outputs that are stored in them; nothing is run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

SUFFIX = ".ipynb"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_PICTURES = ("image/png", "image/jpeg")


def as_markdown(notebook: dict[str, Any]) -> str:
    """The Markdown of a notebook in format 4."""
    language = notebook.get("metadata", {}).get("language_info", {}).get("name", "python")
    parts: list[str] = []
    for cell in notebook["cells"]:
        source = _text(cell["source"]).strip("\n")
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code" and source:
            parts.append(_fenced(source, language))
            parts += [text for output in cell["outputs"] if (text := _output(output))]
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> str:
    """One output of a cell; the richest form that can be shown without scripts."""
    if output["output_type"] == "stream":
        return _fenced(_plain(output["text"]), "text")
    if output["output_type"] == "error":
        return _fenced(_plain(output["traceback"]), "text")
    data = output["data"]
    for kind in _PICTURES:
        if kind in data:
            encoded = _text(data[kind]).replace("\n", "")
            return f"![What the cell above draws](data:{kind};base64,{encoded})"
    if "text/markdown" in data:
        return _text(data["text/markdown"])
    return _fenced(_plain(data["text/plain"]), "text") if "text/plain" in data else ""


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "".join(value)


def _plain(value: str | list[str]) -> str:
    return _COLOURS.sub("", _text(value)).rstrip("\n")


def _fenced(text: str, language: str) -> str:
    """A fence that nothing in the text closes."""
    longest = max((len(found) for found in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace what was read of a notebook."""
    path = Path(app.env.doc2path(docname))
    if path.suffix == SUFFIX:
        source[0] = f"{as_markdown(json.loads(source[0]))}\nTo run it: {{download}}`{path.name}`.\n"


def setup(app: Sphinx) -> dict[str, bool]:
    """For Sphinx."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
