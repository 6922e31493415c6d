"""The study's engine on phantoms: same numbers in any order and by any engine, nothing computed twice, kill -9."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from prostate_mim.errors import IntegrityError, TrainingError, UsageError
from prostate_mim.finetuning import cross_fit
from prostate_mim.metrics import METRICS
from prostate_mim.study import StudyRun, read_study, run_study
from prostate_mim.study.groups import scored_of
from prostate_mim.study.records import (
    CASES,
    COMPARISONS,
    FAILURES,
    PREDICTIONS,
    RESULTS,
    STUDY,
    import_pyarrow,
    read_table,
    table_path,
)
from prostate_mim.study.tasks import open_task

TABLES = (PREDICTIONS, RESULTS, COMPARISONS, CASES)
LIMIT = 300.0  # s; only to end a test that hangs


def contents(out: Path) -> dict[str, bytes]:
    """The bytes of everything that a study publishes."""
    names = [table_path(out, name).name for name in TABLES] + [STUDY, FAILURES]
    return {name: (out / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def finished(study_folder: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyRun:
    """The small study, computed once."""
    out = tmp_path_factory.mktemp("finished")
    return run_study(read_study(study_folder / "study.toml"), out, store=store)


def test_every_cell_is_there_once(finished: StudyRun) -> None:
    """1 task x 2 arms x 2 fractions x 2 seeds; every row once a cell; no patient in two folds."""
    assert (finished.cells, finished.done, finished.computed, finished.missing) == (8, 8, 8, 0)
    rows = read_table(table_path(finished.out, PREDICTIONS), PREDICTIONS)
    cells = {(row["arm"], row["fraction"], row["seed"]) for row in rows}
    assert cells == {(arm, part, seed) for arm in ("random", "blocks") for part in (0.5, 1.0) for seed in (0, 1)}
    assert len({(row["arm"], row["fraction"], row["seed"], row["row"]) for row in rows}) == len(rows)
    folds: dict[int, set[int]] = {}
    for row in rows:
        folds.setdefault(row["patient"], set()).add(row["fold"])
    assert {len(own) for own in folds.values()} == {1} and set().union(*folds.values()) == {0, 1}


def test_nothing_is_computed_twice(finished: StudyRun, study_folder: Path, store: Path) -> None:
    """A second call reads what is there, and writes the same bytes."""
    before = contents(finished.out)
    times = {path: path.stat().st_mtime_ns for path in finished.out.glob("*/*.*")}
    again = run_study(read_study(study_folder / "study.toml"), finished.out, store=store)
    assert (again.computed, again.done) == (0, 8)
    assert contents(finished.out) == before
    assert {path: path.stat().st_mtime_ns for path in finished.out.glob("*/*.*")} == times
    with pytest.raises(UsageError, match="holds a study already"):
        run_study(read_study(study_folder / "study.toml"), finished.out, store=store, resume=False)


def test_one_at_a_time(study_folder: Path, store: Path, tmp_path: Path) -> None:
    """While another process works in the folder, a second study is refused; when that process dies, it is not."""
    config = read_study(study_folder / "study.toml")
    hold = "import sys, time; from pathlib import Path; from prostate_mim.files import file_lock\n"
    hold += "with file_lock(Path(sys.argv[1])) as held: print(held, flush=True); time.sleep(300)"
    command = [sys.executable, "-c", hold, str(tmp_path / ".study.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "True\n"
        with pytest.raises(UsageError, match="another 'study' is running there"):
            run_study(config, tmp_path, store=store, only="arm=random,fraction=0.5")
        assert [path.name for path in tmp_path.iterdir()] == [".study.lock"]
        holder.kill()
    made = run_study(config, tmp_path, store=store, only="arm=random,fraction=0.5")
    assert made.computed == 2


def test_a_typo_is_told_before_anything_is_read(study_folder: Path, store: Path, tmp_path: Path) -> None:
    """A choice of nothing is refused although the manifests are not there, and nothing is written."""
    config = read_study(study_folder / "study.toml", tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="--only chooses no cell; there are arm: blocks, random"):
        run_study(config, tmp_path / "out", store=store, only="arm=rndom")
    assert not (tmp_path / "out").exists()


def test_encoders_are_shared(finished: StudyRun, study_folder: Path, store: Path, tmp_path: Path) -> None:
    """A second study finds the encoders of a first one, trains none, and gets the same numbers; alone, it would."""
    config = read_study(study_folder / "study.toml")
    before = {path: path.stat().st_mtime_ns for path in finished.out.glob("pretraining/*/*")}
    assert before
    made = run_study(config, tmp_path / "second", store=store, encoders=finished.out)
    assert made.computed == 8 and contents(made.out) == contents(finished.out)
    assert {path: path.stat().st_mtime_ns for path in finished.out.glob("pretraining/*/*")} == before
    assert not (made.out / "pretraining").exists() and not (made.out / "encoders").exists()


def test_encoders_may_be_deleted(finished: StudyRun, study_folder: Path, store: Path, tmp_path: Path) -> None:
    """What was computed stays known by the notes of the weights; an encoder is made again only for a new cell."""
    config, out = read_study(study_folder / "study.toml"), tmp_path / "out"
    shutil.copytree(finished.out, out)
    for folder in ("pretraining", "encoders", "features"):
        shutil.rmtree(out / folder)
    again = run_study(config, out, store=store)
    assert (again.computed, again.done) == (0, 8) and contents(out) == contents(finished.out)
    assert not list((out / "pretraining").iterdir())
    next((out / "cells").iterdir()).unlink()
    again = run_study(config, out, store=store)
    assert again.computed == 1 and contents(out) == contents(finished.out)
    note = next((out / "weights").iterdir())
    shutil.rmtree(out / "pretraining")
    shutil.rmtree(out / "encoders")
    note.write_text("{}")
    with pytest.raises(IntegrityError, match="delete it"):
        run_study(config, out, store=store)


def test_values_are_those_of_the_predictions(finished: StudyRun) -> None:
    """Results of a seed are the metrics of its predictions; "all" is of the mean of the seeds' probabilities."""
    rows = read_table(table_path(finished.out, PREDICTIONS), PREDICTIONS)
    own = [row for row in rows if row["arm"] == "blocks" and row["fraction"] == 1.0]
    seeds = [scored_of([row for row in own if row["seed"] == seed]) for seed in (0, 1)]
    results = {
        (row["seed"], row["metric"], row["level"]): row
        for row in read_table(table_path(finished.out, RESULTS), RESULTS)
        if row["arm"] == "blocks" and row["fraction"] == 1.0 and row["subset"] == "all"
    }
    auroc = METRICS["auroc"]
    assert results["1", "auroc", "lesion"]["value"] == auroc(seeds[1].labels, seeds[1].probabilities)
    mean = (seeds[0].probabilities + seeds[1].probabilities) / 2
    assert results["all", "auroc", "lesion"]["value"] == auroc(seeds[0].labels, mean)
    patients = seeds[1].per_patient("max")
    found = results["1", "auroc", "patient"]
    assert found["value"] == auroc(patients.labels, patients.probabilities)
    assert found["rows"] == found["patients"] == len(patients) < len(seeds[1])
    assert {name for _, name, _ in results} == set(METRICS)


