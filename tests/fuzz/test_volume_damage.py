"""Damaged volumes: each is refused with a VolumeError, or read bit for bit as if it were whole; nothing between."""

from __future__ import annotations

import gzip
import io
import random
import struct
import subprocess
import sys
import textwrap
import zipfile
import zlib
from collections import Counter

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from figures import REFUSED, SAME, SILENT, UNTYPED, judge, show

from prostate_mim.errors import VolumeError
from prostate_mim.volume import read_volume

NUMBER = 300
SHAPE = (6, 14, 16)
SPACING = (3.0, 0.5, 0.625)
AFFINE = np.array([[-0.625, 0.0, 0.0, 41.5], [0.0, -0.48, -0.84, -12.25], [0.0, -0.14, 2.88, -30.0], [0, 0, 0, 1]])
SCALE_BYTES = range(112, 120)  # scl_slope, scl_inter: nothing in the file repeats them
# NIfTI-1 fields: name -> (offset, format, hostile values)
HOSTILE = {
    "sizeof_hdr": (0, "i", [0, -1, 349, 540, 2**31 - 1]),
    "dim[0]": (40, "h", [-1, 0, 1, 4, 5, 7, 8, 32767]),
    "dim[1]": (42, "h", [-1, 0, 1, 15, 17, 32767, -32768]),
    "dim[2]": (44, "h", [-7, 0, 13, 32767]),
    "dim[3]": (46, "h", [0, 5, 7, 32767]),
    "dim[4]": (48, "h", [0, -1, 2, 32767]),
    "datatype": (70, "h", [0, 1, 2, 8, 16, 32, 128, 1536, 2304, -4]),
    "bitpix": (72, "h", [0, 8, 32, -16, 32767]),
    "pixdim[0]": (76, "f", [float("nan"), 0.5, 2.0, float("inf")]),
    "pixdim[1]": (80, "f", [0.0, -0.625, float("nan"), float("inf"), 1e30, 1e-30]),
    "pixdim[3]": (88, "f", [0.0, -3.0, float("nan"), float("-inf"), 1e9]),
    "vox_offset": (108, "f", [0.0, -1.0, 351.0, 352.5, 353.0, float("nan"), float("inf"), 1e30, 3e9]),
    "scl_slope": (112, "f", [float("inf"), -1.0, 1e30, 1e-30]),
    "scl_inter": (116, "f", [float("inf"), float("nan"), 1e30]),
    "xyzt_units": (123, "B", [1, 3, 255]),
    "qform_code": (252, "h", [-1, 99]),
    "sform_code": (254, "h", [-1, 99]),
    "quatern_b": (256, "f", [float("nan"), 2.0, 1e30]),
    "qoffset_x": (268, "f", [float("nan"), float("inf"), 1e30, 0.0]),
    "srow_x[0]": (280, "f", [0.0, float("nan"), float("inf"), 1e30, 0.625]),
    "srow_z[3]": (324, "f", [float("nan"), 1e30, 0.0]),
    "magic": (344, "4s", [b"ni1\0", b"n+2\0", b"\0\0\0\0"]),
}


@pytest.fixture(scope="module")
def nifti() -> bytes:
    """A whole NIfTI-1 with both forms, by nibabel."""
    voxels = np.random.default_rng(3).integers(0, 4000, SHAPE[::-1]).astype(np.int16)
    affine = AFFINE.copy()
    affine[:3, :3] = np.linalg.qr(AFFINE[:3, :3])[0]
    affine[:3, :3] *= np.sign(np.diag(affine[:3, :3]) * np.diag(AFFINE[:3, :3])) * np.array(SPACING[::-1])
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    return image.to_bytes()


def flip(data: bytes, bit: int) -> bytes:
    """``data`` with one bit turned."""
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def damage(kind: str, data: bytes, packed: bytes, rng: random.Random) -> tuple[str, bytes, int]:
    """Suffix, content and (for bit flips in plain files) the byte hit, else -1."""
    if kind == "truncated":
        return ".nii", data[: rng.randrange(len(data))], -1
    if kind == "truncated gzip":
        return ".nii.gz", packed[: rng.randrange(len(packed))], -1
    if kind == "bit":
        bit = rng.randrange(8 * len(data))
        return ".nii", flip(data, bit), bit // 8
    if kind == "bit gzip":
        return ".nii.gz", flip(packed, rng.randrange(8 * len(packed))), -1
    if kind == "bit header":
        bit = rng.randrange(8 * 348)
        return ".nii", flip(data, bit), bit // 8
    offset, form, values = HOSTILE[rng.choice(list(HOSTILE))]
    damaged = bytearray(data)
    struct.pack_into("<" + form, damaged, offset, rng.choice(values))
    return ".nii", bytes(damaged), -1


KINDS = ["truncated", "truncated gzip", "bit", "bit gzip", "bit header", "hostile field"]


ONE_VOXEL, SCALED, DIGIT = "one voxel", "scaled", "digit"


