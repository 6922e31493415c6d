"""What the load test sends: studies with their right answers, and uploads that are wrong in every way we know."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prostate_mim.volume import Geometry, Volume, write_volume

Parts = Sequence[tuple[str, str, bytes]]
_BOUNDARY = "prostate-mim-load-test"
_EXPLICIT, _MR = "1.2.840.10008.1.2.1", "1.2.840.10008.5.1.4.1.1.4"
_SAGITTAL = np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
_CORONAL = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True)
class Request:
    """One POST to /predict.

    Attributes:
        body: as it is sent.
        content_type: of the multipart form.
        sent: how many bytes of the body are sent, before the client waits or goes; None for all.
        goes: the client closes the connection after them, instead of waiting.
        declared: Content-Length; that of the body if None.
        token: False for a wrong one.
    """

    body: bytes
    content_type: str = f"multipart/form-data; boundary={_BOUNDARY}"
    sent: int | None = None
    goes: bool = False
    declared: int | None = None
    token: bool = True


@dataclass(frozen=True)
class Study:
    """A study as files, and where its lesion is.

    Attributes:
        volume: that was written.
        files: by suffix, the bytes of ``.nii``, ``.nii.gz`` and ``.mha``.
        slices: its DICOM files.
        position: ``x y z`` in mm, LPS.
    """

    volume: Volume
    files: dict[str, bytes]
    slices: tuple[bytes, ...]
    position: str

    def parts(self, kind: str) -> list[tuple[str, str, bytes]]:
        """The form of a good request; ``kind`` is a suffix or ``dicom``."""
        position = ("position", "", self.position.encode())
        if kind == "dicom":
            return [position, *(("study", f"IM{i:04d}", data) for i, data in enumerate(self.slices))]
        return [position, ("study", f"study{kind}", self.files[kind])]


def make_study(folder: Path, volume: Volume, position: tuple[float, float, float], number: int) -> Study:
    """Write a volume in every format, and read the bytes back."""
    files = {}
    for suffix in (".nii", ".nii.gz", ".mha"):
        path = folder / f"study{number}{suffix}"
        write_volume(volume, path)
        files[suffix] = path.read_bytes()
    return Study(volume, files, _dicom(volume, number), " ".join(f"{value:.3f}" for value in position))


def form(parts: Parts, *, closed: bool = True) -> bytes:
    """A multipart body of (field, file name or empty, content)."""
    body = io.BytesIO()
    for name, file, content in parts:
        named = f'; filename="{file}"' if file else ""
        body.write(f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode())
        body.write(content + b"\r\n")
    if closed:
        body.write(f"--{_BOUNDARY}--\r\n".encode())
    return body.getvalue()


def _one(file: str, content: bytes) -> Request:
    return Request(form([("study", file, content)]))


def _cut(suffix: str) -> Callable[[Study, np.random.Generator], Request]:
    def make(study: Study, rng: np.random.Generator) -> Request:
        data = study.files[suffix]
        return _one(f"study{suffix}", data[: int(rng.integers(1, len(data)))])

    return make


def _flipped(study: Study, rng: np.random.Generator) -> Request:
    data = bytearray(study.files[".nii.gz"])
    data[int(rng.integers(100, len(data)))] ^= 1 << int(rng.integers(8))
    return _one("study.nii.gz", bytes(data))


def _plane(direction: np.ndarray) -> Callable[[Study, np.random.Generator], Request]:
    def make(study: Study, rng: np.random.Generator) -> Request:
        return _one("study.nii.gz", gzip.compress(_nifti(study.volume.voxels[:8, :64, :64], direction), 1))

    return make


def _nifti(voxels: np.ndarray, direction: np.ndarray) -> bytes:
    """A NIfTI file whose axes point where ``direction`` (LPS) says; voxels (z, y, x)."""
    import nibabel

    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1, -1, 1]) @ direction @ np.diag([0.5, 0.5, 3.0])
    return nibabel.Nifti1Image(np.ascontiguousarray(voxels.T), affine).to_bytes()  # type: ignore[no-any-return]


def _header(study: Study, sizes: tuple[int, int, int], more: int) -> bytes:
    """A NIfTI file that declares other sizes (x, y, z), and ``more`` bytes of zeros."""
    data = bytearray(study.files[".nii"][:352])
    struct.pack_into("<4h", data, 40, 3, *sizes)
    return bytes(data) + bytes(more)


def _declared_bomb(study: Study, rng: np.random.Generator) -> Request:
    return _one(
        "study.nii.gz", gzip.compress(_header(study, (4000, 4000, int(rng.integers(900, 2000))), 30_000_000), 9)
    )


def _endless_bomb(study: Study, rng: np.random.Generator) -> Request:
    tail = int(rng.integers(50, 200)) * gzip.compress(bytes(1_000_000), 9)
    return _one("study.nii.gz", study.files[".nii.gz"] + tail)


def _array(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Study, np.random.Generator], Request]:
    def make(study: Study, rng: np.random.Generator) -> Request:
        voxels = change(study.volume.voxels[:8, :64, :64].astype(np.float32))
        return _one("study.nii.gz", gzip.compress(_nifti(voxels, np.eye(3)), 1))

    return make


def _nan(voxels: np.ndarray) -> np.ndarray:
    voxels[3, 5, 7] = np.nan
    return voxels


def _noise(file: str) -> Callable[[Study, np.random.Generator], Request]:
    return lambda study, rng: _one(file, rng.bytes(int(rng.integers(1, 200_000))))


def _zip(file: str) -> Callable[[Study, np.random.Generator], Request]:
    def make(study: Study, rng: np.random.Generator) -> Request:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("study.nii.gz", study.files[".nii.gz"])
        return _one(file, packed.getvalue())

    return make


def _tar(study: Study, rng: np.random.Generator) -> Request:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("../../study.nii")
        member.size = len(study.files[".nii"])
        archive.addfile(member, io.BytesIO(study.files[".nii"]))
    return _one("study.tar.gz", packed.getvalue())


def _slices(change: Callable[[list[bytes], np.random.Generator], list[bytes]]) -> Callable[..., Request]:
    def make(study: Study, rng: np.random.Generator) -> Request:
        slices = change(list(study.slices), rng)
        return Request(form([("study", f"IM{i:04d}", data) for i, data in enumerate(slices)]))

    return make


def _truncated_slice(slices: list[bytes], rng: np.random.Generator) -> list[bytes]:
    index = int(rng.integers(len(slices)))
    slices[index] = slices[index][: int(rng.integers(200, len(slices[index]) - 1))]
    return slices


def _position(text: str) -> Callable[[Study, np.random.Generator], Request]:
    def make(study: Study, rng: np.random.Generator) -> Request:
        return Request(form([("position", "", text.encode()), ("study", "study.nii.gz", study.files[".nii.gz"])]))

    return make


def _half(*, goes: bool) -> Callable[[Study, np.random.Generator], Request]:
    def make(study: Study, rng: np.random.Generator) -> Request:
        body = form(study.parts(".nii.gz"))
        return Request(body, sent=int(rng.integers(len(body) // 2)), goes=goes)

    return make


def _other_series(slices: list[bytes], rng: np.random.Generator) -> list[bytes]:
    other = _dicom(Volume(np.ones((2, 64, 64), np.int16), Geometry((3.0, 0.5, 0.5), (0, 0, 0))), 77)
    return [*slices, other[0]]


BAD: dict[str, tuple[Callable[[Study, np.random.Generator], Request], frozenset[int]]] = {
    "cut .nii.gz": (_cut(".nii.gz"), frozenset({422})),
    "cut .nii": (_cut(".nii"), frozenset({422})),
    "cut .mha": (_cut(".mha"), frozenset({422})),
    "bit flipped in .nii.gz": (_flipped, frozenset({422})),
    "bomb: huge sizes declared": (_declared_bomb, frozenset({413})),
    "bomb: more than declared": (_endless_bomb, frozenset({422})),
    "huge sizes, no voxels": (lambda s, r: _one("a.nii", _header(s, (30000, 30000, 3000), 0)), frozenset({413})),
    "sagittal": (_plane(_SAGITTAL), frozenset({422})),
    "coronal": (_plane(_CORONAL), frozenset({422})),
    "constant": (_array(np.ones_like), frozenset({422})),
    "not a number": (_array(_nan), frozenset({422})),
    "four axes": (_array(lambda voxels: np.stack([voxels, voxels])), frozenset({422})),
    "noise as .nii.gz": (_noise("study.nii.gz"), frozenset({422})),
    "noise as .mha": (_noise("study.mha"), frozenset({422})),
    "noise as .nrrd": (_noise("study.nrrd"), frozenset({422})),
    "a picture": (lambda s, r: _one("photo.jpg", b"\xff\xd8\xff\xe0" + r.bytes(5000)), frozenset({415})),
    "empty": (lambda s, r: _one("study.nii.gz", b""), frozenset({422})),
    "zip": (_zip("study.zip"), frozenset({415})),
    "zip as .nii.gz": (_zip("study.nii.gz"), frozenset({415})),
    "tar.gz": (_tar, frozenset({415})),
    "gzip as .nii": (lambda s, r: _one("study.nii", s.files[".nii.gz"]), frozenset({415})),
    "two DICOM series": (_slices(_other_series), frozenset({422})),
    "DICOM slice missing": (_slices(lambda slices, r: slices[:3] + slices[4:]), frozenset({422})),
    "DICOM slice cut": (_slices(_truncated_slice), frozenset({422})),
    "DICOM of one slice": (_slices(lambda slices, r: slices[:1]), frozenset({422})),
    "position of words": (_position("left peripheral zone"), frozenset({422})),
    "position outside": (_position("0 0 9000"), frozenset({422})),
    "no study": (lambda s, r: Request(form([("position", "", b"1 2 3")])), frozenset({400})),
    "unknown field": (lambda s, r: Request(form([("name", "", b"x"), *s.parts(".nii.gz")])), frozenset({400})),
    "form not closed": (lambda s, r: Request(form(s.parts(".nii.gz"), closed=False)), frozenset({400})),
    "no form": (lambda s, r: Request(s.files[".nii.gz"], "application/octet-stream"), frozenset({415})),
    "terabyte declared": (lambda s, r: Request(b"", declared=10**12), frozenset({413})),
    "wrong token": (lambda s, r: Request(form(s.parts(".nii.gz")), token=False), frozenset({401})),
    "half, then silence": (_half(goes=False), frozenset({408})),
    "half, then gone": (_half(goes=True), frozenset({0})),
}
"""Name -> how it is made, and the statuses that are right; 0 where nobody waits for one."""


def _dicom(volume: Volume, number: int) -> tuple[bytes, ...]:
    """One MR image object a slice, as scanners write them."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import generate_uid

    direction = np.asarray(volume.geometry.direction, float)
    z, y, x = volume.geometry.spacing_mm_zyx
    series, frame = generate_uid(entropy_srcs=[str(number)]), generate_uid(entropy_srcs=["frame", str(number)])
    written = []
    for index, plane in enumerate(volume.voxels):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = _MR, _EXPLICIT
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(number), str(index)])
        made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        made.SOPClassUID, made.SOPInstanceUID, made.Modality = _MR, meta.MediaStorageSOPInstanceUID, "MR"
        made.PatientName, made.PatientID = "Load^Test", "LOAD-TEST"
        made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = series, series, frame
        made.InstanceNumber, made.SliceThickness = index + 1, f"{z:.9g}"
        made.ImagePositionPatient = [f"{v:.9g}" for v in volume.geometry.index_to_position((index, 0, 0))]
        made.ImageOrientationPatient = [f"{v:.9g}" for v in (*direction[:, 0], *direction[:, 1])]
        made.PixelSpacing = [f"{y:.9g}", f"{x:.9g}"]
        made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
        made.Rows, made.Columns = plane.shape
        made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 0
        made.PixelData = np.ascontiguousarray(plane, dtype="<u2").tobytes()
        stream = io.BytesIO()
        made.save_as(stream, enforce_file_format=True)
        written.append(stream.getvalue())
    return tuple(written)
