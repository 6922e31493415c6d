"""pretrain: manifest -> masked image modelling, or contrastive training -> release folder."""

from prostate_mim.pretraining.config import PretrainConfig
from prostate_mim.pretraining.run import make_model, mim_details, pretrain
from prostate_mim.pretraining.task import MimTask

__all__ = ["MimTask", "PretrainConfig", "make_model", "mim_details", "pretrain"]
