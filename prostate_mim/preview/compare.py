"""Every strategy on one crop: what it hides, how much that is, and the model's reconstruction with its error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prostate_mim.engine.seeding import torch_generator
from prostate_mim.errors import UsageError
from prostate_mim.files import write_bytes
from prostate_mim.hub import BUNDLED_DEFAULT
from prostate_mim.mim import BlockGrid, MimBatch, block_difficulty, expand_blocks, random_hidden_blocks
from prostate_mim.mim.layout import to_blocks
from prostate_mim.mim.strategies import (
    STRATEGIES,
    Guide,
    Hiding,
    Ratio,
    Strategy,
    build_strategy,
    check_ratio,
    parse_ratio,
)
from prostate_mim.mim.strategies.genesis import Genesis
from prostate_mim.mim.targets import block_moments
from prostate_mim.mim.teacher import EmaTeacher
from prostate_mim.preview.picture import MaskRow, masks_png
from prostate_mim.preview.shown import Shown
from prostate_mim.reconstruction import load_mim
from prostate_mim.studies import MASKS

ALL = "all"
# A mixture draws one of the others for every sample; in "all" it would only repeat one of them.
_NOT_IN_ALL = "mixture"
_ERROR = (
    "error: mean squared difference in variances of the block (1: as good as knowing each block's mean), over hidden "
    "voxels; over all where no block is hidden"
)
_BLOCK_TARGET = "this model predicts a block's pattern; in the reconstruction its mean and contrast are the study's"
_HARD = "hard: half of its blocks are those this model reconstructs worst, as at the end of training"


@dataclass(frozen=True)
class PreviewConfig:
    """What is drawn.

    Attributes:
        strategies: what ``build_strategy`` reads, one row each; ``all`` stands for every one but mixtures.
        ratio: what ``parse_ratio`` reads.
        block_mm_zyx: asked-for block size in mm, rounded to the encoder's stride.
        seed: of every strategy's draw, and of the phantom.
        slices: evenly spaced slices for each strategy; 1 is the middle one.
    """

    strategies: tuple[str, ...] = (ALL,)
    ratio: str = "0.6"
    block_mm_zyx: tuple[float, float, float] = (12.0, 8.0, 8.0)
    seed: int = 0
    slices: int = 1


class Preview:
    """A model with the blocks and strategies that were asked for, ready to draw a crop.

    Args:
        model: a bundled name, release or run folder, or hub name; with a decoder.
        config: what is drawn.

    Raises:
        NotFoundError: an unknown strategy (the nearest is suggested) or model.
        UsageError: a strategy's setting, the ratio or the block size; or the release has no decoder.
    """

    def __init__(self, model: str | Path = BUNDLED_DEFAULT, config: PreviewConfig | None = None) -> None:
        self.config = config or PreviewConfig()
        strategies = _named(self.config.strategies)
        self.ratio = parse_ratio(self.config.ratio)
        self.mim = load_mim(model)
        spec, bare = self.mim.spec, self.mim.model
        stride = bare.encoder.total_stride_zyx
        self.grid = BlockGrid.from_mm(self.config.block_mm_zyx, spec.spacing_mm_zyx, spec.size_zyx, stride)
        if self.config.slices > spec.size_zyx[0]:
            raise UsageError(f"--slices is {self.config.slices}, but the model's crop has {spec.size_zyx[0]} slices")
        bare.grid = bare.encoding.grid = self.grid
        self.strategies, self.left_out = _possible(strategies, self.grid, self.ratio, ALL in self.config.strategies)
        if any("difficulty" in strategy.needs for _, strategy in self.strategies):
            # The released weights stand for the teacher, which is not released: at the end they agree.
            bare.teacher = EmaTeacher(bare.encoding, bare.decoder)

    @property
    def masks(self) -> frozenset[str]:
        """Which of ``MASKS`` any strategy, or the model's target, looks at."""
        needs = frozenset().union(*(strategy.needs for _, strategy in self.strategies))
        return (needs & set(MASKS)) | (self.mim.model.masks_looked_at & {"gland"})

    def rows(self, shown: Shown) -> list[MaskRow]:
        """One row for each strategy."""
        return [self._row(text, strategy, shown) for text, strategy in self.strategies]

    def png(self, shown: Shown, rows: Sequence[MaskRow]) -> bytes:
        """The picture."""
        spec, config = self.mim.spec, self.config
        return masks_png(
            shown.crop.voxels, shown.crop.inside, rows, spacing_mm_zyx=spec.spacing_mm_zyx,
            block_zyx=self.grid.block_zyx, title=f"What masking hides, and what {self.mim.name} makes of it",
            notes=self._notes(shown), slices=config.slices,
        )  # fmt: skip

    def _notes(self, shown: Shown) -> list[str]:
        described = self.grid.describe(self.mim.spec.spacing_mm_zyx, self.config.block_mm_zyx)
        notes = [f"{shown.label}; {described}; mask ratio {self.ratio}; drawn with seed {self.config.seed}", _ERROR]
        if self.mim.model.target.name == "block":
            notes.append(_BLOCK_TARGET)
        if any(strategy.name == "hard" for _, strategy in self.strategies):
            notes.append(_HARD)
        if not shown.crop.inside.all():
            notes.append("white: beyond the study's field of view")
        return [*notes, *self.left_out]

    @torch.inference_mode()
    def _row(self, text: str, strategy: Strategy, shown: Shown) -> MaskRow:
        batch = self._batch(shown)
        # The same draw for all, and that of ``reconstruct``: rows differ by their strategy alone.
        generator = torch_generator(self.config.seed, "hidden")
        ratio = self.ratio.draw(generator)
        guide = self._guide(batch, strategy, shown)
        begin = generator.get_state()
        hiding = strategy.hide(self.grid, ratio, generator, guide)
        batch = MimBatch(batch.voxels, batch.inside, hiding.blocks[None], batch.gland)
        given = batch.voxels if hiding.voxels is None else hiding.voxels[None]
        hidden = expand_blocks(batch.hidden_blocks, self.grid.block_zyx)
        filled = self._filled(batch, given, hidden, hiding)
        scored = hidden if hiding.blocks.any() else torch.ones_like(hidden)
        counts = _counts(strategy, hiding, batch.voxels[0], ratio, generator.set_state(begin))
        return MaskRow(
            name=_name(text, strategy, hiding, shown),
            asked=text,
            used=hiding.strategy,
            self_supervised=strategy.self_supervised,
            counts=counts,
            error=None if filled is None else _error(filled, batch, scored, self.grid),
            remark="" if hiding.blocks.any() or self._trained_on(hiding.strategy) else "not this model's task",
            given=given[0, 0].numpy(),
            hidden=hidden[0, 0].numpy(),
            filled=None if filled is None else filled[0, 0].numpy(),
            outlines={
                name: found for name in MASKS if name in strategy.needs and (found := shown.masks[name]) is not None
            },
        )

    def _batch(self, shown: Shown) -> MimBatch:
        voxels, inside = (torch.from_numpy(values)[None, None] for values in (shown.crop.voxels, shown.crop.inside))
        found = shown.masks["gland"]
        gland = None if found is None else torch.from_numpy(found)[None, None]
        return MimBatch(voxels, inside, self.grid.all_visible(1), gland)

    def _guide(self, batch: MimBatch, strategy: Strategy, shown: Shown) -> Guide:
        """All that can be known: masks, the model's own errors, and that training is over."""
        masks = {name: None if found is None else torch.from_numpy(found) for name, found in shown.masks.items()}
        difficulty = None
        if "difficulty" in strategy.needs:
            half = random_hidden_blocks(1, self.grid.grid_zyx, 0.5, torch_generator(self.config.seed, "covers"))
            difficulty = block_difficulty(self.mim.model, batch, [half, ~half])[0]
        return Guide(batch.voxels[0], masks["gland"], masks["lesion"], difficulty, progress=1.0)

    def _filled(self, batch: MimBatch, given: Tensor, hidden: Tensor, hiding: Hiding) -> Tensor | None:
        """(N, 1, D, H, W): the crop with the model's prediction in what was hidden; None where it predicts no image."""
        model = self.mim.model
        prediction = model.predict(given, batch.hidden_blocks)
        picture: Tensor | None = model.target.to_voxels(prediction, model.source(batch), self.grid, model.cell_zyx)
        if picture is None:
            return None
        if hiding.frequencies is not None:
            kept = torch.fft.fft2(given) * ~hiding.frequencies
            picture = torch.fft.ifft2(kept + torch.fft.fft2(picture) * hiding.frequencies).real.to(given)
        elif hiding.blocks.any():
            picture = torch.where(hidden, picture, batch.voxels)
        return picture

    def _trained_on(self, used: str) -> bool:
        own = self.mim.model.strategy
        return used in {own.name, *(part.name for part, _ in getattr(own, "parts", ()))}


