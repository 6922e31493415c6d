"""OnnxClassifier and OnnxEncoder: an exported file, its preprocessing, and the device it says. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prostate_mim.deploy.container import read_container
from prostate_mim.deploy.contract import INPUT, MOST_LESIONS, OUTPUTS, FloatArray
from prostate_mim.deploy.prediction import Prediction, looked_at, place_flags
from prostate_mim.deploy.runtime import DEFAULTS, DEVICES, RuntimeOptions, open_verified
from prostate_mim.errors import BackendError, UsageError
from prostate_mim.manifest import Point
from prostate_mim.modality import check_modality
from prostate_mim.preprocess import prepare_input
from prostate_mim.volume import Volume

_CLASS_OF = {"classifier": "OnnxClassifier", "encoder": "OnnxEncoder"}
_Masks = Mapping[str, Volume]


class _OnnxModel:
    """What both kinds share: opening, verification, preprocessing.

    On opening, the file's golden sample is replayed; its outputs must agree with torch's within 1e-4 (in units of
    max(1, largest expected value); ``runtime.REPLAY_TOLERANCE`` has what rounded arithmetic is allowed) on whichever
    device is used. One instance may be shared by threads.

    Args:
        path: an .onnx that ``export_onnx`` wrote.
        device: ``cpu``; ``cuda`` or ``tensorrt``, which fail where the GPU does not really compute; ``openvino``; or
            ``auto``: CUDA if it works and reproduces the golden sample, else OpenVINO if it is installed, else the CPU.
        options: threads, memory limit, TF32, warm-up.

    Attributes:
        name, revision: of the exported model.
        spec: its input contract.
        stride_zyx: batches must have multiples of it (voxels).
        size_zyx: the only size (voxels) that a file for one size takes; else None.
        whole_study: it is a classifier that pools over the whole crop, and needs no position.
        full_graph: it takes studies; ``run`` and ``run_tensor``, which take crops, are refused then.
        device: what computes: ONNX Runtime's execution provider, e.g. ``CPUExecutionProvider``, or ``OpenVINO:CPU``.
        reason: why that: ``asked for``, or what ``auto`` found.
        settings: of the engine: version, threads, TF32, algorithm search.
        replay_difference: how far the golden sample's outputs were from torch's.

    Raises:
        NotFoundError: no such file.
        IntegrityError: not such a file, or damaged, edited, newer, or pointing at external data.
        UsageError: a file of the other kind, or an unknown device.
        BackendError: the engine is not installed, or does not really compute.
        VerificationError: this machine does not reproduce the golden sample.
    """

    _kind = ""

    def __init__(self, path: str | Path, device: str = "auto", options: RuntimeOptions = DEFAULTS) -> None:
        if device not in DEVICES:
            raise UsageError(f"device {device!r} is none of {', '.join(DEVICES)}")
        container = read_container(path)
        header = container.header
        if header.kind != self._kind:
            raise UsageError(f"{path}: holds a model of kind {header.kind!r}; open it with {_CLASS_OF[header.kind]}")
        self.name, self.revision, self.spec = header.name, header.revision, header.spec
        self.stride_zyx, self.size_zyx, self.full_graph = header.stride_zyx, header.size_zyx, header.full_graph
        self.whole_study = header.whole_study
        opened = open_verified(container, device, str(path), options)
        self._runtime, self.replay_difference, self.reason = opened.runtime, opened.difference, opened.reason
        self.device, self.settings = self._runtime.provider, dict(self._runtime.settings)

    def prepare(self, volume: Volume, position_mm_lps: Point | None = None, masks: _Masks | None = None) -> FloatArray:
        """The network's input for one volume, around a position or the image centre; see ``prepare_input``.

        Returns:
            (1, C, D, H, W) float32, one channel for each of ``spec.channels``.
        """
        return prepare_input(volume, self.spec, position_mm_lps, masks)[None]

    def run(self, batch: FloatArray) -> dict[str, FloatArray]:
        """(N, C, D, H, W) float32, as ``prepare`` gives it -> the graph's outputs by name.

        Raises:
            UsageError: another shape or type, or sizes that are not multiples of ``stride_zyx`` (or the fixed size).
            ResourceError: out of memory.
        """
        self._check(batch.shape, str(batch.dtype))
        return self._runtime.run(np.ascontiguousarray(batch))

    def run_tensor(self, batch: Any) -> dict[str, Any]:
        """As ``run``, without copies, for a contiguous tensor that lies where the engine computes.

        Args:
            batch: (N, C, D, H, W) float32 of torch, CuPy, or another library that speaks DLPack.

        Returns:
            The graph's outputs by name, on the same device; ``torch.from_dlpack`` and its like take them.

        Raises:
            UsageError: as ``run``, or a tensor of another device.
            ResourceError: out of memory.
        """
        self._check(tuple(batch.shape), str(batch.dtype).removeprefix("torch."))
        return self._runtime.run_tensor(batch)

    def _outputs(
        self, volume: Volume, positions_mm_lps: Sequence[Point | None], masks: _Masks | None
    ) -> Iterator[dict[str, FloatArray]]:
        """The graph's outputs for lesions of one study, up to ``MOST_LESIONS`` at once.

        Raises:
            VolumeError: as ``prepare``, for the first position that is refused.
        """
        if not self.full_graph:
            crops = [self.prepare(volume, position, masks) for position in positions_mm_lps]
        for first in range(0, len(positions_mm_lps), MOST_LESIONS):
            asked = positions_mm_lps[first : first + MOST_LESIONS]
            if self.full_graph:
                yield self._of_study(volume, asked)
            else:
                yield self.run(np.concatenate(crops[first : first + MOST_LESIONS]))

    def _of_study(self, volume: Volume, positions_mm_lps: Sequence[Point | None]) -> dict[str, FloatArray]:
        """What a graph with the whole pipeline gives; it says NaN of what ``prepare`` refuses."""
        places = [volume.centre_mm_lps if place is None else place for place in positions_mm_lps]
        outputs = self._runtime.run(
            np.ascontiguousarray(volume.voxels, np.float32),
            affine=volume.geometry.affine,
            position_mm_lps=np.asarray(places, np.float64),
        )
        for place, value in zip(positions_mm_lps, outputs[OUTPUTS[self._kind][0]], strict=True):
            if not np.isfinite(value).all():
                self.prepare(volume, place)  # raises what is wrong with it
                raise BackendError(f"{self.name}: {self.device} gave {value} for a lesion that is none to refuse")
        return outputs

    def _check(self, shape: tuple[int, ...], dtype: str) -> None:
        if self.full_graph:
            raise UsageError(f"{self.name}: this file takes whole studies; use predict, predict_many or embed")
        channels = len(self.spec.channels)
        if len(shape) != 5 or shape[1] != channels or dtype != "float32" or shape[0] == 0:
            raise UsageError(f"{INPUT}: {dtype} {shape}, expected float32 (N, {channels}, D, H, W)")
        if self.size_zyx is not None and shape[2:] != self.size_zyx:
            raise UsageError(f"{INPUT}: crop {shape[2:]}, and this file takes {self.size_zyx} voxels only")
        if any(size == 0 or size % stride for size, stride in zip(shape[2:], self.stride_zyx, strict=True)):
            raise UsageError(f"{INPUT}: crop {shape[2:]} is no multiple of the stride {self.stride_zyx} (voxels)")


class OnnxClassifier(_OnnxModel):
    """A lesion classifier from an .onnx file.

    Args:
        path: an .onnx that ``export_onnx`` wrote.
        device, options: as ``_OnnxModel`` says.

    Raises:
        NotFoundError, IntegrityError, UsageError, BackendError, VerificationError: as ``_OnnxModel`` says.

    Example:
        >>> model = OnnxClassifier("a.onnx", device="cuda")  # doctest: +SKIP
        >>> model.predict(read_volume("study.nii.gz"), (1.0, -22.5, 40.0)).probability  # doctest: +SKIP
    """

    _kind = "classifier"

    def predict(self, volume: Volume, position_mm_lps: Point | None = None, masks: _Masks | None = None) -> Prediction:
        """Probability for the lesion at ``position_mm_lps`` (x, y, z in mm, LPS), or at the image centre.

        Its ``flags`` say what is off with the image, and that no position was given. A volume of one slice is taken
        for a crop around a lesion, of which only spacing, sign and repeated pixels can be checked.

        Args:
            volume: as ``read_volume`` returns it.
            position_mm_lps: (x, y, z) of the lesion.
            masks: what ``spec.masks`` names, such as ``{"gland": read_mask("gland.nii.gz")}``; of a zone mask,
                ``split_zones`` makes ``pz`` and ``tz``.

        Raises:
            VolumeError: the position lies outside the volume, the crop is constant, or a mask is missing or of another
                place.
        """
        return self.predict_many(volume, [position_mm_lps], masks)[0]

    def predict_many(
        self, volume: Volume, positions_mm_lps: Sequence[Point | None], masks: _Masks | None = None
    ) -> list[Prediction]:
        """As ``predict``, for several lesions of one study, up to ``MOST_LESIONS`` at once.

        Args:
            volume, masks: as for ``predict``.
            positions_mm_lps: (x, y, z) in mm of each lesion; None for the image centre.

        Raises:
            VolumeError: as ``predict``, for the first position that is refused.
        """
        flags = check_modality(volume, is_crop=volume.shape_zyx[0] == 1).flags
        found = [v for part in self._outputs(volume, positions_mm_lps, masks) for v in part["probability"].tolist()]
        return [
            Prediction(
                value, self.name, self.revision, self.spec.fingerprint, self.device,
                (*flags, *place_flags(volume, place, self.whole_study)), self.reason, looked_at(volume, place),
            )
            for value, place in zip(found, positions_mm_lps, strict=True)
        ]  # fmt: skip


class OnnxEncoder(_OnnxModel):
    """A pretrained encoder from an .onnx file; arguments and errors as for ``OnnxClassifier``."""

    _kind = "encoder"

    def embed(self, volume: Volume, position_mm_lps: Point | None = None, masks: _Masks | None = None) -> FloatArray:
        """One vector for a volume, as ``PreMIM.embed`` gives it: (C,) float32.

        Raises:
            VolumeError: as ``OnnxClassifier.predict``.
        """
        (outputs,) = self._outputs(volume, [position_mm_lps], masks)
        return np.asarray(outputs["embedding"][0], np.float32)
