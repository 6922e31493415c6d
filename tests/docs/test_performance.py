"""docs/performance.md holds what the files of results say: every table of it is made anew here and compared."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "performance.md"
TEXT = PAGE.read_text(encoding="utf-8")


def load(name: str) -> ModuleType:
    """A script of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


tables = load("performance_tables")


def test_the_page_is_what_the_files_say() -> None:
    """``python docs/performance_tables.py --write`` would change nothing."""
    assert sorted(found[1] for found in tables.TABLE.findall(TEXT)) == sorted(tables.TABLES)
    made = tables.filled_in(TEXT)
    assert made == TEXT, "docs/performance.md is stale: run python docs/performance_tables.py --write"


def test_a_changed_number_is_noticed() -> None:
    """The control: one digit of one table."""
    found = re.search(r"^\| `resenc-s\.mim-t2w` \| (\d+\.\d) \(", TEXT, re.M)
    assert found is not None
    edited = TEXT[: found.start(1)] + "1.0" + TEXT[found.end(1) :]
    assert tables.filled_in(edited) == TEXT != edited


def test_no_result_is_left_out() -> None:
    """Every model with a bench, every engine that was measured, and whatever is faster than what is offered."""
    benches = {path.parent.name: json.loads(path.read_text()) for path in ROOT.glob("hub_cards/*/bench.json")}
    assert benches
    for name, bench in benches.items():
        rows = {row["engine"]: row["median_ms"] for row in bench["engines"] if row["median_ms"] is not None}
        assert TEXT.count(f"| `{name}` |") == 4, name  # engines, memory, file to probability, cost
        (line,) = re.findall(rf"^\| `{re.escape(name)}` \| .*\(.*$", TEXT, re.M)
        assert all(f"{median:.1f} (" in line for median in rows.values()), name
        assert f"**{min(rows.values()):.1f}" in line, name
        quicker = [engine for engine, median in rows.items() if median < rows[bench["winner"]]]
        assert all(f"- `{name}`: {engine} takes" in TEXT for engine in quicker), name
        assert all(row["engine"] in TEXT for row in bench["engines"] if row["median_ms"] is None)


def test_unfavourable_lines_are_found_in_any_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of made-up results: one engine that is not offered wins, one that is offered loses to eager."""

    def row(engine: str, median: float | None) -> dict[str, Any]:
        return {"engine": engine, "median_ms": median, "p90_ms": median, "memory_mb": 1.0}

    rows = [
        row("torch eager", 10),
        row("torch.compile + freezing", 4),
        row("ONNX Runtime CPU", 12),
        row("OpenVINO CPU", 5),
    ]
    monkeypatch.setattr(tables, "benches", lambda: {"a.b": {"engines": [*rows, row("torch CUDA", None)]}})
    assert tables.unfavourable().splitlines() == [
        "- `a.b`: torch.compile + freezing takes 4.0 ms, the fastest that is offered (OpenVINO CPU) 5.0 ms.",
        "- `a.b`: ONNX Runtime CPU is slower than torch eager (12.0 against 10.0 ms).",
    ]


def test_scripts_and_commands_exist() -> None:
    """Every script of the first table is a file, every target one of the Makefile, every option one of the script."""
    for script in re.findall(r"`((?:tests|hub_cards|export)/[\w/]+\.py)`", TEXT):
        assert (ROOT / script).is_file(), script
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([a-z-]+)", TEXT)) <= targets
    for command in re.findall(r"`(?:OMP_NUM_THREADS=1 )?python ((?:tests|hub_cards|export)/[^`]+)`", TEXT):
        script, *words = command.split()
        source = (ROOT / script).read_text()
        assert all(f'"{word}"' in source for word in words if word.startswith("--")), command


def test_seeds_are_those_of_the_scripts() -> None:
    """The seeds that the page names stand in the scripts it names."""
    for script, seed in (
        ("prostate_mim/bench/run.py", "_SEED = 20221229"), ("tests/bench/bench_arms.py", "_SEED = 20221214"),
        ("tests/bench/ranks.py", "SEED = 7"), ("hub_cards/make_reference.py", "SEED = 20261123"),
        ("tests/bench/loader.py", "seed=1"), ("tests/bench/preprocessing.py", "make_study(1, index)"),
    ):  # fmt: skip
        assert seed in (ROOT / script).read_text(), script
        assert re.search(r"\d+", seed)[0] in TEXT  # type: ignore[index]
