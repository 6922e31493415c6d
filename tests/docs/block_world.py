"""What the reader of a page has before its first command: phantom studies under the very names that pages use."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prostate_mim.phantom import PhantomStudy
    from prostate_mim.volume import Volume

Point = tuple[float, float, float]
PATHS = ("t2w", "gland_mask", "lesion_mask", "zone_mask")
_NUMBER = r"-?\d+\.\d+"
_PLACE = re.compile(rf"[\"(]({_NUMBER})[ ,]+({_NUMBER})[ ,]+({_NUMBER})[\")]")
_SCRIPT = """
from huggingface_hub import snapshot_download
from prostate_mim import PreMIM

print(PreMIM.from_pretrained(snapshot_download("prostate-mim/resenc-s.mim-t2w")).name)
"""


def first_place(text: str) -> Point | None:
    """The first position (x, y, z) in mm that a page names, in either spelling."""
    found = _PLACE.search(text)
    return (float(found[1]), float(found[2]), float(found[3])) if found else None


def read_rows(manifest: Path) -> list[dict[str, str]]:
    """Rows with absolute paths."""
    with manifest.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return [row | {name: str(manifest.parent / row[name]) for name in PATHS if row.get(name)} for row in rows]


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """A manifest."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


class World:
    """Made once a session, each part when a page first asks for it.

    Attributes:
        folder: where it lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def labelled(self) -> Path:
        """Manifest of eight phantoms' lesions."""
        from prostate_mim.phantom import write_cohort

        return write_cohort(self.folder / "labelled", 8, seed=901)

    @cached_property
    def others(self) -> Path:
        """Manifest of four other phantoms."""
        from prostate_mim.phantom import write_cohort

        return write_cohort(self.folder / "others", 4, seed=902)

    @cached_property
    def phantom(self) -> PhantomStudy:
        """One more, whose lesion pages point at."""
        from prostate_mim.phantom import make_study

        return make_study(903, 0)

    @cached_property
    def encoder(self) -> Path:
        """A release with random weights, a small crop, and a network that is exported quickly."""
        import torch

        from prostate_mim.encoder import PreMIM
        from prostate_mim.spec import InputSpec

        torch.manual_seed(0)
        model = PreMIM("resnet10", InputSpec(size_zyx=(8, 32, 32)), name="resnet10.mim")
        return model.eval().save_pretrained(self.folder / "encoder")

    @cached_property
    def classifier(self) -> Path:
        """A release on that encoder; its head is random too, so that maps are not empty."""
        import torch

        from prostate_mim.classifier import LesionClassifier
        from prostate_mim.encoder import PreMIM

        torch.manual_seed(1)
        model = LesionClassifier(PreMIM.from_pretrained(self.encoder))
        with torch.no_grad():
            model.head.linear.weight.normal_(std=0.05)
        return model.eval().save_pretrained(self.folder / "classifier")

    @cached_property
    def exported(self) -> Path:
        """The classifier's file."""
        from prostate_mim.classifier import LesionClassifier

        return LesionClassifier.from_pretrained(self.classifier).export_onnx(self.folder / "classifier.onnx")

    @cached_property
    def picai(self) -> Path:
        """A folder with PI-CAI's images and labels, of phantoms."""
        from picai_tree import write_picai_tree

        write_picai_tree(self.folder / "picai")
        shared = self.folder / "picai/picai_labels/additional_resources/ProstateX-mapping.json"
        shared.parent.mkdir()
        shared.write_text(json.dumps({"ProstateX-0000_07-07-2011": "11373_1001396"}))
        return self.folder / "picai"

    def moved(self, volume: Volume, place: Point | None) -> Volume:
        """A volume of the phantom, put where the phantom's first lesion lies at a place."""
        from prostate_mim.volume import Volume

        lesion = self.phantom.lesions[0].position_mm_lps
        shift = [0.0] * 3 if place is None else [a - b for a, b in zip(place, lesion, strict=True)]
        x, y, z = (float(a + b) for a, b in zip(volume.geometry.origin_mm_lps, shift, strict=True))
        return Volume(volume.voxels, replace(volume.geometry, origin_mm_lps=(x, y, z)))


# ------------------------------------------------------------------------------------- makers: (world, target, place)
Maker = Callable[[World, Path, Point | None], None]


def _study(world: World, target: Path, place: Point | None) -> None:
    from prostate_mim.volume import write_volume

    write_volume(world.moved(world.phantom.volume, place), target)


