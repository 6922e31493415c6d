"""Fine-tuning: resumable fold by fold, honest about folds, and gentle with the model it is given."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch

from prostate_mim import LesionClassifier, PreMIM, finetune
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.errors import UsageError
from prostate_mim.finetuning import FinetuneConfig, FinetuneRun, fit
from prostate_mim.manifest import read_manifest
from prostate_mim.studies import open_all

CONFIG = FinetuneConfig(mode="full", folds=2, epochs=1, loop=LoopConfig(batch=8, warmup=1, device="cpu", seed=3))


@pytest.fixture(scope="module")
def model(small_encoder: Path) -> LesionClassifier:
    return LesionClassifier(PreMIM.from_pretrained(small_encoder))


@pytest.fixture(scope="module")
def straight(cohort: Path, model: LesionClassifier, tmp_path_factory: pytest.TempPathFactory) -> FinetuneRun:
    return finetune(model, cohort, tmp_path_factory.mktemp("runs") / "straight", CONFIG)


def test_interrupted_run_goes_on(
    cohort: Path, model: LesionClassifier, straight: FinetuneRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Ctrl-C in the second fold, then resume: the same out-of-fold probabilities and weights; bars count the folds."""
    train = fit.train
    calls = []

    def interrupted(*arguments: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finetune(model, cohort, tmp_path / "run", CONFIG)
    with pytest.raises(UsageError, match="--resume"):
        finetune(model, cohort, tmp_path / "run", CONFIG)
    again = finetune(model, cohort, tmp_path / "run", CONFIG, resume=True)
    said = capsys.readouterr().err
    assert said.index("fold 1 of 2 ") < said.index("fold 2 of 2 ") < said.index("all studies ")
    assert again.probabilities == straight.probabilities
    one, two = (LesionClassifier.from_pretrained(run.release).state_dict() for run in (straight, again))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_given_model_is_left_alone(cohort: Path, model: LesionClassifier, tmp_path: Path) -> None:
    """Fine-tuning works on copies: the caller's weights are the same afterwards."""
    before = copy.deepcopy(model.state_dict())
    finetune(model, cohort, tmp_path / "run", FinetuneConfig(folds=2, loop=CONFIG.loop))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_release_was_trained_on_everything(cohort: Path, straight: FinetuneRun) -> None:
    """The released classifier is not one of the folds: its probabilities differ from the out-of-fold ones."""
    released = LesionClassifier.from_pretrained(straight.release)
    found = [released.predict(s.volume, s.centre_mm_lps).probability for s in open_all(read_manifest(cohort))]
    differences = [abs(a - b) for a, b in zip(found, straight.probabilities, strict=True)]
    assert max(differences) > 1e-3
    assert len(straight.folds) == 2
    assert sum(fold.lesions for fold in straight.folds) == len(found) == straight.pooled.lesions
    assert straight.mean == pytest.approx(sum(f.value for f in straight.folds) / 2)


def test_more_epochs_are_another_run(cohort: Path, model: LesionClassifier, straight: FinetuneRun) -> None:
    """A finished run is refused whole, so nobody continues it with other settings by mistake."""
    longer = FinetuneConfig(mode="full", folds=2, epochs=2, loop=CONFIG.loop)
    with pytest.raises(UsageError, match="finished"):
        finetune(model, cohort, straight.release.parent, longer, resume=True)


def test_layer_decay_and_average(cohort: Path, model: LesionClassifier, straight: FinetuneRun, tmp_path: Path) -> None:
    """Both reach fine-tuning: another classifier than without them; the stem has moved least, for its size."""
    slow = dataclasses.replace(CONFIG, loop=dataclasses.replace(CONFIG.loop, layer_decay=0.1, ema=0.5))
    run = finetune(model, cohort, tmp_path / "run", slow)
    start = model.state_dict()
    plain, other = (LesionClassifier.from_pretrained(found.release).state_dict() for found in (straight, run))
    kernels = [name for name, value in start.items() if value.ndim == 5]
    assert all(not torch.equal(plain[name], other[name]) for name in kernels)
    moved = {name: float((other[name] - start[name]).abs().max()) for name in kernels}
    before = {name: float((plain[name] - start[name]).abs().max()) for name in kernels}
    # Four resolutions lie before the head: the stem learns at 1/10000 of the rate, the last resolution at 1/10.
    assert moved[kernels[0]] < 1e-3 * before[kernels[0]]
    assert 1e-2 * before[kernels[-1]] < moved[kernels[-1]] < before[kernels[-1]]
    assert all(0 <= value <= 1 for value in run.probabilities)
