"""The words of a study's report: numbers as text, names of metrics, and sentences made from the tables.

No sentence holds a conclusion that is not counted out from the numbers at hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prostate_mim.study.evidence import Evidence, Group, Row

MISSING = "–"
SIGNIFICANT = 0.05
PER_CENT = 100

METRICS: dict[str, tuple[str, str]] = {
    "auroc": ("AUROC", "↑"),
    "average_precision": ("AP", "↑"),
    "brier": ("Brier", "↓"),
    "ece": ("ECE", "↓"),
    "calibration_slope": ("calibration slope", "→ 1"),
    "calibration_intercept": ("calibration intercept", "→ 0"),
    "dice": ("Dice", "↑"),
    "balanced_accuracy": ("balanced accuracy", "↑"),
    "correct": ("share correct", "↑"),
    **{f"sensitivity_at_specificity_{at}": (f"sens. at {at} % spec.", "↑") for at in (80, 90, 95)},
    **{f"specificity_at_sensitivity_{at}": (f"spec. at {at} % sens.", "↑") for at in (80, 90, 95)},
}
MODES = {
    "linear": "linear probe",
    "attentive": "attentive probe",
    "full": "full fine-tuning",
    "probe": "frozen features",
}

ORDER_RULE = (
    "Arms stand in the order of the study's configuration (where that is not recorded: random, ImageNet, the others by "
    "name), never by result."
)
HOW_TO_READ: tuple[tuple[str, str], ...] = (
    (
        "Value [low, high]",
        "The estimate and its 95 % interval from a bootstrap over patients: patients are drawn with replacement, each "
        "with all lesions. Probabilities are out of fold (nobody is judged by a model that saw a patient of that "
        "fold) and averaged over the seeds before the value is computed.",
    ),
    (
        "Paired difference",
        "First arm minus second arm on the same patients, drawn together. An interval that covers 0 does not show that "
        "the arms are equal; look at the detectable difference beside it.",
    ),
    (
        "Detectable difference",
        "The smallest true difference that a study of this size would find in 4 of 5 repetitions (80 % power, "
        "two-sided 5 %), from the standard error of the paired bootstrap. It is not a margin of equivalence.",
    ),
    (
        "p",
        "DeLong: of the two AUROCs, rows taken as the test takes them. Bootstrap: over patients. Holm: the bootstrap's "
        "p after correction for all comparisons of the same task, metric, network, mode and label fraction. Seeds: a "
        "permutation over the seeds, which says whether the difference outlasts another seed, not another patient.",
    ),
    (
        "ROC with bands",
        "One panel an arm: its curve and the 95 % band over patients, point by point; references lie behind it, dashed "
        "and dotted.",
    ),
    (
        "Label efficiency",
        "Share of the training patients whose labels were used, on a logarithmic axis. A smaller share is part of "
        "every larger one of the same seed; test patients are the same throughout.",
    ),
    (
        "Reliability and decision curves",
        "Reliability: observed share of positives against the predicted probability in ten bins; the area of a dot is "
        "the number of rows in it. On the diagonal, probabilities mean what they say. Decision curve: net benefit of "
        "acting above a threshold, against acting on all and on none.",
    ),
    (
        "Probes of voxels",
        "Each small dot is one patient's value, averaged over the seeds; the large mark is their mean with the "
        "interval over patients.",
    ),
)


def number(value: float | None, digits: int = 3) -> str:
    """``0.736``; a dash where there is no value."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """``+0.012``, ``−0.012``, ``0.000``."""
    text = number(value, digits)
    return text if text[0] == "−" or text == MISSING or float(text) == 0 else f"+{text}"


def interval(row: Row | None, name: str = "value") -> str:
    """``0.736 [0.678, 0.792]``; a difference has its sign. A dash where it was not computed."""
    if row is None or row[name] is None:
        return MISSING
    value = signed(row[name]) if name == "difference" else number(row[name])
    if row["low"] is None or row["high"] is None:
        return f"{value} (no interval)"
    return f"{value} [{number(row['low'])}, {number(row['high'])}]"


def p_value(value: float | None) -> str:
    """``0.031``, ``< 0.001``."""
    if value is None or not math.isfinite(value):
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def share(fraction: float) -> str:
    """``0.05`` -> ``5 %``."""
    return f"{PER_CENT * fraction:g} %"


def metric(name: str, *, way: bool = False) -> str:
    """A metric's name as it is written, with the good direction if asked."""
    written, arrow = METRICS.get(name, (name.replace("_", " "), ""))
    return f"{written} {arrow}".strip() if way else written


