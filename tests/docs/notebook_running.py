#!/usr/bin/env python3
"""Run the notebooks of docs/notebooks in a kernel of their own, on files of a temporary folder.

python tests/docs/notebook_running.py --out DIR    # copies with their outputs, for a site that shows them
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "notebooks"
NAMES = ("first-embedding", "fine-tune-and-explain", "masking-strategies", "export-and-serve")
_CELL_S = 600


def read(path: Path) -> Any:
    """A notebook in format 4, as nbformat holds it."""
    return nbformat.read(path, as_version=4)


@contextmanager
def _jupyter_of_its_own() -> Iterator[Path]:
    """Neither settings nor files of the user's Jupyter; sockets lie in a folder whose name is short enough for them."""
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MPLBACKEND")
    before = {name: os.environ.pop(name, None) for name in names}
    with tempfile.TemporaryDirectory(prefix="nb-") as folder:
        os.environ.update({name: str(Path(folder) / name[:4]) for name in names[:3]})
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def run(notebook: Any, folder: Path) -> Any:
    """Run all cells from the first to the last in a folder, in which ``export/`` is that of the checkout.

    The kernel is spoken to through Unix sockets: nothing listens on a port.

    Returns:
        The same notebook, with outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the ones after it are not run.
    """
    kit = folder / "export"
    if not kit.exists():
        kit.symlink_to(ROOT / "export")
    with _jupyter_of_its_own() as own:
        settings = Config({"KernelManager": {"transport": "ipc", "ip": str(own / "s")}})
        place = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=_CELL_S, kernel_name="python3", config=settings, resources=place).execute()
    return notebook


def values(notebook: Any) -> dict[str, Any]:
    """The literal that each cell ends with, by the cell's id; cells that end with anything else are left out."""
    found = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "execute_result":
                try:
                    found[cell.id] = ast.literal_eval(output.data["text/plain"])
                except (ValueError, SyntaxError):
                    continue
    return found


def main(argv: list[str] | None = None) -> int:
    """Run all, and write copies with outputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(argv)
    given.out.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        with tempfile.TemporaryDirectory() as folder:
            made = run(read(FOLDER / f"{name}.ipynb"), Path(folder))
        nbformat.write(made, given.out / f"{name}.ipynb")
        print(name, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
