"""create_model: timm's verb for 3D encoders: stages, one vector, or a classifier to be trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from prostate_mim.classifier import LesionClassifier
from prostate_mim.encoder import FeatureInfo, PreMIM
from prostate_mim.errors import UsageError
from prostate_mim.hub.weights import LoadReport
from prostate_mim.spec import InputSpec


class _OfEncoder(nn.Module):
    """What both forms of an encoder have in common."""

    def __init__(self, encoder: PreMIM) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    def spec(self) -> InputSpec:
        """The input contract."""
        return self.encoder.spec

    @property
    def load_report(self) -> LoadReport:
        """The encoder's."""
        return self.encoder.load_report


class FeatureExtractor(_OfEncoder):
    """Some stages of an encoder.

    Args:
        encoder: shared, not copied.
        out_indices: which stages, 0 the finest, -1 the coarsest; all if None.

    Raises:
        UsageError: there is no such stage, or one is asked for twice.
    """

    def __init__(self, encoder: PreMIM, out_indices: Sequence[int] | None = None) -> None:
        super().__init__(encoder)
        count = len(encoder.encoder.stage_info)
        asked = range(count) if out_indices is None else out_indices
        if any(not -count <= index < count for index in asked):
            raise UsageError(f"out_indices {tuple(asked)}: {encoder.architecture} has stages 0 to {count - 1}")
        self.out_indices = tuple(index % count for index in asked)
        if not self.out_indices or len(set(self.out_indices)) < len(self.out_indices):
            raise UsageError(f"out_indices {tuple(asked)}: name one or more stages, each once")

    @property
    def feature_info(self) -> list[FeatureInfo]:
        """What ``forward`` gives: channels, stride in voxels and spacing in mm of each."""
        infos = self.encoder.feature_info
        return [infos[index] for index in self.out_indices]

    def forward(self, batch: Tensor) -> list[Tensor]:
        """(N, C, D, H, W) float32, z-scored -> one (N, C_k, d, h, w) per asked stage, in the order asked."""
        stages = self.encoder(batch)
        return [stages[index] for index in self.out_indices]


class PooledEncoder(_OfEncoder):
    """An encoder that gives one vector a crop, as ``PreMIM.embed`` does.

    Args:
        encoder: shared, not copied.
    """

    @property
    def num_features(self) -> int:
        """Length C of the vector."""
        return self.encoder.embedding_size

    def forward(self, batch: Tensor) -> Tensor:
        """(N, C, D, H, W) float32, z-scored -> (N, ``num_features``)."""
        vectors: Tensor = self.encoder.pool(self.encoder(batch))
        return vectors


def create_model(
    name: str | Path,
    *,
    pretrained: bool = True,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    num_classes: int = 0,
    in_chans: int | None = None,
    spacing_mm_zyx: tuple[float, float, float] | None = None,
    allow_other_spacing: bool = False,
) -> FeatureExtractor | PooledEncoder | LesionClassifier:
    """An encoder in the form that code written for timm expects.

    Args:
        name: as of ``PreMIM.from_pretrained``; with ``pretrained=False`` an architecture, ``resenc-s``.
        pretrained: load weights; random ones otherwise.
        features_only: ``forward`` gives stages; see ``out_indices`` and the model's ``feature_info``.
        out_indices: which stages; all if None.
        num_classes: 0 gives one vector a crop, 1 a ``LesionClassifier`` with a head that is still to be trained.
        in_chans, spacing_mm_zyx, allow_other_spacing: as of ``PreMIM.from_pretrained``.

    Returns:
        In evaluation mode. Its ``load_report`` lists whatever is not as it was published.

    Raises:
        NotFoundError, IntegrityError, NetworkError, UsageError: as ``PreMIM.from_pretrained``; or the arguments
            contradict each other.
    """
    if num_classes not in (0, 1):
        raise UsageError(f"num_classes is {num_classes}; 0 gives features, 1 a classifier of lesions (csPCa or not)")
    if features_only and num_classes:
        raise UsageError("features_only=True gives stages and has no head; leave num_classes at 0")
    if out_indices is not None and not features_only:
        raise UsageError("out_indices is for features_only=True; add it")
    encoder = _encoder(name, pretrained, in_chans, spacing_mm_zyx, allow_other_spacing)
    if features_only:
        return FeatureExtractor(encoder, out_indices).eval()
    if num_classes and encoder.encoder.in_channels != len(encoder.spec.channels):
        raise UsageError("a classifier's channels are those of its spec: LesionClassifier(encoder, spec) with masks")
    return LesionClassifier(encoder).eval() if num_classes else PooledEncoder(encoder).eval()


def _encoder(
    name: str | Path,
    pretrained: bool,
    in_chans: int | None,
    spacing_mm_zyx: tuple[float, float, float] | None,
    allow_other_spacing: bool,
) -> PreMIM:
    if pretrained:
        return PreMIM.from_pretrained(
            name, in_chans=in_chans, spacing_mm_zyx=spacing_mm_zyx, allow_other_spacing=allow_other_spacing
        )
    spec = InputSpec() if spacing_mm_zyx is None else InputSpec(spacing_mm_zyx=spacing_mm_zyx)
    return PreMIM(str(name), spec, details={} if in_chans is None else {"in_chans": in_chans})
