"""Cases: what is read, and every refusal with its one-line message."""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from prostate_mim.errors import NotFoundError, VolumeError
from prostate_mim.volume import read_mask, read_volume, write_volume

AFFINE = np.diag([-0.5, -0.5, 3.0, 1.0])
VOXELS = np.random.default_rng(0).integers(0, 50, (6, 5, 4)).astype(np.int16)


def save(path, voxels=VOXELS, affine=AFFINE, sform=1, qform=1, edit=None, kind=nib.Nifti1Image):
    """A NIfTI by nibabel; ``edit`` changes the header before it is written."""
    image = kind(voxels, affine)
    image.set_sform(affine, sform)
    image.set_qform(affine, qform, strip_shears=True)
    raw = bytearray(image.to_bytes())
    if edit:
        header = np.frombuffer(raw, image.header.structarr.dtype, 1)
        edit(header)
    path.write_bytes(gzip.compress(bytes(raw)) if path.suffix == ".gz" else bytes(raw))
    return path


def refused(source, *words, **options):
    """The refusal's message: one line, naming the source and the words."""
    with pytest.raises(VolumeError) as caught:
        read_volume(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in (*words, str(source) if isinstance(source, str | Path) else "array"):
        assert word in message
    return message


def test_import_is_cheap():
    """Importing the package loads neither nibabel nor SimpleITK nor torch."""
    code = "import sys, prostate_mim.volume; print(sorted({'nibabel', 'SimpleITK', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (2, 0), (0, 1)])
def test_nifti_versions_and_forms(tmp_path, suffix, kind, sform, qform):
    """NIfTI-1 and -2, compressed or not, with either or both forms, give the affine nibabel gives."""
    path = save(tmp_path / f"v{suffix}", kind=kind, sform=sform, qform=qform)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.voxels, VOXELS.transpose(2, 1, 0))
    assert volume.geometry.spacing_mm_zyx == (3.0, 0.5, 0.5)
    assert volume.geometry.origin_mm_lps == (0, 0, 0)


@pytest.mark.parametrize("degrees", [3.0, 17.0, 40.0])
def test_qform_alone_equals_nibabel(make_volume, tmp_path, degrees):
    """An oblique volume known only by its quaternion lies where nibabel puts it."""
    geometry = make_volume(degrees=(degrees, 4.0)).geometry
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1, -1, 1]) @ geometry.direction @ np.diag([0.6, 0.5, 3.0])
    path = save(tmp_path / "v.nii", affine=affine, sform=0)
    expected = (nib.load(path).affine @ [5, 4, 3, 1])[:3] * [-1, -1, 1]
    np.testing.assert_allclose(read_volume(path).geometry.index_to_position([3, 4, 5]), expected, atol=1e-3)


def test_big_endian_and_scaling(tmp_path):
    """Big-endian voxels become native, and a slope and intercept give float32."""
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    image = nib.Nifti1Image(VOXELS.astype(">i2"), AFFINE, header)
    (tmp_path / "b.nii").write_bytes(image.to_bytes())
    volume = read_volume(tmp_path / "b.nii")
    assert volume.voxels.dtype == np.dtype("=i2")
    np.testing.assert_array_equal(volume.voxels, VOXELS.transpose(2, 1, 0))

    def scale(fields):
        fields["scl_slope"], fields["scl_inter"] = 2.5, -1.0

    volume = read_volume(save(tmp_path / "s.nii", edit=scale))
    assert volume.voxels.dtype == np.float32
    np.testing.assert_allclose(volume.voxels, VOXELS.transpose(2, 1, 0) * 2.5 - 1)


def header_edits():
    """Name of the field in the message, and the edit that spoils it."""

    def put(field, value, index=None):
        def edit(header):
            if index is None:
                header[field] = value
            else:
                header[field][0, index] = value

        return edit

    return {
        "dim": put("dim", 0, 1), "dim is": put("dim", -4, 2), "dim[0]": put("dim", 9, 0), "magic": put("magic", b"ni1"),
        "datatype": put("datatype", 32), "bitpix": put("bitpix", 8), "vox_offset": put("vox_offset", 348),
        "vox_offset is nan": put("vox_offset", np.nan), "pixdim[1]": put("pixdim", 0.7, 1),
        "sizeof_hdr": put("sizeof_hdr", 347),
        "sform_code": put("sform_code", 77), "xyzt_units": put("xyzt_units", 3), "scl_slope": put("scl_slope", -1),
        "scl_slope inf": put("scl_slope", np.inf), "quaternion": put("quatern_c", 1.5),
        "pixdim[0]": put("pixdim", 0.5, 0),
        "sform": put("srow_x", np.nan, 1), "disagree": put("qoffset_x", 9.0), "qform": put("qoffset_x", np.inf),
    }  # fmt: skip


