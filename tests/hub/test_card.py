"""The card that a release of a user's gets: true of any organ, and of the little that a release knows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from prostate_mim.classifier import LesionClassifier
from prostate_mim.encoder import PreMIM
from prostate_mim.hub.card import make_card
from prostate_mim.spec import InputSpec

SPEC = InputSpec(spacing_mm_zyx=(2.0, 1.0, 1.0), size_zyx=(8, 32, 32))
CLAIMS = ("prostate mri", "t2w", "axial t2w")


def first_line(details: dict[str, Any], kind: str = "encoder") -> str:
    config = {
        "kind": kind, "name": "organ-net.mim", "architecture": "organ-net", "spec": SPEC.to_dict(),
        "weights_dtype": "float32", "details": details,
    }  # fmt: skip
    return make_card(config).splitlines()[2].split(". Which images it is for is not recorded.")[0]


@pytest.mark.parametrize(
    ("kind", "details", "says"),
    [
        ("encoder", {}, "A 3D CNN encoder (`organ-net`), by prostate-mim"),
        (
            "encoder", {"training": {"studies": 1200}},
            "A 3D CNN encoder (`organ-net`), pretrained by masked image modelling on 1,200 studies, by prostate-mim",
        ),
        (
            "encoder", {"training": {"studies": 6, "objective": "simclr"}},
            "A 3D CNN encoder (`organ-net`), pretrained contrastively (SimCLR) on 6 studies, by prostate-mim",
        ),
        (
            "classifier", {"training": {"studies": 6}, "finetuning": {"mode": "full"}},
            "A 3D CNN classifier of lesions (`organ-net`), its encoder pretrained by masked image modelling on 6 "
            "studies, by prostate-mim",
        ),
        (
            "classifier", {"finetuning": {"level": "study"}},
            "A 3D CNN classifier of whole studies (`organ-net`), by prostate-mim",
        ),
        ("encoder", {"training": "elsewhere"}, "A 3D CNN encoder (`organ-net`), by prostate-mim"),
        ("encoder", {"training": {"objective": "x"}}, "A 3D CNN encoder (`organ-net`), pretrained, by prostate-mim"),
    ],
)  # fmt: skip
def test_it_says_what_is_recorded(kind: str, details: dict[str, Any], says: str) -> None:
    """Kind, network, how and on how many studies it was trained, where the release knows."""
    assert first_line(details, kind) == says


def test_it_claims_no_organ_and_asks(tmp_path: Path) -> None:
    """Of an encoder and of a classifier, as they are saved: no prostate, but the input and a question."""
    encoder = PreMIM("resenc-s", SPEC, name="resenc-s.liver", details={"training": {"studies": 6}}).eval()
    for number, model in enumerate((encoder, LesionClassifier(encoder).eval())):
        folder = model.save_pretrained(tmp_path / str(number))
        card = (folder / "README.md").read_text()
        assert "says here which organ, sequence and scanners" in card
        assert "8 x 32 x 32 voxels of 2 x 1 x 1 mm (z, y, x), axial LPS" in card
        told = card.replace("prostate-mim", "").replace("prostate_mim", "").lower()
        assert not [claim for claim in CLAIMS if claim in told]


def test_the_control_finds_a_claim() -> None:
    """The check above sees what the card used to say; a name that a user gives is the user's own claim."""
    config = {
        "kind": "encoder", "name": "x", "architecture": "resenc-s", "spec": dataclasses.replace(SPEC).to_dict(),
        "weights_dtype": "float32", "details": {},
    }  # fmt: skip
    card = make_card(config, body="A 3D CNN encoder for axial T2w prostate MRI.\n").lower()
    assert [claim for claim in CLAIMS if claim in card] == list(CLAIMS)