def undetectable(found, whole, hit: int) -> str:
    """The name of a change that a plain .nii cannot show, of which the extent is checked; else silent."""
    if hit >= 352 and np.count_nonzero(found.voxels != whole.voxels) == 1:
        return ONE_VOXEL
    if hit in SCALE_BYTES:  # all voxels by one slope and intercept, which z-scoring takes out again
        fit = np.polyfit(whole.voxels.ravel().astype(float), found.voxels.ravel().astype(float), 1)
        off = np.polyval(fit, whole.voxels.astype(float)) - found.voxels
        if fit[0] > 0 and np.abs(off).max() < 1e-3 * found.voxels.std():
            return SCALED
    return SILENT


def test_damaged_nifti(nifti, tmp_path, capsys):
    """T1.1: 300 damaged copies of each of 6 kinds; only what no byte of a plain .nii repeats may pass."""
    packed = gzip.compress(nifti, mtime=0)
    (tmp_path / "whole.nii").write_bytes(nifti)
    whole = read_volume(tmp_path / "whole.nii")
    counts = {kind: Counter() for kind in KINDS}
    for seed, kind in enumerate(KINDS):
        rng = random.Random(seed)
        for _ in range(NUMBER):
            suffix, content, hit = damage(kind, nifti, packed, rng)
            path = tmp_path / f"damaged{suffix}"
            path.write_bytes(content)
            verdict = judge(read_volume, path, whole)
            counts[kind][undetectable(read_volume(path), whole, hit) if verdict == SILENT else verdict] += 1
    total = show(capsys, "damaged NIfTI", counts, extra=(ONE_VOXEL, SCALED))
    assert total.total() == 1800
    assert total[SILENT] == total[UNTYPED] == 0
    assert set(counts["truncated"]) == set(counts["truncated gzip"]) == {REFUSED}
    assert counts["bit gzip"][REFUSED] > 0.95 * NUMBER  # the rest hit gzip's own unused header bytes
    assert set(counts["bit gzip"]) == set(counts["hostile field"]) == {REFUSED, SAME}
    assert counts["bit"][ONE_VOXEL] > 0.8 * NUMBER  # control: the copies really are damaged


def test_other_readers_accept_what_we_refuse(nifti, tmp_path):
    """Negative control: SimpleITK reads a truncated .nii, nibabel a .nii.gz whose checksum is wrong."""
    (tmp_path / "cut.nii").write_bytes(nifti[:-500])
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "cut.nii"))).shape == SHAPE
    packed = bytearray(gzip.compress(nifti, mtime=0))
    packed[-6] ^= 1
    (tmp_path / "crc.nii.gz").write_bytes(packed)
    assert np.asarray(nib.load(tmp_path / "crc.nii.gz").dataobj).shape == SHAPE[::-1]
    for name in ("cut.nii", "crc.nii.gz"):
        with pytest.raises(VolumeError):
            read_volume(tmp_path / name)


@pytest.fixture(scope="module", params=[".mha", ".nrrd"])
def packed_file(request, tmp_path_factory):
    """A compressed .mha or .nrrd by SimpleITK: its path, bytes, and where the compressed data start."""
    z, y, x = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    image = sitk.GetImageFromArray((100 * z + 10 * y + x + z * y * x).astype(np.int16))
    image.SetSpacing(SPACING[::-1])
    path = tmp_path_factory.mktemp("packed") / f"v{request.param}"
    sitk.WriteImage(image, str(path), useCompression=True)
    data = path.read_bytes()
    start = data.index(b"LOCAL\n") + 6 if request.param == ".mha" else data.index(b"\n\n") + 2
    return path, data, start


def test_damaged_compressed_files(packed_file, tmp_path, capsys):
    """T1.2: 400 truncations and 400 bit flips of compressed voxels are refused (gzip has unused bytes).

    400 flips in the text header never change a voxel or an axis; a digit of spacing or origin has no check.
    """
    file, data, start = packed_file
    path = tmp_path / file.name
    path.write_bytes(data)
    whole = read_volume(path)
    rng = random.Random(5)
    cuts = [data[: rng.randrange(len(data))] for _ in range(400)]
    flips = [flip(data, rng.randrange(8 * start, 8 * len(data))) for _ in range(400)]
    letters = [flip(data, rng.randrange(8 * start)) for _ in range(400)]
    counts = {kind: Counter() for kind in ("truncated", "bit in voxels", "bit in text header")}
    for kind, contents in zip(counts, (cuts, flips, letters), strict=True):
        for content in contents:
            path.write_bytes(content)
            verdict = judge(read_volume, path, whole)
            if verdict == SILENT and kind == "bit in text header":
                found = read_volume(path)
                same = np.array_equal(found.voxels, whole.voxels)
                same = same and np.allclose(found.geometry.direction, whole.geometry.direction, atol=2e-3)
                verdict = DIGIT if same else SILENT
            counts[kind][verdict] += 1
    total = show(capsys, f"damaged compressed {path.suffix}", counts, extra=(DIGIT,))
    assert total[SILENT] == total[UNTYPED] == 0
    assert set(counts["truncated"]) == {REFUSED}
    assert counts["bit in voxels"][REFUSED] > 350
    if path.suffix == ".mha":
        assert set(counts["bit in voxels"]) == {REFUSED}


