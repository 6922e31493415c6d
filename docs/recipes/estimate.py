"""The table of disk, memory and hours in picai.md: formulas over figures that this repository has measured.

    python docs/recipes/estimate.py                        print the table
    python docs/recipes/estimate.py --run runs/try         with the crops a second of a short run of yours
    python docs/recipes/estimate.py --write                put the table into picai.md

What has not been measured is called so; nothing is guessed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from prostate_mim.config import read_config
from prostate_mim.console import run_app
from prostate_mim.engine.records import read_record
from prostate_mim.errors import UsageError
from prostate_mim.files import write_text
from prostate_mim.pretraining import PretrainConfig

HERE = Path(__file__).resolve().parent
PAGE = HERE / "picai.md"
MARKS = ("<!-- estimate -->\n", "<!-- /estimate -->")
NOT_MEASURED = "not measured"

STUDIES, FOLDS = 1500, 5
# The finetune command of picai.md: its crop with the room that crops wander in (finetuning.regions), and its epochs.
CROP_ZYX, ROOM_ZYX, EPOCHS = (20, 128, 128), (22, 140, 140), 20


@dataclass(frozen=True)
class Measured:
    """A figure, and where it stands.

    Attributes:
        value: the number.
        page: that has it, from the repository's root.
        text: of the page, as it is written there.
    """

    value: float
    page: str
    text: str


STORE_MB = Measured(1.88, "docs/training.md", "take 1.88 MB each")
WEIGHTS = Measured(5_375_232, "hub_cards/resenc-s.mim-t2w/README.md", "parameters: 5375232")
# 4 crops of 16 x 96 x 96 voxels, 60 % hidden, float32, 2 CPU cores; the dense path is 1.78 times slower.
STEP_S = Measured(0.443, "docs/masked-engine.md", "| resenc-s | 0.6 | 12x8x8 | rows | 0.443 | 0.407 | 1.67 | 1.78 |")
DENSE = Measured(1.78, STEP_S.page, STEP_S.text)
# The same at 75 % hidden: 169 MB above weights and optimiser, 0.489 of the dense path's.
PEAK_MB = Measured(
    169,
    "docs/masked-engine.md",
    "| resenc-s | 0.75 | 12x8x8 | rows | 0.389 | 0.341 | 2.22 | 2.23 | 169 | 0.506 | 0.489 |",
)
OF_DENSE = Measured(0.489, PEAK_MB.page, PEAK_MB.text)
STEP_CROPS, STEP_CROP_ZYX = 4, (16, 96, 96)
READ_S = Measured(0.042, "docs/modality.md", "where reading the file takes 31 to 42 ms")
GUARD_S = Measured(0.016, "docs/modality.md", "13 to 16 ms a volume")
OUTLIER_S = Measured(0.15, "docs/modality.md", "about 0.15 s there")
FIGURES = (STORE_MB, WEIGHTS, STEP_S, PEAK_MB, READ_S, GUARD_S, OUTLIER_S)

Row = tuple[str, str, str]


@dataclass(frozen=True)
class Tried:
    """A short run of the pretraining, on the machine that is meant.

    Attributes:
        crops_a_second: median over its steps.
        batch, precision: its own; others may be faster or slower a crop.
        cores: that it could use, where it trained on CPUs; None on a GPU.
    """

    crops_a_second: float
    batch: int
    precision: str
    cores: int | None


def rows(config: PretrainConfig, tried: Tried | None = None) -> list[Row]:
    """(what, estimate, formula) of each line.

    Args:
        config: of the pretraining.
        tried: a run of it, if there is one; its hours take the place of those of the same kind of machine.
    """
    return [*_disk(config), *_memory(config), *_hours(config, tried)]


def _disk(config: PretrainConfig) -> list[Row]:
    store = STUDIES * STORE_MB.value / 1000
    smaller = math.prod(ROOM_ZYX) / math.prod(config.region_zyx)
    checkpoint = WEIGHTS.value * 4 * 3 / 1e6
    return [
        ("disk: `data prepare`", f"{store:.1f} GB", f"{STUDIES:,} studies x {STORE_MB.value} MB ({STORE_MB.page})"),
        (
            "disk: what `finetune` adds to the store", f"{store * smaller:.1f} GB",
            f"the same by voxels, {_times(ROOM_ZYX)} in place of {_times(config.region_zyx)}",
        ),
        (
            "disk: a checkpoint", f"{checkpoint:.0f} MB",
            f"{WEIGHTS.value:,} weights and AdamW's two moments of each x 4 bytes; the decoder comes on top",
        ),
        ("disk: images and picai_labels", NOT_MEASURED, "the publisher's pages say how much"),
    ]  # fmt: skip


def _memory(config: PretrainConfig) -> list[Row]:
    kept = STUDIES * math.prod(config.region_zyx) * 3 / 1e9
    dense = PEAK_MB.value / OF_DENSE.value
    step = config.loop.batch / STEP_CROPS * dense / 1000
    return [
        (
            "GPU memory: studies kept there", f"{kept:.1f} GB",
            f"{STUDIES:,} x {_times(config.region_zyx)} voxels x 3 bytes, if they fit; else they stay on the disk",
        ),
        (
            "GPU memory: a step", f"{step:.1f} GB",
            f"{config.loop.batch} crops x {dense / STEP_CROPS:.0f} MB, the dense path in float32 on a CPU at 75 % "
            f"hidden ({PEAK_MB.page}); with bf16 and on a GPU {NOT_MEASURED}",
        ),
    ]  # fmt: skip


def _hours(config: PretrainConfig, tried: Tried | None) -> list[Row]:
    check = STUDIES * (READ_S.value + GUARD_S.value + OUTLIER_S.value) / 3600
    crops = config.loop.steps * config.loop.batch
    tuned = STUDIES * (FOLDS - 1) * EPOCHS
    larger = math.prod(CROP_ZYX) / math.prod(STEP_CROP_ZYX)
    seconds = STEP_S.value / STEP_CROPS
    seen = f"{config.loop.steps:,} steps x {config.loop.batch} crops"
    fitted = f"{FOLDS} models x {STUDIES * (FOLDS - 1) // FOLDS:,} studies x {EPOCHS} epochs"
    each = f"{seconds * DENSE.value * larger:.2f} s, a dense step of pretraining by voxels ({STEP_S.page})"
    return [
        ("hours: `data import`, `data prepare`", NOT_MEASURED, "each reads every image and mask once"),
        (
            "hours: `data check`, one CPU core", f"{check:.1f}",
            f"{STUDIES:,} x ({READ_S.value} + {GUARD_S.value} + {OUTLIER_S.value}) s ({READ_S.page})",
        ),
        ("hours: `pretrain`, 1 GPU", *_on_gpu(seen, crops, tried)),
        _on_cpu(seen, crops, tried),
        ("hours: `finetune`, 1 GPU", *_on_gpu(f"{fitted}, of {larger:.1f} times as many voxels", tuned, None)),
        (
            "hours: `finetune`, 2 CPU cores, no GPU", f"{tuned * seconds * DENSE.value * larger / 3600:.0f}",
            f"{fitted} x {each}",
        ),
        ("hours: picai_eval, ONNX", NOT_MEASURED, ""),
    ]  # fmt: skip


def _on_gpu(what: str, crops: int, tried: Tried | None) -> tuple[str, str]:
    if tried is not None and tried.cores is None:
        return _by_run(what, crops, tried)
    slow, fast = 100, 500
    assumed = ", ".join(f"{crops / rate / 3600:.1f} at {rate}" for rate in (slow, fast))
    return NOT_MEASURED, f"{what} = {crops:,} crops; arithmetic alone: {assumed} crops a second"


def _on_cpu(what: str, crops: int, tried: Tried | None) -> Row:
    if tried is not None and tried.cores is not None:
        return f"hours: `pretrain`, {tried.cores} CPU cores, no GPU", *_by_run(what, crops, tried)
    seconds = STEP_S.value / STEP_CROPS
    formula = f"{what} x {seconds:.3f} s, float32 ({STEP_S.page})"
    return "hours: `pretrain`, 2 CPU cores, no GPU", f"{crops * seconds / 3600:.0f}", formula


def _by_run(what: str, crops: int, tried: Tried) -> tuple[str, str]:
    rate = f"{float(f'{tried.crops_a_second:.2g}'):,g}"
    hours = f"{crops / tried.crops_a_second / 3600:.1f}"
    return hours, f"{what} at {rate} crops a second, your run of {tried.batch} crops a step, {tried.precision}"


def _times(zyx: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in zyx)


def table(found: list[Row]) -> str:
    """Markdown."""
    lines = ["| | estimate | formula |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in found)]
    return "\n".join(lines) + "\n"


def read_tried(run: Path, config: PretrainConfig) -> Tried:
    """What a run says of its speed; its first ten steps are left out.

    Args:
        run: folder of a pretraining, finished or not.
        config: of the pretraining that is estimated; steps and batch may differ, what decides a crop's cost may not.

    Raises:
        NotFoundError: no run is there.
        UsageError: it is of another network, crop or method, on several processes, or has no step.
    """
    own, record = read_config(run / "config.toml", PretrainConfig), read_record(run)
    costs = {"architecture": "architecture", "spec.size_zyx": "crop", "method": "method", "masks_per_crop": "masks"}
    for key, name in costs.items():
        found, wanted = (_at(each, key) for each in (own, config))
        if found != wanted:
            raise UsageError(
                f"{run}: its {name} is {found}, that of the estimate {wanted}, so its speed says nothing here; make a "
                "run with --config picai.toml, and no option but --steps, --batch, --device, --precision and --out"
            )
    rates = _rates(run / "metrics.jsonl")
    if record is None or not rates or record["ranks"] != 1:
        raise UsageError(f"{run}: no step, or not of one process; make a run of --steps 100 on one device")
    on_gpu = own.loop.device != "cpu" and bool(record["hardware"]["gpus"])
    cores = None if on_gpu else int(record["hardware"]["cores"])
    return Tried(statistics.median(rates[10:] or rates), own.loop.batch, own.loop.precision, cores)


def _rates(path: Path) -> list[float]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    read = [json.loads(line) for line in lines if line.endswith("}")]  # the last may still be being written
    return [line["studies_per_second"] for line in read if "studies_per_second" in line]


def _at(config: PretrainConfig, key: str) -> object:
    found: object = config
    for name in key.split("."):
        found = getattr(found, name)
    return found


def main() -> None:
    """Print the table, or write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="a short pretraining of picai.toml on the machine that is meant")
    parser.add_argument("--write", action="store_true", help="put the table into picai.md")
    given = parser.parse_args()
    if given.run and given.write:
        raise UsageError("--run and --write together: the page has no figures of one machine; give one of them")
    config = read_config(HERE / "picai.toml", PretrainConfig)
    made = table(rows(config, read_tried(given.run, config) if given.run else None))
    if given.write:
        text = PAGE.read_text(encoding="utf-8")
        before, rest = text.split(MARKS[0])
        write_text(PAGE, before + MARKS[0] + made + MARKS[1] + rest.split(MARKS[1])[1])
    else:
        sys.stdout.write(made)


if __name__ == "__main__":
    run_app(main)
