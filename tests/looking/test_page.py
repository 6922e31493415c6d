"""The page of a study without a browser: what is in it, what is not, and what is refused."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from looking_parts import Planted, cube_centre, cube_study

import prostate_mim.looking
from prostate_mim.errors import UsageError, VolumeError
from prostate_mim.looking import Marker, open_looked, study_page
from prostate_mim.looking.embedding import affine_ras, grey_window, overlays, packed
from prostate_mim.volume import Geometry, Volume

NIIVUE = Path(prostate_mim.looking.__file__).parent / "niivue"


class Loads(HTMLParser):
    """Everything in a page that would make a browser load or leave."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        loading = {"src", "href", "srcset", "data", "action", "poster", "background", "formaction", "srcdoc"}
        self.found += [f"{tag} {name}" for name, _ in attrs if name in loading or name.startswith("on")]
        self.found += [tag] if tag in {"link", "base", "iframe", "object", "embed", "form"} else []


def blocks(html: str) -> dict[str, bytes]:
    """What is embedded, unpacked."""
    found = re.findall(r'<script type="text/plain" id="([a-z0-9-]+)">([^<]*)</script>', html)
    return {name: gzip.decompress(base64.b64decode(text)) for name, text in found}


def values(html: str) -> Any:
    match = re.search(r'<script type="application/json" id="study">(.*?)</script>', html, re.DOTALL)
    assert match
    return json.loads(match[1])


def as_image(data: bytes) -> Any:
    return nibabel.Nifti1Image.from_bytes(data)


