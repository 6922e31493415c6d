"""study.json: what was asked and what it rests on, in plain values without a path or an identifier of a patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from prostate_mim.config import config_to_dict
from prostate_mim.nets import build_encoder
from prostate_mim.study.config import LESIONS, PRETRAINED, ArmConfig, StudyConfig, TaskConfig
from prostate_mim.study.plan import Plan
from prostate_mim.study.records import FORMAT
from prostate_mim.study.tasks import ALL_FOLDS

_PATHS = ("manifest", "pretraining_manifest", "picai_labels", "source", "watch")


def study_values(plan: Plan, counts: Mapping[str, int], controls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of ``study.json``; see ``records``.

    Args:
        plan: after everything is computed.
        counts: of cells.
        controls: verdicts.
    """
    return {
        "format": FORMAT,
        "name": plan.config.name,
        "config": without_paths(config_to_dict(plan.config)),
        "tasks": [_task(plan, task) for task in plan.config.tasks],
        "arms": [
            _arm(plan, plan.config, arm, architecture)
            for arm in plan.config.arms
            for architecture in plan.config.architectures_of(arm)
        ],
        "guard": _guard(plan),
        "controls": list(controls),
        "counts": dict(counts),
    }


def without_paths(values: Any, name: str = "") -> Any:
    """A copy of plain values in which a path is only the last part of itself."""
    if isinstance(values, Mapping):
        return {key: without_paths(value, key) for key, value in values.items()}
    if isinstance(values, list):
        return [without_paths(value, name) for value in values]
    return Path(values).name if name in _PATHS and isinstance(values, str) else values


def _task(plan: Plan, task: TaskConfig) -> dict[str, Any]:
    opened = plan.tasks.get(task.name)
    values: dict[str, Any] = {"name": task.name, "kind": task.kind, "level": task.level, "spec": task.spec.to_dict()}
    if opened is None:
        return values
    table = opened.table
    positive = {p for p, label in zip(table.patients, table.labels, strict=True) if label == 1}
    return {
        **values,
        "rows": len(table.rows),
        "patients": len(set(table.patients)),
        "positives": table.labels.count(1) if task.kind == LESIONS else None,
        "positive_patients": len(positive) if task.kind == LESIONS else None,
        "folds": len(opened.tested),
        "zones": _counted(table.zones),
        "centres": _counted(table.centres),
        "data_fingerprint": table.contents,
        "allowed_overlap": list(plan.allowed.get(task.name, ())),
    }


def _counted(names: Sequence[str]) -> dict[str, int]:
    return {name: names.count(name) for name in sorted(set(names)) if name}


def _arm(plan: Plan, config: StudyConfig, arm: ArmConfig, architecture: str) -> dict[str, Any]:
    values: dict[str, Any] = {"name": arm.name, "architecture": architecture, "initialisation": arm.initialisation}
    if arm.initialisation == PRETRAINED:
        pretraining = arm.pretrain_configs(architecture, arm.pretraining_seeds[0])[0]
        method = config_to_dict(pretraining)["method"]
        values |= {"method": method, "steps": pretraining.loop.steps, "batch": pretraining.loop.batch}
        values["objective"] = getattr(pretraining, "objective", "mim")
        values |= {"average": arm.average} if arm.average != 1.0 else {}
        values |= {"strategies": list(arm.strategies)} if arm.strategies else {}
    encoders: dict[str, dict[str, Any]] = {}
    for (task, name, own, seed), every in plan.encoders.items():
        for one in every if (name, own) == (arm.name, architecture) else ():
            known = plan.weights.get(one.plan.key)
            if known is not None:
                fold = None if one.fold == ALL_FOLDS else one.fold
                found = {"task": task, "seed": seed, "fold": fold, "weights_sha256": known.sha256}
                encoders[f"{task} {one.plan.key}"] = found
                values["details"] = without_paths(known.details)
    return {**values, "parameters": _parameters(architecture), "encoders": list(encoders.values())}


@lru_cache(maxsize=16)
def _parameters(architecture: str) -> int:
    return sum(parameter.numel() for parameter in build_encoder(architecture).parameters())


def _guard(plan: Plan) -> list[dict[str, Any]]:
    return [
        {
            "task": task, "arm": arm, "architecture": architecture, "seed": seed,
            "fold": None if one.fold == ALL_FOLDS else one.fold, "proven": one.proof.proven, "proof": one.proof.how,
            "findings": list(one.proof.findings),
        }
        for (task, arm, architecture, seed), every in plan.encoders.items()
        for one in every
    ]  # fmt: skip
