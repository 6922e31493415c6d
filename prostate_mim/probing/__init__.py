"""What frozen features know of voxels (gland, zones, lesions) and of the scanner centre. Linear, patients apart."""

from __future__ import annotations

from prostate_mim.probing.run import ProbeResult, run_probe
from prostate_mim.probing.task import KINDS, ProbeTask

__all__ = ["KINDS", "ProbeResult", "ProbeTask", "run_probe"]
