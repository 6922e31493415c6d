"""Initial weights for nnU-Net v2: a network that its plans can name, around an unchanged resenc encoder.

nnU-Net's own residual blocks shrink their shortcut by average pooling, those of resenc by a strided convolution, so
no plans of nnU-Net's own networks can hold these weights and give equal features. But ``architecture`` of a plans
configuration may name any class that can be imported; it names ``PretrainedUNet``.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from prostate_mim.errors import BackendError, UsageError, VerificationError
from prostate_mim.files import atomic_path, whole_folder, write_text
from prostate_mim.formats.nnunet_readme import ARCHITECTURE, README, WEIGHTS, nnunet_readme
from prostate_mim.nets import Encoder, build_encoder
from prostate_mim.nets.encoder import StageChain

if TYPE_CHECKING:
    from prostate_mim.encoder import PreMIM

SUPPORTED = ("resenc-s", "resenc-b", "resenc-l")

_CLASS = "prostate_mim.formats.nnunet.PretrainedUNet"
_STEM_CHANNELS = 32  # what nnU-Net begins with at full resolution
_STEM_KERNEL = (1, 3, 3)
_STEM_CONVOLUTIONS = 2
_DECODER_CONVOLUTIONS = 1  # per resolution, as in nnU-Net's residual encoder presets
_NEVER_LOADED = ".seg_layers."  # they depend on the classes; nnU-Net's loader leaves them as they are
_TOLERANCE = 1e-5


class NnUNetEncoder(nn.Module):
    """A resenc encoder as nnU-Net's decoder wants it: all resolutions, the full one first.

    A resenc encoder begins by halving in-plane, but nnU-Net segments at full resolution. So two convolutions at
    stride 1 (``stem``, not pretrained) look at the input beside the encoder (``pretrained``), which sees the input
    itself, as in pretraining. The other attributes are what ``UNetDecoder`` reads of an encoder of nnU-Net's.

    Args:
        input_channels: C of the input.
        architecture: ``resenc-s``, ``resenc-b`` or ``resenc-l``.

    Attributes:
        output_channels: C of every resolution, full resolution first.
        strides: (z, y, x) of every resolution, relative to the one before.
        kernel_sizes: (z, y, x) of its convolutions, in voxels.

    Raises:
        UsageError: another architecture.
        BackendError: nnU-Net's blocks are not installed.
    """

    def __init__(self, input_channels: int, architecture: str = "resenc-s") -> None:
        super().__init__()
        _check_supported(architecture)
        pretrained = cast(StageChain, build_encoder(architecture, input_channels))
        self.output_channels = [_STEM_CHANNELS, *(stage.channels for stage in pretrained.stage_info)]
        self.strides = _strides(pretrained)
        self.kernel_sizes = [_STEM_KERNEL, *(_convolutions(stage)[0].kernel_size for stage in pretrained.stages)]
        # Of stem and decoder: what nnU-Net's planner gives them.
        self.conv_op, self.conv_bias = nn.Conv3d, True
        self.norm_op, self.norm_op_kwargs = nn.InstanceNorm3d, {"eps": 1e-5, "affine": True}
        self.dropout_op, self.dropout_op_kwargs = None, None
        self.nonlin, self.nonlin_kwargs = nn.LeakyReLU, {"inplace": True}
        blocks, _ = _parts_of_nnunet()
        self.stem = blocks(
            _STEM_CONVOLUTIONS, self.conv_op, input_channels, _STEM_CHANNELS, _STEM_KERNEL, 1, self.conv_bias,
            self.norm_op, self.norm_op_kwargs, self.dropout_op, self.dropout_op_kwargs, self.nonlin, self.nonlin_kwargs,
        )  # fmt: skip
        self.pretrained = pretrained

    def forward(self, voxels: Tensor) -> list[Tensor]:
        """(N, C, D, H, W) -> one (N, c, D/s, H/s, W/s) per resolution: the stem's, then those of pretraining."""
        return [self.stem(voxels), *self.pretrained(voxels)]

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Values in the outputs of all convolutions for one (D, H, W) in voxels; nnU-Net estimates memory by it."""
        total = int(self.stem.compute_conv_feature_map_size(input_size))
        for stage, info in zip(self.pretrained.stages, self.pretrained.stage_info, strict=True):
            depth, height, width = (n // stride for n, stride in zip(input_size, info.stride_zyx, strict=True))
            total += len(_convolutions(stage)) * info.channels * depth * height * width
        return total


class PretrainedUNet(nn.Module):
    """A U-Net of nnU-Net's own decoder on a resenc encoder; nnU-Net builds it from the plans.

    It is built with random weights, as every network of nnU-Net's; those of pretraining come from
    ``nnUNetv2_train -pretrained_weights``.

    Args:
        input_channels: C of the input.
        num_classes: channels of the segmentation.
        architecture: ``resenc-s``, ``resenc-b`` or ``resenc-l``.
        strides: of the plans, where nnU-Net's trainer reads the sizes of deep supervision; they must be the encoder's.
        deep_supervision: whether ``forward`` gives every resolution of the decoder, not the full one alone.

    Raises:
        UsageError: another architecture or other strides.
        BackendError: nnU-Net's blocks are not installed.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        architecture: str = "resenc-s",
        strides: Sequence[Sequence[int]] | None = None,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = NnUNetEncoder(input_channels, architecture)
        own = self.encoder.strides
        if strides is not None and [list(stride) for stride in strides] != own:
            raise UsageError(f"strides of the plans are {strides}, those of {architecture} {own}; take {ARCHITECTURE}")
        _, decoder = _parts_of_nnunet()
        self.decoder = decoder(self.encoder, num_classes, _DECODER_CONVOLUTIONS, deep_supervision)

    def forward(self, voxels: Tensor) -> Tensor | list[Tensor]:
        """(N, C, D, H, W) -> logits (N, classes, D, H, W), or a list of them, full resolution first.

        D, H and W are multiples of 4, 16 and 16. A list where ``decoder.deep_supervision`` is on.
        """
        logits: Tensor | list[Tensor] = self.decoder(self.encoder(voxels))
        return logits

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Values in the outputs of all convolutions for one (D, H, W) in voxels; nnU-Net estimates memory by it."""
        decoder = int(self.decoder.compute_conv_feature_map_size(input_size))
        return self.encoder.compute_conv_feature_map_size(input_size) + decoder

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """nnU-Net's random weights for one module; nnU-Net calls it before it loads any weights."""
        from dynamic_network_architectures.initialization.weight_init import InitWeights_He  # type: ignore

        InitWeights_He(1e-2)(module)


