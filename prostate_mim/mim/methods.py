"""Methods: named combinations of encoding, decoder, target, losses, strategy and ratio. One literal table."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from prostate_mim.errors import UsageError
from prostate_mim.mim.lookup import look_up

ENCODINGS = ("exact", "filled", "token", "middle")


@dataclass(frozen=True)
class Method:
    """How an encoder is pretrained.

    Attributes:
        encoding: what the encoder computes with. ``exact``: visible voxels only, by masked operators. ``filled``: a
            dense network on hidden voxels set to 0. ``token``: the same with a learned value. ``middle``: the same as
            ``filled``, and a learned token takes the place of hidden cells half-way through the encoder.
        decoder: key of ``DECODERS``.
        target: key of ``TARGETS``.
        losses: (key of ``LOSSES``, weight) of each term.
        strategy: what ``build_strategy`` reads.
        ratio: what ``parse_ratio`` reads.
        scores: ``hidden`` voxels, or ``all`` measured ones (restoration of a corrupted image).
    """

    encoding: str = "exact"
    decoder: str = "light"
    target: str = "block"
    losses: tuple[tuple[str, float], ...] = (("l2", 1.0),)
    strategy: str = "random"
    ratio: str = "0.6"
    scores: str = "hidden"

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise UsageError(f"encoding {self.encoding!r} is unknown; choose {', '.join(ENCODINGS)}")
        if self.scores not in ("hidden", "all"):
            raise UsageError(f"scores {self.scores!r} is unknown; choose hidden or all")
        if not self.losses:
            raise UsageError("a method needs at least one loss")
        for name, weight in self.losses:
            if not (math.isfinite(weight) and weight > 0):
                raise UsageError(f"loss {name!r} has weight {weight}; use a positive number")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as kept in ``config.json``."""
        return {**dataclasses.asdict(self), "losses": [list(term) for term in self.losses]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Method:
        """The inverse of ``to_dict``.

        Raises:
            UsageError: a field is unknown or missing.
        """
        fields = {field.name for field in dataclasses.fields(cls)}
        if set(values) != fields:
            raise UsageError(f"a pretraining method has the fields {sorted(fields)}, found {sorted(values)}")
        try:
            terms = tuple((str(name), float(weight)) for name, weight in values["losses"])
            return cls(**{**values, "losses": terms})
        except (TypeError, ValueError) as error:
            raise UsageError(f"{values} is not a pretraining method: {error}") from error


METHODS: dict[str, Method] = {
    # Masked operators, one block at the coarsest grid (Woo et al. 2023, ConvNeXt V2, section 3.1).
    "fcmae": Method(),
    # Masked operators, U-Net with densified skips (Tian et al. 2023).
    "spark": Method(decoder="unet"),
    # Masked operators, the three coarsest stages added up from coarse to fine.
    "topdown": Method(decoder="topdown"),
    # Dense encoder on zero-filled crops: the field's simplest baseline, and how the first bundled weights were made.
    "zerofill": Method(encoding="filled", decoder="topdown"),
    # Dense encoder, learned token in the input, linear head (Xie et al. 2022).
    "simmim": Method(encoding="token", decoder="linear", target="voxels", losses=(("l1", 1.0),)),
    # Token half-way, mean-filled input, voxels and their spectrum (Li et al. 2023, A2MIM, sections 4.2 and 4.3).
    "a2mim": Method(
        encoding="middle", decoder="linear", target="voxels", losses=(("l1", 1.0), ("focal_frequency", 0.1))
    ),
    # Masked operators, where in the body each cell lies, hidden or not (see ``targets.position``).
    "position": Method(target="position", ratio="0.3", scores="all"),
    # Restoration of shuffled, painted and re-mapped crops; nothing is hidden (Zhou et al. 2021, Models Genesis).
    "genesis": Method(
        encoding="filled", decoder="unet", target="voxels", strategy="genesis", ratio="0.5", scores="all"
    ),
}


def find_method(name: str) -> Method:
    """The method called ``name``.

    Raises:
        NotFoundError: unknown name; the nearest known one is suggested.
    """
    return look_up("method", name, METHODS)