def test_simpleitk_accepts_flipped_mha(packed_file):
    """Negative control: SimpleITK alone reads most bit-flipped .mha without an exception."""
    path, data, start = packed_file
    if path.suffix != ".mha":
        pytest.skip("NRRD's reader does check")
    rng = random.Random(7)
    accepted = 0
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    for _ in range(20):
        path.write_bytes(flip(data, rng.randrange(8 * (start + 10), 8 * len(data))))
        try:
            sitk.ReadImage(str(path))
            accepted += 1
        except RuntimeError:
            pass
    sitk.ProcessObject.SetGlobalWarningDisplay(True)
    assert accepted > 10


def zeros_gzip(head: bytes, megabytes: int) -> bytes:
    """A gzip of ``head`` and many zeros, made fast: one compressed MiB repeated (its checksum is never reached)."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    end = packer.flush(zlib.Z_FINISH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + start + block * megabytes + end + bytes(8)


def nifti_head(nifti: bytes, sizes: tuple[int, int, int]) -> bytes:
    """The header (352 bytes) with other sizes."""
    head = bytearray(nifti[:352])
    struct.pack_into("<3h", head, 42, *sizes)
    return bytes(head)


def npy_head(shape: tuple[int, int, int]) -> bytes:
    """The start of a .npy of 16-bit voxels."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<i2", "fortran_order": False, "shape": shape})
    return head.getvalue()


RUN = textwrap.dedent(
    """
    import resource, sys, time
    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
    from prostate_mim.errors import ProstateMimError
    from prostate_mim.volume import read_volume
    start = time.process_time()
    try:
        read_volume(sys.argv[1], spacing_mm_zyx=(3, 0.5, 0.5))
        print("read")
    except ProstateMimError as error:
        print(type(error).__name__, error)
    print(time.process_time() - start)
    """
)
NIBABEL = textwrap.dedent(
    """
    import resource, sys
    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
    import nibabel
    try:
        nibabel.load(sys.argv[1]).get_fdata()
    except MemoryError:
        print("MemoryError")
    """
)


def run(code: str, path) -> list[str]:
    """Standard output of ``code`` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("bomb", ["honest", "lying", "largest", "nested", "npy", "npz", "mha", "nrrd"])
def test_bombs(nifti, tmp_path, bomb):
    """T1.4: small files that demand 2 GB are refused under a 1 GiB address space in under 2 s of processor time."""
    path = tmp_path / {"npy": "v.npy.gz", "npz": "v.npz", "mha": "v.mha", "nrrd": "v.nrrd"}.get(bomb, "v.nii.gz")
    if bomb == "honest":
        path.write_bytes(zeros_gzip(nifti_head(nifti, (1024, 1024, 1000)), 2000))
    elif bomb == "lying":
        path.write_bytes(zeros_gzip(nifti_head(nifti, (16, 14, 6)), 2000))
    elif bomb == "largest":
        path.write_bytes(zeros_gzip(nifti_head(nifti, (1024, 1024, 64)), 2000))
    elif bomb == "nested":
        path.write_bytes(gzip.compress(zeros_gzip(nifti_head(nifti, (16, 14, 6)), 2000)))
    elif bomb == "npy":
        path.write_bytes(zeros_gzip(npy_head((1000, 1024, 1024)), 2000))
    elif bomb == "npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("v.npy", npy_head((6, 14, 16)) + bytes(1 << 28))
    elif bomb == "nrrd":
        text = "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 16 14 6\n"
        text += "space directions: (0.5,0,0) (0,0.5,0) (0,0,3)\nendian: little\nencoding: gzip\n"
        path.write_bytes(f"{text}space origin: (0,0,0)\n\n".encode() + zeros_gzip(b"", 2000))
    else:
        lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "CompressedData = True"]
        lines += ["BinaryDataByteOrderMSB = False", "TransformMatrix = 1 0 0 0 1 0 0 0 1", "Offset = 0 0 0"]
        lines += [
            "ElementSpacing = 0.5 0.5 3",
            "DimSize = 16 14 6",
            "ElementType = MET_SHORT",
            "ElementDataFile = LOCAL",
        ]
        path.write_bytes("\n".join([*lines, ""]).encode() + zlib.compress(bytes(1 << 28), 1))
    verdict, seconds = run(RUN, path)
    assert verdict.startswith("VolumeError")
    reason = {"honest": "voxels, at most", "npy": "voxels, at most", "nested": "sizeof_hdr"}.get(
        bomb, "its header declares"
    )
    assert reason in verdict
    assert float(seconds) < 2.0


def test_nibabel_runs_out_of_memory(nifti, tmp_path):
    """Negative control: nibabel dies of the bomb we refuse."""
    (tmp_path / "v.nii.gz").write_bytes(zeros_gzip(nifti_head(nifti, (1024, 1024, 1000)), 2000))
    assert run(NIBABEL, tmp_path / "v.nii.gz") == ["MemoryError"]
