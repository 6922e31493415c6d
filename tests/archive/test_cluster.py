"""On a real local Ray cluster: workers and drivers die by SIGKILL; nothing is lost and nothing appears twice."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from prostate_mim.archive import ArchiveSummary, read_archive, run_archive

Rows = list[dict[str, str]]
Edit = Callable[[Path, Callable[[Rows], Rows]], Path]
LIMIT = 300.0  # s; only to end a test that hangs


def wait_for(condition: Callable[[], bool]) -> None:
    """Poll a condition; fails after LIMIT."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def journals(out: Path) -> dict[str, list[str]]:
    """Part name -> lines of its journal, while a call runs."""
    return {path.stem: path.read_text().splitlines() for path in out.glob(".attempts-*/part-*.log")}


def pid_of(lines: list[str]) -> int:
    """The worker that has a shard now."""
    return int(next(line for line in reversed(lines) if line.startswith("start")).split()[1])


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass
class Killer(threading.Thread):
    """Kills workers while a call runs: ``rows`` each time they begin, and once any worker after ``after`` parts."""

    out: Path
    row: int
    after: int
    killed: dict[str, list[int]] = field(default_factory=lambda: {"row": [], "any": []})
    done: bool = False

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        """Until ``done``."""
        while not self.done:
            for part, lines in journals(self.out).items():
                if not any(line.startswith("start") for line in lines):
                    continue
                pid = pid_of(lines)
                if pid in self.killed["row"] + self.killed["any"] or (self.out / f"{part}.parquet").exists():
                    continue
                if lines[-1] == f"row {self.row}":
                    self._kill("row", pid)
                elif not self.killed["any"] and len(list(self.out.glob("part-*"))) >= self.after:
                    self._kill("any", pid)
            time.sleep(0.001)

    def _kill(self, why: str, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self.killed[why].append(pid)
        # What it leaves if that hits it while it writes, which it seldom does.
        (self.out / f".part-00001.parquet.{pid}.tmp.parquet").write_bytes(b"PAR1")


@pytest.fixture(scope="module")
def expected(cohort: Path, small_encoder: Path) -> np.ndarray:
    """(N, C) float32 of the one-process path."""
    from prostate_mim.loading import load_encoder
    from prostate_mim.prediction import embed_manifest

    return embed_manifest(load_encoder(small_encoder), cohort).embedding


@dataclass(frozen=True)
class Battered:
    """A call during which much went wrong."""

    summary: ArchiveSummary
    killer: Killer
    out: Path
    poison: int
    stdout: str


@pytest.fixture
def battered(
    two_workers: None, edited: Edit, small_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Battered:
    """The cohort and, as last row, a study at which every worker is killed; besides, one worker dies midway."""
    from prostate_mim.volume import Geometry, Volume, write_volume

    # Large, so that reading it takes long enough to be killed meanwhile.
    noise = np.random.default_rng(0).integers(0, 900, (40, 512, 512)).astype(np.int16)
    geometry = Geometry(spacing_mm_zyx=(3.0, 0.5, 0.5))
    write_volume(Volume(noise, geometry), tmp_path / "large.nii.gz")
    poison = {"study_id": "large", "patient_id": "large", "t2w": str(tmp_path / "large.nii.gz")}
    manifest = edited(tmp_path / "m.csv", lambda rows: [*rows, {**dict.fromkeys(rows[0], ""), **poison}])
    rows = len(manifest.read_text().splitlines()) - 1
    out = tmp_path / "out"
    killer = Killer(out, row=rows, after=2)
    killer.start()
    capsys.readouterr()
    summary = run_archive("embed", str(small_encoder), manifest, out, workers=2, shard_rows=2, attempts=2)
    killer.done = True
    killer.join()
    return Battered(summary, killer, out, rows, capsys.readouterr().out)


def test_killed_workers_lose_nothing(battered: Battered, expected: np.ndarray) -> None:
    """One innocent worker and two at the last row were killed: every row once, only the last failed, nothing left."""
    killed = battered.killer.killed
    assert len(killed["any"]) == 1
    assert len(killed["row"]) == 2
    assert not any(alive(pid) for pid in killed["any"] + killed["row"])
    table = read_archive(battered.out)
    assert table["row"].to_pylist() == list(range(1, battered.poison + 1))
    assert table["status"].to_pylist() == ["ok"] * len(expected) + ["failed"]
    assert table["reason"].to_pylist()[-1].startswith(f"row {battered.poison}: killed its worker 2 times")
    vectors = np.array(table["embedding"].to_pylist()[:-1], np.float32)
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-6)
    summary = battered.summary
    assert (summary.rows, summary.ok, summary.failed) == (battered.poison, battered.poison - 1, 1)
    assert summary.reused_shards == 0
    assert sorted(path.name for path in battered.out.iterdir()) == sorted(
        f"part-{shard:05d}.parquet" for shard in range(-(-battered.poison // 2))
    )
    assert battered.stdout == ""  # Ray's tales of dead workers are for stderr


DRIVER = """
import sys
from pathlib import Path
from prostate_mim.archive import run_archive
model, manifest, out = sys.argv[1:]
run_archive("embed", model, Path(manifest), Path(out), workers=2, shard_rows=1)
"""


def test_a_killed_driver_is_resumed(
    two_workers: None, cohort: Path, small_encoder: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    """SIGKILL after two parts, of a driver that RAY_ADDRESS leads to this cluster; the next call makes the others."""
    import ray

    out = tmp_path / "out"
    command = [sys.executable, "-c", DRIVER, str(small_encoder), str(cohort), str(out)]
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}  # and the token in RAY_AUTH_TOKEN
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    workers: set[int] = set()
    try:
        wait_for(lambda: len(list(out.glob("part-*.parquet"))) >= 2 or driver.poll() is not None)
        assert driver.poll() is None, "the driver ended before it could be killed"
        workers = {pid_of(lines) for lines in journals(out).values() if lines}
    finally:
        driver.kill()
        driver.wait()
    assert workers
    wait_for(lambda: not any(alive(pid) for pid in workers))
    parts = {path.name: path.read_bytes() for path in out.glob("part-*.parquet")}
    assert 2 <= len(parts) < len(expected)
    assert list(out.glob(".attempts-*")), "the driver had no time to tidy up"
    summary = run_archive("embed", str(small_encoder), cohort, out, workers=2, shard_rows=1)
    assert (summary.reused_shards, summary.ok, summary.failed) == (len(parts), len(expected), 0)
    assert {name: (out / name).read_bytes() for name in parts} == parts
    table = read_archive(out)
    assert table["row"].to_pylist() == list(range(1, len(expected) + 1))
    np.testing.assert_allclose(np.array(table["embedding"].to_pylist(), np.float32), expected, rtol=0, atol=1e-6)
    assert [path for path in out.iterdir() if path.suffix != ".parquet" or path.name.startswith(".")] == []


def test_more_workers_than_cpus_are_refused(
    two_workers: None, cohort: Path, small_encoder: Path, tmp_path: Path
) -> None:
    """Ray would wait for ever."""
    from prostate_mim.errors import BackendError

    with pytest.raises(BackendError, match="has 2 CPUs for 3 workers"):
        run_archive("embed", str(small_encoder), cohort, tmp_path / "out", workers=3, shard_rows=1)


def family(pid: int) -> Iterator[int]:
    """A process and everything it has started."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from family(int(child))


def listening() -> set[str]:
    """Local addresses (hex, as in /proc/net/tcp) at which this process or its descendants accept connections."""
    sockets = set()
    for pid in family(os.getpid()):
        for handle in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(os.readlink(handle))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                found.add(words[1].partition(":")[0])
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's /proc")
def test_nothing_listens_beyond_loopback(two_workers: None) -> None:
    """127.0.0.1, plain or mapped into IPv6; the control: a socket of our own on all interfaces is seen."""
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert listening()
    assert listening() <= loopback
    with socket.create_server(("0.0.0.0", 0)):  # noqa: S104 - for this moment, to be found
        assert "00000000" in listening()
