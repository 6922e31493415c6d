"""The pictures and tables of docs/concepts are what docs/concepts/figures.py makes now; what the pages claim is so."""

from __future__ import annotations

import importlib.util
import io
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

CONCEPTS = Path(__file__).resolve().parents[2] / "docs" / "concepts"
LARGEST_BYTES = 150_000


def load(file: str, name: str) -> ModuleType:
    """A script of docs/concepts, which is no package."""
    spec = importlib.util.spec_from_file_location(name, CONCEPTS / file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


measured = load("measured.py", "measured")  # the name by which figures.py imports it
figures = load("figures.py", "concept_figures")
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(CONCEPTS.glob("*.md"))}


def grey(png: bytes) -> npt.NDArray[np.float64]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("L"), np.float64)


def apart(one: bytes, other: bytes) -> float:
    """Mean difference of two pictures in grey levels, 255 if their sizes differ."""
    first, second = grey(one), grey(other)
    return float(np.abs(first - second).mean()) if first.shape == second.shape else 255.0


@pytest.mark.parametrize("name", figures.FIGURES)
def test_the_picture_is_drawn_so_now(name: str) -> None:
    """The committed file is small, shown by a page, and what the code draws; another version may shift a letter."""
    kept = (CONCEPTS / f"{name}.png").read_bytes()
    assert len(kept) < LARGEST_BYTES
    assert any(f"({name}.png)" in text for text in PAGES.values())
    assert apart(kept, figures.png(figures.FIGURES[name]())) < 2.0


def test_another_picture_is_noticed() -> None:
    """The control: two of the committed pictures, and one with its upper half repeated below."""
    one, other = ((CONCEPTS / f"{name}.png").read_bytes() for name in ("exact-norms", "leakage"))
    assert apart(one, other) > 2.0
    pixels = np.asarray(Image.open(io.BytesIO(one)).convert("L")).copy()
    pixels[len(pixels) // 2 :] = pixels[: len(pixels) - len(pixels) // 2]
    edited = io.BytesIO()
    Image.fromarray(pixels).save(edited, format="PNG")
    assert apart(one, edited.getvalue()) > 2.0


def test_every_table_is_measured_so_now() -> None:
    """Numbers of the pages' tables, measured again: within 0.02, so that another CPU's rounding is no failure."""
    found = {name: body for text in PAGES.values() for _, name, body, _ in figures.TABLE.findall(text)}
    assert sorted(found) == sorted(figures.TABLES)
    for name, body in found.items():
        made = figures.TABLES[name]()
        kept, now = measured.numbers(body), measured.numbers(made)
        assert len(kept) == len(now) > 5, name
        assert np.abs(np.subtract(kept, now)).max() <= 0.02, name
        assert [re.sub(r"[\d.]+", "", line) for line in body.splitlines()] == [
            re.sub(r"[\d.]+", "", line) for line in made.splitlines()
        ], name


def test_hidden_voxels_change_nothing() -> None:
    """What hidden-and-visible.md says of NaN, for the bundled encoder."""
    assert measured.unchanged_by_hidden_voxels() == 0.0


def test_norms_over_all_positions_scale_up() -> None:
    """What exact-norms.md says: exact norms keep a deviation of 1, others about 1 / sqrt(visible share)."""
    for ratio in measured.RATIOS:
        assert measured.first_norm_deviation(ratio, dense=False) == pytest.approx(1, abs=0.02)
        assert measured.first_norm_deviation(ratio, dense=True) == pytest.approx((1 - ratio) ** -0.5, rel=0.15)


def test_copies_flatter_and_joining_undoes_it() -> None:
    """What leakage.md says: honest intervals hold 0.5, that with copies lies above it."""
    honest, rows, copies, joined = measured.leaks().values()
    for found in (honest, rows, joined):
        assert found.low < 0.5 < found.high
    assert copies.low > 0.6
