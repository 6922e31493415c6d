"""Arms that average pretrained weights with those that they began with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prostate_mim.errors import UsageError
from prostate_mim.hub import read_release
from prostate_mim.initialisations import initialise
from prostate_mim.spec import InputSpec
from prostate_mim.study import read_study, run_study
from prostate_mim.study.cache import Places
from prostate_mim.study.plan import make_plan

LEAST = (("seeds = [0, 1]", "seeds = [0]"), ("fractions = [0.5, 1.0]", "fractions = [1.0]"))
ARM = """
begin = "release"
begin_source = "{source}"
"""


@pytest.fixture
def begun(tmp_path: Path) -> str:
    """What ``[arms.pretraining]`` says of arms that begin at a release."""
    made = initialise("random", "resenc-s", seed=9, spec=InputSpec(size_zyx=(8, 32, 32)))
    return ARM.format(source=made.save_pretrained(tmp_path / "beginning", name="resenc-s.nine"))


def test_averages_share_their_pretraining(
    begun: str, store: Path, tmp_path: Path, variant: Callable[..., Path]
) -> None:
    """One pretraining serves both averages and the arm of neither; each has its own weights, and says its share."""
    more = "".join(
        f'\n[[arms]]\nname = "{name}"\naverage = {share}\n[arms.pretraining]{begun}'
        for name, share in (("half", 0.5), ("most", 0.75), ("whole", 1.0))
    )
    out = tmp_path / "out"
    run = run_study(read_study(variant(*LEAST, more=more)), out, store=store, engine="process", workers=2)
    assert (run.done, run.failures) == (5, ())
    assert len(list((out / "pretraining").glob("*/metrics.jsonl"))) == 2  # of "blocks", and of the three
    arms = {arm["name"]: arm for arm in json.loads((out / "study.json").read_text())["arms"]}
    assert [arms[name].get("average") for name in ("blocks", "half", "most", "whole")] == [None, 0.5, 0.75, None]
    assert len({arm["encoders"][0]["weights_sha256"] for arm in arms.values()}) == 5
    assert len(list((out / "cells").iterdir())) == 5


def test_what_a_failed_pretraining_takes_along(
    begun: str, store: Path, tmp_path: Path, variant: Callable[..., Path]
) -> None:
    """The average is named by the reason of what it is made from, and is not tried."""
    bad = begun + "[arms.pretraining.loop]\nlearning_rate = 1e30\nsteps = 40\n"
    more = f'\n[[arms]]\nname = "half"\naverage = 0.5\n[arms.pretraining]{bad}'
    run = run_study(read_study(variant(*LEAST, more=more)), tmp_path / "out", store=store, skip_bad=True)
    (failed,) = run.failures
    assert failed.cell is not None and failed.cell.arm == "half" and "its encoder: " in failed.reason
    assert "the loss is nan" in failed.reason


def test_arms_that_share_a_pretraining_can_go_on_with_it(
    begun: str, store: Path, tmp_path: Path, variant: Callable[..., Path]
) -> None:
    """Whichever of them began it, and whatever they are called: its run has one configuration."""
    more = "".join(f'\n[[arms]]\nname = "{name}"\naverage = 0.5\n[arms.pretraining]{begun}' for name in ("one", "two"))
    places = Places(tmp_path / "out", store)
    places.make()
    plan = make_plan(read_study(variant(*LEAST, more=more)), places, {}, skip_bad=False)
    (one,), (two,) = (
        planned.plan.pretrained for arm in ("one", "two") for (_, name, *_), (planned,) in plan.encoders.items()
        if name == arm
    )  # fmt: skip
    assert one == replace(two, title=one.title) and one.pretraining is not None
    assert one.title != two.title and one.key[:12] in one.pretraining.name


def test_a_mean_of_several_strategies(begun: str, store: Path, tmp_path: Path, variant: Callable[..., Path]) -> None:
    """One pretraining a strategy, shared with the arm that has that strategy alone; the mean is tensor by tensor."""
    more = "".join(
        f'\n[[arms]]\nname = "{name}"\naverage = 0.5\n{text}\n[arms.pretraining]{begun}'
        for name, text in (("column", 'strategy = "column"'), ("both", 'strategies = ["random", "column"]'))
    )
    out = tmp_path / "out"
    run = run_study(read_study(variant(*LEAST, more=more)), out, store=store, only="arm=column,arm=both")
    assert (run.computed, run.failures) == (2, ())
    assert len(list((out / "pretraining").glob("*/metrics.jsonl"))) == 2
    known = {read_release(path).details["averaged_with_beginning"]["pretrainings"]: path
             for path in (out / "encoders").glob("*/release")}  # fmt: skip
    random, column = sorted(
        (out / "pretraining").glob("*/release"),
        key=lambda path: read_release(path).details["training"]["method"]["strategy"], reverse=True,
    )  # fmt: skip
    start, one, two, made = (
        load_file(path / "model.safetensors") for path in (tmp_path / "beginning", random, column, known[2])
    )
    assert set(known) == {1, 2} and set(made) == set(start)
    for name, value in made.items():
        expected = start[name] / 2 + one[name] / 4 + two[name] / 4
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    (arm,) = [arm for arm in json.loads((out / "study.json").read_text())["arms"] if arm["name"] == "both"]
    assert arm["strategies"] == ["random", "column"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('strategies = ["random"]\n', "strategies are those of an average"),
        ('average = 0.5\nstrategy = "grid"\nstrategies = ["random"]\n', "give it, and no strategy"),
        ("average = 0.5\n", "random ones know nothing"),
        ('initialisation = "random"\naverage = 0.5\n', "average are for initialisation 'pretrained'"),
        ("average = 1.5\n", "above 0 and below 1"),
    ],
)
def test_averages_that_mean_nothing_are_refused(
    text: str, message: str, store: Path, tmp_path: Path, variant: Callable[..., Path]
) -> None:
    """Before anything is computed."""
    path = variant(*LEAST, more=f'\n[[arms]]\nname = "mean"\n{text}')
    with pytest.raises(UsageError, match=message):
        run_study(read_study(path), tmp_path / "out", store=store)
    assert not list((tmp_path / "out").glob("cells/*"))
