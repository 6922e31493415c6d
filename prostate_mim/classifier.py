"""LesionClassifier: an encoder, a standardised linear head, and the same persistence verbs as PreMIM."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from prostate_mim.deploy.export import export_onnx
from prostate_mim.deploy.provenance import Prediction
from prostate_mim.encoder import PreMIM, check_size, golden_input
from prostate_mim.hub import read_release, resolve, write_release
from prostate_mim.hub.card import make_card
from prostate_mim.hub.release import WEIGHTS
from prostate_mim.hub.weights import LoadReport, load_strictly, read_tensors, stored
from prostate_mim.manifest import Point
from prostate_mim.preprocess import preprocess
from prostate_mim.spec import InputSpec
from prostate_mim.volume import Volume


class Head(nn.Module):
    """Standardise, then one logit. The standardisation is fitted once on training features and then fixed."""

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.linear = nn.Linear(features, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C) -> (N,) logits."""
        logits: Tensor = self.linear((features - self.mean) / self.scale)
        return logits[:, 0]


class LesionClassifier(nn.Module):
    """Lesion at the centre of the crop -> probability of label 1.

    Args:
        encoder: pretrained or fresh; trained further by ``finetune`` in mode ``full``.
        spec: the classifier's input contract, if it crops another size than the encoder was trained on.
    """

    def __init__(self, encoder: PreMIM, spec: InputSpec | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.spec = spec or encoder.spec
        check_size(self.spec, encoder.encoder.total_stride_zyx)
        self.head = Head(encoder.embedding_size)
        self.name, self.revision = f"{encoder.name}.classifier", "unreleased"
        self.details = dict(encoder.details)
        self.studies = encoder.studies
        self.load_report = LoadReport(0, ())

    @classmethod
    def from_pretrained(cls, name: str | Path) -> LesionClassifier:
        """Load a verified classifier release: a folder (or the run folder around it), or ``org/name@revision``.

        Raises:
            NotFoundError, IntegrityError, NetworkError: as ``PreMIM.from_pretrained``.
            UsageError: the release is an encoder without a head; fine-tune it first.
        """
        release = read_release(resolve(name), kind="classifier")
        encoder = PreMIM(
            release.architecture, release.spec, name=release.name, revision=release.revision, studies=release.studies
        )
        model = cls(encoder)
        path = release.folder / WEIGHTS
        model.load_report = load_strictly(_Parts(model), read_tensors(path), release.weights_dtype, str(path))
        model.name, model.revision, model.details = release.name, release.revision, release.details
        return model.eval()

    def save_pretrained(
        self, folder: str | Path, *, name: str | None = None, card: str | None = None, dtype: str = "float32"
    ) -> Path:
        """Write a release folder that ``from_pretrained`` reads.

        Raises:
            UsageError: the folder is not empty or cannot be written.
        """
        config = {
            "kind": "classifier",
            "name": name or self.name,
            "architecture": self.encoder.architecture,
            "spec": self.spec.to_dict(),
            "weights_dtype": dtype,
            "details": self.details,
        }
        weights = stored(_Parts(self), dtype)
        reader = LesionClassifier(PreMIM(self.encoder.architecture, self.spec)).eval()
        load_strictly(_Parts(reader), weights, dtype, "golden sample")
        sample = golden_input(self.encoder.encoder.total_stride_zyx)
        with torch.inference_mode():
            golden = {"input": sample, "logit": reader(sample).clone()}
        return write_release(
            folder,
            config=config,
            card=card or make_card(config, studies=self.studies),
            weights=weights,
            golden=golden,
            studies=self.studies,
        )

    def features(self, batch: Tensor) -> Tensor:
        """(N, 1, D, H, W) -> (N, C) pooled features."""
        pooled: Tensor = self.encoder.pool(self.encoder(batch))
        return pooled

    def forward(self, batch: Tensor) -> Tensor:
        """(N, 1, D, H, W) float32, z-scored -> (N,) logits."""
        logits: Tensor = self.head(self.features(batch))
        return logits

    def prepare(self, volume: Volume, position_mm_lps: Point | None = None) -> Tensor:
        """The network's input: (1, 1, D, H, W) float32, around the lesion or the image centre."""
        return torch.from_numpy(preprocess(volume, self.spec, position_mm_lps))[None, None]

    @torch.inference_mode()
    def predict(self, volume: Volume, position_mm_lps: Point | None = None) -> Prediction:
        """Probability for the lesion at ``position_mm_lps`` (x, y, z in mm, LPS), or at the image centre."""
        self.eval()
        device = self.head.mean.device
        logit = self(self.prepare(volume, position_mm_lps).to(device))
        return Prediction(float(torch.sigmoid(logit)[0]), self.name, self.revision, self.spec.fingerprint, device.type)

    def export_onnx(self, path: str | Path) -> Path:
        """Write a verified, self-contained ONNX file; see ``prostate_mim.deploy.export.export_onnx``."""
        return export_onnx(self, path)


class _Parts(nn.Module):
    """The two published parts of a classifier, so that keys read ``encoder.*`` and ``head.*``."""

    def __init__(self, model: LesionClassifier) -> None:
        super().__init__()
        self.encoder = model.encoder.encoder
        self.head = model.head
