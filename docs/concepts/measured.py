"""The numbers on the pages of docs/concepts, measured on phantoms: no drawing here, see figures.py.

Everything is decided by ``SEED`` and by indices of phantom studies, on the CPU, so that the pages can be compared with
what the code gives now (tests/docs/test_figures.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from prostate_mim import InputSpec, PreMIM
from prostate_mim.finetuning.linear import fit_linear_probe
from prostate_mim.masked import MaskContext, MaskedFeatures, masked_twin
from prostate_mim.metrics import Estimate, Scored, interval
from prostate_mim.mim.blocks import BlockGrid, expand_blocks
from prostate_mim.mim.strategies import random_hidden_blocks
from prostate_mim.nets import build_encoder
from prostate_mim.phantom import PhantomStudy, make_study
from prostate_mim.preprocess import Crop, prepare_crop

SEED = 20261129
SPEC = InputSpec()
BLOCK_MM_ZYX = (12.0, 8.0, 8.0)
RATIOS = (0.5, 0.6, 0.75, 0.9)
SAMPLES = 2  # phantoms in a batch
NETWORKS = ("resenc-s", "resnet18", "convnext-a")
NORMS = {"resenc-s": "group norm", "resnet18": "batch norm", "convnext-a": "layer norm, response norm"}
LEAK_STUDIES = 24  # phantoms whose labels are drawn at random
LEAK_FOLDS = 3
BUNDLED = "resenc-s.mim-t2w"

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


# ------------------------------------------------------------------ phantoms and what is hidden in them


@cache
def study(index: int) -> PhantomStudy:
    """Phantom number ``index`` of the cohort ``SEED``."""
    return make_study(SEED, index)


def crop_of(index: int) -> Crop:
    """A crop around a phantom's first lesion."""
    return prepare_crop(study(index).volume, SPEC, study(index).lesions[0].position_mm_lps)


def crop_at_the_end(index: int) -> Crop:
    """A crop around the fourth slice from above, at the row and column of the first lesion: half of it is padding."""
    volume = study(index).volume
    _, row, column = volume.geometry.position_to_index(study(index).lesions[0].position_mm_lps)
    return prepare_crop(volume, SPEC, volume.geometry.index_to_position((volume.shape_zyx[0] - 4, row, column)))


def grid_of(stride_zyx: tuple[int, int, int]) -> BlockGrid:
    """Blocks of ``BLOCK_MM_ZYX``, as the encoder's strides allow."""
    return BlockGrid.from_mm(BLOCK_MM_ZYX, SPEC.spacing_mm_zyx, SPEC.size_zyx, stride_zyx)


def hidden_blocks(grid: BlockGrid, ratio: float, samples: int = SAMPLES) -> Tensor:
    """(N, gz, gy, gx) bool, True = hidden; the same for one grid, ratio and number of samples."""
    return random_hidden_blocks(samples, grid.grid_zyx, ratio, torch.Generator().manual_seed(SEED))


@cache
def batch() -> Tensor:
    """(``SAMPLES``, 1, D, H, W) crops of as many phantoms."""
    return torch.from_numpy(np.stack([crop_of(index).voxels for index in range(SAMPLES)]))[:, None]


@cache
def bundled() -> PreMIM:
    """The encoder that lies in the package."""
    return PreMIM.from_pretrained(BUNDLED)


def fresh(architecture: str) -> Any:
    """An encoder with random weights. Batch norms take the batch's moments, as in training."""
    torch.manual_seed(SEED)
    return build_encoder(architecture).train()


# ------------------------------------------------------------------ what zero-filling does to features


def dense_norm(module: Any, features: MaskedFeatures) -> MaskedFeatures:
    """What a norm does that knows nothing of hidden positions: their zeros are part of its moments."""
    return features.with_values(features.select(module.ordinary(features.dense())))


_DENSE_NORMS = dict.fromkeys((nn.GroupNorm, nn.BatchNorm3d, nn.InstanceNorm3d), dense_norm)