def heading(group: Group, *, task: bool = False) -> str:
    """``effnet-lite0, linear probe``."""
    words = f"{group.architecture}, {MODES.get(group.mode, group.mode)}"
    return f"{group.task}: {words}" if task else words


def facts(evidence: Evidence, group: Group, level: str = "") -> str:
    """What the group's numbers rest on, counted; at the first level if none is named."""
    span = evidence.spans[group]
    row = next(
        (
            found
            for arm in span.arms
            if (found := evidence.result(group, arm, span.fractions[-1], span.leading, level=level)) is not None
        ),
        None,
    )
    parts = []
    if row is not None and row["positives"]:
        parts.append(f"{row['rows']} rows ({row['positives']} positive) of {row['patients']} patients")
    elif row is not None:
        parts.append(f"{row['patients']} patients")
    parts.append(f"{len(span.arms)} arms")
    parts.append(f"{len(span.seeds)} seeds" if len(span.seeds) != 1 else "1 seed")
    parts.append("labels used: " + ", ".join(map(share, span.fractions)))
    return "; ".join(parts) + "."


@dataclass(frozen=True)
class Tally:
    """Comparisons of a group with one reference, counted.

    Attributes:
        second: the reference.
        compared: comparisons with an interval.
        above, below: first arms whose interval lies above and below 0.
        kept: comparisons with p < 0.05 after Holm's correction.
        detectable: every detectable difference.
    """

    second: str
    compared: int
    above: tuple[str, ...]
    below: tuple[str, ...]
    kept: int
    detectable: tuple[float, ...]

    @property
    def across(self) -> int:
        """Comparisons whose interval covers 0."""
        return self.compared - len(self.above) - len(self.below)


def tallies(evidence: Evidence, group: Group, fraction: float) -> list[Tally]:
    """One per reference with at least one interval, in the fixed order."""
    rows = [row for row in evidence.compared(group, fraction) if row["low"] is not None and row["high"] is not None]
    made = []
    for second in dict.fromkeys(row["second"] for row in rows):
        found = [row for row in rows if row["second"] == second]
        made.append(
            Tally(
                second,
                len(found),
                tuple(row["first"] for row in found if row["low"] > 0),
                tuple(row["first"] for row in found if row["high"] < 0),
                sum(row["p_holm"] is not None and row["p_holm"] < SIGNIFICANT for row in found),
                tuple(row["detectable"] for row in found if row["detectable"] is not None),
            )
        )
    return made


def glance(evidence: Evidence, group: Group, fraction: float) -> list[str]:
    """Per reference, which intervals of differences lie above, below and across 0, and what could be found."""
    name, labels = metric(evidence.spans[group].leading), share(fraction)
    return [
        f"Against {tally.second} at {labels} of the labels, {name}, {_many(tally.compared, 'comparison')}: interval "
        f"above 0 for {_listed(tally.above)}; below 0 for {_listed(tally.below)}; across 0 for {tally.across}. After "
        f"Holm's correction p < 0.05 in {tally.kept}."
        + (f" Detectable difference {number_range(tally.detectable)}." if tally.detectable else "")
        for tally in tallies(evidence, group, fraction)
    ]


