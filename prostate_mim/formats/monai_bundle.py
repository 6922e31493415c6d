"""An encoder as a MONAI bundle: `monai.bundle.run` gives one embedding per study, the same that ``PreMIM.embed`` gives.

The bundle's configs name the classes below, so prostate-mim has to be installed where a bundle is run. That is the
price of one preprocessing: a bundle that rebuilt it from MONAI's transforms would feed the network other voxels.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from prostate_mim.encoder import PreMIM, golden_input
from prostate_mim.errors import NotFoundError, UsageError, VerificationError
from prostate_mim.files import atomic_path, make_folder, whole_folder, write_bytes, write_text
from prostate_mim.formats.monai_bundle_text import TERMS, inference, licence, metadata, readme
from prostate_mim.hub.weights import load_strictly, read_tensors, stored
from prostate_mim.nets import build_encoder
from prostate_mim.nets.pooling import CentrePool
from prostate_mim.preprocess import prepare_input
from prostate_mim.spec import InputSpec
from prostate_mim.volume import read_volume

METADATA = "configs/metadata.json"
INFERENCE = "configs/inference.json"
WEIGHTS = "models/model.safetensors"
README = "docs/README.md"
LICENCE = "LICENSE"
TOLERANCE = 1e-5

_VOLUMES = (".nii", ".nii.gz", ".mha")
_DTYPE = "float32"


class BundleEncoder(nn.Module):
    """The bundle's network: an encoder that gives one embedding, not a list of stages.

    Args:
        architecture: a key of ``prostate_mim.nets.ARCHITECTURES``.
        in_channels: C of the input.
        spacing_mm_zyx: voxel size of the input; the embedding is weighted by a Gaussian in mm.

    Raises:
        NotFoundError: unknown architecture.
    """

    def __init__(
        self, architecture: str, in_channels: int = 1, spacing_mm_zyx: Sequence[float] = (3.0, 0.5, 0.5)
    ) -> None:
        super().__init__()
        z, y, x = spacing_mm_zyx
        self.encoder = build_encoder(architecture, in_channels)
        self.pool = CentrePool(self.encoder.stage_info, (z, y, x))

    def stages(self, voxels: Tensor) -> list[Tensor]:
        """(N, ``in_channels``, D, H, W) -> one (N, C, d, h, w) per resolution, coarse last."""
        features: list[Tensor] = self.encoder(voxels)
        return features

    def forward(self, voxels: Tensor) -> Tensor:
        """(N, ``in_channels``, D, H, W) -> (N, C) embedding of what lies in the middle; see ``CentrePool``."""
        vector: Tensor = self.pool(self.stages(voxels))
        return vector


def load_network(network: BundleEncoder, bundle_root: str, device: str | torch.device = "cpu") -> BundleEncoder:
    """Fill a bundle's network from ``models/model.safetensors``, strictly; in evaluation mode, on the device.

    Raises:
        NotFoundError: no such file, most often because ``bundle_root`` is not the bundle's folder.
        IntegrityError: not a readable safetensors file, or not of this architecture.
    """
    path = Path(bundle_root) / WEIGHTS
    if not path.is_file():
        raise NotFoundError(f"{path}: no weights there; give bundle_root=FOLDER, the folder of the bundle")
    load_strictly(network, read_tensors(path), _DTYPE, str(path))
    return network.to(device).eval()


def find_studies(source: str | Path | Sequence[str | Path]) -> list[dict[str, str]]:
    """What a bundle runs on: ``{"image": path, "study": name}`` for each volume, the name being that of its output.

    Args:
        source: a folder, of which every ``.nii``, ``.nii.gz`` and ``.mha`` is taken, by name; or a file, or a list of
            them.

    Raises:
        NotFoundError: no such folder, or no volume in it.
        UsageError: two volumes would give an output of the same name.
    """
    if isinstance(source, str | Path) and Path(source).is_file():
        paths = [Path(source)]
    elif isinstance(source, str | Path):
        inside = sorted(Path(source).iterdir()) if Path(source).is_dir() else []
        paths = [path for path in inside if path.name.lower().endswith(_VOLUMES) and not path.name.startswith(".")]
    else:
        paths = [Path(path) for path in source]
    if not paths:
        raise NotFoundError(f"{source}: no {', '.join(_VOLUMES)} there; give dataset_dir=FOLDER or a list of files")
    names = [_study(path) for path in paths]
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        clash = " and ".join(str(path) for path, own in zip(paths, names, strict=True) if own == name)
        raise UsageError(f"{clash}: outputs are named after volumes, and these would both be {name}.npy; rename one")
    return [{"image": str(path), "study": name} for path, name in zip(paths, names, strict=True)]


def _study(path: Path) -> str:
    for ending in sorted(_VOLUMES, key=len, reverse=True):
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.stem


class PrepareStudy:
    """The bundle's transform: a file's path -> the network's input, by the preprocessing of pretraining.

    Args:
        spec: the input contract, as ``InputSpec.to_dict`` gives it.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = InputSpec.from_dict(dict(spec))

    def __call__(self, item: Mapping[str, str]) -> dict[str, Any]:
        """``find_studies``' item -> the same with ``image`` (C, D, H, W) float32, z-scored.

        Raises:
            NotFoundError, VolumeError: as ``read_volume`` and ``prepare_input``.
        """
        return {**item, "image": torch.from_numpy(prepare_input(read_volume(item["image"]), self.spec))}


