"""Write the fuzzer's seeds: ``python tests/fuzz/make_corpus.py [FOLDER]``. Small, synthetic, the same every time."""

from __future__ import annotations

import gzip
import io
import sys
import tempfile
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

VOXELS = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
AFFINE = np.array([[-0.5, 0, 0, 4.0], [0, -0.5, 0, 5.0], [0, 0, 3.0, -6.0], [0, 0, 0, 1]])


def niftis() -> dict[str, bytes]:
    """Both versions and both forms; one rescaled, one big-endian, one compressed."""
    made = {}
    for name, kind, sform, qform in (
        ("nifti1", nib.Nifti1Image, 1, 1),
        ("nifti1-qform", nib.Nifti1Image, 0, 1),
        ("nifti2-sform", nib.Nifti2Image, 2, 0),
    ):
        image = kind(VOXELS.transpose(2, 1, 0), AFFINE)
        image.set_sform(AFFINE, sform)
        image.set_qform(AFFINE, qform)
        made[name] = b"n" + image.to_bytes()
    image = nib.Nifti1Image(VOXELS.transpose(2, 1, 0).astype(">f4"), AFFINE, nib.Nifti1Header(endianness=">"))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"made"))
    made["nifti1-big"] = b"n" + image.to_bytes()
    scaled = bytearray(made["nifti1"])
    scaled[1 + 112 : 1 + 120] = np.array([2.5, -1.0], "<f4").tobytes()
    made["nifti1-scaled"] = bytes(scaled)
    longer = bytearray(made["nifti1-qform"])  # a quaternion a little longer than 1: nibabel raises, we once did not
    longer[1 + 256 : 1 + 268] = np.array([0.0, 0.0, 1.000004], "<f4").tobytes()
    made["nifti1-quaternion"] = bytes(longer)
    made["nifti1-gzip"] = b"N" + gzip.compress(made["nifti1"][1:], mtime=0)
    return made


def itk_files(folder: Path) -> dict[str, bytes]:
    """.mha and .nrrd, raw and compressed."""
    image = sitk.GetImageFromArray(VOXELS)
    image.SetSpacing((0.5, 0.5, 3.0))
    made = {}
    for letter, suffix in ((b"m", ".mha"), (b"r", ".nrrd")):
        for compress in (False, True):
            sitk.WriteImage(image, str(folder / f"v{suffix}"), useCompression=compress)
            made[suffix[1:] + ("-packed" if compress else "")] = letter + (folder / f"v{suffix}").read_bytes()
    return made


def arrays() -> dict[str, bytes]:
    """.npy of two versions, and a .npz with a fixed date."""
    made = {}
    for version in ((1, 0), (2, 0)):
        stream = io.BytesIO()
        np.lib.format.write_array(stream, np.asfortranarray(VOXELS), version=version)
        made[f"npy{version[0]}"] = b"a" + stream.getvalue()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("v.npy", (1980, 1, 1, 0, 0, 0)), made["npy1"][1:], zipfile.ZIP_DEFLATED)
    made["npz"] = b"z" + packed.getvalue()
    made["npz-offset"] = b"z" + packed.getvalue()[40:]  # its directory points before the start of the file
    return made


def slices(folder: Path) -> dict[str, bytes]:
    """A DICOM slice: explicit, with a sequence of undefined length, and implicit."""
    import pydicom
    from dicom_series import write_dicom_series

    from prostate_mim.volume import Geometry, Volume

    volume = Volume(VOXELS.astype(np.uint16), Geometry((3.0, 0.5, 0.5)))
    file = write_dicom_series(folder / "s", volume, tags={"RescaleSlope": "2", "PixelPaddingValue": 0})[0]
    made = {"dicom": b"d" + file.read_bytes()}
    dataset = pydicom.dcmread(file)
    item = pydicom.Dataset()
    item.SeriesDescription = "made"
    item.is_undefined_length_sequence_item = True
    dataset.ReferencedSeriesSequence = [item]
    dataset["ReferencedSeriesSequence"].is_undefined_length = True
    dataset.save_as(file)
    made["dicom-sequence"] = b"d" + file.read_bytes()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    dataset.save_as(file)
    made["dicom-implicit"] = b"d" + file.read_bytes()
    return made


def seeds() -> dict[str, bytes]:
    """Name -> input: the letter of ``header_target.SUFFIXES``, then the file."""
    with tempfile.TemporaryDirectory() as folder:
        return {**niftis(), **itk_files(Path(folder)), **arrays(), **slices(Path(folder))}


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "corpus"
    target.mkdir(exist_ok=True)
    for name, data in seeds().items():
        (target / name).write_bytes(data)
