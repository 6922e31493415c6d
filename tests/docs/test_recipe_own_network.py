"""docs/recipes/own-network.md, run on volumes of another organ: an unknown network is pretrained and given back."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from recipe_pages import RECIPES, Ran, RecipePage, command, smaller, working_in
from torch import nn

from prostate_mim import PreMIM
from prostate_mim.errors import NotFoundError, UsageError
from prostate_mim.masked import MaskContext, masked_twin
from prostate_mim.nets import ARCHITECTURES
from prostate_mim.nets.registering import check_encoder
from prostate_mim.volume import Geometry, Volume, write_volume

# What is smaller than in own-network.toml, so that it takes seconds on a CPU; nothing else differs.
SMALLER_CONFIG = {
    "region_zyx = [32, 96, 96]": "region_zyx = [24, 64, 64]", "jitter_zyx = [4, 24, 24]": "jitter_zyx = [4, 8, 8]",
    "size_zyx = [24, 64, 64]": "size_zyx = [16, 32, 32]", "steps = 5000": "steps = 6", "batch = 16": "batch = 4",
    "warmup = 250": "warmup = 1", "workers = 2": "workers = 0", "health_every = 250": "health_every = 3",
    "studies = 8": "studies = 2\nwindows = 2",
}  # fmt: skip
SMALLER_PAGE = {"--steps 50": "--steps 2"}

Made = tuple[RecipePage, dict[str, Ran]]


def write_organs(folder: Path, count: int = 6) -> None:
    """Volumes of two ellipsoids in noise, axial, 2.5 x 1.2 x 1.2 mm: nothing of a prostate."""
    z, y, x = (np.arange(size) - size / 2 for size in (24, 56, 56))
    for number in range(count):
        rng = np.random.default_rng(number)
        voxels = rng.normal(100, 10, (24, 56, 56))
        for side in (-1, 1):
            away = (z[:, None, None] / 8) ** 2 + (y[:, None] / 12) ** 2 + ((x - side * 12) / 7) ** 2
            voxels += np.where(away < 1, rng.uniform(150, 250), 0)
        place = folder / f"patient{number}"
        place.mkdir(parents=True)
        volume = Volume(voxels.astype(np.int16), Geometry((2.5, 1.2, 1.2), (-33.0, -33.0, -30.0)))
        write_volume(volume, place / "scan.nii.gz")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """The page, run; what became of its lines, by their first words."""
    folder, known = tmp_path_factory.mktemp("organ"), dict(ARCHITECTURES)
    write_organs(folder / "organ")
    shutil.copy(RECIPES / "own_network.py", folder)
    smaller(RECIPES / "own-network.toml", folder / "own-network.toml", SMALLER_CONFIG)
    shown = {"from prostate_mim import register_encoder": "it is in the script, word for word (tested below)"}
    page = RecipePage("own-network", folder, SMALLER_PAGE, left_out=shown)
    try:
        yield page, {" ".join(one.text.split()[:3]): one for one in page.run() if "runs/try" not in one.text}
    finally:
        ARCHITECTURES.clear()
        ARCHITECTURES.update(known)


def test_the_run_says_what_it_hides(made: Made) -> None:
    """The line on blocks is the page's, but for the smaller crop; the report has pictures and no panel of glands."""
    page, ran = made
    said = ran["python own_network.py pretrain"].err
    (on_page,) = re.findall(r"`(block 16x8x8 mm asked, .* = 8x8x8 voxels), 3x8x8 blocks`", page.text)
    assert f"{on_page}, 2x4x4 blocks" in said
    report = (page.folder / "runs/organ/report.html").read_text()
    assert "Error on hidden tissue" in report and "interpolation" in report
    assert "gland probe" not in report
    (verdict,) = re.findall(r"^hidden tissue: (error .*)$", ran["python own_network.py pretrain"].out, re.M)
    assert f"Hidden tissue: {verdict}." in report
    assert "interpolation&#x27;s error there, mean corrected" in report
    lines = [json.loads(line) for line in (page.folder / "runs/organ/metrics.jsonl").read_text().splitlines()]
    assert {"health/error", "health/rank", "health/interpolation"} <= {key for line in lines for key in line}
    untrained = next(line for line in lines if "health/error" in line)
    assert untrained["health/block_mean"] < untrained["health/error"] < untrained["health/interpolation"]  # no pass


def test_the_store_was_prepared_by_the_configuration(made: Made) -> None:
    """Pretraining found every study in it."""
    page, ran = made
    assert ran["prostate-mim data prepare"].out.splitlines()[:2] == ["made: 6", "reused: 0"]
    with (page.folder / "store/report.csv").open(newline="") as stream:
        assert [row["status"] for row in csv.DictReader(stream)] == ["reused"] * 6


