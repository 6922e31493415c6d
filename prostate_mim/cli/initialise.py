"""The command init: an encoder before any training, as a release folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prostate_mim.cli import options as o
from prostate_mim.console import numbers, show, waiting, whole_numbers
from prostate_mim.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from prostate_mim.encoder import PreMIM
    from prostate_mim.spec import InputSpec

_CALIBRATION_CROPS = 8  # a batch; as many as pretraining takes by default


def init(
    name: Annotated[str | None, typer.Argument(help="random, imagenet, ...; see --list.")] = None,
    architecture: Annotated[str | None, typer.Option(help="Encoder, e.g. effnet-lite0.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Release folder to write.")] = None,
    source: Annotated[str | None, typer.Option(help="The weights file, or the release to begin from.")] = None,
    sha256: Annotated[str | None, typer.Option(help="What the file must be, 64 hex digits.")] = None,
    seed: o.Seed = 0,
    size: Annotated[str | None, o.option(help="Crop, voxels, 'z y x'.", default="16 96 96")] = None,
    spacing: Annotated[str | None, o.option(help="Voxel, mm, 'z y x'.", default="3.0 0.5 0.5")] = None,
    norms: Annotated[
        Path | None,
        typer.Option("--norms", help="CSV of unlabelled training studies: batch norm statistics are set to theirs."),
    ] = None,
    release_name: Annotated[str | None, typer.Option("--name", help="Name of the release.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show every initialisation and end.")] = False,
    as_json: o.Json = False,
) -> None:
    """Write an untrained encoder: random, or with weights of photographs, other volumes or another release."""
    if listed:
        _list(as_json)
        return
    if name is None or architecture is None or out is None:
        raise UsageError("give NAME, --architecture and --out; --list shows what there is")
    from prostate_mim.initialisations import initialise, release_card

    model = initialise(
        name, architecture, seed=seed, source=source, sha256=sha256, spec=_spec(size, spacing, name, source)
    )
    if release_name is not None:
        model.name = release_name
    if norms is not None:
        with waiting("reading crops for batch norm statistics"):
            _calibrate(model, norms)
    folder = model.save_pretrained(out, card=release_card(model))
    show({"release": str(folder), "name": model.name, "details": model.details}, as_json)


def _list(as_json: bool) -> None:
    from prostate_mim.initialisations import INITIALISATIONS

    rows = [
        {
            "name": one.name, "what": one.what, "needs": one.needs,
            "architectures": list(one.architectures) or ["all"], "licence": one.licence, "cite": one.cite,
        }
        for one in INITIALISATIONS.values()
    ]  # fmt: skip
    if as_json:
        show(rows, True)
        return
    for row in rows:
        architectures = ", ".join(row["architectures"])
        typer.echo(f"{row['name']}: {row['what']}\n    needs {row['needs']}; architectures: {architectures}")
        typer.echo(f"    licence: {row['licence']}" + (f"\n    cite: {row['cite']}" if row["cite"] else ""))


def _spec(size: str | None, spacing: str | None, name: str, source: str | None) -> InputSpec | None:
    """What the options say of the input, over the release's spec or the default one; None if they say nothing."""
    import dataclasses

    from prostate_mim.hub import open_release
    from prostate_mim.spec import InputSpec

    if size is None and spacing is None:
        return None
    spec = open_release(source, kind="encoder").spec if name == "release" and source else InputSpec()
    if spacing is not None:
        spec = dataclasses.replace(spec, spacing_mm_zyx=numbers(spacing, "--spacing"))
    return spec.with_size(whole_numbers(size, "--size")) if size is not None else spec


def _calibrate(model: PreMIM, manifest: Path) -> None:
    """Batch norm statistics of one crop a row, in the manifest's order; the release says how many and of whom."""
    from prostate_mim.hub.studies import Studies, study_key
    from prostate_mim.initialisations import calibrate_norms
    from prostate_mim.leaks import StudyHashes

    seen: list[str] = []
    if not calibrate_norms(model, _crops(model, manifest, seen)):
        raise UsageError(f"{model.architecture} has no batch norm; leave --norms out")
    model.details["norms"] = {"crops": len(seen), "batch": _CALIBRATION_CROPS}
    before = model.studies.pretraining
    if before is None and model.details["initialisation"]["name"] in ("medicalnet", "release"):
        return  # what else the weights have seen is not known, so a list of these alone would be wrong
    key = study_key(model.encoder.state_dict())
    hashes = before.extended(seen) if before and before.digests else StudyHashes.make(seen, key)
    model.studies = Studies(hashes, model.studies.fine_tuning)


def _crops(model: PreMIM, manifest: Path, seen: list[str]) -> Iterator[Tensor]:
    """(N, C, D, H, W) each; a last batch of one crop is left out. Voxel hashes of the used studies go into ``seen``."""
    import torch

    from prostate_mim.manifest import read_manifest
    from prostate_mim.studies import open_all
    from prostate_mim.volume.voxel_hash import voxel_hash

    crops: list[Tensor] = []
    hashes: list[str] = []
    for study in open_all(read_manifest(manifest)):
        crops.append(model.prepare(study.volume, study.centre_mm_lps, study.masks))
        hashes.append(voxel_hash(study.volume))
        if len(crops) == _CALIBRATION_CROPS:
            seen += hashes
            yield torch.cat(crops)
            crops, hashes = [], []
    if len(crops) > 1:
        seen += hashes
        yield torch.cat(crops)
