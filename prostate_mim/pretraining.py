"""pretrain: manifest -> masked image modelling -> release folder."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prostate_mim.encoder import PreMIM
from prostate_mim.engine.augment import Augmentation
from prostate_mim.engine.data import DrawDataset, Region, make_regions
from prostate_mim.engine.loop import Batch, LoopConfig, pick_device, train
from prostate_mim.engine.seeding import derive_seed, torch_generator
from prostate_mim.engine.tracker import progress_bar
from prostate_mim.errors import UsageError
from prostate_mim.files import make_folder
from prostate_mim.manifest import Manifest, read_manifest
from prostate_mim.mim import METHODS, BlockGrid, MaskedImageModel, Method, MimBatch, MimOutput, hide
from prostate_mim.nets import build_encoder
from prostate_mim.spec import InputSpec
from prostate_mim.studies import open_all

# A region is this much larger than the crop, so that random crops see more than the middle of the gland.
_MARGIN_ZYX = (8, 96, 96)


@dataclass(frozen=True)
class PretrainConfig:
    """What ``pretrain`` does.

    Attributes:
        architecture: key of ``nets.ARCHITECTURES``.
        spec: the input contract; its size is the training crop.
        block_mm_zyx: size of a hidden block in mm, rounded to the encoder's stride; ``inf`` is the whole crop.
        method: what is hidden, how the encoder is kept from it, and what is reconstructed.
        name: of the release.
        loop: how long and how fast.
    """

    architecture: str = "resenc-s"
    spec: InputSpec = field(default_factory=InputSpec)
    block_mm_zyx: tuple[float, float, float] = (12.0, 8.0, 8.0)
    method: Method = METHODS["fcmae"]
    name: str = "resenc-s.mim"
    loop: LoopConfig = field(default_factory=LoopConfig)


def pretrain(
    manifest: str | Path, out: str | Path, config: PretrainConfig | None = None, *, resume: bool = False
) -> Path:
    """Pretrain an encoder by masked image modelling.

    Args:
        manifest: CSV of studies.
        out: run folder: ``metrics.jsonl``, ``tensorboard/``, checkpoints, and ``release/`` at the end.
        config: defaults if None.
        resume: go on from the newest checkpoint in ``out``.

    Returns:
        The release folder.

    Raises:
        ManifestError, VolumeError, NotFoundError: the data; found before training begins.
        UsageError: the configuration, no row has the masks its strategy looks at, or ``out`` cannot be written or
            holds a finished run.
    """
    config = config or PretrainConfig()
    pick_device(config.loop.device)  # refuse it before an hour of reading
    listed = read_manifest(manifest)
    torch.manual_seed(derive_seed(config.loop.seed, "weights"))
    model = make_model(config)
    asked = f"{model.grid.describe(config.spec.spacing_mm_zyx, config.block_mm_zyx)}\n"
    sys.stderr.write(asked)  # sizes are rounded to the encoder's stride: say to what
    _check_masks(model, listed)
    run = prepare_run(out, resume)
    room = tuple(n + m for n, m in zip(config.spec.size_zyx, _MARGIN_ZYX, strict=True))
    regions = load_regions(listed, config.spec, (room[0], room[1], room[2]), masks=model.masks_looked_at)
    dataset = DrawDataset(regions, config.spec, Augmentation(jitter_zyx=_MARGIN_ZYX), config.loop.seed)
    identity = {"task": "pretrain", "studies": len(regions), **_plain(config)}
    loss = mim_loss(config.loop.seed, config.loop.steps)
    trained = train(model, dataset, loss, config.loop, run, identity=identity, resume=resume, label="pretraining")
    return _publish(trained, config, len(regions), run)


def make_model(config: PretrainConfig) -> MaskedImageModel:
    """The untrained model of a configuration.

    Raises:
        UsageError: crop and strides do not divide each other (names both), the ratio hides nothing or everything, or
            the parts of the method do not go together.
    """
    encoder = build_encoder(config.architecture)
    spec = config.spec
    grid = BlockGrid.from_mm(config.block_mm_zyx, spec.spacing_mm_zyx, spec.size_zyx, encoder.total_stride_zyx)
    model = MaskedImageModel(encoder, grid, config.method, spec.spacing_mm_zyx)
    # Rows of visible voxels multiply by kernels in this order; in any other each step would copy them.
    return model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload,no-any-return]


def _check_masks(model: MaskedImageModel, manifest: Manifest) -> None:
    """A strategy without a mask in any study would be another strategy throughout."""
    for name in sorted(model.strategy.needs & {"gland", "lesion"}):
        if all(getattr(row, f"{name}_mask") is None for row in manifest.rows):
            raise UsageError(
                f"strategy {model.method.strategy!r} looks at {name} masks, but no row of the manifest has a "
                f"{name}_mask; add them, or choose another strategy"
            )


def mim_loss(seed: int, steps: int) -> Any:
    """The loop's loss function: fresh hidden blocks for every sample, derived from its draw number."""

    def loss(model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, float]]:
        bare = unwrapped(model)
        progress = step / steps
        if bare.teacher is not None and step:
            bare.teacher.follow(bare.encoding, bare.decoder, progress)
        nothing = torch.zeros(len(batch["voxels"]), *bare.grid.grid_zyx, dtype=torch.bool)
        crops = MimBatch(batch["voxels"], batch["inside"], nothing, batch.get("gland"))
        generators = [torch_generator(seed, "hidden", int(draw)) for draw in batch["draw"]]
        hidden, _ = hide(bare, crops, generators, lesion=batch.get("lesion"), progress=progress)
        output: MimOutput = model(hidden)
        return output.loss, {}

    return loss


