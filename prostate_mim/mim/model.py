"""MaskedImageModel: hide -> encode -> decode -> loss.

    voxels (N, 1, D, H, W), hidden_blocks (N, gz, gy, gx) bool, True = hidden
      1 hide      hidden blocks are kept from the encoder
      2 encode    the encoder computes with visible voxels only, by masked operators (or in a dense way, to compare)
      3 decode    features -> F values for every cell of the coarsest stage, (N, F, d, h, w)
      4 loss      the values are compared with the target's, where voxels were hidden and measured

Which encoding, decoder, target and losses: a ``Method``. Masked operators: ``prostate_mim.masked``.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prostate_mim.errors import UsageError
from prostate_mim.mim.blocks import BlockGrid, expand_blocks, nothing_hidden
from prostate_mim.mim.decoders import build_decoder
from prostate_mim.mim.encoding import Encoding
from prostate_mim.mim.layout import cells_to_voxels, to_blocks, voxels_to_cells
from prostate_mim.mim.losses import build_loss
from prostate_mim.mim.methods import METHODS, Method
from prostate_mim.mim.strategies import build_strategy, check_ratio, parse_ratio
from prostate_mim.mim.strategies.mixture import Mixture
from prostate_mim.mim.targets import TargetSource, build_target, counted_cells
from prostate_mim.mim.teacher import EmaTeacher
from prostate_mim.nets.encoder import Encoder
from prostate_mim.spec import InputSpec


@dataclass(frozen=True)
class MimBatch:
    """What one pass is given.

    Attributes:
        voxels: (N, 1, D, H, W) float, z-scored: the truth.
        inside: (N, 1, D, H, W) bool, True = measured; padding is never part of the loss.
        hidden_blocks: (N, gz, gy, gx) bool, True = hidden from the encoder.
        gland: (N, 1, D, H, W) bool, or None where no gland is known.
        changed: (N, 1, D, H, W) what the encoder gets instead of ``voxels`` (dropped frequencies, corruption), or None.
        frequencies: (N, H, W) bool in ``fft2`` order, True = dropped from every slice: then only these are scored.
        place: (N, 3, 4) float, an affine map: from a voxel's place from the middle of its crop (z, y, x, in voxels) to
            that from the middle of its study, of a patient who was mirrored and turned with the crop; None: every crop
            is the middle of its study.
    """

    voxels: Tensor
    inside: Tensor
    hidden_blocks: Tensor
    gland: Tensor | None = None
    changed: Tensor | None = None
    frequencies: Tensor | None = None
    place: Tensor | None = None

    def to(self, device: torch.device) -> MimBatch:
        """The same on a device."""
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **{name: part.to(device) for name, part in parts.items() if part is not None})


@dataclass(frozen=True)
class MimOutput:
    """What one pass gives.

    Attributes:
        loss: () weighted sum of the method's losses over counted values.
        prediction: (N, F, d, h, w) values per cell.
        block_error: (N, gz, gy, gx) mean of the first loss over each block's counted values; 0 where none is.
        counted: (N, F or 1, d, h, w) bool: hidden (or changed in a sample that hides no block), and measured.
    """

    loss: Tensor
    prediction: Tensor
    block_error: Tensor
    counted: Tensor


class MaskedImageModel(nn.Module):
    """An encoder, a decoder that is thrown away, and the loss between them.

    Args:
        encoder: any ``Encoder``; it is trained in place and published as it is.
        grid: how crops divide into blocks.
        method: see ``METHODS``.
        spacing_mm_zyx: voxel size, for targets that measure in mm.
        path: of the masked operators, see ``Encoding``.

    Raises:
        UsageError: strategy, encoding, target, decoder and losses do not go together, the ratio hides nothing or
            everything, or the encoder has parts without a masked form.
    """

    def __init__(
        self,
        encoder: Encoder,
        grid: BlockGrid,
        method: Method = METHODS["fcmae"],
        spacing_mm_zyx: tuple[float, float, float] = InputSpec.spacing_mm_zyx,
        path: str = "auto",
    ) -> None:
        super().__init__()
        self.grid, self.method = grid, method
        self.encoding = Encoding(encoder, grid, method.encoding, path)
        stages = self.encoding.stages
        self.target = build_target(method.target, spacing_mm_zyx, feature_channels=stages[-1].channels)
        self.decoder = build_decoder(method.decoder, stages, self.target)
        self.losses = [(build_loss(name, self.target), weight) for name, weight in method.losses]
        self.strategy, self.ratio = build_strategy(method.strategy), parse_ratio(method.ratio)
        check_ratio(self.strategy, grid, self.ratio)  # a useless one is refused before an hour of reading
        self._check_parts()
        needed = method.target == "features" or "difficulty" in self.strategy.needs
        self.teacher = EmaTeacher(self.encoding, self.decoder) if needed else None
        self._frozen = False

    def freeze_encoder(self) -> None:
        """From now on only the decoder learns; the encoder's norms keep their running statistics too."""
        self._frozen = True
        self.encoding.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> MaskedImageModel:
        """As ``nn.Module.train``; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self._frozen:
            self.encoding.eval()
        return self

    @property
    def encoder(self) -> Encoder:
        """The encoder; its ``state_dict`` is that of the dense network."""
        encoder: Encoder = self.encoding.encoder  # type: ignore[assignment]
        return encoder

    def reconstructor(self) -> nn.Module:
        """All that reconstruction needs beside the encoder: the decoder, and the encoding's token where there is one.

        It shares its parameters with the model, under the decoder's names and ``encoding_token``.
        """
        part = copy.copy(self.decoder)
        if self.encoding.token is not None:
            part._parameters = {**self.decoder._parameters, "encoding_token": self.encoding.token}
        return part

    @property
    def masks_looked_at(self) -> frozenset[str]:
        """Which of ``gland`` and ``lesion`` the strategy or the target can make use of."""
        return (self.strategy.needs & {"gland", "lesion"}) | ({"gland"} if self.target.name == "gland" else frozenset())

    @property
    def cell_zyx(self) -> tuple[int, int, int]:
        """Voxels per cell of the encoder's coarsest stage."""
        return self.encoding.cell_zyx

    def forward(self, batch: MimBatch) -> MimOutput:
        """One pass."""
        given = batch.voxels if batch.changed is None else batch.changed
        return self.score(self.predict(given, batch.hidden_blocks), batch)

    def predict(self, voxels: Tensor, hidden_blocks: Tensor) -> Tensor:
        """(N, 1, D, H, W), (N, gz, gy, gx) -> (N, F, d, h, w)."""
        features = self.encoding(voxels, hidden_blocks, self.decoder.levels)
        hidden = [self.encoding.at_stage(hidden_blocks, stage) for stage in self.encoding.stages[-len(features) :]]
        # Where no block is hidden, the sample was changed in another way, and every cell is to be restored.
        asked = hidden[-1] | nothing_hidden(hidden_blocks) | (self.method.scores == "all")
        prediction: Tensor = self.decoder(features, [~cells for cells in hidden], asked)
        return prediction

    def score(self, prediction: Tensor, batch: MimBatch) -> MimOutput:
        """Compare a (N, F, d, h, w) prediction with the target where voxels were hidden and measured."""
        source = self.source(batch)
        with torch.no_grad():
            wanted = self.target.values(source, self.grid, self.cell_zyx)
            hidden = expand_blocks(batch.hidden_blocks, self.grid.block_zyx)
            if self.method.scores == "all":
                hidden = torch.ones_like(hidden)
            elif batch.changed is not None or batch.frequencies is not None:
                hidden = hidden | nothing_hidden(batch.hidden_blocks)
            counted = counted_cells(self.target, hidden, batch.inside, self.cell_zyx)
        found = prediction
        if batch.frequencies is not None:
            found, wanted = (
                self._only_frequencies(values, batch.frequencies) for values in (prediction.to(wanted.dtype), wanted)
            )
        total = torch.zeros((), device=prediction.device)
        scored = []
        for loss, weight in self.losses:
            scored.append(loss(found, wanted, counted, self.cell_zyx))
            total = total + weight * scored[-1].loss
        return MimOutput(total, prediction, self._block_error(scored[0].cell_error, counted), counted)

    def source(self, batch: MimBatch) -> TargetSource:
        """What the target may look at."""
        voxels = batch.voxels if batch.voxels.dtype == torch.float64 else batch.voxels.float()
        wants_teacher = self.teacher is not None and self.target.name == "features"
        teacher = self.teacher.features(voxels) if self.teacher is not None and wants_teacher else None
        return TargetSource(voxels, batch.inside, batch.gland, teacher, batch.place)

    def to_voxels(self, output: MimOutput, batch: MimBatch) -> Tensor | None:
        """The prediction as (N, 1, D, H, W) in z-scores, for pictures only; None where the target is no image."""
        return self.target.to_voxels(output.prediction, self.source(batch), self.grid, self.cell_zyx)

    def _only_frequencies(self, values: Tensor, frequencies: Tensor) -> Tensor:
        """(N, F, d, h, w) voxelwise -> the same with nothing but the given in-plane frequencies, if any are given."""
        voxels = cells_to_voxels(values, self.cell_zyx)
        dropped = torch.fft.ifft2(torch.fft.fft2(voxels) * frequencies[:, None, None]).real
        some = frequencies.flatten(1).any(1)[:, None, None, None, None]
        return voxels_to_cells(torch.where(some, dropped, voxels), self.cell_zyx)

    def _check_parts(self) -> None:
        """Refuse combinations that would fail, or train nothing, for a reason that only the whole model shows."""
        method = self.method
        parts = [part for part, _ in self.strategy.parts] if isinstance(self.strategy, Mixture) else [self.strategy]
        if any(part.name == "frequency" for part in parts) and not self.target.voxelwise:
            raise UsageError(
                f"strategy {method.strategy!r} hides frequencies, which target {method.target!r} does not have; "
                "use target 'voxels'"
            )
        hides = any(self.strategy.hidden_count(self.grid, ratio) for ratio in self.ratio.values)
        if hides and method.decoder == "linear" and method.encoding == "exact":
            raise UsageError(
                "decoder 'linear' reads hidden cells alone, where encoding 'exact' has no features: the encoder would "
                "not be trained; use decoder 'light', or encoding 'token'"
            )

    def _block_error(self, cell_error: Tensor, counted: Tensor) -> Tensor:
        cells, count = self.grid.cells_zyx(self.cell_zyx), counted.sum(1, keepdim=True)
        errors, counts = to_blocks(cell_error[:, None] * count, cells), to_blocks(count, cells)
        return (errors.sum(2) / counts.sum(2).clamp(min=1)).view(-1, *self.grid.grid_zyx)
