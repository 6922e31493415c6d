"""The table of methods: what they are, that they come back from plain values, and what is refused by name."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prostate_mim.errors import NotFoundError, UsageError
from prostate_mim.mim import METHODS, BlockGrid, MaskedImageModel, Method, find_method
from prostate_mim.mim.decoders import DECODERS
from prostate_mim.mim.losses import LOSSES
from prostate_mim.mim.methods import ENCODINGS
from prostate_mim.mim.strategies import STRATEGIES
from prostate_mim.mim.targets import TARGETS
from prostate_mim.nets import build_encoder

GRID = BlockGrid((4, 16, 16), (2, 2, 2))


def build(method: Method) -> MaskedImageModel:
    torch.manual_seed(0)
    return MaskedImageModel(build_encoder("resenc-s"), GRID, method)


def test_the_table() -> None:
    """The methods that are promised, each made of known parts."""
    assert set(METHODS) == {"fcmae", "spark", "topdown", "zerofill", "simmim", "a2mim", "position", "genesis"}
    assert Method() == METHODS["fcmae"]
    for method in METHODS.values():
        assert method.encoding in ENCODINGS
        assert method.decoder in DECODERS
        assert method.target in TARGETS
        assert method.strategy in STRATEGIES
        assert {name for name, _ in method.losses} <= set(LOSSES)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_model(name: str) -> None:
    """It is built of the parts it names, without a teacher that nobody asks."""
    model = build(METHODS[name])
    assert type(model.decoder) is DECODERS[METHODS[name].decoder]
    assert model.target.name == METHODS[name].target
    assert model.encoding.kind == METHODS[name].encoding
    assert (model.encoding.token is not None) == (model.encoding.kind in ("token", "middle"))
    assert model.teacher is None


@pytest.mark.parametrize("name", METHODS)
def test_round_trip(name: str) -> None:
    """Through JSON and back, every method is itself."""
    method = METHODS[name]
    assert Method.from_dict(json.loads(json.dumps(method.to_dict()))) == method
    assert Method.from_dict({**method.to_dict(), "ratio": "0.51"}) != method  # negative control


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(ENCODINGS),
    st.lists(st.tuples(st.sampled_from(sorted(LOSSES)), st.floats(0.01, 10)), min_size=1, max_size=3),
    st.sampled_from(["random", "gland:weight=8", "mixture:random=0.5,column=0.5"]),
    st.sampled_from(["0.6", "0.5..0.9", "0.6|0.75"]),
    st.sampled_from(["hidden", "all"]),
)
def test_round_trip_of_any_method(encoding: str, losses: list[Any], strategy: str, ratio: str, scores: str) -> None:
    """Weights keep every digit; settings of strategies and distributions of ratios stay text."""
    method = Method(encoding, losses=tuple(losses), strategy=strategy, ratio=ratio, scores=scores)
    assert Method.from_dict(json.loads(json.dumps(method.to_dict()))) == method


def test_damaged_dictionaries_are_refused() -> None:
    """A missing field is not filled with a default, an unknown one not dropped."""
    whole = METHODS["a2mim"].to_dict()
    for name in (field.name for field in fields(Method)):
        rest = {key: value for key, value in whole.items() if key != name}
        with pytest.raises(UsageError, match="fields"):
            Method.from_dict(rest)
    for change, words in (
        ({"colour": 1}, "colour"),
        ({"losses": [["l1"]]}, "not a pretraining method"),
        ({"losses": [["l1", "much"]]}, "much"),
        ({"losses": 3}, "not a pretraining method"),
        ({"losses": []}, "at least one loss"),
        ({"losses": [["l1", 1.0], ["l2", 0.0]]}, "loss 'l2' has weight 0.0"),
        ({"losses": [["l1", -1.0]]}, "loss 'l1' has weight -1.0"),
        ({"losses": [["l1", float("nan")]]}, "loss 'l1' has weight nan"),
        ({"encoding": "psychic"}, "encoding 'psychic' is unknown; choose exact, filled, token, middle"),
        ({"scores": "some"}, "scores 'some' is unknown"),
    ):
        with pytest.raises(UsageError, match=words):
            Method.from_dict({**whole, **change})
    assert Method.from_dict(whole) == METHODS["a2mim"]  # negative control


@pytest.mark.parametrize(
    ("name", "near"), [("fmae", "fcmae"), ("sparc", "spark"), ("SimMIM", "simmim"), ("models-genesis", "genesis")]
)
def test_unknown_method_suggests_the_nearest(name: str, near: str) -> None:
    """An unknown name is refused with the nearest known one."""
    with pytest.raises(NotFoundError, match=f"method {name!r} is unknown; did you mean {near!r}"):
        find_method(name)
    assert find_method(near) is METHODS[near]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"strategy": "glands"}, "strategy 'glands' is unknown; did you mean 'gland'"),
        ({"strategy": "mixture:random=1,colum=1"}, "strategy 'colum' is unknown; did you mean 'column'"),
        ({"target": "blok"}, "target 'blok' is unknown; did you mean 'block'"),
        ({"decoder": "u-net"}, "decoder 'u-net' is unknown; did you mean 'unet'"),
        ({"losses": (("l3", 1.0),)}, "loss 'l3' is unknown; did you mean 'l"),
    ],
)
def test_unknown_parts_suggest_the_nearest(change: dict[str, Any], words: str) -> None:
    """Each part of a method is looked up when the model is made, and refused with the nearest name."""
    with pytest.raises(NotFoundError, match=words):
        build(replace(Method(), **change))


@pytest.mark.parametrize("target", [name for name in TARGETS if name in ("hog", "fourier", "features")])
@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"decoder": "topdown"}, "decoder 'topdown'"),
        ({"decoder": "unet"}, "decoder 'unet'"),
        ({"losses": (("ssim", 1.0),)}, "loss 'ssim'"),
        ({"losses": (("l2", 1.0), ("focal_frequency", 0.1))}, "loss 'focal_frequency'"),
        ({"strategy": "frequency"}, "strategy 'frequency'"),
        ({"strategy": "mixture:random=1,frequency=1"}, "strategy 'mixture:random=1,frequency=1'"),
    ],
)
def test_incompatible_parts_are_refused(target: str, change: dict[str, Any], part: str) -> None:
    """A target that is not voxels does not go with parts that are: both are named, before anything is read."""
    with pytest.raises(UsageError) as refusal:
        build(replace(Method(target=target), **change))
    assert part in str(refusal.value)
    assert f"target {target!r}" in str(refusal.value)
    build(replace(Method(target="gradient"), **change))  # negative control: a target of voxels


def test_a_linear_decoder_needs_features_at_hidden_cells() -> None:
    """Behind the exact encoding it would train nothing: refused, naming both; where nothing is hidden, it may be."""
    with pytest.raises(UsageError, match=r"decoder 'linear'.*encoding 'exact'"):
        build(Method(decoder="linear", target="voxels"))
    with pytest.raises(UsageError, match=r"decoder 'linear'.*encoding 'exact'"):
        build(Method(decoder="linear", target="voxels", strategy="mixture:random=1,frequency=1"))
    for allowed in (
        Method(decoder="linear", target="voxels", strategy="frequency"),
        *(Method(encoding, "linear", "voxels") for encoding in ENCODINGS if encoding != "exact"),
    ):
        build(allowed)


@pytest.mark.parametrize("ratio", ["0.01", "0.99", "0.01..0.5", "0.5|0.99"])
def test_useless_ratio_is_refused_when_the_model_is_made(ratio: str) -> None:
    """Hiding none or all of 8 blocks is refused before training."""
    with pytest.raises(UsageError, match="of 8 blocks"):
        build(Method(ratio=ratio))
