"""The page: of a real small run, of half-written folders, and as a browser shows it."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from health_parts import SMALL, SPEC, make_model

from prostate_mim.config import write_config
from prostate_mim.engine.records import begin_record, finish_record
from prostate_mim.engine.tracker import Tracker
from prostate_mim.health import HealthMonitor
from prostate_mim.health.drawing import running_mean, thinned
from prostate_mim.health.panels import SECTIONS
from prostate_mim.health.report import write_report
from prostate_mim.health.run_folder import read_pictures, read_run
from prostate_mim.pretraining import PretrainConfig

STEPS = 60
BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: the page is not looked at in a browser")


@pytest.fixture(scope="session")
def run(monitor: HealthMonitor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with real observations of two networks, and a falling loss."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    folder.mkdir()
    config = PretrainConfig(spec=SPEC, health=SMALL, name="resenc-s.test")
    write_config(
        folder / "config.toml", dataclasses.replace(config, loop=dataclasses.replace(config.loop, steps=STEPS))
    )
    begin_record(folder, {"task": "pretrain", "seed": 0, "counts": {"studies": 12}, "data_fingerprint": "ab" * 16})
    rng = np.random.default_rng(0)
    with Tracker(folder, names=()) as tracker:
        tracker.log(0, **monitor.observe(make_model(seed=0), 0, folder))
        for step in range(1, STEPS + 1):
            tracker.log(
                step,
                loss=float(np.exp(-step / 20) + rng.uniform(0.4, 0.5)),
                learning_rate=1e-3 * step / STEPS,
                gradient_norm=float(rng.uniform(0.1, 1)),
                studies_per_second=float(rng.uniform(8, 9)),
                wait_seconds=0.0,
            )
        tracker.log(STEPS, **monitor.observe(make_model(seed=1), STEPS, folder))
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The run folder, to be damaged."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


class Reader(HTMLParser):
    """Tags that are closed in order, sources of pictures, and text."""

    void = frozenset({"meta", "img", "link", "br", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.sources: list[str] = []
        self.alts: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.sources += [value for name in ("src", "href", "srcset", "data") if (value := found.get(name)) is not None]
        if tag == "img":
            self.alts.append(found.get("alt") or "")
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def read_page(path: Path) -> tuple[Reader, str]:
    text = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader, text


def test_the_page_is_well_formed_and_loads_nothing(run: Path) -> None:
    """Every tag is closed; no address but data:; no script; a policy that forbids both; every picture is described."""
    reader, text = read_page(write_report(run))
    assert reader.wrong == [] and reader.open == []
    assert reader.sources and all(source.startswith("data:image/") for source in reader.sources)
    assert not re.search(r"https?://|//cdn|@import|url\(", text)
    assert not {"script", "iframe", "object", "link"} & set(reader.tags)
    assert "default-src 'none'" in text
    assert all(len(alt) > 10 for alt in reader.alts)


def test_pictures_are_what_they_claim(run: Path) -> None:
    """Each inlined picture is an SVG or a PNG, and the drawings load nothing either."""
    reader, _ = read_page(write_report(run))
    for source in reader.sources:
        kind, data = source.removeprefix("data:image/").split(";base64,")
        found = base64.b64decode(data, validate=True)
        if kind == "png":
            assert found.startswith(b"\x89PNG")
        else:
            assert b"<svg" in found and b"<script" not in found
            assert not re.search(rb'(href|src)="(?!#)', found)


def test_everything_measured_is_on_the_page(run: Path) -> None:
    """Title, progress, every measured panel with its explanation, configuration, hardware, code, data."""
    reader, _ = read_page(write_report(run))
    text = " ".join(reader.text)
    assert f"step {STEPS} of {STEPS}" in text
    folder = read_run(run)
    for _, _, panels in SECTIONS:
        for panel in panels:
            measured = len(folder.curve(panel.keys[0])[0]) > 0
            everywhere = panel.keys[0] in ("health/error", "health/loss")  # said for inside and outside instead
            assert (panel.title in text) == (measured and not everywhere), panel.title
            assert not measured or everywhere or panel.text[:60] in text
    for found in ("resenc-s.test", "least_rank_share", "cores", "torch", "watched with gland mask", "abababab"):
        assert found in text


def test_no_warning_is_said_and_a_collapse_is_shouted(run: Path, copy: Path) -> None:
    """The healthy run says that there is none; a collapsed observation heads the page, in its own colour."""
    assert "No warning" in " ".join(read_page(write_report(run))[0].text)
    with (copy / "metrics.jsonl").open("a") as stream:
        stream.write(
            json.dumps({"step": STEPS + 1, "seconds": 1.0, "health/rank": 1.0, "health/output_spread": 0.0}) + "\n"
        )
    reader, text = read_page(write_report(copy))
    assert text.count('<li class="collapse">') == 2
    assert "COLLAPSE" in " ".join(reader.text)


@pytest.mark.parametrize("missing", ["metrics.jsonl", "config.toml", "run.json", "health", "everything"])
def test_an_unfinished_folder_has_a_page(missing: str, copy: Path) -> None:
    """Whatever is not there yet is left out."""
    for path in copy.iterdir():
        if missing in (path.name, "everything"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    reader, text = read_page(write_report(copy))
    assert reader.wrong == [] and reader.open == []
    assert ("Nothing has been measured" in text) == (missing in ("metrics.jsonl", "everything"))


def test_torn_and_damaged_files_are_passed_over(copy: Path) -> None:
    """A torn last line is quiet; damage in the middle is said; broken pictures, TOML and JSON stop nothing."""
    metrics = copy / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    metrics.write_text("\n".join(lines) + '\n{"step": 61, "lo')
    assert read_run(copy).unreadable == 0
    assert len(read_run(copy).rows) == len(lines)
    lines[5] = lines[5][:20]
    metrics.write_text("\n".join([*lines, "7", '{"loss": 1}']) + "\n")
    assert read_run(copy).unreadable == 3
    first = sorted((copy / "health").glob("*.npz"))[0]
    first.write_bytes(first.read_bytes()[:200])
    (copy / "config.toml").write_text("= =")
    (copy / "run.json").write_text("{")
    reader, text = read_page(write_report(copy))
    assert "3 lines of metrics.jsonl could not be read" in text
    assert reader.wrong == []
    assert len(read_pictures(copy, 5)) == 1


def test_the_state_is_judged(copy: Path) -> None:
    """Written a moment ago: running. Silent for an hour: stopped. With an end in run.json: finished."""
    assert read_run(copy).state == "running"
    for path in copy.iterdir():
        os.utime(path, (1, 1))
    assert read_run(copy).state == "stopped"
    finish_record(copy, step=STEPS)
    assert read_run(copy).state == "finished"
    assert 'class="badge finished"' in write_report(copy).read_text()
    assert 'class="badge stopped"' in write_report(copy, state="stopped").read_text()


def test_nothing_from_the_folder_is_believed(copy: Path) -> None:
    """Names with markup are escaped; paths in the configuration are not shown."""
    (copy / "config.toml").write_text('name = "<script>alert(1)</script>"\nwatch = "/data/patients/mueller.csv"\n')
    reader, text = read_page(write_report(copy))
    assert "script" not in reader.tags
    assert "mueller" not in text


def test_waiting_is_measured_against_the_step(tmp_path: Path) -> None:
    """By hand: 2 s a step, 0.5 s of it waiting: a quarter. A resumed clock gives no negative step."""
    rows = [{"step": n, "seconds": 2.0 * n, "loss": 1, "wait_seconds": 0.5} for n in (1, 2, 3)]
    rows += [{"step": n, "seconds": 2.0 * (n - 3), "loss": 1, "wait_seconds": 0.5} for n in (4, 5)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps, shares = read_run(tmp_path).curve("wait_share")
    assert list(steps) == [2, 3, 5]
    assert list(shares) == [0.25] * 3


def test_smoothing_and_thinning() -> None:
    """A constant stays one; a running mean of 5 in the middle; long curves keep both ends and 600 points."""
    assert np.allclose(running_mean(np.full(50, 3.0)), 3)
    assert running_mean(np.arange(50.0))[25] == 25
    steps, values = thinned((np.arange(10_000.0), np.arange(10_000.0)))
    assert len(steps) == 600
    assert (steps[0], steps[-1], values[-1]) == (0, 9999, 9999)


# -------------------------------------------------------------------------------------------------- in a browser


def browse(page: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Headless Chromium on a local file; what the page says to its console comes back on stderr."""
    assert BROWSER is not None
    common = (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--v=0",
    )
    own = (f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=4000", "--window-size=1300,2600")
    return subprocess.run(
        [BROWSER, *common, *own, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )


def complaints(text: str) -> list[str]:
    """Lines of Chromium's log that come from the page."""
    return [line for line in text.splitlines() if "CONSOLE" in line]


def checked(page: Path, folder: Path) -> Path:
    """A copy whose policy allows one script, which writes how many pictures are there and how many are broken."""
    script = (
        "<script>addEventListener('load', () => { const all = [...document.images];"
        "document.body.dataset.pictures = all.length;"
        "document.body.dataset.broken = all.filter(i => !i.complete || i.naturalWidth < 50).length; })</script>"
    )
    text = page.read_text().replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    copied = folder / "checked.html"
    copied.write_text(text.replace("</head>", script + "</head>"))
    return copied


@needs_browser
def test_a_browser_shows_the_page(run: Path, tmp_path: Path) -> None:
    """A screenshot with real content, styled; no complaint on the console."""
    from PIL import Image

    shot = tmp_path / "shot.png"
    done = browse(write_report(run), tmp_path, f"--screenshot={shot}")
    assert complaints(done.stderr) == []
    pixels = np.asarray(Image.open(io.BytesIO(shot.read_bytes())).convert("RGB")).astype(int)
    assert pixels.shape == (2600, 1300, 3)
    assert (pixels[:, :, 0] < 100).mean() > 0.01  # ink
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200  # pictures, not only text
    blue = np.abs(pixels - (0x1D, 0x4E, 0x89)).sum(2) < 12  # hidden blocks and curves: the style sheet was accepted
    assert blue.mean() > 0.003


@needs_browser
def test_every_picture_is_shown(run: Path, tmp_path: Path) -> None:
    """The browser decodes every picture; the control: one without its signature is counted as broken."""
    page = write_report(run)
    dom = browse(checked(page, tmp_path), tmp_path, "--dump-dom").stdout
    count = page.read_text().count("<img ")
    assert f'data-pictures="{count}"' in dom
    assert 'data-broken="0"' in dom
    damaged = tmp_path / "damaged.html"
    damaged.write_text(page.read_text().replace("data:image/png;base64,iVBOR", "data:image/png;base64,AAAAA"))
    assert 'data-broken="1"' in browse(checked(damaged, tmp_path), tmp_path, "--dump-dom").stdout


@needs_browser
@pytest.mark.parametrize(
    "intruder",
    ['<script src="https://example.com/a.js"></script>', "<script>1</script>", '<img src="https://a.example/b.png">'],
)
def test_the_policy_is_enforced(intruder: str, run: Path, tmp_path: Path) -> None:
    """The control of the console check: a script or a foreign picture is refused by the page's policy, aloud."""
    page = tmp_path / "intruded.html"
    page.write_text(write_report(run).read_text().replace("</main>", intruder + "</main>"))
    found = complaints(browse(page, tmp_path, "--dump-dom").stderr)
    assert any("Content Security Policy" in line for line in found)
