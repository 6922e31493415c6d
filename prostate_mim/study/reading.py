"""read_study: a TOML file -> StudyConfig."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prostate_mim.config import config_from_dict, read_values
from prostate_mim.study.config import RELEASE, StudyConfig


def read_study(path: str | Path, data: str | Path | None = None) -> StudyConfig:
    """Read a study's TOML file; paths in it become absolute.

    ``[pretraining]`` is every arm's, and a table ``[arms.pretraining]`` holds what differs from it.

    Args:
        path: the file.
        data: where relative paths of manifests and sources start; the file's own folder if None.

    Raises:
        NotFoundError, UsageError: as ``config.read_config``.
    """
    values = read_values(path)
    common = values.get("pretraining", {})
    arms = values.get("arms")
    if isinstance(arms, list) and isinstance(common, Mapping):
        values["arms"] = [_with_common(arm, common) for arm in arms]
    config = config_from_dict(values, StudyConfig, str(path))
    root = Path(path).parent if data is None else Path(data)
    return _with_paths(config, root.resolve())


def _with_common(arm: Any, common: Mapping[str, Any]) -> Any:
    if not isinstance(arm, Mapping):
        return arm  # the schema refuses it, with a better message
    own = arm.get("pretraining", {})
    return {**arm, "pretraining": _merged(common, own) if isinstance(own, Mapping) else own}


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(below)
    for name, value in above.items():
        under = made.get(name)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        made[name] = _merged(under, value) if both else value  # type: ignore[arg-type]
    return made


def _with_paths(config: StudyConfig, root: Path) -> StudyConfig:
    def place(text: str) -> str:
        return str(root / text) if text else ""

    tasks = tuple(
        dataclasses.replace(
            task, manifest=place(task.manifest), pretraining_manifest=place(task.pretraining_manifest),
            picai_labels=place(task.picai_labels),
        )
        for task in config.tasks
    )  # fmt: skip
    arms = tuple(
        dataclasses.replace(
            arm, pretraining_manifest=place(arm.pretraining_manifest),
            # The name of a release is none of a file.
            source=place(arm.source) if arm.initialisation != RELEASE or (root / arm.source).exists() else arm.source,
        )
        for arm in config.arms
    )  # fmt: skip
    return dataclasses.replace(
        config, tasks=tasks, arms=arms, pretraining_manifest=place(config.pretraining_manifest)
    )  # fmt: skip
