"""What the fuzzer calls: the reader of one format on one file's bytes, past the net that catches foreign exceptions."""

from __future__ import annotations

from pathlib import Path

from prostate_mim.errors import NotFoundError, VolumeError
from prostate_mim.volume import arrays, metaimage, nifti, nrrd
from prostate_mim.volume.dicom_slice import parse_slice
from prostate_mim.volume.orient import RawImage, canonical

MAX_VOXELS = 4096  # a header may not ask for more: the memory of a run is that of the libraries
SUFFIXES = {
    b"n": ".nii", b"N": ".nii.gz", b"m": ".mha", b"r": ".nrrd", b"d": ".dcm", b"a": ".npy", b"z": ".npz",
}  # fmt: skip
SPACING = (3.0, 0.5, 0.5)


def attempt(data: bytes, folder: Path) -> str:
    """Read ``data``: its first byte chooses the format, the rest is the file.

    Returns:
        ``read`` or ``refused``; every exception that is not one of ours is raised.
    """
    letters = list(SUFFIXES)
    letter = data[:1] if data[:1] in SUFFIXES else letters[(data[0] if data else 0) % len(letters)]
    path = folder / f"v{SUFFIXES[letter]}"
    path.write_bytes(data[1:])
    try:
        image = _read(path, letter)
        if image is not None:
            canonical(image, path.name, any_stack=True)
    except (VolumeError, NotFoundError) as error:
        text = str(error)
        if "\n" in text or len(text) > 1000:
            raise AssertionError(f"not one line of under 1000 letters: {text!r}") from error
        return "refused"
    return "read"


def _read(path: Path, letter: bytes) -> RawImage | None:
    if letter in (b"n", b"N"):
        return nifti.read_nifti(path, path.name, MAX_VOXELS)
    if letter == b"m":
        return metaimage.read_meta(path, path.name, MAX_VOXELS, alone=True)
    if letter == b"r":
        return nrrd.read_nrrd(path, path.name, MAX_VOXELS, alone=True)
    if letter == b"d":
        parse_slice(path, path.name, MAX_VOXELS)
        return None
    read = arrays.read_npz if letter == b"z" else arrays.read_npy
    return arrays.array_image(read(path, path.name, MAX_VOXELS), path.name, SPACING, MAX_VOXELS)