@torch.no_grad()
def three_ways(encoder: Any, ratio: float, voxels: Tensor | None = None) -> dict[str, list[Tensor]]:
    """Stages (N, C, d, h, w), zero where hidden, of one encoder and one batch, computed in three ways.

    ``exact``: with visible voxels only. ``dense norms``: convolutions exact, norms over all positions. ``zero-filled``:
    the plain network on crops whose hidden voxels are 0, as in a masked autoencoder without masked operators.
    """
    voxels = batch() if voxels is None else voxels
    grid = grid_of(encoder.total_stride_zyx)
    hidden = hidden_blocks(grid, ratio, len(voxels))
    context = MaskContext(hidden, grid.block_zyx, grid.size_zyx)
    given = context.hide(voxels)
    exact = masked_twin(encoder)(given)
    mixed = masked_twin(encoder, extra=_DENSE_NORMS)(given)
    plain = encoder(torch.where(expand_blocks(hidden, grid.block_zyx), 0.0, voxels))
    return {
        "exact": [stage.dense() for stage in exact],
        "dense norms": [stage.dense() for stage in mixed],
        "zero-filled": [torch.where(stage.visible, other, 0.0) for stage, other in zip(exact, plain, strict=True)],
    }


def distances(found: dict[str, list[Tensor]], way: str) -> list[float]:
    """Of every stage: the norm of the difference from the exact features over the norm of those, where visible."""
    return [
        float((other - exact).norm() / exact.norm())
        for exact, other in zip(found["exact"], found[way], strict=True)
    ]  # fmt: skip


def first_norm_deviation(ratio: float, dense: bool) -> float:
    """Standard deviation, over visible positions, of what the bundled encoder's first norm gives; with no scale, bias.

    Should be 1: that is what a norm is for, and what it gives when nothing is hidden.
    """
    encoder = bundled().encoder
    norm = next(part for part in encoder.modules() if isinstance(part, nn.GroupNorm))
    plain = nn.GroupNorm(norm.num_groups, norm.num_channels, norm.eps, affine=False)
    first = nn.Sequential(next(part for part in encoder.modules() if isinstance(part, nn.Conv3d)), plain)
    grid = grid_of(encoder.total_stride_zyx)
    context = MaskContext(hidden_blocks(grid, ratio), grid.block_zyx, grid.size_zyx)
    with torch.no_grad():
        made = masked_twin(first, extra=_DENSE_NORMS if dense else None)(context.hide(batch()))
    visible = made.visible.expand_as(made.dense())
    return float(made.dense()[visible].std())


def unchanged_by_hidden_voxels(ratio: float = 0.6) -> float:
    """Largest change of any exact feature when every hidden voxel becomes NaN; 0, or the page is wrong."""
    encoder = bundled().encoder
    grid = grid_of(encoder.total_stride_zyx)
    hidden = expand_blocks(hidden_blocks(grid, ratio), grid.block_zyx)
    before = three_ways(encoder, ratio)["exact"]
    after = three_ways(encoder, ratio, torch.where(hidden, torch.nan, batch()))["exact"]
    return max(float((one - other).abs().max()) for one, other in zip(before, after, strict=True))


def zero_filling_table() -> str:
    """Markdown: by network and way, the distance from the exact features at each stage, 60 % hidden."""
    lines = ["| network | norms | computed | " + " | ".join(f"stage {k}" for k in range(1, 5)) + " |"]
    lines.append("|---|---|---|" + "---|" * 4)
    encoders = {f"`{BUNDLED}`, trained": bundled().encoder} | {f"`{name}`, random": fresh(name) for name in NETWORKS}
    for name, encoder in encoders.items():
        found = three_ways(encoder, 0.6)
        norms = next(kind for key, kind in NORMS.items() if name.startswith(f"`{key}"))
        for way in ("dense norms", "zero-filled"):
            cells = " | ".join(f"{distance:.2f}" for distance in distances(found, way))
            lines.append(f"| {name} | {norms} | {way} | {cells} |")
    return "\n".join(lines) + "\n"


def deviation_table() -> str:
    """Markdown: what is left of a norm's unit deviation, by ratio."""
    lines = ["| hidden | exact | norm over all positions | 1 / sqrt(visible share) |", "|---|---|---|---|"]
    for ratio in RATIOS:
        one, other = first_norm_deviation(ratio, dense=False), first_norm_deviation(ratio, dense=True)
        lines.append(f"| {100 * ratio:.0f} % | {one:.2f} | {other:.2f} | {(1 - ratio) ** -0.5:.2f} |")
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------ what leakage does to an AUROC