def write_preview(preview: Preview, shown: Shown, out: Path) -> dict[str, Any]:
    """Draw a crop into a PNG file.

    Returns:
        What was drawn, in plain values.

    Raises:
        UsageError: ``out`` is no PNG or cannot be written.
    """
    rows = preview.rows(shown)
    write_bytes(out, preview.png(shown, rows))
    config, spacing = preview.config, preview.mim.spec.spacing_mm_zyx
    return {
        "picture": str(out),
        "study": shown.label,
        "model": preview.mim.name,
        "seed": config.seed,
        "ratio": str(preview.ratio),
        "block": preview.grid.describe(spacing, config.block_mm_zyx),
        "rows": [row.to_dict() for row in rows],
        "left_out": preview.left_out,
    }


def _named(texts: Sequence[str]) -> list[tuple[str, Strategy]]:
    """(as written, strategy) of each, ``all`` spelt out, each once."""
    every = [name for name in STRATEGIES if name != _NOT_IN_ALL]
    spelt = [name for text in texts for name in (every if text == ALL else [text])]
    return [(text, build_strategy(text)) for text in dict.fromkeys(spelt)]


def _possible(
    strategies: list[tuple[str, Strategy]], grid: BlockGrid, ratio: Ratio, lenient: bool
) -> tuple[list[tuple[str, Strategy]], list[str]]:
    """Strategies that can hide this share, and why others are left out: columns and slices come in few units.

    Args:
        lenient: all were asked for; then those with few units may be left out.
    """
    if lenient:
        check_ratio(build_strategy("random"), grid, ratio)
    fit, left_out = [], []
    for text, strategy in strategies:
        try:
            check_ratio(strategy, grid, ratio)
        except UsageError as error:
            if not lenient:
                raise UsageError(f"strategy {text}: {error}") from None
            left_out.append(f"left out: {text}: {error}")
        else:
            fit.append((text, strategy))
    return fit, left_out


