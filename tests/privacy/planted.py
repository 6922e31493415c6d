"""A small cohort whose files, names and manifest are full of identifiers: words that nothing else holds."""

from __future__ import annotations

import csv
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from dicom_series import uid, write_dicom_series

from prostate_mim.volume import Geometry, Volume

NIFTI = {
    "descrip": "Zuckerbrot^Erika",  # name
    "db_name": "born-1947-qx-13",  # date of birth
    "aux_file": "MRN-8840271",  # record number
    "intent_name": "ACC-5519372",  # accession number
    "extension": "Klinikum-Quarzhain",  # institution
}
META = {"Comment": "Brombeertal, Otto", "PatientID": "MRN-7734410", "InstitutionName": "Hospital-Nordkapp"}
DICOM = {
    "PatientName": "Drosselbart^Anna",
    "PatientBirthDate": "19310528",
    "PatientID": "MRN-6620945",
    "AccessionNumber": "ACC-3317788",
    "InstitutionName": "Klinik-Zobelsee",
    "StudyDescription": "Befund-Finkenrode",
}
PRIVATE = "PRIV-4471902"
FILE, FOLDER, SLICE = "Gansmueller_Karl", "Lerchenfeld_Rosa", "Amselgrund"
STUDY, PATIENT = "STUDY-9981276", "PATIENT-2231907"

HEADERS = [text.split("^")[0].split(",")[0] for text in (*NIFTI.values(), *META.values(), *DICOM.values(), PRIVATE)]
PATHS = [FILE, FOLDER, SLICE]
IDS = [STUDY, PATIENT]
EVERYTHING = [*HEADERS, *PATHS, *IDS]

SHAPE = (10, 48, 48)
COLUMNS = ("study_id", "patient_id", "t2w", "lesion_id", "label", "position_mm_lps", "gland_mask", "fold")
Row = dict[str, str]


@dataclass(frozen=True)
class Planted:
    """What was written.

    Attributes:
        folder: holds nothing else; its own path is no secret.
        lesions: manifest of eight readable studies: NIfTI, MetaImage and DICOM.
        studies: the same without lesions.
        bad: ``lesions``, and after it rows whose files are damaged in ways of their own.
    """

    folder: Path
    lesions: Path
    studies: Path
    bad: Path

    @property
    def rows(self) -> list[Row]:
        """Of ``lesions``."""
        with self.lesions.open(newline="") as stream:
            return list(csv.DictReader(stream))


def plant(folder: Path) -> Planted:
    """Write the cohort."""
    place = folder / FOLDER
    place.mkdir(parents=True)
    rows = [_write_row(place, number) for number in range(8)]
    bad = [*rows, *({**_row(place, 90 + number, path)} for number, path in enumerate(_damaged(place, rows)))]
    planted = Planted(folder, folder / "lesions.csv", folder / "studies.csv", folder / "bad.csv")
    write_manifest(planted.lesions, rows)
    write_manifest(planted.studies, [{**row, "lesion_id": "", "label": "", "position_mm_lps": ""} for row in rows])
    write_manifest(planted.bad, bad)
    return planted


