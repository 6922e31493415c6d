"""What a reader asks first: how good every arm is, which kinds help, and whether the bars were met."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rows import Key, Rows, by_arm, difference, is_estimate, rows_of, said, scored, spanned, value

from prostate_mim.metrics import Scored
from prostate_mim.study.cells import LOCATION, PLACE
from prostate_mim.study.records import CASES, COMPARISONS, PREDICTIONS, RESULTS, STUDY

IMAGENET, RANDOM = ("imagenet", "effnet-lite0"), "random"
# On the development cases, before each was tested; of the second when the first and all others had been.
CHOSEN = {
    ("averaged long", "effnet-lite0"): "chosen beforehand",
    ("imagenet + position", "effnet-lite0"): "chosen beforehand, in a second round",
}
FROM_IMAGENET = ("imagenet", "averaged")  # beginnings of the names of arms that begin at ImageNet's weights
NOT_MASKED = ("random", "imagenet", "imagenet-centre", "random + norms", "imagenet + norms", "genesis", "simclr")
# The bars: task, metric, share of labels, least difference from random, and from ImageNet's weights.
BARS = (("phantom lesions", "auroc", 0.1, 0.05, 0.0), ("gland voxels", "auroc", 1.0, 0.06, 0.03))
COMPARED = (("gland voxels", 1.0), ("phantom lesions", 0.1), ("phantom lesions", 1.0), ("lesion crops", 1.0))
SHOWN = (("gland voxels", 1.0), ("zone voxels", 1.0), *COMPARED[1:])
AGAIN = ("imagenet + position", "imagenet + position seed 1", "imagenet + position blockwise")
BESIDE_PLACES = (RANDOM, "imagenet", "imagenet + position", "averaged position")


def landscape(out: Path) -> str:
    """AUROC of every arm on the main tasks; arrows where it is shown to differ from random weights of its network."""
    found = {
        (row["architecture"], row["arm"], row["task"], row["fraction"]): row["value"]
        for row in rows_of(out, RESULTS)
        if is_estimate(row) and row["metric"] == "auroc" and (row["level"] == "lesion" or row["mode"] == "probe")
    }
    arrows = {
        (row["architecture"], row["first"], row["task"], row["fraction"]): _arrow(row)
        for row in rows_of(out, COMPARISONS)
        if row["second"] == RANDOM and row["metric"] == "auroc"
    }
    header = ["network", "arm", *(f"{task}, {fraction:.0%}" for task, fraction in SHOWN)]
    lines = [f"| {' | '.join(header)} |", f"| :-- | :-- |{' --: |' * len(SHOWN)}"]
    for network, arm in dict.fromkeys(key[:2] for key in found):
        keys = [(network, arm, task, fraction) for task, fraction in SHOWN]
        cells = [f"{found[key]:.3f}{arrows.get(key, '')}" if key in found else "" for key in keys]
        lines.append(f"| {network} | {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _arrow(row: Mapping[str, Any]) -> str:
    return " ↑" if row["low"] > 0 else " ↓" if row["high"] < 0 else ""


def kinds(out: Path) -> str:
    """Of each kind of arm, how many are better and worse than what they are compared with."""
    lines = [
        f"| network | kind of arm | against | {' | '.join(f'{task}, {fraction:.0%}' for task, fraction in SHOWN)} |",
        f"| :-- | :-- | :-- |{' --: |' * len(SHOWN)}",
    ]
    pairs = [row for row in rows_of(out, COMPARISONS) if row["metric"] == "auroc"]
    of_kind: dict[tuple[str, str, str], Rows] = {}
    for row in pairs:
        kind = kind_of(row["first"])
        if kind:
            of_kind.setdefault((row["architecture"], kind, row["second"]), []).append(row)
    for (network, kind, second), rows in of_kind.items():
        cells = []
        for task, fraction in SHOWN:
            own = [_arrow(row) for row in rows if (row["task"], row["fraction"]) == (task, fraction)]
            cells.append(f"{own.count(' ↑')} ↑ {own.count(' ↓')} ↓ of {len(own)}" if own else "")
        lines.append(f"| {network} | {kind} | {second} | {' | '.join(cells)} |")
    return "\n".join(lines)


def kind_of(arm: str) -> str:
    """Masked from random weights, masked from ImageNet's, or another pretraining; empty for what is none."""
    if arm in ("genesis", "simclr"):
        return arm
    if arm in NOT_MASKED:
        return ""
    return "masked, begun at ImageNet" if arm.startswith(FROM_IMAGENET) else "masked, begun at random"


