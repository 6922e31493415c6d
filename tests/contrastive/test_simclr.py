"""The whole verb with the contrastive objective: it learns, goes on bit for bit, and publishes an ordinary release."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from prostate_mim.config import config_to_dict, read_config
from prostate_mim.contrastive import ContrastiveConfig, FixedViews
from prostate_mim.encoder import PreMIM
from prostate_mim.engine.augment import Augmentation
from prostate_mim.engine.runs import prepare_rows
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.errors import ProstateMimError, UsageError
from prostate_mim.health import HealthConfig
from prostate_mim.health.collapse import collapse_warnings
from prostate_mim.manifest import read_manifest
from prostate_mim.phantom import write_cohort
from prostate_mim.pretraining import PretrainConfig, make_model, pretrain
from prostate_mim.pretraining.contrast import fixed_views, make_contrastive, patients_of
from prostate_mim.pretraining.watching import score
from prostate_mim.reconstruction import load_mim
from prostate_mim.spec import InputSpec

STEPS, HALF = 16, 8
CONFIG = PretrainConfig(
    spec=InputSpec(size_zyx=(4, 32, 32)),
    region_zyx=(12, 96, 96),
    jitter_zyx=(2, 16, 16),
    objective="simclr",
    health=HealthConfig(studies=6, windows=4, cells=16, pictured=2, folds=2, centre_studies=2),
    loop=LoopConfig(
        steps=STEPS, batch=12, warmup=2, learning_rate=1e-3, health_every=HALF, checkpoint_every=HALF, keep_last=3,
        device="cpu", seed=2, trackers=(),
    ),
)  # fmt: skip


def with_loop(**changes: Any) -> PretrainConfig:
    return dataclasses.replace(CONFIG, loop=dataclasses.replace(CONFIG.loop, **changes))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six studies; their manifest, beside which is studies.csv."""
    return write_cohort(tmp_path_factory.mktemp("phantoms"), 6, seed=7).parent / "studies.csv"


@pytest.fixture(scope="module")
def run(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, of which the tests ask different things."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    pretrain(phantoms, folder, CONFIG)
    return folder


def lines(run: Path, key: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if key in line]


def test_it_learns_to_match_views(run: Path) -> None:
    """Fixed pairs that are not among the trained ones: the loss falls, matching is far above chance, no collapse."""
    first, *_, last = lines(run, "health/view_loss")
    assert (first["step"], last["step"]) == (0, STEPS)
    assert last["health/view_loss"] < first["health/view_loss"] - 0.15
    assert last["health/views_matched"] > 5 * last["health/views_chance"]
    assert last["health/uniformity"] < -0.3
    assert 0 < last["health/alignment"] < 2
    assert not any("COLLAPSE" in text for text in collapse_warnings(last, CONFIG.health))
    assert score(last) == last["health/view_loss"]
    assert len(lines(run, "loss")) == STEPS
    assert all(0 <= line["views_matched"] <= 1 and math.isfinite(line["loss"]) for line in lines(run, "loss"))


class Embedding(nn.Module):
    """What a release gives for a crop."""

    def __init__(self, release: PreMIM, wrong: bool = False) -> None:
        super().__init__()
        self.release, self.wrong = release.eval(), wrong

    @property
    def encoder(self) -> Any:
        return self.release.encoder

    @property
    def cell_zyx(self) -> tuple[int, int, int]:
        return self.release.encoder.total_stride_zyx

    def forward(self, voxels: Tensor) -> Tensor:
        found: Tensor = self.release.pool(self.release(voxels))
        return found.roll(1, 0) if self.wrong else found  # one view on: nobody's partner


@torch.no_grad()
def test_views_of_unseen_phantoms_are_told_apart(run: Path, tmp_path: Path) -> None:
    """By the released embedding alone, far above chance; mistaken partners, the control, are not found."""
    rows = prepare_rows(read_manifest(write_cohort(tmp_path, 4, seed=99).parent / "studies.csv"),
                        CONFIG.spec.with_size(CONFIG.region_zyx)).rows  # fmt: skip
    views, release = fixed_views(rows, CONFIG), PreMIM.from_pretrained(run)
    found, control = views(Embedding(release)), views(Embedding(release, wrong=True))
    assert isinstance(views, FixedViews)
    assert found["views_matched"] > 4 * found["views_chance"]
    assert control["views_matched"] < found["views_matched"] / 2


def test_the_release_is_like_any_other(run: Path) -> None:
    """It loads, says how it was made, and has no decoder, which reconstruction says."""
    encoder = PreMIM.from_pretrained(run)
    assert encoder.name == "resenc-s.simclr"
    training = encoder.details["training"]
    assert training["objective"] == "simclr"
    assert training["contrastive"]["temperature"] == 0.2
    assert training["studies"] == 6
    assert not {"method", "block_mm_zyx", "masks_per_crop", "augmentation"} & training.keys()
    assert "mim" not in encoder.details
    assert encoder.studies.pretraining is not None
    made = load_file(run / "release" / "model.safetensors")
    begun = make_contrastive(CONFIG).encoder.state_dict()
    assert made.keys() == begun.keys()
    assert not any(torch.equal(made[key], value) for key, value in begun.items() if value.ndim == 5)
    with pytest.raises(ProstateMimError):
        load_mim(run / "release")


def test_the_report_shows_views_and_no_reconstruction(run: Path) -> None:
    page = (run / "report.html").read_text()
    for text in ("Can it match views?", "Alignment", "Uniformity", "nothing to restore and no picture of it"):
        assert text in page
    assert "Can it restore hidden tissue?" not in page
    assert "The same studies over time" not in page
    assert not list((run / "health").glob("reconstruction-*"))
    assert read_config(run / "config.toml", PretrainConfig) == CONFIG


def test_it_goes_on_bit_for_bit(run: Path, phantoms: Path, tmp_path: Path) -> None:
    """From the middle: the same losses and the same weights; another seed, the control, has others."""
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(run / f"checkpoint-{HALF:08d}.safetensors", again)
    pretrain(phantoms, again, dataclasses.replace(CONFIG, health=HealthConfig(studies=1)), resume=True)
    assert [line["loss"] for line in lines(again, "loss")] == [line["loss"] for line in lines(run, "loss")[HALF:]]
    one, two = (load_file(each / "release" / "model.safetensors") for each in (run, again))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    other = tmp_path / "other"
    pretrain(phantoms, other, with_loop(seed=3, steps=1, health_every=0))
    assert lines(other, "loss")[0]["loss"] != lines(run, "loss")[0]["loss"]


def test_another_objective_is_another_run(run: Path, phantoms: Path, tmp_path: Path) -> None:
    """Resuming with another temperature, or as masked modelling, is refused by name."""
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(run / f"checkpoint-{HALF:08d}.safetensors", again)
    warmer = dataclasses.replace(CONFIG, contrastive=ContrastiveConfig(temperature=0.5))
    with pytest.raises(UsageError, match=r"contrastive\.temperature 0\.2 -> 0\.5"):
        pretrain(phantoms, again, warmer, resume=True)
    with pytest.raises(UsageError, match="objective 'simclr' -> None"):
        pretrain(phantoms, again, dataclasses.replace(CONFIG, objective="mim"), resume=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch": 2}, "even number of at least 4 views"),
        ({"batch": 5}, "even number of at least 4 views"),
        ({"accumulate": 2}, "cannot be divided"),
    ],
)
def test_refused_settings(changes: dict[str, int], said: str) -> None:
    """What would be another loss; masked modelling (the control) may have it."""
    with pytest.raises(UsageError, match=said):
        with_loop(**changes)
    loop = dataclasses.replace(CONFIG.loop, **changes)
    assert PretrainConfig(loop=loop).objective == "mim"


