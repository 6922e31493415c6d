"""The array file of an entry: voxels and labels as one compressed blosc2 array, read by chunks."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import IntegrityError
from prostate_mim.store.prepared import PreparedStudy

# A default crop (16, 96, 96) touches about a quarter of the chunks of a default region, and of each chunk it decodes
# only the blocks it needs. A block is 16 KiB: it and its decoded copy stay in the first two levels of cache.
_CHUNK = (1, 8, 64, 64)
_BLOCK = (1, 8, 32, 32)
# Measured on PROSTATEx and PROMISE12: LZ4 with bit shuffling reads a crop in two thirds of the time of Zstandard and
# takes 6% more room.
_LEVEL = 5

VOXELS, LABELS = 0, 1
"""Places of voxels and labels along the first axis of the stored array."""

Shape = tuple[int, int, int, int]


def encode(study: PreparedStudy) -> bytes:
    """The content of an array file: (1 or 2, z, y, x) int16, voxels and, where there are masks, labels.

    The bytes depend on the numbers alone, so two processes that make one entry make the same file.
    """
    import blosc2

    arrays = [study.voxels[:, :, :]]
    if study.labels is not None:
        arrays.append(study.labels[:, :, :].astype(np.int16))
    stacked = np.stack(arrays)
    chunk = tuple(min(n, size) for n, size in zip(_CHUNK, stacked.shape, strict=True))
    block = tuple(min(n, size) for n, size in zip(_BLOCK, chunk, strict=True))
    packing = blosc2.CParams(codec=blosc2.Codec.LZ4, clevel=_LEVEL, filters=[blosc2.Filter.BITSHUFFLE], nthreads=1)
    packed = blosc2.asarray(stacked, chunks=chunk, blocks=block, cparams=packing, dparams=blosc2.DParams(nthreads=1))
    return bytes(packed.to_cframe())


class StoredFile:
    """An array file on disk, opened on the first read, and for itself in every process and thread.

    Args:
        path: the file; it must be what ``encode`` wrote, which the reader of its entry verifies.
        shape: (1 or 2, z, y, x).
        mapped: map it into memory and keep it open, which takes a file descriptor for each file; otherwise it is opened
            anew for every read, which takes none between them.
    """

    def __init__(self, path: Path, shape: Shape, mapped: bool) -> None:
        self.path, self.shape, self.mapped = path, shape, mapped
        # Neither blosc2's decoder nor a mapping made before a fork is to be shared.
        self._local = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredFile, (self.path, self.shape, self.mapped)

    def read(self, piece: tuple[Any, ...]) -> npt.NDArray[np.int16]:
        """A piece of the array, decoded from the chunks it touches; read-only.

        Raises:
            IntegrityError: the file is gone or was damaged after it was verified.
        """
        try:
            found = np.asarray((self._kept() if self.mapped else self._open())[piece])
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise IntegrityError(
                f"{self.path}: cannot be read any more ({reason}); prepare the store again, it remakes what is damaged"
            ) from error
        found.setflags(write=False)
        return found

    def _kept(self) -> Any:
        if getattr(self._local, "process", None) != os.getpid():
            self._local.array, self._local.process = self._open(), os.getpid()
        return self._local.array

    def _open(self) -> Any:
        import blosc2

        how: dict[str, Any] = {"mmap_mode": "r"} if self.mapped else {}
        array = blosc2.open(str(self.path), mode="r", dparams=blosc2.DParams(nthreads=1), **how)
        if not isinstance(array, blosc2.NDArray) or array.shape != self.shape or array.dtype != np.int16:
            raise RuntimeError("another array than its entry describes")
        return array


class StoredArray:
    """One (z, y, x) array of a stored file; slicing it gives a read-only NumPy array. It can be pickled."""

    def __init__(self, file: StoredFile, place: int, dtype: type[np.integer[Any]]) -> None:
        self.file, self.place, self.dtype = file, place, np.dtype(dtype)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        _, z, y, x = self.file.shape
        return z, y, x

    def __getitem__(self, piece: Any, /) -> npt.NDArray[Any]:
        parts = piece if isinstance(piece, tuple) else (piece,)
        found = self.file.read((self.place, *parts)).astype(self.dtype, copy=False)
        found.setflags(write=False)
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        whole = self[:, :, :]
        return whole if dtype is None else whole.astype(dtype)
