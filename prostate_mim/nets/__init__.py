"""Encoders. ARCHITECTURES is the whole registry: a literal dict, name -> builder, to which users may add their own."""

from __future__ import annotations

from prostate_mim.errors import NotFoundError, UsageError, nearest
from prostate_mim.nets.convnext import convnext_a, convnext_t
from prostate_mim.nets.densenet import densenet121
from prostate_mim.nets.effnet import effnet_lite0
from prostate_mim.nets.encoder import Encoder, StageInfo
from prostate_mim.nets.medicalnet import (
    medicalnet_resnet10,
    medicalnet_resnet18,
    medicalnet_resnet34,
    medicalnet_resnet50,
)
from prostate_mim.nets.registering import Builder, check_encoder, check_name, same_builder
from prostate_mim.nets.resenc import resenc_b, resenc_l, resenc_s
from prostate_mim.nets.resnet import resnet10, resnet18, resnet34, resnet50
from prostate_mim.nets.stem import widen_stem

__all__ = ["ARCHITECTURES", "Encoder", "StageInfo", "build_encoder", "register_encoder"]

ARCHITECTURES: dict[str, Builder] = {
    "resenc-s": resenc_s,
    "resenc-b": resenc_b,
    "resenc-l": resenc_l,
    "resnet10": resnet10,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "medicalnet-resnet10": medicalnet_resnet10,
    "medicalnet-resnet18": medicalnet_resnet18,
    "medicalnet-resnet34": medicalnet_resnet34,
    "medicalnet-resnet50": medicalnet_resnet50,
    "densenet121": densenet121,
    "effnet-lite0": effnet_lite0,
    "convnext-a": convnext_a,
    "convnext-t": convnext_t,
}


_SHIPPED = frozenset(ARCHITECTURES)


def register_encoder(name: str, builder: Builder) -> None:
    """Make a network of your own known under a name, in this process.

    From then on the name is an architecture like the package's own: of ``PretrainConfig``, of ``PreMIM`` and of a
    study's arms. Nothing is written down: a release keeps the name alone, so that whoever loads it imports the module
    that registers it first. Whether the network can be masked is asked by ``prostate_mim.masked.masked_twin``.

    The encoder is built once and tried on a small random volume, on the CPU, in evaluation mode: one feature map for
    each declared resolution, with the declared channels and strides.

    Args:
        name: at most 64 letters, digits and ``_ + -``, not one of the package's own. Registering a builder again, or
            its definition after it was executed again, is fine.
        builder: a class or function without arguments that gives an ``Encoder`` of one input channel, with random
            weights. Processes that a study starts import the main script again: register at its top, not under
            ``if __name__ == "__main__":``.

    Raises:
        UsageError: the name is not allowed or taken, or the encoder fails or does not give what it declares.

    Example:
        >>> from torch import nn
        >>> from prostate_mim import PreMIM, register_encoder
        >>> from prostate_mim.nets import Encoder
        >>> from prostate_mim.nets.encoder import unchanged
        >>> class OrganEncoder(Encoder):
        ...     def __init__(self):
        ...         super().__init__(strides_zyx=[(1, 1, 1), (2, 2, 2)], channels=[8, 16])
        ...         self.fine = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.ReLU())
        ...         self.coarse = nn.Sequential(nn.Conv3d(8, 16, 3, stride=2, padding=1), nn.ReLU())
        ...
        ...     def forward(self, voxels, between=unchanged):
        ...         fine = between(0, self.fine(voxels))
        ...         return [fine, between(1, self.coarse(fine))]
        >>> register_encoder("organ-net", OrganEncoder)
        >>> [info.channels for info in PreMIM("organ-net").feature_info]
        [8, 16]
    """
    check_name(name)
    if name in _SHIPPED:
        raise UsageError(f"architecture {name!r} is one of the package's own; choose another name for yours")
    known = ARCHITECTURES.get(name)
    if known is not None and not same_builder(known, builder):
        raise UsageError(
            f"architecture {name!r} is registered already, with another builder; choose another name, or begin a new "
            "Python process"
        )
    if known is not builder:
        check_encoder(name, builder)
        ARCHITECTURES[name] = builder


def unknown_architecture(name: str) -> str:
    """What an error says of a name that is not in ``ARCHITECTURES``."""
    near = nearest(name.lower().replace("_", "-"), ARCHITECTURES)
    hint = f"; did you mean {near!r}?" if near else ""
    return (
        f"architecture {name[:80]!r} is unknown{hint} (known: {', '.join(ARCHITECTURES)}); for a network of your own, "
        "import the module that registers it first (register_encoder)"
    )


def build_encoder(architecture: str, in_channels: int = 1) -> Encoder:
    """A freshly initialised encoder (torch's global generator decides the weights).

    Args:
        architecture: a key of ``ARCHITECTURES``.
        in_channels: of its input; weights of all but the first begin at 0, see ``stem.widen_stem``.

    Raises:
        NotFoundError: unknown architecture; a near name is suggested, and all known ones are listed.
    """
    if architecture not in ARCHITECTURES:
        raise NotFoundError(unknown_architecture(architecture))
    encoder = ARCHITECTURES[architecture]()
    widen_stem(encoder, in_channels)
    return encoder
