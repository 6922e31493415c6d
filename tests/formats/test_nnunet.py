"""Initial weights for nnU-Net: built and loaded by nnU-Net's own code, with the features of the encoder.

nnU-Net is no dependency of the project (it brings torchvision and CUDA). Its code is looked for in ``.nnunet/`` of the
project's folder, installed without dependencies; without it these tests are skipped.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from prostate_mim.encoder import PreMIM, golden_input
from prostate_mim.errors import BackendError, UsageError, VerificationError
from prostate_mim.formats import nnunet
from prostate_mim.spec import InputSpec

NNUNET = Path(__file__).resolve().parents[2] / ".nnunet"
THEIRS = ("nnunetv2", "dynamic_network_architectures", "batchgenerators")
CLASSES = 3  # not the number of classes that the file was written with


def forget_theirs():
    for name in [name for name in sys.modules if name.split(".")[0] in THEIRS]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def theirs():
    """nnU-Net can be imported while these tests run, and no longer."""
    sys.path.insert(0, str(NNUNET))
    try:
        for module in ("dynamic_network_architectures", "nnunetv2.utilities.get_network_from_plans"):
            pytest.importorskip(module, reason=f"{module} is not installed in .nnunet/", exc_type=ImportError)
        yield
    finally:
        sys.path.remove(str(NNUNET))
        forget_theirs()


def made(architecture="resenc-s", **keywords):
    torch.manual_seed(0)
    return PreMIM(architecture, InputSpec(size_zyx=(8, 32, 32)), name=f"{architecture}.random", **keywords).eval()


@pytest.fixture(scope="module")
def encoder():
    return made()


@pytest.fixture(scope="module")
def folder(theirs, encoder, tmp_path_factory):
    return nnunet.write_nnunet(encoder, tmp_path_factory.mktemp("nnunet") / "out")


def built(folder, channels=1, deep_supervision=True):
    """As nnU-Net's trainer builds it from the plans."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    plan = json.loads((folder / "architecture.json").read_text())
    return get_network_from_plans(
        plan["network_class_name"], plan["arch_kwargs"], plan["_kw_requires_import"], channels, CLASSES,
        allow_init=True, deep_supervision=deep_supervision,
    )  # fmt: skip


def loaded(folder, **keywords):
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    network = built(folder, **keywords)
    load_pretrained_weights(network, str(folder / "initial_weights.pth"))
    return network.eval()


@torch.inference_mode()
def features_differ_by(network, encoder):
    sample = golden_input(encoder.encoder.total_stride_zyx, encoder.encoder.in_channels)
    pairs = zip(network.eval().encoder(sample)[1:], encoder(sample), strict=True)
    return max(float((ours - theirs).abs().max()) for ours, theirs in pairs)


def test_nnunet_gets_the_features_of_the_encoder(folder, encoder):
    """Built and loaded by nnU-Net's code for another number of classes; without loading they are others."""
    network = loaded(folder)
    assert type(network) is nnunet.PretrainedUNet
    assert features_differ_by(network, encoder) <= 1e-5
    assert features_differ_by(built(folder), encoder) > 0.1


def test_the_folder_holds_tensors_the_plan_and_how_to_use_them(folder):
    """Read as tensors only; no segmentation layer, since those depend on the classes; the README has every value."""
    assert {path.name for path in folder.iterdir()} == {"initial_weights.pth", "architecture.json", "README.md"}
    state = torch.load(folder / "initial_weights.pth", weights_only=True)
    assert set(state) == {"network_weights"}
    assert not [key for key in state["network_weights"] if "seg_layers" in key]
    text = (folder / "README.md").read_text()
    assert '"spacing": [3.0, 0.5, 0.5]' in text and '"patch_size": [8, 32, 32]' in text
    assert "not a medical device" in text and "{" not in text.replace('"3d_prostate_mim": {', "")


def test_the_same_encoder_gives_the_same_bytes(folder, encoder, tmp_path):
    """The random parts too, whatever was drawn before."""
    torch.rand(7)
    again = nnunet.write_nnunet(encoder, tmp_path / "again")
    for name in ("initial_weights.pth", "architecture.json", "README.md"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_logits_have_the_sizes_that_the_trainer_expects(folder):
    """Of a crop 16 x 64 x 64: one per scale of nnU-Net's deep supervision, which it reads from the plans."""
    network, crop = loaded(folder), torch.randn(2, 1, 16, 64, 64)
    strides = json.loads((folder / "architecture.json").read_text())["arch_kwargs"]["strides"]
    scales = (1 / np.cumprod(np.vstack(strides), axis=0))[:-1]  # nnUNetTrainer._get_deep_supervision_scales
    with torch.inference_mode():
        logits = network(crop)
        assert [tuple(one.shape) for one in logits] == [
            (2, CLASSES, *(int(n) for n in scale * (16, 64, 64))) for scale in scales
        ]
        network.decoder.deep_supervision = False  # nnUNetTrainer.set_deep_supervision_enabled
        assert torch.equal(network(crop), logits[0])
    assert network.compute_conv_feature_map_size((16, 64, 64)) == outputs_of_convolutions(network, crop[:1])


def outputs_of_convolutions(network, crop):
    """Counted where they happen, without the smaller segmentation layers."""
    counted = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output: counted.append(output.numel()))
        for module in network.modules()
        if isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d)
    ]
    with torch.inference_mode():
        network(crop)
    for hook in hooks:
        hook.remove()
    return sum(counted)


