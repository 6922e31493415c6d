"""Damaged and hostile DICOM series: each is refused with a VolumeError, or read as if it were whole."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_series import uid, write_dicom_series
from figures import REFUSED, SAME, SILENT, UNTYPED, judge, show

from prostate_mim.errors import VolumeError
from prostate_mim.volume import Geometry, Volume, read_volume

pydicom = pytest.importorskip(
    "pydicom", reason="DICOM files are written by pydicom: pip install 'prostate-mim[datasets]'"
)

SHAPE = (5, 8, 10)
ONE_VOXEL = "one voxel"
Edit = Callable[[Any, random.Random], None]


def turned(degrees: float) -> np.ndarray:
    """(3, 3) rotation about the patient's x axis."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def made(seed: int = 3, shape: tuple[int, int, int] = SHAPE, spacing=(3.0, 0.5, 0.625), degrees: float = 8.0) -> Volume:
    """An oblique volume of random 12-bit voxels."""
    voxels = np.random.default_rng(seed).integers(0, 4000, shape).astype(np.uint16)
    return Volume(voxels, Geometry(spacing, (-41.5, -12.25, 30.125), turned(degrees)), "made")


def change(path: Path, edit: Edit, rng: random.Random) -> None:
    """Rewrite one slice with an edited data set."""
    dataset = pydicom.dcmread(path)
    edit(dataset, rng)
    dataset.save_as(path)


# ------------------------------------------------------------------------------------------------- damage of a series


def missing(files: list[Path], rng: random.Random) -> None:
    """Any slice, the ends included: ImagesInAcquisition counts them."""
    rng.choice(files).unlink()


def duplicate(files: list[Path], rng: random.Random) -> None:
    """A copy of a slice under another name."""
    shutil.copy(rng.choice(files), files[0].parent / f"copy-{rng.randrange(99)}.dcm")


def mixed(files: list[Path], rng: random.Random) -> None:
    """A slice of another series, sometimes one that claims the same SeriesInstanceUID."""
    same_series, other_grid = rng.random() < 0.5, rng.random() < 0.5
    shape = (len(files) + 1, 8, 12) if other_grid else (len(files) + 1, 8, 10)
    number = 4 if same_series else 9
    other = write_dicom_series(
        files[0].parent / "other", made(4, shape, degrees=rng.choice([8.0, 20.0])), series_number=number
    )
    shutil.move(rng.choice(other[:-1]), files[0].parent / "foreign.dcm")
    shutil.rmtree(files[0].parent / "other")


def orientation(files: list[Path], rng: random.Random) -> None:
    """One slice is turned by 0.1 to 20 degrees."""
    angle = rng.uniform(0.1, 20) * rng.choice([-1, 1])

    def edit(dataset: Any, _: random.Random) -> None:
        direction = turned(8 + angle)
        dataset.ImageOrientationPatient = [f"{v:.9g}" for v in (*direction[:, 0], *direction[:, 1])]

    change(rng.choice(files), edit, rng)


def tilt(files: list[Path], rng: random.Random) -> None:
    """Every slice is shifted within its plane in proportion to its number, as by a tilted gantry."""
    per_slice, axis = rng.uniform(0.15, 1.5) * rng.choice([-1, 1]), rng.choice([0, 1])
    for index, file in enumerate(files):

        def edit(dataset: Any, _: random.Random, shift: float = index * per_slice) -> None:
            moved = np.array(dataset.ImagePositionPatient, float) + shift * turned(8)[:, axis]
            dataset.ImagePositionPatient = [f"{v:.9g}" for v in moved]

        change(file, edit, rng)


def shifted(files: list[Path], rng: random.Random) -> None:
    """One slice lies 0.2 to 3 mm off, in any direction."""
    way = np.array([rng.gauss(0, 1) for _ in range(3)])
    shift = way / np.linalg.norm(way) * rng.uniform(0.2, 3)

    def edit(dataset: Any, _: random.Random) -> None:
        dataset.ImagePositionPatient = [f"{v:.9g}" for v in np.array(dataset.ImagePositionPatient, float) + shift]

    change(rng.choice(files), edit, rng)


def scaled(files: list[Path], rng: random.Random) -> None:
    """One slice has a slope or an intercept of its own."""
    keyword, value = rng.choice([("RescaleSlope", "1.25"), ("RescaleSlope", "2"), ("RescaleIntercept", "-5")])

    def edit(dataset: Any, _: random.Random) -> None:
        setattr(dataset, keyword, value)

    change(rng.choice(files), edit, rng)


