"""check_modality: the cheap checks, and how unusual a volume is to the bundled encoder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from prostate_mim.errors import VolumeError
from prostate_mim.modality.checks import Finding, check_crop, check_volume
from prostate_mim.modality.reference import Encoder, bundled_reference, features_of
from prostate_mim.volume import Volume


@dataclass(frozen=True)
class ModalityReport:
    """What the guard has to say about one volume.

    Attributes:
        findings: what is off; empty if nothing is.
        outlier_score: how unusual the encoder's features are; None where it was not measured.
        outlier_limit: scores above it are a finding; None where there is no score.
        note: why there is no score; empty if there is one, or none was asked for.
    """

    findings: tuple[Finding, ...]
    outlier_score: float | None = None
    outlier_limit: float | None = None
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is off."""
        return not self.findings

    @property
    def flags(self) -> tuple[str, ...]:
        """One short line per finding, with the number that is off."""
        return tuple(finding.message for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        found = [dataclasses.asdict(finding) for finding in self.findings]
        return {"findings": found, "outlier_score": self.outlier_score, "outlier_limit": self.outlier_limit}


def check_modality(volume: Volume, *, encoder: Encoder | None = None, is_crop: bool = False) -> ModalityReport:
    """Whether a volume looks like axial T2w of a prostate, at the right scale.

    Args:
        volume: as ``read_volume`` returns it.
        encoder: the bundled encoder, in evaluation mode on the CPU, for the outlier score; None for the cheap checks
            alone, which need no torch. The score of another encoder would mean nothing: it is left out, and ``note``
            says so.
        is_crop: a piece around a lesion: only spacing, sign and repeated pixels can be checked.
    """
    if is_crop:
        return ModalityReport(check_crop(volume))
    findings = check_volume(volume)
    if encoder is None:
        return ModalityReport(findings)
    reference = bundled_reference()
    if encoder.revision != reference.revision:
        note = f"no outlier score: statistics are of {reference.encoder} {reference.revision}, not of this encoder"
        return ModalityReport(findings, note=note)
    try:
        score = reference.score(features_of(volume, encoder))
    except VolumeError:  # a constant centre, which the encoder refuses
        return ModalityReport(findings, note="no outlier score: the middle of the volume is constant")
    if score > reference.limit:
        findings = (*findings, _unusual(score, reference.limit))
    return ModalityReport(findings, score, reference.limit)


def refuse_flagged(report: ModalityReport, where: str) -> None:
    """Refuse a volume that has findings: what ``--strict`` does.

    Raises:
        VolumeError: naming the first number that is off, and how many others there are.
    """
    if not report.findings:
        return
    others = len(report.findings) - 1
    more = f" (and {others} other finding{'s' * (others > 1)})" if others else ""
    raise VolumeError(f"{where}: {report.findings[0].message}{more}; leave out --strict to go on in spite of it")


class Guard:
    """``check_modality`` that remembers its last volume: rows of a manifest share them.

    Args:
        encoder: as for ``check_modality``.
    """

    def __init__(self, encoder: Encoder | None = None) -> None:
        self._encoder = encoder
        self._last: tuple[Any, bool, ModalityReport] | None = None

    def __call__(self, volume: Volume, is_crop: bool = False) -> ModalityReport:
        """The report of a volume."""
        if self._last is None or self._last[0] is not volume.voxels or self._last[1] != is_crop:
            report = check_modality(volume, encoder=self._encoder, is_crop=is_crop)
            self._last = (volume.voxels, is_crop, report)
        return self._last[2]


def _unusual(score: float, limit: float) -> Finding:
    allowed = f"at most {limit:.2f}"
    message = (
        f"outlier score of the encoder's features is {score:.2f}, allowed {allowed}: "
        "does the middle of this volume look like T2w of a prostate?"
    )
    return Finding("outlier score", round(score, 3), allowed, message)