@pytest.mark.parametrize("field", header_edits())
def test_spoilt_header_fields(tmp_path, field):
    """Each spoilt NIfTI field is refused by name."""
    refused(save(tmp_path / "v.nii", edit=header_edits()[field]), field)


def test_implausible_niftis(tmp_path):
    """4-D, no orientation, shear, far spacing, NaN, constant and complex volumes are each refused."""
    path = tmp_path / "v.nii"
    refused(save(path, np.zeros((4, 4, 4, 2), np.int16)), "dim", "3-D")
    refused(save(path, sform=0, qform=0), "sform_code", "qform_code")
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.1
    refused(save(path, affine=sheared, qform=0), "orthonormal")
    refused(save(path, affine=np.diag([-0.05, -0.5, 3, 1])), "spacing", "0.1 to 10")
    refused(save(path, affine=np.diag([-0.5, -0.5, 11, 1])), "spacing", "11")
    bad = VOXELS.astype(np.float32)
    bad[0, 0, 0] = np.nan
    refused(save(path, bad), "1 of 120 voxels", "NaN")
    refused(save(path, np.full((4, 4, 4), 3, np.int16)), "all 64 voxels are 3")
    refused(save(path, VOXELS.astype(np.complex64)), "datatype", "complex")
    refused(save(path), "dim", "120 voxels", max_voxels=100)


