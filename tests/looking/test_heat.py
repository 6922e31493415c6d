"""A saliency map over a study: its grid and colours in the page, what is refused, and what a browser shows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from looking_parts import (
    browse,
    complaints,
    cube_centre,
    cube_study,
    needs_browser,
    screenshot,
    with_script,
)
from test_page import as_image, blocks, values

from prostate_mim.errors import VolumeError
from prostate_mim.looking import Heat, study_page
from prostate_mim.looking.heat import COLOURS, heat_on, read_heat
from prostate_mim.volume import Geometry, Volume, write_volume


def warm_cube(value: float = 0.5) -> tuple[Volume, Volume]:
    """The study, and a map that is warm in the cube of it."""
    volume, cube = cube_study(value=100)
    return volume, Volume((cube.voxels * value).astype(np.float32), cube.geometry, "saliency")


def test_the_map_is_in_the_page() -> None:
    """On the image's grid, its maximum 1; words as text; colours that fade out towards 0. Without a map: none of it."""
    volume, heat = warm_cube()
    words = "<b>Grad-CAM</b>"
    html = study_page(volume, heat=Heat(heat, words))
    shown = np.asarray(as_image(blocks(html)["saliency"]).dataobj).T
    assert np.array_equal(shown, (heat.voxels > 0).astype(np.float32))
    given = values(html)["saliency"]
    assert given["words"] == words and words not in html
    assert tuple(given["colours"]) == COLOURS
    for nodes in given["colours"].values():
        assert nodes["A"][0] == 0 and nodes["A"][-1] == 255 and nodes["I"] == sorted(nodes["I"])
        assert nodes["I"][::16] == [0, 255]
    assert 'id="saliency-part"' in html and "<dt>S</dt>" in html
    plain = study_page(volume)
    assert values(plain)["saliency"] is None and "saliency" not in blocks(plain)
    assert 'id="saliency-part"' not in plain and "<dt>S</dt>" not in plain


def test_a_map_on_another_grid_lands_by_position() -> None:
    """Half the spacing, another origin: the same cube; its borders are linear, so half of it lies at them."""
    volume, heat = warm_cube()
    start = heat.geometry.index_to_position((10.75, 15.75, 59.75))
    x, y, z = (float(v) for v in start)
    fine = Volume(np.ones((16, 48, 48), np.float32), Geometry((1.5, 0.5, 0.5), (x, y, z)))
    assert np.array_equal(heat_on(Heat(fine), volume).voxels > 0, heat.voxels > 0)


def test_refusals(tmp_path: Path) -> None:
    """Negative values, elsewhere, an array of another shape. An empty map is none of these."""
    volume, heat = warm_cube()
    for wrong, words in (
        (Volume(heat.voxels - 0.1, heat.geometry), "none below 0"),
        (Volume(heat.voxels, Geometry((3.0, 1.0, 1.0), (500.0, 0.0, 0.0))), "nothing of the map lies within"),
    ):
        with pytest.raises(VolumeError, match=words):
            study_page(volume, heat=Heat(wrong))
        write_volume(wrong, tmp_path / "PAT0815.mha")
        with pytest.raises(VolumeError, match=words):
            read_heat(tmp_path / "PAT0815.mha", volume)
    np.save(tmp_path / "map.npy", heat.voxels[1:])
    with pytest.raises(VolumeError, match="need one shape"):
        read_heat(tmp_path / "map.npy", volume, (3.0, 1.0, 1.0))
    empty = Volume(np.zeros_like(heat.voxels), heat.geometry)
    write_volume(empty, tmp_path / "empty.mha")
    assert not heat_on(read_heat(tmp_path / "empty.mha", volume), volume).voxels.any()


