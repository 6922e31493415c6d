"""finetune from --config, options and --set: the same rules as pretrain's, and a run that is repeated by one line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from outcomes import refused

from prostate_mim import LesionClassifier, PreMIM
from prostate_mim import finetune as finetune_in_python
from prostate_mim.cli.settings import FINETUNE, finetune_config
from prostate_mim.config import read_config
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.errors import UsageError
from prostate_mim.finetuning import ClassifierConfig, FinetuneConfig, FinetuneRunConfig

GIVEN = {
    "mode": ("full", "mode", "full"),
    "folds": (3, "folds", 3),
    "test_fold": (0, "test_fold", 0),
    "epochs": (4, "epochs", 4),
    "name": ("mine", "name", "mine"),
    "target": ("isup", "target", "isup"),
    "level": ("study", "level", "study"),
    "aggregate": ("noisy-or", "aggregate", "noisy-or"),
    "penalties": ("0.1 1", "penalties", (0.1, 1.0)),
    "inner_folds": (2, "inner_folds", 2),
    "class_weight": (True, "class_weight", True),
    "flips": (True, "flips", True),
    "ensemble": (True, "ensemble", True),
    "calibrate": (True, "calibrate", True),
    "fraction": (0.5, "fraction", 0.5),
    "fraction_seed": (7, "fraction_seed", 7),
    "model": ("runs/mim", "classifier.model", "runs/mim"),
    "size": ("8 32,64", "classifier.size_zyx", (8, 32, 64)),
    "channels": ("t2w, gland", "classifier.channels", ("t2w", "gland")),
    "single_slice": ("repeat", "classifier.single_slice", "repeat"),
    "pooling": ("mean", "classifier.pooling", "mean"),
    "layer_decay": (0.5, "loop.layer_decay", 0.5),
    "batch": (4, "loop.batch", 4),
    "accumulate": (2, "loop.accumulate", 2),
    "learning_rate": (0.5, "loop.learning_rate", 0.5),
    "precision": ("bf16", "loop.precision", "bf16"),
    "ema": (0.5, "loop.ema", 0.5),
    "workers": (3, "loop.workers", 3),
    "loader_timeout": (9.0, "loop.loader_timeout", 9.0),
    "device": ("cpu", "loop.device", "cpu"),
    "seed": (5, "loop.seed", 5),
    "trackers": (["none"], "loop.trackers", ()),
}
# These mean something in mode full only.
OF_FULL = {
    "freeze_epochs": (2, "freeze_epochs", 2),
    "patience": (2, "patience", 2),
    "loss": ("focal", "loss", "focal"),
    "zone_auxiliary": (0.5, "zone_auxiliary", 0.5),
}


def with_key(config: Any, key: str, value: Any) -> Any:
    name, _, rest = key.partition(".")
    inner = with_key(getattr(config, name), rest, value) if rest else value
    return dataclasses.replace(config, **{name: inner})


@pytest.mark.parametrize("name", [*GIVEN, *OF_FULL])
def test_every_option_sets_its_own_key(name: str) -> None:
    """An option changes its key and nothing else."""
    value, key, expected = (GIVEN | OF_FULL)[name]
    mode = {"mode": "full"} if name in OF_FULL else {}
    assert finetune_config({name: value, **mode}) == with_key(FinetuneRunConfig(**mode), key, expected)


def test_the_table_is_complete() -> None:
    """Every option is tried above; nothing given is the default."""
    assert set(GIVEN | OF_FULL) == set(FINETUNE)
    assert finetune_config({}) == FinetuneRunConfig()


def test_options_override_the_file_and_set_overrides_both(tmp_path: Path) -> None:
    """As pretrain: the default, the file, the option, --set, each over the one before; what nobody gives stays."""
    path = tmp_path / "run.toml"
    path.write_text('epochs = 3\nfolds = 4\n[classifier]\npooling = "mean"\n[loop]\nbatch = 3\nclip_norm = 2\n')
    filed = finetune_config({"config": path})
    assert (filed.epochs, filed.folds, filed.loop.batch, filed.loop.clip_norm) == (3, 4, 3, 2.0)
    assert (filed.loop.learning_rate, filed.classifier) == (2e-4, ClassifierConfig(pooling="mean"))
    made = finetune_config(
        {"config": path, "epochs": 5, "batch": 6, "settings": ["loop.batch=7", "classifier.spacing_mm_zyx=[3, 1, 1]"]}
    )
    spec = ClassifierConfig(pooling="mean", spacing_mm_zyx=(3.0, 1.0, 1.0))
    assert made == dataclasses.replace(filed, epochs=5, classifier=spec, loop=dataclasses.replace(filed.loop, batch=7))


def test_what_fine_tuning_does_not_look_at_is_refused() -> None:
    """Its steps follow from epochs: a number of steps would be lost. Its own default is no request."""
    for key, value in {"steps": 5, "health_every": 1, "keep_best": "true"}.items():
        with pytest.raises(UsageError, match=rf"loop\.{key} is .*does not look.*leave it out"):
            finetune_config({"settings": [f"loop.{key}={value}"]})
    assert finetune_config({"settings": [f"loop.steps={LoopConfig().steps}"]}) == FinetuneRunConfig()


def test_a_configuration_without_a_model_asks_for_one() -> None:
    """Written by a program: nobody is given the bundled encoder in its place."""
    with pytest.raises(UsageError, match=r"classifier.model is empty.*give --model"):
        finetune_config({"settings": ["classifier.model="]})
    assert finetune_config({"model": "a"}).classifier.model == "a"


# -------------------------------------------------------------------------------------------- through the command


def finetune(run, cohort: Path, out: Path, *arguments: object):
    return run("finetune", "--manifest", cohort, "--out", out, *arguments)


def test_mistakes_are_named_by_their_source(run, cohort: Path, small_encoder: Path, tmp_path: Path) -> None:
    """The file, or the command line; before anything is written."""
    path, out = tmp_path / "run.toml", tmp_path / "run"
    for text, texts in {
        "epoch = 3\n": ("epoch is unknown", "did you mean epochs?"),
        "[loop]\nbatc = 3\n": ("loop.batc is unknown", "did you mean loop.batch?"),
        "size_zyx = [8, 32, 32]\n": ("size_zyx is unknown", "did you mean classifier.size_zyx?"),
        "folds = '3'\n": ("folds is '3' (text)", "expected a whole number"),
        "[classifier]\nsize_zyx = [8, 32]\n": ("classifier.size_zyx is a list of 2", "expected a list of 3"),
        "[classifier]\nsize_zyx = [8, 32, 0]\n": ("[classifier] InputSpec.size_zyx",),
        "[classifier]\nchannels = ['gland']\n": ("[classifier]", "channels are t2w and then any of gland"),
        "[classifier]\npooling = 'center'\n": ("[classifier] pooling 'center' is unknown; choose centre or mean",),
        "[loop]\nsteps = 3\n": ("loop.steps is 3", "epochs"),
        "patience = 3\n": ("patience", "of the modes attentive and full"),
        "test_fold = 0\nensemble = true\n": ("an ensemble is of the models of all folds",),
        "test_fold = -1\n": ("test_fold is -1",),
        "[loop\n": ("line 1", "not TOML"),
    }.items():
        path.write_text(text)
        refused(finetune(run, cohort, out, "--config", path), 2, f"{path}: ", *texts)
    path.write_text("folds = 3\n")
    base = ("--config", path)
    refused(finetune(run, cohort, out, *base, "--set", "epoch=3"), 2, "the command line", "did you mean epochs?")
    refused(finetune(run, cohort, out, *base, "--set", "epochs=3.5"), 2, "epochs is 3.5", "whole number")
    refused(finetune(run, cohort, out, *base, "--set", "epochs"), 2, "KEY=VALUE")
    refused(finetune(run, cohort, out, *base, "--size", "16 96.5 96"), 2, "--size", "three whole numbers")
    refused(finetune(run, cohort, out, *base, "--channels", "t2w prostate"), 2, "the command line", "gland, lesion, pz")
    refused(finetune(run, cohort, out, "--config", tmp_path / "no.toml"), 3, "no such configuration file")
    words = ("--model", small_encoder, "--test-fold", 0)
    refused(finetune(run, cohort, out, *words), 9, "no row has a fold", "prostate-mim data split")
    assert not out.exists()


def test_a_run_is_repeated_by_one_line(run, cohort: Path, small_encoder: Path, tmp_path: Path) -> None:
    """config.toml of a run folder is complete: another folder, the same model, crop, channels and probabilities."""
    path = tmp_path / "run.toml"
    path.write_text(
        f'folds = 3\npenalties = [0.01, 1]\n[classifier]\nmodel = "{small_encoder}"\nsize_zyx = [8, 48, 48]\n'
        '[loop]\ndevice = "cpu"\nseed = 3\ntrackers = []\n'
    )
    made = finetune(run, cohort, tmp_path / "a", "--config", path, "--folds", 2, "--channels", "t2w gland", "--json")
    assert made.code == 0, made.err
    written = read_config(tmp_path / "a" / "config.toml", FinetuneRunConfig)
    assert (written.folds, written.penalties, written.loop.seed) == (2, (0.01, 1.0), 3)
    assert written.classifier == ClassifierConfig(
        str(small_encoder), (8, 48, 48), (3.0, 0.5, 0.5), ("t2w", "gland"), "pad", "centre"
    )
    again = finetune(run, cohort, tmp_path / "b", "--config", tmp_path / "a" / "config.toml", "--json")
    assert again.code == 0, again.err
    results, copied = ((tmp_path / name / "predictions.csv").read_text() for name in "ab")
    assert results == copied
    assert read_config(tmp_path / "b" / "config.toml", FinetuneRunConfig) == written
    spec = [LesionClassifier.from_pretrained(tmp_path / name).spec for name in "ab"]
    assert spec[0] == spec[1] and spec[0].size_zyx == (8, 48, 48)
    other = finetune(
        run, cohort, tmp_path / "c", "--config", tmp_path / "a" / "config.toml", "--set", "loop.seed=4", "--json"
    )
    assert other.code == 0, other.err
    assert (tmp_path / "c" / "predictions.csv").read_text() != results  # the control: other folds
    for name in ("run.json", "release/config.json", "release/README.md"):  # where the encoder lay stays in config.toml
        assert str(small_encoder) not in (tmp_path / "a" / name).read_text()


def test_a_run_goes_on_with_its_own_configuration(run, cohort: Path, small_encoder: Path, tmp_path: Path) -> None:
    """--resume with another one is refused before config.toml is written anew; with its own, or another device, not."""
    out, words = tmp_path / "run", ("--model", small_encoder, "--folds", 2, "--device", "cpu", "--tracker", "none")
    assert finetune(run, cohort, out, *words).code == 0
    for path in [*(out / "release").iterdir()]:  # as if it had been stopped before its end
        path.unlink()
    (out / "release").rmdir()
    before = (out / "config.toml").read_text()
    other = finetune(run, cohort, out, *words, "--resume", "--penalties", "0.1")
    refused(other, 2, "--resume with another configuration (penalties", "use the same one, or choose a new --out")
    assert "--allow-change" not in other.err  # there is no such option here
    assert (out / "config.toml").read_text() == before
    line = ("--config", out / "config.toml", "--resume", "--workers", 1)
    assert finetune(run, cohort, out, *line).code == 0


def test_a_run_in_python_writes_it_too(run, cohort: Path, small_encoder: Path, tmp_path: Path) -> None:
    """The model of a program has no name: the file says the rest, and the command asks for it."""
    model = LesionClassifier(PreMIM.from_pretrained(small_encoder))
    loop = LoopConfig(steps=5, device="cpu", trackers=())  # steps, at which nobody looks, are not told on
    finetune_in_python(model, cohort, tmp_path / "a", FinetuneConfig(folds=2, loop=loop))
    written = tmp_path / "a" / "config.toml"
    found = read_config(written, FinetuneRunConfig)
    assert (found.folds, found.classifier.model, found.loop.steps) == (2, "", LoopConfig().steps)
    refused(finetune(run, cohort, tmp_path / "b", "--config", written), 2, "classifier.model is empty", "--model")
    again = finetune(run, cohort, tmp_path / "b", "--config", written, "--model", small_encoder, "--json")
    assert again.code == 0, again.err
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in "ab")
    assert one["auroc_pooled"] == two["auroc_pooled"]
