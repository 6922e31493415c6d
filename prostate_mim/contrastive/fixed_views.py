"""FixedViews: alignment, uniformity and matching, measured on the same pairs of views at every look."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import default_collate

from prostate_mim.contrastive.config import ContrastiveConfig
from prostate_mim.contrastive.loss import alignment, uniformity, view_losses, views_matched
from prostate_mim.contrastive.pairs import PairDataset
from prostate_mim.engine.batch import finish_batch
from prostate_mim.engine.data import Region
from prostate_mim.engine.seeding import derive_seed
from prostate_mim.health.features import Encodes
from prostate_mim.spec import InputSpec


class FixedViews:
    """Pairs of views of the watched studies, made once, as training makes them.

    Args:
        regions: the watched studies.
        owners: number of the patient of each.
        spec: the input contract.
        config: how views are made and compared.
        jitter_zyx: how far a crop may wander from its region's centre, voxels.
        pairs: how many.
        batch: views per forward pass.
        seed: of the run.

    Raises:
        VolumeError: a study holds no tissue.
    """

    def __init__(
        self,
        regions: Sequence[Region],
        owners: Sequence[int],
        spec: InputSpec,
        config: ContrastiveConfig,
        jitter_zyx: tuple[int, int, int],
        *,
        pairs: int,
        batch: int,
        seed: int,
    ) -> None:
        own_seed = derive_seed(seed, "health", "views")  # none of the pairs that are trained on
        dataset = PairDataset(regions, spec, jitter_zyx, own_seed, config.shift_mm)
        draws = range(2 * pairs)
        items = default_collate([dataset[draw] for draw in draws])
        self._voxels = finish_batch(items, "cpu", spec, config.augmentation, own_seed)["voxels"]
        self._owners = torch.tensor([owners[dataset.index_of(draw)] for draw in draws])
        self._temperature, self._batch = config.temperature, batch

    def __call__(self, model: Encodes) -> dict[str, float]:
        """Numbers of a model in evaluation mode, by name."""
        device = next(model.parameters()).device
        found: list[Tensor] = [model(part.to(device)) for part in torch.split(self._voxels, self._batch)]
        views = torch.cat(found).double().cpu()
        losses, counted = view_losses(views, self._owners, self._temperature)
        matched, chance = views_matched(views, self._owners)
        values = {
            "view_loss": losses.sum() / counted.sum().clamp(min=1),
            "views_matched": matched,
            "views_chance": chance,
            "alignment": alignment(views),
            "uniformity": uniformity(views, self._owners),
        }
        return {name: float(value) for name, value in values.items()}
