"""Train one model of the zoo: ``python hub_cards/zoo/train.py NAME --data ../shared/data --work DIR``.

Goes on where it stopped. What comes out is DIR/NAME/release; ``publish.py`` scores it and writes its card.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from recipe import Recipe, read_recipe

from prostate_mim.encoder import PreMIM
from prostate_mim.pretraining import PretrainConfig, pretrain
from prostate_mim.pretraining.averaging import average_with_beginning
from prostate_mim.reconstruction import load_mim


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data")
    parser.add_argument("--work", type=Path, required=True, help="where data, runs and releases go")
    given = parser.parse_args()
    recipe = read_recipe(given.name)
    make_data(given.data, given.work)
    made = train(given.name, recipe, given.work)
    sys.stdout.write(f"{made}\n")


def make_data(data: Path, work: Path) -> None:
    """Manifests and phantoms, once."""
    if not (work / "data" / "crops.csv").exists():
        script = Path(__file__).with_name("make_data.py")
        subprocess.run([sys.executable, str(script), "--data", str(data), "--out", str(work / "data")], check=True)


def train(name: str, recipe: Recipe, work: Path) -> Path:
    """The model's release folder."""
    home = work / name
    final = home / "release"
    if final.exists():
        return final
    manifest = work / "data" / recipe.manifest
    release = run(manifest, home / "encoder", recipe.pretraining, work)
    if recipe.average < 1:
        mean = home / "mean"
        release = mean if mean.exists() else average_with_beginning([release], mean, recipe.pretraining, recipe.average)
    source = release
    if recipe.decoder is not None:
        config = dataclasses.replace(
            recipe.decoder.run, begin="release", begin_source=str(release), freeze_encoder=True
        )  # fmt: skip
        source = run(manifest, home / "decoder", config, work)
    model, decoder = PreMIM.from_pretrained(release), load_mim(source)
    if recipe.decoder is not None:
        model.details["mim"] = PreMIM.from_pretrained(source).details["mim"]
    return model.save_pretrained(final, name=name, dtype="float16", decoder=decoder.model.reconstructor())


def run(manifest: Path, out: Path, config: PretrainConfig, work: Path) -> Path:
    """A pretraining, begun, resumed or found finished."""
    if (out / "release").exists():
        return out / "release"
    return pretrain(manifest, out, config, resume=out.exists(), store=work / "store")


if __name__ == "__main__":
    main()
