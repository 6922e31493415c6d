"""Licences: judged by hand-made metadata, and listed for real in this environment."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from release_licences import REVIEWED, Licence, licence_of, licence_row, listed
from release_rows import FAILED, NOT_RUN, OK


@pytest.mark.parametrize(
    ("expression", "classifiers", "text", "kind"),
    [
        ("Apache-2.0", [], "", "permissive"), ("BSD-3-Clause AND MIT", [], "", "permissive"),
        ("", ["MIT License"], "", "permissive"), ("", [], "BSD 3-Clause License", "permissive"),
        ("", ["GNU General Public License v3 (GPLv3)"], "MIT", "copyleft"), ("MPL-2.0 AND MIT", [], "", "copyleft"),
        ("LGPL-2.1-only", [], "", "copyleft"), ("AGPL-3.0", [], "", "copyleft"), ("", [], "", "unknown"),
        ("LicenseRef-NVIDIA", [], "", "unknown"), ("", ["Other/Proprietary License"], "", "unknown"),
        ("", [], "Permission is hereby granted", "unknown"), ("", [], "submitted", "unknown"),
    ],
)  # fmt: skip
def test_kinds(expression: str, classifiers: list[str], text: str, kind: str) -> None:
    """Copyleft is seen wherever it stands; a word that only contains MIT is no licence."""
    values = {"version": "1", "expression": expression, "classifiers": classifiers, "text": text}
    assert licence_of("a", values).kind == kind


def test_this_environment(tmp_path: Path) -> None:
    """The real metadata: packages that everybody knows are judged right."""
    found = listed(Path(sys.executable), tmp_path)
    assert not isinstance(found, str)
    kinds = {one.name.lower(): one.kind for one in found}
    assert {kinds[name] for name in ("numpy", "torch", "nibabel", "pytest")} == {"permissive"}
    assert kinds["tqdm"] == "copyleft"  # MPL-2.0 AND MIT


def test_rows() -> None:
    """What is not permissive fails, unless a reason is written down; an environment that is not there is said."""
    good, odd = Licence("Good", "1", "MIT", "permissive"), Licence("Odd", "1", "", "unknown")
    assert licence_row([good], {}).status == OK
    assert (licence_row([good, odd], {}).status, licence_row([good, odd], {}).detail) == (
        FAILED, "Odd: unknown (says none)",
    )  # fmt: skip
    assert licence_row([good, odd], {"odd": "looked at"}).status == OK
    assert licence_row("no such python", {}).status == NOT_RUN


def test_reasons_are_sentences() -> None:
    """A name alone is no reason."""
    assert all(name == name.lower() and len(why) > 20 for name, why in REVIEWED.items())
