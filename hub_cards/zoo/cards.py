"""TEMPLATE.md + training.toml + results.json + config.json -> the card of a model; and a linter that does it again."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from recipe import CARDS, FILE, Recipe, read_recipe
from speed import speed_values

from prostate_mim.formats.monai_state import DYNUNET
from prostate_mim.hub.release import CARD, CONFIG
from prostate_mim.nets import build_encoder
from prostate_mim.spec import InputSpec

TEMPLATE = CARDS / "TEMPLATE.md"
RESULTS, ELSEWHERE = "results.json", "imagenet_elsewhere"
WATTS_PER_CORE = 10.0
"""Assumed; nothing was measured."""


def render(folder: Path) -> str:
    """The card of a model's folder. Every number comes from a file in it.

    Raises:
        KeyError: the template asks for something that there is not.
    """
    values = Facts(folder).values()
    asked = set(re.findall(r"{{(\w+)}}", TEMPLATE.read_text()))
    if asked != set(values):
        raise KeyError(f"TEMPLATE.md and cards.py differ in {sorted(asked ^ set(values))}")
    text = TEMPLATE.read_text()
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def lint(folder: Path) -> list[str]:
    """What is wrong with the card of a model's folder; empty if nothing."""
    text = (folder / CARD).read_text()
    problems = [f"section {title!r} is missing" for title in sections() if f"\n## {title}\n" not in text]
    wanted, found = render(folder).splitlines(), text.splitlines()
    for number, (one, other) in enumerate(zip(wanted, found, strict=False), start=1):
        if one != other:
            problems.append(f"line {number} is {other[:120]!r}; the files beside it say {one[:120]!r}")
            break
    if len(wanted) != len(found):
        problems.append(f"it has {len(found)} lines, the template and the files make {len(wanted)}")
    problems += [
        f"picture {name} is missing" for name in re.findall(r"\]\((\w+\.png)\)", text) if not (folder / name).exists()
    ]
    return problems


def sections() -> list[str]:
    """Titles of the template's sections."""
    return re.findall(r"^## (.+)$", TEMPLATE.read_text(), re.MULTILINE)


