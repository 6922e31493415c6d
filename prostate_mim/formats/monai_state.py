"""A resenc encoder as a state dict of MONAI's DynUNet: strict, in a stock class, compared before it is written.

A resenc encoder is a chain of ``UnetResBlock``, and so is the contracting path of ``monai.networks.nets.DynUNet`` with
residual blocks: input block, downsamples, bottleneck. The expanding path is a segmentation's own and not pretrained
here; it is filled from a seeded fresh DynUNet and listed as fresh. MONAI's other stock classes have no arguments for
the strides and dilations of the other encoders, so weights for them would compute something else: they are refused.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from monai.networks.blocks.dynunet_block import UnetResBlock
from monai.networks.nets.dynunet import DynUNet
from safetensors.torch import save
from torch import Tensor, nn

from prostate_mim._version import __version__
from prostate_mim.encoder import PreMIM, golden_input
from prostate_mim.errors import UsageError, VerificationError
from prostate_mim.files import write_bytes
from prostate_mim.nets.encoder import StageChain

DYNUNET = "monai.networks.nets.DynUNet"
METADATA = "prostate_mim"
"""The one entry of the file's metadata: JSON text."""

TERMS = (
    "For research only, not a medical device. The terms of the data that these weights were trained on apply to them; "
    "the model card of the release states them."
)
TOLERANCE = 1e-5
_SEED = 20221229
_NO_STOCK = "no stock MONAI class has this network"
_REFUSED = {
    "resnet": "MONAI's ResNet pools and strides every axis alike, and this network strides in-plane first",
    "medicalnet": "MONAI's ResNet strides layers 3 and 4, where this network (as MedicalNet itself) dilates them",
    "densenet121": "MONAI's DenseNet121 strides every axis alike, and this network strides in-plane first",
}


@dataclass(frozen=True)
class MonaiState:
    """Weights of a stock class of MONAI.

    Attributes:
        target: the class, as MONAI's configs name it.
        arguments: what it is made with, plain JSON values.
        tensors: its whole state dict, float32 on the CPU; keys that MONAI has twice (``skip_layers.*``) hold copies.
        pretrained: keys of ``tensors`` that are the encoder's.
        fresh: all other keys, drawn at random from a fixed seed.
    """

    target: str
    arguments: dict[str, Any]
    tensors: dict[str, Tensor]
    pretrained: tuple[str, ...]
    fresh: tuple[str, ...]


def monai_network(encoder: PreMIM, out_channels: int = 2) -> MonaiState:
    """The encoder's weights under the names of a stock class of MONAI.

    Args:
        encoder: a PreMIM of a resenc architecture.
        out_channels: classes of the segmentation that the DynUNet's fresh output block gives. Its output is as coarse
            as the first block: half the input's voxels along y and x.

    Raises:
        UsageError: no stock class computes what this encoder computes; the reason is named.
    """
    blocks = _blocks(encoder)
    strides = [list(block.conv1.conv.stride) for block in blocks]
    arguments = {
        "spatial_dims": 3,
        "in_channels": encoder.encoder.in_channels,
        "out_channels": out_channels,
        "kernel_size": [list(block.conv1.conv.kernel_size) for block in blocks],
        "strides": strides,
        "upsample_kernel_size": strides[1:],
        "filters": [block.conv1.conv.out_channels for block in blocks],
        "norm_name": ["group", {"num_groups": blocks[0].norm1.num_groups}],
        "res_block": True,
    }
    network = _make(DYNUNET, arguments)
    contracting = _contracting(network)
    for own, theirs in zip(blocks, contracting, strict=True):
        theirs.load_state_dict(own.state_dict(), strict=True)
    # skip_layers holds the same parameters under further names: identity tells which of those are the encoder's.
    own_parameters = {id(value) for block in contracting for value in block.parameters()}
    state = network.state_dict(keep_vars=True)
    pretrained = tuple(key for key, value in state.items() if id(value) in own_parameters)
    return MonaiState(
        target=DYNUNET,
        arguments=arguments,
        tensors={key: value.detach().clone() for key, value in state.items()},
        pretrained=pretrained,
        fresh=tuple(key for key in state if key not in set(pretrained)),
    )


