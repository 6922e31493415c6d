"""Pretraining, end to end on phantoms, with every kind of method: the release loads, reconstructs, or says why not."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from prostate_mim.encoder import PreMIM
from prostate_mim.engine.checkpoint import find_checkpoints
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.errors import UsageError, VolumeError
from prostate_mim.hub import resolve
from prostate_mim.mim import METHODS, Method
from prostate_mim.phantom import write_cohort
from prostate_mim.preprocess import Crop
from prostate_mim.pretraining import PretrainConfig, make_model, pretrain
from prostate_mim.pretraining.averaging import average_with_beginning
from prostate_mim.reconstruction import MimRelease, load_mim, reconstruct
from prostate_mim.spec import InputSpec
from prostate_mim.volume import Geometry

STEPS = 2
SPEC = InputSpec(size_zyx=(8, 32, 32))
LOOP = LoopConfig(steps=STEPS, batch=2, warmup=1, checkpoint_every=1, device="cpu", seed=5, trackers=())


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four studies; the path of the lesion manifest, beside which is studies.csv."""
    return write_cohort(tmp_path_factory.mktemp("phantoms"), 4, seed=11)


def config(method: Method, architecture: str = "resenc-s", **changes: Any) -> PretrainConfig:
    return PretrainConfig(architecture, SPEC, method=method, name=f"{architecture}.test", loop=LOOP, **changes)


def half(name: str, **changes: Any) -> Method:
    """A method that hides half of the blocks."""
    return replace(METHODS[name], ratio="0.5", **changes)


CONFIGS = {
    "gland strategy and target": config(half("fcmae", strategy="gland", target="gland")),
    "lesion": config(half("topdown", strategy="lesion")),
    "frequency": config(half("topdown", strategy="frequency", target="voxels")),
    "hard": config(half("fcmae", strategy="hard")),
    "features": config(half("fcmae", target="features")),
    "mixture": config(half("spark", strategy="mixture:random=1,column=1,genesis=1", target="voxels")),
    "ratios": config(replace(METHODS["fcmae"], ratio="0.25..0.75")),
    "columns": config(half("fcmae"), block_mm_zyx=(math.inf, 8.0, 8.0)),
    "simmim": config(half("simmim")),
    "a2mim": config(half("a2mim")),
    "genesis": config(METHODS["genesis"]),
    "position": config(METHODS["position"]),
    "spark": config(half("spark")),
    "zerofill": config(half("zerofill")),
    "resnet10": config(half("fcmae"), "resnet10"),
    "convnext-a": config(half("fcmae"), "convnext-a"),
}
# No block is hidden, so there is nothing to fill in; or what is predicted is no image.
NO_PICTURE = {"frequency", "genesis", "features", "position"}


def manifest_of(name: str, phantoms: Path) -> Path:
    """Only the lesion manifest has lesion masks; where a study's middle is asked for, no row may say another place."""
    if name == "position":
        return bare(phantoms.parent)
    return phantoms if name == "lesion" else phantoms.parent / "studies.csv"


def bare(folder: Path) -> Path:
    """The studies without gland masks."""
    made = folder / "bare.csv"
    with (folder / "studies.csv").open(newline="") as stream:
        rows = [{key: value for key, value in row.items() if key != "gland_mask"} for row in csv.DictReader(stream)]
    with made.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return made


