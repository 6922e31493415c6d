"""What a release of a classifier holds: how its network is put together, and the tensors in their published names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from prostate_mim.errors import IntegrityError, UsageError
from prostate_mim.nets.pooling import POOLINGS

if TYPE_CHECKING:
    from prostate_mim.classifier.model import LesionClassifier

LAYOUT_SECTION = "classifier"  # of a release's details
HEADS = ("linear", "attentive")
TARGETS = ("label", "isup")
_MOST_MEMBERS = 100


@dataclass(frozen=True)
class Layout:
    """How a classifier is put together. Its defaults are those of releases that do not say.

    Attributes:
        head: ``linear`` on pooled features, or ``attentive`` (learned pooling).
        pooling: ``centre`` (the lesion is in the middle) or ``mean`` (a whole study).
        target: ``label``, or ``isup`` (ordinal).
        members: networks whose probabilities are averaged.

    Raises:
        UsageError: a value that is not one of these.
    """

    head: str = "linear"
    pooling: str = "centre"
    target: str = "label"
    members: int = 1

    def __post_init__(self) -> None:
        for name, allowed in (("head", HEADS), ("pooling", tuple(POOLINGS)), ("target", TARGETS)):
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} {getattr(self, name)!r} is unknown; choose {' or '.join(allowed)}")
        if type(self.members) is not int or not 1 <= self.members <= _MOST_MEMBERS:
            raise UsageError(f"members is {self.members!r}; expected a whole number from 1 to {_MOST_MEMBERS}")

    @property
    def whole_study(self) -> bool:
        """The middle of the crop counts no more than the rest of it."""
        return self.pooling == "mean"

    def to_dict(self) -> dict[str, Any]:
        """The section of ``config.json``."""
        return dataclasses.asdict(self)


def read_layout(details: Mapping[str, Any], source: str) -> tuple[Layout, bool]:
    """The section ``classifier`` of a release's details, and whether there is one.

    Raises:
        IntegrityError: it is not of this version.
    """
    if LAYOUT_SECTION not in details:
        return Layout(), False
    values = details[LAYOUT_SECTION]
    names = {field.name for field in dataclasses.fields(Layout)}
    if not isinstance(values, dict) or set(values) != names:
        raise IntegrityError(f"{source}: its section {LAYOUT_SECTION!r} has not exactly the keys {sorted(names)}")
    try:
        return Layout(**values), True
    except (UsageError, TypeError) as error:
        raise IntegrityError(f"{source}: its section {LAYOUT_SECTION!r} is not of this version ({error})") from error


class Parts(nn.Module):
    """The published parts of a classifier, so that keys read ``encoder.*`` and ``head.*``.

    Args:
        model: whose parts they are; nothing is copied.
        complete: with the temperature, a learned pooling and other members (``members.K.*``), which releases without
            the section do not have.
    """

    def __init__(self, model: LesionClassifier, complete: bool) -> None:
        super().__init__()
        self.encoder = model.encoder.encoder
        self.head = model.head
        if complete:
            self.pool = model.pool
            self.register_buffer("temperature", model.temperature)
            self.members = nn.ModuleList(Parts(other, True) for other in model.members[1:])
