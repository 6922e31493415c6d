"""Pictures of cases: a classifier per fold that never saw the fold's patients, and one picture a row."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prostate_mim.errors import UsageError
from prostate_mim.finetuning import fit_linear_probe, region_features
from prostate_mim.study.cases import fold_classifiers, write_cases
from prostate_mim.study.config import TaskConfig
from prostate_mim.study.features import classifier_for
from prostate_mim.study.tasks import OpenTask, open_task

SIZE = (8, 32, 32)


@pytest.fixture(scope="module")
def task(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenTask:
    from prostate_mim.spec import InputSpec

    config = TaskConfig(name="phantom lesions", manifest=str(cohort), folds=2, spec=InputSpec(size_zyx=SIZE))
    return open_task(config, 0, tmp_path_factory.mktemp("store"))


def test_each_row_has_its_picture(task: OpenTask, small_encoder: Path, tmp_path: Path) -> None:
    """Named by row numbers alone, in the order of the manifest, twice as wide as high; progress is told."""
    told: list[tuple[int, int]] = []
    paths = write_cases(tmp_path, task, small_encoder, progress=lambda done, of: told.append((done, of)))
    count = len(task.table.rows)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        f"cases/phantom-lesions/{row}.png" for row in task.table.rows
    ]
    assert told == [(done, count) for done in range(1, count + 1)]
    for path in paths:
        width, height = Image.open(io.BytesIO(path.read_bytes())).size
        assert height == 96 and width > 1.9 * height


def test_a_fold_is_explained_by_who_never_saw_it(task: OpenTask, small_encoder: Path) -> None:
    """The head of fold k is the probe of all other folds' rows; the control: that of all rows is another one."""
    models = fold_classifiers(task, small_encoder)
    folds, labels = np.array(task.table.folds), np.array(task.table.labels)
    features = region_features(classifier_for(task, small_encoder, 0, "cpu"), task.regions, "cpu")
    assert sorted(models) == sorted(set(task.table.folds)) and len(models) == 2
    for fold, model in models.items():
        learned = np.flatnonzero(folds != fold)
        names = [task.table.names[row] for row in learned]
        probe = fit_linear_probe(features[learned], labels[learned], names)
        everything = fit_linear_probe(features, labels, task.table.names)
        weight = model.head.linear.weight.detach().numpy()[0]
        assert np.allclose(weight, probe.weight, atol=1e-4)
        assert not np.allclose(weight, everything.weight, atol=1e-4)
        assert not {task.table.patients[row] for row in learned} & {
            task.table.patients[row] for row in np.flatnonzero(folds == fold)
        }


def test_wrong_requests_are_refused(task: OpenTask, small_encoder: Path, tmp_path: Path) -> None:
    """No release for a fold; a task without lesions."""
    import dataclasses

    with pytest.raises(UsageError, match="no encoder for fold 1"):
        write_cases(tmp_path, task, {0: small_encoder})
    voxels = dataclasses.replace(task, config=dataclasses.replace(task.config, kind="voxels"))
    with pytest.raises(UsageError, match="kind lesions"):
        write_cases(tmp_path, voxels, small_encoder)
    assert list(tmp_path.iterdir()) == []
