"""Every command has its help; the defaults that help shows are the configurations' own; -m prostate_mim is the app."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main
from outcomes import refused

from prostate_mim._version import __version__
from prostate_mim.cli import app, settings


class Command(NamedTuple):
    path: tuple[str, ...]
    parameters: dict[str, Any]


def commands() -> list[Command]:
    """Every command, those of sub-apps too."""
    found, waiting = [], [((), typer.main.get_command(app))]
    while waiting:
        path, command = waiting.pop()
        found.append(Command(path, {parameter.name: parameter for parameter in command.params}))
        waiting += [((*path, name), inner) for name, inner in getattr(command, "commands", {}).items()]
    return found


COMMANDS = {" ".join(command.path): command for command in commands()}


def test_the_commands_are_known() -> None:
    """The list that the tests below go through is not empty, and sub-commands are in it."""
    assert {"pretrain", "finetune", "report", "embed", "predict", "data", "data prepare", "phantom"} <= set(COMMANDS)


def test_help_follows_the_main_path(run) -> None:
    """Every command and group once, the main path first and in its order, groups not at the end."""
    lines = [line.strip("│ ").split() for line in run("--help").out.splitlines() if line.startswith("│ ")]
    top = [name for name in COMMANDS if name and " " not in name]
    shown = [line[0] for line in lines if line and line[0] in top]
    assert sorted(shown) == sorted(top)
    assert shown[:5] == ["phantom", "data", "pretrain", "finetune", "predict"]
    assert shown.index("bench") < shown.index("list") < shown.index("hub") < shown.index("doctor")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(run, name: str) -> None:
    """--help works and lists every option."""
    shown = run(*name.split(), "--help")
    assert shown.code == 0, shown.err
    assert "Usage: " in shown.out
    if name == "data prepare":
        assert all(option in shown.out for option in ("--out", "--size", "--workers", "--skip-bad", "--json"))


@pytest.mark.parametrize("name", COMMANDS)
def test_no_default_is_in_brackets_twice(run, name: str) -> None:
    """Typer shows a default that is no value as ``[default: (1000)]``; options.option says it in the help instead."""
    shown = run(*name.split(), "--help").out
    assert "[default: (" not in " ".join(shown.replace("│", " ").split())


def test_options_of_a_training_stand_in_groups(run) -> None:
    """Over 40 options in one list are read by nobody: those of each group stay together, under its title."""
    for command, titles in (
        ("pretrain", ("Data", "Masking", "Machine")),
        ("finetune", ("Data", "Evaluation", "Machine")),
    ):
        shown = run(command, "--help").out
        assert all(f"─ {title} ─" in shown for title in ("Options", *titles)), shown
        groups = {one.rich_help_panel for one in COMMANDS[command].parameters.values()}
        assert len(groups) >= 6, groups


def test_unknown_commands_and_options_are_refused(run) -> None:
    """The control: help is not shown for what is not there."""
    assert run("data", "prepared", "--help").code == 2
    assert run("pretrain", "--stpes", "3", "--help").code in (0, 2)  # help may come first
    assert run("pretrain", "--manifest", "a", "--out", "b", "--stpes", "3").code == 2


def in_words(value: Any) -> str:
    """A default as help shows it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value) or "none"