def test_comparisons_are_paired_and_name_both_arms(finished: StudyRun) -> None:
    """One row a fraction: the second arm minus the reference, and Holm over one comparison is that comparison."""
    results = read_table(table_path(finished.out, RESULTS), RESULTS)
    auroc = {
        (row["arm"], row["fraction"]): row["value"]
        for row in results
        if (row["seed"], row["metric"], row["level"], row["subset"]) == ("all", "auroc", "lesion", "all")
    }
    rows = read_table(table_path(finished.out, COMPARISONS), COMPARISONS)
    assert [(row["first"], row["second"], row["fraction"]) for row in rows] == [
        ("blocks", "random", 0.5), ("blocks", "random", 1.0),
    ]  # fmt: skip
    for row in rows:
        expected = auroc["blocks", row["fraction"]] - auroc["random", row["fraction"]]
        assert row["difference"] == pytest.approx(expected, abs=1e-12)
        assert row["p_holm"] == row["p_bootstrap"] and row["detectable"] > 0


def test_a_linear_cell_is_cross_fit(finished: StudyRun, study_folder: Path, store: Path) -> None:
    """The frozen probe of ``finetuning.cross_fit`` on the kept features gives the same probabilities."""
    from safetensors.numpy import load_file

    config = read_study(study_folder / "study.toml")
    table = open_task(config.tasks[0], config.seed, store).table
    rows = read_table(table_path(finished.out, PREDICTIONS), PREDICTIONS)
    expected = []
    for path in sorted((finished.out / "features").glob("*.safetensors")):
        features = load_file(path)["features"].astype(np.float64)
        expected.append(
            cross_fit(
                features, np.asarray(table.labels), table.names, table.folds, fraction=0.5, seed=1,
                config=config.finetune,
            )
        )  # fmt: skip
    for arm in ("random", "blocks"):
        own = [row["probability"] for row in rows if (row["arm"], row["fraction"], row["seed"]) == (arm, 0.5, 1)]
        assert any(np.array_equal(own, one) for one in expected)


def test_the_proof_is_kept_with_every_cell(finished: StudyRun) -> None:
    """Each cell's file says how it was made sure that its encoder saw nobody of the task."""
    _, parquet = import_pyarrow()
    kept = [parquet.read_schema(path).metadata for path in (finished.out / "cells").glob("*.parquet")]
    said = [json.loads(metadata[b"prostate-mim study"]) for metadata in kept]
    assert len(said) == 8
    lines = {line for one in said for line in one["guard"]}
    assert any("no person and no image in common with 2 rows" in line for line in lines)
    values = json.loads((finished.out / STUDY).read_text())
    assert {one["proven"] for one in values["guard"]} == {True}


