"""Score the bundled encoder on held-out real volumes, write its card, and put it into the package.

    python hub_cards/publish_bundled.py --data ../shared/data --work DIR --hours 1.2 --hardware "2 CPU cores"

DIR is ``make_bundled.py``'s. Nothing here chooses anything by the held-out volumes: they are scored once, at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import statistics
from pathlib import Path

import numpy as np

from prostate_mim.encoder import PreMIM
from prostate_mim.hub.card import make_card
from prostate_mim.hub.resolve import BUNDLED
from prostate_mim.manifest import read_manifest
from prostate_mim.phantom import make_study
from prostate_mim.pictures import reconstruction_png
from prostate_mim.preprocess import Crop, prepare_crop
from prostate_mim.reconstruction import MimRelease, ReconstructionError, load_mim, reconstruct, score_reconstruction
from prostate_mim.studies import Study, open_all

NAME = "resenc-s.mim-t2w"
HERE = Path(__file__).parent
SEED = 20261123
# Five crops a volume: its centre, and 15 mm to each side in-plane; two sets of hidden blocks for each.
OFFSETS_MM = ((0, 0), (15, 0), (-15, 0), (0, 15), (0, -15))

TERMS = """The weights are **for research only**: they were trained on PROMISE12 volumes, whose challenge terms allow
research use (cite Litjens et al., Med Image Anal 2014, doi:10.1016/j.media.2013.12.002); on PROSTATEx volumes (CC BY
3.0; cite Litjens et al., The Cancer Imaging Archive 2017, doi:10.7937/K9TCIA.2017.MURS5CL); on one Prostate158 study
(cite Adams et al., Comput Biol Med 2022, doi:10.1016/j.compbiomed.2022.105817); and on synthetic phantoms. Crops were
centred on gland masks of PROMISE12 and of PI-CAI (CC BY-NC 4.0, Saha et al., doi:10.5281/zenodo.6624726), which the
weights therefore owe to as well. The code is Apache-2.0; these terms are the weights'."""


def crops_of(study: Study, mim: MimRelease) -> list[Crop]:
    """The five crops of one volume."""
    x, y, z = study.centre_mm_lps
    return [prepare_crop(study.volume, mim.spec, (x + dx, y + dy, z)) for dx, dy in OFFSETS_MM]


def score(mim: MimRelease, manifest: Path) -> dict[str, list[ReconstructionError]]:
    """One error per volume, by data set (the study id up to its first dash)."""
    found: dict[str, list[ReconstructionError]] = {}
    for study in open_all(read_manifest(manifest)):
        crops = [crop for crop in crops_of(study, mim) for _ in range(2)]
        found.setdefault(study.row.study_id.split("-")[0], []).append(score_reconstruction(mim, crops, SEED))
    return found


