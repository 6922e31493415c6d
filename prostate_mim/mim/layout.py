"""Between voxels, blocks and cells of the coarsest stage: reshapes only, deterministic on every device."""

from __future__ import annotations

from torch import Tensor

from prostate_mim.errors import UsageError

Triple = tuple[int, int, int]
TripleMm = tuple[float, float, float]


def repeat_cells(values: Tensor, factor_zyx: Triple) -> Tensor:
    """(N, C, d, h, w) -> (N, C, d*z, h*y, w*x), each cell repeated; deterministic on every device."""
    n, c, d, h, w = values.shape
    z, y, x = factor_zyx
    grown = values[:, :, :, None, :, None, :, None].expand(n, c, d, z, h, y, w, x)
    return grown.reshape(n, c, d * z, h * y, w * x)


def cells_to_voxels(cells: Tensor, stride_zyx: Triple) -> Tensor:
    """(N, z*y*x, d, h, w) -> (N, 1, d*z, h*y, w*x): each cell's channels become its voxels, in (z, y, x) order."""
    n, _, d, h, w = cells.shape
    z, y, x = stride_zyx
    split = cells.reshape(n, z, y, x, d, h, w)
    return split.permute(0, 4, 1, 5, 2, 6, 3).reshape(n, 1, d * z, h * y, w * x)


def voxels_to_cells(voxels: Tensor, cell_zyx: Triple) -> Tensor:
    """(N, C, D, H, W) -> (N, C*z*y*x, D/z, H/y, W/x): with C = 1 the inverse of ``cells_to_voxels``.

    Raises:
        UsageError: the volume is not a whole number of cells along an axis.
    """
    n, channels, *size = voxels.shape
    for axis, length, cell in zip("zyx", size, cell_zyx, strict=True):
        if length % cell:
            raise UsageError(
                f"volume of {length} voxels along {axis} is not a multiple of the cell of {cell} voxels; "
                "crop or pad it to a multiple"
            )
    z, y, x = cell_zyx
    d, h, w = size[0] // z, size[1] // y, size[2] // x
    split = voxels.reshape(n, channels, d, z, h, y, w, x)
    return split.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(n, channels * z * y * x, d, h, w)


def to_blocks(voxels: Tensor, block_zyx: Triple) -> Tensor:
    """(N, 1, D, H, W) -> (N, blocks, voxels per block), blocks and voxels both in (z, y, x) order."""
    n, _, d, h, w = voxels.shape
    z, y, x = block_zyx
    split = voxels.reshape(n, d // z, z, h // y, y, w // x, x).permute(0, 1, 3, 5, 2, 4, 6)
    return split.reshape(n, (d // z) * (h // y) * (w // x), z * y * x)
