"""The whole main path on embedded data, in a few minutes, ending in one HTML page."""

from __future__ import annotations

import dataclasses
import html
from pathlib import Path

import torch

from prostate_mim._version import __version__
from prostate_mim.classifier import LesionClassifier
from prostate_mim.deploy.session import OnnxClassifier
from prostate_mim.encoder import PreMIM
from prostate_mim.engine.seeding import derive_seed
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.engine.tracker import progress_bar
from prostate_mim.errors import UsageError, VerificationError
from prostate_mim.files import make_folder, write_text
from prostate_mim.finetuning import FinetuneConfig, FinetuneRun, finetune
from prostate_mim.health.page import inline
from prostate_mim.hub import BUNDLED_DEFAULT
from prostate_mim.manifest import read_manifest
from prostate_mim.phantom import write_cohort
from prostate_mim.pictures import reconstruction_png, roc_png
from prostate_mim.preprocess import prepare_crop
from prostate_mim.reconstruction import load_mim, reconstruct
from prostate_mim.studies import open_all

SIZE_ZYX = (8, 48, 48)
CONFIG = FinetuneConfig(mode="full", folds=3, epochs=2, loop=LoopConfig(batch=8, learning_rate=2e-4, warmup=10))
ONNX_TOLERANCE = 1e-5
_CHECKED = 5


@dataclasses.dataclass(frozen=True)
class _Arm:
    title: str
    run: FinetuneRun


def run_demo(out: str | Path, studies: int = 200, seed: int = 0) -> dict[str, str | float | None]:
    """Phantoms -> bundled encoder -> classifier, beside the same network from scratch -> ONNX -> report.

    Args:
        out: folder; must be empty or absent.
        studies: phantom studies.
        seed: of phantoms, folds and training.

    Returns:
        AUROCs, the difference between ONNX and torch, and the path of the page.

    Raises:
        UsageError: ``out`` holds something already.
        VerificationError: ONNX and torch disagree.
    """
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder}: already exists and is not empty; remove it or choose another --out")
    make_folder(folder)
    manifest = _make_phantoms(folder / "phantoms", studies, seed)
    arms = [
        _train(PreMIM.from_pretrained(BUNDLED_DEFAULT), "pretrained", manifest, folder / "pretrained", seed),
        _train(_from_scratch(seed), "from scratch", manifest, folder / "scratch", seed),
    ]
    difference = _compare_onnx(arms[0].run.release, manifest, folder / "classifier.onnx")
    page = _write_report(folder, arms, manifest, difference, studies, seed)
    return {
        "pretrained_auroc": arms[0].run.pooled.value,
        "scratch_auroc": arms[1].run.pooled.value,
        "onnx_difference": difference,
        "report": str(page),
    }


def _make_phantoms(folder: Path, studies: int, seed: int) -> Path:
    with progress_bar() as bar:
        task = bar.add_task("making phantoms", total=studies)
        return write_cohort(folder, studies, seed, progress=lambda done, total: bar.update(task, completed=done))


def _from_scratch(seed: int) -> PreMIM:
    torch.manual_seed(derive_seed(seed, "scratch"))
    return PreMIM("resenc-s", PreMIM.from_pretrained(BUNDLED_DEFAULT).spec)


def _train(encoder: PreMIM, title: str, manifest: Path, folder: Path, seed: int) -> _Arm:
    config = dataclasses.replace(CONFIG, loop=dataclasses.replace(CONFIG.loop, seed=seed))
    model = LesionClassifier(encoder, encoder.spec.with_size(SIZE_ZYX))
    return _Arm(title, finetune(model, manifest, folder, config))


def _compare_onnx(release: Path, manifest: Path, path: Path) -> float:
    """Export, then read the first lesions' files again through both; largest difference of probability."""
    model = LesionClassifier.from_pretrained(release)
    deployed = OnnxClassifier(model.export_onnx(path), device="cpu")
    differences = []
    for study, _ in zip(open_all(read_manifest(manifest)), range(_CHECKED), strict=False):
        torch_made = model.predict(study.volume, study.centre_mm_lps).probability
        onnx_made = deployed.predict(study.volume, study.centre_mm_lps).probability
        differences.append(abs(torch_made - onnx_made))
    worst = max(differences)
    if not worst <= ONNX_TOLERANCE:
        raise VerificationError(f"{path}: ONNX differs from torch by {worst:.1e}, allowed {ONNX_TOLERANCE:g}")
    return worst


def _write_report(folder: Path, arms: list[_Arm], manifest: Path, difference: float, studies: int, seed: int) -> Path:
    curves = {f"{arm.title}: {arm.run.pooled}": (arm.run.labels, arm.run.probabilities) for arm in arms}
    roc = roc_png(curves, title="lesion classification, out of fold")
    mim = load_mim(BUNDLED_DEFAULT)
    study = next(open_all(read_manifest(manifest)))
    crop = prepare_crop(study.volume, mim.spec, study.centre_mm_lps)
    hidden, filled = reconstruct(mim, crop, seed)
    picture = reconstruction_png(crop.voxels, hidden, filled)
    rows = "".join(
        f"<tr><td>{html.escape(arm.title)}</td><td>{arm.run.pooled}</td>"
        f"<td>{', '.join(str(fold) for fold in arm.run.folds)}</td></tr>"
        for arm in arms
    )
    first = arms[0].run.pooled
    page = folder / "report.html"
    write_text(
        page,
        _PAGE.format(
            rows=rows, roc=inline(roc, "png"), picture=inline(picture, "png"), difference=f"{difference:.1e}",
            studies=studies, lesions=first.lesions, patients=first.patients, positives=first.positives, seed=seed,
            version=__version__, epochs=CONFIG.epochs, folds=CONFIG.folds,
        ),
    )  # fmt: skip
    return page


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>prostate-mim demo</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: .3rem .8rem; border-bottom: 1px solid #ccc; text-align: left; }}
img {{ max-width: 100%; }} .note {{ color: #666; }} h1 {{ margin-bottom: 0; }}
</style></head><body>
<h1>prostate-mim demo</h1>
<p class="note">version {version}, seed {seed}. Synthetic studies only. Research software, not a medical device.</p>
<p>{studies} phantom studies, {lesions} lesions of {patients} patients, {positives} of them cancer-like. The same
network was fine-tuned ({epochs} epochs, {folds} patient-grouped folds) from the bundled weights and from scratch. With
this few lesions the intervals are wide: a difference between the rows is an illustration, not evidence.</p>
<table><tr><th>start</th><th>AUROC, all folds [95 % over patients]</th><th>each fold</th></tr>{rows}</table>
<p><img alt="ROC curves of both models" src="{roc}"></p>
<h2>What pretraining learned</h2>
<p>Blocks of 12 x 8 x 8 mm are hidden (blue) and reconstructed from what is left. Each block's mean and contrast are
taken from the study; the network predicts its shape.</p>
<p><img alt="A phantom, its visible blocks, and the reconstruction" src="{picture}"></p>
<h2>Deployment</h2>
<p>The pretrained classifier was exported to <code>classifier.onnx</code> and run from the same files by ONNX Runtime:
largest difference of probability to torch <strong>{difference}</strong>.</p>
</body></html>
"""