def _lesion(world: World, target: Path, place: Point | None) -> None:
    from prostate_mim.volume import write_volume

    write_volume(world.moved(world.phantom.lesions[0].mask, place), target)


def _series(world: World, target: Path, place: Point | None) -> None:
    from dicom_series import uid, write_dicom_series

    write_dicom_series(target, world.moved(world.phantom.volume, place), tags={"FrameOfReferenceUID": uid("frame")})


def _lesions(world: World, target: Path, place: Point | None) -> None:
    """A row a lesion, with a grade."""
    rows = read_rows(world.labelled)
    grade = {"0": ("0", "1"), "1": ("2", "4")}
    write_rows(target, [row | {"isup": grade[row["label"]][at % 2]} for at, row in enumerate(rows)])


def _studies(world: World, target: Path, place: Point | None) -> None:
    """A row a study, with a label; a patient keeps it."""
    rows = read_rows(world.labelled.parent / "studies.csv")
    patients = list(dict.fromkeys(row["patient_id"] for row in rows))
    write_rows(target, [row | {"label": str(patients.index(row["patient_id"]) % 2)} for row in rows])


def _others(world: World, target: Path, place: Point | None) -> None:
    write_rows(target, read_rows(world.others.parent / "studies.csv"))


def _crops(world: World, target: Path, place: Point | None) -> None:
    """Single slices through the phantoms, 48 x 48 mm, each of a patient of its own."""
    import numpy as np

    from prostate_mim.volume import read_volume

    rows = []
    for number, row in enumerate(read_rows(world.labelled)):
        volume = read_volume(row["t2w"])
        index = volume.geometry.position_to_index([float(value) for value in row["position_mm_lps"].split()])
        z, y, x = (round(float(value)) for value in index)
        crop = volume.voxels[z : z + 1, y - 48 : y + 48, x - 48 : x + 48]
        np.save(target.parent / f"crop-{number}.npy", crop)
        spacing = " ".join(f"{value:g}" for value in volume.geometry.spacing_mm_zyx)
        rows.append({
            "study_id": f"s{number}", "patient_id": f"p{number}", "t2w": f"crop-{number}.npy", "lesion_id": "1",
            "label": str(number % 2), "is_crop": "1", "spacing_mm_zyx": spacing,
        })  # fmt: skip
    write_rows(target, rows)


def _cohort(manifest: str) -> Maker:
    def link(world: World, target: Path, place: Point | None) -> None:
        target.parent.symlink_to(getattr(world, manifest).parent, target_is_directory=True)

    return link


def _run(release: str) -> Maker:
    """A run folder, which stands for the release inside it; hard links, as nothing is ever written in place."""

    def copy(world: World, target: Path, place: Point | None) -> None:
        shutil.copytree(getattr(world, release), target / "release", copy_function=os.link)

    return copy


def _onnx(world: World, target: Path, place: Point | None) -> None:
    os.link(world.exported, target)


def _picai(part: str) -> Maker:
    def link(world: World, target: Path, place: Point | None) -> None:
        target.symlink_to(world.picai / part, target_is_directory=True)

    return link


def _medicalnet(world: World, target: Path, place: Point | None) -> None:
    """A file as MedicalNet's, with random weights: wrapped and prefixed."""
    import torch

    from prostate_mim.nets import build_encoder

    torch.manual_seed(3)
    state = build_encoder("resnet10").state_dict()
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 90}, target)


def _script(world: World, target: Path, place: Point | None) -> None:
    target.write_text(_SCRIPT, encoding="utf-8")


GIVEN: dict[str, Maker] = {
    "study.nii.gz": _study,
    "study.mha": _study,
    "lesion.nii.gz": _lesion,
    "SERIES_FOLDER": _series,
    "lesions/manifest.csv": _cohort("labelled"),
    "data/studies.csv": _cohort("others"),
    "lesions.csv": _lesions,
    "manifest.csv": _lesions,
    "test.csv": _lesions,
    "studies.csv": _studies,
    "train.csv": _others,
    "training.csv": _others,
    "unlabelled.csv": _others,
    "crops.csv": _crops,
    "runs/a": _run("classifier"),
    "runs/lesions": _run("classifier"),
    "lesions.onnx": _onnx,
    "classifier.onnx": _onnx,
    "IMAGES": _picai("images"),
    "picai_labels": _picai("picai_labels"),
    "resnet_10.pth": _medicalnet,
    "my_script.py": _script,
}
"""Name on a page -> who makes it. A page gets what it names and has not made itself."""
