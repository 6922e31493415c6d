"""export/service.py as its users meet it: a real process on loopback, good and bad uploads, signals, full disks."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

KIT = Path(__file__).resolve().parents[2] / "export"
sys.path.insert(0, str(KIT))  # a folder of scripts, not a package

pytest.importorskip("fastapi", reason="needs export/requirements-service.txt")
pytest.importorskip("python_multipart", reason="needs export/requirements-service.txt")
pytest.importorskip("prometheus_client", reason="needs export/requirements-service.txt")
if not sys.platform.startswith("linux"):
    pytest.skip("reads /proc", allow_module_level=True)

import load_test  # noqa: E402
from load_running import Running, foreground  # noqa: E402
from load_test import Tally  # noqa: E402
from load_uploads import BAD, Request, Study, form, make_study  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402
from serving_pool import Worker  # noqa: E402
from serving_settings import _parser  # noqa: E402
from serving_worker import public  # noqa: E402

from prostate_mim.deploy.session import OnnxClassifier  # noqa: E402
from prostate_mim.volume import Volume, read_volume  # noqa: E402

PLACE = (-2.5, 4.0, 45.0)


@pytest.fixture(scope="module")
def study(make_volume: Callable[..., Volume], tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("study"), make_volume(), PLACE, 0)


@pytest.fixture(scope="module")
def service(classifier_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two workers, requests of at most 40 MB."""
    with _running(classifier_file, tmp_path_factory.mktemp("service"), "--timeout", "30", "--limit-mb", "40") as made:
        yield made


@contextlib.contextmanager
def _running(model: Path, folder: Path, *options: str, **more: Any) -> Iterator[Running]:
    made = Running(model, folder, *options, **more)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()


def _get(service: Running, path: str, token: str | None = None, method: str = "GET") -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, headers={} if token is None else {"Authorization": token})
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode()


def _until(true: Callable[[], bool], pause_s: float = 0.05) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "did not come about within a minute"
        time.sleep(pause_s)


def _log(service: Running) -> list[dict[str, Any]]:
    return [json.loads(line) for line in service.log.read_text().splitlines()]


# Answers


def test_same_answer_as_the_library(service: Running, study: Study, classifier_file: Path, tmp_path: Path) -> None:
    """Every format, two positions: the numbers of OnnxClassifier, with the keys of run_study.py, and times."""
    (tmp_path / "a.nii.gz").write_bytes(study.files[".nii.gz"])
    model, places = OnnxClassifier(classifier_file, "cpu"), [PLACE, (1.0, 2.0, 39.0)]
    expected = model.predict_many(read_volume(tmp_path / "a.nii.gz"), places)
    for kind in (".nii", ".nii.gz", ".mha", "dicom"):
        status, answer = service.send(Request(form([*study.parts(kind), ("position", "", b"1,2,39")])))
        assert status == 200, answer
        assert answer.keys() == {"predictions", "timing_ms"}
        assert answer["timing_ms"].keys() == {"upload", "wait", "read", "predict", "total"}
        for found, row, place in zip(answer["predictions"], expected, places, strict=True):
            assert found.pop("probability") == pytest.approx(row.probability, abs=1e-6)
            assert found == {
                "model": row.model, "revision": row.revision, "spec": row.spec, "device": row.device,
                "flags": list(row.flags), "reason": "asked for", "position_mm_lps": list(place),
            }  # fmt: skip
    assert expected[0].probability != pytest.approx(expected[1].probability, abs=1e-4)
    status, answer = service.send(Request(form([("study", "a.nii.gz", study.files[".nii.gz"])])))
    centre = read_volume(tmp_path / "a.nii.gz").centre_mm_lps
    assert status == 200 and answer["predictions"][0]["position_mm_lps"] == pytest.approx(centre, abs=1e-3)