@pytest.mark.parametrize(
    "changes", [{"temperature": 0.0}, {"projection": 0}, {"hidden": 0}, {"shift_mm": -1.0}, {"pooling": "max"}]
)
def test_refused_contrastive_settings(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="contrastive"):
        ContrastiveConfig(**changes)


def test_unknown_objective() -> None:
    with pytest.raises(UsageError, match="objective 'byol' is unknown; choose mim or simclr"):
        PretrainConfig(objective="byol")


def test_one_patient_is_refused(phantoms: Path, tmp_path: Path) -> None:
    """There is nobody to tell it from."""
    header, first, *_ = phantoms.read_text().splitlines()
    single = phantoms.parent / "single.csv"
    single.write_text(f"{header}\n{first}\n")
    with pytest.raises(UsageError, match="tells patients apart, and the manifest has one"):
        pretrain(single, tmp_path / "run", CONFIG)


def test_masked_modelling_is_as_it_was() -> None:
    """Its runs and releases name neither objective nor views; both objectives begin with the same encoder."""
    mim = PretrainConfig(spec=CONFIG.spec, loop=CONFIG.loop)
    assert not {"objective", "contrastive"} & mim.used(config_to_dict(mim)).keys()
    assert (mim.release_name, mim.crop_augmentation) == ("resenc-s.mim", Augmentation())
    assert dataclasses.replace(mim, architecture="resnet10").release_name == "resnet10.mim"
    masked, contrastive = make_model(mim).encoder.state_dict(), make_contrastive(CONFIG).encoder.state_dict()
    assert all(torch.equal(value, contrastive[name]) for name, value in masked.items())
    assert dataclasses.replace(CONFIG, name="a.b").release_name == "a.b"
    assert dataclasses.replace(CONFIG, architecture="effnet-lite0").release_name == "effnet-lite0.simclr"


def test_patients_are_numbers(phantoms: Path) -> None:
    """In order of appearance."""
    rows = prepare_rows(read_manifest(phantoms), CONFIG.spec).rows[:3]
    assert patients_of([rows[0], rows[1], rows[0], rows[2]]) == [0, 1, 0, 2]
