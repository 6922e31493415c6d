"""LesionClassifier: every kind of it is saved, read and exported as what it is; older releases stay what they were."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from prostate_mim import LesionClassifier, OnnxClassifier, PreMIM
from prostate_mim.classifier import Layout, flipped
from prostate_mim.classifier.heads import Head, pooled_logit
from prostate_mim.errors import IntegrityError, UsageError, VolumeError
from prostate_mim.hub.release import write_sums
from prostate_mim.spec import InputSpec
from prostate_mim.volume import Geometry, Volume

SPEC = InputSpec(size_zyx=(8, 32, 32))
BATCH = torch.randn(2, 1, 8, 32, 32, generator=torch.Generator().manual_seed(0))


def made(seed: int = 0, architecture: str = "resenc-s", temperature: float = 1.0, **kind: str) -> LesionClassifier:
    """A classifier with random weights everywhere: zeros would hide what is not read."""
    torch.manual_seed(seed)
    model = LesionClassifier(PreMIM(architecture, SPEC), **kind)
    with torch.no_grad():
        model.head.linear.weight.normal_(std=0.1)
        model.head.mean.normal_(std=0.1)
        model.head.scale.uniform_(0.5, 2)
        model.temperature.fill_(temperature)
        if kind.get("head") == "attentive":
            model.pool.query.normal_()
    return model.eval()


def study(shape: tuple[int, int, int] = (8, 40, 40)) -> Volume:
    voxels = np.random.default_rng(0).normal(300, 50, shape).astype(np.float32)
    return Volume(voxels, Geometry((3.0, 0.5, 0.5)), source="test")


KINDS = {
    "attentive": lambda: made(head="attentive"),
    "mean": lambda: made(pooling="mean", architecture="resnet10"),
    "isup": lambda: made(target="isup", head="attentive", pooling="mean"),
    "calibrated": lambda: made(temperature=2.5),
    "ensemble": lambda: LesionClassifier.ensemble(
        [made(seed, "resnet10", head="attentive", target="isup", temperature=1.0 + seed) for seed in (0, 1)]
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_as_it_was_saved(kind: str, tmp_path: Path) -> None:
    """Same layout, bit-equal logits; and what it is stands in config.json."""
    model = KINDS[kind]()
    release = model.save_pretrained(tmp_path / "r")
    again = LesionClassifier.from_pretrained(release)
    with torch.inference_mode():
        assert torch.equal(model(BATCH), again(BATCH))
        assert torch.equal(model.cumulative(BATCH), again.cumulative(BATCH))
    assert again.layout == model.layout
    assert json.loads((release / "config.json").read_text())["details"]["classifier"] == model.layout.to_dict()
    assert "classifier" not in again.details  # it describes this network, not one that is made of it


def test_the_plain_kind_is_saved_as_it_always_was(tmp_path: Path) -> None:
    """No section, no further tensor: versions before this one read it, and this one reads theirs."""
    release = made().save_pretrained(tmp_path / "r")
    assert "classifier" not in json.loads((release / "config.json").read_text())["details"]
    from safetensors.torch import load_file

    names = set(load_file(release / "model.safetensors"))
    heads = {"head.mean", "head.scale", "head.linear.weight", "head.linear.bias"}
    assert {name for name in names if not name.startswith("encoder.")} == heads
    assert LesionClassifier.from_pretrained(release).layout == Layout()


@pytest.mark.parametrize(
    "section", [{"head": "linear"}, "linear", {"head": "x", "pooling": "mean", "target": "label", "members": 1},
                {"head": "linear", "pooling": "mean", "target": "label", "members": 10**9}],
)  # fmt: skip
def test_a_strange_section_is_refused(section: object, tmp_path: Path) -> None:
    """A closed schema, and no billion networks."""
    release = made(pooling="mean").save_pretrained(tmp_path / "r")
    config = json.loads((release / "config.json").read_text())
    config["details"]["classifier"] = section
    (release / "config.json").write_text(json.dumps(config))
    write_sums(release)
    with pytest.raises(IntegrityError, match="section 'classifier'"):
        LesionClassifier.from_pretrained(release)


@pytest.mark.parametrize("kind", ["ensemble", "mean"])
def test_onnx_gives_the_same(kind: str, tmp_path: Path) -> None:
    """One graph, also of an ensemble of ordinal, calibrated, attentive members: 1e-4 on a study of another file."""
    model = KINDS[kind]()
    deployed = OnnxClassifier(model.export_onnx(tmp_path / "a.onnx"), device="cpu")
    for place in (None, (8.0, 9.0, 12.0)):
        expected = model.predict(study(), place).probability
        assert deployed.predict(study(), place).probability == pytest.approx(expected, abs=1e-4)
        assert 0.01 < expected < 0.99


def test_an_ensemble_is_the_mean_of_probabilities() -> None:
    """Of its members', which stay as they were; the control: it is not the mean of logits."""
    members = [made(seed) for seed in range(3)]
    with torch.inference_mode():
        alone = torch.stack([torch.sigmoid(member(BATCH)) for member in members])
        together = LesionClassifier.ensemble(members)
        assert torch.allclose(torch.sigmoid(together(BATCH)), alone.mean(0), atol=1e-6)
        assert not torch.allclose(torch.sigmoid(together(BATCH)), torch.sigmoid(torch.logit(alone).mean(0)), atol=1e-4)
    assert not members[0].others
    for wrong in ([], [members[0], made(pooling="mean")], [together, members[0]]):
        with pytest.raises(UsageError, match="ensemble needs"):
            LesionClassifier.ensemble(wrong)


