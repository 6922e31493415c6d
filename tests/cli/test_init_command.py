"""prostate-mim init: a table, a release folder, and one line for everything that goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from outcomes import refused

from prostate_mim.encoder import PreMIM
from prostate_mim.initialisations import INITIALISATIONS


def test_the_table(run) -> None:
    """Every initialisation with its licence, for a person and as JSON; nothing is made."""
    shown, listed = run("init", "--list"), run("init", "--list", "--json")
    assert shown.code == listed.code == 0
    for name, one in INITIALISATIONS.items():
        assert f"{name}: {one.what}" in shown.out
        assert f"licence: {one.licence}" in shown.out
    assert [row["name"] for row in listed.json] == list(INITIALISATIONS)
    assert listed.json[0]["architectures"] == ["all"]


def test_random(run, tmp_path: Path) -> None:
    """Seed, name, crop and spacing arrive in the release; the same command gives the same weights."""
    options = ("--architecture", "effnet-lite0", "--seed", 7, "--size", "8 32 32", "--spacing", "3 0.6 0.6")
    made = run("init", "random", *options, "--name", "effnet-lite0.r7", "--out", tmp_path / "a", "--json")
    assert made.code == 0, made.err
    assert made.json["details"]["initialisation"]["seed"] == 7
    assert run("init", "random", *options, "--out", tmp_path / "b").code == 0
    first, second = PreMIM.from_pretrained(tmp_path / "a"), PreMIM.from_pretrained(tmp_path / "b")
    assert first.name == "effnet-lite0.r7"
    assert first.spec.size_zyx == (8, 32, 32)
    assert first.spec.spacing_mm_zyx == (3.0, 0.6, 0.6)
    assert first.revision == second.revision
    assert run("verify", tmp_path / "a").code == 0


def test_norms_of_training_studies(run, cohort: Path, tmp_path: Path) -> None:
    """Statistics are set, weights are not; the release says of how many crops, and that it has seen these studies."""
    options = ("--architecture", "effnet-lite0", "--size", "8 32 32", "--out")
    assert run("init", "random", *options, tmp_path / "plain").code == 0
    made = run("init", "random", *options, tmp_path / "set", "--norms", cohort, "--json")
    assert made.code == 0, made.err
    assert made.json["details"]["norms"] == {"crops": 23, "batch": 8}  # lesions
    plain, calibrated = PreMIM.from_pretrained(tmp_path / "plain"), PreMIM.from_pretrained(tmp_path / "set")
    own = calibrated.encoder.state_dict()
    for key, value in plain.encoder.state_dict().items():
        assert torch.equal(value, own[key]) != key.endswith(("running_mean", "running_var", "num_batches_tracked"))
    assert plain.studies.pretraining is not None
    assert calibrated.studies.pretraining is not None
    assert len(plain.studies.pretraining.digests) == 0
    assert len(calibrated.studies.pretraining.digests) == 12
    refused(
        run("init", "random", "--architecture", "resenc-s", "--out", tmp_path / "c", "--norms", cohort), 2, "--norms"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "--list"),
        (("random",), 2, "--architecture"),
        (("random", "--architecture", "effnet-lite0"), 2, "--out"),
        (("nothing", "--architecture", "effnet-lite0", "--out", "x"), 3, "choose one of"),
        (("random", "--architecture", "nothing", "--out", "x"), 3, "known:"),
        (("imagenet", "--architecture", "resenc-s", "--out", "x"), 2, "effnet-lite0"),
        (("medicalnet", "--architecture", "resnet10", "--out", "x"), 2, "--source"),
        (("medicalnet", "--architecture", "resnet10", "--source", "no.pth", "--out", "x"), 3, "no such file"),
        (("random", "--architecture", "effnet-lite0", "--size", "9 32 32", "--out", "x"), 2, "multiple"),
        (("release", "--architecture", "resenc-s", "--source", "no-such-model", "--out", "x"), 3, "no-such-model"),
    ],
)
def test_refusals(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments, code: int, says: str) -> None:
    """One line, its exit code, and no folder."""
    monkeypatch.chdir(tmp_path)
    refused(run("init", *arguments), code, says)
    assert not (tmp_path / "x").exists()


def test_a_wrong_hash(run, tmp_path: Path) -> None:
    """A file that is not the expected one: integrity, exit code 5."""
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    arguments = ("--architecture", "resnet10", "--source", tmp_path / "w.pth", "--out", tmp_path / "x")
    refused(run("init", "medicalnet", *arguments, "--sha256", "0" * 64), 5, "expected 0000000000000000")
    refused(run("init", "medicalnet", *arguments), 5, "no MedicalNet ResNet")


def test_a_folder_in_the_way(run, tmp_path: Path) -> None:
    """What lies there stays."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("kept")
    refused(run("init", "random", "--architecture", "effnet-lite0", "--out", tmp_path / "x"), 2, "x")
    assert (tmp_path / "x" / "mine").read_text() == "kept"
