"""finetune: encoder + labelled manifest -> patient folds -> AUROC with intervals -> classifier release."""

from __future__ import annotations

from prostate_mim.finetuning.config import MODES, ClassifierConfig, FinetuneConfig, FinetuneRunConfig
from prostate_mim.finetuning.crossfit import cross_fit
from prostate_mim.finetuning.linear import LinearProbe, fit_linear_probe
from prostate_mim.finetuning.regions import predict_regions, region_features
from prostate_mim.finetuning.results import FinetuneRun
from prostate_mim.finetuning.run import finetune
from prostate_mim.finetuning.subsets import labelled_subset

__all__ = [
    "MODES",
    "ClassifierConfig",
    "FinetuneConfig",
    "FinetuneRun",
    "FinetuneRunConfig",
    "LinearProbe",
    "cross_fit",
    "finetune",
    "fit_linear_probe",
    "labelled_subset",
    "predict_regions",
    "region_features",
]
