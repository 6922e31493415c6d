"""``list`` and ``info``: what is published, under which terms, and where it is."""

from __future__ import annotations

import io
import sys
import warnings
from typing import Any

import pytest

from prostate_mim import console
from prostate_mim.hub import UnpinnedRevisionWarning
from prostate_mim.hub.registry import read_registry

NAME = "resenc-s.mim-t2w"


def test_list(run: Any) -> None:
    """A line for each, with its licence; the same as JSON, with every file's SHA-256."""
    lines = run("list").out.splitlines()
    assert len(lines) == len(read_registry()) and all("LicenseRef-research-only" in line for line in lines)
    models = {one["name"]: one for one in run("list", "--json").json["models"]}
    assert models[NAME]["here"] and len(models[NAME]["files"]["model.safetensors"]["sha256"]) == 64


def test_list_is_filtered(run: Any) -> None:
    """By name and by both kinds of licence; where nothing is left, that is said."""
    assert len(run("list", "resenc-s").out.splitlines()) >= 1
    for words in (("resnt*",), ("--license", "MIT"), ("--data-license", "CC-BY-3.0")):
        done = run("list", *words)
        assert (done.code, done.out) == (0, "") and "no published model is like that" in done.err


def test_info_says_terms_and_place(run: Any) -> None:
    """Of a published one."""
    found = run("info", NAME, "--json").json
    assert found["source"] == "bundled" and found["license"] == "LicenseRef-research-only"
    assert {"name": "PROSTATEx", "license": "CC-BY-3.0"} in found["data"]


def test_a_hub_needs_a_revision(run: Any) -> None:
    """A usage error that says which."""
    done = run("info", "org/model")
    assert done.code == 2 and "org/model@main" in done.err


def test_our_warnings_are_one_line(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of libraries are shown as Python does."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    assert run("list").code == 0  # installs the command line's way of showing them
    stream, others = io.StringIO(), []
    monkeypatch.setattr(console, "_SHOWN_BY_PYTHON", lambda message, *_: others.append(str(message)))
    monkeypatch.setattr(sys, "stderr", stream)
    warnings.showwarning(UnpinnedRevisionWarning("org/m@main: moves"), UnpinnedRevisionWarning, "file.py", 1)
    warnings.showwarning(UserWarning("of a library"), UserWarning, "file.py", 1)
    assert stream.getvalue() == "warning: org/m@main: moves\n"
    assert others == ["of a library"]
