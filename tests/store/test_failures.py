"""What cannot be prepared or written: one clear error, a report that names every row, nothing half-written."""

from __future__ import annotations

import csv
import os
import resource
import shutil
import tempfile
from pathlib import Path

import pytest
from small_cohort import SPEC, cohort_rows, entries, in_a_fork, leftovers, write_rows, write_study

from prostate_mim.errors import ResourceError, UsageError, VolumeError
from prostate_mim.manifest import read_manifest
from prostate_mim.store import prepare_manifest, prepare_store

SMALL = SPEC.with_size((6, 48, 48))
PLANTED = ("p1", "s1", "t2w_1", "gland_4", "MUELLER")


@pytest.fixture
def cohort(tmp_path):
    """Six studies in a folder with a patient's name: row 2 is cut off, row 5's gland mask is that of a far place."""
    folder = tmp_path / "studies"
    folder.mkdir()
    rows = cohort_rows(6)
    for number in range(6):
        write_study(folder, number, shape=(8, 56, 56))
    (folder / "MUELLER").mkdir()
    rows[1]["t2w"] = "MUELLER/t2w_1.nii.gz"
    content = (folder / "t2w_1.nii.gz").read_bytes()
    (folder / rows[1]["t2w"]).write_bytes(content[: len(content) // 2])
    rows[4]["position_mm_lps"] = "900 900 900"
    return write_rows(folder / "list.csv", rows)


def report(store: Path) -> list[dict[str, str]]:
    with (store / "report.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("workers", [0, 2])
def test_failed_studies_are_rows_and_exit_code_9(cohort, tmp_path, workers):
    """Everything else is prepared first; the error and the report say which rows and why, and nobody's name."""
    store = tmp_path / "store"
    with pytest.raises(VolumeError, match="2 of 6 rows") as caught:
        prepare_store(cohort, store, SMALL.size_zyx, workers=workers)
    assert caught.value.exit_code == 9
    assert "row 2" in str(caught.value)
    assert "\n" not in str(caught.value)
    rows = report(store)
    assert [(row["row"], row["status"]) for row in rows] == [
        ("1", "prepared"), ("2", "failed"), ("3", "prepared"), ("4", "prepared"), ("5", "failed"), ("6", "prepared"),
    ]  # fmt: skip
    assert all(bool(row["reason"]) == (row["status"] == "failed") for row in rows)
    assert "outside the volume" in rows[4]["reason"]
    text = (store / "report.csv").read_text() + str(caught.value).replace(str(cohort), "").replace(str(store), "")
    assert not [word for word in PLANTED if word in text]
    assert str(cohort.parent) not in (store / "report.csv").read_text()


def test_skip_bad_goes_on_and_still_says_it(cohort, tmp_path):
    """The second run reuses the good rows and tries the bad ones again."""
    store = tmp_path / "store"
    for made, reused in ((4, 0), (0, 4)):
        found = prepare_manifest(read_manifest(cohort), SMALL, store, skip_bad=True)
        assert [item.row.number for item in found.rows] == [1, 3, 4, 6]
        assert [failure.number for failure in found.failures] == [2, 5]
        assert (found.made, found.reused) == (made, reused)
        assert [row["row"] for row in report(store)] == [str(n) for n in range(1, 7)]
    assert (prepare_store(cohort, store, SMALL.size_zyx, skip_bad=True, workers=0).failed) == 2


def test_without_a_store_it_is_the_same_error(cohort):
    with pytest.raises(VolumeError, match="2 of 6 rows cannot be prepared, the first is row 2"):
        prepare_manifest(read_manifest(cohort), SMALL, None)
    assert len(prepare_manifest(read_manifest(cohort), SMALL, None, skip_bad=True).rows) == 4


def test_nothing_at_all_is_an_error_even_with_skip_bad(cohort, tmp_path):
    rows = list(csv.DictReader(cohort.open(newline="")))
    only = write_rows(cohort.parent / "bad.csv", [rows[1]])
    with pytest.raises(VolumeError, match="1 of 1 rows"):
        prepare_store(only, tmp_path / "store", SMALL.size_zyx, skip_bad=True, workers=0)


def test_a_repaired_study_is_prepared_next_time(cohort, tmp_path):
    store = tmp_path / "store"
    prepare_store(cohort, store, SMALL.size_zyx, skip_bad=True, workers=0)
    shutil.copy(cohort.parent / "t2w_1.nii.gz", cohort.parent / "MUELLER" / "t2w_1.nii.gz")
    summary = prepare_store(cohort, store, SMALL.size_zyx, skip_bad=True, workers=0)
    assert (summary.made, summary.reused, summary.failed) == (1, 4, 1)


def good(cohort: Path) -> Path:
    """The manifest of the four good studies."""
    rows = list(csv.DictReader(cohort.open(newline="")))
    return write_rows(cohort.parent / "good.csv", [rows[n] for n in (0, 2, 3, 5)])


@pytest.mark.parametrize(("limit", "workers"), [(0, 0), (300, 0), (5_000, 0), (20_000, 0), (5_000, 1)])
def test_a_full_disk_is_one_clear_error(cohort, tmp_path, limit, workers):
    """Nothing half-written stays, and with room again the store is completed."""
    store, path = tmp_path / "store", good(cohort)

    def prepare_on_a_full_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return prepare_store(path, store, SMALL.size_zyx, workers=workers)

    error = in_a_fork(prepare_on_a_full_disk)
    assert isinstance(error, ResourceError)
    assert error.exit_code == 7
    assert "no space left" in str(error)
    assert leftovers(store) == []
    assert not list((store / "entries").glob("*.json"))
    summary = prepare_store(path, store, SMALL.size_zyx, workers=0)
    assert (summary.made, summary.reused) == (4, 0)
    assert leftovers(store) == []


def test_with_room_the_same_fork_succeeds(cohort, tmp_path):
    """The control of the full disk."""
    summary = in_a_fork(lambda: prepare_store(good(cohort), tmp_path / "store", SMALL.size_zyx, workers=0))
    assert summary.made == 4


def test_a_store_that_cannot_be_created_is_refused_before_any_work(cohort, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "store", Path("/proc/store")):
        with pytest.raises(UsageError, match="cannot be written"):
            prepare_store(good(cohort), place, SMALL.size_zyx)


def test_a_read_only_store_is_used_if_complete_and_refused_if_not(cohort):
    """As somebody who may not write it: four rows are read; a fifth would have to be made."""
    with tempfile.TemporaryDirectory() as name:
        folder, somebody = Path(name), 65534
        shutil.copytree(cohort.parent, folder / "studies")
        path = good(folder / "studies" / "list.csv")
        store = folder / "store"
        summary = prepare_store(path, store, SMALL.size_zyx, workers=0)
        before = entries(store), (store / "report.csv").read_bytes()
        for part in (folder, *folder.rglob("*")):
            part.chmod(0o555 if part.is_dir() else 0o444)

        def prepare(size):
            if os.geteuid() == 0:
                os.setuid(somebody)
            found = prepare_manifest(read_manifest(path), SPEC.with_size(size), store)
            return found.made, found.reused, found.fingerprint, int(found.rows[0].study.voxels[:, :, :].sum()) > 0

        assert in_a_fork(lambda: prepare((6, 48, 48))) == (0, 4, summary.fingerprint, True)
        error = in_a_fork(lambda: prepare((6, 48, 47)))
        assert isinstance(error, UsageError)
        assert "cannot be written" in str(error)
        assert (entries(store), (store / "report.csv").read_bytes()) == before
        for part in (folder, *folder.rglob("*")):
            part.chmod(0o755)


def test_arguments_are_checked(cohort, tmp_path):
    for options in ({"size_zyx": (0, 48, 48)}, {"spacing_mm_zyx": (3.0, 0.5, 50.0)}, {"workers": -1}):
        with pytest.raises(UsageError):
            prepare_store(good(cohort), tmp_path / "store", **options)
