"""The page: whole, safe, true to the tables, and as a real browser shows it."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from html_pages import Reader, browse, complaints, needs_browser
from PIL import Image
from study_files import Simulation, write_study

from prostate_mim.study.evidence import read_evidence
from prostate_mim.study.markdown import MOST_BYTES, study_markdown
from prostate_mim.study.page import write_study_report
from prostate_mim.study.records import PREDICTIONS, RESULTS, read_table, table_path, write_table
from prostate_mim.study.wording import HOW_TO_READ, glance, traps

SMALL = Simulation(patients=16, fractions=(0.5, 1.0))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with pictures of two of its cases."""
    folder = write_study(tmp_path_factory.mktemp("studies") / "small", SMALL)
    (folder / "cases" / "lesions").mkdir(parents=True)
    for row in (1, 2):
        (folder / "cases" / "lesions" / f"{row}.png").write_bytes(picture(row))
    return folder


@pytest.fixture(scope="module")
def page(out: Path) -> Path:
    return write_study_report(out)


@pytest.fixture(scope="module")
def reader(page: Path) -> Reader:
    return Reader(page.read_text(encoding="utf-8"))


def picture(seed: int) -> bytes:
    stream = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 255, (96, 194), dtype=np.uint8)
    Image.fromarray(values).save(stream, format="png")
    return stream.getvalue()


def test_the_page_is_well_formed_and_loads_nothing(page: Path, reader: Reader) -> None:
    """Every tag closed; no address but data: and places on the page; no script; every picture is described."""
    text = page.read_text(encoding="utf-8")
    assert reader.wrong == [] and reader.open == []
    assert reader.sources and all(source.startswith("data:image/") for source in reader.sources)
    assert reader.links and all(link.removeprefix("#") in reader.places for link in reader.links)
    assert not re.search(r"https?://|//cdn|@import|url\(", text)
    assert not {"script", "iframe", "object", "link"} & set(reader.tags)
    assert "default-src 'none'" in text and ' style="' not in text
    assert all(len(alt) > 10 for alt in reader.alts)


def test_pictures_are_what_they_claim(reader: Reader) -> None:
    """Each is an SVG that loads nothing, or a PNG."""
    for source in reader.sources:
        kind, data = source.removeprefix("data:image/").split(";base64,")
        found = base64.b64decode(data, validate=True)
        assert found.startswith(b"\x89PNG") if kind == "png" else b"<svg" in found
        assert b"<script" not in found and not re.search(rb'(href|src)="(?!#)', found)


def test_the_page_says_what_the_tables_say(out: Path, reader: Reader) -> None:
    """Sentences of every group, how to read, traps, controls, configuration, hardware, versions, seeds and time."""
    text = " ".join(" ".join(reader.text).split())
    evidence = read_evidence(out)
    for group in evidence.groups:
        for line in glance(evidence, group, 1.0):
            assert line in text
    for line in traps(evidence):
        assert line in text
    for term, explained in HOW_TO_READ:
        assert term in text and explained in text
    for found in ("permuted", "a planted leak was refused", "no study in common", "torch", "2.13.0", "cores", "1.5 h",
                  "2 of 2", "40 / 40", "config", "seeds", "abababababab", "cdcdcdcdcdcd"):  # fmt: skip
        assert found in text, found


def test_the_page_says_for_how_many_weights_an_arm_stands(out: Path, tmp_path: Path) -> None:
    """By hand: two seeds with one hash are one set; with another in one arm they are 1 to 2."""
    assert any("An arm stands for 1 set of weights" in line for line in traps(read_evidence(out)))
    for path in out.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    record = json.loads((tmp_path / "study.json").read_text())
    record["arms"][0]["encoders"][0]["weights_sha256"] = "ef" * 32
    (tmp_path / "study.json").write_text(json.dumps(record))
    assert any("An arm stands for 1 to 2 sets of weights" in line for line in traps(read_evidence(tmp_path)))


def test_every_case_is_on_the_page(out: Path, page: Path) -> None:
    """One line a row, with label, patient and the mean over seeds of each arm; pictures where there are some."""
    text = page.read_text(encoding="utf-8")
    table = re.findall(r'<table class="cases">(.*?)</table>', text, re.S)
    assert len(table) == 1
    lines = [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in re.findall(r"<tr>(.*?)</tr>", table[0])[1:]]
    rows = read_table(table_path(out, PREDICTIONS), PREDICTIONS)
    assert [int(line[0]) for line in lines] == sorted({row["row"] for row in rows})
    assert ["<img" in line[1] for line in lines[:3]] == [True, True, False]
    for line in lines:
        own = [row for row in rows if row["row"] == int(line[0]) and row["fraction"] == 1 and row["arm"] == "simclr"]
        assert line[2:5] == [own[0]["zone"], str(own[0]["label"]), str(own[0]["patient"])]
        assert float(line[-1]) == pytest.approx(np.mean([row["probability"] for row in own]), abs=0.0051)