def table(held_out: dict[str, list[ReconstructionError]]) -> str:
    """Markdown: mean over volumes, and the range of the network's."""
    fields = [field.name for field in dataclasses.fields(ReconstructionError) if field.name != "blocks"]
    lines = [
        "| held-out volumes | network (range) | (a) block mean | (b) interpolation | (b') with the true mean |",
        "|---|---|---|---|---|",
    ]
    everything = [error for errors in held_out.values() for error in errors]
    for name, errors in [*held_out.items(), ("all", everything)]:
        means = [statistics.mean(getattr(error, field) for error in errors) for field in fields]
        network = [error.model for error in errors]
        cells = [f"{means[0]:.3f} ({min(network):.3f} to {max(network):.3f})", *(f"{mean:.3f}" for mean in means[1:])]
        lines.append(f"| {name}, {len(errors)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def body(work: Path, errors: str, hours: float, hardware: str) -> str:
    """The card's own sections."""
    metrics = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text().splitlines()]
    last = statistics.mean(line["loss"] for line in metrics[-100:])
    counts = {part: sum(1 for _ in (work / part).open()) - 1 for part in ("real/pretrain.csv", "phantoms/studies.csv")}
    crops = len(metrics) * 12
    return f"""## What it saw

{counts["real/pretrain.csv"]} real T2w volumes (34 PROMISE12, 9 PROSTATEx series of 8 patients, 1 Prostate158) and
{counts["phantoms/studies.csv"]} phantoms; {crops:,} random crops in {len(metrics)} steps of 12; {hours:.1f} hours on
{hardware}, bfloat16.
The last 100 steps had a mean training loss of {last:.3f}. That is very little data and very little training: expect a
first version, not a foundation model. PROMISE12 as used here is in-plane 2x downsampled and has no spacing; values
were **assumed** per centre (`tests/real/make_manifests.py`). The phantoms came from the generator as it was before its
two lesion classes were drawn further apart, so `hub_cards/make_bundled.py` run today trains on slightly other ones.

Never seen: the volumes and patients listed in `hub_cards/heldout.json` (6 PROMISE12 cases, PROSTATEx 0002 and 0009, and
31 patients of the lesion crops). PROSTATEx patients are also PI-CAI patients: do not call a test on either external.

## How well it reconstructs

Mean squared error on hidden voxels in units of each block's variance, on held-out real volumes; 60 % of blocks of
12 x 8 x 8 mm hidden, 5 crops and 2 draws of hidden blocks a volume, seed {SEED}, by `hub_cards/publish_bundled.py`.

{errors}

(a) knows every hidden block's true mean; (b) is linear interpolation along three axes from visible voxels; (b') is (b)
moved to the true mean of each block, the one thing the network's target spares it.

![A phantom, its visible blocks, and the reconstruction](reconstruction.png)

The picture shows a phantom. Nothing is claimed here about lesion classification on patients: that study is not done.
`prostate-mim demo` compares these weights with training from scratch on phantoms, with intervals.
"""


def picture(mim: MimRelease) -> bytes:
    """The README's picture: a phantom that was not trained on."""
    study = make_study(SEED + 1, 3)
    crop = prepare_crop(study.volume, mim.spec, study.lesions[0].position_mm_lps)
    hidden, filled = reconstruct(mim, crop, SEED)
    return reconstruction_png(crop.voxels, hidden, filled)


def publish(work: Path, errors: str, hours: float, hardware: str) -> None:
    """float16 release with the card into prostate_mim/weights, card and picture into hub_cards."""
    source = load_mim(work / "run")
    model = PreMIM.from_pretrained(work / "run")
    config = {
        "kind": "encoder", "name": NAME, "architecture": model.architecture, "spec": model.spec.to_dict(),
        "weights_dtype": "float16", "details": model.details,
    }  # fmt: skip
    card = make_card(config, terms=TERMS, body=body(work, errors, hours, hardware), studies=model.studies)
    card = card.replace('"<this folder>"', f'"{NAME}"')
    shutil.rmtree(BUNDLED / NAME, ignore_errors=True)
    model.save_pretrained(BUNDLED / NAME, name=NAME, card=card, dtype="float16", decoder=source.model.decoder)
    folder = HERE / NAME
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_text(card)
    (folder / "reconstruction.png").write_bytes(picture(load_mim(NAME)))


def main() -> None:
    """Score the float16 weights that will be shipped, then publish them with the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--hours", type=float, required=True)
    parser.add_argument("--hardware", required=True)
    arguments = parser.parse_args()
    publish(arguments.work, "(scoring)", arguments.hours, arguments.hardware)
    errors = score(load_mim(NAME), arguments.work / "real" / "pretrain_heldout.csv")
    text = table(errors)
    publish(arguments.work, text, arguments.hours, arguments.hardware)
    values = {name: [dataclasses.asdict(error) for error in each] for name, each in errors.items()}
    (HERE / NAME / "heldout_errors.json").write_text(json.dumps(values, indent=1) + "\n")
    network = float(np.mean([error.model for each in errors.values() for error in each]))
    print(text, f"\nnetwork {network:.3f}")


if __name__ == "__main__":
    main()
