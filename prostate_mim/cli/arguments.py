"""What commands that look at studies ask of their arguments before anything heavy is imported."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prostate_mim.console import numbers
from prostate_mim.errors import UsageError

if TYPE_CHECKING:
    from prostate_mim.hub import Release
    from prostate_mim.manifest import Point


def read_place(text: str) -> Point | None:
    """The text of ``--position``: (x, y, z) in mm, LPS; None where it is empty.

    Raises:
        UsageError: not three finite numbers.
    """
    if not text:
        return None
    try:
        x, y, z = (float(part) for part in text.replace(",", " ").split())
    except ValueError:
        x = y = z = math.nan
    if not all(map(math.isfinite, (x, y, z))):
        raise UsageError(
            f"--position is {text!r}; expected three numbers, x y z in mm, with decimal points, e.g. '10.2 -31.5 40.0'"
        )
    return x, y, z


def read_spacing(text: str) -> Point | None:
    """The text of ``--spacing``: (z, y, x) in mm; None where it is empty.

    Raises:
        UsageError: not three numbers.
    """
    return numbers(text, "--spacing") if text else None


def one_source(study: Path | None, manifest: Path | None, **of_study: Any) -> None:
    """Either one study or a manifest, and with a manifest nothing that its rows have in columns.

    Args:
        study, manifest: as they were given.
        of_study: further options by name, empty or None where they were not given.

    Raises:
        UsageError: both or neither, or an option that would be lost.
    """
    if (study is None) == (manifest is None):
        raise UsageError("give either one study or --manifest, not both and not neither")
    for name, given in of_study.items():
        if manifest is not None and given:
            raise UsageError(f"--{name} is for one study; rows of a manifest have it in their own columns")


def model_named(model: str) -> None:
    """A command that needs a classifier was given a name.

    Raises:
        UsageError: it was not.
    """
    if not model:
        raise UsageError(
            "--model is missing; name a classifier made by 'prostate-mim finetune' (its run folder will do)"
        )


def find_classifier(model: str) -> Release:
    """The verified release that ``--model`` names; no torch, so a wrong name costs no wait.

    Raises:
        UsageError: none is named, or an encoder.
        NotFoundError, NetworkError, IntegrityError: as ``open_release``.
    """
    from prostate_mim.hub import open_release

    model_named(model)
    return open_release(model, kind="classifier")
