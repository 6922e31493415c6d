"""data prepare: a store on disk, with exit codes for what is missing and what is damaged; training reads it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from outcomes import refused

SIZE = ("--size", "8 48 48")


@pytest.fixture
def studies(cohort: Path, tmp_path: Path):
    """Write a manifest of the first studies of the cohort, edited; gives its path."""
    with (cohort.parent / "studies.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))[:3]
    for row in rows:
        for name, value in row.items():
            if value and name in ("t2w", "gland_mask", "lesion_mask"):
                row[name] = str(cohort.parent / value)

    def write(edit=None) -> Path:
        if edit:
            edit(rows)
        path = tmp_path / "m.csv"
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


def prepare(run, manifest: Path, store: Path, *arguments: object):
    return run("data", "prepare", manifest, "--out", store, *SIZE, "--json", *arguments)


def test_prepare_and_reuse(run, studies, tmp_path: Path) -> None:
    """Every study is made once, counted, and found again; stdout is JSON alone, the bar is on stderr."""
    manifest, store = studies(), tmp_path / "store"
    first = prepare(run, manifest, store)
    assert first.code == 0, first.err
    assert {name: first.json[name] for name in ("made", "reused", "failed")} == {"made": 3, "reused": 0, "failed": 0}
    assert first.json["bytes"] > 0
    assert "preparing studies" in first.err
    second = prepare(run, manifest, store, "--workers", 2)
    assert {name: second.json[name] for name in ("made", "reused", "failed")} == {"made": 0, "reused": 3, "failed": 0}
    assert prepare(run, manifest, store, "--size", "8 32 32").json["made"] == 3  # the control: another size is a miss


def test_missing_paths(run, studies, tmp_path: Path) -> None:
    """A mistyped manifest, or a row whose file is not there, is exit code 3."""
    refused(prepare(run, tmp_path / "no.csv", tmp_path / "store"), 3, "no.csv")
    manifest = studies(lambda rows: rows[1].update(t2w="gone.nii.gz"))
    refused(prepare(run, manifest, tmp_path / "store"), 3, "row 2", "does not exist")


def test_bad_studies(run, studies, tmp_path: Path) -> None:
    """A damaged study is exit code 9 and named by its row; with --skip-bad the others are made and it is counted."""
    (tmp_path / "bad.nii.gz").write_bytes(b"damaged")
    manifest, store = studies(lambda rows: rows[1].update(t2w=str(tmp_path / "bad.nii.gz"))), tmp_path / "store"
    refused(prepare(run, manifest, store), 9, "row 2")
    skipped = prepare(run, manifest, store, "--skip-bad")
    assert skipped.code == 0, skipped.err
    assert skipped.json["failed"] == 1
    assert skipped.json["made"] + skipped.json["reused"] == 2


def test_sizes_are_whole_numbers(run, studies, tmp_path: Path) -> None:
    """A region is counted in voxels."""
    base = ("data", "prepare", studies(), "--out", tmp_path / "store", "--size")
    refused(run(*base, "8 48.5 48"), 2, "--size", "three whole numbers")
    refused(run(*base, "8 48"), 2, "--size", "three numbers")
    assert not (tmp_path / "store").exists()


RUN = """
region_zyx = [8, 48, 48]
jitter_zyx = [0, 8, 8]
[spec]
spacing_mm_zyx = [3.0, 0.8, 0.8]
size_zyx = [8, 32, 32]
clip_percentiles = [1.0, 99.0]
[loop]
steps = 1
batch = 1
device = "cpu"
health_every = 0
trackers = []
"""


def statuses(store: Path) -> set[str]:
    """What the last command that filled the store did with the rows."""
    with (store / "report.csv").open(newline="") as stream:
        return {row["status"] for row in csv.DictReader(stream)}


def test_prepared_by_the_file_of_a_pretraining(run, studies, tmp_path: Path) -> None:
    """--config prepares what ``pretrain --config`` looks for: it finds every entry; another spacing is a miss."""
    manifest, store, file = studies(), tmp_path / "store", tmp_path / "run.toml"
    file.write_text(RUN)
    base = ("data", "prepare", manifest, "--out", store, "--json", "--config", file)
    first = run(*base)
    assert (first.code, first.json["made"]) == (0, 3), first.err
    entries = sorted(path.name for path in store.iterdir())
    pretrain = ("pretrain", "--manifest", manifest, "--store", store, "--config", file, "--json")
    made = run(*pretrain, "--out", tmp_path / "a")
    assert made.code == 0, made.err
    assert statuses(store) == {"reused"}
    assert sorted(path.name for path in store.iterdir()) == entries
    # the control: a value that the file does not say
    other = run(*pretrain, "--out", tmp_path / "b", "--set", "spec.spacing_mm_zyx=[3.0, 0.7, 0.7]")
    assert other.code == 0, other.err
    assert statuses(store) == {"prepared"}
    assert run(*base, "--spacing", "3 0.7 0.7").json["reused"] == 3  # options take precedence
    assert run(*base, "--spacing", "3 0.7 0.7", "--size", "8 56 56").json["made"] == 3


def test_spacing_and_size_without_a_file(run, studies, tmp_path: Path) -> None:
    """The two options alone are what a configuration with the same values asks for."""
    manifest, store, file = studies(), tmp_path / "store", tmp_path / "run.toml"
    file.write_text(RUN.replace("clip_percentiles = [1.0, 99.0]\n", ""))
    made = prepare(run, manifest, store, "--spacing", "3,0.8,0.8")
    assert (made.code, made.json["made"]) == (0, 3), made.err
    found = run("data", "prepare", manifest, "--out", store, "--json", "--config", file).json
    assert (found["made"], found["reused"]) == (0, 3)
    assert prepare(run, manifest, store).json["made"] == 3  # the control: the default spacing


def test_a_spacing_or_file_that_cannot_be(run, studies, tmp_path: Path) -> None:
    """Named, with exit codes 2 and 3, before anything is made."""
    manifest, store, file = studies(), tmp_path / "store", tmp_path / "run.toml"
    refused(prepare(run, manifest, store, "--spacing", "3 0.5"), 2, "--spacing", "three numbers")
    refused(prepare(run, manifest, store, "--spacing", "3 0.5 50"), 2, "spacing_mm_zyx", "choose another")
    refused(prepare(run, manifest, store, "--config", tmp_path / "no.toml"), 3, "no.toml")
    file.write_text(RUN.replace("region_zyx", "regoin_zyx"))
    refused(prepare(run, manifest, store, "--config", file), 2, "run.toml", "did you mean region_zyx")
    file.write_text(RUN.replace("size_zyx = [8, 32, 32]", "size_zyx = [8, 64, 64]"))
    refused(prepare(run, manifest, store, "--config", file), 2, "run.toml", "smaller than the crop")
    assert not store.exists()


def test_unwritable_store(run, studies, tmp_path: Path) -> None:
    """A store that cannot be made is exit code 2."""
    (tmp_path / "file").write_text("")
    refused(prepare(run, studies(), tmp_path / "file" / "store"), 2, "cannot be written")


def test_training_reads_the_store_and_skips_what_it_is_told_to(run, studies, tmp_path: Path) -> None:
    """--store keeps what training prepares; --skip-bad leaves out the damaged study, without it training refuses."""
    (tmp_path / "bad.nii.gz").write_bytes(b"damaged")
    manifest, store = studies(lambda rows: rows[1].update(t2w=str(tmp_path / "bad.nii.gz"))), tmp_path / "store"
    base = (
        "pretrain", "--manifest", manifest, "--store", store, "--steps", 1, "--batch", 1, "--size", "8 32 32",
        "--mask-ratio", 0.5, "--device", "cpu", "--health-every", 0, "--tracker", "none",
        "--set", "region_zyx=[8,48,48]",
    )  # fmt: skip
    refused(run(*base, "--out", tmp_path / "strict"), 9, "row 2", "--skip-bad")
    made = run(*base, "--out", tmp_path / "run", "--skip-bad", "--json")
    assert made.code == 0, made.err
    assert run("info", made.json["release"], "--json").json["details"]["training"]["studies"] == 2
    found = prepare(run, manifest, store, "--skip-bad").json
    assert (found["made"], found["reused"]) == (0, 2)  # they were kept
    assert not (tmp_path / "run" / "tensorboard").exists()
    report = tmp_path / "run" / "report.html"
    report.unlink()
    assert run("report", tmp_path / "run", "--json").json == {"report": str(report)}
    assert "<html" in report.read_text()
    refused(run("report", tmp_path / "nothing"), 3, "nothing")
