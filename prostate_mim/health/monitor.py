"""HealthMonitor: looks at a network in training without touching it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from prostate_mim.engine.seeding import numpy_generator
from prostate_mim.files import atomic_path, make_folder, write_text
from prostate_mim.health.collapse import collapse_warnings
from prostate_mim.health.config import HealthConfig
from prostate_mim.health.features import Cells, Encodes, centre_embeddings, device_of, look
from prostate_mim.health.masked_error import Reconstructions, masked_errors
from prostate_mim.health.probes import centre_accuracy, linear_auroc, neighbour_auroc
from prostate_mim.health.rank import centred_rank, effective_rank, mean_variance
from prostate_mim.health.windows import Watched, central_windows, random_windows
from prostate_mim.mim import MaskedImageModel
from prostate_mim.spec import InputSpec

FOLDER = "health"
_FIRST = "first.json"
_PREFIX = "health/"
# What a collapse is judged by, beside its first value.
_COMPARED = ("health/rank", "health/rank_centred", "health/variance")


class HealthMonitor:
    """Measures a network in training on fixed windows of fixed studies.

    Args:
        watched: unlabelled studies, best with gland masks; the first ``config.studies`` are used.
        labelled: studies with a label, a centre or both, for the probes; may be empty. Of more than
            ``config.labelled`` a fixed random part is used.
        spec: the input contract; its size is the window.
        config: how much is measured.
        seed: of windows, hidden blocks and drawn cells.
        own: what the training's own objective is measured by, beside all others: model in evaluation mode -> numbers
            by name. A masked image model is asked to restore hidden tissue anyway.

    Raises:
        UsageError: a study is smaller than a window.
        VolumeError: the middle of a study is constant.
    """

    def __init__(
        self,
        watched: Sequence[Watched],
        labelled: Sequence[Watched],
        spec: InputSpec,
        config: HealthConfig | None = None,
        seed: int = 0,
        own: Callable[[Encodes], Mapping[str, float]] | None = None,
    ) -> None:
        self.own = own
        self.spec, self.config, self.seed = spec, config or HealthConfig(), seed
        self.watched = tuple(watched[: self.config.studies])
        self.labelled = self._fixed_part(labelled)
        self._central = central_windows(self.watched, spec)
        self._random = random_windows(self.watched, spec, self.config.windows, seed)
        # One a study, for a target that needs no image to be known in the middle of every study.
        self._apart = random_windows(self.watched, spec, 1, seed)
        self._labelled = central_windows(self.labelled, spec)

    def observe(self, model: Encodes, step: int, run: Path) -> dict[str, float]:
        """Measure the model, and keep pictures of what it reconstructs.

        Weights, buffers, gradients, training modes and every generator are as before. The same model gives the same
        numbers. The first observation of a run is remembered in its folder as what later ones are compared with.

        Args:
            model: on any device; under several processes call this on one, with an unwrapped model.
            step: optimiser steps done.
            run: the run folder; ``health/`` in it is written.

        Returns:
            Numbers by name, each beginning with ``health/``; see ``prostate_mim.health.panels``. What the data
            cannot answer (no masks, no labels, one centre) is left out.

        Raises:
            TrainingError: features are not finite.
        """
        with undisturbed(model):
            values, pictures = self._measure(model)
        folder = make_folder(run / FOLDER)
        if pictures is not None and self.config.pictured:
            self._keep(pictures, folder / f"reconstruction-{step:08d}.npz", step)
        named = {_PREFIX + name: float(value) for name, value in values.items()}
        first = _first(folder / _FIRST, step, named, self.counts())
        named.update({f"{name}_first": first[name] for name in _COMPARED})
        return named

    def counts(self) -> dict[str, int]:
        """How many studies of which kind are looked at; numbers only, for the data card."""
        labelled = [each for each in self.labelled if each.label >= 0]
        return {
            "watched": len(self.watched),
            "watched_with_gland_mask": sum("gland" in each.study.masks for each in self.watched),
            "labelled": len(labelled),
            "labelled_positive": sum(each.label for each in labelled),
            "labelled_patients": len({each.group for each in labelled}),
            "centres": len({each.centre for each in (*self.watched, *self.labelled) if each.centre >= 0}),
        }

    def warnings(self, values: Mapping[str, float]) -> list[str]:
        """Signs of collapse in what ``observe`` returned, one line each; empty where there is none."""
        return collapse_warnings(values, self.config)

    def _measure(self, model: Encodes) -> tuple[dict[str, float], Reconstructions | None]:
        size, values, pictures = self.config.batch, dict[str, float](), None
        if isinstance(model, MaskedImageModel):
            windows = self._apart if model.target.name == "position" else self._central
            values, pictures = masked_errors(model, windows, self.spec.spacing_mm_zyx, size, self.seed)
        if self.own is not None:
            values.update(self.own(model))
        seen = look(model, self._random, size, self.config.cells, self.seed)
        values["rank"], values["rank_centred"] = effective_rank(seen.embeddings), centred_rank(seen.embeddings)
        values["variance"] = mean_variance(seen.embeddings)
        values.update(self._gland(seen.cells))
        values.update(self._probes(model))
        return values, pictures

    def _gland(self, cells: Cells | None) -> dict[str, float]:
        if cells is None:
            return {}
        found = linear_auroc(cells.features, cells.gland, cells.owners, self.config)
        chance = linear_auroc(cells.places, cells.gland, cells.owners, self.config)
        return {} if found is None or chance is None else {"gland_auroc": found, "gland_position_auroc": chance}

    def _probes(self, model: Encodes) -> dict[str, float]:
        if not self._labelled:
            return {}
        features = centre_embeddings(model, self._labelled, self.spec.spacing_mm_zyx, self.config.batch)
        labels, groups, centres = (
            np.array([getattr(each, name) for each in self.labelled]) for name in ("label", "group", "centre")
        )
        known = labels >= 0
        found: dict[str, float | None] = {}
        if known.any():
            rows = features[known], labels[known], groups[known], self.config
            found["linear_auroc"], found["neighbour_auroc"] = linear_auroc(*rows), neighbour_auroc(*rows)
        centre = centre_accuracy(features, centres, groups, self.config)
        if centre is not None:
            found["centre_accuracy"], found["centre_chance"] = centre
        return {name: value for name, value in found.items() if value is not None}

    def _fixed_part(self, labelled: Sequence[Watched]) -> tuple[Watched, ...]:
        order = numpy_generator(self.seed, "health", "labelled").permutation(len(labelled))
        return tuple(labelled[int(index)] for index in sorted(order[: self.config.labelled]))

    def _keep(self, pictures: Reconstructions, path: Path, step: int) -> None:
        """One slice of each pictured study: that with most gland, else the middle one."""
        count = min(self.config.pictured, len(pictures.truth))
        chosen = []
        for window in self._central[:count]:
            area = np.zeros(len(window.inside)) if window.gland is None else window.gland.sum((1, 2))
            chosen.append(int(area.argmax()) if area.any() else len(area) // 2)
        rows = np.arange(count), np.array(chosen)
        half = {name: getattr(pictures, name)[rows].astype(np.float16) for name in ("truth", "filled")}
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, step=step, hidden=pictures.hidden[rows], **half)


@contextmanager
def undisturbed(model: Encodes) -> Iterator[None]:
    """Evaluation mode without gradients or autocast; on leaving, modes and generators are as they were.

    Away from CPUs the masked operators take their dense path: ``auto`` would measure a path on the first batch, keep
    it for the training, and not choose the same every time.
    """
    modes = [(module, module.training) for module in model.modules()]
    masked, device = model.encoding if isinstance(model, MaskedImageModel) else None, device_of(model)
    path = masked.path if masked is not None else ""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad(), torch.autocast(device.type, enabled=False):
        try:
            if masked is not None and device.type != "cpu":
                masked.path = "dense"
            model.eval()
            yield
        finally:
            if masked is not None:
                masked.path = path
            for module, training in modes:
                module.training = training


def _first(path: Path, step: int, values: Mapping[str, float], counts: Mapping[str, int]) -> dict[str, float]:
    """The first observation of this run: read back, or this one where there is none before it."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        found = {name: float(kept["values"][name]) for name in _COMPARED}
        if kept["step"] < step:
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no observation yet, or one that was damaged: this becomes the first
    write_text(path, json.dumps({"step": step, "values": dict(values), "studies": dict(counts)}))
    return dict(values)
