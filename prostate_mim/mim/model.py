"""MaskedImageModel: hide -> encode -> decode -> loss.

    voxels (N, 1, D, H, W), hidden_blocks (N, gz, gy, gx) bool, True = hidden
      1 hide      hidden voxels become 0 (the mean of a z-scored crop) before the encoder sees anything
      2 encode    the ordinary dense encoder
      3 decode    a learned token marks hidden cells; top-down over the coarser stages; a linear map to voxels
      4 loss      mean squared error to block-normalised voxels, on hidden voxels only

Block-normalised targets: He et al. 2022 (MAE), section 4.1. The encoder here is dense ("zero-filled" MIM, the
baseline of the field); the exact masked operators take its place behind the same signature.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from prostate_mim.mim.blocks import BlockGrid, expand_blocks
from prostate_mim.mim.decoders import TopDownDecoder
from prostate_mim.mim.layout import from_blocks, to_blocks
from prostate_mim.mim.targets import block_moments
from prostate_mim.nets.encoder import Encoder


@dataclass(frozen=True)
class MimOutput:
    """What one forward pass of masked image modelling gives.

    Attributes:
        loss: () mean squared error over counted voxels.
        prediction: (N, blocks, voxels per block), block-normalised.
        block_error: (N, blocks) mean squared error of each block over voxels inside the study; 0 where none is.
        counted: (N, blocks, voxels per block) bool: hidden, and inside the study.
    """

    loss: Tensor
    prediction: Tensor
    block_error: Tensor
    counted: Tensor


class MaskedImageModel(nn.Module):
    """An encoder, a light decoder, and the loss between them.

    Args:
        encoder: any ``Encoder``; after training it is published as it is.
        grid: how crops divide into blocks (``BlockGrid.from_mm`` checks the strides).
    """

    def __init__(self, encoder: Encoder, grid: BlockGrid) -> None:
        super().__init__()
        self.encoder = encoder
        self.grid = grid
        self.decoder = TopDownDecoder(encoder.stage_info)

    def forward(self, voxels: Tensor, hidden_blocks: Tensor, inside: Tensor) -> MimOutput:
        """One pass.

        Args:
            voxels: (N, 1, D, H, W) float, z-scored.
            hidden_blocks: (N, gz, gy, gx) bool, True = hidden from the encoder.
            inside: (N, 1, D, H, W) bool, True = measured; padding is never part of the loss.
        """
        hidden = expand_blocks(hidden_blocks, self.grid.block_zyx)
        prediction = self.reconstruct(voxels.masked_fill(hidden, 0.0), hidden_blocks)
        return self.score(prediction, voxels, hidden, inside)

    def reconstruct(self, visible_voxels: Tensor, hidden_blocks: Tensor) -> Tensor:
        """Voxels with the hidden ones zeroed -> (N, 1, D, H, W) block-normalised prediction of every voxel."""
        z, y, x = self.encoder.total_stride_zyx
        bz, by, bx = self.grid.block_zyx
        hidden_cells = expand_blocks(hidden_blocks, (bz // z, by // y, bx // x))
        prediction: Tensor = self.decoder(self.encoder(visible_voxels), hidden_cells)
        return prediction

    def score(self, prediction: Tensor, voxels: Tensor, hidden: Tensor, inside: Tensor) -> MimOutput:
        """Compare a (N, 1, D, H, W) prediction with the block-normalised voxels where they were hidden."""
        block = self.grid.block_zyx
        found = to_blocks(prediction.float(), block)
        blocks = to_blocks(voxels.float(), block)
        mean, deviation = block_moments(blocks)
        counted = to_blocks(hidden & inside, block)
        error = (found - (blocks - mean) / deviation).square() * counted
        per_block = error.sum(2) / counted.sum(2).clamp(min=1)
        loss = error.sum() / counted.sum().clamp(min=1)
        return MimOutput(loss, found, per_block, counted)

    def to_voxels(self, output: MimOutput, voxels: Tensor) -> Tensor:
        """Undo the block normalisation with the true blocks' moments: (N, 1, D, H, W), for pictures only."""
        mean, deviation = block_moments(to_blocks(voxels.float(), self.grid.block_zyx))
        return from_blocks(output.prediction * deviation + mean, self.grid.block_zyx, self.grid.grid_zyx)