def write_nnunet(encoder: PreMIM, folder: str | Path) -> Path:
    """Write initial weights for nnU-Net v2, the plans' ``architecture`` that they fit, and how to use them.

    Before the folder appears, the network is built and the file is loaded as nnU-Net does it (by nnU-Net's own code
    where it is installed), and weights and features of the encoder are compared with the given one's.

    Args:
        encoder: of ``resenc-s``, ``resenc-b`` or ``resenc-l``; stays as it is.
        folder: must not exist yet, or be empty.

    Returns:
        The folder, with ``initial_weights.pth``, ``architecture.json`` and ``README.md``.

    Raises:
        UsageError: another architecture, or the folder holds something or cannot be written.
        BackendError: nnU-Net's blocks are not installed.
        VerificationError: nnU-Net would not get the encoder's weights or features; nothing is left behind.
        ResourceError: no space is left; nothing is left behind.
    """
    _check_supported(encoder.architecture)
    network = _built(encoder, seed=0)
    network.encoder.pretrained.load_state_dict(encoder.encoder.state_dict())
    weights = _portable(network)
    with whole_folder(folder) as temporary:
        _save(weights, temporary / WEIGHTS)
        fresh = _built(encoder, seed=1)
        _load(fresh, weights, temporary / WEIGHTS)
        _verify(fresh, encoder)
        write_text(temporary / ARCHITECTURE, json.dumps(_architecture(encoder), indent=2) + "\n")
        write_text(temporary / README, _readme(encoder, weights))
    return Path(folder)


def _check_supported(architecture: str) -> None:
    if architecture not in SUPPORTED:
        raise UsageError(
            f"architecture {architecture!r} cannot become initial weights for nnU-Net, only {', '.join(SUPPORTED)}; "
            "pretrain one of those, or use the encoder from Python"
        )


def _parts_of_nnunet() -> tuple[Any, Any]:
    """(StackedConvBlocks, UNetDecoder): what stem and decoder are made of."""
    try:
        from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks  # type: ignore
        from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder  # type: ignore
    except ImportError as error:
        raise BackendError(
            f"a network for nnU-Net needs nnU-Net's own blocks, which are not installed ({error}); "
            "pip install --no-deps dynamic-network-architectures"
        ) from error
    return StackedConvBlocks, UNetDecoder


