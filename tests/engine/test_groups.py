"""Which parameters are decayed, at which rate each is trained, and the average that is published."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from prostate_mim.classifier import LesionClassifier
from prostate_mim.encoder import PreMIM
from prostate_mim.engine.average import WeightAverage
from prostate_mim.engine.groups import parameter_groups
from prostate_mim.errors import UsageError
from prostate_mim.mim import METHODS
from prostate_mim.nets.depth import parameter_depths
from prostate_mim.pretraining import PretrainConfig, make_model
from prostate_mim.spec import InputSpec

SPEC = InputSpec(size_zyx=(8, 32, 32))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(1, 4, 3)
        self.norm = nn.InstanceNorm3d(4, affine=True)
        self.body = nn.Conv3d(4, 4, 3, groups=4)
        self.last = nn.Conv3d(4, 4, 1, bias=False)
        self.token = nn.Parameter(torch.zeros(1, 4, 1, 1, 1))
        self.head = nn.Linear(4, 1)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


DEPTHS = {"stem.weight": 0, "stem.bias": 0, "norm.weight": 0, "norm.bias": 0, "body.weight": 1, "body.bias": 1,
          "last.weight": 2}  # fmt: skip


def settings(model: nn.Module, *arguments: object) -> dict[str, tuple[float, float]]:
    """Parameter name -> (scale, weight decay)."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, tuple[float, float]] = {}
    for group in parameter_groups(model, *arguments):
        for parameter in group["params"]:
            assert names[id(parameter)] not in found
            found[names[id(parameter)]] = group["scale"], group["weight_decay"]
    return found


def test_only_kernels_and_matrices_are_decayed() -> None:
    """However thin they are; biases, norms and tokens are not; what is frozen is in no group."""
    found = settings(Net(), 0.05)
    decayed = {name for name, (_, decay) in found.items() if decay}
    assert decayed == {"stem.weight", "body.weight", "last.weight", "head.weight"}
    assert {scale for scale, _ in found.values()} == {1.0}
    assert found.keys() == {name for name, p in Net().named_parameters() if p.requires_grad}


def test_layer_decay_by_hand() -> None:
    """0.5 at three resolutions: 1/8 at the input, 1/4, 1/2, and the whole rate for what is not of the encoder."""
    found = settings(Net(), 0.05, 0.5, DEPTHS)
    assert found == {
        "token": (1.0, 0.0), "stem.weight": (0.125, 0.05), "stem.bias": (0.125, 0.0), "norm.weight": (0.125, 0.0),
        "norm.bias": (0.125, 0.0), "body.weight": (0.25, 0.05), "body.bias": (0.25, 0.0), "last.weight": (0.5, 0.05),
        "head.weight": (1.0, 0.05), "head.bias": (1.0, 0.0),
    }  # fmt: skip
    assert {scale for scale, _ in settings(Net(), 0.05, 1.0, DEPTHS).values()} == {1.0}


def test_order_is_fixed() -> None:
    """An optimiser's state belongs to places; the same model gives the same places."""

    def shape() -> list[tuple[float, float, list[tuple[int, ...]]]]:
        groups = parameter_groups(Net(), 0.05, 0.5, DEPTHS)
        return [(g["scale"], g["weight_decay"], [tuple(p.shape) for p in g["params"]]) for g in groups]

    assert shape() == shape()


@pytest.mark.parametrize("method", METHODS)
def test_groups_of_every_method(method: str) -> None:
    """By the kind of the module that owns it: every parameter of a norm, every bias, every token is left alone."""
    model = make_model(PretrainConfig(spec=SPEC, method=METHODS[method]))
    found = settings(model, 0.05)

    def owned() -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
        for prefix, module in model.named_modules():
            for name, parameter in module.named_parameters(prefix, recurse=False):
                yield name, module, parameter

    for name, module, parameter in owned():
        kernel = name.endswith(".weight") and parameter.ndim > 1
        if parameter.requires_grad:
            assert (found[name][1] > 0) == kernel, name
        if "Norm" in type(module).__name__ or name.endswith("bias") or "token" in name:
            assert not kernel, name


def test_classifier_scales() -> None:
    """As fine-tuning asks for them: 0.5 to the 4th at the stem, 0.5 at the last resolution, 1 for the head."""
    model = LesionClassifier(PreMIM("resnet10", SPEC))
    depths = {f"encoder.encoder.{name}": depth for name, depth in parameter_depths(model.encoder.encoder).items()}
    found = {name: scale for name, (scale, _) in settings(model, 0.05, 0.5, depths).items()}
    assert set(depths) == {name for name in found if not name.startswith("head.")}
    assert found["encoder.encoder.conv1.weight"] == 0.0625
    assert sorted(set(found.values())) == [0.0625, 0.125, 0.25, 0.5, 1.0]
    assert {name for name, scale in found.items() if scale == 1.0} == {"head.linear.weight", "head.linear.bias"}


def one(value: float) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def test_average_by_hand() -> None:
    """Momentum 0.15 after warm-up values 1/10 and 0.15 (2/11 is more): 0, then 1, 2, 3 taken in."""
    model = one(0.0)
    average = WeightAverage(model, 0.15)
    expected = 0.0
    for step, value in enumerate([1.0, 2.0, 3.0]):
        nn.init.constant_(model.weight, value)
        average.follow(model, step)
        momentum = [0.1, 0.15, 0.15][step]
        expected = momentum * expected + (1 - momentum) * value
        assert float(average.values["weight"]) == pytest.approx(expected)
    assert expected == pytest.approx(0.15 * (0.15 * 0.9 + 0.85 * 2) + 0.85 * 3)  # 2.82525
    assert float(model.weight) == 3.0  # negative control: the model itself is left alone


def test_average_of_the_first_steps() -> None:
    """A momentum of 0.999 would still show the random beginning; the first steps use 1/10, 2/11, 3/12."""
    model, expected = one(0.0), 0.0
    average = WeightAverage(model, 0.999)
    for step, momentum in enumerate([1 / 10, 2 / 11, 3 / 12]):
        nn.init.constant_(model.weight, step + 1.0)
        average.follow(model, step)
        expected = momentum * expected + (1 - momentum) * (step + 1.0)
    assert float(average.values["weight"]) == pytest.approx(expected)


def test_average_goes_on() -> None:
    """From saved values; a missing one is an error, not a fresh start."""
    average = WeightAverage(one(0.0), 0.9)
    average.put({"weight": torch.tensor([[7.0]])})
    assert float(average.values["weight"]) == 7.0
    with pytest.raises(UsageError, match="weight"):
        average.put({})


def test_frozen_parameters_have_no_average() -> None:
    """A teacher follows in its own way."""
    assert set(WeightAverage(Net(), 0.9).values) == {name for name, p in Net().named_parameters() if p.requires_grad}