class Facts:
    """What a model's folder says, ready for the template."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name
        self.recipe: Recipe = read_recipe(self.name)
        self.recipe_text = (folder / FILE).read_text()
        self.results: dict[str, Any] = json.loads((folder / RESULTS).read_text())
        self.config = json.loads((folder / CONFIG).read_text())
        self.spec = InputSpec.from_dict(self.config["spec"])
        self.encoder = build_encoder(self.config["architecture"])
        terms = tomllib.loads(Path(__file__).with_name("terms.toml").read_text())
        self.license, self.summary, self.data = terms["license"], terms["summary"], terms["data"]
        if self.recipe.pretraining.begin.startswith("imagenet"):
            self.data = [*self.data, terms["imagenet"]]

    @property
    def phantoms(self) -> int:
        """How many it saw: the number in the manifest's name."""
        return int("".join(letter for letter in self.recipe.manifest if letter.isdigit()) or 0)

    @property
    def parameters(self) -> int:
        """Of the network."""
        return sum(value.numel() for value in self.encoder.parameters())

    def values(self) -> dict[str, str]:
        """By the template's names."""
        masked, gland = self.results["masked_error"], self.results["gland"]
        spacing = self.spec.spacing_mm_zyx
        return {
            "front_matter": self.front_matter(),
            "name": self.name,
            "architecture": self.config["architecture"],
            "parameters": f"{self.parameters / 1e6:.1f} M",
            "about": self.recipe.about,
            "measured": self.measured(),
            "size": " x ".join(map(str, self.spec.size_zyx)),
            "spacing": " x ".join(f"{mm:g}" for mm in spacing),
            "extent": " x ".join(f"{mm:g}" for mm in self.spec.size_mm_zyx),
            "clip": " and ".join(f"{p:g}" for p in self.spec.clip_percentiles),
            "stages": self.stages(),
            "fingerprint": self.spec.fingerprint,
            "formats": self.formats(),
            "terms": "\n".join(f"- **{one['name']}** ({one['license']}): {one['text']}." for one in self.data)
            + f"\n- **phantoms**: {self.phantoms} synthetic studies of `prostate-mim phantom`, nobody's data.",
            "license": f"`{self.license}`, {self.summary}",
            "recipe": self.recipe_text.strip(),
            "script": self.results["script"],
            "seed": str(self.results["seed"]),
            "imagenet": "" if "imagenet" in gland else "No ImageNet weights fit this network.",
            "evaluation": "\n".join(self.evaluation()),
            "ratio": f"{100 * masked['ratio']:.0f}",
            "windows": str(masked["windows"]),
            "centred": shown(masked["interpolation_with_true_mean"]),
            "block_mean": shown(masked["block_mean"]),
            "fitted": str(gland["fitted"]),
            "dice": f"{shown(gland['dice'])}, of random weights {shown(gland['random']['dice'])}",
            "lesions": lesion_counts(self.results["lesions"]),
            "failures": "\n".join(f"- {line}" for line in self.failures()),
            "bias": "\n".join(self.bias()),
            **speed_values(self.folder),
            "cost": self.cost(),
            "cite": self.cite(),
        }  # fmt: skip

    def formats(self) -> str:
        """What ``export`` makes of it."""
        every = "`export --onnx`; `export --bundle DIR`, a MONAI bundle"
        if not self.config["architecture"].startswith("resenc"):
            return f"{every}. No stock MONAI class has this network"
        return (
            f"{every}; `export --monai FILE`, a state dict that loads with `strict=True` into `{DYNUNET}`; "
            "`export --nnunet DIR`, initial weights for nnU-Net v2"
        )

    def stages(self) -> str:
        """Channels and mm of every stage."""
        found = []
        for one in self.encoder.stage_info:
            cell = [n * mm for n, mm in zip(one.stride_zyx, self.spec.spacing_mm_zyx, strict=True)]
            found.append(f"{one.channels} channels of " + " x ".join(f"{mm:g}" for mm in cell) + " mm")
        return "; ".join(found)

    def comparisons(self) -> list[tuple[str, str, list[float], list[float], list[float], str, bool]]:
        """(what, against, own, theirs, difference, asked, met) of every bar."""
        masked = self.results["masked_error"]
        found = [
            ("masked error, lower is better", "interpolation", masked["model"], masked["interpolation"],
             masked["minus_interpolation"], "below 0", masked["minus_interpolation"][0] < 0),
        ]  # fmt: skip
        for title, key in (("gland probe, AUROC", "gland"), ("lesion probe, AUROC", "lesions")):
            probe = self.results[key]
            for name in ("random", "imagenet"):
                if name in probe:
                    difference = probe[f"minus_{name}"]["auroc"]
                    found.append(
                        (title, f"{'ImageNet' if name == 'imagenet' else name} weights", probe["auroc"],
                         probe[name]["auroc"], difference, "above 0", difference[0] > 0)
                    )  # fmt: skip
        return found

    def elsewhere(self) -> list[str]:
        """Rows about ImageNet's weights in another network, which ask for nothing."""
        return [
            f"| {title} | {shown(probe['auroc'])} | ImageNet in effnet-lite0 | {shown(probe[ELSEWHERE]['auroc'])} | "
            f"{signed(probe[f'minus_{ELSEWHERE}']['auroc'])} | nothing | another network |"
            for title, probe in (
                ("gland probe, AUROC", self.results["gland"]),
                ("lesion probe, AUROC", self.results["lesions"]),
            )
            if ELSEWHERE in probe
        ]

    def evaluation(self) -> list[str]:
        """Rows of the table."""
        return [
            f"| {what} | {shown(own)} | {against} | {shown(theirs)} | {signed(difference)} | {asked} | "
            f"{'met' if met else '**missed**'} |"
            for what, against, own, theirs, difference, asked, met in self.comparisons()
        ] + self.elsewhere()

    def measured(self) -> str:
        """One sentence about the bars."""
        missed = [
            f"{what.partition(',')[0]} against {against}" for what, against, *_, met in self.comparisons() if not met
        ]
        return "What was asked of it on held-out patients it does." if not missed else (
            f"On held-out patients it misses what was asked in {len(missed)} of {len(self.comparisons())} bars: "
            f"{'; '.join(missed)}."
        )  # fmt: skip

    def failures(self) -> list[str]:
        """Those that were measured, and those that are known."""
        measured = [
            f"{what.partition(',')[0]}: not better than {against} ({signed(difference)})"
            for what, against, _, _, difference, _, met in self.comparisons()
            if not met
        ]
        unsure = [
            f"{what.partition(',')[0]}: better than {against} by {signed(difference)}, which may be chance"
            for what, against, _, _, difference, _, met in self.comparisons()
            if met and difference[1] <= 0 <= difference[2]
        ]
        return [
            *measured,
            *unsure,
            "very little data (44 real volumes) and short training: a first version, not a foundation model",
            "scanners, coils and protocols beyond those named above were never seen",
            "near the border of a volume, padding shows where a crop lies: features know it",
        ]

    def bias(self) -> list[str]:
        """Rows of the table."""
        gland, masked = self.results["gland"], self.results["masked_error"]
        rows = []
        for title, key in (("centre ", "by_centre"), ("", "by_coil")):
            for name, (area, count) in gland[key].items():
                error = masked[key].get(name)
                where = f"{title}{name}" if name != "prostatex" else "PROSTATEx"
                rows.append(f"| {where} | {count} | {area:.3f} | {f'{error[0]:.3f}' if error else '-'} |")
        return rows

    def cost(self) -> str:
        """Hours and an estimate of energy."""
        cost = self.results["cost"]
        energy = cost["core_hours"] * WATTS_PER_CORE / 1000
        return (
            f"{cost['steps']:,} steps, {cost['crops']:,} crops, {cost['core_hours']:.1f} core hours on "
            f"{cost['hardware']} (shared; no GPU): about {energy:.3f} kWh at an assumed {WATTS_PER_CORE:g} W a core. "
            "Nothing was measured with a meter, and trials of the recipe are not counted."
        )

    def cite(self) -> str:
        """Of the network's own papers."""
        papers = {
            "resenc": "Network: Isensee et al. 2024 (residual encoders of nnU-Net).",
            "resnet": "Network: He et al. 2016; Chen et al. 2019 (MedicalNet).",
            "convnext": "Network and method: Woo et al. 2023 (ConvNeXt V2, FCMAE).",
            "effnet": "Network: Tan and Le 2019. Averages: Wortsman et al. 2022. Features: Baevski et al. 2022.",
        }
        return next(text for key, text in papers.items() if self.config["architecture"].startswith(key))

    def front_matter(self) -> str:
        """YAML for hubs, with the model-index."""
        results = [
            EvalResult(
                task_type="image-feature-extraction", task_name=f"{title}, frozen features",
                dataset_type=f"heldout-{key}", dataset_name=f"{title} of held-out patients", metric_type="auroc",
                metric_name="AUROC",
                metric_value=self.results[key]["auroc"][0],
            )
            for title, key in (("gland voxels", "gland"), ("lesion crops", "lesions"))
        ]  # fmt: skip
        results.append(
            EvalResult(
                task_type="image-to-image", task_name="masked reconstruction inside the gland",
                dataset_type="heldout-volumes", dataset_name="volumes of held-out patients", metric_type="mse",
                metric_name="error in block variances", metric_value=self.results["masked_error"]["model"][0],
            )
        )  # fmt: skip
        own = {
            "kind": self.config["kind"], "architecture": self.config["architecture"],
            "recipe": self.name.partition(".")[2], "parameters": self.parameters,
            "spec_fingerprint": self.spec.fingerprint, "weights_sha256": self.results["weights_sha256"],
            "data": [{"name": one["name"], "license": one["license"]} for one in self.data],
            "repository": "", "revision": "",
        }  # fmt: skip
        data = ModelCardData(
            license="other", license_name=self.license, library_name="prostate-mim",
            pipeline_tag="image-feature-extraction",
            tags=["medical", "mri", "prostate", "3d", "masked-image-modelling"], model_name=self.name,
            eval_results=results, prostate_mim=own,
        )  # fmt: skip
        return f"---\n{data.to_yaml()}\n---"


def shown(values: list[float]) -> str:
    """A mean with its interval."""
    value, low, high = values
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def signed(values: list[float]) -> str:
    """A difference with its interval."""
    value, low, high = values
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def lesion_counts(found: Mapping[str, Any]) -> str:
    """How many there are."""
    return f"{found['lesions']} held-out findings ({found['positives']} significant) of {found['patients']} patients"