def test_masks(service: Running, study: Study) -> None:
    """Read and checked; a bad one is told by its field."""
    gland = study.files[".nii.gz"]  # grey values are labels above 0
    assert service.send(Request(form([*study.parts(".mha"), ("gland", "g.nii.gz", gland)])))[0] == 200
    for parts, right, told in (
        ([("gland", "g.nii.gz", gland[:999])], 422, "gland mask: truncated gzip data"),
        ([("zone", "z.nii.gz", gland)], 422, "zone mask: "),
        ([("gland", "g.dcm", study.slices[0])], 415, "the gland mask is a DICOM file"),
        ([("gland", "g.nii.gz", gland), ("gland", "h.nii", study.files[".nii"])], 400, "two gland masks"),
    ):
        status, answer = service.send(Request(form([*study.parts(".mha"), *parts])))
        assert (status, told in answer["error"]) == (right, True), answer


def test_what_is_said_about_the_service(service: Running, classifier_file: Path) -> None:
    token, model = f"Bearer {service.token}", OnnxClassifier(classifier_file, "cpu")
    status, _, body = _get(service, "/", token)
    about = json.loads(body)
    assert status == 200
    assert (about["model"], about["revision"], about["spec"]) == (model.name, model.revision, model.spec.fingerprint)
    assert about["input"] == model.spec.to_dict()
    assert about["limits"]["request_mb"] == 40 and about["limits"]["voxels"] == 5_000_000
    status, _, body = _get(service, "/readyz")
    assert (status, json.loads(body)["workers"]) == (200, 2)
    assert json.loads(body)["replay_difference"] < 1e-4
    assert _get(service, "/healthz")[0] == 200


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.cuda"])
def test_health_check_of_the_image(name: str, service: Running) -> None:
    """Its own words: yes here, no where nothing listens."""
    line = next(one for one in (KIT / name).read_text().splitlines() if one.startswith("HEALTHCHECK"))
    command = [sys.executable, *json.loads(line.partition("CMD ")[2])[1:]]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        for port, code in ((service.port, 0), (free.getsockname()[1], 1)):
            variables = {**os.environ, "PROSTATE_MIM_PORT": str(port)}
            assert subprocess.run(command, env=variables, capture_output=True).returncode == code


def test_no_torch_in_any_process(service: Running) -> None:
    """By what the processes have mapped; and that onnxruntime is there shows that the look is good."""
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in (service.process.pid, *service.children())]
    assert len(maps) == 3
    assert not any("libtorch" in text for text in maps)
    assert sum("onnxruntime" in text for text in maps) == 2


# Refusals


def test_token(service: Running, study: Study) -> None:
    """Everything but health and readiness; compared as a whole."""
    good = Request(form(study.parts(".mha")))
    status, answer = service.send(replace(good, token=False))
    assert (status, answer["kind"]) == (401, "token")
    for path in ("/", "/metrics", "/predict", "/unknown"):
        for wrong in (None, "", "Bearer", f"Bearer {service.token}x", f"Bearer {service.token[:-1]}", service.token):
            status, headers, _ = _get(service, path, wrong)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert service.send(good)[0] == 200


