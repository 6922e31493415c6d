"""One training of a classifier: what it may look at, where it stops, what stays frozen, and that it can be resumed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_lesions import SPEC, lesions, region

from prostate_mim import LesionClassifier, PreMIM
from prostate_mim.engine.augment import Augmentation
from prostate_mim.engine.checkpoint import find_checkpoints, read_checkpoint
from prostate_mim.engine.early import BestSoFar, EarlyStop
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.errors import UsageError
from prostate_mim.finetuning import FinetuneConfig, fit, region_features
from prostate_mim.finetuning.lesions import Lesions
from prostate_mim.finetuning.linear import fit_temperature

LOOP = LoopConfig(batch=8, warmup=1, learning_rate=3e-3, device="cpu", seed=3, trackers=(), checkpoint_every=1)
FULL = FinetuneConfig(mode="full", epochs=4, patience=1, inner_folds=3, penalties=(0.01,), loop=LOOP)
TRAINING = [n for n in range(24) if n // 4 % 3]  # folds 1 and 2 of ``lesions``


@pytest.fixture(scope="module")
def model() -> LesionClassifier:
    torch.manual_seed(0)
    return LesionClassifier(PreMIM("resenc-s", SPEC))


def fitted(model: LesionClassifier, found: Lesions, folder: Path, config: FinetuneConfig, resume: bool = False):
    start = fit.starting_point(model, config)
    features = region_features(start, found.regions, "cpu") if start.layout.head == "linear" else None
    return fit.fit(start, found, features, TRAINING, folder, config, resume)


def held_out_losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["held_out_loss"] for line in lines if "held_out_loss" in line]


def same(one: LesionClassifier, two: LesionClassifier) -> bool:
    other = two.state_dict()
    return all(torch.equal(value, other[name]) for name, value in one.state_dict().items())


@pytest.fixture(scope="module")
def straight(model: LesionClassifier, tmp_path_factory: pytest.TempPathFactory) -> tuple[LesionClassifier, Path]:
    folder = tmp_path_factory.mktemp("runs") / "fold-0"
    return fitted(model, lesions(), folder, FULL), folder


def test_rule_of_stopping() -> None:
    """Losses by hand: the lowest is kept; two looks without a lower one end it; NaN is never the lowest."""
    losses = iter([3.0, float("nan"), 2.0, 2.5, 2.0])
    best = BestSoFar(EarlyStop(lambda weights: next(losses), every=5, patience=2))
    seen = []
    for number in range(5):
        assert not best.over
        best.look({"w": torch.tensor(float(number))})
        seen.append(float(best.weights["w"]))
    assert seen == [0, 0, 2, 2, 2]
    assert best.over
    assert [best.due(done, 12) for done in (4, 5, 10, 11, 12)] == [False, True, True, False, True]


def test_interrupted_run_stops_where_the_other_did(
    model: LesionClassifier, straight: tuple[LesionClassifier, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the second look, then resumed, once more when it is done: the same weights, losses and temperature."""
    looks = []
    look = BestSoFar.look

    def killed(best: BestSoFar, weights: dict[str, torch.Tensor]) -> float:
        looks.append(1)
        if len(looks) == 2:
            raise KeyboardInterrupt
        return look(best, weights)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(BestSoFar, "look", killed)
        fitted(model, lesions(), tmp_path / "fold-0", FULL)
    for _ in range(2):
        again = fitted(model, lesions(), tmp_path / "fold-0", FULL, resume=True)
        assert same(again, straight[0])
        assert held_out_losses(tmp_path / "fold-0") == held_out_losses(straight[1])


def test_it_stops_at_the_best_epoch(straight: tuple[LesionClassifier, Path]) -> None:
    """The last checkpoint's best weights are the classifier's; it ends one look after the lowest loss."""
    classifier, folder = straight
    losses = held_out_losses(folder)
    lowest = int(np.argmin(losses))
    assert len(losses) == min(lowest + 1 + FULL.patience, FULL.epochs)
    best = read_checkpoint(find_checkpoints(folder)[0]).part("best")
    own = classifier.state_dict()
    assert all(torch.equal(best[f"classifier.{name}"], value) for name, value in own.items() if name != "temperature")