def test_members_of_an_ensemble_are_its_own_parts(tmp_path: Path) -> None:
    """In their order, each alone, of the ensemble's very tensors; the control: none gives the ensemble's logits."""
    given = [made(seed, "resnet10", temperature=1.0 + seed) for seed in range(3)]
    together = LesionClassifier.ensemble(given)
    found = together.members
    with torch.inference_mode():
        for one, alone in zip(given, found, strict=True):
            assert torch.equal(alone(BATCH), one(BATCH))
            assert torch.equal(alone.cumulative(BATCH), one.cumulative(BATCH))
            assert not torch.allclose(alone(BATCH), together(BATCH), atol=1e-3)
    assert [(len(alone.others), alone.layout.members) for alone in found] == [(0, 1)] * 3
    assert len(together.others) == 2 and together.layout.members == 3  # as it was
    pointers = {tensor.data_ptr() for tensor in together.state_dict().values()}
    assert {tensor.data_ptr() for alone in found for tensor in alone.state_dict().values()} == pointers
    together.double()
    assert {tensor.dtype for alone in found for tensor in alone.parameters()} == {torch.float64}
    together.float()
    again = LesionClassifier.from_pretrained(found[0].save_pretrained(tmp_path / "alone"))
    with torch.inference_mode():
        assert torch.equal(again(BATCH), given[0](BATCH))
    assert again.weights_sha256() == given[0].weights_sha256() == found[0].weights_sha256()


def test_the_member_of_a_single_model_is_itself() -> None:
    """No copy; and the list is no way to change an ensemble."""
    model = made()
    assert [one is model for one in model.members] == [True]
    together = LesionClassifier.ensemble([model, made(1)])
    together.members.clear()
    assert len(together.members) == 2
    with pytest.raises(AttributeError, match="members"):
        together.members = []  # type: ignore[misc]


def test_pooled_logits_of_sure_models() -> None:
    """At +-80 a float32 sigmoid is 0 or 1, whose logit is infinite; one logit alone stays itself."""
    sure = torch.tensor([80.0, -80.0, 3.0])
    assert torch.allclose(pooled_logit([sure, sure]), sure)
    assert torch.isinf(torch.logit(torch.sigmoid(sure)))[0]
    half = pooled_logit([torch.tensor(80.0), torch.tensor(-80.0)])
    assert float(half) == pytest.approx(0, abs=1e-5)


def test_temperature_divides_logits() -> None:
    """By hand; the order of lesions stays."""
    plain, calm = made(), made(temperature=4.0)
    with torch.inference_mode():
        assert torch.allclose(plain(BATCH) / 4, calm(BATCH))