@needs_browser
def test_a_browser_draws_it_where_it_is(tmp_path: Path) -> None:
    """Colour over the cube, grey elsewhere, in the axial plane; nothing is asked of the network."""
    volume, heat = warm_cube(1.0)
    html = study_page(volume, focus_mm_lps=cube_centre(heat), heat=Heat(heat, "gradcam; probability 0.73"))
    pixels, said = screenshot(html, tmp_path, "warm")
    assert said == []
    axial = pixels[44:, :388]
    yellow = (axial[..., 0] - axial[..., 2] > 40) & (axial[..., 0] > 120)  # inferno ends in a pale yellow
    y, x = np.nonzero(yellow)
    top, bottom, left, right = (float(v) for v in (y.min(), y.max(), x.min(), x.max()))
    assert (left + right) / 2 > 1.2 * 388 / 2 and (top + bottom) / 2 < 0.8 * (460 - 44) / 2
    assert right - left == pytest.approx(24 * 388 / 96, rel=0.1)  # 24 mm of the 96 mm that fill the tile
    assert yellow[int(top) : int(bottom), int(left) : int(right)].mean() > 0.9
    plain, _ = screenshot(study_page(volume, focus_mm_lps=cube_centre(heat)), tmp_path, "plain")
    cold = plain[44:, :388]
    assert not ((cold[..., 0] - cold[..., 2] > 40) & (cold[..., 0] > 120)).any()  # the control


MOVED = """
(async () => {
  const note = (name, value) => { document.body.dataset[name] = value; };
  while (document.body.dataset.state !== "drawn") await new Promise((go) => setTimeout(go, 20));
  const scene = document.getElementById("scene"), find = (id) => document.getElementById(id);
  const box = scene.getBoundingClientRect();
  const colour = async () => {
    find("opacity").dispatchEvent(new Event("input")); // draws
    const copy = document.createElement("canvas");
    [copy.width, copy.height] = [scene.width, scene.height];
    const pen = copy.getContext("2d", { willReadFrequently: true });
    pen.drawImage(scene, 0, 0);
    const [x, y] = [.47 * scene.width, .31 * scene.height].map(Math.round);
    return Array.from(pen.getImageData(x, y, 1, 1).data.slice(0, 3));
  };
  const set = (id, value) => { find(id).value = value; find(id).dispatchEvent(new Event("input")); };
  const press = (key) => window.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  note("first", await colour());
  set("opacity", "0"); note("clear", await colour());
  set("opacity", "1"); note("full", await colour());
  set("colours", "viridis"); note("viridis", await colour());
  press("s"); note("off", await colour());
  press("s"); note("on", await colour());
  note("where", find("where").textContent);
  note("requests", performance.getEntriesByType("resource").length);
})();
"""


@needs_browser
def test_opacity_colours_and_key(tmp_path: Path) -> None:
    """The slider blends, the choice changes the colour, S hides and shows; the value is told; no request."""
    volume, heat = warm_cube(1.0)
    html = study_page(volume, focus_mm_lps=cube_centre(heat), heat=Heat(heat))
    page = tmp_path / "moved.html"
    page.write_text(with_script(html, MOVED))
    done = browse(page, tmp_path, "--dump-dom")
    body = re.search(r"<body[^>]*>", done.stdout)
    assert body is not None
    found = dict(re.findall(r'data-([a-z-]+)="([^"]*)"', body[0]))
    assert complaints(done.stderr) == []
    names = ("first", "clear", "full", "viridis", "off", "on")
    seen = {name: np.array([int(n) for n in found[name].split(",")]) for name in names}
    assert np.ptp(seen["clear"]) == 0 and np.array_equal(seen["off"], seen["clear"])
    assert seen["full"] == pytest.approx([252, 255, 164], abs=20)  # the last of inferno
    assert seen["viridis"] == pytest.approx([253, 231, 37], abs=20)
    assert np.array_equal(seen["on"], seen["viridis"])
    assert seen["clear"][2] > seen["first"][2] + 20 > seen["full"][2] + 40  # ever less blue under a pale yellow
    assert found["where"].endswith("saliency 1.00") and found["requests"] == "0"