FORMS: dict[str, tuple[Callable[[Study], Request], int, str]] = {
    "two images": (lambda s: Request(form([*s.parts(".mha"), *s.parts(".nii")])), 400, "several images"),
    "image beside DICOM": (lambda s: Request(form([*s.parts(".mha"), *s.parts("dicom")])), 400, "DICOM files beside"),
    "text in place of a file": (lambda s: Request(form([("study", "", b"study.nii")])), 400, "must be a file"),
    "no boundary": (lambda s: Request(b"", "multipart/form-data"), 415, "send multipart/form-data"),
    "a boundary too long": (lambda s: Request(b"", f"multipart/form-data; boundary={'x' * 999}"), 400, "damaged"),
    "not the boundary": (lambda s: Request(b"--other\r\n\r\n"), 400, "damaged"),
    "nothing at all": (lambda s: Request(b""), 400, "ends early"),
    "a long position": (lambda s: Request(form([("position", "", b"1" * 300)])), 422, "over 200 letters"),
    "many positions": (lambda s: Request(form([("position", "", b"1 2 3")] * 65)), 422, "over 64 positions"),
    "many headers": (lambda s: Request(form(s.parts(".mha")).replace(b"\r\n\r\n", b"\r\nA: b" * 30 + b"\r\n\r\n", 1)),
                     400, "damaged"),
    "bare array": (lambda s: Request(form([("study", "a.npy", b"\x93NUMPY" + bytes(600))])), 415, "another type"),
    "header without data file": (lambda s: Request(form([("study", "a.mhd", b"ObjectType = Image")])), 415, "another"),
    "over the limit": (lambda s: Request(form([("study", "a.nii", bytes(41_000_000))])), 413, "over 40 MB"),
    "over the limit, unsaid": (lambda s: Request(form([("study", "a.nii", bytes(41_000_000))])), 413, "over 40 MB"),
    "over the limit, unpacked": (BAD["bomb: huge sizes declared"][0], 413, "at most 5000000 allowed"),
    "DICOM slice cut": (lambda s: Request(form([("study", "a", s.slices[0]), ("study", "b", s.slices[1][:-9])])),
                        422, "file 2: truncated DICOM file"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_refused_in_one_line(name: str, service: Running, study: Study) -> None:
    """The status, and words that help; no name of a file or folder on the server."""
    make, right, told = FORMS[name]
    request = make(study, np.random.default_rng(0)) if name.endswith("unpacked") else make(study)  # type: ignore[call-arg]
    status, answer = _chunked(service, request) if name.endswith("unsaid") else service.send(request)
    assert (status, told in answer["error"]) == (right, True), (status, answer)
    assert "\n" not in answer["error"] and "/" not in answer["error"].replace("multipart/form-data", "")


def _chunked(service: Running, request: Request) -> tuple[int, dict[str, Any]]:
    """Without Content-Length: only counting can tell."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    headers = {"Authorization": f"Bearer {service.token}", "Content-Type": request.content_type}
    pieces = (request.body[start : start + 65536] for start in range(0, len(request.body), 65536))
    with contextlib.closing(connection):
        connection.request("POST", "/predict", pieces, headers, encode_chunked=True)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.mark.parametrize(
    "name", ["../../evil.nii.gz", "/etc/evil.nii.gz", "C:\\evil.nii.gz", "a\x00b.nii.gz", "é.NII.GZ"]
)
def test_client_names_are_no_paths(name: str, service: Running, study: Study) -> None:
    status, _ = service.send(Request(form([("study", name, study.files[".nii.gz"])])))
    assert status == 200
    assert not list(service.temporary.glob("*/*")) and len(list(service.temporary.iterdir())) == 1


def test_unknown_routes_and_methods(service: Running) -> None:
    token = f"Bearer {service.token}"
    for method, path, right in (
        ("GET", "/nobody", 404),
        ("GET", "/predict", 405),
        ("PUT", "/", 405),
        ("GET", "/docs", 404),
    ):
        status, _, body = _get(service, path, token, method)
        assert status == right and "POST /predict" in json.loads(body)["error"]


def test_messages_of_the_library_lose_our_names() -> None:
    assert public("study.nii.gz: damaged gzip data") == "damaged gzip data"
    assert public("study/0012.dcm: truncated DICOM file") == "file 12: truncated DICOM file"
    assert public("study: gap between study/0003.dcm and others") == "gap between file 3 and others"
    assert public("zone.mha: labels are 3") == "zone mask: labels are 3"
    assert public("studying: no prefix of ours") == "studying: no prefix of ours"


def test_memory_of_a_worker_is_bounded() -> None:
    """After the limit, a large array is an error and a small one is not."""
    code = (
        "import numpy as np, serving_worker as w; w._limit_memory(200_000_000, 'CPUExecutionProvider')\n"
        "np.ones(10_000_000); print('small')\ntry: np.ones(100_000_000)\nexcept MemoryError: print('large')"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=KIT, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("small\nlarge\n", "")


# What is kept


def test_nothing_of_a_patient_is_kept(service: Running, study: Study) -> None:
    """Names in headers, file names, paths, queries and fields appear in no log, metric or error; nor does the token."""
    canary = b"CANARYJORG"
    renamed = tuple(data.replace(b"Load^Test", canary[:9]).replace(b"LOAD-TEST", canary[:9]) for data in study.slices)
    assert renamed != study.slices
    slices = [("study", "CANARYJORG.dcm", data) for data in renamed]
    answers = [
        service.send(Request(form(slices))),
        service.send(Request(form(slices[:-3] + slices[-2:]))),
        service.send(Request(form([*slices, ("study", "CANARYJORG.nii.gz", b"x")]))),
        service.send(Request(form([("CANARYJORG", "", b"CANARYJORG")]))),
        service.send(Request(form([("position", "", b"CANARYJORG")]))),
        service.send(Request(form([("study", "a.nrrd", b"NRRD0004\nCANARYJORG: CANARYJORG\n\n")]))),
        service.send(Request(b"--CANARYJORG\xff", "multipart/form-data; boundary=b")),
    ]
    assert [status for status, _ in answers] == [200, 422, 400, 400, 422, 422, 400]
    _get(service, "/CANARYJORG?name=CANARYJORG", f"Bearer {service.token}")
    kept = service.log.read_text() + service.get("/metrics") + json.dumps(answers)
    assert '"files": 12' in kept  # the look is good: what may be told is there
    assert "CANARY" not in kept and service.token not in kept
    assert str(service.temporary) not in kept and not list(service.temporary.glob("*/*"))


def test_log_and_metrics(service: Running, study: Study) -> None:
    before = _counts(service)
    assert service.send(Request(form([*study.parts(".mha"), ("position", "", b"1 2 39")])))[0] == 200
    assert service.send(Request(form([("study", "a.zip", b"PK\x03\x04")])))[0] == 415
    after = _counts(service)
    grown = {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)}
    assert grown["prostate_mim_answers_total /predict 200"] == grown["prostate_mim_answers_total /predict 415"] == 1
    assert grown["prostate_mim_predictions_total"] == 2
    assert grown["prostate_mim_refused_total archive"] == 1
    assert after["prostate_mim_workers"] == 2 and after["prostate_mim_requests_inside"] == 0
    assert after["process_resident_memory_bytes"] > 1e6
    good, bad = [line for line in _log(service) if line.get("route") == "/predict"][-2:]
    assert (good["status"], good["files"], good["positions"]) == (200, 1, 2)
    assert (bad["status"], bad["kind"]) == (415, "archive")
    assert good.keys() == {"time", "level", "event", "route", "status", "ms", "bytes", "files", "positions"}


def _counts(service: Running) -> dict[str, float]:
    families = text_string_to_metric_families(service.get("/metrics"))
    return {" ".join([one.name, *one.labels.values()]): one.value for family in families for one in family.samples}


# Under load


def test_short_load(classifier_file: Path, tmp_path: Path) -> None:
    """What load_test.py does in ten minutes, every kind of bad upload once."""
    report = load_test.run(classifier_file, tmp_path, seconds=8, bad=len(BAD), clients=1, studies=1, timeout_s=10)
    assert (report["crashes"], report["wrong"], report["files_left"]) == (0, [], 0)
    assert report["bad"] == len(BAD) and len(report["bad_statuses"]) == len(BAD)
    assert report["good"] > 0 and report["largest_difference"] < 1e-5
    assert report["memory_mb"]["largest"] > 50
    assert load_test.row(report).count("|") == 9


def test_readme_is_up_to_date(tmp_path: Path) -> None:
    """Its options are the service's, its number of bad uploads the list's, and a report finds its place in it."""
    text = (KIT / "README.md").read_text(encoding="utf-8")
    options = re.findall(r"--[a-z-]+", _parser(("auto",)).format_help())
    assert [option for option in options if option != "--help" and f"`{option}" not in text] == []
    assert f"wrong in {len(BAD)} ways" in text
    report = {
        "seconds": 600.4, "good": 1, "bad": 2, "crashes": 0, "wrong_answers": 0, "median_ms": 3.0, "p95_ms": 4.0,
        "memory_mb": {"second_quarter": 5.0, "last_quarter": 6.0}, "machine": "a machine", "load_average": 0.5,
    }  # fmt: skip
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    for _ in range(2):
        load_test.publish(report, tmp_path / "README.md")
    written = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert written.count("| 600 s | 1 | 2 | 0 | 0 | 3 / 4 ms | 5, 6 MB | a machine, load average 0.5 |") == 1
    assert written.partition("<!-- load test")[0] == text.partition("<!-- load test")[0]
    assert written.partition("<!-- end")[2] == text.partition("<!-- end")[2]


def test_load_test_sees_wrong_answers(service: Running, study: Study) -> None:
    """Negative control: a wrong probability expected, and a good upload where a bad one is."""
    tally, request = Tally(), Request(form(study.parts(".mha")))
    load_test._good_client(service, [(request, 0.123)], tally, time.monotonic() + 0.2)
    assert tally.wrong and "instead of 0.123" in tally.wrong[0]
    tally = Tally()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BAD, "good", (lambda *_: request, frozenset({422})))
        load_test._bad_client(service, ["good"], [study], tally, 0)
    assert tally.wrong == ["good: status 200, not of [422]"]


@pytest.fixture
def slow(classifier_file: Path, tmp_path: Path) -> Iterator[Running]:
    """One worker, eight seconds for everything."""
    with _running(classifier_file, tmp_path, "--timeout", "8", "--concurrency", "1") as made:
        yield made


def test_whatever_is_slow_ends(slow: Running, study: Study) -> None:
    """A worker that hangs, an upload and headers that trickle, all at once; meanwhile others hear that it is busy."""
    good = Request(form(study.parts(".mha")))
    (worker,) = slow.children()
    os.kill(worker, signal.SIGSTOP)
    with ThreadPoolExecutor(4) as pool:
        hanging = pool.submit(slow.send, good)
        trickling = pool.submit(_trickle, slow, b"POST /predict HTTP/1.1\r\nHost: a\r\n" + _head(slow, good), good.body)
        unheard = pool.submit(_trickle, slow, b"GET / HTTP/1.1\r\n", b"A: b\r\n" * 1000)
        _until(lambda: _counts(slow)["prostate_mim_requests_inside"] == 2)
        status, answer = slow.send(good)
        assert (status, answer["kind"]) == (503, "busy")
        assert _get_busy(slow, good)["retry-after"] == "1"
        assert hanging.result()[0] == 504
        assert trickling.result().startswith(b"HTTP/1.1 408 ")
        assert unheard.result() == b""
    assert not Path(f"/proc/{worker}").exists()
    _until(lambda: _get(slow, "/readyz")[0] == 200)
    assert slow.send(good)[0] == 200
    assert _counts(slow)["prostate_mim_workers_lost_total too slow"] == 1
    assert not list(slow.temporary.glob("*/*"))


def _head(service: Running, request: Request) -> bytes:
    return (
        f"Authorization: Bearer {service.token}\r\nContent-Type: {request.content_type}\r\n"
        f"Content-Length: {len(request.body)}\r\n\r\n"
    ).encode()


def _get_busy(service: Running, request: Request) -> dict[str, str]:
    """Headers of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    with contextlib.closing(connection):
        headers = {"Authorization": f"Bearer {service.token}", "Content-Type": request.content_type}
        connection.request("POST", "/predict", request.body, headers)
        return {key.lower(): value for key, value in connection.getresponse().getheaders()}


def _trickle(service: Running, start: bytes, rest: bytes) -> bytes:
    """Send a few bytes five times a second until somebody answers or hangs up; what was answered."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall(start)
        connection.settimeout(0.2)
        for place in range(0, 500):
            try:
                connection.sendall(rest[place : place + 1])
                found = connection.recv(4096)
            except TimeoutError:
                continue
            except ConnectionError:
                return b""
            return found
    raise AssertionError("nobody ended it")


def test_killed_worker_is_replaced(slow: Running, study: Study) -> None:
    """Over a study: that study gets 500, as it may be what ended it. Idle: another worker takes the next one."""
    good = Request(form(study.parts(".mha")))
    (worker,) = slow.children()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(slow.send, Request(form([*study.parts(".mha"), *[("position", "", b"1 2 39")] * 60])))
        _until(lambda: os.readlink(f"/proc/{worker}/cwd").startswith(str(slow.temporary)), 0.001)
        os.kill(worker, signal.SIGKILL)
        assert answer.result()[0] == 500
    _until(lambda: _get(slow, "/readyz")[0] == 200)  # of the next one: whoever reads the 500 finds it not ready
    (second,) = slow.children()
    assert second != worker
    os.kill(second, signal.SIGSTOP)  # it has begun nothing when it is killed
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(slow.send, good)
        _until(lambda: _counts(slow)["prostate_mim_requests_inside"] == 1)
        os.kill(second, signal.SIGKILL)
        assert answer.result()[0] == 200
    assert len({worker, second, *slow.children()}) == 3
    assert _counts(slow)["prostate_mim_workers_lost_total ended"] == 2
    assert not list(slow.temporary.glob("*/*"))


def test_killed_worker_is_never_ready() -> None:
    """Not even until the system says that the process has ended."""

    async def killed() -> tuple[bool, bool, int | None]:
        worker = Worker(await asyncio.create_subprocess_exec("sleep", "600"), {})
        before = worker.alive
        worker.kill()
        after = worker.alive, worker.process.returncode
        await worker.end()
        return before, *after

    assert asyncio.run(killed()) == (True, False, None)


# Its end, and its disk


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_wait_for_answers(number: int, code: int, slow: Running, study: Study) -> None:
    """What has begun is answered; then the process, its workers and its files are gone."""
    workers = slow.children()
    os.kill(workers[0], signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(slow.send, Request(form(study.parts(".mha"))))
        _until(lambda: _counts(slow)["prostate_mim_requests_inside"] == 1)
        slow.process.send_signal(number)
        _until(lambda: not _accepts(slow.port))
        os.kill(workers[0], signal.SIGCONT)
        assert answer.result()[0] == 200
    assert slow.process.wait(60) == code
    assert not list(slow.temporary.iterdir())
    _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert _log(slow)[-1]["event"] == "stopped" and "Traceback" not in slow.log.read_text()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def test_killed_service_leaves_no_worker_and_its_files_go(
    classifier_file: Path, study: Study, service: Running, tmp_path: Path
) -> None:
    """SIGKILL runs no code of ours: workers see the end of their input, the next service removes what was left."""
    good = Request(form(study.parts(".mha")))
    with (
        _running(classifier_file, tmp_path, "--concurrency", "1") as killed,
        socket.create_connection(("127.0.0.1", killed.port)) as half,
    ):
        half.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\n" + _head(killed, good) + good.body[:5000])
        _until(lambda: len(list(killed.temporary.glob("*/*/study.mha"))) == 1)
        workers = killed.children()
        killed.process.kill()
        killed.process.wait()
    _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    (left,) = killed.temporary.iterdir()
    (used,) = service.temporary.iterdir()
    for temporary in (killed.temporary, service.temporary):
        ran = _service("--model", "missing.onnx", "--port", "0", TMPDIR=str(temporary))
        assert ran.returncode == 3
    assert not left.exists()
    assert used.exists()  # of a service that runs
    assert service.send(good)[0] == 200


def test_full_disk_and_lost_folder(classifier_file: Path, study: Study, tmp_path: Path) -> None:
    """A file may have 30 kB: 507; smaller uploads go on. Without its folder the service says 500, in one line."""

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    with _running(classifier_file, tmp_path, "--concurrency", "1", before=small_files) as service:
        status, answer = service.send(Request(form(study.parts(".nii"))))
        assert (status, answer["kind"]) == (507, "disk")
        assert service.send(Request(form([("study", "a.nii", bytes(20_000))])))[0] == 422
        (root,) = service.temporary.iterdir()
        assert not list(root.iterdir()) and root.stat().st_mode & 0o777 == 0o700
        root.rmdir()
        status, answer = service.send(Request(form(study.parts(".mha"))))
        assert (status, answer["kind"]) == (500, "service")
        _until(lambda: '"failed"' in service.log.read_text())
        failed = [line for line in _log(service) if line["event"] == "failed"]
        assert [line["exception"] for line in failed] == ["FileNotFoundError"]
        assert str(service.temporary) not in service.log.read_text()


# Starting


def _service(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(KIT / "service.py"), *words], env={**os.environ, **environment},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "told", "words"),
    [
        (2, "--model is missing", ""),
        (2, "there is no token", "--model {model} --host 0.0.0.0"),
        (2, "there is no token", "--model {model} --host ::"),
        (2, "at least 16 letters", "--model {model} --token-file {short}"),
        (3, "no such file", "--model {model} --token-file {missing}"),
        (2, "whole number of 1 to 4096", "--model {model} --limit-mb 0"),
        (2, "whole number of 1 to 64", "--model {model} --concurrency many"),
        (2, "none of auto, cpu", "--model {model} --device tpu"),
        (2, "unrecognized arguments", "--modle {model}"),
        (2, "cannot listen (Address already in use)", "--model {model} --port {taken}"),
        (3, "did you mean classifier.onnx", "--model {model}x --port 0"),
        (5, "not an ONNX file", "--model {short} --port 0"),
    ],
)
def test_will_not_start(code: int, told: str, words: str, classifier_file: Path, tmp_path: Path) -> None:
    """One line, the right exit code, and nothing left."""
    (tmp_path / "short").write_text("hush")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        values = {
            "model": classifier_file, "short": tmp_path / "short", "missing": tmp_path / "no",
            "taken": taken.getsockname()[1],
        }  # fmt: skip
        (tmp_path / "tmp").mkdir()
        ran = _service(*words.format(**values).split(), TMPDIR=str(tmp_path / "tmp"))
    assert (ran.returncode, ran.stdout) == (code, ""), ran.stderr
    assert re.fullmatch(r"error: [^\n]+\n", ran.stderr) and told in ran.stderr
    assert "hush" not in ran.stderr and not list((tmp_path / "tmp").iterdir())


def test_missing_packages_are_named(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(KIT)!r}); sys.modules['fastapi'] = None\n"
        "import service; sys.exit(service.main([]))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 6 and re.fullmatch(r"error: [^\n]*requirements-service.txt[^\n]*\n", ran.stderr)


def test_environment_and_no_token(classifier_file: Path, study: Study, tmp_path: Path) -> None:
    """Variables stand for options, options win; on loopback no token is needed. Ctrl-C while it starts ends it."""
    variables = {
        "PROSTATE_MIM_MODEL": str(classifier_file), "PROSTATE_MIM_PORT": "0", "PROSTATE_MIM_DEVICE": "cpu",
        "PROSTATE_MIM_CONCURRENCY": "1", "PROSTATE_MIM_LIMIT_MB": "3", "PROSTATE_MIM_TIMEOUT": "77",
        "TMPDIR": str(tmp_path),
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, str(KIT / "service.py"), "--limit-mb", "5"], env={**os.environ, **variables},
        stderr=subprocess.PIPE, text=True, preexec_fn=foreground,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        started = json.loads(process.stderr.readline())
        assert started["event"] == "listening" and started["token"] is False
        place = started["url"].removeprefix("http://")
        connection = http.client.HTTPConnection(place, timeout=60)
        connection.request("GET", "/")
        limits = json.loads(connection.getresponse().read())["limits"]
        assert (limits["request_mb"], limits["timeout_s"], limits["computed_at_once"]) == (5, 77, 1)
        headers = {"Content-Type": Request(b"").content_type}
        connection.request("POST", "/predict", form(study.parts(".mha")), headers)
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_while_it_starts(classifier_file: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(KIT / "service.py"), "--model", str(classifier_file), "--port", "0"],
        env={**os.environ, "TMPDIR": str(tmp_path)}, stderr=subprocess.PIPE, text=True,
        preexec_fn=foreground,
    )  # fmt: skip
    try:
        _until(lambda: bool(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()))
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in complaint
    assert not list(tmp_path.iterdir())


def test_many_at_once(service: Running, study: Study) -> None:
    """Twelve clients of two workers: whoever is told to come back gets the same answer in the end."""
    requests = [Request(form(study.parts(kind))) for kind in (".mha", ".nii.gz", "dicom")] * 4
    tally = Tally()
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(lambda request: load_test._patient(service, request, tally), requests))
    assert [status for status, _ in answers] == [200] * len(requests)
    assert len({round(answer["predictions"][0]["probability"], 6) for _, answer in answers}) == 1
    assert threading.active_count() < 50
