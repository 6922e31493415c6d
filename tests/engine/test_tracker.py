"""metrics.jsonl and the trackers by name: the values arrive, one folder is one run, and nothing is sent."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prostate_mim.engine.tracker import Tracker, progress_bar
from prostate_mim.engine.tracking import check_trackers, hyperparameters
from prostate_mim.errors import BackendError, ResourceError, UsageError

CONFIG = {"steps": 3, "mim": {"strategy": "random", "sizes": [1, 2], "ratio": 0.6}, "manifest": "/data/PAT-0042/m.csv"}
METRICS = {"loss": 0.5, "health/rank": 7.25}


def needs(package: str) -> pytest.MarkDecorator:
    """Skips where an optional tracker is not installed."""
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed (an optional tracker)")


def lines(run: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


# ------------------------------------------------------------------------------------------------ metrics.jsonl


def test_lines_hold_what_was_logged(tmp_path: Path) -> None:
    """Keys with slashes, NumPy scalars, and numbers that are not finite as null: strict JSON."""
    import numpy as np

    with Tracker(tmp_path, names=()) as tracker:
        tracker.log(1, loss=np.float32(0.5), **{"health/rank": 7.25})
        tracker.log(2, loss=math.nan, up=math.inf, down=-math.inf, count=3)
    first, second = lines(tmp_path)
    assert {k: v for k, v in first.items() if k != "seconds"} == {"step": 1, "loss": 0.5, "health/rank": 7.25}
    assert [second[k] for k in ("loss", "up", "down", "count")] == [None, None, None, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_strict_reading_refuses_nan(tmp_path: Path) -> None:
    """The control: what json.dumps writes by default is found out by ``lines``."""
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"loss": math.nan}))
    with pytest.raises(ValueError, match="NaN"):
        lines(tmp_path)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 8), st.integers(0, 8), st.integers(0, 40))
def test_a_resumed_log_is_that_of_one_run(
    tmp_path_factory: pytest.TempPathFactory, done: int, checkpoint: int, torn: int
) -> None:
    """However far the killed process came, and wherever its last line is torn: every step once, in order."""
    run = tmp_path_factory.mktemp("run")
    checkpoint = min(checkpoint, done)
    with Tracker(run, names=()) as tracker:
        for step in range(1, done + 1):
            tracker.log(step, loss=1 / step)
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": done + 1, "seconds": 0.0, "loss": 0.25})[:torn])
    with Tracker(run, checkpoint, names=()) as tracker:
        for step in range(checkpoint + 1, 10):
            tracker.log(step, loss=1 / step)
    assert [(line["step"], line["loss"]) for line in lines(run)] == [(step, 1 / step) for step in range(1, 10)]


def test_damage_in_the_middle_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A torn end is normal and quiet; a damaged line before it is not."""
    good = ['{"step": 1, "loss": 1.0}', '{"step": 2, "loss": 1.0}']
    (tmp_path / "metrics.jsonl").write_text("\n".join([*good, '{"step": 3, "lo']))
    Tracker(tmp_path, 5, names=())
    assert capsys.readouterr().err == ""
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([good[0].encode(), b'{"st\xff', b"7", good[1].encode(), b""]))
    Tracker(tmp_path, 5, names=())
    assert "2 damaged lines" in capsys.readouterr().err
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def another_second() -> None:
    """TensorBoard and W&B name their files by the second; no run resumes within the one it was killed in."""
    time.sleep(1.1)


def test_killed_while_logging(tmp_path: Path) -> None:
    """Kill -9 in the middle of a real run's logging: whole lines from 1, and TensorBoard has them as well."""
    pytest.importorskip("tensorboard")
    script = (
        "import sys; from pathlib import Path; from prostate_mim.engine.tracker import Tracker\n"
        "tracker = Tracker(Path(sys.argv[1]))\n"
        "for step in range(1, 10**9): tracker.log(step, loss=1 / step)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    path = tmp_path / "metrics.jsonl"
    end = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size > 2000) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = json.loads(path.read_text().split("\n")[-2])["step"]
    another_second()
    with Tracker(tmp_path, last - 2) as tracker:
        for step in range(last - 1, last + 2):
            tracker.log(step, loss=1 / step)
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, last + 2))
    assert [event.step for event in events(tmp_path, "loss")] == list(range(1, last + 2))


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    """A quiet tracker touches no file; its bar is disabled."""
    with Tracker(tmp_path, 4, names=("tensorboard", "mlflow"), config=CONFIG, quiet=True) as tracker:
        tracker.log(5, **METRICS)
    assert list(tmp_path.iterdir()) == []
    assert progress_bar("{task.fields[loss]}", quiet=True).disable
    assert not progress_bar().disable
    with Tracker(tmp_path, names="none") as tracker:  # the control
        tracker.log(5, **METRICS)
    assert list(tmp_path.iterdir()) != []