def test_nothing_published_names_a_patient(finished: StudyRun, study_folder: Path) -> None:
    """No id and no folder of the manifest is in any table or description; the control finds them in the manifest."""
    with (study_folder / "lesions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    secrets = {row["patient_id"].encode() for row in rows} | {str(study_folder).encode()}
    published = [*contents(finished.out).values(), (finished.out / "run.json").read_bytes()]
    published += [json.dumps(read_table(table_path(finished.out, name), name)).encode() for name in TABLES]
    assert not [secret for secret in secrets for text in published if secret in text]
    assert all(secret in (study_folder / "lesions.csv").read_bytes() for secret in secrets if b"/" not in secret)


def test_order_and_engine_change_nothing(finished: StudyRun, study_folder: Path, store: Path, tmp_path: Path) -> None:
    """A part first, the rest by two processes: the same bytes as in one go."""
    config = read_study(study_folder / "study.toml")
    part = run_study(config, tmp_path, store=store, only="arm=blocks,seed=1,fraction=1")
    assert (part.done, part.computed, part.missing) == (1, 1, 7)
    assert read_table(table_path(tmp_path, RESULTS), RESULTS) == []  # no group is complete
    rest = run_study(config, tmp_path, store=store, engine="process", workers=2)
    assert (rest.done, rest.computed) == (8, 7)
    assert contents(tmp_path) == contents(finished.out)


def test_another_seed_is_another_cell(
    finished: StudyRun, variant: Callable[..., Path], store: Path, tmp_path: Path
) -> None:
    """The control of the test above: with other seeds, only the cells of the shared seed are found again."""
    shutil.copytree(finished.out, tmp_path / "copy")
    made = run_study(read_study(variant(("seeds = [0, 1]", "seeds = [1, 2]"))), tmp_path / "copy", store=store)
    assert (made.cells, made.computed) == (8, 4)
    own = read_table(table_path(tmp_path / "copy", PREDICTIONS), PREDICTIONS)
    half = {(row["seed"], row["row"]): row["probability"] for row in own if row["fraction"] == 0.5}
    assert [half[1, row] for row in (1, 2, 3)] != [half[2, row] for row in (1, 2, 3)]


def test_a_damaged_arm_fails_alone(
    finished: StudyRun, variant: Callable[..., Path], store: Path, tmp_path: Path, small_encoder: Path
) -> None:
    """Cells that fail are named in failures.csv, all others are finished, and the study says so by an error."""
    shutil.copytree(finished.out, tmp_path / "copy")
    broken = variant(('name = "blocks"', 'name = "blocks"\n[arms.pretraining.loop]\nlearning_rate = 1e30'))
    with pytest.raises(TrainingError, match=r"4 of 8 cells failed \(its encoder: .*failures.csv"):
        run_study(read_study(broken), tmp_path / "copy", store=store)
    with (tmp_path / "copy" / FAILURES).open(newline="") as stream:
        failures = list(csv.DictReader(stream))
    assert {(row["what"], row["arm"]) for row in failures} == {("cell", "blocks")} and len(failures) == 4
    accepted = run_study(read_study(broken), tmp_path / "copy", store=store, skip_bad=True)
    assert len(accepted.failures) == 4 and accepted.done == 4


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Poll a condition while a process runs."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert process.poll() is None, "ended too early"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_sigterm_ends_the_workers_too(store: Path, tmp_path: Path, variant: Callable[..., Path]) -> None:
    """At once, by the shell's code, in the middle of a pretraining that would go on for hours, and nothing is left."""
    long = variant(("steps = 2", "steps = 100000"))
    command = [sys.executable, "-m", "prostate_mim", "study", str(long), "--out", str(tmp_path / "out")]
    command += ["--store", str(store), "--engine", "process", "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: any((tmp_path / "out").glob("pretraining/*/metrics.jsonl")), process)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    process.terminate()
    assert process.wait(LIMIT) == 143
    _, alive = psutil.wait_procs(workers, LIMIT)
    assert not alive


def test_kill_9_and_go_on(finished: StudyRun, study_folder: Path, store: Path, tmp_path: Path) -> None:
    """Killed in its pretraining and again between its features, it ends with the same bytes, nothing redone."""
    command = [sys.executable, "-m", "prostate_mim", "study", str(study_folder / "study.toml"), "--out"]
    command += [str(tmp_path), "--store", str(store), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for pattern in ("pretraining/*/run.json", "features/*.safetensors"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        wait_for(lambda made=pattern: any(tmp_path.glob(made)), process)  # type: ignore[misc]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (tmp_path / STUDY).exists()
    kept = [
        *tmp_path.glob("*/*/release/*"),
        *tmp_path.glob("features/*.safetensors"),
        *tmp_path.glob("cells/*.parquet"),
    ]
    times = {path: path.stat().st_mtime_ns for path in kept}
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert json.loads(done.stdout)["done"] == 8
    assert {path: path.stat().st_mtime_ns for path in kept} == times
    assert contents(tmp_path) == contents(finished.out)
