"""From options to configurations: which option sets which key, and which of two sources wins.

A configuration is made from its own defaults, then a TOML file (``--config``), then the options that were given, then
``--set``. Options left out are None, so that every default stands in one place: the configuration's dataclass.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prostate_mim.console import numbers, whole_numbers
from prostate_mim.errors import UsageError

if TYPE_CHECKING:
    from prostate_mim.finetuning import FinetuneRunConfig
    from prostate_mim.pretraining import PretrainConfig

Config = TypeVar("Config")
COMMAND_LINE = "the command line"


def _same(value: Any) -> Any:
    return value


def _trackers(names: list[str]) -> list[str]:
    if "none" in names and len(set(names)) > 1:
        raise UsageError(f"--tracker none stands alone, found {', '.join(names)}; leave out one or the other")
    return [name for name in dict.fromkeys(names) if name != "none"]


def _method(name: str) -> dict[str, Any]:
    from prostate_mim.mim.methods import find_method

    return find_method(name).to_dict()


@dataclass(frozen=True)
class Sets:
    """What an option sets.

    Attributes:
        key: dotted key of the configuration.
        read: from the option's value to the key's plain value.
    """

    key: str
    read: Callable[[Any], Any] = _same


# Parameter of the command -> what it sets. A section stands before the keys within it.
_LOOP = {
    "batch": Sets("loop.batch"),
    "learning_rate": Sets("loop.learning_rate"),
    "accumulate": Sets("loop.accumulate"),
    "precision": Sets("loop.precision"),
    "ema": Sets("loop.ema"),
    "workers": Sets("loop.workers"),
    "loader_timeout": Sets("loop.loader_timeout"),
    "device": Sets("loop.device"),
    "seed": Sets("loop.seed"),
    "trackers": Sets("loop.trackers", _trackers),
}
PRETRAIN = {
    "architecture": Sets("architecture"),
    "objective": Sets("objective"),
    "begin": Sets("begin"),
    "begin_source": Sets("begin_source", str),
    "name": Sets("name"),
    "method": Sets("method", _method),
    "strategy": Sets("method.strategy"),
    "mask_ratio": Sets("method.ratio"),
    "target": Sets("method.target"),
    "decoder": Sets("method.decoder"),
    "loss": Sets("method.losses", lambda name: [[name, 1.0]]),
    "block_mm": Sets("block_mm_zyx", lambda text: numbers(text, "--block-mm")),
    "size": Sets("spec.size_zyx", lambda text: whole_numbers(text, "--size")),
    "masks_per_crop": Sets("masks_per_crop"),
    "watch": Sets("watch"),
    "leave_out_fold": Sets("leave_out_fold"),
    "steps": Sets("loop.steps"),
    "checkpoint_every": Sets("loop.checkpoint_every"),
    "keep_last": Sets("loop.keep_last"),
    "compiled": Sets("loop.compile"),
    "health_every": Sets("loop.health_every"),
    **_LOOP,
}
FINETUNE = {
    "mode": Sets("mode"),
    "folds": Sets("folds"),
    "test_fold": Sets("test_fold"),
    "epochs": Sets("epochs"),
    "name": Sets("name"),
    "layer_decay": Sets("loop.layer_decay"),
    "target": Sets("target"),
    "level": Sets("level"),
    "aggregate": Sets("aggregate"),
    "penalties": Sets("penalties", lambda text: some_numbers(text, "--penalties")),
    "inner_folds": Sets("inner_folds"),
    "freeze_epochs": Sets("freeze_epochs"),
    "patience": Sets("patience"),
    "loss": Sets("loss"),
    "class_weight": Sets("class_weight"),
    "zone_auxiliary": Sets("zone_auxiliary"),
    "flips": Sets("flips"),
    "ensemble": Sets("ensemble"),
    "calibrate": Sets("calibrate"),
    "fraction": Sets("fraction"),
    "fraction_seed": Sets("fraction_seed"),
    "model": Sets("classifier.model"),
    "size": Sets("classifier.size_zyx", lambda text: whole_numbers(text, "--size")),
    "channels": Sets("classifier.channels", lambda text: text.replace(",", " ").split()),
    "single_slice": Sets("classifier.single_slice"),
    "pooling": Sets("classifier.pooling"),
    **_LOOP,
}


def changes(given: Mapping[str, Any], table: Mapping[str, Sets], settings: Sequence[str] = ()) -> dict[str, Any]:
    """Dotted key -> plain value of every option that was given; ``--set`` comes last.

    Args:
        given: a command's parameters; None, an empty text and an empty list mean "not given".
        table: which parameter sets what.
        settings: the texts of ``--set``.
    """
    asked = {name: given.get(name) for name in table}
    made = {table[name].key: table[name].read(value) for name, value in asked.items() if value not in (None, "", [])}
    return made | dict(map(_setting, settings))


def _setting(text: str) -> tuple[str, Any]:
    """``loop.clip_norm=1.0`` -> its key and TOML value; a value that is not TOML is text, so words need no quotes."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise UsageError(f"--set {text!r} is not KEY=VALUE, e.g. --set loop.clip_norm=1.0")
    try:
        read = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        return key, value
    return key, read["value"] if set(read) == {"value"} else value


