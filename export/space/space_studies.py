"""What can be shown: a list of synthetic studies, and uploaded files, which are removed as soon as they are read."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np

from prostate_mim.errors import NotFoundError, ProstateMimError, ResourceError, UsageError, VolumeError
from prostate_mim.files import sha256_of
from prostate_mim.phantom import PhantomStudy, make_study
from prostate_mim.volume import Volume, read_volume

Point = tuple[float, float, float]
SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd")
MOST_MB, MOST_VOXELS = 100, 2**24  # a packed file says little of what it unpacks to; 640 x 640 x 40 voxels are allowed
SEED = 20261205  # of the list; the demonstration classifier learns from another
ELSEWHERE = ""
PHANTOMS = {
    "1: cancer-like, peripheral zone": (0, "1"),
    "2: cancer-like, transition zone": (3, "1"),
    "3: small cancer-like, peripheral zone": (16, "1"),
    "4: benign mimic, transition zone": (1, "1"),
    "5: benign mimic, peripheral zone": (6, "1"),
    "6: no lesion at the marked place": (8, ELSEWHERE),
    "7: no lesion at the marked place": (11, ELSEWHERE),
}
"""What the list offers -> index of the study under ``SEED``, and which of its lesions is marked."""
FIRST = next(iter(PHANTOMS))


@dataclass(frozen=True, eq=False)
class Shown:
    """A study to look at.

    Attributes:
        volume: the T2w series; its source is a plain word, never a path.
        position_mm_lps: (x, y, z) that the fields begin with.
        title: heading; never a path or an identifier.
        words: what a person should know of the marked place.
    """

    volume: Volume
    position_mm_lps: Point
    title: str
    words: str


def make_phantom(name: str) -> Shown:
    """A synthetic study of the list.

    Raises:
        UsageError: the list has no such name.
    """
    if name not in PHANTOMS:
        raise UsageError(f"phantom {name[:80]!r} is not in the list; choose one of its {len(PHANTOMS)}")
    index, number = PHANTOMS[name]
    study = make_study(SEED, index)
    position = (
        far_from_lesions(study) if number == ELSEWHERE else
        next(lesion.position_mm_lps for lesion in study.lesions if lesion.lesion_id == number)
    )  # fmt: skip
    number, _, kind = name.partition(": ")
    volume = Volume(study.volume.voxels, study.volume.geometry, "study")
    return Shown(volume, rounded(position), f"phantom {number}", f"Synthetic. Marked: {kind}.")


def far_from_lesions(study: PhantomStudy) -> Point:
    """(x, y, z) in mm of the middle of the widest ball of gland without a lesion."""
    from scipy.ndimage import distance_transform_edt, find_objects

    (box,) = find_objects(study.gland.voxels)
    free = study.gland.voxels[box] > 0
    for lesion in study.lesions:
        free &= lesion.mask.voxels[box] == 0
    away = distance_transform_edt(np.pad(free, 1), sampling=study.gland.geometry.spacing_mm_zyx)
    place = np.unravel_index(int(np.argmax(away)), away.shape)
    index = [at - 1 + part.start for at, part in zip(place, box, strict=True)]
    x, y, z = (float(v) for v in study.gland.geometry.index_to_position(np.asarray(index, float)))
    return x, y, z


def read_upload(path: Path) -> Shown:
    """Read an uploaded study, and remove the file, whatever comes of it.

    Args:
        path: in a folder of its own, below the server's folder for temporary files.

    Raises:
        VolumeError, NotFoundError, ResourceError: in one line that names neither path nor file.
    """
    suffix = next((one for one in SUFFIXES if path.name.lower().endswith(one)), None)
    neutral = path.with_name(f"upload{suffix}")
    try:
        if suffix is None:
            raise VolumeError(f"upload: its name must end in {', '.join(SUFFIXES)}; convert the series to one of them")
        path.rename(neutral)  # messages name the file, and its name may be a patient's
        if neutral.stat().st_size > MOST_MB * 1_000_000:
            raise VolumeError(f"upload: has more than {MOST_MB} MB; crop the volume first")
        # With a checksum the reader takes no voxels from another file, which a header could name.
        volume = read_volume(neutral, sha256=sha256_of(neutral), max_voxels=MOST_VOXELS)
    except ProstateMimError as error:
        raise type(error)(str(error).replace(str(neutral), "upload")) from None
    except FileNotFoundError:
        raise NotFoundError("upload: the file is gone before it was read; upload it again") from None
    except OSError as error:
        raise ResourceError(f"upload: cannot be read ({error.strerror}); upload it again") from None
    finally:
        with suppress(OSError):
            neutral.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            path.parent.rmdir()
    x, y, z = (float(v) for v in volume.centre_mm_lps)
    words = "The marked place is only the middle of the image: set it to the lesion, by the fields or the viewer."
    return Shown(Volume(volume.voxels, volume.geometry, "upload"), rounded((x, y, z)), "uploaded study", words)


def rounded(position: Point) -> Point:
    """To 0.1 mm, as the fields show it."""
    x, y, z = (round(v, 1) for v in position)
    return x, y, z


def place_of(values: tuple[float | None, float | None, float | None]) -> Point:
    """Three fields as a position.

    Raises:
        UsageError: one is empty, or not a finite number.
    """
    x, y, z = values
    if not (_number(x) and _number(y) and _number(z)):
        raise UsageError("position: fill in all three of x, y and z, in mm, LPS")
    return float(x), float(y), float(z)


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
