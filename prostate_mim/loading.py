"""A release by its name, whichever kind it is: loaded, or verified by its golden sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from prostate_mim.classifier import LesionClassifier
from prostate_mim.deploy.verify import verify_onnx
from prostate_mim.encoder import PreMIM
from prostate_mim.errors import IntegrityError, VerificationError
from prostate_mim.hub import open_release
from prostate_mim.hub.release import GOLDEN
from prostate_mim.hub.weights import read_tensors
from prostate_mim.nets import Encoder

# Golden outputs were computed on one machine; another's kernels round differently.
GOLDEN_TOLERANCE = 1e-3


def load_model(name: str | Path) -> PreMIM | LesionClassifier:
    """A release of either kind, verified."""
    if open_release(name).kind == "classifier":
        return LesionClassifier.from_pretrained(name)
    return PreMIM.from_pretrained(name)


def load_encoder(name: str | Path) -> PreMIM:
    """The encoder of a release of either kind."""
    model = load_model(name)
    return model.encoder if isinstance(model, LesionClassifier) else model


def verify_model(target: str | Path) -> dict[str, Any]:
    """Check a release's checksums, or an ONNX file, and recompute its golden sample.

    Returns:
        name, kind, revision, and the largest absolute difference found.

    Raises:
        IntegrityError: a checksum, key, shape or dtype is wrong.
        VerificationError: the golden sample comes out differently (more than 1e-3).
    """
    if str(target).endswith(".onnx"):
        return verify_onnx(target)
    model = load_model(target)
    output = "logit" if isinstance(model, LesionClassifier) else "embedding"
    golden = read_tensors(open_release(target).folder / GOLDEN)
    shapes = {name: (value.dtype, value.ndim) for name, value in golden.items()}
    if shapes != {"input": (torch.float32, 5), output: (torch.float32, 1 if output == "logit" else 2)}:
        raise IntegrityError(f"{target}: its golden sample is {shapes}; the release is of another version")
    sample, expected = golden["input"], golden[output]
    if sample.shape[:2] != (1, _network(model).in_channels) or any(
        n % s for n, s in zip(sample.shape[2:], _network(model).total_stride_zyx, strict=True)
    ):
        raise IntegrityError(f"{target}: its golden input {tuple(sample.shape)} does not fit the encoder's strides")
    with torch.inference_mode():
        found = model(sample) if isinstance(model, LesionClassifier) else model.pool(model(sample))
    if found.shape != expected.shape:
        raise IntegrityError(f"{target}: golden {output} is {tuple(expected.shape)}, not {tuple(found.shape)}")
    worst = float((found - expected).abs().max())
    if not worst <= GOLDEN_TOLERANCE:
        raise VerificationError(
            f"{target}: the golden sample differs by {worst:.1e}, allowed {GOLDEN_TOLERANCE:g}; "
            "a library may compute differently here: compare versions with config.json"
        )
    kind = "classifier" if isinstance(model, LesionClassifier) else "encoder"
    return {"name": model.name, "kind": kind, "revision": model.revision, "golden_difference": worst}


def _network(model: PreMIM | LesionClassifier) -> Encoder:
    return (model.encoder if isinstance(model, LesionClassifier) else model).encoder
