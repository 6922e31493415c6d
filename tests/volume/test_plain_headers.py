"""Which headers are trusted without a second decoding: those of writers; of any other, both decodings must agree."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from prostate_mim.errors import VolumeError
from prostate_mim.volume import metaimage, nrrd, read_volume, write_volume

SUFFIXES = pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
WORDS = [
    b":", b" ", b"\t", b"\r", b"=", b"\n", b"_", b"0", b"-", b"e", b"#", b"True", b"False", b"LOCAL", b"MET_USHORT",
    b"BinaryDataByteOrderMSB = True\n", b"ElementByteOrderMSB = True\n", b"HeaderSize = 0\n", b"Comment = a b\n",
    b"ElementByteOrderMSB: True =\n", b"endian: big\n", b"byte skip: 0\n", b"kinds: space space space\n", b"a:=b\n",
    b"pixdim[1] = 0.5\n", b"pixdim[1]:=0.5\n", b"ITK_a = NO\n", b"endian:=big\n", b"byteOrder = True\n",
    b"elementByteOrderMSB = True\n", b"binaryDataByteOrderMSB = True\n", b"itk",
    b"Comment = " + b"x" * 600 + b"BinaryDataByteOrderMSB = True\n",
]  # fmt: skip


@pytest.fixture
def decodings(monkeypatch):
    """What each reading asked for: True where SimpleITK decoded the voxels too."""
    asked = []
    for module in (metaimage, nrrd):
        real = module.read_verified

        def spy(*arguments, decode, real=real):
            asked.append(bool(decode))
            return real(*arguments, decode=decode)

        monkeypatch.setattr(module, "read_verified", spy)
    return asked


def made(make_volume, path, compress=True):
    """A file by SimpleITK with axes of its own; returns its header, and what follows it."""
    image = sitk.GetImageFromArray(make_volume().voxels)
    image.SetSpacing((0.6, 0.5, 3.0))
    image.SetOrigin((-41.5, 12.25, -30.125))
    image.SetDirection(make_volume().geometry.direction.ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=compress)
    data = path.read_bytes()
    start = data.index(b"LOCAL\n") + 6 if path.suffix == ".mha" else data.index(b"\n\n") + 2
    return data[:start], data[start:]


@SUFFIXES
@pytest.mark.parametrize("compress", [True, False])
def test_headers_of_writers_are_plain(make_volume, tmp_path, decodings, suffix, compress):
    """SimpleITK's files and ours are decoded once, and hold exactly what SimpleITK decodes."""
    path = tmp_path / f"v{suffix}"
    made(make_volume, path, compress)
    np.testing.assert_array_equal(read_volume(path).voxels, sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
    head, rest = made(make_volume, path, compress)
    remarks = [b"bitpix", b"dim[0]", b"ITK_sform_corrected"]  # as in files that were NIfTI once
    lines = b"".join(key + (b" = 1 2\n" if suffix == ".mha" else b":=1 2\n") for key in remarks)
    at = head.index(b"DimSize") if suffix == ".mha" else head.index(b"sizes")
    path.write_bytes(head[:at] + lines + head[at:] + rest)
    np.testing.assert_array_equal(read_volume(path).voxels, sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
    if suffix == ".mha":
        write_volume(make_volume(), path)
        np.testing.assert_array_equal(read_volume(path).voxels, make_volume().voxels)
    assert decodings
    assert not any(decodings)


@pytest.mark.parametrize(
    "line",
    [b"Comment = x\n", b"ID = 1\n", b"HeaderSize = 0\n", b"Modality = MET_MOD_MR\n", b"ElementByteOrderMSB: False =\n"],
)
def test_any_other_line_is_decoded_twice(make_volume, tmp_path, decodings, line):
    """A field that is not on the list is read, and compared voxel by voxel."""
    head, rest = made(make_volume, tmp_path / "v.mha")
    (tmp_path / "v.mha").write_bytes(head.replace(b"ElementDataFile", line + b"ElementDataFile") + rest)
    np.testing.assert_array_equal(read_volume(tmp_path / "v.mha").voxels, make_volume().voxels)
    assert decodings == [True]


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".mhd"])
def test_big_endian_and_second_files_are_decoded_twice(make_volume, tmp_path, decodings, suffix):
    """Where the header alone cannot show that both take the same bytes, the voxels are compared."""
    path = tmp_path / f"v{suffix}"
    if suffix == ".mhd":
        sitk.WriteImage(sitk.GetImageFromArray(make_volume().voxels), str(path))
        text = path.read_text().replace("ElementSpacing = 1 1 1", "ElementSpacing = 1 1 3")
        path.write_text(text)
    else:
        head, _ = made(make_volume, path, compress=False)
        head = head.replace(b"MSB = False", b"MSB = True").replace(b"little", b"big")
        path.write_bytes(head + make_volume().voxels.astype(">i2").tobytes())
    np.testing.assert_array_equal(read_volume(path).voxels, make_volume().voxels)
    assert decodings == [True]


def mutated(head: bytes, rng: random.Random) -> bytes:
    """A header with one to three things inserted, replaced, removed, or two of its lines exchanged."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        kind, at, word = rng.randrange(4), rng.randrange(len(head)), rng.choice(WORDS)
        if kind == 0:
            lines = head.splitlines(keepends=True)
            one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[one], lines[other] = lines[other], lines[one]
            head = b"".join(lines)
        elif kind == 1:
            start = rng.choice([at, head.rfind(b"\n", 0, at) + 1])
            head = head[:start] + word + head[start:]
        elif kind == 2:
            head = head[:at] + word + head[at + len(word) :]
        else:
            head = head[:at] + head[at + rng.choice([1, 1, 8, 30]) :]
    return head


def read_or_none(path):
    """Voxels, or None where they are refused."""
    try:
        return read_volume(path).voxels
    except VolumeError:
        return None


@SUFFIXES
@pytest.mark.parametrize("compress", [True, False])
def test_what_is_read_is_what_simpleitk_decodes(make_volume, tmp_path, decodings, suffix, compress):
    """600 changed headers: each is refused, or both read the same voxels, decoded twice or not."""
    path = tmp_path / f"v{suffix}"
    head, rest = made(make_volume, path, compress)
    rng = random.Random(suffix)
    read = once = 0
    for _ in range(600):
        path.write_bytes(mutated(head, rng) + rest)
        decodings.clear()
        found = read_or_none(path)
        if found is not None:
            read += 1
            once += not decodings[0]
            image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
            np.testing.assert_array_equal(found, sitk.GetArrayFromImage(image))
    assert read > 60
    assert once > 20


def test_control_trust_in_every_header(make_volume, tmp_path, monkeypatch):
    """Control: were every header plain, one that SimpleITK reads in the other byte order would pass."""
    head, rest = made(make_volume, tmp_path / "v.mha")
    line = b"BinaryDataByteOrderMSB: True =\n"
    head = head.replace(b"BinaryDataByteOrderMSB = False\n", b"BinaryDataByteOrderMSB = False\n" + line)
    (tmp_path / "v.mha").write_bytes(head + rest)
    assert read_or_none(tmp_path / "v.mha") is None
    monkeypatch.setattr(metaimage, "_PLAIN", re.compile(rb"[\s\S]*"))
    found = read_or_none(tmp_path / "v.mha")
    image = sitk.ReadImage(str(tmp_path / "v.mha"))
    assert found is not None
    assert not np.array_equal(found, sitk.GetArrayFromImage(image))
