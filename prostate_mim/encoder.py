"""PreMIM: a pretrained encoder with the input contract it was trained under."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from prostate_mim.deploy.export import Progress, Size, export_onnx
from prostate_mim.deploy.samples import smooth
from prostate_mim.errors import IntegrityError, UsageError
from prostate_mim.hub import Studies, open_release, write_release
from prostate_mim.hub.card import make_card
from prostate_mim.hub.weights import LoadReport, load_release, load_strictly, stored, weights_digest
from prostate_mim.manifest import Point
from prostate_mim.nets import build_encoder
from prostate_mim.nets.pooling import CentrePool
from prostate_mim.nets.stem import widen_stem
from prostate_mim.preprocess import prepare_input
from prostate_mim.spec import InputSpec
from prostate_mim.volume import Volume

_MOST_CHANNELS = 64
IN_CHANS = "in_chans"  # of a release's details: channels of the encoder's input, where they are not the spec's


@dataclass(frozen=True)
class FeatureInfo:
    """One stage of the encoder in physical terms.

    Attributes:
        channels: C of the stage's (N, C, d, h, w).
        stride_zyx: input voxels per voxel of the stage.
        spacing_mm_zyx: mm per voxel of the stage.
    """

    channels: int
    stride_zyx: tuple[int, int, int]
    spacing_mm_zyx: tuple[float, float, float]


class PreMIM(nn.Module):
    """A 3D CNN encoder for axial T2w prostate MRI, pretrained by masked image modelling.

    Args:
        architecture: key of ``prostate_mim.nets.ARCHITECTURES``.
        spec: the input contract.
        name: what predictions and cards call it.
        revision: content hash of its weights; ``unreleased`` until it is saved.
        details: plain values about its making, kept in ``config.json``.
        studies: which studies the weights have seen, kept in ``studies.json``; nothing is known if None.

    Example:
        >>> encoder = PreMIM.from_pretrained("resenc-s.mim-t2w")  # doctest: +SKIP
        >>> vector = encoder.embed(read_volume("study.nii.gz"))  # doctest: +SKIP
    """

    def __init__(
        self,
        architecture: str = "resenc-s",
        spec: InputSpec | None = None,
        *,
        name: str = "scratch",
        revision: str = "unreleased",
        details: dict[str, Any] | None = None,
        studies: Studies | None = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.spec = spec or InputSpec()
        self.name, self.revision = name, revision
        self.details = dict(details or {})
        self.studies = studies or Studies()
        self.encoder = build_encoder(architecture, _in_chans(self.details, self.spec))
        self.pool = CentrePool(self.encoder.stage_info, self.spec.spacing_mm_zyx)
        self.load_report = LoadReport(0, ())
        check_size(self.spec, self.encoder.total_stride_zyx)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        in_chans: int | None = None,
        spacing_mm_zyx: tuple[float, float, float] | None = None,
        allow_other_spacing: bool = False,
    ) -> PreMIM:
        """Load verified weights.

        Every file's SHA-256, every key, shape and dtype is checked. Returned in evaluation mode, float32, on the
        CPU; ``load_report`` says where the files are from and lists what was adapted.

        Args:
            name: a published name (``list_models()``); a release or run folder, as a path or ``local-dir:PATH``; or
                ``org/name@revision`` on a hub, where the revision is a commit of 40 hex digits. A branch or tag has to
                be named and warns.
            in_chans: C of the batches that ``forward`` will get; further channels begin at weight 0, so features are
                at first those of the image alone. ``prepare`` gives the spec's channels: stack the others yourself.
            spacing_mm_zyx: of what it will be fed with; refused where it is not the one it was pretrained at.
            allow_other_spacing: take that spacing into the spec, in mm, all the same: kernels then see structures of
                other sizes than in pretraining.

        Raises:
            NotFoundError: no such model (the nearest name is suggested).
            IntegrityError: the files are not what they claim to be.
            NetworkError: the hub cannot be reached.
            UsageError: a hub's name without a revision, another spacing, or fewer channels than it has.
        """
        release = open_release(name, kind="encoder")
        model = cls(
            release.architecture, release.spec, name=release.name, revision=release.revision, details=release.details,
            studies=release.studies,
        )  # fmt: skip
        model.load_report = load_release(model.encoder, release)
        if spacing_mm_zyx is not None:
            model._take_spacing(spacing_mm_zyx, allow_other_spacing)
        if in_chans is not None:
            model._take_channels(in_chans)
        return model.eval()

    def _take_spacing(self, spacing_mm_zyx: tuple[float, float, float], allowed: bool) -> None:
        spec = dataclasses.replace(self.spec, spacing_mm_zyx=spacing_mm_zyx)
        if spec == self.spec:
            return
        asked, own = (" x ".join(f"{mm:g}" for mm in one.spacing_mm_zyx) for one in (spec, self.spec))
        if not allowed:
            raise UsageError(
                f"{self.name} was pretrained at {own} mm (z, y, x), not {asked} mm; resample to that (prepare does), "
                "or give allow_other_spacing=True: kernels then see structures of other sizes"
            )
        self.spec, self.pool = spec, CentrePool(self.encoder.stage_info, spec.spacing_mm_zyx)
        self._adapted(f"spacing: pretrained at {own} mm, used at {asked} mm")

    def _take_channels(self, in_chans: int) -> None:
        if in_chans > _MOST_CHANNELS:
            raise UsageError(f"in_chans is {in_chans}; at most {_MOST_CHANNELS} channels")
        before = {key: value.shape for key, value in self.encoder.state_dict().items()}
        widen_stem(self.encoder, in_chans)
        for key, value in self.encoder.state_dict().items():
            if value.shape != before[key]:
                self._adapted(f"{key}: {tuple(before[key])} -> {tuple(value.shape)}, new channels at 0")
        if in_chans != len(self.spec.channels):
            self.details[IN_CHANS] = in_chans

    def _adapted(self, line: str) -> None:
        self.load_report = dataclasses.replace(self.load_report, adapted=(*self.load_report.adapted, line))

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        name: str | None = None,
        card: str | None = None,
        dtype: str = "float32",
        decoder: nn.Module | None = None,
    ) -> Path:
        """Write a release folder that ``from_pretrained`` reads.

        Args:
            name: the published name, ``architecture.recipe``; this model's if None.
            card: Markdown; a plain one is generated if None.
            dtype: of the stored weights, ``float32`` or ``float16``.
            decoder: the reconstruction decoder, so that pictures can be made from the release.

        Raises:
            UsageError: the folder is not empty or cannot be written.
        """
        config = {
            "kind": "encoder",
            "name": name or self.name,
            "architecture": self.architecture,
            "spec": self.spec.to_dict(),
            "weights_dtype": dtype,
            "details": self.details,
        }
        weights = stored(self.encoder, dtype)
        return write_release(
            folder,
            config=config,
            card=card or make_card(config, studies=self.studies),
            weights=weights,
            golden=self._golden(weights, dtype),
            decoder=None if decoder is None else stored(decoder, dtype),
            studies=self.studies,
        )

    def _golden(self, weights: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
        """A fixed input and the embedding a reader of this release must get for it."""
        reader = PreMIM(self.architecture, self.spec, details=self.details).eval()
        load_strictly(reader.encoder, weights, dtype, "golden sample")
        sample = golden_input(self.encoder.total_stride_zyx, self.encoder.in_channels)
        with torch.inference_mode():
            return {"input": sample, "embedding": reader.pool(reader(sample)).clone()}

    @property
    def feature_info(self) -> list[FeatureInfo]:
        """The stages of ``forward`` in mm."""
        infos = []
        for stage in self.encoder.stage_info:
            z, y, x = (n * mm for n, mm in zip(stage.stride_zyx, self.spec.spacing_mm_zyx, strict=True))
            infos.append(FeatureInfo(stage.channels, stage.stride_zyx, (z, y, x)))
        return infos

    @property
    def embedding_size(self) -> int:
        """Length C of ``embed``'s vector."""
        return self.pool.channels

    def forward(self, batch: Tensor) -> list[Tensor]:
        """(N, 1, D, H, W) float32, z-scored, and masks where the spec has them -> one (N, C, d, h, w) per stage.

        The coarsest stage is the last.
        """
        stages: list[Tensor] = self.encoder(batch)
        return stages

    def prepare(
        self, volume: Volume, position_mm_lps: Point | None = None, masks: Mapping[str, Volume] | None = None
    ) -> Tensor:
        """The network's input for one volume, around a position or the image centre; see ``prepare_input``.

        Args:
            volume: as ``read_volume`` returns it.
            position_mm_lps: (x, y, z) in mm.
            masks: the ones among the spec's channels, by name.

        Returns:
            (1, 1, D, H, W) float32; a channel more for each mask of the spec.
        """
        return torch.from_numpy(prepare_input(volume, self.spec, position_mm_lps, masks))[None]

    @torch.inference_mode()
    def embed(
        self, volume: Volume, position_mm_lps: Point | None = None, masks: Mapping[str, Volume] | None = None
    ) -> npt.NDArray[np.float32]:
        """One vector for a volume: (C,) float32, of what lies at the position (or at the image centre).

        Means of the three coarsest stages and deviations of the two finer of them, weighted by a Gaussian of 5 mm;
        see ``nets.pooling.CentrePool``.
        """
        vector: Tensor = self.pool(self(self.prepare(volume, position_mm_lps, masks)))
        return vector[0].numpy()

    def weights_sha256(self) -> str:
        """SHA-256 of the ``model.safetensors`` that these weights are, or would be saved as in float32."""
        return weights_digest(self.encoder, self.load_report)

    def export_onnx(
        self, path: str | Path, *, half: bool = False, static_zyx: Size | None = None, full_graph: bool = False,
        progress: Progress | None = None,
    ) -> Path:  # fmt: skip
        """Write a verified, self-contained ONNX file; see ``prostate_mim.deploy.export.export_onnx``."""
        if self.encoder.in_channels != len(self.spec.channels):
            raise UsageError(
                f"{self.name} takes {self.encoder.in_channels} channels, and its spec can prepare "
                f"{len(self.spec.channels)}; an exported file must hold its whole preprocessing"
            )
        return export_onnx(self, path, half=half, static_zyx=static_zyx, full_graph=full_graph, progress=progress)


