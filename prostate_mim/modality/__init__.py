"""The modality guard: is this axial T2w MRI of a prostate, at the right scale? Cheap checks and an outlier score."""

from __future__ import annotations

from prostate_mim.modality.checks import Finding, check_crop, check_volume
from prostate_mim.modality.guard import Guard, ModalityReport, check_modality, refuse_flagged

__all__ = ["Finding", "Guard", "ModalityReport", "check_crop", "check_modality", "check_volume", "refuse_flagged"]