def test_nothing_of_the_outer_fold_decides(
    model: LesionClassifier, straight: tuple[LesionClassifier, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other labels and other voxels in the outer test fold: the same classifier, to the last bit.

    Two controls. Other labels in the inner fold that is held out change it; and so do those of the outer fold, if by
    mistake it were the one to stop on.
    """
    plain = lesions()
    outer = [n for n in range(24) if n not in TRAINING]
    learned, held = fit.split_inner(plain, TRAINING, FULL)
    assert sorted(learned + held) == TRAINING
    assert not {plain.patients[n] for n in learned} & {plain.patients[n] for n in held}

    def with_other(rows: list[int]) -> Lesions:
        labels = np.where(np.isin(np.arange(24), rows), 1 - plain.labels, plain.labels)
        regions = [region(int(labels[n]), n + 1, 600) if n in rows else one for n, one in enumerate(plain.regions)]
        return dataclasses.replace(plain, labels=labels, targets=labels, regions=tuple(regions))

    calibrated = dataclasses.replace(FULL, epochs=1, calibrate=True)
    one = fitted(model, plain, tmp_path / "a", calibrated)
    assert same(one, fitted(model, with_other(outer), tmp_path / "b", calibrated))
    # the same split, although labels decide it
    monkeypatch.setattr(fit, "split_inner", lambda found, rows, config: (learned, held))
    assert not same(one, fitted(model, with_other(held), tmp_path / "c", calibrated))
    monkeypatch.setattr(fit, "split_inner", lambda found, rows, config: (learned, outer))
    leaky = fitted(model, plain, tmp_path / "d", calibrated)
    assert not same(leaky, fitted(model, with_other(outer), tmp_path / "e", calibrated))


def test_temperature_is_of_patients_not_trained_on(model: LesionClassifier, tmp_path: Path) -> None:
    """By hand: the held-out rows' logits, undone, and the one number that fits them best."""
    found = lesions(contrast=60)
    config = dataclasses.replace(FULL, epochs=1, patience=0, calibrate=True)
    classifier = fitted(model, found, tmp_path / "run", config)
    _, held = fit.split_inner(found, TRAINING, config)
    from prostate_mim.finetuning.regions import middle_crops

    with torch.inference_mode():
        logits = classifier(middle_crops([found.regions[n] for n in held], SPEC)) * classifier.temperature
    expected = fit_temperature(logits.double().numpy(), found.labels[held])
    assert float(classifier.temperature) == pytest.approx(expected, rel=1e-3)
    assert float(classifier.temperature) != 1


@pytest.mark.parametrize("architecture", ["resenc-s", "effnet-lite0"])
def test_frozen_then_not(architecture: str, tmp_path: Path) -> None:
    """In the first epoch the encoder stays as it is, batch statistics included; then all of it moves."""
    torch.manual_seed(0)
    start = LesionClassifier(PreMIM(architecture, SPEC))
    config = dataclasses.replace(FULL, epochs=2, freeze_epochs=1, patience=0)
    classifier = fitted(start, lesions(), tmp_path / "fold-0", config)
    frozen = read_checkpoint(find_checkpoints(tmp_path / "fold-0-frozen")[0])
    before, after = start.encoder.encoder.state_dict(), classifier.encoder.encoder.state_dict()
    kept = frozen.part("model")
    assert all(torch.equal(kept[f"classifier.encoder.encoder.{name}"], value) for name, value in before.items())
    assert not any("encoder" in name for name in frozen.part("optimizer"))
    assert not torch.equal(kept["classifier.head.linear.weight"], start.head.linear.weight)
    moved = [name for name, value in before.items() if value.is_floating_point() and torch.equal(after[name], value)]
    assert moved == []
    assert all(p.requires_grad for p in classifier.parameters())


def test_attentive_probe_learns_and_leaves_the_encoder(model: LesionClassifier, tmp_path: Path) -> None:
    """A new attentive head, the same for the same seed; after a few epochs it tells bright lesions from dark ones."""
    loop = dataclasses.replace(LOOP, learning_rate=1e-2, checkpoint_every=100)
    config = FinetuneConfig(mode="attentive", epochs=8, augmentation=Augmentation.none(), loop=loop)
    start = fit.starting_point(model, config)
    again = fit.starting_point(model, config)
    assert same(start, again)
    assert (start.layout.head, model.layout.head) == ("attentive", "linear")
    found = lesions(contrast=500)
    classifier = fitted(model, found, tmp_path / "run", config)
    before, after = model.encoder.state_dict(), classifier.encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not torch.equal(classifier.pool.query, start.pool.query)
    from prostate_mim.finetuning import predict_regions
    from prostate_mim.metrics import auroc

    outer = [n for n in range(24) if n not in TRAINING]
    scores = predict_regions(classifier, [found.regions[n] for n in outer], "cpu")
    assert auroc(found.labels[outer], scores) > 0.8


def test_ensembles_are_no_starting_point_and_few_patients_no_inner_fold(model: LesionClassifier) -> None:
    """Both say what to do instead."""
    with pytest.raises(UsageError, match="ensemble"):
        fit.starting_point(LesionClassifier.ensemble([model, model]), FULL)
    with pytest.raises(UsageError, match="class of one patient"):
        fit.split_inner(lesions(), [0, 1, 2, 3], FULL)