def traps(evidence: Evidence) -> list[str]:
    """What these numbers must not be taken for, with this study's own counts."""
    lines = []
    for task in dict.fromkeys(group.task for group in evidence.groups):
        lines += _traps_of(evidence, [group for group in evidence.groups if group.task == task], task)
    lines += _sets_of_weights(evidence)
    lines += [
        "Intervals speak of other patients of the same kind, not of other hospitals, scanners or readers.",
        "The spread over seeds says how much a number hangs on chance in training. It is no substitute for the "
        "interval over patients: more seeds make no more patients.",
        "Whoever chooses the best arm by these numbers and quotes its value quotes too high a value: the choice was "
        "made on the same patients.",
        "Research software, not a medical device.",
    ]
    return lines


def _traps_of(evidence: Evidence, groups: Sequence[Group], task: str) -> list[str]:
    counted = [row for group in groups for row in _wholes(evidence, group)]
    if not counted:
        return []
    patients = max(row["patients"] for row in counted)
    positives = max(row["positives"] for row in counted)
    comparisons = sum(len(evidence.compared(group, fraction)) for group in groups for fraction in
                      evidence.spans[group].fractions)  # fmt: skip
    families = len({(group, row["fraction"]) for group in groups for row in evidence.compared(group)})
    least = [row["detectable"] for group in groups for row in evidence.compared(group) if row["detectable"] is not None]
    said = f"{task}: {patients} patients" + (f", {positives} positive rows" if positives else "") + "."
    if least:
        said += (
            f" Even the sharpest comparison would miss a true difference below {number(min(least))} in more than 1 "
            "of 5 such studies."
        )
    if comparisons:
        said += (
            f" {_many(comparisons, 'comparison')} in the leading metric. Holm's correction holds within a family (one "
            f"network, mode and share of labels), not over several: if no arm differed, {SIGNIFICANT * families:g} of "
            f"{_many(families, 'family')} would on average show a difference by chance alone."
        )
    return [said]


def _sets_of_weights(evidence: Evidence) -> list[str]:
    """How many sets of weights an arm stands for: intervals over patients know nothing of others."""
    counts = []
    for arm in evidence.study.get("arms") or ():
        encoders = arm.get("encoders") if isinstance(arm, Mapping) else None
        found = {(each.get("task"), each.get("fold")): set[str]() for each in encoders or ()}
        for each in encoders or ():
            found[each.get("task"), each.get("fold")].add(str(each.get("weights_sha256")))
        counts += [len(each) for each in found.values()]
    if not counts:
        return []
    least, most = min(counts), max(counts)
    spread = _many(least, "set") if least == most else f"{least} to {most} sets"
    return [
        f"An arm stands for {spread} of weights. Neither intervals nor p over patients know how it would have "
        "fared with other weights of the same making: with another seed of the pretraining, or of random weights."
    ]


def unfinished(evidence: Evidence) -> str:
    """A warning where cells are missing or failed; empty where none are."""
    counts = evidence.study.get("counts")
    missing = counts.get("missing", 0) + counts.get("failed", 0) if isinstance(counts, Mapping) else 0
    if not missing:
        return ""
    return f"UNFINISHED: {_many(missing, 'cell')} missing or failed. What is below rests on the others alone."


def _wholes(evidence: Evidence, group: Group) -> list[Row]:
    span = evidence.spans[group]
    rows = [evidence.result(group, arm, span.fractions[-1], span.leading) for arm in span.arms]
    return [row for row in rows if row is not None]


def _many(count: int, what: str) -> str:
    return f"{count} {what if count == 1 else what.replace('family', 'familie') + 's'}"


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def number_range(values: Sequence[float]) -> str:
    """``0.031 to 0.052``; one number where they are the same, a dash where there is none."""
    if not values:
        return MISSING
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def study_title(study: Mapping[str, Any]) -> str:
    """The study's name as a heading."""
    return f"Study {study['name']}" if study.get("name") else "Study"
