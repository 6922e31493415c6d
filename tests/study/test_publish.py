"""``hub_cards/study/publish.py``: the tables above the study's own page, by hand."""

from __future__ import annotations

import importlib
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from prostate_mim.study.records import ALL, CASES, COMPARISONS, CONTROL, PREDICTIONS, RESULTS, write_table

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
    yield importlib.import_module("publish")
    for name in ("publish", "answer", "rows", "tabular"):
        sys.modules.pop(name, None)


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


def result(arm: str, value: float, **others: Any) -> dict[str, Any]:
    own = {"seed": ALL, "metric": "auroc", "level": "lesion", "subset": "all", "value": value, "low": 0.1, "high": 0.9}
    return {**group("lesion crops", arm, 1.0), **own, "rows": 8, "patients": 8, "positives": 4, **others}


def paired(first: str, low: float, high: float, second: str = "random", **others: Any) -> dict[str, Any]:
    own = {"task": "lesion crops", "metric": "auroc", "architecture": NETWORK, "mode": "linear", "fraction": 1.0}
    blank = dict.fromkeys(("difference", "p_delong", "p_bootstrap", "p_holm", "p_seeds", "detectable"), 0.0)
    return {**blank, **own, "first": first, "second": second, "low": low, "high": high, **others}


def test_the_landscape_and_the_kinds_of_arms(publish: ModuleType, tmp_path: Path) -> None:
    """One value an arm and task, by lesion, of all seeds; arrows of intervals beside 0; no controls."""
    write_table(tmp_path / "results.parquet", RESULTS, [
        result("random", 0.5), result("mim grid", 0.6), result("mim column", 0.4), result("averaged long", 0.7),
        result("mim grid", 0.9, level="patient"), result("mim grid", 0.9, seed="0"),
        result("mim grid", 0.9, subset="zone=PZ"), result("mim grid", 0.9, metric="brier"),
        result(f"{CONTROL}permuted:random", 0.5),
        result("mim grid", 0.8, task="gland voxels", mode="probe", level="patient"),
    ])  # fmt: skip
    write_table(tmp_path / "comparisons.parquet", COMPARISONS, [
        paired("mim grid", 0.01, 0.2), paired("mim column", -0.2, -0.01), paired("averaged long", -0.1, 0.1),
        paired("averaged long", 0.01, 0.1, "imagenet"), paired("imagenet", 0.1, 0.2),
        paired("mim grid", 0.01, 0.2, metric="dice"), paired("mim grid", -0.1, 0.2, task="gland voxels"),
    ])  # fmt: skip
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in publish.landscape(tmp_path).splitlines()]
    assert rows[0][2] == "gland voxels, 100%" and rows[0][-1] == "lesion crops, 100%"
    shown = {row[1]: (row[2], row[-1]) for row in rows[2:]}
    assert shown == {
        "random": ("", "0.500"), "mim grid": ("0.800", "0.600 ↑"), "mim column": ("", "0.400 ↓"),
        "averaged long": ("", "0.700"),
    }  # fmt: skip
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in publish.kinds(tmp_path).splitlines()[2:]]
    assert [(*row[1:4], row[-1]) for row in rows] == [
        ("masked, begun at random", "random", "0 ↑ 0 ↓ of 1", "1 ↑ 1 ↓ of 2"),
        ("masked, begun at ImageNet", "random", "", "0 ↑ 0 ↓ of 1"),
        ("masked, begun at ImageNet", "imagenet", "", "1 ↑ 0 ↓ of 1"),
    ]


def test_places_stand_beside_the_arms(publish: ModuleType, tmp_path: Path) -> None:
    """Means over patients; differences from the location alone are paired; a task without its controls is left out."""
    arms = {
        f"{CONTROL}place:random": 0.5, f"{CONTROL}location:random": 0.8, f"{CONTROL}permuted:random": 0.4,
        "random": 0.6, "imagenet": 0.7, "imagenet + position": 0.9, "averaged position": 0.8, "mim grid": 1.0,
    }  # fmt: skip
    rows = [row for arm, mean in arms.items() for row in probes(arm, (mean - 0.1, mean + 0.1, mean))]
    other = [{**row, "task": "zone voxels"} for row in rows if "location" not in row["arm"]]
    write_table(tmp_path / "predictions.parquet", PREDICTIONS, [])
    write_table(tmp_path / "cases.parquet", CASES, [*rows, *other])
    header, _, *found = publish.places(tmp_path).splitlines()
    assert header.count("|") == 12 and len(found) == 1
    cells = [cell.strip() for cell in found[0].strip("|").split("|")]
    assert cells[:8] == ["gland voxels", "3", "0.500", "0.800", "0.600", "0.700", "0.900", "0.800"]
    assert [cell.split()[0] for cell in cells[8:]] == ["-0.100", "+0.100", "+0.000"]


