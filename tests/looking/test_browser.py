"""The page as a browser shows it: WebGL drawn in software, no network."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from looking_parts import (
    CUBE_MM,
    Pixels,
    bounds,
    browse,
    complaints,
    cube_centre,
    cube_study,
    near,
    needs_browser,
    screenshot,
    with_script,
)

from prostate_mim.looking import Marker, study_page

pytestmark = needs_browser
GLAND, MARKED = "#F0E442", "#4DD2FF"
HEAD, AXIAL, PLANES = 44, slice(0, 388), slice(394, 628)  # of the 900 x 460 screenshots: rows of the head, columns


def rotated(degrees: float) -> np.ndarray:
    """A stack tilted about the left-right axis, as axial prostate series often are."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Pixels:
    """The study alone, looked at through the middle of the cube."""
    volume, cube = cube_study()
    html = study_page(volume, focus_mm_lps=cube_centre(cube))
    pixels, said = screenshot(html, tmp_path_factory.mktemp("plain"), "plain")
    assert said == []
    return pixels


def tilted(label: str, folder: Path) -> Pixels:
    """The tilted study with its mask and a marker in the cube."""
    volume, cube = cube_study(rotated(20))
    html = study_page(volume, {"gland": cube}, [Marker(cube_centre(cube), label)])
    pixels, said = screenshot(html, folder, "tilted")
    assert said == []
    return pixels


@pytest.fixture(scope="session")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Pixels:
    """With a marker that has no words."""
    return tilted("", tmp_path_factory.mktemp("silent"))


def bright(pixels: Pixels) -> np.ndarray:
    return np.asarray(pixels.min(-1) > 215)


def test_the_study_is_drawn(plain: Pixels) -> None:
    """Grey tissue, the cube, and black around; not one colour. No mask, no marker: none of their colours."""
    view = plain[HEAD:, :628]
    assert len(np.unique(view[..., 0])) > 20
    assert 0.02 < bright(view).mean() < 0.3
    assert near(view, GLAND).sum() == near(view, MARKED).sum() == 0


def test_the_patients_left_is_on_the_right_and_mm_are_equal(plain: Pixels) -> None:
    """The cube is right and above of the middle of the axial plane, and as high as wide; square in every plane."""
    axial = bright(plain[HEAD:, AXIAL])
    axial[:, 355:] = False  # the letter L
    axial[:, :30] = False
    top, bottom, left, right = bounds(axial & _filled(axial))
    assert (left + right) / 2 > 1.2 * 388 / 2
    assert (top + bottom) / 2 < 0.8 * (460 - HEAD) / 2
    assert abs((right - left) - (bottom - top)) <= 3
    wide = (right - left + 1) / CUBE_MM  # pixels per mm: 96 mm fill the tile
    assert wide == pytest.approx(388 / 96, rel=0.06)
    for plane in (plain[HEAD:185, PLANES], plain[187:308, PLANES]):
        found = _filled(bright(plane))
        top, bottom, left, right = bounds(found)
        assert abs((right - left) - (bottom - top)) <= 4
    sagittal, coronal = _filled(bright(plain[HEAD:185, PLANES])), _filled(bright(plain[187:308, PLANES]))
    assert sum(bounds(sagittal)[2:]) / 2 < 234 / 2  # anterior is on the left
    assert sum(bounds(coronal)[2:]) / 2 > 234 / 2  # the patient's left is on the right


def _filled(found: np.ndarray) -> np.ndarray:
    """Pixels with bright ones all around: the cube without thin letters."""
    from scipy.ndimage import binary_opening

    return np.asarray(binary_opening(found, np.ones((9, 9))))


def test_the_mask_and_the_marker_are_where_they_should_be(plain: Pixels, silent: Pixels) -> None:
    """The circle is around the middle of the outlined cube, in a tilted stack too; both colours are absent without."""
    for part in (silent[HEAD:, AXIAL], silent[HEAD:185, PLANES], silent[187:308, PLANES]):
        outline, ring = near(part, GLAND), near(part, MARKED)
        assert outline.sum() > 100 and ring.sum() > 100
        top, bottom, left, right = bounds(outline)
        up, down, west, east = bounds(ring)
        assert abs((right - left) - (bottom - top)) <= 4
        assert (up + down) / 2 == pytest.approx((top + bottom) / 2, abs=3)
        assert (west + east) / 2 == pytest.approx((left + right) / 2, abs=3)
        assert (east - west) / (right - left) == pytest.approx(16 / CUBE_MM, abs=0.1)
    assert near(plain[HEAD:, AXIAL], GLAND).sum() == 0


def test_the_words_beside_a_marker_are_drawn(silent: Pixels, tmp_path: Path) -> None:
    """More of the marker's colour in the axial plane than the same page without words shows."""
    spoken = tilted("row 1: PZ", tmp_path)
    assert near(spoken[HEAD:, AXIAL], MARKED).sum() > near(silent[HEAD:, AXIAL], MARKED).sum() + 80


