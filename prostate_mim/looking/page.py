"""One study as one page: the viewer (NiiVue), the voxels, the masks and the markers in it, nothing loaded."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prostate_mim.errors import VolumeError
from prostate_mim.looking.embedding import Overlay, affine_ras, grey_window, overlays, packed
from prostate_mim.looking.heat import Heat, heat_on, heat_values
from prostate_mim.manifest import Point
from prostate_mim.preprocess import check_inside
from prostate_mim.volume import Volume

FOLDER = Path(__file__).parent
LIBRARY = FOLDER / "niivue" / "niivue.umd.js"
MOST_BYTES = 200_000_000
_FILL = 0.1  # opacity of a mask's inside
_KEYS = (
    ("wheel", "slices of the plane under the pointer"),
    ("↑ ↓", "next, previous axial slice"),
    ("click, drag", "move the crosshair"),
    ("right drag", "grey window"),
    ("W", "first grey window again"),
    ("shift drag", "move the picture"),
    ("ctrl drag", "measure, mm"),
    ("+ − 0", "zoom in, out, whole image"),
    ("V", "all views, one after the other"),
    ("1 … 9", "go to a marker"),
    ("O, M", "outlines, markers"),
    ("I", "smooth or real voxels"),
)
_KEYS_OF_A_MAP = (("S", "saliency map"),)
_MAP = (
    '<section id="saliency-part"><h2>Saliency</h2><p id="saliency-words"></p>'
    '<canvas id="ramp" width="240" height="12"></canvas>'
    '<div class="ends quiet"><span>0</span><span>1, the map\'s maximum</span></div>'
    '<label>opacity <input id="opacity" type="range" min="0" max="1" step="0.02"></label>'
    '<label>hidden below <input id="low" type="range" min="0" max="0.9" step="0.02"></label>'
    '<label>colours <select id="colours"></select></label></section>'
)


@dataclass(frozen=True)
class Marker:
    """A place in a study with words beside it.

    Attributes:
        position_mm_lps: (x, y, z) in mm.
        label: what is written there; never an identifier.
        chosen: it is the one that was asked for, and stands out.
    """

    position_mm_lps: Point
    label: str
    chosen: bool = False


def study_page(
    volume: Volume,
    masks: Mapping[str, Volume] | None = None,
    markers: Sequence[Marker] = (),
    title: str = "study",
    *,
    focus_mm_lps: Point | None = None,
    heat: Heat | None = None,
    most_bytes: int = MOST_BYTES,
) -> str:
    """An HTML page that shows a study in three planes and in space, with masks and markers; works without a network.

    Sources of the volumes are not written into it, only their voxels and geometry.

    Args:
        volume: the T2w series.
        masks: by the name the legend shows; labels above 0, on any grid.
        markers: places with labels, such as lesions.
        title: heading of the page; never a path or an identifier.
        focus_mm_lps: (x, y, z) where the crosshair stands; the chosen or first marker, else the middle, if None.
        heat: a saliency map, drawn in colours over the image.
        most_bytes: a longer page is refused.

    Raises:
        VolumeError: a mask or the map lies outside the volume, a mask has too many labels, a marker or the focus lies
            outside, or the page would be too long.
    """
    shown = overlays(masks or {}, volume)
    _check_places(volume, markers, focus_mm_lps)
    blocks = {"volume": packed(volume)} | {f"mask-{n}": packed(one.labels) for n, one in enumerate(shown)}
    if heat is not None:
        blocks["saliency"] = packed(heat_on(heat, volume))
    length = sum(map(len, blocks.values())) + LIBRARY.stat().st_size
    if length > most_bytes:
        raise VolumeError(
            f"{volume.source}: the page would have {length / 1e6:.0f} MB, more than the {most_bytes / 1e6:.0f} MB "
            "that a browser opens; crop the volume first"
        )
    values = _values(volume, shown, markers, focus_mm_lps)
    values["saliency"] = None if heat is None else heat_values(heat)
    return _page(title, _facts(volume), values, blocks)


def _check_places(volume: Volume, markers: Sequence[Marker], focus: Point | None) -> None:
    for place in [*(marker.position_mm_lps for marker in markers), *([focus] if focus else [])]:
        check_inside(volume, place)


def _values(volume: Volume, shown: Sequence[Overlay], markers: Sequence[Marker], focus: Point | None) -> dict[str, Any]:
    """What the page's script reads; positions are RAS, as the viewer wants them, sizes (x, y, z)."""
    first = next((marker for marker in markers if marker.chosen), markers[0] if markers else None)
    x, y, z = (float(v) for v in volume.centre_mm_lps)
    middle = first.position_mm_lps if first else (x, y, z)
    return {
        "affine": affine_ras(volume),
        "size": list(volume.shape_zyx[::-1]),
        "spacing": list(volume.geometry.spacing_mm_zyx[::-1]),
        "window": list(grey_window(volume)),
        "fill": _FILL,
        "focus": _ras(focus or middle),
        "masks": [
            {"box": one.box, "labels": [{"name": n, "colour": c, "ml": ml} for n, c, ml in one.legend]}
            for one in shown
        ],
        "markers": [
            {"mm": _ras(marker.position_mm_lps), "label": marker.label, "chosen": marker.chosen} for marker in markers
        ],
    }  # fmt: skip