def _convolutions(stage: nn.Module) -> list[nn.Conv3d]:
    return [module for module in stage.modules() if isinstance(module, nn.Conv3d)]


def _strides(encoder: Encoder) -> list[list[int]]:
    """(z, y, x) of every resolution relative to the one before, full resolution first."""
    totals = [(1, 1, 1), (1, 1, 1), *(stage.stride_zyx for stage in encoder.stage_info)]
    pairs = zip(totals[1:], totals, strict=False)
    return [[now // before for now, before in zip(*pair, strict=True)] for pair in pairs]


def _architecture(encoder: PreMIM) -> dict[str, Any]:
    """The ``architecture`` of a plans configuration."""
    keywords = {"architecture": encoder.architecture, "strides": _strides(encoder.encoder)}
    return {"network_class_name": _CLASS, "arch_kwargs": keywords, "_kw_requires_import": []}


def _built(encoder: PreMIM, seed: int) -> Any:
    """The network as nnU-Net builds it before training; torch's own generator stays as it is."""
    plan, channels = _architecture(encoder), encoder.encoder.in_channels
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not those of GPUs, which nothing here draws from
        try:
            from nnunetv2.utilities.get_network_from_plans import get_network_from_plans  # type: ignore
        except ImportError:
            network = PretrainedUNet(channels, 2, **plan["arch_kwargs"])
            return network.apply(network.initialize)
        keywords, imports = plan["arch_kwargs"], plan["_kw_requires_import"]
        return get_network_from_plans(plan["network_class_name"], keywords, imports, channels, 2, True, True)


def _portable(network: nn.Module) -> dict[str, Tensor]:
    """The weights that nnU-Net's loader takes; a tensor under two names is one tensor, in the file as well."""
    state = network.state_dict()
    return {key: value.detach().cpu() for key, value in state.items() if _NEVER_LOADED not in key}


def _save(weights: Mapping[str, Tensor], path: Path) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:  # given a path, torch would store its name
        torch.save({"network_weights": dict(weights)}, stream)


def _readme(encoder: PreMIM, weights: Mapping[str, Tensor]) -> str:
    counts = {key: value.numel() for key, value in weights.items() if not key.startswith("decoder.encoder.")}
    pretrained = sum(count for key, count in counts.items() if key.startswith("encoder.pretrained."))
    return nnunet_readme(
        encoder.name,
        encoder.revision,
        encoder.spec,
        in_channels=encoder.encoder.in_channels,
        multiple_zyx=encoder.encoder.total_stride_zyx,
        parameters=(pretrained, sum(counts.values()) - pretrained),
    )


def _load(network: nn.Module, weights: Mapping[str, Tensor], file: Path) -> None:
    """Load the file by nnU-Net's loader; where that is not installed, the weights by the same rule."""
    try:
        from nnunetv2.run.load_pretrained_weights import load_pretrained_weights  # type: ignore
    except ImportError:
        left = {key: value for key, value in network.state_dict().items() if _NEVER_LOADED in key}
        network.load_state_dict({**weights, **left})
        return
    with redirect_stdout(io.StringIO()):  # it prints
        load_pretrained_weights(network, str(file))


def _verify(network: Any, encoder: PreMIM) -> None:
    """Compare what nnU-Net would train from with the encoder.

    Raises:
        VerificationError: naming the tensor or the resolution.
    """
    from prostate_mim.encoder import golden_input

    original = copy.deepcopy(encoder.encoder).cpu().eval()
    loaded = network.encoder.pretrained.state_dict()
    for key, value in original.state_dict().items():
        if not torch.equal(loaded[key], value):
            raise VerificationError(f"{WEIGHTS}: {key} is not the encoder's after loading; nothing is written")
    sample = golden_input(original.total_stride_zyx, original.in_channels)
    with torch.inference_mode():
        expected, found = original(sample), network.eval().encoder(sample)[1:]
    for number, (ours, theirs) in enumerate(zip(expected, found, strict=True)):
        allowed = _TOLERANCE * max(1.0, float(ours.abs().max()))
        if not float((ours - theirs).abs().max()) <= allowed:  # so that NaN is refused too
            raise VerificationError(
                f"{WEIGHTS}: features of stage {number} differ by more than {allowed:.1e} in nnU-Net's network; "
                "nothing is written"
            )
