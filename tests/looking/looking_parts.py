"""What the tests of looking share: a small study with a bright cube, a browser, and colours in pictures."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from prostate_mim.volume import Geometry, Volume

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: the page is not looked at in a browser")
Pixels = npt.NDArray[np.int_]
CUBE_MM = 24.0
PLANTED = ("MUELLER", "Hans", "19451203", "PAT0815")


@dataclass(frozen=True)
class Planted:
    manifest: Path
    t2w: Path
    gland: Path
    words: tuple[str, ...] = PLANTED


def cube_study(direction: npt.NDArray[np.float64] | None = None, value: int = 400) -> tuple[Volume, Volume]:
    """A volume of 96 x 96 x 60 mm, voxels 1 x 1 x 3 mm, with a bright cube of 24 mm; and the cube's mask.

    The cube lies to the patient's Left, Anterior and Superior of the middle; the rest is a dim ramp.
    """
    z, y, x = np.mgrid[:20, :96, :96]
    cube = (z >= 11) & (z < 19) & (y >= 16) & (y < 40) & (x >= 60) & (x < 84)
    voxels = np.where(cube, value, 20 + x // 4 + y // 4).astype(np.int16)
    geometry = Geometry((3.0, 1.0, 1.0), (-30.0, -20.0, 10.0), np.eye(3) if direction is None else direction)
    return Volume(voxels, geometry), Volume(cube.astype(np.int16), geometry)


def cube_centre(mask: Volume) -> tuple[float, float, float]:
    x, y, z = mask.geometry.index_to_position(np.argwhere(mask.voxels > 0).mean(0))
    return float(x), float(y), float(z)


def browse(page: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Headless Chromium on a local file, with WebGL drawn in software and no name that can be resolved."""
    assert BROWSER is not None
    common = (
        "--headless=new", "--no-sandbox", "--hide-scrollbars", "--enable-logging=stderr", "--v=0",
        "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--host-resolver-rules=MAP * ~NOTFOUND",
    )  # fmt: skip
    own = (f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000", "--window-size=900,460")
    return subprocess.run(
        [BROWSER, *common, *own, *flags, page.as_uri()], capture_output=True, text=True, timeout=540, check=True
    )


def complaints(text: str) -> list[str]:
    """Lines of Chromium's log that come from the page: refused by its policy, failed, or said by a script."""
    return [line for line in text.splitlines() if "CONSOLE" in line]


def screenshot(html: str, folder: Path, name: str) -> tuple[Pixels, list[str]]:
    """(height, width, 3) of the page as a browser shows it, and the complaints."""
    page, shot = folder / f"{name}.html", folder / f"{name}.png"
    page.write_text(html)
    done = browse(page, folder, f"--screenshot={shot}")
    return np.asarray(Image.open(io.BytesIO(shot.read_bytes())).convert("RGB")).astype(int), complaints(done.stderr)


def with_script(html: str, script: str) -> str:
    """A page with one more script, which its policy is made to allow."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = re.sub("script-src ", f"script-src 'sha256-{digest}' ", html, count=1)
    head, _, tail = allowed.rpartition("</body>")
    return f"{head}<script>{script}</script></body>{tail}"


def near(pixels: Pixels, colour: str, most: int = 60) -> npt.NDArray[np.bool_]:
    """Pixels of about a colour ``#rrggbb``."""
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return np.asarray(np.abs(pixels - wanted).sum(-1) < most)


def bounds(found: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the pixels that are True."""
    y, x = np.nonzero(found)
    return int(y.min()), int(y.max()), int(x.min()), int(x.max())
