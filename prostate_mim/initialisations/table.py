"""INITIALISATIONS, and initialise(), the one way to make any of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prostate_mim.encoder import PreMIM
from prostate_mim.errors import NotFoundError, UsageError
from prostate_mim.hub.card import make_card
from prostate_mim.initialisations import makers
from prostate_mim.initialisations.request import SECTION, Request
from prostate_mim.nets import ARCHITECTURES, unknown_architecture
from prostate_mim.nets.inflation import LAYOUTS
from prostate_mim.spec import InputSpec

Need = Literal["nothing", "package", "file", "release"]


@dataclass(frozen=True)
class Initialisation:
    """One way to begin.

    Attributes:
        name: as commands and studies call it.
        what: one line.
        needs: ``nothing``; ``package``, whose file is read (or ``source`` instead); ``file``, the user's, as
            ``source``; or ``release``, its name or folder as ``source``.
        architectures: those it exists for; empty means all.
        licence: of the weights.
        cite: whom to cite; empty where there is nobody.
        make: request -> model.
    """

    name: str
    what: str
    needs: Need
    architectures: tuple[str, ...]
    licence: str
    cite: str
    make: Callable[[Request], PreMIM]


_IMAGENET_LICENCE = "Apache-2.0 (the package's weights); ImageNet's photographs are for non-commercial research"
_IMAGENET = "Deng et al. 2009 (ImageNet, CVPR), and the network's authors"
_RESNETS = tuple(f"{prefix}resnet{depth}" for prefix in ("medicalnet-", "") for depth in (10, 18, 34, 50))

INITIALISATIONS: dict[str, Initialisation] = {
    "random": Initialisation(
        "random", "untrained weights, the same for the same seed", "nothing", (), "none: no data is in them", "",
        makers.random_weights,
    ),
    "imagenet": Initialisation(
        "imagenet", "2D ImageNet weights spread over the slices of each kernel", "package", tuple(LAYOUTS),
        _IMAGENET_LICENCE, f"{_IMAGENET}; Carreira and Zisserman 2017 (inflation, CVPR)", makers.photographs_spread,
    ),
    "imagenet-centre": Initialisation(
        "imagenet-centre", "2D ImageNet weights in the middle slice of each kernel: slice by slice the 2D network",
        "package", tuple(LAYOUTS), _IMAGENET_LICENCE, _IMAGENET, makers.photographs_by_slice,
    ),
    "medicalnet": Initialisation(
        "medicalnet", "3D ResNets trained to segment 23 data sets of CT and MRI (or fewer, as the file says)", "file",
        _RESNETS, "MIT (the MedicalNet project)", "Chen, Ma and Zheng 2019 (Med3D, arXiv 1904.00625)",
        makers.medical_volumes,
    ),
    "release": Initialisation(
        "release", "the weights of a release of this package: a bundled name, a folder, or org/name@revision",
        "release", (), "the release's own", "see the release's card", makers.other_release,
    ),
}  # fmt: skip


def initialise(
    name: str,
    architecture: str,
    *,
    seed: int = 0,
    source: str | Path | None = None,
    spec: InputSpec | None = None,
    sha256: str | None = None,
) -> PreMIM:
    """An encoder that begins as ``name`` says, in evaluation mode on the CPU.

    ``details["initialisation"]`` of the result, and so of its release, says which initialisation, from which file (by
    its SHA-256, not its path), under which licence, and whom to cite.

    Args:
        name: key of ``INITIALISATIONS``.
        architecture: key of ``nets.ARCHITECTURES``.
        seed: of random weights; the others do not depend on it.
        source: the weights file (``.safetensors`` or ``.pth``), or the release.
        spec: the input contract; for a release its own if None, else the default one. Channels beside T2w begin with
            zero weights.
        sha256: what the file must be, 64 hex digits; the package's file is compared with the published one anyway.

    Raises:
        NotFoundError: unknown name or architecture, or the package or file is not there (says how to get it).
        UsageError: the initialisation does not exist for the architecture, or a source is missing or too much.
        IntegrityError: the file is damaged, of another SHA-256, or holds another network.
    """
    if name not in INITIALISATIONS:
        raise NotFoundError(f"initialisation {name!r} is unknown; choose one of {', '.join(INITIALISATIONS)}")
    if architecture not in ARCHITECTURES:
        raise NotFoundError(unknown_architecture(architecture))
    chosen = INITIALISATIONS[name]
    if chosen.architectures and architecture not in chosen.architectures:
        raise UsageError(
            f"{name} does not exist for {architecture}; there are weights for {', '.join(chosen.architectures)}"
        )
    if chosen.needs == "nothing" and (source is not None or sha256 is not None):
        raise UsageError(f"{name} takes no file; leave --source and --sha256 out")
    model = chosen.make(Request(name, architecture, seed, source, spec, sha256))
    said = {"name": name, "what": chosen.what, "licence": chosen.licence}
    cite = {"cite": chosen.cite} if chosen.cite else {}
    model.details[SECTION] = {**said, **cite, **model.details[SECTION]}
    return model


def release_card(model: PreMIM) -> str:
    """The model card of an initialised encoder: its licence and citation in words, beside what every card says."""
    said = model.details[SECTION]
    config = {
        "kind": "encoder", "name": model.name, "architecture": model.architecture, "spec": model.spec.to_dict(),
        "weights_dtype": "float32", "details": model.details,
    }  # fmt: skip
    lines = ["## Where its weights are from", "", f"Initialisation `{said['name']}`: {said['what']}.", ""]
    if "source_sha256" in said:
        lines += [f"File: {said['source']}, SHA-256 `{said['source_sha256']}`.", ""]
    if "cite" in said:
        lines += [f"Cite: {said['cite']}.", ""]
    terms = f"Licence of the weights: {said['licence']}."
    return make_card(config, terms=terms, body="\n".join([*lines, ""]), studies=model.studies)
