"""Synthetic axial T2w prostate studies with labelled lesions: the embedded data set, deterministic in (seed, index)."""

from __future__ import annotations

from prostate_mim.phantom.cohort import write_cohort
from prostate_mim.phantom.study import PhantomLesion, PhantomStudy, make_study

__all__ = ["PhantomLesion", "PhantomStudy", "make_study", "write_cohort"]
