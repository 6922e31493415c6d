"""Fine-tuning refuses studies and persons on both sides before it trains, and writes down what was allowed."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from prostate_mim import LesionClassifier, PreMIM, finetune, pretrain, read_volume
from prostate_mim.engine.overlap import summary
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.errors import ManifestError, NotFoundError
from prostate_mim.finetuning import FinetuneConfig
from prostate_mim.hub import Studies
from prostate_mim.leaks import Leak, StudyHashes
from prostate_mim.pretraining import PretrainConfig
from prostate_mim.spec import InputSpec
from prostate_mim.volume import Volume, write_volume
from prostate_mim.volume.voxel_hash import voxel_hash

CONFIG = FinetuneConfig(folds=2, loop=LoopConfig(device="cpu", seed=3))
Edit = Callable[[list[dict[str, str]]], object]


@pytest.fixture
def model(small_encoder: Path) -> LesionClassifier:
    return LesionClassifier(PreMIM.from_pretrained(small_encoder))


@pytest.fixture
def table(cohort: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a manifest of the cohort's first lesions of eight patients, edited."""
    with cohort.open(newline="") as stream:
        rows = [{name: row[name] for name in ("study_id", "patient_id", "t2w", "lesion_id", "label", "position_mm_lps")}
                for row in csv.DictReader(stream)]  # fmt: skip
    rows = list({row["patient_id"]: row for row in rows}.values())[:8]
    for n, row in enumerate(rows):
        row |= {"t2w": str(cohort.parent / row["t2w"]), "label": str(n % 2), "fold": str(n // 2 % 2)}

    def write(edit: Edit = lambda rows: None) -> Path:
        edit(rows)
        with (tmp_path / "m.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return tmp_path / "m.csv"

    return write


def copied(tmp_path: Path) -> Edit:
    """The first image once more, in another format, under another patient's id, in the other fold, in another type."""

    def edit(rows: list[dict[str, str]]) -> None:
        found = read_volume(rows[0]["t2w"])
        write_volume(Volume(found.voxels.astype(np.float32), found.geometry), tmp_path / "copy.mha")
        rows[2] |= {"t2w": str(tmp_path / "copy.mha"), "position_mm_lps": rows[0]["position_mm_lps"]}

    return edit


def test_without_leaks_nothing_is_said(
    table: Callable[..., Path], model: LesionClassifier, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The control of all that follows; the release then knows its studies, the next fine-tuning is warned of them."""
    manifest = table()
    run = finetune(model, manifest, tmp_path / "run", CONFIG)
    assert run.allowed_overlap == ()
    assert "allowed overlap" not in capfd.readouterr().err
    assert json.loads((tmp_path / "run" / "results.json").read_text())["allowed_overlap"] == []
    again = LesionClassifier.from_pretrained(run.release)
    assert again.studies.pretraining is None
    assert again.studies.fine_tuning is not None
    assert len(again.studies.fine_tuning.digests) == 8
    with pytest.raises(ManifestError, match="the model was trained on this study"):
        finetune(again, manifest, tmp_path / "again", CONFIG)
    text = "".join(path.read_text() for path in run.release.glob("*.[jm][sd]*") if path.suffix in (".json", ".md"))
    with manifest.open(newline="") as stream:
        for row in csv.DictReader(stream):
            assert not any(row[name] in text for name in ("study_id", "patient_id", "t2w"))
            assert voxel_hash(read_volume(row["t2w"])) not in text


def test_one_image_under_two_patients(table: Callable[..., Path], model: LesionClassifier, tmp_path: Path) -> None:
    """Refused in whatever format, by rows, before anything is trained; allowed, every result says so."""
    manifest = table(copied(tmp_path))
    with pytest.raises(ManifestError, match=r"rows 1, 3: the same voxels under 2 patient ids"):
        finetune(model, manifest, tmp_path / "run", CONFIG)
    assert list((tmp_path / "run").iterdir()) == []
    run = finetune(model, manifest, tmp_path / "run", CONFIG, allow_overlap=True)
    (message,) = run.allowed_overlap
    assert message.startswith("rows 1, 3: the same voxels")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    released = LesionClassifier.from_pretrained(run.release).details["finetuning"]
    assert results["allowed_overlap"] == record["allowed_overlap"] == released["allowed_overlap"] == [message]


def test_one_person_of_two_sets(table: Callable[..., Path], model: LesionClassifier, tmp_path: Path) -> None:
    """Joined by the user's table and in two folds: refused; without the table, or in one fold, not."""
    labels = tmp_path / "picai_labels"
    labels.mkdir()

    def edit(rows: list[dict[str, str]]) -> None:
        rows[0]["patient_id"], rows[2]["patient_id"] = "ProstateX-0000", "11373"

    manifest = table(edit)
    with pytest.raises(NotFoundError, match=r"ProstateX-mapping\.json"):
        finetune(model, manifest, tmp_path / "a", CONFIG, picai_labels=labels)
    (labels / "ProstateX-mapping.json").write_text(json.dumps({"ProstateX-0000_07-07-2011": "11373_1001396"}))
    with pytest.raises(ManifestError, match=r"rows 1, 3: one person under several patient ids in 2 folds") as caught:
        finetune(model, manifest, tmp_path / "a", CONFIG, picai_labels=labels)
    assert "11373" not in str(caught.value)
    finetune(model, manifest, tmp_path / "b", CONFIG)
    together = table(lambda rows: [row.update(fold=rows[0]["fold"]) for row in (rows[2],)])
    finetune(model, together, tmp_path / "c", CONFIG, picai_labels=labels)


def test_what_pretraining_saw(table: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Pretrain on two of the studies: the release knows them, and fine-tuning on all is refused for those two rows."""
    manifest = table()
    with manifest.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    with (tmp_path / "seen.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["study_id", "patient_id", "t2w"], *([f"x{n}", f"y{n}", rows[n]["t2w"]] for n in (1, 4))])
    spec = InputSpec(size_zyx=(8, 32, 32))
    loop = LoopConfig(steps=1, batch=1, warmup=1, device="cpu", trackers=())
    config = PretrainConfig(spec=spec, region_zyx=(8, 32, 32), jitter_zyx=(0, 0, 0), loop=loop)
    encoder = PreMIM.from_pretrained(pretrain(tmp_path / "seen.csv", tmp_path / "mim", config))
    seen = encoder.studies.pretraining
    assert seen is not None and len(seen.digests) == 2
    held = [voxel_hash(read_volume(row["t2w"])) for row in rows]
    assert [seen.contains(one) for one in held] == [n in (1, 4) for n in range(8)]
    with pytest.raises(ManifestError, match=r"row 2: the model was trained on this study.*first of 2 findings"):
        finetune(LesionClassifier(encoder), manifest, tmp_path / "run", CONFIG)
    capfd.readouterr()
    run = finetune(LesionClassifier(encoder), manifest, tmp_path / "run", CONFIG, allow_overlap=True)
    assert [message.split(":")[0] for message in run.allowed_overlap] == ["row 2", "row 5"]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["allowed_overlap"] == list(run.allowed_overlap)
    (said,) = [line for line in capfd.readouterr().err.splitlines() if "overlap" in line]
    assert said.startswith("warning: allowed overlap: 2 findings (2 model saw it): row 2; row 5; every one is listed")
    assert LesionClassifier.from_pretrained(run.release).studies.pretraining == seen
    # The control: another key, and the digests are of no use.
    encoder.studies = Studies(pretraining=StudyHashes("0" * 32, seen.digests))
    assert finetune(LesionClassifier(encoder), manifest, tmp_path / "other", CONFIG).allowed_overlap == ()


def test_studies_of_two_models_share_no_digest(small_encoder: Path, table: Callable[..., Path], tmp_path: Path) -> None:
    """Two classifiers of the same studies: two keys, and no digest in common."""
    manifest = table()
    torch.manual_seed(5)
    encoders = [PreMIM.from_pretrained(small_encoder), PreMIM(spec=InputSpec(size_zyx=(8, 32, 32)))]
    runs = [finetune(LesionClassifier(one), manifest, tmp_path / str(n), CONFIG) for n, one in enumerate(encoders)]
    one, two = (LesionClassifier.from_pretrained(run.release).studies.fine_tuning for run in runs)
    assert one is not None and two is not None
    assert one.key != two.key
    assert len(one.digests) == len(two.digests) == 8
    assert not one.digests & two.digests


def test_many_findings_are_one_line() -> None:
    """Counts of each kind, the first three, and where all are; a single one is said in full."""
    leaks = [Leak("model saw it", (n,), f"row {n}: the model was trained on this study") for n in range(1, 1501)]
    leaks.append(Leak("same voxels", (3, 9), "rows 3, 9: the same voxels under 2 patient ids"))
    line = summary(leaks)
    assert line.startswith("1501 findings (1500 model saw it, 1 same voxels): row 1; row 2; row 3 and 1498 more; ")
    assert "allowed_overlap in results.json, run.json and the release" in line and len(line) < 250
    assert summary(leaks[:3]).startswith("3 findings (3 model saw it): row 1; row 2; row 3; every one")
    assert summary(leaks[-1:]) == leaks[-1].message