def test_paths(tmp_path):
    """A wrong path is not found, with the nearest name; strange suffixes, empty folders and files are refused."""
    save(tmp_path / "patient_a.nii.gz")
    with pytest.raises(NotFoundError, match=r"did you mean patient_a\.nii\.gz"):
        read_volume(tmp_path / "patient_b.nii.gz")
    with pytest.raises(NotFoundError):
        read_volume(tmp_path / "none" / "x.nii")
    (tmp_path / "v.txt").write_text("x")
    refused(tmp_path / "v.txt", ".txt", ".nii.gz", ".mha")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "0 DICOM slices")
    (tmp_path / "folder" / "1.dcm").write_bytes(b"no")
    refused(tmp_path / "folder", "no DICOM file")
    for suffix in (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd"):
        (tmp_path / f"e{suffix}").write_bytes(b"")
        refused(tmp_path / f"e{suffix}")
    with pytest.raises(VolumeError, match="NoneType"):
        read_volume(None)
    with pytest.raises(NotFoundError, match=r"nul\?byte"):
        read_volume("nul\0byte.nii")


def test_lengths_and_names(tmp_path):
    """Trailing bytes, a second gzip tail, and content that contradicts the name are refused."""
    data = save(tmp_path / "v.nii").read_bytes()
    packed = gzip.compress(data)
    for name, content, word in (
        ("a.nii", data + b"\0", "length"), ("b.nii.gz", packed + b"\0", "after the end"),
        ("c.nii.gz", packed + packed, "length"), ("d.nii.gz", data, "not gzip"), ("e.nii", packed, "gzip"),
        ("f.nii.gz", gzip.compress(packed), "sizeof_hdr"), ("g.nii.gz", packed[:-4], "truncated"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, word)
    (tmp_path / "h.nii.gz").write_bytes(gzip.compress(data[:500]) + gzip.compress(data[500:]))
    assert read_volume(tmp_path / "h.nii.gz").voxels.size == 120  # several members are legal gzip


def test_sha256(make_volume, tmp_path):
    """The right hash passes; another one, a short one, and a hash for a folder or an array are refused."""
    path = tmp_path / "v.nii"
    write_volume(make_volume(), path)
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    read_volume(path, sha256=right.upper())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    read_volume(path)  # negative control: without the hash the flipped voxel bit is not seen
    refused(path, "sha256", sha256=right)
    refused(path, "64 hex", sha256="abc")
    refused(tmp_path, "single files", sha256=right)
    refused(VOXELS, "sha256", sha256=right, spacing_mm_zyx=(1, 1, 1))


def test_bare_arrays(tmp_path):
    """.npy, .npy.gz, .npz and numpy arrays need a spacing; 2-D is depth 1; Fortran order and booleans are read."""
    buffer = io.BytesIO()
    np.save(buffer, np.asfortranarray(VOXELS))
    (tmp_path / "a.npy").write_bytes(buffer.getvalue())
    (tmp_path / "a.npy.gz").write_bytes(gzip.compress(buffer.getvalue()))
    np.savez_compressed(tmp_path / "a.npz", VOXELS)
    for source in (tmp_path / "a.npy", tmp_path / "a.npy.gz", tmp_path / "a.npz", VOXELS):
        volume = read_volume(source, spacing_mm_zyx=(3, 0.5, 0.5))
        np.testing.assert_array_equal(volume.voxels, VOXELS)
        assert volume.geometry.spacing_mm_zyx == (3.0, 0.5, 0.5)
        refused(source, "spacing_mm_zyx")
        refused(source, "spacing_mm_zyx", spacing_mm_zyx=(3, 0.5))
        refused(source, "spacing_mm_zyx", spacing_mm_zyx=(3, 0.5, float("nan")))
        refused(source, "120 voxels", spacing_mm_zyx=(3, 1, 1), max_voxels=50)
    assert read_volume(VOXELS[0], spacing_mm_zyx=(3, 0.5, 0.5)).shape_zyx == (1, 5, 4)
    assert read_mask(VOXELS > 3, spacing_mm_zyx=(3, 0.5, 0.5)).voxels.max() == 1
    assert not np.shares_memory(read_volume(VOXELS, spacing_mm_zyx=(3, 1, 1)).voxels, VOXELS)


def test_hostile_arrays(tmp_path):
    """Pickles, damaged archives, several arrays, wrong axes and wrong lengths are refused."""
    spacing = {"spacing_mm_zyx": (3, 1, 1)}
    np.save(tmp_path / "o.npy", np.array([{}], object), allow_pickle=True)
    refused(tmp_path / "o.npy", "object", **spacing)
    np.savez(tmp_path / "two.npz", VOXELS, VOXELS)
    refused(tmp_path / "two.npz", "2 arrays", **spacing)
    np.savez_compressed(tmp_path / "z.npz", VOXELS)
    data = bytearray((tmp_path / "z.npz").read_bytes())
    data[len(data) // 2] ^= 4
    (tmp_path / "z.npz").write_bytes(data)
    refused(tmp_path / "z.npz", "zip", **spacing)
    np.save(tmp_path / "l.npy", VOXELS)
    content = (tmp_path / "l.npy").read_bytes()
    for wrong in (content[:-1], content + b"\0", content[:40], b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70000):
        (tmp_path / "l.npy").write_bytes(wrong)
        refused(tmp_path / "l.npy", **spacing)
    refused(np.zeros((2, 2, 2, 2)), "4 axes", **spacing)
    refused(np.zeros((2, 2, 0)), "2x2x0", **spacing)
    refused(VOXELS.astype(complex), "complex", **spacing)


def test_masks(tmp_path):
    """Masks may be empty; floating-point labels are rounded; fractions, negatives and NaN are refused."""
    empty = np.zeros((4, 4, 4), np.uint8)
    assert read_mask(save(tmp_path / "m.nii", empty)).voxels.dtype == np.int16
    refused(tmp_path / "m.nii", "all 64 voxels")
    labels = empty.astype(np.float32)
    labels[0] = 2.9999
    assert set(np.unique(read_mask(save(tmp_path / "m.nii", labels)).voxels)) == {0, 3}
    for value in (0.5, -1, 40000, np.nan):
        labels[0] = value
        with pytest.raises(VolumeError, match=r"m\.nii"):
            read_mask(save(tmp_path / "m.nii", labels))


def test_stated_spacing_must_agree(tmp_path):
    """A spacing given for a file that has its own is refused where it contradicts it."""
    path = save(tmp_path / "v.nii")
    read_volume(path, spacing_mm_zyx=(3.0, 0.5, 0.5))
    refused(path, "contradicts", spacing_mm_zyx=(0.5, 0.5, 3.0))


@pytest.mark.parametrize("compress", [True, False])
def test_mhd_and_nrrd_with_a_second_file(make_volume, tmp_path, compress):
    """A .mhd with its data beside it is read; missing, shortened or outside data is refused."""
    image = sitk.GetImageFromArray(make_volume().voxels)
    image.SetSpacing((0.5, 0.5, 3.0))
    path = tmp_path / "v.mhd"
    sitk.WriteImage(image, str(path), useCompression=compress)
    np.testing.assert_array_equal(read_volume(path).voxels, make_volume().voxels)
    refused(path, "sha256", sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    data = next(item for item in tmp_path.iterdir() if "raw" in item.suffix)
    text = path.read_text()
    for outside in (f"../{tmp_path.name}/{data.name}", str(data), "LIST", "..", "none.raw"):
        path.write_text(text.replace(data.name, outside))
        refused(path, "ElementDataFile")
    path.write_text(text)
    data.write_bytes(data.read_bytes()[:-3])
    refused(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("NDims = 3", "NDims = 4"), ("DimSize = 9 7 5", "DimSize = 9 7 500000"), ("DimSize = 9 7 5", "DimSize = 9 7 6"),
        ("DimSize = 9 7 5", "DimSize = 9 7 -5"), ("MET_SHORT", "MET_SHORT_ARRAY"), ("ElementSpacing", "ElementSpacinh"),
        ("TransformMatrix = 1 ", "TransformMatrix = 1 nan "), ("0.5 0.5 3", "0.5 0.5 30"),
        ("Offset = 0 0 0", "Offset = 0 0"),
        ("CompressedData = True", "CompressedData = Tsue"), ("TransformMatrix = 1 0", "TransformMatrix = 1 0.2"),
        ("NDims = 3", "NDims = 3\nNDims = 3"), ("BinaryData = True", "BinaryData = False"),
    ],
)  # fmt: skip
def test_spoilt_mha_headers(make_volume, tmp_path, old, new):
    """Each spoilt .mha header line is refused."""
    image = sitk.GetImageFromArray(make_volume().voxels)
    image.SetSpacing((0.5, 0.5, 3.0))
    path = tmp_path / "v.mha"
    sitk.WriteImage(image, str(path), useCompression=True)
    data = path.read_bytes()
    assert old.encode() in data
    path.write_bytes(data.replace(old.encode(), new.encode(), 1))
    refused(path)


def test_extensions_nibabel_refuses(tmp_path, capfd):
    """Bytes between header and voxels are nibabel's to judge: an empty extension passes in silence, a cut one fails."""
    data = bytearray(save(tmp_path / "v.nii").read_bytes())
    for start, size in ((370, 17), (368, 1 << 20), (368, -5), (368, 0)):
        head = np.frombuffer(bytes(data[:352]), nib.Nifti1Header.template_dtype, 1).copy()
        head["vox_offset"] = start
        extension = b"\1\0\0\0" + np.array([size, 6], "<i4").tobytes() + bytes(start - 360)
        (tmp_path / "v.nii").write_bytes(head.tobytes()[:348] + extension + data[352:])
        if size == 17:
            np.testing.assert_array_equal(read_volume(tmp_path / "v.nii").voxels, VOXELS.transpose(2, 1, 0))
        else:
            refused(tmp_path / "v.nii", "HeaderDataError", "extension content")
    assert capfd.readouterr() == ("", "")


def test_nothing_on_standard_error(make_volume, tmp_path, capfd):
    """Reading good and bad files prints nothing."""
    write_volume(make_volume(), tmp_path / "v.mha")
    read_volume(tmp_path / "v.mha")
    data = (tmp_path / "v.mha").read_bytes()
    (tmp_path / "v.mha").write_bytes(data[:-5])
    refused(tmp_path / "v.mha")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("suffix", "library"), [(".nii", "nibabel"), (".mha", "SimpleITK")])
def test_libraries_decode(make_volume, tmp_path, suffix, library):
    """In a process of its own, reading a file loads the library that decodes its format, and only that one."""
    write_volume(make_volume(), tmp_path / f"v{suffix}")
    code = "import sys; from prostate_mim.volume import read_volume; read_volume(sys.argv[1]);"
    code += "print(*{'nibabel', 'SimpleITK'} & set(sys.modules))"
    command = [sys.executable, "-c", code, str(tmp_path / f"v{suffix}")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == [library]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (b"", ""), (b"Offset: 5 5 5 = 0\n", "origin"), (b"ElementSpacing: 1 1 4 = 0\n", "spacing"),
        (b"TransformMatrix: 0 1 0 1 0 0 0 0 1 = 0\n", "direction"), (b"BinaryDataByteOrderMSB: True =\n", "voxels"),
        (b"DimSize: 7 9 5 =\n", "size"), (b"DimSize: 90000 90000 90000 =\n", "size"),
        (b"ElementType: MET_USHORT = 0\n", "SimpleITK"),
    ],
)  # fmt: skip
def test_header_that_simpleitk_reads_otherwise(make_volume, tmp_path, line, word):
    """To ITK a colon ends a field's name, to us it belongs to it: where the two read other values, none is taken."""
    path = tmp_path / "v.mha"
    write_volume(make_volume(), path)
    path.write_bytes(path.read_bytes().replace(b"ElementDataFile", line + b"ElementDataFile", 1))
    if line:
        refused(path, "SimpleITK", word)
    else:
        np.testing.assert_array_equal(read_volume(path).voxels, make_volume().voxels)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_every_number_type_by_simpleitk(make_volume, tmp_path, suffix, dtype):
    """Each number type is read bit for bit, compressed or not; NaN reaches our own refusal."""
    voxels = make_volume(dtype=dtype).voxels
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.6, 0.5, 3.0))
    for compress in (True, False):
        sitk.WriteImage(image, str(tmp_path / f"v{suffix}"), useCompression=compress)
        found = read_volume(tmp_path / f"v{suffix}").voxels
        assert found.dtype == voxels.dtype
        np.testing.assert_array_equal(found, voxels)
    if voxels.dtype.kind == "f":
        image.SetPixel(0, 0, 0, float("nan"))
        sitk.WriteImage(image, str(tmp_path / f"v{suffix}"))
        refused(tmp_path / f"v{suffix}", "NaN")
