"""The three pictures of a card, all of phantoms: what goes in, what is reconstructed, what a head looks at."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

from prostate_mim.classifier import LesionClassifier
from prostate_mim.encoder import PreMIM
from prostate_mim.files import write_bytes
from prostate_mim.finetuning import FinetuneConfig, finetune
from prostate_mim.phantom import make_study, write_cohort
from prostate_mim.pictures import reconstruction_png
from prostate_mim.preprocess import Crop, prepare_crop
from prostate_mim.reconstruction import load_mim, reconstruct
from prostate_mim.saliency import crop_saliency, saliency_png
from prostate_mim.spec import InputSpec

SEED = 20261129
FITTED, SHOWN = 80, 4  # phantoms of the head, and those that are looked at
STAGE = 2  # the coarsest one's cells of 12 x 8 x 8 mm are as large as a lesion
_GAP = 6


def draw(release: Path, folder: Path, work: Path) -> None:
    """input.png, reconstruction.png and saliency.png."""
    mim = load_mim(release)
    study = make_study(SEED + 1, 3)
    crop = prepare_crop(study.volume, mim.spec, study.lesions[0].position_mm_lps)
    write_bytes(folder / "input.png", input_png(crop, mim.spec))
    hidden, filled = reconstruct(mim, crop, SEED)
    write_bytes(folder / "reconstruction.png", reconstruction_png(crop.voxels, hidden, filled))
    write_bytes(folder / "saliency.png", lesions_png(release, work))


def input_png(crop: Crop, spec: InputSpec) -> bytes:
    """Three planes through the middle of a crop, in mm, and the distribution of its intensities."""
    z, y, x = spec.size_mm_zyx
    middle = [n // 2 for n in crop.voxels.shape]
    planes = (
        ("axial", crop.voxels[middle[0]], (0, x, y, 0), "x: to the Left, mm", "y: to Posterior, mm"),
        ("coronal", crop.voxels[::-1, middle[1]], (0, x, 0, z), "x, mm", "z: to Superior, mm"),
        ("sagittal", crop.voxels[::-1, :, middle[2]], (0, y, 0, z), "y, mm", "z, mm"),
    )
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots(1, 4)
    for axis, (title, values, extent, across, along) in zip(axes, planes, strict=False):
        axis.imshow(values, cmap="gray", vmin=-2.5, vmax=2.5, extent=extent, interpolation="nearest")
        axis.set_title(title)
        axis.set_xlabel(across)
        axis.set_ylabel(along)
    axes[3].hist(crop.voxels[crop.inside], bins=60, color="0.4")
    axes[3].set_title("intensities")
    axes[3].set_xlabel("z-score")
    axes[3].set_yticks([])
    return png(figure)


def lesions_png(release: Path, work: Path) -> bytes:
    """HiResCAM of a linear head on the frozen encoder, on significant lesions of other phantoms, side by side."""
    model = head_on(release, work)
    shown: list[npt.NDArray[np.uint8]] = []
    index = 0
    while len(shown) < SHOWN:
        study = make_study(SEED + 3, index)
        index += 1
        for lesion in study.lesions[:1]:
            if lesion.label == 1:
                batch = model.prepare(study.volume, lesion.position_mm_lps)
                found = crop_saliency(model, batch, method="hirescam", stage=STAGE)
                _, y, x = model.spec.spacing_mm_zyx
                picture = saliency_png(batch[0, 0].numpy(), found, pixels=220, spacing_mm_yx=(y, x))
                shown.append(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")))
    gap = np.full((shown[0].shape[0], _GAP, 3), 255, np.uint8)
    rows = [np.concatenate([one, gap, other], 1) for one, other in zip(shown[::2], shown[1::2], strict=True)]
    between = np.full((_GAP, rows[0].shape[1], 3), 255, np.uint8)
    stream = io.BytesIO()
    Image.fromarray(np.concatenate([rows[0], between, rows[1]])).save(stream, format="png")
    return stream.getvalue()


def head_on(release: Path, work: Path) -> LesionClassifier:
    """A linear head, fitted to phantoms."""
    data = work / "saliency-phantoms"
    if not (data / "manifest.csv").exists():
        write_cohort(data, FITTED, SEED + 2)
    model = LesionClassifier(PreMIM.from_pretrained(release))
    out = work / model.encoder.name / f"saliency-{model.encoder.revision}"
    if not (out / "release").exists():
        finetune(model, data / "manifest.csv", out, FinetuneConfig(), store=work / "store", resume=out.exists())
    return LesionClassifier.from_pretrained(out)


def png(figure: Figure) -> bytes:
    """A figure's bytes, the same for the same figure."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()