@dataclass(frozen=True)
class Cohort:
    """Lesions with labels that mean nothing.

    Attributes:
        features: (N, F) of the bundled encoder.
        labels: (N,) 0 or 1, one coin for each patient: nothing can be learnt but who the patient is.
        patients: (N,) running numbers.
    """

    features: Array
    labels: Ints
    patients: Ints


@cache
def coin_cohort() -> Cohort:
    """The lesions of ``LEAK_STUDIES`` phantoms, labelled by tossing a coin for each patient."""
    features, patients, names = [], [], {}
    for index in range(LEAK_STUDIES):
        made = study(index)
        owner = names.setdefault(made.patient_id, len(names))
        for lesion in made.lesions:
            features.append(bundled().embed(made.volume, lesion.position_mm_lps))
            patients.append(owner)
    coins = np.random.default_rng(SEED).permutation(np.arange(len(names)) % 2)
    owners = np.array(patients)
    return Cohort(np.array(features, np.float64), coins[owners].astype(np.int64), owners)


def with_copies(cohort: Cohort) -> tuple[Cohort, Ints]:
    """Every study once more, the same voxels under another patient's id; and (2 N,) whose it really is."""
    doubled = Cohort(
        np.concatenate([cohort.features, cohort.features]),
        np.concatenate([cohort.labels, cohort.labels]),
        np.concatenate([cohort.patients, cohort.patients + cohort.patients.max() + 1]),
    )
    return doubled, np.concatenate([cohort.patients, cohort.patients])


def folds_of(units: Ints) -> Ints:
    """(N,) folds 0 to ``LEAK_FOLDS`` - 1, dealt out by unit: whoever is one unit is in one fold."""
    rng = np.random.default_rng(SEED + 1)
    dealt = rng.permutation(np.arange(int(units.max()) + 1) % LEAK_FOLDS)
    return np.asarray(dealt[units], np.int64)


def out_of_fold(cohort: Cohort, folds: Ints) -> Array:
    """(N,) probabilities by linear probes that were fitted to the other folds."""
    made = np.zeros(len(folds))
    for fold in range(LEAK_FOLDS):
        own = folds == fold
        owners = [str(patient) for patient in cohort.patients[~own]]
        probe = fit_linear_probe(cohort.features[~own], cohort.labels[~own], owners, penalties=(1.0,))
        made[own] = probe.at_prevalence(0.5).probabilities(cohort.features[own])
    return made


def auroc_of(cohort: Cohort, folds: Ints, owners: Ints) -> Estimate:
    """AUROC over all folds, with a 95 % interval over ``owners``."""
    scored = Scored(cohort.labels, out_of_fold(cohort, folds), tuple(owners.tolist()))
    return interval(scored, "auroc", samples=1000, seed=SEED)


@cache
def leaks() -> dict[str, Estimate]:
    """By how folds were made, the AUROC for labels that mean nothing; the truth is 0.5."""
    honest = coin_cohort()
    rows = np.arange(len(honest.labels))
    doubled, really = with_copies(honest)
    return {
        "whole patients in a fold": auroc_of(honest, folds_of(honest.patients), honest.patients),
        "lesions dealt out one by one": auroc_of(honest, folds_of(rows), honest.patients),
        "copies under other ids": auroc_of(doubled, folds_of(doubled.patients), really),
        "the same, copies found and joined": auroc_of(doubled, folds_of(really), really),
    }


def leakage_table() -> str:
    """Markdown of ``leaks``."""
    lines = ["| folds | AUROC, 95 % interval over patients |", "|---|---|"]
    lines += [f"| {name} | {_short(found)} |" for name, found in leaks().items()]
    return "\n".join(lines) + "\n"


def _short(found: Estimate) -> str:
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def numbers(table: str) -> Sequence[float]:
    """The numbers in a Markdown table's cells, for comparing a page with what is measured now."""
    import re

    return [float(number) for number in re.findall(r"(?<![\w.-])\d+\.\d+", table)]