def _ras(position_mm_lps: Point) -> list[float]:
    x, y, z = position_mm_lps
    return [-x, -y, z]


def _facts(volume: Volume) -> str:
    size = " × ".join(str(n) for n in volume.shape_zyx[::-1])
    spacing = " × ".join(f"{s:.2f}" for s in volume.geometry.spacing_mm_zyx[::-1])
    return f"{size} voxels of {spacing} mm"


def _page(title: str, facts: str, values: dict[str, Any], blocks: Mapping[str, str]) -> str:
    """The file. Its policy lets a browser run the two scripts in it, and load nothing from anywhere."""
    style = (FOLDER / "viewer.css").read_text(encoding="utf-8")
    scripts = [LIBRARY.read_text(encoding="utf-8"), (FOLDER / "viewer.js").read_text(encoding="utf-8")]
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts))}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    # "</" inside a script would end it; in JSON the escape means the same.
    data = json.dumps(values, separators=(",", ":")).replace("<", "\\u003c")
    stored = "".join(f'<script type="text/plain" id="{name}">{text}</script>\n' for name, text in blocks.items())
    pressed = (*_KEYS, *(_KEYS_OF_A_MAP if values["saliency"] else ()))
    keys = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(what)}</dd>" for key, what in pressed)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{style}</style></head>\n<body>\n"
        f'<header><h1>{html.escape(title)}</h1><span class="quiet">{html.escape(facts)}</span>'
        '<span id="where" class="quiet"></span></header>\n'
        '<div id="view"><canvas id="scene"></canvas><canvas id="drawn"></canvas>'
        '<p id="notice" role="status">reading the voxels</p></div>\n'
        '<aside><section id="masks-part"><h2>Masks</h2><ul id="masks"></ul>'
        '<label>filling <input id="fill" type="range" min="0" max="1" step="0.02"></label></section>'
        + (_MAP if values["saliency"] else "")
        + '<section id="markers-part"><h2>Markers</h2><ul id="markers"></ul></section>'
        f"<section><h2>Mouse and keys</h2><dl>{keys}</dl></section>"
        "<footer>Patient's right is on the left. Positions are LPS. Research software, not a medical device. "
        "Drawn with NiiVue (BSD 2-Clause).</footer></aside>\n"
        f'<script type="application/json" id="study">{data}</script>\n{stored}'
        + "".join(f"<script>{script}</script>\n" for script in scripts)
        + "</body></html>\n"
    )  # fmt: skip


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
