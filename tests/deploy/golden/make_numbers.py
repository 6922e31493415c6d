"""The numbers that the bundled encoder and a classifier on it give for five phantoms: ``make_numbers.py`` writes them.

Stage means, 16 sampled features of each of the three coarsest stages, and the probability of a head with written-down
weights. A change of a library's version that moves them is to be seen, and said under *Numerics* in the changelog.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from prostate_mim.classifier import LesionClassifier
from prostate_mim.encoder import PreMIM
from prostate_mim.phantom import make_study

PLACE = Path(__file__).with_name("numbers.json")
SEED, STUDIES, SAMPLED, STAGES = 77, 5, 16, 3


def bundled_classifier() -> LesionClassifier:
    """The bundled encoder with a head whose weights are a formula."""
    model = LesionClassifier(PreMIM.from_pretrained("resenc-s.mim-t2w"))
    with torch.no_grad():
        count = model.head.linear.weight.numel()
        model.head.linear.weight.copy_(0.1 * torch.sin(torch.arange(count, dtype=torch.float64)).float()[None])
        model.head.linear.bias.fill_(0.25)
    return model.eval()


@torch.inference_mode()
def numbers(model: LesionClassifier) -> list[dict[str, object]]:
    """One record a phantom."""
    found = []
    for index in range(STUDIES):
        study = make_study(SEED, index)
        position = study.lesions[0].position_mm_lps
        crop = model.prepare(study.volume, position)
        stages = model.encoder(crop)[-STAGES:]
        picked = [np.linspace(0, stage.numel() - 1, SAMPLED).round().astype(int) for stage in stages]
        found.append({
            "crop": [round(float(v), 6) for v in crop.flatten()[:: crop.numel() // SAMPLED][:SAMPLED]],
            "means": [float(stage.mean()) for stage in stages],
            "sampled": [stage.flatten()[where].tolist() for stage, where in zip(stages, picked, strict=True)],
            "probability": model.predict(study.volume, position).probability,
        })  # fmt: skip
    return found


if __name__ == "__main__":
    PLACE.write_text(json.dumps(numbers(bundled_classifier()), indent=1) + "\n")
