"""LesionClassifier: an encoder and a head, or several of them, with the same persistence verbs as PreMIM."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from prostate_mim.classifier.attentive import AttentivePool
from prostate_mim.classifier.heads import Head, pooled_logit
from prostate_mim.classifier.parts import LAYOUT_SECTION, Layout, Parts, read_layout
from prostate_mim.deploy.export import Progress, Size, export_onnx
from prostate_mim.deploy.prediction import Prediction, looked_at, place_flags
from prostate_mim.encoder import PreMIM, check_size, golden_input
from prostate_mim.errors import UsageError
from prostate_mim.hub import open_release, write_release
from prostate_mim.hub.card import make_card
from prostate_mim.hub.weights import LoadReport, load_release, load_strictly, stored, weights_digest
from prostate_mim.manifest import Point
from prostate_mim.nets.pooling import POOLINGS
from prostate_mim.nets.stem import widen_stem
from prostate_mim.preprocess import prepare_input
from prostate_mim.spec import InputSpec
from prostate_mim.volume import Volume


class LesionClassifier(nn.Module):
    """Lesion at the centre of the crop -> probability of label 1 (or of ISUP >= 2).

    Args:
        encoder: pretrained or fresh; trained further by ``finetune`` in mode ``full``.
        spec: the classifier's input contract, if it differs from that which the encoder was trained under: another
            crop size, or further channels, for which a copy of the encoder gets a wider stem (``nets.stem``).
        head: ``linear``, or ``attentive``: learned pooling over the cells of the last two stages.
        pooling: ``centre``: what lies at the crop's middle counts most; ``mean``: all of the crop (whole studies).
        target: ``label`` (0 or 1), or ``isup``: cumulative logits of ISUP >= 1 to 5, of which >= 2 is reported.

    Attributes:
        temperature: () what logits are divided by, fitted on patients that training did not see; 1 if it was not.
        others: further members of an ensemble, whose probabilities are averaged with this one's; ``members`` has all.
    """

    temperature: Tensor

    def __init__(
        self,
        encoder: PreMIM,
        spec: InputSpec | None = None,
        *,
        head: str = "linear",
        pooling: str = "centre",
        target: str = "label",
    ) -> None:
        super().__init__()
        self.spec = spec or encoder.spec
        self._layout = Layout(head, pooling, target)
        check_size(self.spec, encoder.encoder.total_stride_zyx)
        if len(self.spec.channels) > encoder.encoder.in_channels:
            encoder = copy.deepcopy(encoder)
        widen_stem(encoder.encoder, len(self.spec.channels))
        self.encoder = encoder
        stages, spacing = encoder.encoder.stage_info, self.spec.spacing_mm_zyx
        self.pool = (
            AttentivePool(stages, spacing, pooling == "centre") if head == "attentive" else
            POOLINGS[pooling](stages, spacing)
        )  # fmt: skip
        self.head = Head(self.pool.channels, target == "isup")
        self.register_buffer("temperature", torch.ones(()))
        self.others = nn.ModuleList()
        self.name, self.revision = f"{encoder.name}.classifier", "unreleased"
        self.details = dict(encoder.details)
        self.studies = encoder.studies
        self.load_report = LoadReport(0, ())
        self._frozen = False

    @property
    def layout(self) -> Layout:
        """How it is put together, as ``config.json`` says it."""
        return dataclasses.replace(self._layout, members=1 + len(self.others))

    @property
    def members(self) -> list[LesionClassifier]:
        """The single classifiers of an ensemble; of any other model, the model itself.

        They come in the order in which ``ensemble`` was given them: after ``finetune`` with ``ensemble``, that of the
        folds, lowest number first, each trained without the patients of its fold.

        Weights and buffers are shared, not copied: what trains or moves a member does so to the ensemble. The first
        one is the ensemble without ``others``, under no released revision; the list is made anew at every call.
        """
        return [self._alone(), *(other for other in self.others if isinstance(other, LesionClassifier))]

    def _alone(self) -> LesionClassifier:
        """This model without ``others``: an object of its own that shares everything else."""
        if not self.others:
            return self
        first = LesionClassifier.__new__(LesionClassifier)
        # parameters and buffers stay the very dictionaries: .to() on either replaces the tensors of both
        first.__dict__.update(self.__dict__)
        first._modules = {**self._modules, "others": nn.ModuleList()}
        first.revision, first.load_report = "unreleased", LoadReport(0, ())
        return first

    @property
    def _complete(self) -> bool:
        """Whether its release has the section. What older versions could say is said so that they can read it."""
        return self.layout != Layout() or float(self.temperature) != 1

    @classmethod
    def ensemble(cls, models: Sequence[LesionClassifier]) -> LesionClassifier:
        """One classifier of several, which share nothing: its probability is the mean of theirs.

        Args:
            models: of one architecture, layout and spec, such as those of all folds; they are copied.

        Raises:
            UsageError: none is given, they differ, or one is an ensemble itself.
        """
        kinds = {(m.encoder.architecture, m.layout, m.spec.fingerprint) for m in models}
        if len(kinds) != 1 or any(model.others for model in models):
            raise UsageError("an ensemble needs members of one architecture, head, target and input, none an ensemble")
        first, *others = (copy.deepcopy(model) for model in models)
        first.others.extend(others)
        return first

    @classmethod
    def from_pretrained(cls, name: str | Path) -> LesionClassifier:
        """Load a verified classifier release: a folder (or the run folder around it), or ``org/name@revision``.

        Raises:
            NotFoundError, IntegrityError, NetworkError: as ``PreMIM.from_pretrained``.
            UsageError: the release is an encoder without a head; fine-tune it first.
        """
        release = open_release(name, kind="classifier")
        layout, complete = read_layout(release.details, str(release.folder))
        model = _empty(release.architecture, release.spec, layout)
        model.load_report = load_release(Parts(model, complete), release)
        model.name = model.encoder.name = release.name
        model.revision = model.encoder.revision = release.revision
        model.studies = model.encoder.studies = release.studies
        model.details = {key: value for key, value in release.details.items() if key != LAYOUT_SECTION}
        return model.eval()

    def save_pretrained(
        self, folder: str | Path, *, name: str | None = None, card: str | None = None, dtype: str = "float32"
    ) -> Path:
        """Write a release folder that ``from_pretrained`` reads.

        Raises:
            UsageError: the folder is not empty or cannot be written.
        """
        complete = self._complete
        section = {LAYOUT_SECTION: self.layout.to_dict()} if complete else {}
        config = {
            "kind": "classifier",
            "name": name or self.name,
            "architecture": self.encoder.architecture,
            "spec": self.spec.to_dict(),
            "weights_dtype": dtype,
            "details": {**self.details, **section},
        }
        weights = stored(Parts(self, complete), dtype)
        reader = _empty(self.encoder.architecture, self.spec, self.layout).eval()
        load_strictly(Parts(reader, complete), weights, dtype, "golden sample")
        sample = self._sample()
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

    def _sample(self) -> Tensor:
        """A golden input with a channel for each mask, 0 and 1."""
        image = golden_input(self.encoder.encoder.total_stride_zyx)[:, :1]
        return torch.cat([image, *((image > k).to(image) for k in range(len(self.spec.channels) - 1))], 1)

    def features(self, batch: Tensor) -> Tensor:
        """(N, C_in, D, H, W) -> (N, C) pooled features; of an ensemble, the first member's."""
        pooled: Tensor = self.pool(self.encoder(batch))
        return pooled

    def cumulative(self, batch: Tensor) -> Tensor:
        """(N, C_in, D, H, W) -> (N, K) logits: of label 1 (K = 1), or of ISUP >= 1 to ISUP >= 5 (K = 5)."""
        own = self.head.cumulative(self.features(batch)) / self.temperature
        return pooled_logit([own, *(one.cumulative(batch) for one in self.members[1:])]) if self.others else own

    def forward(self, batch: Tensor) -> Tensor:
        """(N, C_in, D, H, W) float32, z-scored, then the spec's masks -> (N,) logits."""
        own: Tensor = self.head(self.features(batch)) / self.temperature
        return pooled_logit([own, *(other(batch) for other in self.others)]) if self.others else own

    def freeze(self, frozen: bool = True) -> LesionClassifier:
        """Train the head alone, or all of it again. Norms of a frozen encoder keep their running statistics too."""
        self._frozen = frozen
        self.encoder.requires_grad_(not frozen)
        return self.train(self.training)

    def train(self, mode: bool = True) -> LesionClassifier:
        """As ``nn.Module.train``; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self._frozen:
            self.encoder.eval()
        return self

    def prepare(
        self, volume: Volume, position_mm_lps: Point | None = None, masks: Mapping[str, Volume] | None = None
    ) -> Tensor:
        """The network's input: (1, C_in, D, H, W) float32, around the lesion or the image centre.

        Raises:
            VolumeError: the position lies outside, the crop is constant, or a mask among the channels is missing.
        """
        return torch.from_numpy(prepare_input(volume, self.spec, position_mm_lps, masks))[None]

    @torch.inference_mode()
    def predict(
        self,
        volume: Volume,
        position_mm_lps: Point | None = None,
        masks: Mapping[str, Volume] | None = None,
        *,
        flips: bool = False,
    ) -> Prediction:
        """Probability for the lesion at ``position_mm_lps`` (x, y, z in mm, LPS), or at the image centre.

        Args:
            masks: by the names of the spec's channels; others are not looked at.
            flips: the mean over the crop and its left-right mirror image.

        Raises:
            VolumeError: as ``prepare``.
        """
        self.eval()
        device = self.head.mean.device
        batch = self.prepare(volume, position_mm_lps, masks).to(device)
        logit = flipped(self, batch) if flips else self(batch)
        return Prediction(
            float(torch.sigmoid(logit)[0]), self.name, self.revision, self.spec.fingerprint, device.type,
            place_flags(volume, position_mm_lps, self.layout.whole_study), "the model lies there",
            looked_at(volume, position_mm_lps),
        )  # fmt: skip

    def weights_sha256(self) -> str:
        """SHA-256 of the ``model.safetensors`` that these weights are, or would be saved as in float32."""
        return weights_digest(Parts(self, self._complete), self.load_report)

    def export_onnx(
        self, path: str | Path, *, half: bool = False, static_zyx: Size | None = None, full_graph: bool = False,
        progress: Progress | None = None,
    ) -> Path:  # fmt: skip
        """Write a verified, self-contained ONNX file; see ``prostate_mim.deploy.export.export_onnx``."""
        return export_onnx(self, path, half=half, static_zyx=static_zyx, full_graph=full_graph, progress=progress)


def flipped(model: nn.Module, batch: Tensor) -> Tensor:
    """(N, C, D, H, W) -> (N,) logits of the mean probability of each crop and its left-right mirror image.

    Only that mirror: a pelvis is nearly symmetric, so the image could be of another patient. One upside down, or with
    the peripheral zone in front, could be of nobody.
    """
    return pooled_logit([model(batch), model(batch.flip(4))])


def _empty(architecture: str, spec: InputSpec, layout: Layout) -> LesionClassifier:
    """A classifier to be filled with weights."""
    first, *others = (
        LesionClassifier(PreMIM(architecture, spec), head=layout.head, pooling=layout.pooling, target=layout.target)
        for _ in range(layout.members)
    )
    first.others.extend(others)
    return first
