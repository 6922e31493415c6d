"""OnnxClassifier and OnnxEncoder: an exported file, its preprocessing, and the device it says. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from prostate_mim.deploy.container import Container, read_container
from prostate_mim.deploy.contract import INPUT, FloatArray
from prostate_mim.deploy.provenance import Prediction
from prostate_mim.deploy.runtime import DEVICES, Runtime
from prostate_mim.errors import BackendError, ResourceError, UsageError, VerificationError
from prostate_mim.modality import check_modality
from prostate_mim.preprocess import prepare_input
from prostate_mim.volume import Volume

REPLAY_TOLERANCE = 1e-4
_CLASS_OF = {"classifier": "OnnxClassifier", "encoder": "OnnxEncoder"}
_Point = tuple[float, float, float]
_Masks = Mapping[str, Volume]


class _OnnxModel:
    """What both kinds share: opening, verification, preprocessing.

    On opening, the file's golden sample is replayed; its outputs must agree with torch's within 1e-4 (in units of
    max(1, largest expected value)) on whichever device is used.

    Args:
        path: an .onnx that ``export_onnx`` wrote.
        device: ``cpu``; ``cuda``, which fails where CUDA does not really compute; or ``auto``: CUDA if it works and
            reproduces the golden sample, else the CPU.

    Attributes:
        name, revision: of the exported model.
        spec: its input contract.
        stride_zyx: batches must have multiples of it (voxels).
        device: ONNX Runtime's execution provider in use, e.g. ``CPUExecutionProvider``.
        replay_difference: how far the golden sample's outputs were from torch's.

    Raises:
        NotFoundError: no such file.
        IntegrityError: not such a file, or damaged, edited, newer, or pointing at external data.
        UsageError: a file of the other kind, or an unknown device.
        BackendError: ONNX Runtime or CUDA is not available.
        VerificationError: this machine does not reproduce the golden sample.
    """

    _kind = ""

    def __init__(self, path: str | Path, device: str = "auto") -> None:
        if device not in DEVICES:
            raise UsageError(f"device {device!r} is none of {', '.join(DEVICES)}")
        container = read_container(path)
        header = container.header
        if header.kind != self._kind:
            raise UsageError(f"{path}: holds a model of kind {header.kind!r}; open it with {_CLASS_OF[header.kind]}")
        self.name, self.revision, self.spec = header.name, header.revision, header.spec
        self.stride_zyx = header.stride_zyx
        self._runtime, self.replay_difference = _open(container, device, str(path))
        self.device = self._runtime.provider

    def prepare(self, volume: Volume, position_mm_lps: _Point | None = None, masks: _Masks | None = None) -> FloatArray:
        """The network's input for one volume, around a position or the image centre; see ``prepare_input``.

        Returns:
            (1, C, D, H, W) float32, one channel for each of ``spec.channels``.
        """
        return prepare_input(volume, self.spec, position_mm_lps, masks)[None]

    def run(self, batch: FloatArray) -> dict[str, FloatArray]:
        """(N, C, D, H, W) float32, as ``prepare`` gives it -> the graph's outputs by name.

        Raises:
            UsageError: another shape or type, or sizes that are not multiples of ``stride_zyx``.
            ResourceError: out of memory.
        """
        channels = len(self.spec.channels)
        if batch.ndim != 5 or batch.shape[1] != channels or batch.dtype != np.float32 or batch.shape[0] == 0:
            raise UsageError(f"{INPUT}: {batch.dtype} {batch.shape}, expected float32 (N, {channels}, D, H, W)")
        if any(size == 0 or size % stride for size, stride in zip(batch.shape[2:], self.stride_zyx, strict=True)):
            raise UsageError(f"{INPUT}: crop {batch.shape[2:]} is no multiple of the stride {self.stride_zyx} (voxels)")
        return self._runtime.run(np.ascontiguousarray(batch))


class OnnxClassifier(_OnnxModel):
    """A lesion classifier from an .onnx file.

    Args:
        path: an .onnx that ``export_onnx`` wrote.
        device: ``cpu``; ``cuda``, which fails where CUDA does not really compute; or ``auto``.

    Raises:
        NotFoundError, IntegrityError, UsageError, BackendError, VerificationError: as ``_OnnxModel`` says.

    Example:
        >>> model = OnnxClassifier("a.onnx", device="cuda")  # doctest: +SKIP
        >>> model.predict(read_volume("study.nii.gz"), (1.0, -22.5, 40.0)).probability  # doctest: +SKIP
    """

    _kind = "classifier"

    def predict(self, volume: Volume, position_mm_lps: _Point | None = None, masks: _Masks | None = None) -> Prediction:
        """Probability for the lesion at ``position_mm_lps`` (x, y, z in mm, LPS), or at the image centre.

        Its ``flags`` say what is off with the image. A volume of one slice is taken for a crop around a lesion, of
        which only spacing, sign and repeated pixels can be checked.

        Args:
            volume: as ``read_volume`` returns it.
            position_mm_lps: (x, y, z) of the lesion.
            masks: what ``spec.masks`` names, such as ``{"gland": read_mask("gland.nii.gz")}``; of a zone mask,
                ``split_zones`` makes ``pz`` and ``tz``.

        Raises:
            VolumeError: the position lies outside the volume, the crop is constant, or a mask is missing or of another
                place.
        """
        outputs = self.run(self.prepare(volume, position_mm_lps, masks))
        probability = float(outputs["probability"][0])
        flags = check_modality(volume, is_crop=volume.shape_zyx[0] == 1).flags
        return Prediction(probability, self.name, self.revision, self.spec.fingerprint, self.device, flags)


class OnnxEncoder(_OnnxModel):
    """A pretrained encoder from an .onnx file; arguments and errors as for ``OnnxClassifier``."""

    _kind = "encoder"

    def embed(self, volume: Volume, position_mm_lps: _Point | None = None, masks: _Masks | None = None) -> FloatArray:
        """One vector for a volume, as ``PreMIM.embed`` gives it: (C,) float32.

        Raises:
            VolumeError: as ``OnnxClassifier.predict``.
        """
        vectors = self.run(self.prepare(volume, position_mm_lps, masks))["embedding"]
        return np.asarray(vectors[0], np.float32)


def _open(container: Container, device: str, where: str) -> tuple[Runtime, float]:
    """A runtime that has reproduced the golden sample, and by how much it missed it."""
    if device == "auto":
        try:
            return _open(container, "cuda", where)
        except (BackendError, ResourceError, VerificationError):
            device = "cpu"
    runtime = Runtime(container.data, device, where)
    difference = container.golden.difference(runtime.run(container.golden.voxels))
    if not difference <= REPLAY_TOLERANCE:
        raise VerificationError(
            f"{where}: {runtime.provider} differs from torch by {difference:.2e} on the golden sample (allowed "
            f"{REPLAY_TOLERANCE:g}); do not use it here, export it again or use another onnxruntime"
        )
    return runtime, difference


def verify_onnx(path: str | Path) -> dict[str, str | float]:
    """Open a file of either kind on the CPU, which checks its digest and replays its golden sample.

    Returns:
        name, kind, revision, and the largest difference found.

    Raises:
        NotFoundError, IntegrityError, VerificationError: as opening it does.
    """
    kind = read_container(path).header.kind
    model = (OnnxClassifier if kind == "classifier" else OnnxEncoder)(path, device="cpu")
    return {"name": model.name, "kind": kind, "revision": model.revision, "golden_difference": model.replay_difference}