def test_another_seed_stands_beside_the_chosen_arm(publish: ModuleType, tmp_path: Path) -> None:
    """Differences of AUROC from ImageNet's weights in their own network; what is not computed stays empty."""
    arms = ("imagenet + position", "imagenet + position seed 1", "imagenet + position blockwise")
    own = {"second": "imagenet", "difference": 0.1, "task": "gland voxels"}
    write_table(tmp_path / "comparisons.parquet", COMPARISONS, [
        *[paired(arm, 0.01 * n, 0.2, **own) for n, arm in enumerate(arms, 1)],
        paired(arms[0], 0.5, 0.6, **{**own, "second": "random"}), paired(arms[0], 0.5, 0.6, **own, metric="dice"),
        paired(arms[1], -0.2, 0.2, **{**own, "task": "phantom lesions"}, fraction=0.25),
    ])  # fmt: skip
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in publish.again(tmp_path).splitlines()]
    assert rows[0][1] == "gland voxels, 100%" and rows[0][4] == "phantom lesions, 25%"
    assert [row[:2] for row in rows[2:]] == [
        [arm, f"+0.100 (+0.0{n}0 to +0.200)"] for n, arm in enumerate(arms, 1)
    ]  # fmt: skip
    assert [row[4] for row in rows[2:]] == ["", "+0.100 (-0.200 to +0.200)", ""]


@pytest.mark.parametrize("side", [True, False])
def test_what_the_place_of_a_lesion_tells(publish: ModuleType, side: bool, tmp_path: Path) -> None:
    """Sixty bare studies with one gland: a label that is the lesion's side is told by its place, one by lot is not."""
    rng, (z, y, x) = np.random.default_rng(1), np.ogrid[-3.5:4.5, -9.5:10.5, -9.5:10.5]
    gland = (z / 3) ** 2 + (y / 7) ** 2 + (x / 7) ** 2 < 1
    np.save(tmp_path / "t2w.npy", rng.normal(300, 20, gland.shape).astype("i2"))
    np.save(tmp_path / "gland.npy", gland.astype("u1"))
    lines = ["study_id,patient_id,t2w,lesion_id,label,position_mm_lps,gland_mask,zone,spacing_mm_zyx,fold"]
    for n in range(60):
        left, behind, above = rng.uniform(-4, 4, 3)
        label = int(left > 0) if side else int(rng.integers(2))
        position = f"{9.5 + left} {9.5 + behind} {10.5 + above}"
        lines.append(f"s{n},p{n},t2w.npy,1,{label},{position},gland.npy,PZ,3 1 1,{n % 3}")
    (tmp_path / "lesions.csv").write_text("\n".join(lines) + "\n")
    zone, place = publish.tabular.places(tmp_path / "lesions.csv").values()
    assert zone[1] <= 0.5 <= zone[2]
    assert (place[1] > 0.9) if side else (place[1] <= 0.5 <= place[2])


def test_what_is_missing_is_said(publish: ModuleType, tmp_path: Path) -> None:
    arms = [{"name": name, "architecture": NETWORK} for name in ("random", "genesis")]
    (tmp_path / "study.json").write_text(json.dumps({"arms": arms}))
    write_table(tmp_path / "predictions.parquet", PREDICTIONS, lesions("random", CHANCE))
    write_table(tmp_path / "cases.parquet", CASES, [])
    assert publish.missing(tmp_path) == f"**Not computed yet**: genesis ({NETWORK}).\n"
    (tmp_path / "study.json").write_text(json.dumps({"arms": arms[:1]}))
    assert publish.missing(tmp_path) == ""


def test_what_is_published_belongs_together() -> None:
    """Arms and tasks of the record are those of study.toml; all figures are there and shown, and no others."""
    page, details, record = STUDY.parent / "STUDY.md", STUDY / "RESULTS.md", STUDY / "study.json"
    if not page.exists():
        pytest.skip("hub_cards/STUDY.md is not published yet")
    asked = tomllib.loads((STUDY / "study.toml").read_text())
    found = json.loads(record.read_text())
    assert {arm["name"] for arm in found["arms"]} == {arm["name"] for arm in asked["arms"]}
    assert {task["name"] for task in found["tasks"]} == {task["name"] for task in asked["tasks"]}
    figures = {path.name for path in (STUDY / "figures").iterdir()}
    shown = [
        set(re.findall(r"!\[[^\]]*\]\((?:study/)?figures/([^)]+)\)", text.read_text())) for text in (page, details)
    ]
    assert shown[0] and shown[0] < figures and shown[1] == figures
    assert "<!--" not in page.read_text()