class EmbedStudies:
    """The bundle's evaluator: one ``<study>.npy`` of (C,) float32 for each item of the data set.

    Args:
        dataset: items with ``image`` (C, D, H, W) and ``study``, as ``PrepareStudy`` gives them.
        network: as ``load_network`` returns it.
        inferer: called with a batch and the network, as MONAI's inferers are.
        output_dir: made if need be.
        device: where the network is.
    """

    def __init__(
        self,
        dataset: Sequence[Mapping[str, Any]],
        network: nn.Module,
        inferer: Callable[[Tensor, nn.Module], Tensor],
        output_dir: str,
        device: str | torch.device = "cpu",
    ) -> None:
        self.dataset, self.network, self.inferer = dataset, network, inferer
        self.output_dir, self.device = output_dir, device

    def run(self) -> list[str]:
        """Embed every study, in order; returns the paths written.

        Raises:
            UsageError: the output folder cannot be written.
            ResourceError: the disk is full.
        """
        folder = make_folder(self.output_dir)
        written = []
        for number in range(len(self.dataset)):
            item = self.dataset[number]
            with torch.inference_mode():
                vector = self.inferer(item["image"][None].to(self.device), self.network)[0]
            path = folder / f"{item['study']}.npy"
            with atomic_path(path) as temporary:
                np.save(temporary, vector.float().cpu().numpy())
            written.append(str(path))
        return written


def write_bundle(encoder: PreMIM, folder: str | Path, *, terms: str = TERMS) -> Path:
    """Write a MONAI bundle: configs, weights as safetensors, README, LICENSE; all of it or nothing.

    ``monai.bundle.run`` with ``configs/inference.json`` then writes one embedding per study of a folder. The network
    as the configs make it is loaded back and compared with the encoder before the folder appears.

    Args:
        encoder: any PreMIM whose only input is the image.
        folder: must not exist yet, or be empty.
        terms: under which the weights may be used, in Markdown; a pointer to the model card by default.

    Returns:
        The folder.

    Raises:
        UsageError: the encoder needs masks, or the folder holds something already or cannot be written.
        VerificationError: the bundle does not reproduce the encoder; nothing is written.
        ResourceError: the disk is full; nothing is left behind.
    """
    if encoder.spec.masks or encoder.encoder.in_channels != 1:
        raise UsageError(
            f"{encoder.name} takes {encoder.encoder.in_channels} channels ({', '.join(encoder.spec.channels)} by its "
            "spec), and a bundle reads T2w volumes alone; export an encoder of the image only"
        )
    with whole_folder(folder) as temporary:
        for name in (METADATA, WEIGHTS, README):
            make_folder((temporary / name).parent)
        config = inference(encoder)
        write_bytes(temporary / WEIGHTS, save(_weights(encoder)))
        write_text(temporary / METADATA, json.dumps(metadata(encoder), indent=2) + "\n")
        write_text(temporary / INFERENCE, json.dumps(config, indent=2) + "\n")
        write_text(temporary / README, readme(encoder, terms))
        write_text(temporary / LICENCE, licence(encoder, terms))
        _verify(temporary, config, encoder, Path(folder))
    return Path(folder)


def _weights(encoder: PreMIM) -> dict[str, Tensor]:
    return {f"encoder.{key}": value for key, value in stored(encoder.encoder, _DTYPE).items()}


def _verify(folder: Path, config: Mapping[str, Any], encoder: PreMIM, final: Path) -> None:
    """Load the written weights into the network that the config describes, and compare embeddings."""
    described = {key: value for key, value in config["network_def"].items() if key != "_target_"}
    network = load_network(BundleEncoder(**described), str(folder))
    reference = copy.deepcopy(encoder).cpu().float().eval()
    sample = golden_input(reference.encoder.total_stride_zyx, reference.encoder.in_channels)
    with torch.inference_mode():
        expected, found = reference.pool(reference(sample)), network(sample)
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE:  # so that a NaN is refused too
        raise VerificationError(
            f"{final}: the bundle's network differs from {encoder.name} by {difference:.2e} (allowed {TOLERANCE:g}); "
            "nothing was written, report it with the architecture"
        )