def test_nothing_from_the_folder_is_believed(tmp_path: Path) -> None:
    """Markup in names is text; a zone that is none, a path in the configuration and a false picture are not shown."""
    folder = write_study(tmp_path / "small", Simulation(patients=8, probe=False, fractions=(1.0,)))
    for kind in (RESULTS, PREDICTIONS):
        rows = read_table(table_path(folder, kind), kind)
        for row in rows:
            row["arm"] = row["arm"].replace("simclr", '<script>alert("1")</script>')
            if "zone" in row:
                row["zone"] = "MUELLER" if row["zone"] == "TZ" else row["zone"]
        write_table(table_path(folder, kind), kind, rows)
    record = json.loads((folder / "study.json").read_text())
    record["name"] = "<b>bold</b>"
    record["config"].update(manifest="/data/patients/mueller.csv")
    record["counts"].update(missing=3)
    (folder / "study.json").write_text(json.dumps(record))
    (folder / "cases").mkdir()
    (folder / "cases" / "1.png").write_bytes(b"<svg onload='alert(1)'>")
    (folder / "cases" / "2.png").write_bytes(picture(0) + bytes(300_000))
    (folder / "cases" / "3.png").write_bytes(picture(0))
    text = write_study_report(folder).read_text(encoding="utf-8")
    reader = Reader(text)
    assert "script" not in reader.tags and "<b>bold" not in text
    assert "mueller" not in text.lower() and "onload" not in text
    assert text.count("data:image/png") == 1
    assert '<ul class="warnings"><li>UNFINISHED: 3 cells' in text
    assert "**UNFINISHED: 3 cells" in study_markdown(folder)


def test_a_folder_with_results_alone_has_a_page(out: Path, tmp_path: Path) -> None:
    """Without predictions, comparisons, cases, study.json and run.json the page is shorter, and whole."""
    (tmp_path / "results.parquet").write_bytes((out / "results.parquet").read_bytes())
    reader = Reader(write_study_report(tmp_path).read_text(encoding="utf-8"))
    assert reader.wrong == [] and reader.open == []
    assert "Overview" not in " ".join(reader.text) and "No controls" not in " ".join(reader.text)


def test_markdown_with_figures(out: Path, tmp_path: Path) -> None:
    """Every figure that is named is there, a PNG under 200 kB; the text has the sentences and no path."""
    text = study_markdown(out, tmp_path / "figures", prefix="study/")
    named = re.findall(r"!\[([^\]]+)\]\(study/([a-z0-9-]+\.png)\)", text)
    assert sorted(name for _, name in named) == sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert len(named) == 8 and all(len(alt) > 30 for alt, _ in named)
    for path in (tmp_path / "figures").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < MOST_BYTES
    evidence = read_evidence(out)
    for line in glance(evidence, evidence.groups[0], 1.0):
        assert line.replace("<", "\\<") in text
    assert str(tmp_path) not in text and str(out) not in text
    assert study_markdown(out) == re.sub(r"\*\*[^*\n]+\*\*\n\n!\[[^\]]+\]\([^)]+\)\n\n[^\n]+\n\n", "", text)


def test_markdown_leaves_thousands_of_settings_to_the_record(out: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(out, tmp_path / "copy")
    record = json.loads((folder / "study.json").read_text())
    record["config"].update({f"setting {n}": n for n in range(300)})
    (folder / "study.json").write_text(json.dumps(record))
    text = study_markdown(folder)
    assert re.search(r"\*\*Configuration\*\*: 3\d\d values, all in study.json", text) and "setting 7" not in text


# -------------------------------------------------------------------------------------------------- in a browser


@needs_browser
def test_a_browser_shows_the_page(page: Path, tmp_path: Path) -> None:
    """Real content, styled, from the top to the bottom; no request and no complaint; every picture is decoded."""
    script = (
        "<script>addEventListener('load', () => { const all = [...document.images], body = document.body;"
        "document.querySelectorAll('details').forEach(one => one.open = true);"
        "body.dataset.pictures = all.length;"
        "body.dataset.broken = all.filter(i => !i.complete || i.naturalWidth < 50).length;"
        "body.dataset.requests = performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:'))"
        ".length; body.dataset.wide = document.documentElement.scrollWidth; })</script>"
    )
    shot = tmp_path / "shot.png"
    done = browse(page, tmp_path, f"--screenshot={shot}", height=5000)
    assert complaints(done.stderr) == []
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert pixels.shape == (5000, 1300, 3)
    for piece in np.split(pixels, 5):  # every fifth of the page has ink
        assert (piece.max(-1) < 120).mean() > 0.003
    blue = np.abs(pixels - (0x1D, 0x4E, 0x89)).sum(2) < 12  # curves and dots
    assert blue.mean() > 0.0015
    copied = tmp_path / "checked.html"
    text = page.read_text(encoding="utf-8")
    allowed = text.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    copied.write_text(allowed.replace("</head>", script + "</head>"), encoding="utf-8")
    dom = browse(copied, tmp_path, "--dump-dom").stdout
    found = dict(re.findall(r'data-(\w+)="(\d+)"', re.search(r"<body[^>]*>", dom)[0]))  # type: ignore[index]
    assert found == {"pictures": str(text.count("<img ")), "broken": "0", "requests": "0", "wide": "1300"}


@needs_browser
def test_a_request_would_be_heard_of(page: Path, tmp_path: Path) -> None:
    """The control: a foreign picture, a script and a style in a tag are refused by the page's own policy, aloud."""
    intruders = (
        '<img src="https://a.example/b.png"><script>document.title = "x"</script><p style="color: red">style</p>'
    )
    copied = tmp_path / "intruded.html"
    copied.write_text(page.read_text(encoding="utf-8").replace("</main>", intruders + "</main>"), encoding="utf-8")
    said = [line for line in complaints(browse(copied, tmp_path, "--dump-dom").stderr) if "Content Security" in line]
    assert all(any(word in line for line in said) for word in ("b.png", "script", "style"))