def missing(out: Path) -> str:
    """Which arms have no number yet; nothing where all have."""
    known = {key for name in (PREDICTIONS, CASES) for key, _ in by_arm(rows_of(out, name))}
    arms = [(arm["name"], arm["architecture"]) for arm in json.loads((out / STUDY).read_text())["arms"]]
    lacking = [f"{name} ({architecture})" for name, architecture in arms if (name, architecture) not in known]
    return f"**Not computed yet**: {', '.join(lacking)}.\n" if lacking else ""


def bars(out: Path) -> str:
    """Masked arms against random weights of their network and ImageNet's: chosen ones, and the best of each kind."""
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
    """The arms chosen beforehand; the best masked one that begins at ImageNet's weights, and at random ones, a network.

    Yields:
        (arm, architecture), and why it is listed.
    """
    yield from ((key, why) for key, why in CHOSEN.items() if key in arms)
    for network in sorted({architecture for _, architecture in arms}):
        masked = [key for key in arms if key[1] == network and key[0] not in NOT_MASKED]
        for begins in (True, False):
            own = [key for key in masked if key[0].startswith(FROM_IMAGENET) is begins]
            if own:
                best = max(own, key=lambda key: value(arms[key], probe=probe))
                yield best, f"best of {len(own)} from {'ImageNet' if begins else 'random'} weights"


def places(out: Path) -> str:
    """What a voxel's place alone tells, in its window and in the body, beside the arms, and how much more they know."""
    named = [f"{arm}, minus location" for arm in BESIDE_PLACES[1:]]
    header = ["task", "patients", "place in the window", "location in the body", *BESIDE_PLACES, *named]
    lines = [f"| {' | '.join(header)} |", f"| :-- |{' --: |' * (len(header) - 1)}"]
    for task in ("gland voxels", "zone voxels", "lesion voxels"):
        found = {**scored(out, task, "auroc", 1.0), **scored(out, task, "auroc", 1.0, controls=True)}
        names = (f"{PLACE}{RANDOM}", f"{LOCATION}{RANDOM}", *BESIDE_PLACES)
        if not all((name, IMAGENET[1]) in found for name in names):
            continue
        shown = [found[name, IMAGENET[1]] for name in names]
        means = [f"{value(one, probe=True):.3f}" for one in shown]
        over = [said(difference(one, shown[1], probe=True)) for one in shown[3:]]
        lines.append(f"| {' | '.join((task, str(len(shown[1].patients)), *means, *over))} |")
    return "\n".join(lines)


def again(out: Path) -> str:
    """The chosen arm, with another seed and with another masking: what each is above ImageNet's weights."""
    pairs = {
        (row["first"], row["task"], row["fraction"]): spanned(row, "difference", "+")
        for row in rows_of(out, COMPARISONS)
        if row["second"] == IMAGENET[0] and row["architecture"] == IMAGENET[1] and row["metric"] == "auroc"
    }
    asked = (*SHOWN[:2], *(("phantom lesions", fraction) for fraction in (0.1, 0.25, 0.5, 1.0)))
    lines = [f"| arm | {' | '.join(f'{task}, {fraction:.0%}' for task, fraction in asked)} |"]
    lines.append(f"| :-- |{' --: |' * len(asked)}")
    lines += [f"| {arm} | {' | '.join(pairs.get((arm, *one), '') for one in asked)} |" for arm in AGAIN]
    return "\n".join(lines)


def networks(out: Path) -> str:
    """Every arm of the network that ImageNet's weights do not fit, against ImageNet's weights in the one they fit."""
    lines = ["| task | labels | arm of resenc-s | minus ImageNet in effnet-lite0 |", "| :-- | --: | :-- | --: |"]
    for task, fraction in COMPARED:
        arms, probe = scored(out, task, "auroc", fraction), task.endswith("voxels")
        for key in sorted(key for key in arms if key[1] != IMAGENET[1]):
            found = difference(arms[key], arms[IMAGENET], probe=probe)
            lines.append(f"| {task} | {fraction:.0%} | {key[0]} | {said(found)} |")
    return "\n".join((f"<details><summary>{len(lines) - 2} rows</summary>\n", *lines, "\n</details>"))
