"""``hub_cards/study/keep.py``: what was computed travels in one file, and nothing else does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prostate_mim.study import read_study, run_study

SCRIPT = Path(__file__).resolve().parents[2] / "hub_cards" / "study" / "keep.py"


def keep(what: str, studies: Path, file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), what, "--studies", str(studies), "--file", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_is_kept_is_not_computed_again(store: Path, tmp_path: Path, variant: Callable[..., Path]) -> None:
    """Cells and notes of weights alone: the study is whole again without a single encoder."""
    config = read_study(variant(("seeds = [0, 1]", "seeds = [0]"), ("fractions = [0.5, 1.0]", "fractions = [1.0]")))
    first = run_study(config, tmp_path / "old" / "study", store=store)
    notes = len(list((first.out / "weights").iterdir()))
    (tmp_path / "old" / "study" / "cells" / "notes.txt").write_text("PAT0815")
    file = tmp_path / "kept.parquet"
    assert keep("save", tmp_path / "old", file).returncode == 0
    assert b"PAT0815" not in file.read_bytes()
    loaded = keep("load", tmp_path / "new", file)
    assert loaded.stdout == f"load: {first.done + notes} files\n"
    assert keep("load", tmp_path / "new", file).stdout == "load: 0 files\n"
    again = run_study(config, tmp_path / "new" / "study", store=store)
    assert (again.done, again.computed) == (first.done, 0) and first.done >= 2
    assert not any((tmp_path / "new" / "study" / "pretraining").iterdir())
    for name in ("results", "comparisons", "predictions"):
        old, new = (tmp_path / which / "study" / f"{name}.parquet" for which in ("old", "new"))
        assert old.read_bytes() == new.read_bytes()


def test_a_file_that_names_another_place_is_refused(tmp_path: Path, needs_pyarrow: None) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "kept.parquet"
    for name in ("../out.parquet", "study/cells/../../x.parquet", "study/pretraining/x/model.safetensors"):
        parquet.write_table(arrow.table({"name": [name], "content": [b"x"]}), file)
        refused = keep("load", tmp_path / "new", file)
        assert refused.returncode == 1 and "is the name of no cell" in refused.stderr
    assert not (tmp_path / "new").exists() and not (tmp_path / "out.parquet").exists()


def test_an_empty_folder_does_not_replace_what_is_kept(tmp_path: Path, needs_pyarrow: None) -> None:
    file = tmp_path / "kept.parquet"
    file.write_bytes(b"kept")
    refused = keep("save", tmp_path / "mistyped", file)
    assert refused.returncode == 1 and "holds no cell" in refused.stderr and file.read_bytes() == b"kept"
