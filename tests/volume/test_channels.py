"""One channel of a 4-D NIfTI: equal to the same voxels as a file of their own, and as strict."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest

from prostate_mim.errors import NotFoundError, ResourceError, VolumeError
from prostate_mim.volume import read_volume, voxel_hash
from prostate_mim.volume.channels import read_channel

_TURN = np.deg2rad(2.0)
AFFINE = np.array([
    [-0.5 * np.cos(_TURN), 0.5 * np.sin(_TURN), 0, 40],
    [-0.5 * np.sin(_TURN), -0.5 * np.cos(_TURN), 0, 30],
    [0, 0, 3.0, -20],
    [0, 0, 0, 1],
])  # fmt: skip


def write_4d(path: Path, *, channels: int = 2, version: int = 1, dtype: str = "<i2") -> Path:
    """Channels of noise, (x, y, z, channel) = (9, 7, 5, n), by nibabel."""
    voxels = np.random.default_rng(3).integers(0, 900, (9, 7, 5, channels)).astype(dtype)
    make = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    image = make(voxels, AFFINE)
    image.header.set_data_dtype(np.dtype(dtype))
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(AFFINE, 1)
    image.set_qform(AFFINE, 1)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["<i2", ">f4"])
def test_a_channel_equals_its_own_file(tmp_path: Path, version: int, suffix: str, dtype: str) -> None:
    """Voxels, number type and geometry are those of the same channel saved alone and read by read_volume."""
    path = write_4d(tmp_path / f"both{suffix}", version=version, dtype=dtype)
    both = nibabel.load(path)
    hashes = set()
    for channel in (0, 1):
        alone = tmp_path / f"alone{channel}{suffix}"
        header = both.header.copy()
        nibabel.save(type(both)(np.asarray(both.dataobj)[..., channel], both.affine, header), alone)
        found, expected = read_channel(path, channel), read_volume(alone)
        np.testing.assert_array_equal(found.voxels, expected.voxels)
        assert found.voxels.dtype == expected.voxels.dtype
        assert found.geometry.spacing_mm_zyx == expected.geometry.spacing_mm_zyx
        np.testing.assert_allclose(found.geometry.origin_mm_lps, expected.geometry.origin_mm_lps, atol=1e-9)
        np.testing.assert_allclose(found.geometry.direction, expected.geometry.direction, atol=1e-12)
        hashes.add(voxel_hash(found))
    assert len(hashes) == 2  # the control: the channels differ


def test_rescaling_of_the_header_is_applied(tmp_path: Path) -> None:
    """Stored n means 0.5 n + 1, for each channel."""
    voxels = np.arange(2 * 3 * 4 * 2, dtype="i2").reshape(2, 3, 4, 2)
    image = nibabel.Nifti1Image(voxels, np.diag([-0.5, -0.5, 3, 1]))
    image.header.set_xyzt_units("mm")
    raw = bytearray(image.to_bytes())
    struct.pack_into("<2f", raw, 112, 0.5, 1.0)
    path = tmp_path / "scaled.nii"
    path.write_bytes(raw)
    assert sorted(read_channel(path, 1).voxels.ravel()) == sorted((voxels[..., 1] * 0.5 + 1).ravel())


def test_extensions_before_the_voxels_are_passed_over(tmp_path: Path) -> None:
    """A comment between header and voxels moves them, and changes nothing."""
    path = write_4d(tmp_path / "plain.nii")
    image = nibabel.load(path)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"a remark of the scanner" * 3))
    nibabel.save(image, tmp_path / "remark.nii")
    assert (tmp_path / "remark.nii").stat().st_size > path.stat().st_size
    assert voxel_hash(read_channel(tmp_path / "remark.nii", 1)) == voxel_hash(read_channel(path, 1))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_every_truncation_is_refused(tmp_path: Path, suffix: str) -> None:
    """The first channel may be whole: the file is still refused, whichever channel is asked for."""
    path = write_4d(tmp_path / f"whole{suffix}")
    whole = path.read_bytes()
    for length in [*range(0, len(whole), max(len(whole) // 40, 1)), len(whole) - 1]:
        (tmp_path / f"cut{suffix}").write_bytes(whole[:length])
        with pytest.raises(VolumeError):
            read_channel(tmp_path / f"cut{suffix}", 0)
    read_channel(path, 0)  # the control


def test_wrong_checksum_and_trailing_bytes_are_refused(tmp_path: Path) -> None:
    """Gzip's CRC lies after the last channel; bytes after the end are no part of the file."""
    raw = write_4d(tmp_path / "raw.nii").read_bytes()
    packed = bytearray(gzip.compress(raw))
    packed[-6] ^= 1
    cases = {"crc.nii.gz": bytes(packed), "long.nii.gz": gzip.compress(raw + b"x"), "long.nii": raw + b"x"}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VolumeError):
            read_channel(tmp_path / name, 0)


def test_single_bits_flipped_in_a_packed_file_never_pass_silently(tmp_path: Path) -> None:
    """Every 7th bit of the packed file in turn: refused, or the same voxels (bits of gzip's own header)."""
    path = write_4d(tmp_path / "whole.nii.gz")
    whole, right = path.read_bytes(), voxel_hash(read_channel(path, 0))
    flipped = tmp_path / "flipped.nii.gz"
    refused = 0
    for bit in range(0, len(whole) * 8, 7 * max(len(whole) // 200, 1)):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        flipped.write_bytes(content)
        try:
            assert voxel_hash(read_channel(flipped, 0)) == right
        except VolumeError:
            refused += 1
    assert refused > 100


def test_what_is_no_channel_is_refused(tmp_path: Path) -> None:
    """3-D, 5-D, a channel beyond the last, another format, too many voxels, nothing there."""
    path = write_4d(tmp_path / "both.nii")
    with pytest.raises(VolumeError, match="channel 2 was asked for, there are 2"):
        read_channel(path, 2)
    with pytest.raises(VolumeError, match="channel -1"):
        read_channel(path, -1)
    with pytest.raises(VolumeError, match="at most 600 allowed"):
        read_channel(path, 0, max_voxels=600)  # 9 x 7 x 5 x 2 = 630
    flat = tmp_path / "flat.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 7, 5), "i2"), AFFINE), flat)
    with pytest.raises(VolumeError, match="only 4-D"):
        read_channel(flat, 0)
    deep = tmp_path / "deep.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 7, 5, 2, 2), "i2"), AFFINE), deep)
    with pytest.raises(VolumeError, match="only 4-D"):
        read_channel(deep, 0)
    with pytest.raises(VolumeError, match=r"\.nii or \.nii\.gz"):
        read_channel(tmp_path, 0)
    with pytest.raises(NotFoundError):
        read_channel(tmp_path / "none.nii", 0)
    constant = tmp_path / "constant.nii"
    nibabel.save(nibabel.Nifti1Image(np.ones((9, 7, 5, 2), "i2"), AFFINE), constant)
    with pytest.raises(VolumeError, match="all 315 voxels"):
        read_channel(constant, 0)


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    """A header that declares far more than allowed, packed small."""
    raw = bytearray(write_4d(tmp_path / "raw.nii").read_bytes())
    struct.pack_into("<8h", raw, 40, 4, 8000, 8000, 60, 60, 1, 1, 1)
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(bytes(raw) + bytes(10_000_000)))
    with pytest.raises((VolumeError, ResourceError), match="at most"):
        read_channel(tmp_path / "bomb.nii.gz", 0)
