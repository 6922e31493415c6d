"""Real processes: eight on one store, killed while they prepare, workers killed, a parent killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_cohort import SPEC, Poison, cohort_rows, entries, in_a_fork, leftovers, write_rows, write_study

from prostate_mim.errors import ResourceError
from prostate_mim.manifest import read_manifest
from prostate_mim.store import prepare_manifest, prepare_store
from prostate_mim.store.entry import locked, make_store
from prostate_mim.store.keys import code_fingerprint
from prostate_mim.store.rows import BUSY, FAILED, PREPARED, REUSED, Job, prepare_row
from prostate_mim.store.workers import outcomes

FORK = multiprocessing.get_context("fork")
SMALL = SPEC.with_size((6, 48, 48))
COUNT = 6


@pytest.fixture(scope="module")
def cohort_of_six(tmp_path_factory):
    """(manifest, what its entries are): prepared once without any trouble."""
    folder = tmp_path_factory.mktemp("six")
    for number in range(COUNT):
        write_study(folder, number, shape=(8, 56, 56))
    manifest = read_manifest(write_rows(folder / "list.csv", cohort_rows(COUNT)))
    prepare_manifest(manifest, SMALL, folder / "right")
    return manifest, entries(folder / "right")


def prepare(manifest, store):
    """(made, reused): small enough to send back from another process."""
    found = prepare_manifest(manifest, SMALL, store)
    return found.made, found.reused


def test_eight_processes_make_every_entry_once(cohort_of_six, tmp_path):
    """All start together on an empty store: together they make 6 entries, and every one gets all 6."""
    manifest, right = cohort_of_six
    start, queue = FORK.Event(), FORK.Queue()

    def work():
        start.wait()
        queue.put(prepare(manifest, tmp_path / "store"))

    processes = [FORK.Process(target=work) for _ in range(8)]
    for process in processes:
        process.start()
    start.set()
    found = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert sum(made for made, _ in found) == COUNT
    assert all(made + reused == COUNT for made, reused in found)
    assert entries(tmp_path / "store") == right
    assert leftovers(tmp_path / "store") == []


def test_a_row_that_another_process_makes_is_left_and_come_back_for(cohort_of_six, tmp_path):
    """The lock of one entry is held elsewhere: the five others are made meanwhile, and then this one."""
    manifest, right = cohort_of_six
    store = tmp_path / "store"
    make_store(store)
    code = code_fingerprint()
    jobs = [Job(manifest.path, row, SMALL, store, code) for row in manifest.rows]
    key = prepare_row(Job(manifest.path, manifest.rows[0], SMALL, None, code)).key
    taken, release = FORK.Event(), FORK.Event()

    def hold():
        with locked(store, key, 0):
            taken.set()
            release.wait(60)

    holder = FORK.Process(target=hold)
    holder.start()
    assert taken.wait(60)
    assert prepare_row(jobs[0]).status == BUSY
    order = []
    for outcome in outcomes(jobs, 0):
        order.append((outcome.number, outcome.status))
        if len(order) == COUNT - 1:
            release.set()
    holder.join()
    assert order == [*((n, PREPARED) for n in range(2, COUNT + 1)), (1, PREPARED)]
    assert entries(store) == right


def test_kill_at_any_moment_then_resume(cohort_of_six, tmp_path):
    """40 kill -9 at random moments: what is there is right, the next process completes it, no litter stays.

    A write takes so short a part of the time that 40 kills may all miss it; then there are more of them.
    """
    manifest, right = cohort_of_six
    begin = time.monotonic()
    in_a_fork(lambda: prepare(manifest, tmp_path / "measured"))
    whole = time.monotonic() - begin
    rng = np.random.default_rng(0)
    midway = half = 0
    for number in range(400):
        if number >= 40 and midway and half:
            break
        store = tmp_path / str(number)
        process = FORK.Process(target=prepare, args=(manifest, store))
        process.start()
        time.sleep(float(rng.uniform(0.02, 1.1)) * whole)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        committed = len(list((store / "entries").glob("[!.]*.json")))
        half += len(leftovers(store))
        midway += 0 < committed < COUNT
        made, reused = prepare(manifest, store)
        assert (made, reused) == (COUNT - committed, committed)
        assert entries(store) == right
        assert leftovers(store) == []
    assert midway  # the controls: some kills came between the first entry and the last,
    assert half  # and some left a half-written file


def test_kill_between_the_array_and_its_description(cohort_of_six, tmp_path):
    """The one moment at which half an entry has its final name: it is no entry, and is made again."""
    manifest, right = cohort_of_six
    prepare(manifest, tmp_path)
    for path in sorted((tmp_path / "entries").glob("*.json"))[:2]:
        path.unlink()
        (tmp_path / "entries" / f".{path.stem}.b2nd.half.tmp.b2nd").write_bytes(b"half")
    assert prepare(manifest, tmp_path) == (2, COUNT - 2)
    assert entries(tmp_path) == right
    assert leftovers(tmp_path) == []


def test_killed_workers_cost_no_row(cohort_of_six, tmp_path):
    """Every worker is killed once, when the first row is done: the rows that were under way are prepared again."""
    manifest, _ = cohort_of_six
    killed = []

    def kill_all(done: int, total: int) -> None:
        assert total == COUNT
        if not killed:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
                killed.append(child.pid)

    found = prepare_manifest(manifest, SMALL, tmp_path, workers=2, progress=kill_all)
    assert killed
    assert len(found.rows) == COUNT
    assert found.failures == ()
    assert leftovers(tmp_path) == []


def test_a_row_that_kills_its_worker_is_a_failed_row(cohort_of_six, tmp_path):
    """Twice: in company, then alone. The others are prepared, and nothing hangs."""
    manifest, _ = cohort_of_six
    make_store(tmp_path)
    code = code_fingerprint()
    jobs = [(Poison if row.number == 2 else Job)(manifest.path, row, SMALL, tmp_path, code) for row in manifest.rows]
    found = {outcome.number: outcome for outcome in outcomes(jobs, 1)}
    assert {number for number, outcome in found.items() if outcome.status == FAILED} == {2}
    assert "killed" in found[2].reason
    assert {outcome.status for outcome in found.values()} <= {PREPARED, REUSED, FAILED}
    assert len(found) == COUNT


SCRIPT = """
import sys
from pathlib import Path
from prostate_mim.store import prepare_store
def shout(done, total):
    import multiprocessing
    sys.stdout.write(" ".join(str(child.pid) for child in multiprocessing.active_children()) + "\\n")
    sys.stdout.flush()
{guard}prepare_store(Path(sys.argv[1]), Path(sys.argv[2]), (6, 48, 48), workers=2, progress=shout)
"""


def run_script(manifest, store: Path, guard: str) -> subprocess.Popen[str]:
    """The script as a user would write it, in a process of its own."""
    script = store.parent / "script.py"
    script.write_text(SCRIPT.format(guard=guard))
    command = [sys.executable, str(script), str(manifest.path), str(store)]
    root = os.pathsep.join([str(Path(__file__).parents[2]), os.environ["PYTHONPATH"]])
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root}
    )


def test_workers_leave_with_a_killed_parent(cohort_of_six, tmp_path):
    """After kill -9 of the process that started them no worker is left, and the next run completes the store."""
    manifest, right = cohort_of_six
    process = run_script(manifest, tmp_path / "store", "if __name__ == '__main__': ")
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 2
    process.kill()
    process.wait()  # not for the end of its output, which workers that stay would keep open
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [pid for pid in pids if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []
    process.stdout.close()
    process.stderr.close()
    summary = prepare_store(manifest.path, tmp_path / "store", SMALL.size_zyx, workers=0)
    assert summary.made + summary.reused == COUNT
    assert summary.reused >= 1
    assert entries(tmp_path / "store") == right
    assert leftovers(tmp_path / "store") == []


def alive(pid: int) -> bool:
    """Whether a process runs (a dead one whose parent is gone may wait for init as a zombie)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_workers_that_cannot_start_are_one_clear_error(cohort_of_six, tmp_path):
    """A script without the guard that spawned processes need: said so, at once."""
    manifest, _ = cohort_of_six
    process = run_script(manifest, tmp_path / "store", "")
    _, told = process.communicate(timeout=60)
    assert process.returncode != 0
    assert told.strip().splitlines()[-1].startswith(f"{ResourceError.__module__}.ResourceError: worker processes")


def test_workers_and_progress_by_name(cohort_of_six, tmp_path):
    """Progress counts every row once, to the end, with and without workers."""
    manifest, right = cohort_of_six
    for workers in (0, 2):
        seen = []
        store = tmp_path / str(workers)
        summary = prepare_store(
            manifest.path, store, SMALL.size_zyx, workers=workers, progress=lambda *step, seen=seen: seen.append(step)
        )
        assert seen == [(n, COUNT) for n in range(1, COUNT + 1)]
        assert (summary.made, summary.reused, summary.failed) == (COUNT, 0, 0)
        assert summary.bytes == sum(len(data) for data in right.values())
        assert entries(store) == right
