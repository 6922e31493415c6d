"""The page clicked through in headless Chromium: a real process answers, on loopback, and nothing else is reached."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from html_pages import needs_browser

pytest.importorskip("gradio", reason="Gradio is not installed (extra: demo): the page is not clicked through")
from space_browser import Browser, Page
from space_interval import Heads
from space_parts import Proxy, Served
from space_studies import FIRST, PHANTOMS, make_phantom

from prostate_mim.classifier import LesionClassifier
from prostate_mim.phantom import make_study
from prostate_mim.volume import Geometry, Volume, write_volume

pytestmark = needs_browser
Place = tuple[float, float, float]
_FRAME = "document.querySelector('#viewer')?.contentDocument"
# A frame keeps its old document for a moment after its address has changed.
DRAWN = f"{_FRAME}?.body?.dataset.state === 'drawn' && {_FRAME}.URL === document.querySelector('#viewer').src"
_ELSEWHERE = (
    b"ObjectType = Image\nNDims = 3\nDimSize = 8 8 8\nElementSpacing = 1 1 3\nElementType = MET_UCHAR\n"
    b"ElementDataFile = secret.raw\n"
)
HEATED = f"{DRAWN} && !!{_FRAME}.getElementById('opacity')"


@pytest.fixture(scope="module")
def visit(browser: Browser, served: Served) -> Page:
    """One visitor for all tests: loading the page is what takes longest."""
    return browser.open(served.address, 1000, 640)


@pytest.fixture
def page(visit: Page) -> Iterator[Page]:
    """The visitor, with whatever the test before left open; a test must not make the browser complain."""
    begin = len(visit.complaints)
    visit.wait(DRAWN)
    yield visit
    assert [line for line in visit.complaints[begin:] if "elsewhere.test" not in line] == []


def anew(page: Page, action: Callable[[], None]) -> None:
    """Do something, until another view is drawn."""
    before = page.value("document.querySelector('#viewer').src")
    action()
    page.wait(f"document.querySelector('#viewer').src !== '{before}' && {DRAWN}")


def choose(page: Page, number: int) -> None:
    """A study of the list."""
    anew(page, lambda: page.click(f"#phantom label:nth-child({number})"))
    assert page.text("#said").startswith(f"phantom {number}")


def upload(page: Page, file: Path) -> None:
    """A study that can be read."""
    anew(page, lambda: page.give("#upload input[type=file]", file))
    assert page.text("#said").startswith("uploaded study")


def place_of(page: Page) -> Place:
    """What the three fields show."""
    x, y, z = (float(page.value(f"document.querySelector('#place-{axis} input').value")) for axis in "xyz")
    return x, y, z


def judge(page: Page) -> tuple[float, str]:
    """Press the button; the probability as shown, and all text of the result."""
    anew(page, lambda: page.click("#judge"))
    page.wait(HEATED)
    return float(page.text("#probability")), page.text("#found")


def refusal(page: Page) -> str:
    """The one line that says what went wrong, when the clock of the work beside it is gone."""
    line, alert = "document.querySelector('#said')", "document.querySelector('#said [role=alert]')"
    page.wait(f"!!{alert} && {line}.innerText.trim() === {alert}.innerText.trim()")
    said = page.text("#said")
    assert len(said.splitlines()) == 1 and "Traceback" not in page.text("body")
    return said


def test_a_phantom_is_judged(page: Page, served: Served, classifier: LesionClassifier, heads: Heads) -> None:
    """Choose one, judge it: the library's own probability and interval, green, provenance, map over the image."""
    assert page.text(".pm-banner").startswith("Research only. Not a medical device.")
    choose(page, 4)
    expected = make_phantom(list(PHANTOMS)[3])
    assert place_of(page) == expected.position_mm_lps
    probability, said = judge(page)
    made = classifier.predict(expected.volume, expected.position_mm_lps)
    assert probability == pytest.approx(made.probability, abs=1e-4)
    features = classifier.features(classifier.prepare(expected.volume, expected.position_mm_lps))
    interval = heads.interval(features.detach().double().numpy())
    assert page.text("#interval") == f"{interval.low:.2f} to {interval.high:.2f}"
    assert f"95 % bootstrap interval over {heads.patients} training patients" in said
    assert page.value("document.querySelector('#verdict').classList.contains('pm-good')")
    page.value("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for word in (made.model, made.revision, made.spec, "cpu", "gradcam", "AUROC", "prostate-mim"):
        assert word in page.text("#found")
    assert {one for one in page.requests if not one.startswith((served.address, "data:", "blob:"))} == set()


def test_the_viewer_shows_image_mark_and_map(page: Page) -> None:
    """Grey tissue and the mark's colour; what the map adds goes with its opacity and comes back, no more."""
    before = page.picture("#viewer")
    assert len(np.unique(before[..., 0])) > 60
    assert (np.abs(before - [255, 106, 213]).sum(-1) < 60).sum() > 100  # the chosen mark's pink
    judge(page)

    def picture(opacity: float) -> npt.NDArray[np.int_]:
        page.value(
            f"(() => {{ const one = {_FRAME}.getElementById('opacity'); one.value = {opacity};"
            " one.dispatchEvent(new Event('input')); })()"
        )
        page.value("new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")
        return page.picture("#viewer")[:, :300]  # without the slider

    for _ in range(20):  # the viewer's heading may still be making itself longer
        if np.array_equal(picture(1), picture(1)):
            break
    shown, hidden, again = picture(1), picture(0), picture(1)
    assert (np.abs(shown - hidden).sum(-1) > 60).sum() > 200 > 20 > (np.abs(shown - again).sum(-1) > 60).sum()


def test_the_crosshair_becomes_the_place(page: Page, classifier: LesionClassifier) -> None:
    """Click elsewhere in the viewer, take it: the fields say what the viewer says, and that place is judged."""
    choose(page, 1)
    before = place_of(page)
    page.click("#scene", inside="#viewer", at=(0.24, 0.45))
    page.wait(f"!{_FRAME}.getElementById('where').textContent.includes('LPS {before[0]:.1f},')")
    page.click("#take")
    page.wait(f"document.querySelector('#place-x input').value !== '{before[0]:g}'")
    place = place_of(page)
    told = re.findall(r"-?[0-9.]+", page.value(f"{_FRAME}.getElementById('where').textContent"))[:3]
    assert list(place) == [float(number) for number in told] != list(before)
    made = classifier.predict(make_phantom(FIRST).volume, place)
    assert judge(page)[0] == pytest.approx(made.probability, abs=1e-4)


def test_an_upload_is_judged_and_not_kept(
    page: Page, served: Served, classifier: LesionClassifier, tmp_path: Path
) -> None:
    """A real .nii.gz, marked by hand: the same probability as from the file; the file is gone, its name nowhere."""
    study = make_study(5, 0)
    file = tmp_path / "MUELLER_Hans.nii.gz"
    write_volume(study.volume, file)
    upload(page, file)
    assert place_of(page) == pytest.approx([float(v) for v in study.volume.centre_mm_lps], abs=0.051)
    place = study.lesions[0].position_mm_lps
    for axis, value in zip("xyz", place, strict=True):
        page.fill(f"#place-{axis} input", f"{value:.2f}")
    probability, _ = judge(page)
    made = classifier.predict(study.volume, tuple(round(v, 2) for v in place))  # type: ignore[arg-type]
    assert probability == pytest.approx(made.probability, abs=1e-4)
    assert served.uploads == []
    for text in (page.value("document.documentElement.outerHTML"), served.log.read_text()):
        assert "MUELLER" not in text
    assert "MUELLER" not in page.value(f"{_FRAME}.documentElement.outerHTML")


def test_garbage_is_one_line(page: Page, served: Served, tmp_path: Path) -> None:
    """Refused, in other words each time (none is taken for the one before); nothing kept, what was open stays."""
    before = page.text("#viewer-part") + page.value("document.querySelector('#viewer').src")
    for name, content, line in (
        ("PAT0815.nii.gz", b"no image at all " * 300, "upload: the content is not gzip-compressed"),
        ("PAT0815.gz", b"no image at all", "upload: its name must end in .nii.gz, .nii, .mha, .nrrd"),
        ("PAT0815.mha", _ELSEWHERE, "upload: BinaryData"),
    ):
        (tmp_path / name).write_bytes(content)
        page.give("#upload input[type=file]", tmp_path / name)
        page.wait(f"document.querySelector('#said [role=alert]')?.innerText.startsWith('{line}')")
        said = refusal(page)
        assert "PAT0815" not in said and str(served.temporary) not in said
        page.wait("!!document.querySelector('#upload input[type=file]')")
    assert served.uploads == []
    assert "Traceback" not in served.log.read_text()
    assert page.text("#viewer-part") + page.value("document.querySelector('#viewer').src") == before


def test_an_image_of_something_else_is_yellow(page: Page, tmp_path: Path) -> None:
    """Noise with huge voxels: judged all the same, but each thing that is off has its line."""
    noise = np.random.default_rng(0).integers(0, 1000, (30, 64, 64)).astype(np.int16)
    write_volume(Volume(noise, Geometry((8.0, 6.0, 6.0))), tmp_path / "noise.nii.gz")
    upload(page, tmp_path / "noise.nii.gz")
    judge(page)
    assert page.value("document.querySelector('#verdict').classList.contains('pm-check')")
    assert page.value("document.querySelectorAll('#verdict li').length") >= 2


def test_a_place_outside_or_missing_is_one_line(page: Page) -> None:
    """The message of the library; an empty field is asked for."""
    page.fill("#place-x input", "900")
    page.click("#judge")
    assert "outside" in refusal(page)
    page.fill("#place-x input", "")
    page.click("#judge")
    page.wait("document.querySelector('#said').innerText.includes('fill in all three')")
    refusal(page)
    choose(page, 3)


def test_keyboard_names_and_narrow_windows(page: Page) -> None:
    """Tab reaches all fields and buttons in order, Space chooses, Enter judges; all has names; it fits a phone."""
    page.value("(() => { const one = document.querySelector('#banner'); one.tabIndex = -1; one.focus(); })()")
    reached = []
    while "judge" not in reached and len(reached) < 24:
        page.press("Tab", 9)
        reached.append(page.value("document.activeElement.closest('[id]').id"))
        if reached.count("phantom") == 4 and reached[-1] == "phantom":
            anew(page, lambda: page.press(" ", 32, " "))
            assert page.text("#said").startswith("phantom 4")
    wanted = ["phantom", "upload", "place-x", "place-y", "place-z", "take", "method", "judge"]
    assert [one for one in dict.fromkeys(reached) if one in wanted] == wanted
    anew(page, lambda: page.press("Enter", 13, "\r"))
    page.wait(HEATED)
    assert page.value("[...document.querySelectorAll('img:not([alt]), iframe:not([title])')].length") == 0
    assert "interval" in page.value("document.querySelector('.pm-bar').ariaLabel")
    for width in (390, 1000):
        page.resize(width, 640)
        for inside in ("document", _FRAME):
            root = f"{inside}.documentElement"
            page.wait(f"{root}.scrollWidth <= {root}.clientWidth")
    assert page.text(".pm-banner")


def test_no_other_host_is_reached(page: Page, browser: Browser, proxy: Proxy, served: Served) -> None:
    """The page asks for nothing elsewhere, its policy refuses a script that tries. The controls are heard of."""
    asked = "fetch('http://elsewhere.test/x', {mode: 'no-cors'}).then(() => 'sent', () => 'refused')"
    assert page.value(asked) == "refused"
    assert any("elsewhere.test" in line and "Content Security Policy" in line for line in page.complaints)
    links = page.value("[...document.querySelectorAll('link, script[src], img')].map((one) => one.href ?? one.src)")
    assert len(links) > 5 and [one for one in links if not one.startswith((served.address, "data:"))] == []
    own = [one for one in page.requests if one.startswith(served.address)]
    elsewhere = {one for one in page.requests if not one.startswith(("data:", "blob:", served.address))}
    assert len(own) > 20 and elsewhere <= {"http://elsewhere.test/x"}
    assert proxy.foreign == []
    free = browser.open("about:blank")
    free.wait("document.readyState === 'complete'")
    free.value(asked)
    assert free.requests[-1] == "http://elsewhere.test/x"
    assert proxy.foreign == ["GET http://elsewhere.test/x HTTP/1.1"]
    proxy.heard.clear()
    free.close()