def signed(files: list[Path], rng: random.Random) -> None:
    """One slice is stored as signed numbers, or in other bits."""
    keyword, value = rng.choice(
        [("PixelRepresentation", 1), ("BitsAllocated", 8), ("BitsAllocated", 32), ("HighBit", 15)]
    )
    change(rng.choice(files), lambda dataset, _: setattr(dataset, keyword, value), rng)


def truncated(files: list[Path], rng: random.Random) -> None:
    """One file ends early."""
    file = rng.choice(files)
    file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size)])


def _flip(file: Path, rng: random.Random, *, header: bool) -> None:
    data = bytearray(file.read_bytes())
    start = len(data) - 2 * SHAPE[1] * SHAPE[2]  # the writer puts PixelData last
    bit = rng.randrange(8 * start) if header else rng.randrange(8 * start, 8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def header_bit(files: list[Path], rng: random.Random) -> None:
    """One bit before the voxels of one file is turned."""
    _flip(rng.choice(files), rng, header=True)


def voxel_bit(files: list[Path], rng: random.Random) -> None:
    """One bit of one voxel is turned: no checksum exists, so it passes where BitsStored allows the value."""
    _flip(rng.choice(files), rng, header=False)


HOSTILE: list[tuple[str, Any]] = [
    ("Rows", 0), ("Rows", 65535), ("Rows", 7), ("Columns", 0), ("Columns", 9), ("Columns", 65535),
    ("PixelSpacing", ["NaN", "0.5"]), ("PixelSpacing", ["0", "0"]), ("PixelSpacing", ["-0.5", "0.5"]),
    ("PixelSpacing", ["1e9", "1e9"]), ("PixelSpacing", ["0.5"]), ("PixelSpacing", None), ("NumberOfFrames", "0"),
    ("NumberOfFrames", "2"), ("NumberOfFrames", "-1"), ("BitsStored", 0), ("BitsStored", 17), ("BitsStored", 10),
    ("HighBit", 0), ("HighBit", 15), ("HighBit", 65535), ("BitsAllocated", 0), ("BitsAllocated", 1),
    ("BitsAllocated", 12), ("BitsAllocated", 64), ("PixelRepresentation", 1), ("PixelRepresentation", 2),
    ("PhotometricInterpretation", "MONOCHROME1"), ("PhotometricInterpretation", "RGB"),
    ("PhotometricInterpretation", "PALETTE COLOR"), ("SamplesPerPixel", 0), ("SamplesPerPixel", 3),
    ("RescaleSlope", "0"), ("RescaleSlope", "-1"), ("RescaleSlope", "1e30"), ("RescaleIntercept", "1e30"),
    ("ImagePositionPatient", ["0", "0"]), ("ImagePositionPatient", ["0", "0", "1e400"]),
    ("ImagePositionPatient", ["0", "0", "0"]), ("ImagePositionPatient", None), ("ImageOrientationPatient", None),
    ("ImageOrientationPatient", ["1", "0", "0", "1", "0", "0"]), ("ImageOrientationPatient", ["0"] * 6),
    ("ImageOrientationPatient", ["2", "0", "0", "0", "2", "0"]), ("InstanceNumber", "7"),
    ("ImageOrientationPatient", ["1", "0", "0", "0.05", "1", "0"]), ("ImagesInAcquisition", "99"),
    ("SeriesInstanceUID", None), ("PixelData", b""), ("PixelData", b"\0" * 3), ("PixelData", None),
]  # fmt: skip


def hostile(files: list[Path], rng: random.Random) -> None:
    """An impossible value of one field, in every slice or in one."""
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    keyword, value = rng.choice(HOSTILE)
    for file in files if rng.random() < 0.5 else [rng.choice(files)]:

        def edit(dataset: Any, _: random.Random) -> None:
            if value is None:
                delattr(dataset, keyword)
            elif isinstance(value, str | list):
                dataset[keyword] = pydicom.dataelem.DataElement(
                    keyword,
                    dataset[keyword].VR if keyword in dataset else pydicom.datadict.dictionary_VR(keyword),
                    value,
                )
            else:
                setattr(dataset, keyword, value)

        change(file, edit, rng)


# kind -> (damage, copies, verdicts that must not occur)
KINDS: dict[str, tuple[Callable[[list[Path], random.Random], None], int]] = {
    "missing slice": (missing, 30), "duplicate slice": (duplicate, 30), "mixed series": (mixed, 30),
    "one slice turned": (orientation, 40), "gantry tilt": (tilt, 40), "one slice shifted": (shifted, 40),
    "slope in one slice": (scaled, 20), "number type in one": (signed, 20), "truncated": (truncated, 100),
    "header bit": (header_bit, 400), "voxel bit": (voxel_bit, 60), "hostile value": (hostile, 120),
}  # fmt: skip
ALWAYS_REFUSED = set(KINDS) - {"header bit", "voxel bit", "hostile value", "number type in one", "truncated"}


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> Path:
    """A whole series of five slices, which says how many there are."""
    folder = tmp_path_factory.mktemp("dicom") / "series"
    write_dicom_series(folder, made(), tags={"ImagesInAcquisition": str(SHAPE[0])})
    return folder


def test_damaged_series(series, tmp_path, capsys):
    """930 damaged copies: 0 silent, 0 untyped; only a bit of an uncompressed voxel passes, and it moves one voxel."""
    whole = read_volume(series)
    np.testing.assert_array_equal(whole.voxels, made().voxels)
    counts: dict[str, Counter[str]] = {}
    copy = tmp_path / "copy"
    for seed, (kind, (damage, number)) in enumerate(KINDS.items()):
        counts[kind] = Counter()
        rng = random.Random(seed)
        for _ in range(number):
            shutil.copytree(series, copy)
            damage(sorted(copy.iterdir()), rng)
            verdict = judge(read_volume, copy, whole)
            if verdict == SILENT and kind == "voxel bit":
                found = read_volume(copy)
                assert np.count_nonzero(found.voxels != whole.voxels) == 1
                verdict = ONE_VOXEL
            counts[kind][verdict] += 1
            shutil.rmtree(copy)
    total = show(capsys, "damaged DICOM series", counts, extra=(ONE_VOXEL,))
    assert total[SILENT] == total[UNTYPED] == 0
    for kind in ALWAYS_REFUSED:
        assert set(counts[kind]) == {REFUSED}, kind
    assert total[REFUSED] > 500
    assert counts["header bit"][SAME] > 0  # control: damage that decides nothing does not refuse a study


def test_gdcm_alone_is_silent(series, tmp_path):
    """Negative control: SimpleITK reads a tilted series, one with a gap, and one with a slope in one slice."""
    silent = 0
    for number, damage in enumerate((tilt, missing, scaled)):
        folder = shutil.copytree(series, tmp_path / str(number))
        damage(sorted(folder.iterdir()), random.Random(2))
        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        image = sitk.ReadImage([str(path) for path in sorted(folder.iterdir())])
        sitk.ProcessObject.SetGlobalWarningDisplay(True)
        silent += image.GetSize()[:2] == (10, 8)
    assert silent == 3


# ------------------------------------------------------------------------------------------------------- cases


@pytest.mark.parametrize(("slope", "intercept"), [("2", "-5"), ("0.5", "0"), ("1.7", "100.25"), ("1", "-1024")])
def test_one_slope_for_all_slices_is_applied(tmp_path, slope, intercept):
    """Slope and intercept, equal in all slices, give stored x slope + intercept in float32."""
    write_dicom_series(tmp_path / "s", made(), tags={"RescaleSlope": slope, "RescaleIntercept": intercept})
    found = read_volume(tmp_path / "s")
    expected = made().voxels.astype(np.float64) * float(slope) + float(intercept)
    assert found.voxels.dtype == np.float32
    np.testing.assert_allclose(found.voxels, expected, rtol=1e-6)


def test_slopes_of_their_own_are_refused(tmp_path):
    """Slices with different slopes are refused; SimpleITK cuts them to whole numbers in silence (the control)."""
    files = write_dicom_series(tmp_path / "s", made(), tags={"RescaleSlope": "1", "RescaleIntercept": "0"})
    change(files[2], lambda dataset, _: setattr(dataset, "RescaleSlope", "1.25"), random.Random(0))
    with pytest.raises(VolumeError, match="slices differ in RescaleSlope"):
        read_volume(tmp_path / "s")
    image = sitk.GetArrayFromImage(sitk.ReadImage([str(path) for path in files]))
    wanted = made().voxels[2] * 1.25
    assert 0 < np.abs(image[2] - wanted).max() < 1


@pytest.mark.parametrize(
    ("tags", "word"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1"),
        ({"PhotometricInterpretation": "MONO\r\nX"}, "MONO"),  # found by atheris: the message had two lines
        ({"NumberOfFrames": "5"}, "'5' frames"),
        ({"BitsStored": 10, "HighBit": 9}, "BitsStored 10 allows 0 to 1023"),
        ({"BitsStored": 12, "HighBit": 15}, "HighBit 15"),
        ({"PixelPaddingValue": 17}, "PixelPaddingValue 17"),
        ({"InstanceNumber": "3"}, "InstanceNumber"),
    ],
)
def test_refusals_name_the_field(tmp_path, tags, word):
    """Inverted, multi-frame, odd bits, padding marks and a late start: the message names the field."""
    volume = made()
    volume.voxels[1, 2, 3] = 17
    write_dicom_series(tmp_path / "s", volume, tags=tags)
    with pytest.raises(VolumeError, match=word) as caught:
        read_volume(tmp_path / "s")
    assert "\n" not in str(caught.value)


def test_padding_of_nothing_is_read(tmp_path):
    """A padding value of 0, or one that no voxel has, is no reason to refuse."""
    for value in (0, 4095):
        write_dicom_series(tmp_path / str(value), made(), tags={"PixelPaddingValue": value})
        np.testing.assert_array_equal(read_volume(tmp_path / str(value)).voxels, made().voxels)


def test_signed_and_other_widths(tmp_path):
    """Signed 16-bit and unsigned 8-bit slices are read as such; implicit VR too."""
    volume = made()
    stored = volume.voxels.astype(np.int16) - 2000
    files = write_dicom_series(tmp_path / "s", volume)
    for file, plane in zip(files, stored, strict=True):
        dataset = pydicom.dcmread(file)
        dataset.PixelRepresentation, dataset.PixelData = 1, plane.tobytes()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        dataset.save_as(file)
    found = read_volume(tmp_path / "s")
    assert found.voxels.dtype == np.int16
    np.testing.assert_array_equal(found.voxels, stored)
    for file, plane in zip(files, volume.voxels // 16, strict=True):
        dataset = pydicom.dcmread(file)
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit, dataset.PixelRepresentation, dataset.PixelData = 7, 0, plane.astype(np.uint8).tobytes()
        dataset.save_as(file)
    np.testing.assert_array_equal(read_volume(tmp_path / "s").voxels, volume.voxels // 16)


@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.70", "1.2.3", ""]
)
def test_other_transfer_syntaxes_are_refused(tmp_path, syntax):
    """Big-endian, run-length, JPEG-lossless and unknown syntaxes are refused by their UID."""
    for file in write_dicom_series(tmp_path / "s", made()):
        data = file.read_bytes()
        new = (
            syntax.encode() + b"\0" * (20 - len(syntax))
            if len(syntax) <= 20
            else syntax.encode() + b"\0" * (len(syntax) % 2)
        )
        old = b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\0"
        assert old in data
        file.write_bytes(data.replace(old, old[:6] + len(new).to_bytes(2, "little") + new, 1))
    with pytest.raises(VolumeError, match="TransferSyntaxUID"):
        read_volume(tmp_path / "s")


def test_compressed_slices_are_refused_because_damage_in_them_is_silent(tmp_path):
    """A JPEG-lossless slice is refused; GDCM reads most damaged ones without a word (the control)."""
    _, y, x = np.mgrid[:1, :64, :64]
    image = sitk.GetImageFromArray((1000 + 9 * y + 5 * x + (x * y) % 17).astype(np.uint16))
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(tmp_path / "a.dcm"))
    writer.SetUseCompression(True)
    writer.SetCompressor("JPEG")
    writer.Execute(image)
    shutil.copy(tmp_path / "a.dcm", tmp_path / "b.dcm")
    with pytest.raises(VolumeError, match="decompress the series"):
        read_volume(tmp_path)
    whole = (tmp_path / "a.dcm").read_bytes()
    rng = random.Random(1)
    silent = 0
    for _ in range(10):
        data = bytearray(whole)
        data[rng.randrange(len(data) - 1000, len(data) - 100)] ^= 1 << rng.randrange(8)
        (tmp_path / "a.dcm").write_bytes(data)
        try:
            found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.dcm")))
        except RuntimeError:
            continue
        silent += not np.array_equal(found, sitk.GetArrayFromImage(image))
    assert silent >= 5


def test_a_lost_last_slice_is_seen_only_by_a_count(tmp_path):
    """What cannot be known: without ImagesInAcquisition a series that lost its last slice is a shorter series."""
    files = write_dicom_series(tmp_path / "s", made())
    files[-1].unlink()
    assert read_volume(tmp_path / "s").shape_zyx == (4, 8, 10)
    files[0].unlink()
    with pytest.raises(VolumeError, match="InstanceNumber runs from 2"):
        read_volume(tmp_path / "s")
    assert uid("a") != uid("b")