def _name(text: str, strategy: Strategy, hiding: Hiding, shown: Shown) -> str:
    """As asked, and what it came to: ``gland → random (no gland mask)``."""
    name = text
    if hiding.strategy != strategy.name:
        reason = hiding.instead_of if hiding.instead_of in MASKS else ""
        name += f" → {hiding.strategy}" + (f" ({shown.missing(reason)})" if reason else "")
    return name if strategy.self_supervised or hiding.instead_of else f"{name}  (looks at labels)"


def _counts(
    strategy: Strategy, hiding: Hiding, voxels: Tensor, ratio: float, again: torch.Generator
) -> tuple[int, int, str]:
    """How many of how many units are hidden, and what they are.

    Args:
        again: the generator as it was when the strategy began.
    """
    if hiding.frequencies is not None:
        return int(hiding.frequencies.sum()), hiding.frequencies.numel(), "frequencies dropped"
    if isinstance(strategy, Genesis):
        done = strategy.corrupt(voxels, ratio, again)
        return int((done.painted | done.shuffled).sum()), voxels.numel(), "voxels painted or shuffled"
    if hiding.voxels is not None:
        return int((hiding.voxels != voxels).sum()), voxels.numel(), "voxels changed"
    return int(hiding.blocks.sum()), hiding.blocks.numel(), "blocks hidden"


def _error(filled: Tensor, batch: MimBatch, scored: Tensor, grid: BlockGrid) -> float | None:
    """Mean squared error over scored measured voxels, in variances of their block; None where there is none."""
    counted = to_blocks(scored & batch.inside, grid.block_zyx)
    truth, found = (to_blocks(values, grid.block_zyx) for values in (batch.voxels, filled))
    _, deviation = block_moments(truth)
    if not counted.any():
        return None
    return float((((found - truth) / deviation).square() * counted).sum() / counted.sum())
