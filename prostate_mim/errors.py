"""The closed list of exceptions this package raises, each with its process exit code; and "did you mean".

A message is one line and says *what* went wrong, *where*, *why*, and *what to do*. File names appear as the
user gave them; identifiers of patients never do (row numbers instead).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ProstateMimError(Exception):
    """Base of every error raised on purpose. ``exit_code`` is what the command line returns."""

    exit_code = 1


class UsageError(ProstateMimError):
    """An argument or an option is wrong, or the output folder cannot be written (exit code 2)."""

    exit_code = 2


class NotFoundError(ProstateMimError):
    """A file, a folder or a model name does not exist (exit code 3)."""

    exit_code = 3


class NetworkError(ProstateMimError):
    """A hub could not be reached, or refused to answer (exit code 4)."""

    exit_code = 4


class IntegrityError(ProstateMimError):
    """Weights, a release folder or a checkpoint is not what it claims to be (exit code 5)."""

    exit_code = 5


class BackendError(ProstateMimError):
    """The asked-for device or runtime is not really available (exit code 6)."""

    exit_code = 6


class ResourceError(ProstateMimError):
    """Out of memory, or no space left on the disk (exit code 7)."""

    exit_code = 7


class VerificationError(ProstateMimError):
    """An exported file does not reproduce the numbers of its source (exit code 8)."""

    exit_code = 8


class VolumeError(ProstateMimError):
    """A volume is damaged, implausible, or not an axial T2w stack (exit code 9)."""

    exit_code = 9


class ManifestError(ProstateMimError):
    """A manifest is incomplete or contradicts itself (exit code 9)."""

    exit_code = 9


class TrainingError(ProstateMimError):
    """Training met a non-finite loss or data it cannot learn from (exit code 9)."""

    exit_code = 9


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """What a message may ask for in place of a mistyped name; empty if nothing is like it.

    Args:
        name: as it was typed.
        known: names that there are.
        cutoff: how like one must be, from 0 (the likest of any) to 1 (the same).
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return near[0] if near else ""