def unwrapped(model: nn.Module) -> MaskedImageModel:
    """The model within whatever distributes it."""
    bare = getattr(model, "module", model)
    if not isinstance(bare, MaskedImageModel):  # pragma: no cover - train wraps what it was given
        raise TypeError(type(bare))
    return bare


def load_regions(
    manifest: Manifest, spec: InputSpec, size_zyx: tuple[int, int, int], masks: Collection[str] = ()
) -> list[Region]:
    """Read and resample every study of a manifest, with a progress bar. Stops at the first unusable one.

    Args:
        masks: which of ``gland`` and ``lesion`` to read as well.
    """
    regions: list[Region] = []
    with progress_bar() as bar:
        task = bar.add_task("reading studies", total=len(manifest.rows))
        for study in open_all(manifest):
            regions += make_regions([study], spec, size_zyx, masks)
            bar.advance(task)
    return regions


def prepare_run(out: str | Path, resume: bool) -> Path:
    """The run folder, writable now; a folder that holds a run already needs ``--resume``.

    Raises:
        UsageError: it holds a run and ``resume`` is off, or a finished one, or cannot be written.
    """
    run = make_folder(out)
    if (run / "release").exists():
        raise UsageError(f"{run}: this run is finished (it has release/); choose a new --out")
    begun = any(any(run.glob(pattern)) for pattern in ("metrics.jsonl", "checkpoint-*", "*/metrics.jsonl"))
    if begun and not resume:
        raise UsageError(f"{run}: holds a run already; go on with --resume, or choose a new --out")
    return run


def _publish(trained: nn.Module, config: PretrainConfig, studies: int, run: Path) -> Path:
    details = {"training": {**_plain(config), **dataclasses.asdict(config.loop), "studies": studies}}
    model = PreMIM(config.architecture, config.spec, name=config.name, details=details)
    mim = unwrapped(trained)
    details["mim"] = mim_details(mim, config.spec)
    model.details = details
    model.encoder.load_state_dict(mim.encoder.state_dict(), strict=True)
    return model.eval().save_pretrained(run / "release", decoder=mim.reconstructor())


def mim_details(model: MaskedImageModel, spec: InputSpec) -> dict[str, Any]:
    """What a reader needs to reconstruct with a release: method and block size as used, in plain values."""
    return {
        "method": model.method.to_dict(),
        "block_mm_zyx": list(model.grid.block_mm_zyx(spec.spacing_mm_zyx)),
        "self_supervised": model.strategy.self_supervised,
    }


def _plain(config: PretrainConfig) -> dict[str, Any]:
    return {
        "architecture": config.architecture,
        "spec": config.spec.to_dict(),
        "block_mm_zyx": [str(mm) if math.isinf(mm) else mm for mm in config.block_mm_zyx],
        "method": config.method.to_dict(),
        "name": config.name,
    }
