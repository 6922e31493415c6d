"""Metrics with 95 % intervals over patients, paired comparisons, corrections, and files for picai_eval."""

from __future__ import annotations

from prostate_mim.metrics.bootstrap import Auroc, RocBand, auroc_interval, interval, roc_band
from prostate_mim.metrics.calibration import Bins, DecisionCurve, decision_curve, reliability_bins
from prostate_mim.metrics.comparison import Comparison, compare
from prostate_mim.metrics.delong import DeLong, auroc_standard_error, delong
from prostate_mim.metrics.evaluation import Counts, Evaluation, evaluate
from prostate_mim.metrics.multiplicity import benjamini_hochberg, holm, mean_over_runs, permutation_over_seeds
from prostate_mim.metrics.picai import PicaiCase, PicaiFigures, detection_map, score_picai, write_picai
from prostate_mim.metrics.ranking import roc_curve
from prostate_mim.metrics.scored import Estimate, Scored
from prostate_mim.metrics.table import METRICS, auroc

__all__ = [
    "METRICS",
    "Auroc",
    "Bins",
    "Comparison",
    "Counts",
    "DeLong",
    "DecisionCurve",
    "Estimate",
    "Evaluation",
    "PicaiCase",
    "PicaiFigures",
    "RocBand",
    "Scored",
    "auroc",
    "auroc_interval",
    "auroc_standard_error",
    "benjamini_hochberg",
    "compare",
    "decision_curve",
    "delong",
    "detection_map",
    "evaluate",
    "holm",
    "interval",
    "mean_over_runs",
    "permutation_over_seeds",
    "reliability_bins",
    "roc_band",
    "roc_curve",
    "score_picai",
    "write_picai",
]
