"""The main paths in CONTRIBUTING.md are those that real calls take: a hop too many, or in another file, is found.

A hop is a call into another part of the package, or the first one; what a part calls of its own is no hop.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import pytest
from package_source import PACKAGE
from test_imports import part_of

import prostate_mim
from prostate_mim import InputSpec, PreMIM, PretrainConfig, pretrain, read_volume
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.hub.weights import load_strictly
from prostate_mim.mim.losses import Loss
from prostate_mim.phantom import write_cohort

MOST_HOPS = 4
NAME = "resenc-s.mim-t2w"
ROOT = PACKAGE.parent


@dataclass(frozen=True)
class Hop:
    """A function by its qualified name, and its file within the package."""

    function: str
    file: str


def calls_to(target: Callable[..., object], run: Callable[[], object]) -> list[Hop]:
    """Run something: the package's own calls that lead to the first call of ``target``, outermost first."""
    found: list[Hop] = []

    def look(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is target.__code__ and not found:  # type: ignore[attr-defined]
            found.extend(_outermost_first(frame))

    sys.setprofile(look)
    try:
        run()
    finally:
        sys.setprofile(None)
    assert found, f"{target.__qualname__} was not called"
    return found


def _outermost_first(frame: FrameType | None) -> list[Hop]:
    hops: list[Hop] = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            hops.insert(0, Hop(frame.f_code.co_qualname, path.relative_to(PACKAGE).as_posix()))
        frame = frame.f_back
    return hops


def between_parts(calls: Sequence[Hop]) -> list[Hop]:
    """Of calls, outermost first, those that enter another part than the one they come from."""
    parts = ["", *(part_of(hop.file) for hop in calls)]
    return [hop for hop, before in zip(calls, parts, strict=False) if part_of(hop.file) != before]


def written(heading: str) -> list[Hop]:
    """The hops that CONTRIBUTING.md has below a heading of the table of main paths, in order."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (table,) = re.findall(rf"^\| \*\*{re.escape(heading)}\*\*[^\n]*\n((?:\| \d[^\n]*\n)+)", page, re.MULTILINE)
    return [Hop(function, file) for function, file in re.findall(r"^\| \d \| `([^`]+)` \| `([^`]+)` \|", table, re.M)]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two studies."""
    return write_cohort(tmp_path_factory.mktemp("phantoms"), 2, seed=1).parent


def test_from_the_readme_to_the_encoders_forward(phantoms: Path) -> None:
    """A name to weights, then a volume to features: two calls of the user's, four hops in all."""
    made: list[PreMIM] = []
    loading = calls_to(load_strictly, lambda: made.append(PreMIM.from_pretrained(NAME)))
    volume = read_volume(next(phantoms.rglob("*t2w*.nii.gz")))
    running = calls_to(type(made[0].encoder).forward, lambda: made[0](made[0].prepare(volume)))
    hops = between_parts(loading) + between_parts(running)
    assert hops == written("README → `PreMIM.from_pretrained` → forward")
    assert len(hops) <= MOST_HOPS


def test_from_the_readme_to_the_loss(phantoms: Path, tmp_path: Path) -> None:
    """One real step of pretraining, on phantoms."""
    size, loop = (8, 32, 32), LoopConfig(steps=1, batch=2, warmup=1, device="cpu", trackers=())
    config = PretrainConfig(
        spec=InputSpec(size_zyx=size), region_zyx=size, jitter_zyx=(0, 0, 0), loop=loop, name="resenc-s.test"
    )
    calls = calls_to(Loss.__call__, lambda: pretrain(phantoms / "studies.csv", tmp_path / "run", config))
    hops = between_parts(calls)
    assert hops == written("README → `pretrain` → loss")
    assert len(hops) <= MOST_HOPS


@pytest.mark.parametrize("heading", ["README → `PreMIM.from_pretrained` → forward", "README → `pretrain` → loss"])
def test_the_first_hop_is_in_the_readme(heading: str) -> None:
    """And public: what one reads there is what one finds."""
    name = written(heading)[0].function
    assert name.partition(".")[0] in prostate_mim.__all__
    assert re.search(rf"\b{re.escape(name)}\b", (ROOT / "README.md").read_text(encoding="utf-8"))


def test_hops_by_hand() -> None:
    """The control: calls within a part are no hop, coming back to one is, and a detour makes one path too long."""
    begin, helper, loop, back = Hop("f", "a/x.py"), Hop("g", "a/y.py"), Hop("h", "b.py"), Hop("k", "a/z.py")
    assert between_parts([begin, helper, loop, back]) == [begin, loop, back]
    assert len(between_parts([begin, loop, back, loop, back])) > MOST_HOPS
    with pytest.raises(AssertionError, match=r"Loss.__call__ was not called"):
        calls_to(Loss.__call__, lambda: None)


def test_a_detour_is_found(phantoms: Path) -> None:
    """The control with real calls: ``embed`` reaches the network with a hop of its own where another part calls it."""
    from prostate_mim.create import create_model

    model = create_model(NAME, num_classes=0)
    batch = model.encoder.prepare(read_volume(next(phantoms.rglob("*t2w*.nii.gz"))))
    hops = between_parts(calls_to(type(model.encoder.encoder).forward, lambda: model(batch)))
    assert [hop.file for hop in hops] == ["create.py", "encoder.py", "nets/encoder.py"]