PRESSED = """
(async () => {
  const report = {}, drawn = document.getElementById("drawn");
  const ink = () => { const data = drawn.getContext("2d").getImageData(0, 0, drawn.width, drawn.height).data;
    let sum = 0; for (let i = 3; i < data.length; i += 4) sum += data[i] > 0; return sum; };
  const press = (key) => window.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const where = () => document.getElementById("where").textContent;
  const note = (name, value) => { document.body.dataset[name] = value; };
  while (document.body.dataset.state !== "drawn") await new Promise((go) => setTimeout(go, 20));
  ink(); ink(); press("m"); press("m"); // a canvas that is read is drawn without the graphics card from then on
  note("start", where()); note("inkStart", ink());
  press("m"); note("inkNoMarkers", ink()); press("m");
  press("o"); note("inkNoOutlines", ink()); press("o"); note("inkAgain", ink());
  press("2"); note("second", where());
  press("ArrowUp"); note("up", where());
  press("+"); note("inkZoomed", ink()); press("0"); press("1"); note("inkBack", ink());
  const scene = document.getElementById("scene"), box = scene.getBoundingClientRect();
  const place = { bubbles: true, cancelable: true, clientX: box.left + 110, clientY: box.top + 60 };
  scene.dispatchEvent(new MouseEvent("mousedown", place));
  scene.dispatchEvent(new MouseEvent("mouseup", place));
  await new Promise((go) => setTimeout(go, 50)); note("clicked", where());
  scene.dispatchEvent(new WheelEvent("wheel", { ...place, deltaY: 100 }));
  await new Promise((go) => setTimeout(go, 50)); note("wheeled", where());
  press("v"); note("inkAxial", ink()); note("requests", performance.getEntriesByType("resource").length);
})();
"""


def test_the_keys_do_what_the_help_says(tmp_path: Path) -> None:
    """Markers and outlines off and on, to the second marker, a slice up, zoom and back, click, wheel; no request."""
    volume, cube = cube_study()
    x, y, z = cube_centre(cube)
    html = study_page(volume, {"gland": cube}, [Marker((x, y, z), "a"), Marker((x - 30, y + 20, z - 12), "b")])
    page = tmp_path / "keys.html"
    page.write_text(with_script(html, PRESSED))
    done = browse(page, tmp_path, "--dump-dom")
    found = dict(_data(done.stdout))
    assert [line for line in complaints(done.stderr) if "getImageData" not in line] == []  # the test's own reading
    assert found["state"] == "drawn"
    assert found["start"].startswith(f"LPS {x:.1f}, {y:.1f}, {z:.1f} mm")
    ink = {name: int(text) for name, text in found.items() if name.startswith("ink")}
    assert ink["ink-no-markers"] < ink["ink-start"] == ink["ink-again"] > ink["ink-no-outlines"]
    assert found["second"].startswith(f"LPS {x - 30:.1f}, {y + 20:.1f}, {z - 12:.1f} mm")
    assert found["up"].startswith(f"LPS {x - 30:.1f}, {y + 20:.1f},") and f" {z - 12:.1f} mm" not in found["up"]
    assert ink["ink-zoomed"] != ink["ink-start"] == ink["ink-back"]
    clicked, wheeled = (_mm(found[name]) for name in ("clicked", "wheeled"))
    assert clicked[0] < 9 and clicked[2] == pytest.approx(z, abs=2)  # left of the middle: the patient's right
    assert abs(wheeled[2] - clicked[2]) > 1 and wheeled[:2] == pytest.approx(clicked[:2], abs=1)
    assert ink["ink-axial"] != ink["ink-start"]
    assert found["requests"] == "0"


def _mm(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?[0-9.]+", text)[:3]]


def _data(dom: str) -> list[tuple[str, str]]:
    body = re.search(r"<body[^>]*>", dom)
    assert body is not None
    return re.findall(r'data-([a-z-]+)="([^"]*)"', body[0])


def test_a_browser_without_webgl_is_told(tmp_path: Path) -> None:
    """The page says what it needs; the control: with WebGL it says nothing (above)."""
    volume, _ = cube_study()
    page = tmp_path / "bare.html"
    page.write_text(study_page(volume))
    dom = browse(page, tmp_path, "--disable-3d-apis", "--dump-dom").stdout
    assert dict(_data(dom))["state"] == "failed"
    assert "This browser offers no WebGL 2" in dom


def test_a_request_would_be_heard_of(tmp_path: Path) -> None:
    """The control of the empty logs above: the page's policy refuses a foreign picture and a foreign script, aloud."""
    volume, _ = cube_study()
    page = tmp_path / "intruded.html"
    intruders = '<img src="https://a.example/b.png"><script>fetch("https://a.example/c")</script>'
    page.write_text(study_page(volume).replace("</aside>", intruders + "</aside>"))
    said = [line for line in complaints(browse(page, tmp_path, "--dump-dom").stderr) if "Content Security" in line]
    assert any("b.png" in line for line in said) and any("script" in line for line in said)


def test_an_allowed_script_cannot_fetch_either(tmp_path: Path) -> None:
    """Code inside the page, such as the library, is refused every connection by the policy."""
    volume, _ = cube_study()
    page = tmp_path / "fetching.html"
    page.write_text(with_script(study_page(volume), 'fetch("https://a.example/c").catch(() => {});'))
    said = complaints(browse(page, tmp_path, "--dump-dom").stderr)
    assert any("Content Security Policy" in line and "a.example" in line for line in said)