def default_of(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_help_shows_the_configurations_defaults(command: str) -> None:
    """Every option that sets a key is None by default, and its help ends with the default of the dataclass."""
    from prostate_mim.finetuning import FinetuneRunConfig
    from prostate_mim.mim.methods import METHODS
    from prostate_mim.pretraining import PretrainConfig

    table = settings.PRETRAIN if command == "pretrain" else settings.FINETUNE
    config = PretrainConfig() if command == "pretrain" else FinetuneRunConfig()
    parameters = COMMANDS[command].parameters
    for name, sets in table.items():
        assert parameters[name].default is None, name
        _, said, shown = parameters[name].help.rpartition(" Default: ")
        assert said and not parameters[name].show_default, name
        shown, default = shown.removesuffix("."), default_of(config, sets.key)
        if sets.key == "method":
            assert METHODS[shown] == default
        elif sets.key.startswith("method."):
            assert shown == "the method's"
        elif (command, sets.key) == ("pretrain", "name"):  # the default's own network, whichever is trained
            assert shown == f"ARCHITECTURE.OBJECTIVE, e.g. {config.release_name}"
        elif default is None:
            assert shown.startswith(("the encoder's", "none", "centre; mean at")), name
        else:
            assert shown == in_words(default), name


def test_every_option_of_a_training_is_used() -> None:
    """No option of pretrain or finetune is read by nobody: it sets a key, or the command itself takes it."""
    own = {
        "pretrain": {"manifest", "out", "config", "store", "skip_bad", "settings", "resume", "allow_change", "as_json"},
        "finetune": {
            "manifest",
            "out",
            "config",
            "store",
            "settings",
            "resume",
            "allow_overlap",
            "picai_labels",
            "as_json",
        },
    }
    for command, table in (("pretrain", settings.PRETRAIN), ("finetune", settings.FINETUNE)):
        assert set(COMMANDS[command].parameters) - {"help"} == own[command] | set(table), command


def test_module_is_the_program(tmp_path: Path) -> None:
    """``python -m prostate_mim``, as torchrun starts it, is the same app with the same exit codes."""

    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "prostate_mim", *arguments],
            capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"},
        )  # fmt: skip

    shown = start("--version")
    assert (shown.returncode, shown.stdout) == (0, f"prostate-mim {__version__}\n")
    wrong = start("info", str(tmp_path / "nothing"))
    assert wrong.returncode == 3, wrong.stderr
    assert wrong.stderr.startswith("error: ")


def test_engine_options_are_refused_without_ray(run, cohort: Path, small_encoder: Path, tmp_path: Path) -> None:
    """An engine that is unknown, or an option that one process does not have, is said and not ignored."""
    base = ("embed", "--manifest", cohort, "--model", small_encoder, "--out", tmp_path / "E.npz")
    refused(run(*base, "--engine", "spark"), 2, "engine 'spark'", "give ray")
    refused(run(*base, "--workers", 2), 2, "--workers", "--engine ray")
    refused(run(*base, "--shard-rows", 2, "--attempts", 1), 2, "--shard-rows, --attempts")
    predict = ("predict", "--manifest", cohort, "--model", small_encoder)
    refused(run(*predict, "--out", tmp_path / "P"), 2, "--out", "--engine ray")
    assert not (tmp_path / "E.npz").exists()
    assert run(*base).code == 0  # the control
    assert (tmp_path / "E.npz").exists()


def test_ray_needs_a_manifest_and_a_folder(run, cohort: Path, small_encoder: Path, tmp_path: Path) -> None:
    """Ray is for archives: a single study, or no place to write to, is refused."""
    if importlib.util.find_spec("ray") is None:  # not imported: the package must be the first to do so
        pytest.skip("ray is not installed: pip install 'prostate-mim[ray]'")
    base = ("predict", "--model", small_encoder, "--engine", "ray")
    refused(run(*base, tmp_path / "a.nii.gz", "--out", tmp_path / "P"), 2, "give both --manifest and --out")
    refused(run(*base, "--manifest", cohort), 2, "give both --manifest and --out")


def test_missing_ray_names_the_extra(cohort: Path, small_encoder: Path, tmp_path: Path) -> None:
    """Without the package the error is a backend error (code 6) that says what to install."""
    program = "import sys; sys.modules['ray'] = None; from prostate_mim.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "embed", "--manifest", cohort, "--model", small_encoder,
         "--out", tmp_path / "archive", "--engine", "ray"], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 6, done.stderr
    assert "pip install 'prostate-mim[ray]'" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
