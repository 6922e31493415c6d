"""The linear decoder."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from prostate_mim.mim.decoders.base import Decoder, HiddenLinear, hidden_rows
from prostate_mim.nets.encoder import StageInfo


class LinearDecoder(Decoder):
    """One linear map of the coarsest features (Xie et al. 2022, SimMIM, section 3.3), at hidden cells only.

    For encoders that run densely over a token or zeros: features of hidden cells are all it reads. Behind a masked
    encoder they are 0, and this decoder can learn no more than the mean target.

    Args:
        stages: all stages of the encoder; the last is decoded.
        outputs: F values per cell.
    """

    def __init__(self, stages: Sequence[StageInfo], outputs: int) -> None:
        super().__init__()
        self.levels = 1
        self.to_cells = HiddenLinear(stages[-1].channels, outputs)

    def forward(self, features: list[Tensor], visible: list[Tensor], hidden_cells: Tensor) -> Tensor:
        """As ``Decoder`` says: (N, F, d, h, w), exactly 0 at visible cells."""
        cells: Tensor = self.to_cells(hidden_rows(features[-1], hidden_cells), hidden_cells)
        return cells