def test_flips_are_left_right_only() -> None:
    """The mean of the crop and its mirror image along x, so that a study and its mirror image get one probability."""
    model, volume = made(), study((8, 32, 32))
    mirror = Volume(volume.voxels[:, :, ::-1].copy(), volume.geometry, source="mirror")
    assert model.predict(volume).probability != pytest.approx(model.predict(mirror).probability, abs=1e-5)
    both = model.predict(volume, flips=True).probability
    assert both == pytest.approx(model.predict(mirror, flips=True).probability, abs=1e-6)
    upside = Volume(volume.voxels[:, ::-1].copy(), volume.geometry, source="upside")
    assert both != pytest.approx(model.predict(upside, flips=True).probability, abs=1e-5)
    with torch.inference_mode():
        crop = model.prepare(volume)
        by_hand = torch.sigmoid(torch.stack([model(crop), model(crop.flip(-1))])).mean()
        assert float(torch.sigmoid(flipped(model, crop))) == pytest.approx(float(by_hand), abs=1e-6)


def test_ordinal_logits_are_parallel() -> None:
    """ISUP >= 1 to >= 5 fall, and their distances are the same for every lesion; >= 2 is the classifier's."""
    model = made(target="isup")
    with torch.inference_mode():
        logits = model.cumulative(BATCH)
        assert logits.shape == (2, 5)
        assert torch.allclose(logits.diff(dim=1)[0], logits.diff(dim=1)[1], atol=1e-6)
        assert (logits.diff(dim=1) < 0).all()
        assert torch.equal(model(BATCH), logits[:, 1])
    assert Head(3).cumulative(torch.zeros(2, 3)).shape == (2, 1)


def test_masks_as_channels(tmp_path: Path) -> None:
    """A wider stem begins as if the mask were not there, and does not touch the encoder given; then it counts."""
    torch.manual_seed(0)
    encoder = PreMIM("resenc-s", SPEC)
    before = copy.deepcopy(encoder.state_dict())
    model = LesionClassifier(encoder, SPEC.with_channels("t2w", "gland"))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    volume = study()
    gland = Volume((volume.voxels > 330).astype(np.uint8), volume.geometry, source="gland")
    with pytest.raises(VolumeError, match="gland mask is missing"):
        model.predict(volume)
    plain = LesionClassifier(encoder)
    crop = model.prepare(volume, None, {"gland": gland})
    assert crop.shape == (1, 2, 8, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(model.eval().features(crop), plain.eval().features(plain.prepare(volume)), atol=1e-5)
    with torch.no_grad():
        model.head.linear.weight.normal_(0, 1e-3)  # small: a probability of 1 would tell nothing
        for parameter in model.encoder.encoder.parameters():
            parameter.add_(0.01)
    again = LesionClassifier.from_pretrained(model.save_pretrained(tmp_path / "r"))
    empty = Volume(np.zeros_like(gland.voxels), gland.geometry, source="gland")
    empty.voxels[0, 0, 0] = 1
    with_gland, without = (again.predict(volume, masks={"gland": mask}).probability for mask in (gland, empty))
    assert with_gland == model.predict(volume, masks={"gland": gland}).probability
    assert with_gland != without


def test_attention_looks_at_the_middle_or_everywhere() -> None:
    """With a query of zeros only places count: a Gaussian of 5 mm, or all cells alike, stages of one size in all."""
    for pooling, nearer in (("centre", True), ("mean", False)):
        pool = made(head="attentive", pooling=pooling).pool
        coarse = torch.zeros(1, 8, 4, 6, 6)
        weights = pool._prior(pool._stages[-1], coarse).softmax(0)[:, 0].reshape(4, 6, 6)
        assert (weights[1, 2, 2] > 2 * weights[0, 0, 0]) == nearer
        fine = pool._prior(pool._stages[-2], torch.zeros(1, 8, 8, 12, 12))
        sums = [torch.exp(part).sum() for part in (fine, pool._prior(pool._stages[-1], coarse))]
        assert float(sums[0] / sums[1]) == pytest.approx(1, rel=0.2)


def test_a_frozen_encoder_keeps_its_statistics() -> None:
    """In training mode, a frozen encoder's norms neither move nor use the batch; unfrozen (control) they do."""
    torch.manual_seed(0)
    model = LesionClassifier(PreMIM("effnet-lite0", SPEC))
    before = copy.deepcopy(model.encoder.state_dict())
    model.freeze().train()
    model(BATCH)
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
    assert model.head.training
    assert not any(p.requires_grad for p in model.encoder.parameters())
    assert all(p.requires_grad for p in model.head.parameters())
    model.freeze(False).train()
    model(BATCH)
    assert any(not torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
