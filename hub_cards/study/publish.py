"""Write STUDY.md and its figures: ``python hub_cards/study/publish.py --studies OUT --data DIR``.

OUT holds ``study``, ``finetune`` and ``recipe``: the folders of ``prostate-mim study`` with the configuration of that
name. DIR is that of ``make_data.py``.
Every number of the page is computed here from their tables, or by ``tabular.py`` from DIR. Which arm is best is seen on
the tested patients themselves, so the best one's interval is too narrow; the page says so, and shows every arm.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tabular import baselines, table

from prostate_mim.errors import ProstateMimError
from prostate_mim.files import make_folder, write_text
from prostate_mim.metrics import METRICS, Comparison, Scored, compare
from prostate_mim.study.groups import mean_over_seeds, mean_value, scored_of
from prostate_mim.study.markdown import study_markdown
from prostate_mim.study.records import (
    ALL,
    CASES,
    COMPARISONS,
    CONTROL,
    PREDICTIONS,
    RESULTS,
    STUDY,
    read_table,
    table_path,
)

HERE = Path(__file__).resolve().parent
PAGE, FIGURES = HERE.parent / "STUDY.md", HERE / "figures"
SAMPLES, SEED = 10_000, 0
IMAGENET, RANDOM = ("imagenet", "effnet-lite0"), "random"
CHOSEN = ("averaged long", "effnet-lite0")  # on the development cases, before it was tested
FROM_IMAGENET = ("imagenet", "averaged")  # beginnings of the names of arms that begin at ImageNet's weights
NOT_MASKED = ("random", "imagenet", "imagenet-centre", "random + norms", "imagenet + norms", "genesis", "simclr")
# The bars: task, metric, share of labels, least difference from random, and from ImageNet's weights.
BARS = (("phantom lesions", "auroc", 0.1, 0.05, 0.0), ("gland voxels", "auroc", 1.0, 0.06, 0.03))
COMPARED = (("gland voxels", 1.0), ("phantom lesions", 0.1), ("phantom lesions", 1.0), ("lesion crops", 1.0))
Key = tuple[str, str]  # arm, architecture
Rows = list[dict[str, Any]]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=Path, required=True, help="holds study, finetune and recipe, all finished")
    parser.add_argument("--data", type=Path, required=True, help="folder of make_data.py")
    given = parser.parse_args()
    study, text = given.studies / "study", (HERE / "intro.md").read_text(encoding="utf-8")
    for name, made in (
        ("missing", missing(study)),
        ("bars", bars(study)),
        ("networks", networks(study)),
        ("finetune", finetuned(given.studies / "finetune")),
        ("recipe", recipe(given.studies / "recipe")),
        ("tabular", table(baselines(given.data / "crops.csv"))),
    ):
        text = text.replace(f"<!-- {name} -->", made)
    shutil.rmtree(FIGURES, ignore_errors=True)
    page = study_markdown(study, make_folder(FIGURES), prefix="study/figures/")
    write_text(PAGE, f"{text}\n{page.replace('# ', '## ', 1)}")
    write_text(HERE / STUDY, (study / STUDY).read_text(encoding="utf-8"))


def missing(out: Path) -> str:
    """Which arms have no number yet; nothing where all have."""
    known = {key for name in (PREDICTIONS, CASES) for key, _ in by_arm(rows_of(out, name))}
    arms = [(arm["name"], arm["architecture"]) for arm in json.loads((out / STUDY).read_text())["arms"]]
    lacking = [f"{name} ({architecture})" for name, architecture in arms if (name, architecture) not in known]
    return f"**Not computed yet**: {', '.join(lacking)}.\n" if lacking else ""


def scored(out: Path, task: str, metric: str, fraction: float) -> dict[Key, Scored]:
    """(arm, architecture) -> what is paired: the rows' mean probabilities, or in probes each patient's mean value."""
    rows = of_task(rows_of(out, PREDICTIONS), task, fraction)
    if rows:
        return {key: mean_over_seeds([scored_of(one) for one in by(own, "seed")]) for key, own in by_arm(rows)}
    rows = of_task(rows_of(out, CASES), task, fraction)
    return {key: per_patient([row for row in own if row["metric"] == metric]) for key, own in by_arm(rows)}


@functools.cache
def rows_of(out: Path, name: str) -> Rows:
    """A table's rows; of a large one, read once."""
    return read_table(table_path(out, name), name)


def of_task(rows: Iterable[Mapping[str, Any]], task: str, fraction: float) -> Rows:
    """The rows of one task and share of labels; no controls."""
    kept = (row for row in rows if row["task"] == task and row["fraction"] == fraction)
    return [dict(row) for row in kept if not row["arm"].startswith(CONTROL)]


def by(rows: Rows, name: str) -> list[Rows]:
    """Rows that have the same value, together, in the order of the values."""
    return [[row for row in rows if row[name] == value] for value in sorted({row[name] for row in rows})]


def by_arm(rows: Rows) -> Iterable[tuple[Key, Rows]]:
    """Rows of each (arm, architecture)."""
    for arm in by(rows, "arm"):
        for own in by(arm, "architecture"):
            yield (own[0]["arm"], own[0]["architecture"]), own


def per_patient(rows: Rows) -> Scored:
    """One value a patient, the mean over seeds; patients without one are left out."""
    found = {own[0]["patient"]: [row["value"] for row in own] for own in by(rows, "patient")}
    kept = {patient: float(np.mean(values)) for patient, values in found.items() if None not in values}
    return Scored(np.zeros(len(kept), np.int64), np.asarray(list(kept.values())), tuple(kept))


