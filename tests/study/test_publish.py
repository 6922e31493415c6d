"""``hub_cards/study/publish.py``: the tables above the study's own page, by hand."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from prostate_mim.study.records import CASES, CONTROL, PREDICTIONS, write_table

STUDY = Path(__file__).resolve().parents[2] / "hub_cards" / "study"
NETWORK = "effnet-lite0"
# Four of each label. Pairs ranked rightly, of 16: 16, 8 (all alike) and 12.
LABELS = (0, 0, 0, 0, 1, 1, 1, 1)
PERFECT, CHANCE, THREE_QUARTERS = (1, 2, 3, 4, 5, 6, 7, 8), (1,) * 8, (1, 2, 3, 9, 5, 6, 7, 8)


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch, needs_pyarrow: None) -> Iterator[ModuleType]:
    """The script as a module."""
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(STUDY))
    spec = importlib.util.spec_from_file_location("publish", STUDY / "publish.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("tabular", None)


def group(task: str, arm: str, fraction: float, network: str = NETWORK) -> dict[str, Any]:
    return {"task": task, "arm": arm, "architecture": network, "mode": "linear", "fraction": fraction}


def lesions(arm: str, scores: tuple[int, ...], fraction: float = 0.1, network: str = NETWORK) -> list[dict[str, Any]]:
    """Two seeds that say the same of eight patients."""
    own = {"fold": 0, "zone": "", "centre": ""}
    return [
        {**group("phantom lesions", arm, fraction, network), **own, "seed": seed, "row": n + 1, "patient": n,
         "label": label, "probability": score / 10}
        for seed in (0, 1) for n, (label, score) in enumerate(zip(LABELS, scores, strict=True))
    ]  # fmt: skip


def probes(arm: str, values: tuple[float | None, ...], seed: int = 0) -> list[dict[str, Any]]:
    named = {**group("gland voxels", arm, 1.0), "seed": seed, "metric": "auroc"}
    return [{**named, "patient": n, "value": value} for n, value in enumerate(values)]


def test_bars_name_the_best_and_take_the_right_differences(publish: ModuleType, tmp_path: Path) -> None:
    """Of masked arms only; controls, other fractions and arms that mask nothing win nothing."""
    write_table(tmp_path / "predictions.parquet", PREDICTIONS, [
        *lesions("random", CHANCE), *lesions("imagenet", THREE_QUARTERS), *lesions("averaged long", PERFECT),
        *lesions("mim grid", THREE_QUARTERS), *lesions("mim column", CHANCE), *lesions("simclr", PERFECT),
        *lesions("random + norms", PERFECT), *lesions(f"{CONTROL}permuted:random", PERFECT),
        *lesions("mim column", PERFECT, 1.0),
    ])  # fmt: skip
    write_table(tmp_path / "cases.parquet", CASES, [
        *probes("random", (0.5, 0.7, 0.6)), *probes("random", (0.7, 0.9, 0.8), 1),
        *probes("imagenet", (0.7, 0.9, None)), *probes("imagenet", (0.7, 0.9, 0.9), 1),
        *probes("averaged long", (0.9, 0.9, 0.9)),
    ])  # fmt: skip
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in publish.bars(tmp_path).splitlines()[2:]]
    named = [(row[0], row[2]) for row in rows]
    assert named == [
        ("phantom lesions", "averaged long (chosen beforehand)"),
        ("phantom lesions", "averaged long (best of 1 from ImageNet weights)"),
        ("phantom lesions", "mim grid (best of 2 from random weights)"),
        ("gland voxels", "averaged long (chosen beforehand)"),
        ("gland voxels", "averaged long (best of 1 from ImageNet weights)"),
    ]
    estimates = [tuple(float(cell.split()[0]) for cell in row[3:5]) for row in rows]
    assert estimates[:3] == [(0.5, 0.25), (0.5, 0.25), (0.25, 0.0)]
    # Random: 0.6, 0.8, 0.7, mean 0.7. ImageNet: of the patients it has a value of in both seeds, 0.7 and 0.9.
    assert estimates[3] == (0.2, 0.1)


def test_what_is_missing_is_said(publish: ModuleType, tmp_path: Path) -> None:
    arms = [{"name": name, "architecture": NETWORK} for name in ("random", "genesis")]
    (tmp_path / "study.json").write_text(json.dumps({"arms": arms}))
    write_table(tmp_path / "predictions.parquet", PREDICTIONS, lesions("random", CHANCE))
    write_table(tmp_path / "cases.parquet", CASES, [])
    assert publish.missing(tmp_path) == f"**Not computed yet**: genesis ({NETWORK}).\n"
    (tmp_path / "study.json").write_text(json.dumps({"arms": arms[:1]}))
    assert publish.missing(tmp_path) == ""


def test_what_is_published_belongs_together() -> None:
    """Arms and tasks of STUDY.md's record are those of study.toml; its figures are there, and no others."""
    page, record = STUDY.parent / "STUDY.md", STUDY / "study.json"
    if not page.exists():
        pytest.skip("hub_cards/STUDY.md is not published yet")
    asked = tomllib.loads((STUDY / "study.toml").read_text())
    found = json.loads(record.read_text())
    assert {arm["name"] for arm in found["arms"]} == {arm["name"] for arm in asked["arms"]}
    assert {task["name"] for task in found["tasks"]} == {task["name"] for task in asked["tasks"]}
    shown = set(re.findall(r"!\[[^\]]*\]\(study/figures/([^)]+)\)", page.read_text()))
    assert shown and shown == {path.name for path in (STUDY / "figures").iterdir()}