def test_training_reaches_every_weight(folder):
    """A step of the loss on all scales: a gradient that is not 0 in every tensor of encoder, stem and decoder."""
    network = loaded(folder).train()
    sum(one.square().mean() for one in network(torch.randn(1, 1, 16, 64, 64))).backward()
    still = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    # A constant before instance norm changes nothing: these biases are nnU-Net's own, and idle in its networks too.
    assert [name for name in still if not name.endswith("conv.bias")] == []


@pytest.mark.parametrize("channels", [3])
def test_further_channels(theirs, tmp_path, channels):
    """An encoder widened for further inputs; nnU-Net's network has as many."""
    wide = made(details={"in_chans": channels})
    folder = nnunet.write_nnunet(wide, tmp_path / "wide")
    assert features_differ_by(loaded(folder, channels=channels), wide) <= 1e-5
    assert "3 channels in this order: t2w, one of your own" in (folder / "README.md").read_text()


@pytest.mark.parametrize("architecture", ["resenc-b", "resenc-l"])
def test_larger_encoders(theirs, tmp_path, architecture):
    """They are written, and so verified."""
    assert (nnunet.write_nnunet(made(architecture), tmp_path / "out") / "initial_weights.pth").is_file()


@pytest.mark.parametrize("installed", [True, False])
def test_a_changed_weight_is_found(encoder, theirs, tmp_path, monkeypatch, installed):
    """With nnU-Net's loader and, where only its blocks are installed, with ours; nothing is left behind."""
    if not installed:
        monkeypatch.setitem(sys.modules, "nnunetv2", None)
        monkeypatch.delitem(sys.modules, "nnunetv2.run.load_pretrained_weights", raising=False)
        monkeypatch.delitem(sys.modules, "nnunetv2.utilities.get_network_from_plans", raising=False)
    assert nnunet.write_nnunet(encoder, tmp_path / "good").is_dir()
    portable = nnunet._portable

    def changed(network):
        weights = portable(network)
        weights["encoder.pretrained.stages.2.1.conv2.conv.weight"][5, 4, 1, 1, 1] += 1e-6
        return weights

    monkeypatch.setattr(nnunet, "_portable", changed)
    with pytest.raises(VerificationError, match=r"stages\.2\.1\.conv2\.conv\.weight"):
        nnunet.write_nnunet(encoder, tmp_path / "bad")
    assert [path.name for path in tmp_path.iterdir()] == ["good"]


def test_other_features_are_found(encoder, theirs, tmp_path, monkeypatch):
    """The same weights in a network that computes something else (a factor would vanish in group norm)."""
    forward = nnunet.NnUNetEncoder.forward
    monkeypatch.setattr(nnunet.NnUNetEncoder, "forward", lambda self, voxels: forward(self, voxels + 0.001))
    with pytest.raises(VerificationError, match="features of stage 0 differ"):
        nnunet.write_nnunet(encoder, tmp_path / "bad")
    assert list(tmp_path.iterdir()) == []


def test_nnunet_refuses_weights_of_another_encoder(folder, theirs, tmp_path):
    """nnU-Net's loader, not ours: the plans name resenc-b, the weights are of resenc-s."""
    plan = json.loads((folder / "architecture.json").read_text())
    plan["arch_kwargs"]["architecture"] = "resenc-b"
    (tmp_path / "architecture.json").write_text(json.dumps(plan))
    (tmp_path / "initial_weights.pth").symlink_to(folder / "initial_weights.pth")
    with pytest.raises(AssertionError, match="shape of the parameters"):
        loaded(tmp_path)


def test_other_architectures_and_strides_are_refused(theirs, tmp_path):
    """In one line, with what to do."""
    with pytest.raises(UsageError, match=r"'effnet-lite0' cannot .* only resenc-s, resenc-b, resenc-l; pretrain"):
        nnunet.write_nnunet(PreMIM("effnet-lite0"), tmp_path / "out")
    with pytest.raises(UsageError, match=r"strides of the plans .* take architecture\.json"):
        nnunet.PretrainedUNet(1, 2, strides=[[1, 1, 1]] * 5)


def test_a_folder_that_holds_something_is_left_alone(encoder, theirs, tmp_path):
    """Refused, as every writer of folders does."""
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        nnunet.write_nnunet(encoder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_missing_blocks_are_named(encoder, tmp_path, monkeypatch):
    """Without nnU-Net's blocks: what to install, in such a way that it does not bring its own torch."""
    monkeypatch.setitem(sys.modules, "dynamic_network_architectures", None)
    for name in [name for name in sys.modules if name.startswith("dynamic_network_architectures.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(BackendError, match="pip install --no-deps dynamic-network-architectures"):
        nnunet.write_nnunet(encoder, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
