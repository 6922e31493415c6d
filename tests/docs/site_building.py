"""Builds the site as a user does: a Sphinx process, warnings are errors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MADE = ("reference", "repository", "_build", "__pycache__", ".ipynb_checkpoints")
# What pages may lead to, without weights and tables: the rest of a checkout may be an environment of some gigabytes.
LINKED = ("docs", "export", "hub_cards", "prostate_mim", "tests")
HEAVY = ("*.safetensors", "*.parquet")


@dataclass(frozen=True)
class Built:
    """A checkout, its site, and what Sphinx said."""

    checkout: Path
    out: Path
    doctrees: Path
    code: int
    said: str

    def page(self, name: str) -> str:
        """The HTML of one page, by its name without suffix."""
        return (self.out / f"{name}.html").read_text(encoding="utf-8")


def checkout_copy(folder: Path) -> Path:
    """A copy of this checkout as far as pages lead, without what builds made."""
    folder.mkdir(parents=True)
    for path in sorted(ROOT.iterdir()):
        if path.is_file():
            shutil.copy(path, folder)
    for name in LINKED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(*MADE, *HEAVY))
    return folder


def build(checkout: Path, out: Path, doctrees: Path, builder: str = "html") -> Built:
    """``python -m sphinx -W --keep-going -b html docs OUT``; what was read before is not read again.

    The builder "dummy" checks all that "html" does, and writes nothing.
    """
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", builder, "-d", str(doctrees), "docs"]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}  # else numexpr, which pandas brings, tells its number of threads
    done = subprocess.run(
        [*command, str(out)], cwd=checkout, env=quiet, capture_output=True, text=True, timeout=600, check=False
    )
    return Built(checkout, out, doctrees, done.returncode, done.stdout + done.stderr)