@pytest.fixture(scope="module", params=CONFIGS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def run(name: str, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of each configuration, of which the tests ask different things."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    pretrain(manifest_of(name, phantoms), folder, CONFIGS[name])
    return folder


def details(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "release" / "config.json").read_text())["details"]
    return found


def crop(seed: int = 0) -> Crop:
    rng = np.random.default_rng(seed)
    voxels = rng.normal(size=SPEC.size_zyx).astype(np.float32)
    return Crop(voxels, np.ones(voxels.shape, bool), Geometry(SPEC.spacing_mm_zyx))


def test_training_happened(name: str, run: Path) -> None:
    """Each step has a finite loss above 0 and a gradient; the published encoder is not the one it began with."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(math.isfinite(line["loss"]) and line["loss"] > 0 for line in lines)
    assert all(line["gradient_norm"] > 0 for line in lines)
    begun = make_model(CONFIGS[name]).encoder.state_dict()
    made = load_file(run / "release" / "model.safetensors")
    assert made.keys() == begun.keys()
    assert not any(torch.equal(made[key], value) for key, value in begun.items() if value.ndim == 5)


def test_release_says_how_it_was_made(name: str, run: Path, phantoms: Path) -> None:
    """Method, size of blocks as used, and whether labels were looked at; all of it plain JSON."""
    given, found = CONFIGS[name], details(run)["mim"]
    assert Method.from_dict(found["method"]) == given.method
    assert found["self_supervised"] == (name != "lesion")
    assert found["block_mm_zyx"] == ([24.0, 8.0, 8.0] if name == "columns" else [12.0, 8.0, 8.0])
    assert details(run)["training"]["studies"] == rows_of(manifest_of(name, phantoms))


def rows_of(manifest: Path) -> int:
    """Without the header."""
    return len(manifest.read_text().splitlines()) - 1


def test_release_loads(name: str, run: Path) -> None:
    """The encoder is the one in the file, under its own name, and embeds."""
    encoder = PreMIM.from_pretrained(run)
    assert encoder.name == CONFIGS[name].name
    assert encoder.architecture == CONFIGS[name].architecture
    with torch.inference_mode():
        assert encoder(torch.from_numpy(crop().voxels)[None, None])[-1].isfinite().all()


def test_release_reconstructs_or_says_why_not(name: str, run: Path) -> None:
    """Hidden voxels are filled and visible ones kept; where that makes no sense, a usage error says so."""
    mim = load_mim(run)
    assert mim.model.method == CONFIGS[name].method
    study = crop()
    if name in NO_PICTURE:
        with pytest.raises(UsageError, match=r"hides no block|is not an image"):
            reconstruct(mim, study, seed=1)
        return
    seeds = [s for s in range(8) if hidden_share(mim, study, s)] if name == "mixture" else [1]
    hidden, filled = reconstruct(mim, study, seed=seeds[0])
    assert 0.2 < hidden.mean() < 0.8
    assert np.array_equal(filled[~hidden], study.voxels[~hidden])
    assert np.isfinite(filled).all()
    assert not np.array_equal(filled[hidden], study.voxels[hidden])


def hidden_share(mim: MimRelease, study: Crop, seed: int) -> float:
    """Of a mixture, some seeds hide no block, and are refused."""
    try:
        return float(reconstruct(mim, study, seed)[0].mean())
    except UsageError:
        return 0.0


def test_a_reloaded_teacher_is_of_the_release(phantoms: Path, tmp_path: Path) -> None:
    """Where a reloaded model asks a teacher which blocks are hard, that is not a decoder with fresh weights."""
    pretrain(manifest_of("hard", phantoms), tmp_path / "run", CONFIGS["hard"])
    model = load_mim(tmp_path / "run").model
    if model.teacher is not None:
        published = load_file(tmp_path / "run" / "release" / "decoder.safetensors")
        assert all(torch.equal(value, published[key]) for key, value in model.teacher.decoder.state_dict().items())


@pytest.mark.parametrize("method", ["simmim", "a2mim"])
def test_the_learned_token_is_published(method: str, phantoms: Path, tmp_path: Path) -> None:
    """A release reconstructs with the token that was trained, not with the one a new model begins with."""
    pretrain(manifest_of(method, phantoms), tmp_path / "run", CONFIGS[method])
    trained = load_file(find_checkpoints(tmp_path / "run")[0])["model.encoding.token"]
    token = load_mim(tmp_path / "run").model.encoding.token
    assert token is not None
    assert torch.equal(token, trained)


def test_resume_with_another_method_is_refused(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run goes on with its own method only; the message names what changed, before a study is read."""
    studies, given = manifest_of("", phantoms), config(half("topdown"))
    run = tmp_path / "run"
    pretrain(studies, run, replace(given, loop=replace(LOOP, checkpoint_every=1)))
    for path in (run / "release").iterdir():
        path.unlink()
    (run / "release").rmdir()
    for path in find_checkpoints(run)[:1]:
        path.unlink()
    assert "reading studies" in capsys.readouterr().err  # the control: this is said where they are read
    changes = {
        "method.decoder 'topdown' -> 'unet'": replace(given, method=half("spark")),
        "method.strategy 'random' -> 'column'": replace(given, method=half("topdown", strategy="column")),
        "block_mm_zyx": replace(given, block_mm_zyx=(math.inf, 8.0, 8.0)),
    }
    for words, changed in changes.items():
        with pytest.raises(UsageError, match="--resume with another configuration") as refusal:
            pretrain(studies, run, changed, resume=True)
        assert words in str(refusal.value)
    assert "reading studies" not in capsys.readouterr().err
    assert PreMIM.from_pretrained(pretrain(studies, run, given, resume=True))  # negative control: its own goes on
    assert capsys.readouterr().err.startswith("device cpu, fp32\n")


def test_resumed_teacher_is_the_same(phantoms: Path, tmp_path: Path) -> None:
    """Stopped after one step of two and resumed, a run with a teacher ends where the straight one does, bit for bit."""
    studies = manifest_of("", phantoms)
    straight, halved = tmp_path / "straight", tmp_path / "halved"
    pretrain(studies, straight, CONFIGS["features"])
    halved.mkdir()
    older = find_checkpoints(straight)[1]
    (halved / older.name).write_bytes(older.read_bytes())
    pretrain(studies, halved, CONFIGS["features"], resume=True)
    one, two = (load_file(find_checkpoints(folder)[0]) for folder in (straight, halved))
    assert any(key.startswith("model.teacher.") for key in one)
    assert one.keys() == two.keys()
    assert [key for key in one if not torch.equal(one[key], two[key])] == []
    before = load_file(older)  # negative control: the step in between did move the teacher
    assert any(not torch.equal(one[key], before[key]) for key in one if key.startswith("model.teacher."))


def test_places_from_labels_are_refused(phantoms: Path, tmp_path: Path) -> None:
    """Regions are cut around glands and lesions that rows tell: how far away those are is what labels say."""
    for listed in (phantoms.parent / "studies.csv", phantoms):
        with pytest.raises(
            UsageError, match=r"'position' asks how far .* but (\d+) of \1 rows say where to look instead"
        ):
            pretrain(listed, tmp_path / "run", CONFIGS["position"])
    assert not (tmp_path / "run").exists()


def test_crops_that_stay_have_no_place_to_tell() -> None:
    """Without jitter every answer is the same: refused, but for targets that look at the image."""
    with pytest.raises(UsageError, match=r"jitter_zyx is 0.* let crops wander"):
        replace(CONFIGS["position"], jitter_zyx=(0, 0, 0))
    assert replace(CONFIGS["position"], jitter_zyx=(0, 0, 1)).jitter_zyx == (0, 0, 1)
    assert replace(CONFIGS["genesis"], jitter_zyx=(0, 0, 0)).jitter_zyx == (0, 0, 0)


def test_wrong_parts_are_refused_before_reading(tmp_path: Path) -> None:
    """Incompatible parts, a useless ratio and an impossible block never open a study."""
    broken = tmp_path / "studies.csv"
    broken.write_text("study_id,patient_id,t2w\ns,p,t.nii.gz\n")
    (tmp_path / "t.nii.gz").write_bytes(b"no volume")
    cases = {
        "target 'hog'": half("spark", target="hog"),
        "target 'fourier'": half("fcmae", strategy="frequency", target="fourier"),
        "decoder 'linear'": half("fcmae", decoder="linear"),
        "of 8 blocks": replace(METHODS["fcmae"], ratio="0.01"),
    }
    for words, wrong in cases.items():
        with pytest.raises(UsageError, match=words):
            pretrain(broken, tmp_path / "run", config(wrong))
    wide = replace(config(half("fcmae"), block_mm_zyx=(12.0, 16.0, 8.0)), spec=InputSpec(size_zyx=(8, 48, 32)))
    with pytest.raises(UsageError, match="crop of 48 voxels along y is not a multiple of the block of 32"):
        pretrain(broken, tmp_path / "run", wide)
    with pytest.raises(VolumeError, match="row 1"):  # negative control: the right parts do open it
        pretrain(broken, tmp_path / "run", config(half("fcmae")))


def test_a_damaged_study_is_named(phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Row 2 is no volume: exit code 9 before any training; with skip_bad the rest is trained on, and that is said."""
    header, *rows = (phantoms.parent / "studies.csv").read_text().splitlines()
    place = header.split(",").index("t2w")
    volume = Path(rows[1].split(",")[place])
    damaged = volume.with_name(f"damaged-{volume.name}")
    (phantoms.parent / damaged).write_bytes((phantoms.parent / volume).read_bytes()[:1000])
    rows[1] = ",".join(str(damaged) if k == place else value for k, value in enumerate(rows[1].split(",")))
    listed = phantoms.parent / "damaged.csv"
    listed.write_text("\n".join([header, *rows]) + "\n")
    given = config(half("fcmae"))
    with pytest.raises(VolumeError, match="row 2") as caught:
        pretrain(listed, tmp_path / "run", given)
    assert caught.value.exit_code == 9
    assert "\n" not in str(caught.value)
    assert damaged.name not in str(caught.value)
    assert not find_checkpoints(tmp_path / "run")
    capsys.readouterr()
    pretrain(listed, tmp_path / "rest", given, skip_bad=True)
    said = capsys.readouterr().err
    assert "warning: row 2 is left out" in said
    assert damaged.name not in said
    record = json.loads((tmp_path / "rest" / "run.json").read_text())
    assert record["counts"] == {"studies": 3, "left_out": 1, "without_sha256": 3}
    assert details(tmp_path / "rest")["training"]["studies"] == 3


@pytest.mark.parametrize("strategy", ["lesion", "mixture:random=1,lesion=1"])
def test_masks_that_no_study_has_are_refused(strategy: str, phantoms: Path, tmp_path: Path) -> None:
    """Instead of training with random blocks under another name; one row with a mask is enough."""
    wanted = config(half("fcmae", strategy=strategy))
    with pytest.raises(UsageError, match="no row of the manifest has a lesion_mask"):
        pretrain(phantoms.parent / "studies.csv", tmp_path / "run", wanted)
    header, *rows = phantoms.read_text().splitlines()
    place = header.split(",").index("lesion_mask")
    bare = [",".join("" if k == place else v for k, v in enumerate(row.split(","))) for row in rows[1:]]
    mixed = phantoms.parent / f"mixed-{len(strategy)}.csv"
    mixed.write_text("\n".join([header, rows[0], *bare[:1]]) + "\n")
    assert PreMIM.from_pretrained(pretrain(mixed, tmp_path / "run", wanted))  # negative control


def test_a_whole_run_repeats(phantoms: Path, tmp_path: Path) -> None:
    """From the same files with the same seed: the same release, bit for bit; another seed is another run."""
    given = config(half("fcmae"))
    other = replace(given, loop=replace(LOOP, seed=6))
    found = [
        pretrain(phantoms.parent / "studies.csv", tmp_path / str(k), c) for k, c in enumerate((given, given, other))
    ]
    one, two, three = (load_file(release / "model.safetensors") for release in found)
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert not any(torch.equal(value, three[key]) for key, value in one.items() if value.ndim == 5)


def test_the_average_is_published(phantoms: Path, tmp_path: Path) -> None:
    """With ema, the release holds the average of the weights, and not the last ones."""
    run = tmp_path / "run"
    pretrain(
        phantoms.parent / "studies.csv",
        run,
        replace(config(half("fcmae")), loop=replace(LOOP, ema=0.9)),
    )
    kept, made = load_file(find_checkpoints(run)[0]), load_file(run / "release" / "model.safetensors")
    kernels = [key for key, value in made.items() if value.ndim == 5]
    assert all(torch.equal(made[key], kept[f"average.encoding.encoder.{key}"]) for key in kernels)
    assert not any(torch.equal(made[key], kept[f"model.encoding.encoder.{key}"]) for key in kernels)


def test_old_releases_still_reconstruct() -> None:
    """The bundled encoder was made before there was a choice: zero-filled, top-down, at its own ratio."""
    mim = load_mim("resenc-s.mim-t2w")
    kept = json.loads((resolve("resenc-s.mim-t2w") / "config.json").read_text())["details"]["mim"]
    assert "method" not in kept
    assert mim.model.method == replace(METHODS["zerofill"], ratio=str(float(kept["mask_ratio"])))
    z, y, x = mim.spec.size_zyx
    ramp = np.broadcast_to(np.linspace(-1, 1, x, dtype=np.float32), (z, y, x)).copy()
    study = Crop(ramp, np.ones(ramp.shape, bool), Geometry(mim.spec.spacing_mm_zyx))
    hidden, filled = reconstruct(mim, study, seed=0)
    assert hidden.mean() == pytest.approx(0.6, abs=0.01)
    assert np.array_equal(filled[~hidden], ramp[~hidden])
    assert np.square(filled - ramp)[hidden].mean() < 0.5 * np.square(ramp)[hidden].mean()


def test_rounded_blocks_are_reported(phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was asked for and what is used, before training; a refused configuration leaves no folder behind."""
    chosen = replace(config(half("fcmae")), block_mm_zyx=(10.0, 8.0, 8.0))
    pretrain(phantoms.parent / "studies.csv", tmp_path / "run", chosen)
    assert "block 10x8x8 mm asked, 12x8x8 mm used = 4x16x16 voxels, 2x2x2 blocks" in capsys.readouterr().err
    with pytest.raises(UsageError, match="has no size"):
        pretrain(phantoms.parent / "studies.csv", tmp_path / "none", replace(chosen, block_mm_zyx=(0.0, 8.0, 8.0)))
    assert not (tmp_path / "none").exists()


def test_it_goes_on_from_a_release(phantoms: Path, tmp_path: Path) -> None:
    """The first weights are the release's, and the studies of both are in the list; the control begins at random."""
    first, second = phantoms.with_name("studies.csv"), tmp_path / "two.csv"
    rows = first.read_text().splitlines()
    again = [
        ",".join(str(phantoms.parent / cell) if (phantoms.parent / cell).is_file() else cell for cell in row.split(","))
        for row in rows
    ]
    second.write_text("\n".join([again[0], *again[3:]]) + "\n")
    plain = config(half("topdown"))
    (tmp_path / "one.csv").write_text("\n".join(again[:3]) + "\n")
    release = pretrain(tmp_path / "one.csv", tmp_path / "a", plain)
    before = PreMIM.from_pretrained(release)
    going_on = replace(plain, begin="release", begin_source=str(release))
    given, random = (make_model(each).encoder.state_dict() for each in (going_on, plain))
    assert all(torch.equal(value, given[key]) for key, value in before.encoder.state_dict().items())
    assert any(not torch.equal(value, given[key]) for key, value in random.items())
    after = PreMIM.from_pretrained(pretrain(second, tmp_path / "b", going_on))
    assert before.studies.pretraining is not None and after.studies.pretraining is not None
    assert len(before.studies.pretraining.digests) == 2
    assert len(after.studies.pretraining.digests) == 4
    assert before.studies.pretraining.digests < after.studies.pretraining.digests
    assert after.details["training"]["begin"] == "release"
    assert "begin_source" not in after.details["training"]  # a path
    assert "begin" not in before.details["training"]


def test_beginnings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="begin 'imagnet' is unknown"):
        config(METHODS["fcmae"], begin="imagnet")
    with pytest.raises(UsageError, match="random weights need none"):
        make_model(config(METHODS["fcmae"], begin_source="x"))
    with pytest.raises(UsageError, match="does not exist for resenc-s"):
        make_model(config(METHODS["fcmae"], begin="imagenet"))


def test_averaged_with_its_beginning(phantoms: Path, tmp_path: Path) -> None:
    """Tensor by tensor, running moments too; what it has seen is the pretraining's; random beginnings are refused."""
    plain = config(half("fcmae"), "resnet10")  # batch norms: resenc-s has no running moments
    release = pretrain(phantoms.with_name("studies.csv"), tmp_path / "a", plain)
    going_on = replace(plain, begin="release", begin_source=str(release))
    pretrained = pretrain(phantoms.with_name("studies.csv"), tmp_path / "b", going_on)
    made = PreMIM.from_pretrained(average_with_beginning([pretrained], tmp_path / "mean", going_on, 0.25))
    before, after = (PreMIM.from_pretrained(each) for each in (release, pretrained))
    old, new = before.encoder.state_dict(), after.encoder.state_dict()
    for name, value in made.encoder.state_dict().items():
        expected = 0.75 * old[name] + 0.25 * new[name] if value.is_floating_point() else new[name]
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    assert any("running_var" in name and not torch.equal(old[name], new[name]) for name in old)
    assert made.studies == after.studies and made.revision not in (before.revision, after.revision)
    assert made.details["averaged_with_beginning"] == {"begin": "release", "share": 0.25, "pretrainings": 1}
    with pytest.raises(UsageError, match="random ones know nothing"):
        average_with_beginning([release], tmp_path / "no", plain, 0.5)
    with pytest.raises(UsageError, match=r"average is 1\.5; .* above 0 and below 1"):
        average_with_beginning([pretrained], tmp_path / "no", going_on, 1.5)
    assert not (tmp_path / "no").exists()


def test_a_decoder_alone(phantoms: Path, tmp_path: Path) -> None:
    """freeze_encoder: the weights that it began with stay bit for bit, norms' statistics too; the decoder learns."""
    begin = PreMIM("effnet-lite0", SPEC, name="effnet-lite0.begun").save_pretrained(tmp_path / "begin")
    made = replace(
        config(half("fcmae"), "effnet-lite0"),
        begin="release",
        begin_source=str(begin),
        freeze_encoder=True,
    )
    release = pretrain(phantoms.parent / "studies.csv", tmp_path / "run", made)
    before, after = (PreMIM.from_pretrained(folder).encoder.state_dict() for folder in (begin, release))
    assert all(torch.equal(before[key], after[key]) for key in before)
    fresh, learnt = make_model(made).reconstructor().state_dict(), load_file(release / "decoder.safetensors")
    assert any(not torch.equal(fresh[key], learnt[key]) for key in fresh)
    free = replace(made, freeze_encoder=False)
    other = pretrain(phantoms.parent / "studies.csv", tmp_path / "free", free)
    weights = PreMIM.from_pretrained(other).encoder.state_dict()
    assert any(not torch.equal(before[key], weights[key]) for key in before), "the control: without it, they move"


def test_freezing_needs_weights() -> None:
    """Random weights that never learn are a mistake."""
    with pytest.raises(UsageError, match="begin that is not random"):
        replace(config(METHODS["fcmae"]), freeze_encoder=True)