def write_manifest(path: Path, rows: list[Row]) -> Path:
    """A CSV with every column of ``COLUMNS``."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def plant_odd_manifests(planted: Planted) -> dict[str, Path]:
    """Manifests that are refused as a whole, by what is wrong with them."""
    rows, folder = planted.rows, planted.folder
    named = {
        "twice": [*rows, rows[0]],
        "label": [{**rows[0], "label": f"{PATIENT}-0"}, {**rows[1], "label": HEADERS[0]}],
        "missing": [*rows, {**rows[0], "study_id": f"{STUDY}-77", "t2w": f"{FOLDER}/{FILE}-missing.nii.gz"}],
        "folds": [{**rows[0], "fold": "0"}, {**rows[1], "patient_id": rows[0]["patient_id"], "fold": "1"}],
    }
    paths = {name: write_manifest(folder / f"odd-{name}.csv", some) for name, some in named.items()}
    paths["headless"] = folder / "odd-headless.csv"
    paths["headless"].write_text("".join(planted.lesions.read_text().splitlines(keepends=True)[1:]))
    return paths


def _row(place: Path, number: int, path: Path) -> Row:
    return {
        "study_id": f"{STUDY}-{number}", "patient_id": f"{PATIENT}-{number}", "lesion_id": "1",
        "label": str(number % 2), "t2w": path.relative_to(place.parent).as_posix(), "position_mm_lps": "1 2 15",
    }  # fmt: skip


def _write_row(place: Path, number: int) -> Row:
    """Two in four as NIfTI (with a mask), one as MetaImage, one as DICOM."""
    volume = _volume(number)
    stem = f"{FILE}-{number}"
    if number % 4 == 2:
        return _row(place, number, write_meta(volume, place / f"{stem}.mha"))
    if number % 4 == 3:
        return _row(place, number, write_dicom(volume, place / stem))
    gland = Volume((volume.voxels > 420).astype("i2"), volume.geometry)
    row = _row(place, number, write_nifti(volume, place / f"{stem}.nii.gz"))
    mask = write_nifti(gland, place / f"{stem}-gland.nii.gz")
    return {**row, "gland_mask": mask.relative_to(place.parent).as_posix()}


def _volume(seed: int) -> Volume:
    """A bright gland on a darker ground, with noise: int16."""
    z, y, x = (np.arange(size) - size / 2 for size in SHAPE)
    inside = (z[:, None, None] / 4) ** 2 + (y[:, None] / 14) ** 2 + (x / 16) ** 2 < 1
    noise = np.random.default_rng(seed).normal(0, 30, SHAPE)
    voxels = np.clip(np.where(inside, 600, 250) + noise, 0, 1000).astype("i2")
    return Volume(voxels, Geometry((3.0, 0.5, 0.5), (-11.0, -10.0, 0.0)))


def write_nifti(volume: Volume, path: Path) -> Path:
    """With five identifiers in its header and behind it; nibabel's writer is not ours."""
    affine = np.diag([-0.5, -0.5, 3.0, 1.0])
    affine[:3, 3] = np.array([-1, -1, 1]) * volume.geometry.origin_mm_lps
    image = nibabel.Nifti1Image(volume.voxels.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    for name in ("descrip", "db_name", "aux_file", "intent_name"):
        image.header[name] = NIFTI[name].encode()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", NIFTI["extension"].encode()))
    nibabel.save(image, path)
    return path


def write_meta(volume: Volume, path: Path) -> Path:
    """With keys that only a person reads."""
    packed = zlib.compress(volume.voxels.tobytes())
    fields = {
        "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
        "CompressedData": "True", "CompressedDataSize": str(len(packed)), "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": " ".join(map(str, volume.geometry.origin_mm_lps)), "ElementSpacing": "0.5 0.5 3", **META,
        "DimSize": " ".join(map(str, volume.voxels.shape[::-1])), "ElementType": "MET_SHORT",
        "ElementDataFile": "LOCAL",
    }  # fmt: skip
    path.write_bytes("".join(f"{key} = {value}\n" for key, value in fields.items()).encode() + packed)
    return path


def write_dicom(volume: Volume, folder: Path) -> Path:
    """A series with six identifiers, one more in a private tag, and names that speak."""
    for path in write_dicom_series(folder, volume, study=uid(folder.name), tags=DICOM):
        dataset = pydicom.dcmread(path)
        dataset.private_block(0x0099, "PLANTED", create=True).add_new(0x01, "LO", PRIVATE)
        dataset.save_as(path)
        path.rename(path.with_name(f"{SLICE}-{path.name}"))
    return folder


def _damaged(place: Path, rows: list[Row]) -> list[Path]:
    """Files that are refused: cut short, not finite, constant, another stack, a missing slice, a foreign file ..."""
    nifti, meta = (place.parent / rows[index]["t2w"] for index in (0, 2))
    made = [place / f"{FILE}-cut.nii.gz", place / f"{FILE}-cut.mha", place / f"{FILE}-nothing.nrrd"]
    made[0].write_bytes(nifti.read_bytes()[:-2000])
    made[1].write_bytes(meta.read_bytes()[:-2000])
    made[2].write_bytes(b"NRRD0004\n# " + NIFTI["descrip"].encode() + b"\n")
    volume = _volume(7)
    constant = Volume(np.full(SHAPE, 3, "i2"), volume.geometry)
    made.append(write_nifti(constant, place / f"{FILE}-constant.nii.gz"))
    endless = Volume(np.where(volume.voxels > 600, np.nan, volume.voxels).astype("f4"), volume.geometry)
    made.append(write_nifti(endless, place / f"{FILE}-nan.nii.gz"))
    for name in ("gap", "cut", "mixed", "foreign"):
        made.append(write_dicom(volume, place / f"{FILE}-{name}"))
    slices = {path.name: sorted(path.iterdir()) for path in made[-4:]}
    slices[f"{FILE}-gap"][4].unlink()
    cut = slices[f"{FILE}-cut"][4]
    cut.write_bytes(cut.read_bytes()[:-500])
    other = pydicom.dcmread(slices[f"{FILE}-mixed"][4])
    other.PixelSpacing = [0.7, 0.7]
    other.save_as(slices[f"{FILE}-mixed"][4])
    slices[f"{FILE}-foreign"][4].write_bytes(NIFTI["descrip"].encode() * 100)
    made.append(place / f"{FILE}-sagittal.mha")
    made[-1].write_bytes(meta.read_bytes().replace(b"1 0 0 0 1 0 0 0 1", b"0 1 0 0 0 1 1 0 0"))
    made.append(place / f"{FILE}-elsewhere.mhd")
    head = meta.read_bytes().split(b"LOCAL")[0].replace(b"CompressedData = True", b"CompressedData = False")
    made[-1].write_bytes(
        b"\n".join(line for line in head.split(b"\n") if b"DataSize" not in line) + b"Amselgrund.raw\n"
    )
    return made
