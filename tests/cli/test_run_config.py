"""Where a run's configuration comes from: defaults, then the file, then the options; mistakes are named by source."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
from outcomes import refused

from prostate_mim.cli.settings import PRETRAIN, changes, pretrain_config
from prostate_mim.config import read_config
from prostate_mim.errors import UsageError
from prostate_mim.mim import METHODS
from prostate_mim.pretraining import PretrainConfig


def resolved(**given: Any) -> PretrainConfig:
    return pretrain_config({"config": None, "settings": None, "allow_change": None, **given})


def with_loop(config: PretrainConfig, **changed: Any) -> PretrainConfig:
    return dataclasses.replace(config, loop=dataclasses.replace(config.loop, **changed))


def test_nothing_given_is_the_default() -> None:
    """The only default that is not the dataclass's is none: its warm-up is what the rule gives for its steps."""
    assert resolved() == PretrainConfig()
    assert resolved(strategy="", trackers=[]) == PretrainConfig()


@pytest.mark.parametrize(("steps", "warmup"), [(1, 1), (9, 1), (100, 10), (499, 49), (500, 50), (9000, 50)])
def test_short_runs_warm_up_briefly(tmp_path: Path, steps: int, warmup: int) -> None:
    """A tenth of the steps, 1 to 50, wherever the steps are from; a given warm-up stays."""
    path = tmp_path / "run.toml"
    path.write_text(f"[loop]\nsteps = {steps}\n")
    assert resolved(steps=steps).loop.warmup == warmup
    assert resolved(config=path).loop.warmup == warmup
    assert resolved(config=path, steps=300).loop.warmup == 30
    path.write_text(f"[loop]\nsteps = {steps}\nwarmup = 7\n")
    assert resolved(config=path).loop.warmup == 7
    assert resolved(steps=steps, settings=["loop.warmup=5"]).loop.warmup == 5


GIVEN = {
    "architecture": ("resenc-l", "architecture", "resenc-l"),
    "name": ("mine", "name", "mine"),
    "block_mm": ("inf 8 8", "block_mm_zyx", (float("inf"), 8.0, 8.0)),
    "size": ("8 32,64", "spec.size_zyx", (8, 32, 64)),
    "strategy": ("column", "method.strategy", "column"),
    "mask_ratio": ("0.5", "method.ratio", "0.5"),
    "target": ("voxels", "method.target", "voxels"),
    "decoder": ("unet", "method.decoder", "unet"),
    "loss": ("l1", "method.losses", (("l1", 1.0),)),
    "steps": (7, "loop.steps", 7),
    "objective": ("simclr", "objective", "simclr"),
    "begin": ("release", "begin", "release"),
    "begin_source": ("resenc-s.mim-t2w", "begin_source", "resenc-s.mim-t2w"),
    "batch": (4, "loop.batch", 4),
    "accumulate": (2, "loop.accumulate", 2),
    "learning_rate": (0.5, "loop.learning_rate", 0.5),
    "precision": ("bf16", "loop.precision", "bf16"),
    "ema": (0.5, "loop.ema", 0.5),
    "compiled": (True, "loop.compile", True),
    "workers": (3, "loop.workers", 3),
    "loader_timeout": (9.0, "loop.loader_timeout", 9.0),
    "device": ("cpu", "loop.device", "cpu"),
    "seed": (5, "loop.seed", 5),
    "checkpoint_every": (6, "loop.checkpoint_every", 6),
    "keep_last": (4, "loop.keep_last", 4),
    "health_every": (10, "loop.health_every", 10),
    "masks_per_crop": (2, "masks_per_crop", 2),
    "watch": ("a.csv", "watch", "a.csv"),
    "leave_out_fold": (0, "leave_out_fold", 0),
    "trackers": (["mlflow", "wandb", "mlflow"], "loop.trackers", ("mlflow", "wandb")),
}


@pytest.mark.parametrize("name", GIVEN)
def test_every_option_sets_its_own_key(name: str) -> None:
    """An option changes its key and nothing else (the warm-up follows the steps)."""
    value, key, expected = GIVEN[name]
    made, found = resolved(**{name: value}), resolved(**{name: value})
    for part in key.split("."):
        found = getattr(found, part)
    assert found == expected
    *sections, last = key.split(".")
    default = PretrainConfig()
    for section in sections:
        inner = dataclasses.replace(getattr(made, section), **{last: getattr(getattr(default, section), last)})
        made = dataclasses.replace(made, **{section: inner})
    made = made if sections else dataclasses.replace(made, **{last: getattr(default, last)})
    assert with_loop(made, warmup=50) == default


def test_the_table_is_complete() -> None:
    """Every option is tried above, but the method, which has its own test."""
    assert set(GIVEN) | {"method"} == set(PRETRAIN)


def test_method_replaces_its_section_and_parts_come_after(tmp_path: Path) -> None:
    """--method is the whole of a named method; --target and the like exchange parts of it."""
    path = tmp_path / "run.toml"
    path.write_text('[method]\nstrategy = "column"\nratio = "0.7"\n')
    assert resolved(config=path).method == dataclasses.replace(METHODS["fcmae"], strategy="column", ratio="0.7")
    assert resolved(config=path, method="simmim").method == METHODS["simmim"]
    made = resolved(config=path, method="simmim", loss="l2").method
    assert made == dataclasses.replace(METHODS["simmim"], losses=(("l2", 1.0),))


