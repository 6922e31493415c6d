"""What stands behind a study's numbers: its tasks, arms, guard and controls as tables, and its records as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from prostate_mim._version import __version__
from prostate_mim.health.report import flat
from prostate_mim.study.evidence import Evidence, entries
from prostate_mim.study.records import CONTROL
from prostate_mim.study.tables import Table
from prostate_mim.study.wording import MISSING

_SHOWN_DIGITS = 12  # of a SHA-256; the whole is in study.json
_OF_RUN = ("task", "seed", "ranks", "started", "finished", "data_fingerprint", "allowed_overlap")


def tasks(evidence: Evidence) -> Table | None:
    """What every arm was judged on; None where it is not recorded."""
    rows = tuple(
        (
            _text(task, "name"), _text(task, "kind"), _text(task, "level"), _text(task, "rows"),
            _text(task, "positives"), _text(task, "patients"), _text(task, "folds"), _text(task, "zones"),
            _text(task, "centres"), _digest(task.get("data_fingerprint")),
        )
        for task in entries(evidence.study, "tasks")
    )  # fmt: skip
    header = (
        "task", "kind", "by", "rows", "positive", "patients", "folds", "zones", "centres", "data fingerprint",
    )  # fmt: skip
    note = "Folds keep the rows of a patient together."
    return Table("tasks", "Tasks", note, header, rows, words=3) if rows else None


def arms(evidence: Evidence) -> Table | None:
    """Where the weights of each arm come from; None where it is not recorded."""
    rows = tuple(
        (
            _text(arm, "name"), _text(arm, "architecture"), _text(arm, "initialisation"), _how(arm),
            _text(arm, "parameters"), str(len(encoders := entries(arm, "encoders"))),
            _digests([each.get("weights_sha256") for each in encoders]),
        )
        for arm in entries(evidence.study, "arms")
    )  # fmt: skip
    header = ("arm", "architecture", "initialisation", "how", "parameters", "encoders", "SHA-256 of the weights")
    note = (
        "Encoders: sets of weights that the tasks, seeds and folds (where each has its own pretraining) used; the "
        "first of their hashes. All are in study.json."
    )
    return Table("arms", "Arms", note, header, rows, words=4) if rows else None


def _how(arm: Mapping[str, Any]) -> str:
    parts = [_text(arm, "objective")] if arm.get("objective") else []
    if arm.get("steps"):
        parts.append(f"{_text(arm, 'steps')} steps of {_text(arm, 'batch')}")
    if arm.get("strategies"):
        parts.append(f"one pretraining each with {_text(arm, 'strategies')}")
    if arm.get("average"):
        parts.append(f"mean with the weights it began with, pretrained share {_text(arm, 'average')}")
    return "; ".join([*parts, *(_text(arm, name) for name in ("method", "details") if arm.get(name))]) or MISSING


def _digests(found: Sequence[object]) -> str:
    """The first of them, and how many more there are."""
    known = list(dict.fromkeys(_digest(each) for each in found))
    return known[0] + (f" and {len(known) - 1} more" if len(known) > 1 else "") if known else MISSING


def guard(evidence: Evidence) -> Table | None:
    """Why no test patient can have been in an arm's pretraining, one row an arm; None where it is not recorded."""
    checked: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for entry in entries(evidence.study, "guard"):
        key = (_text(entry, "task"), _text(entry, "arm"), _text(entry, "architecture"))
        checked.setdefault(key, []).append(entry)
    rows = tuple(
        (
            *key, f"{sum(entry.get('proven') is True for entry in each)} of {len(each)}",
            "; ".join(dict.fromkeys(_text(entry, "proof") for entry in each)),
            "; ".join(dict.fromkeys(_text(entry, "findings") for entry in each if entry.get("findings"))) or "none",
        )
        for key, each in checked.items()
    )  # fmt: skip
    note = (
        "Checked for each set of weights before anything was computed with it. Proven: no study and no patient of a "
        "held-out fold was in its pretraining, as far as voxels and patients can be compared."
    )
    header = ("task", "arm", "architecture", "proven", "how", "overlap that was allowed")
    return Table("guard", "Overlap of pretraining and test", note, header, rows, words=6) if rows else None


def checks(evidence: Evidence) -> Table | None:
    """The controls that pass or fail; None where none were run."""
    rows = tuple(
        (
            _text(entry, "name").removeprefix(CONTROL),
            _text(entry, "task"),
            _passed(entry.get("passed")),
            _text(entry, "what"),
        )
        for entry in entries(evidence.study, "controls")
    )  # fmt: skip
    note = "Undecided: the study could not run that control on this task."
    return Table("checks", "Controls: checks", note, ("control", "task", "passed", "what"), rows, 4) if rows else None


def records(evidence: Evidence) -> list[tuple[str, dict[str, str]]]:
    """(heading, rows of (name, value)) of run, hardware, versions and configuration; empty ones are left out."""
    record = evidence.record
    run = {key.replace("_", " "): _value(record[key]) for key in _OF_RUN if record.get(key) not in (None, [], "")}
    if isinstance(record.get("command"), list):
        run["command"] = " ".join(str(word) for word in record["command"])
    if time := duration(evidence):
        run["time"] = time
    counts = evidence.study.get("counts")
    run.update(
        {f"cells {name}".replace("cells cells", "cells"): _value(count) for name, count in _dict(counts).items()}
    )
    run["report by"] = f"prostate-mim {__version__}"
    found = [
        ("Run", run),
        ("Hardware", flat(_dict(record.get("hardware")))),
        ("Code and packages", flat({key: _dict(record.get(key)) for key in ("code", "packages")})),
        ("Configuration", flat(_dict(evidence.study.get("config")))),
    ]
    return [(heading, rows) for heading, rows in found if rows]


def duration(evidence: Evidence) -> str:
    """Wall time from the first start to the end; empty where the study did not end."""
    try:
        ends = [datetime.fromisoformat(str(evidence.record[name])) for name in ("started", "finished")]
        seconds = (ends[1] - ends[0]).total_seconds()
    except (KeyError, ValueError, TypeError):
        return ""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def _dict(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _text(values: Mapping[str, Any], name: str) -> str:
    return _value(values.get(name))


def _value(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(each)}" for name, each in value.items() if each not in (None, "", [], {}))
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _digest(value: object) -> str:
    return str(value)[:_SHOWN_DIGITS] if value else MISSING


def _passed(value: object) -> str:
    return {True: "yes", False: "NO"}.get(value, "undecided") if isinstance(value, bool) else "undecided"
