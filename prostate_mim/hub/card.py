"""Model cards: what a release is, what made it, under which terms, and what it is not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from prostate_mim.hub.studies import Studies
from prostate_mim.manifest import level_of

_NOT_A_DEVICE = (
    "Research software. **Not a medical device**: not validated, not approved, not to be used for diagnosis or for "
    "any decision about a patient."
)
_ASKED = (
    "Which images it is for is not recorded. Whoever publishes it says here which organ, sequence and scanners, and "
    "how the studies were chosen."
)
_OBJECTIVES = {"mim": "by masked image modelling", "simclr": "contrastively (SimCLR)"}


def make_card(
    config: Mapping[str, Any], *, terms: str | None = None, body: str = "", studies: Studies | None = None
) -> str:
    """A Markdown card from a release's config. It claims nothing of the images: no release knows their organ.

    Args:
        config: as for ``write_release``.
        terms: under which terms the training data may be used; asked for in the card if None.
        body: further sections.
        studies: which studies the weights have seen.
    """
    spec, details = config["spec"], config["details"]
    spacing = " x ".join(f"{v:g}" for v in spec["spacing_mm_zyx"])
    size = " x ".join(str(v) for v in spec["size_zyx"])
    loader = "PreMIM" if config["kind"] == "encoder" else "LesionClassifier"
    lines = [
        f"# {config['name']}",
        "",
        f"{_about(config)} {_ASKED}",
        "",
        "```python",
        f"from prostate_mim import {loader}",
        f'model = {loader}.from_pretrained("<this folder>")',
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| input | {size} voxels of {spacing} mm (z, y, x), axial LPS |",
        f"| intensities | clipped at percentiles {spec['clip_percentiles']}, z-scored over the crop, padded with 0 |",
        f"| stored as | {config['weights_dtype']} |",
        "",
        "## Terms and limits",
        "",
        terms or "The terms of the training data apply to these weights; whoever publishes them must state them here.",
        "",
        _NOT_A_DEVICE,
        "",
        body,
        *([studies.describe()] if studies and studies.known else []),
        "## How it was made",
        "",
        "```json",
        json.dumps(details, indent=2, sort_keys=True),
        "```",
        "",
    ]
    return "\n".join(lines)


def _about(config: Mapping[str, Any]) -> str:
    """What it is, by what its details record."""
    details = config["details"]
    what = f"A 3D CNN {config['kind']}"
    if config["kind"] == "classifier" and "finetuning" in details:
        what += " of whole studies" if level_of(details) == "study" else " of lesions"
    parts = [f"{what} (`{config['architecture']}`)"]
    if training := _pretraining(details.get("training")):
        parts.append(f"its encoder {training}" if config["kind"] == "classifier" else training)
    return ", ".join([*parts, "by prostate-mim."])


def _pretraining(training: object) -> str:
    """``pretrained by masked image modelling on 40 studies``; empty where nothing is recorded."""
    if not isinstance(training, Mapping):
        return ""
    studies = training.get("studies")
    how = _OBJECTIVES.get(str(training.get("objective", "mim")))
    return " ".join(filter(None, ("pretrained", how, f"on {studies:,} studies" if isinstance(studies, int) else "")))
