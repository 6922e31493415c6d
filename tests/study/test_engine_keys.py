"""Keys of a study are of what its prepared studies hold: not of the code that made them, and of all that is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prostate_mim.engine import runs
from prostate_mim.store import BITS, PreparedManifest, PreparedStudy, prepare
from prostate_mim.study import StudyRun, arms, read_study, run_study, tasks
from prostate_mim.study.cache import Places
from prostate_mim.study.plan import make_plan
from prostate_mim.study.tasks import open_task

SHORT = (("seeds = [0, 1]", "seeds = [0]"), ("fractions = [0.5, 1.0]", "fractions = [1.0]"))
PROBE = ("folds = 2", 'folds = 2\nkind = "voxels"\n[tasks.probe]\nregion_zyx = [12, 96, 96]')
Change = Callable[[PreparedStudy], PreparedStudy]


@pytest.fixture(scope="module")
def text(study_folder: Path) -> Path:
    """The small study with one cell an arm."""
    path, words = study_folder / "keys.toml", (study_folder / "study.toml").read_text()
    for old, new in SHORT:
        words = words.replace(old, new)
    path.write_text(words)
    return path


@pytest.fixture(scope="module")
def finished(text: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyRun:
    """That study, computed."""
    return run_study(read_study(text), tmp_path_factory.mktemp("keys"), store=store)


def keys_of(path: Path, out: Path, store: Path) -> dict[str, set[str]]:
    """Every key that a plan of the study comes to, by kind; what is open already is opened anew."""
    open_task.cache_clear()
    plan = make_plan(read_study(path), Places(out, store), {}, skip_bad=False)
    plan.find_weights()
    jobs = [(place, job) for place in plan.grid if (job := plan.cell_job(place)) is not None]
    return {
        "encoders": {one.plan.key for every in plan.encoders.values() for one in every},
        "cells": {job.key for _, job in jobs},
        "features": {made.key for place, job in jobs for made in plan.features_of(place, job)},
    }


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No other test finds open what one of these has altered."""
    yield
    open_task.cache_clear()


@pytest.fixture
def altered(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Change], None]:
    """A function that changes the first study of everything that a module of the study opens."""

    def alter(module: Any, change: Change) -> None:
        def prepared(*given: Any, **named: Any) -> PreparedManifest:
            found = runs.prepare_rows(*given, **named)
            first, *others = found.rows
            changed = dataclasses.replace(first, study=change(first.study))
            return dataclasses.replace(found, rows=(changed, *others))

        monkeypatch.setattr(module, "prepare_rows", prepared)

    return alter


def with_array(name: str, place: tuple[int, int, int], change: Callable[[int], int]) -> Change:
    """One value of an array is another."""

    def changed(study: PreparedStudy) -> PreparedStudy:
        array = np.array(getattr(study, name)[:, :, :])
        array[place] = change(int(array[place]))
        return dataclasses.replace(study, **{name: array})

    return changed


def with_value(name: str, change: Callable[[Any], Any]) -> Change:
    """A stated value is another."""
    return lambda study: dataclasses.replace(study, **{name: change(getattr(study, name))})


def same(study: PreparedStudy) -> PreparedStudy:
    """The same numbers in memory."""
    return with_array("voxels", (0, 0, 0), int)(study)


CHANGES = {
    "a voxel": with_array("voxels", (1, 2, 3), lambda value: value + 1),
    "a voxel of the corner": with_array("voxels", (-1, -1, -1), lambda value: value + 1),
    "a label bit": with_array("labels", (1, 2, 3), lambda value: value ^ BITS["gland"]),
    "scale": with_value("scale", lambda scale: float(np.nextafter(scale, 2 * scale))),
    "offset": with_value("offset", lambda offset: offset + 1.0),
    "box": with_value("inside_zyx", lambda box: (box[0], box[1], (box[2][0], box[2][1] - 1))),
    "masks": with_value("masks", lambda masks: masks - {"gland"}),
}


def test_other_code_loses_nothing(
    finished: StudyRun, text: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store prepares everything anew under its own names, and the study finds every cell and trains nothing."""
    before = keys_of(text, finished.out, store)
    times = {path: path.stat().st_mtime_ns for path in finished.out.glob("*/*/*.*")}
    assert all(before.values()) and times
    config = read_study(text)
    entries = open_task(config.tasks[0], config.seed, store).prepared.fingerprint
    monkeypatch.setattr(prepare, "code_fingerprint", lambda: "c0de" * 16)
    open_task.cache_clear()
    own = tmp_path / "store"
    again = run_study(config, finished.out, store=own)
    assert (again.computed, again.done) == (0, again.cells)
    assert open_task(config.tasks[0], config.seed, own).prepared.fingerprint != entries  # the control: it is other code
    assert keys_of(text, finished.out, own) == before
    assert {path: path.stat().st_mtime_ns for path in finished.out.glob("*/*/*.*")} == times


@pytest.mark.parametrize("what", CHANGES)
def test_other_contents_are_other_cells(
    what: str, finished: StudyRun, text: Path, store: Path, altered: Callable[[Any, Change], None]
) -> None:
    """Whatever is read of one study of ten, and in the pretraining's data too; the same numbers change no key."""
    before = keys_of(text, finished.out, store)
    for module in (tasks, arms):
        altered(module, same)
    assert keys_of(text, finished.out, store) == before
    altered(tasks, CHANGES[what])
    found = keys_of(text, finished.out, store)
    assert found["encoders"] == before["encoders"]
    assert not found["cells"] & before["cells"] and not found["features"] & before["features"]
    altered(arms, CHANGES[what])
    assert len(keys_of(text, finished.out, store)["encoders"] & before["encoders"]) == 1  # random weights see no data


def test_a_probe_is_of_its_whole_region(
    finished: StudyRun, store: Path, variant: Callable[..., Path], altered: Callable[[Any, Change], None]
) -> None:
    """Its windows are drawn from a region larger than a crop: a voxel at its edge counts."""
    path = variant(PROBE, ('manifest = "lesions.csv"', 'manifest = "split.csv"'), *SHORT, more="# keys\n")
    path.write_text(path.read_text().replace('\n[[arms]]\nname = "blocks"\n', ""))
    before = keys_of(path, finished.out, store)["cells"]
    altered(tasks, same)
    assert before and keys_of(path, finished.out, store)["cells"] == before
    altered(tasks, CHANGES["a voxel of the corner"])
    assert not keys_of(path, finished.out, store)["cells"] & before