def value(one: Scored, *, probe: bool) -> float:
    """AUROC; in probes the mean over patients."""
    measure = mean_value if probe else METRICS["auroc"]
    return float(measure(one.labels, one.probabilities) or 0)


def difference(first: Scored, second: Scored, *, probe: bool) -> Comparison:
    """First minus second, paired; over patients, in probes those that have a value in both."""
    if probe:
        both = set(first.patients) & set(second.patients)
        first, second = (one.where([who in both for who in one.patients]) for one in (first, second))
    return compare(first, second, metric=mean_value if probe else "auroc", samples=SAMPLES, seed=SEED)


def said(found: Comparison) -> str:
    """Difference and interval."""
    return spanned(dataclasses.asdict(found.difference), "value", "+")


def bars(out: Path) -> str:
    """Masked arms against random weights of their network and ImageNet's: the chosen one, and the best of each kind."""
    lines = [
        "| task | network | masked arm | minus random | minus ImageNet | asked for |",
        "| :-- | :-- | :-- | --: | --: | :-- |",
    ]
    for task, metric, fraction, over_random, over_imagenet in BARS:
        arms, probe = scored(out, task, metric, fraction), task.endswith("voxels")
        asked = f"{over_random:+.2f} and {over_imagenet:+.2f}"
        for key, why in candidates(arms, probe=probe):
            against = [difference(arms[key], arms[other], probe=probe) for other in ((RANDOM, key[1]), IMAGENET)]
            named = f"{task} | {key[1]} | {key[0]} ({why})"
            lines.append(f"| {named} | {said(against[0])} | {said(against[1])} | {asked} |")
    return "\n".join(lines)


def candidates(arms: Mapping[Key, Scored], *, probe: bool) -> Iterable[tuple[Key, str]]:
    """The arm chosen beforehand; the best masked one that begins at ImageNet's weights, and at random ones, a network.

    Yields:
        (arm, architecture), and why it is listed.
    """
    if CHOSEN in arms:
        yield CHOSEN, "chosen beforehand"
    for network in sorted({architecture for _, architecture in arms}):
        masked = [key for key in arms if key[1] == network and key[0] not in NOT_MASKED]
        for begins in (True, False):
            own = [key for key in masked if key[0].startswith(FROM_IMAGENET) is begins]
            if own:
                best = max(own, key=lambda key: value(arms[key], probe=probe))
                yield best, f"best of {len(own)} from {'ImageNet' if begins else 'random'} weights"


def networks(out: Path) -> str:
    """Every arm of the network that ImageNet's weights do not fit, against ImageNet's weights in the one they fit."""
    lines = ["| task | labels | arm of resenc-s | minus ImageNet in effnet-lite0 |", "| :-- | --: | :-- | --: |"]
    for task, fraction in COMPARED:
        arms, probe = scored(out, task, "auroc", fraction), task.endswith("voxels")
        for key in sorted(key for key in arms if key[1] != IMAGENET[1]):
            found = difference(arms[key], arms[IMAGENET], probe=probe)
            lines.append(f"| {task} | {fraction:.0%} | {key[0]} | {said(found)} |")
    return "\n".join((f"<details><summary>{len(lines) - 2} rows</summary>\n", *lines, "\n</details>"))


def finetuned(out: Path) -> str:
    """Every arm of the fine-tuning study, and its paired difference from random weights of its network."""
    rows = [row for row in rows_of(out, RESULTS) if is_estimate(row)]
    pairs = [row for row in rows_of(out, COMPARISONS) if row["second"] == RANDOM]
    keys = ("task", "architecture", "mode", "metric")
    against = {(*(row[key] for key in keys), row["first"]): row for row in pairs}
    lines = [
        "| task | network | weights trained | arm | AUROC (95 % interval) | minus random | detectable |",
        "| :-- | :-- | :-- | :-- | --: | --: | --: |",
    ]
    for row in rows:
        if row["metric"] != "auroc" or row["level"] == "patient":
            continue
        found = against.get((*(row[key] for key in keys), row["arm"]))
        difference, least = (
            ("", "") if found is None else (spanned(found, "difference", "+"), f"{found['detectable']:.3f}")
        )
        trained = "all" if row["mode"] == "full" else "head only"
        cells = (row["task"], row["architecture"], trained, row["arm"], spanned(row, "value"), difference, least)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def is_estimate(row: Mapping[str, Any]) -> bool:
    """All seeds and all rows together, and no control."""
    return row["seed"] == ALL and row["subset"] == "all" and not row["arm"].startswith(CONTROL)


def spanned(row: Mapping[str, Any], name: str, sign: str = "") -> str:
    """A value and its interval."""
    return " ".join((f"{row[name]:{sign}.3f}", f"({row['low']:{sign}.3f} to {row['high']:{sign}.3f})"))


def recipe(out: Path) -> str:
    """The arms of the search, in its order, and their paired differences from ImageNet's weights."""
    kept = [row for row in rows_of(out, RESULTS) if is_estimate(row)]
    found = {(row["arm"], row["metric"]): row for row in kept}
    pairs = [row for row in rows_of(out, COMPARISONS) if row["second"] == IMAGENET[0] and row["metric"] == "auroc"]
    over = {row["first"]: spanned(row, "difference", "+") for row in pairs}
    lines = ["| arm | AUROC (95 % interval) | minus ImageNet | Dice |", "| :-- | --: | --: | --: |"]
    for arm in dict.fromkeys(row["arm"] for row in kept):
        own, dice = spanned(found[arm, "auroc"], "value"), found[arm, "dice"]["value"]
        lines.append(f"| {arm} | {own} | {over.get(arm, '')} | {dice:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except ProstateMimError as error:
        raise SystemExit(f"error: {error}") from None