def run_config(
    given: Mapping[str, Any],
    table: Mapping[str, Sets],
    find_kind: Callable[[], type[Config]],
    settle: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Config:
    """The configuration of a command from its parameters (``config`` and ``settings`` among them).

    Args:
        given: the command's parameters.
        table: which of them sets what.
        find_kind: gives the configuration's dataclass; it may import torch, so it is asked once the texts are read.
        settle: completes plain values, before they are read.

    Raises:
        UsageError, NotFoundError: the file, or an option; each is named as what it is.
    """
    from prostate_mim.config import check_key, config_from_dict, overlay, read_values

    file: Path | None = given.get("config")
    values: dict[str, Any] = {} if file is None else read_values(file)
    asked = changes(given, table, given.get("settings") or ())
    kind = find_kind()
    if file is not None:  # by itself first, so that its mistakes are not taken for those of an option
        config_from_dict(settle(values), kind, str(file))
    allowed = [key for key in given.get("allow_change") or () if key != "data"]  # the studies: no key, but of the run
    for key in (*asked, *allowed):
        check_key(key, kind, COMMAND_LINE)
    return config_from_dict(settle(overlay(values, asked)), kind, COMMAND_LINE)


def pretrain_config(given: Mapping[str, Any]) -> PretrainConfig:
    """The configuration of ``pretrain`` from its parameters; see ``run_config``."""

    def kind() -> type[PretrainConfig]:
        from prostate_mim.pretraining import PretrainConfig

        return PretrainConfig

    _check_objective(given)
    return run_config(given, PRETRAIN, kind, _warmed)


def finetune_config(given: Mapping[str, Any]) -> FinetuneRunConfig:
    """The configuration of ``finetune`` from its parameters; see ``run_config``.

    Raises:
        UsageError: besides, nobody says what to begin with.
    """

    def kind() -> type[FinetuneRunConfig]:
        from prostate_mim.finetuning import FinetuneRunConfig

        return FinetuneRunConfig

    config = run_config(given, FINETUNE, kind)
    if not config.classifier.model:
        raise UsageError(
            "classifier.model is empty: the run that wrote this configuration was given its model by a program; give "
            "--model, a bundled name, a folder or org/name@revision"
        )
    return config


def _check_objective(given: Mapping[str, Any]) -> None:
    """Nothing is hidden in a contrastive training: an option that says what to hide would be lost."""
    hiding = ("method", "strategy", "mask_ratio", "target", "decoder", "loss", "block_mm", "masks_per_crop")
    for name in hiding:
        if given.get("objective") == "simclr" and given.get(name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} is for --objective mim; simclr hides nothing, leave it out")


def _warmed(values: dict[str, Any]) -> dict[str, Any]:
    """With the usual warm-up of the steps where none is given."""
    from prostate_mim.config import overlay
    from prostate_mim.engine.schedule import usual_warmup
    from prostate_mim.pretraining import PretrainConfig

    loop = values.get("loop", {})
    if not isinstance(loop, Mapping) or "warmup" in loop:
        return values
    steps = loop.get("steps", PretrainConfig().loop.steps)
    return overlay(values, {"loop.warmup": usual_warmup(steps)}) if type(steps) is int else values


def some_numbers(text: str, option: str) -> list[float]:
    """The numbers of an option's text, separated by spaces or commas."""
    try:
        return [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise UsageError(f"{option} is {text!r}; expected numbers, e.g. '0.01 0.1 1'") from None
