"""Pretrained 3D CNN encoders for axial T2w prostate MRI. Importing costs nothing: names load when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from prostate_mim._version import __version__

if TYPE_CHECKING:
    from prostate_mim.classifier import LesionClassifier
    from prostate_mim.create import create_model
    from prostate_mim.deploy.prediction import Prediction
    from prostate_mim.deploy.session import OnnxClassifier, OnnxEncoder
    from prostate_mim.encoder import PreMIM
    from prostate_mim.finetuning import FinetuneConfig, finetune
    from prostate_mim.hub.resolve import list_models
    from prostate_mim.nets import register_encoder
    from prostate_mim.pretraining import PretrainConfig, pretrain
    from prostate_mim.spec import InputSpec
    from prostate_mim.volume import Volume, read_volume

_HOME = {
    "FinetuneConfig": "finetuning",
    "InputSpec": "spec",
    "LesionClassifier": "classifier",
    "OnnxClassifier": "deploy.session",
    "OnnxEncoder": "deploy.session",
    "PreMIM": "encoder",
    "Prediction": "deploy.prediction",
    "PretrainConfig": "pretraining",
    "Volume": "volume",
    "create_model": "create",
    "finetune": "finetuning",
    "list_models": "hub.resolve",
    "pretrain": "pretraining",
    "read_volume": "volume",
    "register_encoder": "nets",
}

__all__ = [
    "FinetuneConfig",
    "InputSpec",
    "LesionClassifier",
    "OnnxClassifier",
    "OnnxEncoder",
    "PreMIM",
    "Prediction",
    "PretrainConfig",
    "Volume",
    "__version__",
    "create_model",
    "finetune",
    "list_models",
    "pretrain",
    "read_volume",
    "register_encoder",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'prostate_mim' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"prostate_mim.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