def stock_network(state: MonaiState) -> nn.Module:
    """The stock class with the state's weights, loaded strictly, in evaluation mode.

    Raises:
        VerificationError: a class that is not of this module, or tensors that do not fit it.
    """
    network = _make(state.target, state.arguments)
    try:
        network.load_state_dict(state.tensors, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise VerificationError(f"{state.target} does not take these weights ({reason}); export them anew") from error
    return network.eval()


def stock_features(network: nn.Module, voxels: Tensor) -> list[Tensor]:
    """The encoder's stages from the stock DynUNet: its contracting path, the last block of each resolution.

    Args:
        network: as ``stock_network`` gives it.
        voxels: (N, channels, D, H, W), every size a multiple of the total stride.

    Returns:
        One (N, C, d, h, w) per resolution, coarse last.
    """
    stages: list[Tensor] = []
    for block in _contracting(network):
        voxels = block(voxels)
        if stages and voxels.shape[2:] == stages[-1].shape[2:]:
            stages[-1] = voxels
        else:
            stages.append(voxels)
    return stages


def verify_monai(state: MonaiState, encoder: PreMIM) -> float:
    """Load the weights into the stock class and compare every stage with the encoder's, on its golden sample.

    Returns:
        The largest difference, in units of the largest value of its stage.

    Raises:
        VerificationError: the weights do not fit the class, or a stage differs by more than 1e-5.
    """
    network = stock_network(state)
    reference = copy.deepcopy(encoder).cpu().float().eval()
    voxels = golden_input(reference.encoder.total_stride_zyx, reference.encoder.in_channels)
    with torch.inference_mode():
        expected, found = reference(voxels), stock_features(network, voxels)
    shapes = [[tuple(stage.shape) for stage in stages] for stages in (expected, found)]
    if shapes[0] != shapes[1]:
        raise VerificationError(
            f"{state.target} gives stages of {shapes[1]}, {encoder.name} of {shapes[0]}; its arguments are not the "
            "encoder's, export it anew"
        )
    worst = 0.0
    for number, (wanted, given) in enumerate(zip(expected, found, strict=True)):
        difference = float((wanted - given).abs().max() / wanted.abs().max())
        if not difference <= TOLERANCE:  # so that a NaN is refused too
            raise VerificationError(
                f"{state.target} differs from {encoder.name} by {difference:.2e} in stage {number} (allowed "
                f"{TOLERANCE:g}); its weights are not the encoder's, export them anew"
            )
        worst = max(worst, difference)
    return worst


def write_monai_state(encoder: PreMIM, path: str | Path, *, out_channels: int = 2, terms: str = TERMS) -> Path:
    """Write one safetensors file that the stock class of MONAI loads strictly; compared with the encoder before.

    Its metadata has one entry, ``prostate_mim``: JSON with target, arguments, fresh, name, revision, spec, terms and
    library_version. Keys that MONAI has twice are stored twice, so that nothing needs to be added before loading.

    Args:
        encoder: a PreMIM of a resenc architecture.
        path: ends in ``.safetensors``; its folder exists.
        out_channels: as for ``monai_network``.
        terms: under which the weights may be used; a pointer to the model card by default.

    Returns:
        The path written.

    Raises:
        UsageError: another ending, no stock class for this encoder, or a folder that cannot be written.
        VerificationError: the stock class does not reproduce the encoder; nothing is written.
        ResourceError: the disk is full; nothing is left behind.
    """
    final = Path(path)
    if final.suffix != ".safetensors" or final.is_dir():
        raise UsageError(f"{final}: weights for MONAI are a file named *.safetensors; choose such a name")
    state = monai_network(encoder, out_channels)
    verify_monai(state, encoder)
    described = {
        "target": state.target,
        "arguments": state.arguments,
        "fresh": list(state.fresh),
        "name": encoder.name,
        "revision": encoder.revision,
        "spec": encoder.spec.to_dict(),
        "terms": terms,
        "library_version": __version__,
    }
    write_bytes(final, save(state.tensors, {METADATA: json.dumps(described, sort_keys=True)}))
    return final


def _blocks(encoder: PreMIM) -> list[Any]:
    """The encoder's ``UnetResBlock``, in order.

    Raises:
        UsageError: it is not a chain of them.
    """
    network = encoder.encoder
    blocks: list[Any] = []
    if isinstance(network, StageChain):
        blocks = [block for stage in network.stages if isinstance(stage, nn.Sequential) for block in stage]
    if not blocks or not all(isinstance(block, UnetResBlock) for block in blocks):
        begins = (reason for name, reason in _REFUSED.items() if encoder.architecture.startswith(name))
        raise UsageError(
            f"{encoder.name} ({encoder.architecture}) cannot be exported to MONAI's state dicts: "
            f"{next(begins, _NO_STOCK)}; use a resenc encoder, or write a MONAI bundle, which takes any"
        )
    return blocks


def _make(target: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A fresh network of the stock class, from a fixed seed that touches nobody's generator."""
    if target != DYNUNET:
        raise VerificationError(f"target is {target[:80]!r}, not {DYNUNET}, the only stock class there are weights for")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return cast(nn.Module, DynUNet(**arguments))


def _contracting(network: nn.Module) -> list[nn.Module]:
    """A DynUNet's blocks from the voxels to the bottleneck."""
    parts = cast(Any, network)
    return [parts.input_block, *parts.downsamples, parts.bottleneck]
