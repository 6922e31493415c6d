"""``prostate-mim view`` and ``prostate-mim data sheet`` as processes, with a browser that notes what it gets."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from looking_parts import Planted


def run(*arguments: object, browser: str = "", home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "BROWSER": browser, "DISPLAY": ""}
    if home is not None:
        environment["TMPDIR"] = str(home)
    return subprocess.run(
        [sys.executable, "-m", "prostate_mim", *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip


def test_view_writes_the_page_and_opens_nothing(planted: Planted, tmp_path: Path) -> None:
    """With --out: the file, no browser; the names of files and patients are not in what is printed but the page's."""
    out = tmp_path / "page.html"
    done = run(
        "view", planted.t2w, "--mask", f"gland={planted.gland}", "--position", "41.5 7.5 53.5", "--out", out, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"page": str(out), "opened": False}
    text = out.read_text()
    assert text.startswith("<!doctype html>") and "<title>study</title>" in text
    assert not any(word in text + done.stderr for word in planted.words)


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands in for the browser")
def test_view_opens_the_browser_and_does_not_wait(planted: Planted, tmp_path: Path) -> None:
    """Without --out a page of this user's alone is handed to the browser; a terminal browser is not started."""
    noted = tmp_path / "noted"
    script = tmp_path / "browser"
    script.write_text(f'#!/bin/sh\nprintf %s "$1" > "{noted}"\nexec sleep 30 > /dev/null 2>&1\n')
    script.chmod(0o755)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = run("view", "--manifest", planted.manifest, "--row", 2, "--json", browser=f"{script} %s &", home=temporary)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    page = Path(result["page"])
    assert result["opened"] is True and page.is_file() and "<title>row 2</title>" in page.read_text()
    assert stat.S_IMODE(page.parent.stat().st_mode) == 0o700
    assert not any(word in page.relative_to(temporary).as_posix() for word in planted.words)
    for _ in range(200):  # the browser is another process
        if noted.exists() and noted.read_text():
            break
        time.sleep(0.05)
    assert unquote(urlparse(noted.read_text()).path) == str(page)
    noted.unlink()
    shutil.rmtree(temporary)
    temporary.mkdir()
    blocking = run("view", "--manifest", planted.manifest, "--json", browser=f"{script} %s", home=temporary)
    assert json.loads(blocking.stdout)["opened"] is False
    for given, more in (((), ", or give --out FILE"), (("--out", temporary / "a.html"), "")):
        text = run("view", "--manifest", planted.manifest, *given, home=temporary).stdout
        assert text.splitlines()[1].startswith("next: open it in a browser") and text.count(", or give") == bool(more)
    assert not noted.exists()


def test_sheet_is_drawn(planted: Planted, tmp_path: Path) -> None:
    """Progress is on stderr, the result on stdout, and the sheet is there."""
    out = tmp_path / "new" / "sheet.png"
    done = run("data", "sheet", planted.manifest, "--out", out, "--slices", 1, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"sheets": [str(out)], "rows": 3, "unreadable": []}
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("view",), 2, "either one study or --manifest"),
        (("view", "none.nii", "--out", "a.html"), 3, "no such file"),
        (("view", "none.nii", "--out", "a.png"), 2, "ends in .html"),
        (("view", "none.nii", "--position", "1 2"), 2, "three numbers"),
        (("view", "{t2w}", "--position", "900 0 0", "--out", "{tmp}/a.html"), 9, "outside the volume"),
        (("view", "{t2w}", "--position", "1,5 2,5 3,5"), 2, "decimal points"),
        (("data", "sheet", "{manifest}", "--out", "{tmp}/a.jpg"), 2, "ends in .png"),
    ],
)
def test_refusals(arguments: tuple[str, ...], code: int, words: str, planted: Planted, tmp_path: Path) -> None:
    """One line, the right code, no page."""
    given = {"t2w": planted.t2w, "manifest": planted.manifest, "tmp": tmp_path}
    done = run(*(text.format(**given) for text in arguments))
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []
