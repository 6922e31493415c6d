"""The spectrum of each cell to be predicted: how much of every frequency, not where."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.layout import Triple, voxels_to_cells
from prostate_mim.mim.targets.base import TargetSource


class FourierTarget:
    """log(1 + amplitude) of the orthonormal 3D Fourier transform of each cell.

    The voxels are real, so the half spectrum along x says all. Amplitudes of tissue span four orders of magnitude;
    the logarithm keeps the lowest frequencies from being all of the loss, and the 1 keeps noise-free ones finite.
    """

    name: ClassVar[str] = "fourier"
    voxelwise: ClassVar[bool] = False

    def channels(self, cell_zyx: Triple) -> int:
        """Z * y * (x // 2 + 1) frequencies."""
        z, y, x = cell_zyx
        return z * y * (x // 2 + 1)

    def values(self, source: TargetSource, grid: BlockGrid, cell_zyx: Triple) -> Tensor:
        """(N, F, d, h, w), not negative, frequencies in (z, y, x) order."""
        cells = voxels_to_cells(source.voxels, cell_zyx).movedim(1, -1)
        spectrum = torch.fft.rfftn(cells.reshape(*cells.shape[:-1], *cell_zyx), dim=(-3, -2, -1), norm="ortho")
        amplitude: Tensor = spectrum.abs().log1p().flatten(-3)
        return amplitude.movedim(-1, 1).contiguous()

    def to_voxels(self, prediction: Tensor, source: TargetSource, grid: BlockGrid, cell_zyx: Triple) -> Tensor | None:
        """None: without phases there are no voxels."""
        return None
