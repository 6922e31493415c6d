"""What a MONAI bundle says of itself: its two configs, its README and its LICENSE."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import monai
import numpy as np
import torch

from prostate_mim._version import __version__
from prostate_mim.encoder import PreMIM
from prostate_mim.hub.registry import UNSTATED, terms_of

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
TERMS = (
    "The terms of the data that these weights were trained on apply to them; the model card of the release that this "
    "bundle was made from states them. Read it before you use or pass on this bundle."
)
_NOT_A_DEVICE = (
    "For research only. Not a medical device: not validated, not approved, not to be used for diagnosis or for any "
    "decision about a patient."
)
_IMAGES = "axial T2w prostate MRI"
_NOT_RECORDED = " Which images it is for is not recorded; the model card of its release may say it."
_HERE = "prostate_mim.formats.monai_bundle"
_README = """\
# {name}

A 3D CNN encoder{images} (`{architecture}`, revision `{revision}`), as a MONAI bundle. For each study
it gives an embedding of {size} numbers: of what lies in the middle of a crop of {crop} voxels of {spacing} mm (z, y, x)
around the image centre.{not_recorded}

## Use

The configs name classes of prostate-mim {version}, which has to be installed beside MONAI: preprocessing is the one of
pretraining.

```python
from monai.bundle import run

run(
    config_file="<this folder>/configs/inference.json",
    bundle_root="<this folder>",
    dataset_dir="<folder with .nii, .nii.gz or .mha>",  # or a list of files
    output_dir="<folder>",  # one <study>.npy each; else eval/ in the bundle
    device="cpu",  # or "cuda"
)
```

`python -m monai.bundle run` takes the same as `--config_file` and so on, and needs the package `fire`. MONAI runs what
a bundle's configs say: only run bundles from those whom you trust. The weights are safetensors and hold no code.

## Limits

{not_a_device}

A volume that is not axial, not plausible or damaged is refused, not repaired. The embedding means nothing by itself; a
classifier has to be trained on it, and validated where it is to be used.

## Terms

{terms}
"""
_LICENCE = """\
{name}, revision {revision}

{not_a_device}

{terms}

The licence of the program that wrote this bundle (prostate-mim, Apache-2.0) is not that of the weights.
"""


def inference(encoder: PreMIM) -> dict[str, Any]:
    """``configs/inference.json``: everything MONAI asks of an inference workflow, with two expressions to evaluate."""
    return {
        "bundle_root": ".",
        "dataset_dir": "./data",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "cpu",
        "network_def": {
            "_target_": f"{_HERE}.BundleEncoder",
            "architecture": encoder.architecture,
            "in_channels": encoder.encoder.in_channels,
            "spacing_mm_zyx": list(encoder.spec.spacing_mm_zyx),
        },
        "network": {
            "_target_": f"{_HERE}.load_network",
            "network": "@network_def",
            "bundle_root": "@bundle_root",
            "device": "@device",
        },
        "preprocessing": {"_target_": f"{_HERE}.PrepareStudy", "spec": encoder.spec.to_dict()},
        "dataset": {
            "_target_": "monai.data.Dataset",
            "data": {"_target_": f"{_HERE}.find_studies", "source": "@dataset_dir"},
            "transform": "@preprocessing",
        },
        "inferer": {"_target_": "monai.inferers.SimpleInferer"},
        "evaluator": {
            "_target_": f"{_HERE}.EmbedStudies",
            "dataset": "@dataset",
            "network": "@network",
            "inferer": "@inferer",
            "output_dir": "@output_dir",
            "device": "@device",
        },
        "run": ["$@evaluator.run()"],
    }


def _is_published(encoder: PreMIM) -> bool:
    """Whether its images are known: those of published weights are; other encoders may be of any organ."""
    return terms_of(encoder.name, encoder.weights_sha256(), "encoder")[0] != UNSTATED


def metadata(encoder: PreMIM) -> dict[str, Any]:
    """``configs/metadata.json``, as MONAI's schema of 25 July 2024 asks for it."""
    published = _is_published(encoder)
    volume = "T2w volume of the prostate" if published else "volume"
    return {
        "schema": SCHEMA,
        "version": __version__,
        "changelog": {__version__: f"{encoder.name}, revision {encoder.revision}, by prostate-mim {__version__}"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {
            "prostate-mim": __version__,
            "nibabel": version("nibabel"),
            "safetensors": version("safetensors"),
        },
        "name": encoder.name,
        "task": f"Embedding of {_IMAGES if published else 'volumes'}",
        "description": (
            f"A 3D CNN encoder ({encoder.architecture}) that gives a vector for what lies in the middle of a crop of a "
            f"{volume}, to train a classifier on."
        ),
        "authors": "see the model card of the release",
        "copyright": "see LICENSE",
        "data_type": "NIfTI or MetaImage",
        "intended_use": _NOT_A_DEVICE,
        "references": [],
        "network_data_format": {
            "inputs": {"image": _image(encoder, published)},
            "outputs": {"pred": _embedding(encoder)},
        },
        "prostate_mim": {
            "architecture": encoder.architecture,
            "revision": encoder.revision,
            "spec": encoder.spec.to_dict(),
        },
    }


def _image(encoder: PreMIM, published: bool) -> dict[str, Any]:
    what = "axial T2w" if published else "axial"
    return {
        "type": "image",
        "format": "magnitude",
        "modality": "MR",
        "num_channels": encoder.encoder.in_channels,
        "spatial_shape": list(encoder.spec.size_zyx),
        "dtype": "float32",
        "value_range": [],  # z-scored
        "is_patch_data": True,
        "channel_def": {"0": f"{what}, z-scored over the crop, 0 where nothing was measured"},
    }


def _embedding(encoder: PreMIM) -> dict[str, Any]:
    return {
        "type": "tuples",
        "format": "latent",
        "modality": "n/a",
        "num_channels": encoder.embedding_size,
        "spatial_shape": [],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": {},
    }


def readme(encoder: PreMIM, terms: str) -> str:
    """``docs/README.md``: what it is, how to run it, its limits and terms."""
    published = _is_published(encoder)
    return _README.format(
        name=encoder.name,
        images=f" for {_IMAGES}" if published else "",
        not_recorded="" if published else _NOT_RECORDED,
        architecture=encoder.architecture,
        revision=encoder.revision,
        size=encoder.embedding_size,
        crop=" x ".join(str(voxels) for voxels in encoder.spec.size_zyx),
        spacing=" x ".join(f"{mm:g}" for mm in encoder.spec.spacing_mm_zyx),
        version=__version__,
        not_a_device=_NOT_A_DEVICE,
        terms=terms,
    )


def licence(encoder: PreMIM, terms: str) -> str:
    """``LICENSE``: where the terms of the weights are stated, and that they are not those of the code."""
    return _LICENCE.format(name=encoder.name, revision=encoder.revision, not_a_device=_NOT_A_DEVICE, terms=terms)