def test_options_override_the_file(tmp_path: Path) -> None:
    """The file over the default, the option over the file, --set over both; what nobody gives stays."""
    path = tmp_path / "run.toml"
    path.write_text('name = "filed"\n[loop]\nsteps = 20\nbatch = 3\nclip_norm = 2\n')
    filed = resolved(config=path)
    assert (filed.name, filed.loop.steps, filed.loop.batch, filed.loop.clip_norm) == ("filed", 20, 3, 2.0)
    made = resolved(config=path, steps=40, settings=["loop.clip_norm=1", "name=a name"])
    assert made == dataclasses.replace(with_loop(filed, steps=40, warmup=4, clip_norm=1.0), name="a name")


def test_set_reads_toml_values_and_words() -> None:
    """A value is TOML where it can be; a second line cannot smuggle in another key."""
    asked = changes({}, {}, ["a.b=[1, 2]", "c=true", "d=word", 'e="x"', "f=1\ng=2", "h=", "i=a=b"])
    assert asked == {"a.b": [1, 2], "c": True, "d": "word", "e": "x", "f": "1\ng=2", "h": "", "i": "a=b"}
    for text in ("loop.steps", "=3", ""):
        with pytest.raises(UsageError, match="KEY=VALUE"):
            changes({}, {}, [text])


def test_trackers_none() -> None:
    """None alone is no tracker; beside another it is a contradiction."""
    assert resolved(trackers=["none"]).loop.trackers == ()
    with pytest.raises(UsageError, match="none stands alone"):
        resolved(trackers=["none", "wandb"])


# -------------------------------------------------------------------------------------------- through the command


def pretrain(run, cohort: Path, out: Path, *arguments: object):
    return run("pretrain", "--manifest", cohort.parent / "studies.csv", "--out", out, *arguments)


def test_mistakes_are_named_by_their_source(run, cohort: Path, tmp_path: Path) -> None:
    """The file, or the command line; before anything is written."""
    path, out = tmp_path / "run.toml", tmp_path / "run"
    for text, texts in {
        "[loop]\nstpes = 3\n": ("loop.stpes is unknown", "did you mean loop.steps?"),
        "steps = 3\n": ("steps is unknown", "did you mean loop.steps?"),
        "[loop]\nsteps = '3'\n": ("loop.steps is '3' (text)", "expected a whole number"),
        "[loop]\nprecision = 'fp8'\n": ("[loop] precision 'fp8'",),
        "[loop\n": ("line 1", "not TOML"),
    }.items():
        path.write_text(text)
        refused(pretrain(run, cohort, out, "--config", path), 2, f"{path}: ", *texts)
    path.write_text("[loop]\nsteps = 3\n")
    base = ("--config", path)
    refused(pretrain(run, cohort, out, *base, "--precision", "fp8"), 2, "the command line: [loop] precision 'fp8'")
    refused(pretrain(run, cohort, out, *base, "--set", "loop.stpes=3"), 2, "the command line", "loop.steps?")
    refused(pretrain(run, cohort, out, *base, "--set", "loop.steps=3.5"), 2, "loop.steps is 3.5", "whole number")
    refused(pretrain(run, cohort, out, *base, "--set", "loop.steps"), 2, "KEY=VALUE")
    refused(pretrain(run, cohort, out, *base, "--allow-change", "loop.step"), 2, "loop.step ", "loop.steps?")
    refused(pretrain(run, cohort, out, *base, "--size", "16 96.5 96"), 2, "--size", "three whole numbers")
    refused(pretrain(run, cohort, out, *base, "--size", "inf 96 96"), 2, "--size", "three whole numbers")
    refused(pretrain(run, cohort, out, *base, "--method", "fcmea"), 3, "did you mean 'fcmae'")
    refused(pretrain(run, cohort, out, "--config", tmp_path / "no.toml"), 3, "no such configuration file")
    refused(pretrain(run, cohort, out, "--config", tmp_path), 2, "cannot be read")
    assert not out.exists()


def test_a_run_from_a_file_and_again_from_its_resolved_copy(run, cohort: Path, tmp_path: Path) -> None:
    """File and options make one run; config.toml of its folder says how, and is a --config that says the same."""
    path = tmp_path / "run.toml"
    path.write_text(
        'name = "filed"\n[spec]\nsize_zyx = [8, 32, 32]\n[method]\nratio = "0.5"\n'
        '[loop]\nsteps = 9\nbatch = 2\ndevice = "cpu"\ntrackers = []\nhealth_every = 0\n'
    )
    made = pretrain(run, cohort, tmp_path / "run", "--config", path, "--steps", 2, "--json")
    assert made.code == 0, made.err
    written = tmp_path / "run" / "config.toml"
    config = read_config(written, PretrainConfig)
    assert config == resolved(config=path, steps=2)
    assert config != resolved(config=path)  # the control: 9 steps
    assert config.loop.steps == 2
    assert tomllib.loads(written.read_text())["name"] == "filed"
    assert resolved(config=written) == config
    assert run("info", tmp_path / "run", "--json").json["name"] == "filed"