# -------------------------------------------------------------------------------------------------------- names


def test_names() -> None:
    """Each once; nothing and "none" are the same; a typing error is answered with the nearest name."""
    assert check_trackers(("tensorboard", "tensorboard")) == ("tensorboard",)
    assert check_trackers(()) == check_trackers(("none",)) == check_trackers("none") == check_trackers("") == ()
    with pytest.raises(UsageError, match="did you mean mlflow"):
        check_trackers(("tensorboard", "mlfow"))
    with pytest.raises(UsageError, match="did you mean wandb"):
        check_trackers(("wand",))
    with pytest.raises(UsageError, match="none cannot stand beside"):
        check_trackers(("none", "wandb"))


def test_a_wrong_name_touches_nothing(tmp_path: Path) -> None:
    """Refused before the metrics of the resumed run are cut."""
    with Tracker(tmp_path, names=()) as tracker:
        tracker.log(1, loss=1.0)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(UsageError):
        Tracker(tmp_path, 0, names=("tensorbord",))
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


_WITHOUT = """
import sys, importlib.machinery
from pathlib import Path
class Without(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.split(".")[0] in {"mlflow", "wandb", "tensorboard", "tensorboardX"}
        return None if hidden else super().find_spec(name, path, target)
sys.meta_path[:] = [Without if f is importlib.machinery.PathFinder else f for f in sys.meta_path]
from prostate_mim.engine.tracker import Tracker
from prostate_mim.errors import BackendError
for name in ("mlflow", "wandb"):
    try:
        Tracker(Path(sys.argv[1]), names=(name,))
    except BackendError as error:
        sys.stdout.write(f"{error}\\n")
with Tracker(Path(sys.argv[1])) as tracker:
    tracker.log(1, loss=1.0)
"""


def test_missing_packages(tmp_path: Path) -> None:
    """A named tracker is refused with its package; TensorBoard, the default, is only missed, once."""
    done = subprocess.run([sys.executable, "-c", _WITHOUT, tmp_path], capture_output=True, text=True, check=True)
    assert "pip install mlflow-skinny" in done.stdout
    assert "pip install wandb" in done.stdout
    assert done.stderr.count("tensorboard is not installed") == 1
    assert [line["step"] for line in lines(tmp_path)] == [1]


def test_hyper_parameters_are_flat_and_without_paths() -> None:
    """By hand: dots, lists as text, and no path."""
    assert hyperparameters({**CONFIG, "out": Path("runs"), "none": None, "on": True}) == {
        "steps": 3, "mim.strategy": "random", "mim.sizes": "1, 2", "mim.ratio": 0.6, "manifest": "<path>",
        "out": "<path>", "none": "None", "on": True,
    }  # fmt: skip


# -------------------------------------------------------------------------------------------------- TensorBoard


def events(run: Path, tag: str) -> list[Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run / "tensorboard"))
    accumulator.Reload()
    return list(accumulator.Scalars(tag))


@needs("tensorboard")
def test_tensorboard_has_the_values(tmp_path: Path) -> None:
    """The default: scalars under their names, hyper-parameters, and after a resume every step once."""
    with Tracker(tmp_path, config=CONFIG) as tracker:
        for step in range(1, 6):
            tracker.log(step, loss=float(step), **{"health/rank": 2.0 * step})
    another_second()
    with Tracker(tmp_path, 3, config=CONFIG) as tracker:
        for step in range(4, 8):
            tracker.log(step, loss=float(step), **{"health/rank": 2.0 * step})
    assert [(e.step, e.value) for e in events(tmp_path, "loss")] == [(n, float(n)) for n in range(1, 8)]
    assert [(e.step, e.value) for e in events(tmp_path, "health/rank")] == [(n, 2.0 * n) for n in range(1, 8)]
    written = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert b"mim.strategy" in written
    assert b"PAT-0042" not in written