def test_weights_are_back_in_the_users_network(made: Made) -> None:
    """All of them, moved by training; the head, which has no part in it, is a fresh one. The network computes."""
    page, _ = made
    network, fresh = page.names["network"], page.names["OrganNet"]()
    assert set(page.names["weights"]) == {f"network.{name}" for name in fresh.state_dict()}
    logits = network(torch.randn(2, 1, 8, 16, 16))
    assert logits.shape == (2, 2) and logits.isfinite().all()
    norm = network.middle[1]
    assert not torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean))
    assert not torch.equal(norm.weight, torch.ones_like(norm.weight))  # as it begins
    assert network.head.weight.abs().max() <= 1 / 8  # torch's first draw: nothing has trained it


def test_hidden_voxels_reach_nothing_of_it(made: Made) -> None:
    """The converter's promise, for this network: NaN in hidden blocks changes no feature; in visible ones it shows."""
    page, _ = made
    with working_in(page.folder):
        from own_network import OrganEncoder
    twin = masked_twin(OrganEncoder()).eval()
    hidden = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    hidden[0, 0, 1, 0] = True
    voxels = torch.randn(1, 1, 16, 16, 16)
    spoilt, control = voxels.clone(), voxels.clone()
    spoilt[0, 0, :8, 8:, :8] = torch.nan
    control[0, 0, 8:, 8:, :8] += 1

    def deepest(given: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return twin(MaskContext(hidden, (8, 8, 8), (16, 16, 16)).hide(given, path="rows"))[-1].dense()

    assert torch.equal(deepest(voxels), deepest(spoilt))
    assert not torch.equal(deepest(voxels), deepest(control))


def test_what_cannot_be_masked_is_refused_by_name(made: Made) -> None:
    """As the page says: name and type."""
    network = made[0].names["OrganNet"]()
    network.middle[1] = nn.LocalResponseNorm(4)
    with pytest.raises(UsageError, match=r"middle\.1: module LocalResponseNorm has no masked form"):
        masked_twin(network)


def test_the_name_is_known_where_the_module_was_imported(made: Made) -> None:
    """The page's encoder and embeddings; without the module an error that says what to import, by a command too."""
    page, _ = made
    encoder = page.names["encoder"]
    assert (encoder.architecture, encoder.name) == ("organ-net", "organ-net.mim")
    assert np.load(page.folder / "organ.npz")["embedding"].shape == (6, encoder.embedding_size)
    known = ARCHITECTURES.pop("organ-net")
    try:
        with pytest.raises(NotFoundError, match="import the module that registers it first"):
            PreMIM.from_pretrained(page.folder / "runs/organ")
        with working_in(page.folder):
            told = command("prostate-mim embed --model runs/organ --manifest organ.csv --out no.npz")
        assert (told.code, told.err.count("\n")) == (3, 1) and "'organ-net' is unknown" in told.err
    finally:
        ARCHITECTURES["organ-net"] = known


def test_the_refusal_on_the_page(made: Made) -> None:
    """Word for word, for an encoder that declares what its last resolution does not give."""
    page, _ = made
    with working_in(page.folder):
        from own_network import OrganEncoder
    narrow = type("Narrow", (OrganEncoder,), {})
    narrow.forward = lambda self, voxels, between: [
        *OrganEncoder.forward(self, voxels)[:2],
        between(2, OrganEncoder.forward(self, voxels)[2][:, :32]),
    ]
    with pytest.raises(UsageError) as caught:
        check_encoder("organ-net", narrow)
    (block,) = re.findall(r"^```text\n(architecture .*?)^```$", page.text, re.S | re.M)
    assert " ".join(block.split()) == str(caught.value)


def test_the_card_claims_no_prostate(made: Made) -> None:
    """It says what was done, and asks for the rest."""
    card = (made[0].folder / "runs/organ/release/README.md").read_text()
    says = "A 3D CNN encoder (`organ-net`), pretrained by masked image modelling on 6 studies, by prostate-mim."
    assert says in card and "which organ" in card
    assert "prostate MRI" not in card and "T2w" not in card


def test_the_page_shows_the_script(made: Made) -> None:
    """The adapter on the page is the script's, word for word; the name is unknown where the script is not imported."""
    page, _ = made
    script = (RECIPES / "own_network.py").read_text()
    (shown,) = [block for language, block in page.steps() if language == "python" and "class OrganEncoder" in block]
    for part in re.split(r"\n{3,}", shown.strip()):
        assert part.strip() in script
    asked = RecipePage("own-network", page.folder)
    assert "prostate-mim report runs/organ" in asked.text
    config = json.loads((page.folder / "runs/organ/release/config.json").read_text())
    assert config["architecture"] == "organ-net"
