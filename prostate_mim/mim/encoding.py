"""From a crop and its hidden blocks to features: exactly, or in the dense ways the field compares with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prostate_mim.masked import PATHS, MaskContext, masked_twin, measure_path
from prostate_mim.mim.blocks import BlockGrid, expand_blocks
from prostate_mim.mim.layout import Triple
from prostate_mim.nets.encoder import Encoder, StageInfo


class Encoding(nn.Module):
    """An encoder that sees a crop without its hidden blocks.

    Args:
        encoder: trained in place; its parameters keep their names.
        grid: how crops divide into blocks.
        kind: ``exact``, ``filled``, ``token`` or ``middle``; see ``Method.encoding``.
        path: of ``exact``: ``rows`` or ``dense``, which compute the same; ``measure`` takes the faster on the first
            batch; ``auto`` takes rows on CPUs, so that runs repeat bit for bit, and measures elsewhere.
    """

    def __init__(self, encoder: Encoder, grid: BlockGrid, kind: str, path: str = "auto") -> None:
        super().__init__()
        self.grid, self.kind, self.path = grid, kind, path
        self.stages: tuple[StageInfo, ...] = encoder.stage_info
        # A dense kind has no masked parts: the network stays what it is, and gets the kernels that the engine knows of.
        self.encoder = masked_twin(encoder) if kind == "exact" else encoder
        self._measured: str | None = None
        self.token: nn.Parameter | None = None
        self._middle = len(self.stages) // 2 - 1
        if kind == "token":
            self.token = nn.Parameter(torch.zeros(1, 1, 1, 1, 1))
        elif kind == "middle":
            self.token = nn.Parameter(torch.randn(1, self.stages[self._middle].channels, 1, 1, 1) * 0.02)

    @property
    def cell_zyx(self) -> Triple:
        """Voxels per cell of the coarsest stage."""
        return self.stages[-1].stride_zyx

    def at_stage(self, hidden_blocks: Tensor, stage: StageInfo) -> Tensor:
        """(N, gz, gy, gx) bool per block -> (N, 1, d, h, w) bool per position of a stage."""
        return expand_blocks(hidden_blocks, self.grid.cells_zyx(stage.stride_zyx))

    def forward(self, voxels: Tensor, hidden_blocks: Tensor, levels: int) -> list[Tensor]:
        """The ``levels`` coarsest stages.

        Args:
            voxels: (N, 1, D, H, W); what hidden voxels hold makes no difference.
            hidden_blocks: (N, gz, gy, gx) bool, True = hidden.
            levels: how many stages are wanted.

        Returns:
            (N, C, d, h, w) per stage, coarse last; zeros where hidden if the encoding is exact.
        """
        features: Sequence[Tensor]
        if not hidden_blocks.any():
            features = self.encoder(voxels)
        elif self.kind == "exact":
            context = MaskContext(hidden_blocks, self.grid.block_zyx, self.grid.size_zyx)
            masked = self.encoder(context.hide(voxels, self._path(context, voxels)))
            return [stage.dense() for stage in masked[-levels:]]
        else:
            features = self._dense(voxels, hidden_blocks)
        return list(features[-levels:])

    def _path(self, context: MaskContext, voxels: Tensor) -> str:
        if self.path in PATHS:
            return self.path
        if self.path == "auto" and voxels.device.type == "cpu":
            return "rows"
        if self._measured is None:
            self._measured = measure_path(self.encoder, context, voxels)
        return self._measured

    def _dense(self, voxels: Tensor, hidden_blocks: Tensor) -> Sequence[Tensor]:
        hidden = expand_blocks(hidden_blocks, self.grid.block_zyx)
        filled = torch.where(hidden, 0.0, voxels)
        token = self.token
        if token is None:
            found: Sequence[Tensor] = self.encoder(filled)
        elif self.kind == "token":
            found = self.encoder(torch.where(hidden, token.to(voxels.dtype), filled))
        else:
            cells = self.at_stage(hidden_blocks, self.stages[self._middle])

            def place(stage: int, values: Tensor) -> Tensor:
                return torch.where(cells, token.to(values.dtype), values) if stage == self._middle else values

            found = self.encoder(filled, place)
        return found