# ------------------------------------------------------------------------------------------------------- MLflow


@needs("mlflow")
def test_mlflow_has_the_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run in a local store, over a failure and a resume; parameters too, and the environment as it was."""
    import mlflow

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)
    run = tmp_path / "run one"
    run.mkdir()
    before = dict(os.environ)
    with pytest.raises(KeyError), Tracker(run, names=("mlflow",), config=CONFIG) as tracker:
        tracker.log(1, **METRICS)
        raise KeyError
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient((run / "mlflow").as_uri())
    kept = json.loads((run / "trackers.json").read_text())["mlflow"]
    assert client.get_run(kept).info.status == "FAILED"
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    with Tracker(run, 1, names=("mlflow",), config={**CONFIG, "steps": 4}) as tracker:
        tracker.log(2, loss=math.nan, **{"health/rank": 8.0})
    assert {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"} == {
        k: v for k, v in before.items() if k != "PYTEST_CURRENT_TEST"
    }
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    (experiment,) = client.search_experiments(filter_string="name = 'prostate-mim'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_id, found.info.status, found.info.run_name) == (kept, "FINISHED", "run one")
    history = client.get_metric_history(kept, "health/rank")
    assert [(metric.step, metric.value) for metric in history] == [(1, 7.25), (2, 8.0)]
    assert math.isnan(client.get_metric_history(kept, "loss")[-1].value)
    assert found.data.params["mim.strategy"] == "random"
    assert found.data.params["manifest"] == "<path>"
    assert (found.data.params["steps"], found.data.tags["changed.steps"]) == ("3", "4")


@needs("mlflow")
def test_mlflow_of_the_user_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLFLOW_TRACKING_URI of the user is where it goes; a store that cannot be is refused at the start."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mine").as_uri())
    with Tracker(tmp_path, names=("mlflow",)) as tracker:
        tracker.log(1, **METRICS)
    assert (tmp_path / "mine").is_dir()
    assert not (tmp_path / "mlflow").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    with pytest.raises(BackendError, match="tracker mlflow: could not start"):
        Tracker(tmp_path, names=("mlflow",))


@needs("mlflow")
def test_a_tracker_that_fails_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its run vanishes on the way: said once, metrics.jsonl goes on, and the next process begins a new one aloud."""
    import shutil

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with Tracker(tmp_path, names=("mlflow",)) as tracker:
        tracker.log(1, **METRICS)
        first = json.loads((tmp_path / "trackers.json").read_text())["mlflow"]
        shutil.rmtree(next((tmp_path / "mlflow").glob(f"*/{first}")))
        tracker.log(2, **METRICS)
        tracker.log(3, **METRICS)
    assert capsys.readouterr().err.count("tracker mlflow: given up at step 2") == 1
    with Tracker(tmp_path, 3, names=("mlflow",)) as tracker:
        tracker.log(4, **METRICS)
    assert "cannot be continued" in capsys.readouterr().err
    assert json.loads((tmp_path / "trackers.json").read_text())["mlflow"] != first
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_a_full_disk_is_an_error_for_the_log_itself(tmp_path: Path) -> None:
    """metrics.jsonl is the record: that it cannot be written stops the run, unlike a tracker's failure."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with Tracker(tmp_path, names=()) as tracker:
        tracker.path.symlink_to("/dev/full")
        with pytest.raises(ResourceError):
            tracker.log(1, loss=1.0)


# ---------------------------------------------------------------------------------------------------------- W&B


def log_records(data: bytes) -> list[bytes]:
    """The records of a LevelDB log, which a .wandb file is: 32 KiB blocks of (crc32 4, length 2, type 1, bytes)."""
    found, place, part = [], 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        if left < 7 or kind == 0:  # padding up to the next block
            place += left
            continue
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece of one
            found.append(part)
            part = b""
    return found


def wandb_records(run: Path) -> list[Any]:
    from wandb.proto import wandb_internal_pb2

    records = []
    for path in sorted((run / "wandb").glob("offline-run-*/*.wandb")):
        for data in log_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            records.append(record)
    return records


def wandb_history(records: list[Any]) -> list[dict[str, Any]]:
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]


@needs("wandb")
def test_wandb_has_the_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline runs in the folder under one identifier, with the values and nothing about the machine or the data."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["prostate-mim", "pretrain", "/data/PAT-0042/m.csv"])
    with Tracker(tmp_path, names=("wandb",), config=CONFIG) as tracker:
        tracker.log(1, **METRICS)
    kept = json.loads((tmp_path / "trackers.json").read_text())["wandb"]
    another_second()
    with Tracker(tmp_path, 1, names=("wandb",), config=CONFIG) as tracker:
        tracker.log(2, **METRICS)
    end = time.monotonic() + 20  # W&B's own process writes, and may do so after the run is closed
    while len(rows := wandb_history(records := wandb_records(tmp_path))) < 2 and time.monotonic() < end:
        time.sleep(0.2)
    assert [(row["_step"], row["loss"], row["health/rank"]) for row in rows] == [(1, 0.5, 7.25), (2, 0.5, 7.25)]
    runs = {(r.run.run_id, r.run.project) for r in records if r.WhichOneof("record_type") == "run"}
    assert runs == {(kept, "prostate-mim")}
    written = b"".join(path.read_bytes() for path in (tmp_path / "wandb").rglob("*.wandb"))
    assert b"mim.strategy" in written
    assert b"PAT-0042" not in written
    assert {r.run.host for r in records if r.WhichOneof("record_type") == "run"} == {"withheld"}


# ------------------------------------------------------------------------------------------------ nothing is sent

_OFFLINE = """
import sys
from pathlib import Path
def audit(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        sys.stderr.write(f"CONNECT {arguments[1][:2]}\\n")
        if arguments[1][0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError("the network is cut")
    if event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", "::1", "localhost", "", None):
        sys.stderr.write(f"LOOKUP {arguments[0]}\\n")
        raise OSError("the network is cut")
sys.addaudithook(audit)
"""
_LOGGING = """
from prostate_mim.engine.tracker import Tracker
with Tracker(Path(sys.argv[1]), names=sys.argv[2], config={"a": 1}) as tracker:
    tracker.log(1, loss=0.5)
"""
_CARELESS = """
import os
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
import mlflow
mlflow.set_tracking_uri((Path(sys.argv[1]) / "store").as_uri())
with mlflow.start_run():
    mlflow.log_metric("loss", 0.5)
"""


def outside(script: str, run: Path, names: str) -> str:
    """What a process tried to reach outside this machine: its own attempts, and its children's through a proxy."""
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        # Variables by which the trackers recognise a test, where they hold their tongues anyway.
        hidden = ("PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")
        kept = {k: v for k, v in os.environ.items() if k not in hidden and not k.startswith(("WANDB_", "MLFLOW_"))}
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), address)
        done = subprocess.run(
            [sys.executable, "-c", _OFFLINE + script, run, names],
            env={**kept, **proxies, "NO_PROXY": "", "no_proxy": ""},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        proxy.settimeout(0.2)
        try:
            proxy.accept()[0].close()
            reached = "PROXY"
        except TimeoutError:
            reached = ""
    return reached + "".join(line for line in done.stderr.splitlines() if line.startswith("LOOKUP"))


@needs("mlflow")
@needs("wandb")
def test_nothing_is_sent(tmp_path: Path) -> None:
    """Every tracker at once, the network cut, a proxy listening: nobody even tries, and the values are there."""
    assert outside(_LOGGING, tmp_path, "tensorboard,mlflow,wandb") == ""
    assert (tmp_path / "mlflow").is_dir()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert events(tmp_path, "loss")[0].value == 0.5


@needs("mlflow")
def test_telemetry_would_be_seen(tmp_path: Path) -> None:
    """The control: MLflow as it comes does try, from a thread that a short process may end too early."""
    patient = _CARELESS + "import time\ntime.sleep(4)\n"
    assert any(outside(patient, tmp_path / str(attempt), "") for attempt in range(4))