def _in_chans(details: Mapping[str, Any], spec: InputSpec) -> int:
    """Channels of the encoder's input.

    Raises:
        IntegrityError: details say something that no encoder has.
    """
    found = details.get(IN_CHANS, len(spec.channels))
    if type(found) is not int or not len(spec.channels) <= found <= _MOST_CHANNELS:
        raise IntegrityError(f"{IN_CHANS} is {found!r}; the release is damaged, fetch it again")
    return found


def check_size(spec: InputSpec, stride_zyx: tuple[int, int, int]) -> None:
    """Refuse a crop that the encoder's strides do not divide.

    Raises:
        UsageError: naming axis, size and stride.
    """
    for axis, size, stride in zip("zyx", spec.size_zyx, stride_zyx, strict=True):
        if size % stride:
            raise UsageError(f"crop of {size} voxels along {axis} is not a multiple of the encoder's stride {stride}")


def golden_input(stride_zyx: tuple[int, int, int], channels: int = 1) -> Tensor:
    """(1, channels, 2 sz, 4 sy, 4 sx): a sample for any network, exactly representable in float16, no patient in it.

    The first channel is smooth and pseudo-random, the others, masks, are 0 and 1.
    """
    z, y, x = stride_zyx
    return torch.from_numpy(smooth((1, channels, 2 * z, 4 * y, 4 * x)))