def test_the_library_is_the_one_that_is_named() -> None:
    """SOURCE gives the hash of the file; the control: another byte has another hash."""
    source = dict(line.split(": ", 1) for line in (NIIVUE / "SOURCE").read_text().splitlines())
    data = (NIIVUE / source["file"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == source["sha256"]
    assert hashlib.sha256(data + b" ").hexdigest() != source["sha256"]
    assert (source["package"], source["version"]) == ("@niivue/niivue (npm)", "0.69.0")
    licence = (NIIVUE / "LICENSE").read_text()
    assert "BSD 2-Clause" in licence and "Niivue" in licence
    assert b"</script" not in data.lower() and b"<!--" not in data  # they would end the element or change its parsing
    assert b"\r" not in data  # a browser's parser would change it, and the hash of the policy would not fit


def test_the_page_loads_nothing() -> None:
    """No address in any tag; a policy that forbids every load; scripts and style are those the policy names."""
    volume, cube = cube_study()
    html = study_page(volume, {"gland": cube})
    reader = Loads()
    reader.feed(html)
    assert reader.found == []
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "http" not in policy[1] and "unsafe" not in policy[1] and "connect-src" not in policy[1]
    named = set(re.findall(r"'sha256-([^']*)'", policy[1]))
    written = [text for _, text in re.findall(r"<(script|style)>(.*?)</\1>", html, re.DOTALL)]
    assert {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in written} == named
    assert len(written) == 3


def test_a_load_is_found() -> None:
    """The control of the test above."""
    reader = Loads()
    reader.feed('<img src="https://a.example/b.png"><link rel=x><p onclick="1">')
    assert reader.found == ["img src", "link", "p onclick"]


@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint8", "float32", "float64", "int64"])
def test_embedded_voxels_are_the_volumes(dtype: str) -> None:
    """Voxel by voxel, at the same place in the patient; whole numbers beyond int16 and float64 become float32."""
    volume, _ = cube_study()
    voxels = volume.voxels.astype(dtype)
    if dtype == "uint16":
        voxels[0, 0, 0] = 65535
    image = as_image(gzip.decompress(base64.b64decode(packed(Volume(voxels, volume.geometry)))))
    assert np.array_equal(np.asarray(image.dataobj).T, voxels)
    assert image.get_data_dtype() in (np.dtype("int16"), np.dtype("uint8"), np.dtype("float32"))
    for index in ((0, 0, 0), (3, 40, 7)):
        x, y, z = volume.geometry.index_to_position(index)
        assert np.allclose(image.affine @ [*index[::-1], 1], [-x, -y, z, 1])
        assert np.allclose(np.array(affine_ras(volume)) @ [*index[::-1], 1], [-x, -y, z])


def test_nothing_that_names_a_patient_is_in_the_page(planted: Planted) -> None:
    """Header, extension, file and folder names, ids, free text in the zone column: none is in the page or unpacked."""
    raw = gzip.decompress(planted.t2w.read_bytes())
    assert all(word.encode() in raw for word in ("MUELLER", "PAT0815"))  # the control: it was there
    by_file = open_looked(study=planted.t2w, masks=[str(planted.gland)], position_mm_lps=(0.0, 0.0, 30.0))
    for looked in (by_file, open_looked(manifest=planted.manifest, row=1)):
        html = looked.page()
        everything = [html.encode(), *blocks(html).values()]
        assert len(everything) == 3
        for word in planted.words:
            assert not any(word.encode() in data for data in everything), word
        assert all(as_image(data).header.extensions == [] for data in blocks(html).values())


def test_a_row_shows_every_lesion_of_its_study(planted: Planted) -> None:
    """Row 2: its own marker stands out and is in focus; row 1 of the same study is there; row 3 is another study."""
    looked = open_looked(manifest=planted.manifest, row=2)
    found = values(looked.page())
    assert [(m["label"], m["chosen"]) for m in found["markers"]] == [
        ("row 1: PZ, label 1", False),
        ("row 2: label 0", True),
    ]
    assert found["focus"] == found["markers"][1]["mm"]
    assert [[label["name"] for label in mask["labels"]] for mask in found["masks"]] == [["gland"]]
    assert looked.title == "row 2"
    alone = values(open_looked(manifest=planted.manifest, row=3).page())
    assert (alone["markers"], alone["masks"]) == ([], [])


def test_positions_are_handed_over_as_ras(planted: Planted) -> None:
    """X and y change sign; by hand: LPS (1, 2, 3) is RAS (-1, -2, 3)."""
    volume, _ = cube_study()
    found = values(study_page(volume, markers=[Marker((1.0, 2.0, 30.0), "a")]))
    assert found["markers"][0]["mm"] == found["focus"] == [-1.0, -2.0, 30.0]


def test_words_cannot_become_markup() -> None:
    """A title, a mask name and a label with markup stay text."""
    volume, cube = cube_study()
    nasty = "</script><script>alert(1)</script>"
    html = study_page(volume, {nasty: cube}, [Marker(cube_centre(cube), nasty)], title=nasty)
    assert html.count("<script>") == study_page(volume, title="x").count("<script>") == 2
    assert values(html)["markers"][0]["label"] == nasty


def test_mask_names() -> None:
    """Labels of one file have names and colours of their own; a mask of many labels is refused."""
    volume, cube = cube_study()
    zones = Volume(cube.voxels * 2, cube.geometry)
    zones.voxels[12, 20:30, 65:70] = 7
    first, second = overlays({"zones": zones, "gland": cube}, volume)
    assert [name for name, _, _ in first.legend] == ["zones 2", "zones 7"]
    assert np.unique(first.labels.voxels).tolist() == [0, 1, 2]
    assert first.legend[1][2] == pytest.approx(50 * 3 / 1000)  # 50 voxels of 3 mm3, in ml
    assert second.legend[0][:2] == ("gland", "#F0E442")
    assert second.box == ([60, 16, 11], [83, 39, 18])
    (empty,) = overlays({"gland": Volume(np.zeros_like(cube.voxels), cube.geometry)}, volume)
    assert [name for name, _, _ in empty.legend] == ["gland (empty)"]
    many = Volume(np.arange(volume.voxels.size, dtype=np.int16).reshape(volume.shape_zyx) % 30, volume.geometry)
    with pytest.raises(VolumeError, match="labels"):
        overlays({"many": many}, volume)


def test_a_mask_on_another_grid_lands_by_position() -> None:
    """A mask of half the spacing and another origin covers the same cube."""
    volume, cube = cube_study()
    fine = Volume(
        np.ones((16, 48, 48), np.int16),
        Geometry((1.5, 0.5, 0.5), tuple(cube.geometry.index_to_position((10.75, 15.75, 59.75)))),  # type: ignore[arg-type]
    )
    (found,) = overlays({"gland": fine}, volume)
    assert np.array_equal(found.labels.voxels, cube.voxels)


def test_refusals(tmp_path: Path, planted: Planted) -> None:
    """A marker or a mask outside, a page too large, no such row, options that do not go together."""
    volume, cube = cube_study()
    far = Volume(cube.voxels, Geometry((3.0, 1.0, 1.0), (500.0, 0.0, 0.0)))
    with pytest.raises(VolumeError, match="outside the volume"):
        study_page(volume, markers=[Marker((500.0, 0.0, 0.0), "a")])
    with pytest.raises(VolumeError, match="nothing of the mask"):
        study_page(volume, {"gland": far})
    with pytest.raises(VolumeError, match=r"more than the 2 MB that a browser opens; crop"):
        study_page(volume, most_bytes=2_000_000)
    study_page(volume, most_bytes=3_000_000)  # the control: the limit is of this page's size
    np.save(tmp_path / "study.npy", volume.voxels)
    np.save(tmp_path / "mask.npy", cube.voxels[:, 1:])
    with pytest.raises(VolumeError, match="need one shape"):
        open_looked(study=tmp_path / "study.npy", masks=[str(tmp_path / "mask.npy")], spacing_mm_zyx=(3, 1, 1))
    for wrong in (
        {}, {"study": planted.t2w, "manifest": planted.manifest}, {"study": planted.t2w, "row": 1},
        {"manifest": planted.manifest, "row": 4}, {"manifest": planted.manifest, "masks": ["a.nii"]},
        {"study": planted.t2w, "masks": [f"a={planted.gland}", f"a={planted.gland}"]},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            open_looked(**wrong)  # type: ignore[arg-type]


def test_grey_window() -> None:
    """Of a wide image the middle decides, of a crop all of it; equal values still give a window."""
    voxels = np.full((2, 100, 100), 1000, np.int16)
    voxels[:, 25:75, 25:75] = np.linspace(0, 100, 2500).reshape(50, 50).round().astype(np.int16)
    wide = Volume(voxels, Geometry((3.0, 2.0, 2.0)))
    assert grey_window(wide) == pytest.approx((1, 98), abs=0.5)
    assert grey_window(Volume(voxels, Geometry((3.0, 0.3, 0.3))))[1] == 1000
    flat = np.zeros((2, 100, 100), np.int16)
    flat[0, 0, 0] = 9
    assert grey_window(Volume(flat, wide.geometry)) == (0, 9)  # its percentiles are equal
