"""studies.json: a closed schema, nobody's name, one key a model, and it stays with the weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prostate_mim.classifier import LesionClassifier
from prostate_mim.encoder import PreMIM
from prostate_mim.errors import IntegrityError
from prostate_mim.hub import Studies, read_release
from prostate_mim.hub.release import write_sums
from prostate_mim.hub.studies import STUDIES, study_key
from prostate_mim.leaks import StudyHashes

ONE, TWO, THREE = (digit * 64 for digit in "123")
KEY, OTHER_KEY = "0" * 32, "f" * 32


@pytest.fixture(scope="module")
def encoder() -> PreMIM:
    torch.manual_seed(0)
    return PreMIM(studies=Studies(pretraining=StudyHashes.make([ONE, TWO], KEY))).eval()


@pytest.fixture
def release(encoder: PreMIM, tmp_path: Path) -> Path:
    return encoder.save_pretrained(tmp_path / "release", dtype="float16")


def test_membership_and_nothing_else():
    """It knows its studies, and holds no hash that could be compared with anything; by hand: 32 hex digits each."""
    seen = StudyHashes.make([ONE, TWO, ONE], KEY)
    assert seen.contains(ONE) and seen.contains(TWO) and not seen.contains(THREE)
    assert len(seen.digests) == 2
    assert all(len(digest) == 32 and digest not in ONE + TWO for digest in seen.digests)
    assert seen.extended([THREE]).contains(THREE) and seen.extended([THREE]).contains(ONE)
    assert StudyHashes.from_dict(json.loads(json.dumps(seen.to_dict()))) == seen


def test_one_study_has_another_digest_in_another_release():
    """So two releases cannot be compared; under one key they could."""
    assert not StudyHashes.make([ONE], KEY).digests & StudyHashes.make([ONE], OTHER_KEY).digests
    assert StudyHashes.make([ONE], KEY).digests & StudyHashes.make([ONE, TWO], KEY).digests
    torch.manual_seed(1)
    first, second = (PreMIM().encoder.state_dict() for _ in range(2))
    assert study_key(first) == study_key(first) != study_key(second)


def test_encoder_keeps_them(release: Path, encoder: PreMIM, tmp_path: Path):
    """Saved, loaded and saved again; listed in SHA256SUMS; the card counts them. Without any there is no file."""
    loaded = PreMIM.from_pretrained(release)
    assert loaded.studies == encoder.studies
    again = loaded.save_pretrained(tmp_path / "again", dtype="float16")
    assert (again / STUDIES).read_bytes() == (release / STUDIES).read_bytes()
    assert STUDIES in (release / "SHA256SUMS").read_text()
    assert "2 studies of its pretraining" in (release / "README.md").read_text()
    plain = PreMIM().save_pretrained(tmp_path / "plain")
    assert not (plain / STUDIES).exists()
    assert read_release(plain).studies == Studies()
    assert "Which studies" not in (plain / "README.md").read_text()


def test_classifier_keeps_both(encoder: PreMIM, tmp_path: Path):
    """Those of the encoder's pretraining and its own."""
    model = LesionClassifier(encoder)
    assert model.studies == encoder.studies
    model.studies = Studies(encoder.studies.pretraining, StudyHashes.make([THREE], OTHER_KEY))
    folder = model.save_pretrained(tmp_path / "classifier")
    loaded = LesionClassifier.from_pretrained(folder)
    assert loaded.studies == model.studies
    assert [seen.contains(THREE) for seen in loaded.studies.known] == [False, True]
    assert "2 studies of its pretraining and of 1 studies of its fine-tuning" in (folder / "README.md").read_text()


def _edit(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    def edited(text: str) -> str:
        values = json.loads(text)
        change(values)
        return json.dumps(values)

    return edited


DAMAGE: dict[str, Callable[[str], str]] = {
    "empty": lambda text: "",
    "cut": lambda text: text[: len(text) // 2],
    "no object": lambda text: "[]",
    "deep": lambda text: "[" * 100_000,
    "format": _edit(lambda values: values.update(format=2)),
    "surplus": _edit(lambda values: values.update(names=["p1"])),
    "nothing": _edit(lambda values: values.pop("pretraining")),
    "no key": _edit(lambda values: values["pretraining"].pop("key")),
    "short key": _edit(lambda values: values["pretraining"].update(key="0" * 31)),
    "identifiers": _edit(lambda values: values["pretraining"].update(patients=["p1"])),
    "plain hash": _edit(lambda values: values["pretraining"].update(digests=[ONE])),
    "a name": _edit(lambda values: values["pretraining"].update(digests=["x" * 32])),
    "twice": _edit(lambda values: values["pretraining"].update(digests=values["pretraining"]["digests"] * 2)),
    "capitals": _edit(lambda values: values["pretraining"].update(key="F" * 32)),
    "a number": _edit(lambda values: values["pretraining"].update(digests=[1])),
    "null": _edit(lambda values: values.update(pretraining=None)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_closed_schema(release: Path, damage: str):
    """Right checksums, wrong content: refused, naming the file. Rewritten as it was, it is read."""
    path = release / STUDIES
    text = path.read_text()
    path.write_text(_edit(lambda values: None)(text))
    write_sums(release)
    PreMIM.from_pretrained(release)  # the control
    path.write_text(DAMAGE[damage](text))
    write_sums(release)
    with pytest.raises(IntegrityError, match=r"studies\.json"):
        PreMIM.from_pretrained(release)


def test_file_that_is_not_listed(release: Path, encoder: PreMIM, tmp_path: Path):
    """Dropped from SHA256SUMS, flipped, or gone: refused, so that nobody can take the alarm away unseen."""
    sums = release / "SHA256SUMS"
    whole = sums.read_text()
    sums.write_text("".join(line for line in whole.splitlines(True) if STUDIES not in line))
    with pytest.raises(IntegrityError, match=r"does not list studies\.json"):
        read_release(release)
    sums.write_text(whole)
    data = bytearray((release / STUDIES).read_bytes())
    data[-9] ^= 1
    (release / STUDIES).write_bytes(data)
    with pytest.raises(IntegrityError, match=r"studies\.json: sha256"):
        read_release(release)
    shutil.move(release / STUDIES, tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match=r"studies\.json is missing"):
        read_release(release)
