"""Medical Segmentation Decathlon, Task05_Prostate: 32 training and 16 test studies, T2w and ADC in one 4-D file.

``dataset.json`` names the files and which channel is what. Of each file the channel called T2 is written as a volume
of its own beside the manifest. Labels are zones (1 = peripheral, 2 = transition, as the file states); as a gland mask
whatever is above 0 counts, so that file is named as it is.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from prostate_mim.datasets.found import SECOND_TIME, DataSet, Found, FoundRow, ImportOptions, Skipped
from prostate_mim.datasets.mask_files import DAMAGED, OUTSIDE, counted, look_at_mask
from prostate_mim.errors import ManifestError, NotFoundError, VolumeError
from prostate_mim.files import make_folder
from prostate_mim.volume import write_volume
from prostate_mim.volume.channels import read_channel

_NO_FILE = "in dataset.json, but the file is not there"
_REFUSED = "4-D file damaged, or its T2w channel refused"
_GLAND = "label file damaged, or off its image"
_LONGEST = 1 << 24


@dataclass
class _Gathered:
    """What has been found so far."""

    root: Path
    derived: Path
    channel: int
    rows: dict[str, FoundRow] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


def find(folder: Path, options: ImportOptions) -> Found:
    """Rows of ``Task05_Prostate``, or of a folder that holds it; the T2w channels are written to ``derived``.

    Raises:
        NotFoundError: there is no dataset.json.
        ManifestError: it is not one, or no channel in it is called T2.
    """
    root = next((item for item in (folder, folder / "Task05_Prostate") if (item / "dataset.json").is_file()), None)
    if root is None:
        raise NotFoundError(f"{folder}: no dataset.json in it; give the folder Task05_Prostate")
    content = _read(root / "dataset.json")
    channel = _channel(content, root / "dataset.json")
    gathered = _Gathered(root, options.derived, channel)
    for image, label in _pairs(content, "training", root):
        _add(gathered, image, label, "train")
    for image, _ in _pairs(content, "test", root):
        _add(gathered, image, None, "test")
    zones = content.get("labels")
    named = ", ".join(f"{key} = {value}" for key, value in zones.items()) if isinstance(zones, dict) else "not stated"
    named = " ".join(named.split())[:200]
    return Found(
        rows=tuple(gathered.rows[name] for name in sorted(gathered.rows)),
        skipped=tuple(gathered.skipped),
        label_source="",
        notes=(f"gland_mask holds zones ({named}); above 0 is gland", *counted(gathered.notes)),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LONGEST:
            raise ValueError
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: cannot be read as JSON; unpack the data set again") from error
    if not isinstance(content, dict):
        raise ManifestError(f"{path}: is no dataset.json of the Decathlon; unpack the data set again")
    return content


def _channel(content: dict[str, Any], path: Path) -> int:
    """The channel that is called T2, whatever its number."""
    channels = content.get("modality", content.get("channel_names"))
    for key, name in channels.items() if isinstance(channels, dict) else ():
        if key.isascii() and key.isdigit() and len(key) < 4 and str(name).strip().lower() in ("t2", "t2w"):
            return int(key)
    raise ManifestError(f"{path}: no channel is called T2; is it Task05_Prostate?")


def _pairs(content: dict[str, Any], subset: str, root: Path) -> list[tuple[Path, Path | None]]:
    """The (image, label) files of a list; a test entry is an image's path alone, or an entry without a label."""
    entries = content.get(subset, [])
    if not isinstance(entries, list):
        raise ManifestError(f"{root / 'dataset.json'}: {subset} is no list; unpack the data set again")
    pairs: list[tuple[Path, Path | None]] = []
    for number, entry in enumerate(entries, 1):
        image, label = (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (entry, None)
        paths = [_inside(root, text, subset, number) for text in (image, label) if text is not None]
        if image is None:
            raise ManifestError(f"{root / 'dataset.json'}: entry {number} of {subset} names no image")
        pairs.append((paths[0], paths[1] if label is not None else None))
    return pairs


def _inside(root: Path, text: object, subset: str, number: int) -> Path:
    path = PurePosixPath(text) if isinstance(text, str) else PurePosixPath("/")
    if path.is_absolute() or ".." in path.parts or "\0" in str(path):
        raise ManifestError(f"{root / 'dataset.json'}: entry {number} of {subset} is no path within the data set")
    return root / path


def _add(gathered: _Gathered, image: Path, label: Path | None, subset: str) -> None:
    """Write the T2w channel of one file and add its row, or say why there is none."""
    name = image.name.removesuffix(".gz").removesuffix(".nii")
    if not all(os.path.isfile(path) for path in (image, label) if path is not None):  # never raises for strange names
        gathered.skipped.append(Skipped(name, _NO_FILE))
        return
    if name in gathered.rows:
        gathered.skipped.append(Skipped(name, SECOND_TIME))
        return
    try:
        volume = read_channel(image, gathered.channel)
    except VolumeError:
        gathered.skipped.append(Skipped(name, _REFUSED))
        return
    look = look_at_mask(label, volume)
    if look.state in (DAMAGED, OUTSIDE):
        gathered.skipped.append(Skipped(name, _GLAND))
        return
    if look.path is None:
        gathered.notes[f"no labels ({subset} set)"] += 1
    t2w = make_folder(gathered.derived) / f"{name}_t2w.nii.gz"
    write_volume(volume, t2w)
    gathered.rows[name] = FoundRow(name, name, t2w, gland_mask=look.path, extra={"subset": subset})


DATASET = DataSet(
    name="msd",
    title="Medical Segmentation Decathlon, Task05_Prostate",
    licence="CC BY-SA 4.0",
    citation="Antonelli M, Reinke A, Bakas S, et al. The Medical Segmentation Decathlon. Nat Commun 2022;13:4128",
    url="http://medicaldecathlon.com",
    find=find,
)
