"""The command explain: what in the crop speaks for label 1, as a map on the study's own grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prostate_mim.cli import options
from prostate_mim.cli.arguments import find_classifier, read_place, read_spacing
from prostate_mim.console import numbers, show
from prostate_mim.errors import UsageError

if TYPE_CHECKING:
    from prostate_mim.classifier import LesionClassifier
    from prostate_mim.looking import Looked
    from prostate_mim.saliency import Explanation

_ENDINGS = (".nii.gz", ".nii", ".mha")
_BARE = (".npy", ".npy.gz", ".npz")


def explain(
    study: options.StudyFile = None,
    model: options.Classifier = "",
    out: Annotated[Path | None, typer.Option("--out", help="The map to write: .nii.gz, .nii or .mha.")] = None,
    manifest: options.Rows = None,
    row: Annotated[int | None, options.option(help="Which row of --manifest.", default="1, the first")] = None,
    position: options.Position = "",
    spacing: options.Spacing = "",
    mask: Annotated[
        list[str] | None, typer.Option(help="name=file: a mask for the model's channels and the page; repeatable.")
    ] = None,
    method: Annotated[str, typer.Option(help="gradcam, hirescam (cell by cell) or occlusion (slow).")] = "gradcam",
    stage: Annotated[
        int | None, options.option(help="Of gradcam, hirescam: -1 the coarsest, -2 finer, and so on.", default="-1")
    ] = None,
    box_mm: Annotated[
        str, options.option("--box-mm", help="Of occlusion: the covering box, mm, 'z y x'.", default="12 12 12")
    ] = "",
    html: Annotated[Path | None, typer.Option(help="Also a page with the map over the image (.html).")] = None,
    strict: options.Strict = False,
    check: Annotated[
        bool, typer.Option("--check", help="Also shuffle the weights, step by step: does the map change?")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Show what in the crop raises the model's score: a map on the study's grid, 0 to 1."""
    find_classifier(model)
    settings, place, apart = _settings(method, stage, box_mm), read_place(position), read_spacing(spacing)
    from prostate_mim.looking import check_html, open_looked

    target = _check_out(out, study)
    if html is not None:
        check_html(html)
    looked = open_looked(
        study=study, masks=mask or (), manifest=manifest, row=row, position_mm_lps=place, spacing_mm_zyx=apart
    )  # fmt: skip
    flags = _warn(looked, strict)
    values = _explain(model, looked, settings, target, html, check, _file_of(study, manifest, row))
    for flag in values["flags"]:
        typer.echo(f"warning: {flag}", err=True)
    values["flags"] = flags + values["flags"]
    if as_json:
        show(values, True)
    else:
        typer.echo("\n".join(_lines(values)))


def _check_out(out: Path | None, study: Path | None) -> Path:
    """The map's file, before any work; its folder is made."""
    from prostate_mim.files import make_folder

    if out is None:
        raise UsageError("--out is missing; name the map to write, such as map.nii.gz")
    if not out.name.lower().endswith(_ENDINGS):
        raise UsageError(f"{out}: a map is written as {', '.join(_ENDINGS)}; choose a name that ends so")
    if out.is_dir():
        raise UsageError(f"{out}: is a folder; choose the name of a file")
    if study is not None and study.exists() and out.exists() and out.samefile(study):
        raise UsageError(f"{out}: is the study itself, which the map would replace; choose another --out")
    make_folder(out.parent)
    return out


def _settings(method: str, stage: int | None, box_mm: str) -> dict[str, Any]:
    """Method and what belongs to it; an option of the other method is refused, not ignored."""
    from prostate_mim.saliency import METHODS

    if method not in METHODS:
        raise UsageError(f"--method {method!r} is unknown; choose {', '.join(METHODS[:-1])} or {METHODS[-1]}")
    if stage is not None and method == "occlusion":
        raise UsageError("--stage is of gradcam and hirescam; leave it out, or choose one of them")
    if box_mm and method != "occlusion":
        raise UsageError("--box-mm is of occlusion; leave it out, or choose --method occlusion")
    settings: dict[str, Any] = {"method": method}
    settings |= {} if stage is None else {"stage": stage}
    return settings | ({"box_mm_zyx": numbers(box_mm, "--box-mm")} if box_mm else {})


def _file_of(study: Path | None, manifest: Path | None, row: int | None) -> Path | None:
    """The file whose order of axes the map takes over; None for a bare array, which has none."""
    from prostate_mim.manifest import read_manifest

    path = study if manifest is None else read_manifest(manifest).rows[(row or 1) - 1].t2w
    return None if path is None or path.name.lower().endswith(_BARE) else path


def _warn(looked: Looked, strict: bool) -> list[str]:
    """Say what is odd about the study; returns the modality guard's flags, which refuse it if strict."""
    from prostate_mim.modality import refuse_flagged
    from prostate_mim.prediction import load_guard

    volume = looked.volume
    report = load_guard()(volume, volume.shape_zyx[0] == 1)
    if strict:
        refuse_flagged(report, volume.source)
    for line in (*(f"{looked.title}: {note}" for note in looked.notes), *(f"warning: {flag}" for flag in report.flags)):
        typer.echo(line, err=True)
    return list(report.flags)


def _explain(
    model: str, looked: Looked, settings: dict[str, Any], out: Path, html: Path | None, check: bool, like: Path | None
) -> dict[str, Any]:
    """Predict, make the map, write what was asked for; plain values of it all."""
    from prostate_mim.classifier import LesionClassifier
    from prostate_mim.console import waiting
    from prostate_mim.looking import Heat, write_page
    from prostate_mim.saliency import explain as explain_volume
    from prostate_mim.saliency import write_saliency

    classifier = LesionClassifier.from_pretrained(model)
    place = looked.focus_mm_lps or next((marker.position_mm_lps for marker in looked.markers), None)
    with waiting("looking for what counts"):
        made = explain_volume(classifier, looked.volume, place, masks=looked.masks, **settings)
        checked = _check(classifier, looked, place, settings) if check else {}
    write_saliency(made, out, like)
    values = made.to_dict() | checked | {"out": str(out), "flags": list(made.prediction.flags)}
    if html is not None:
        focus = made.hottest_mm_lps or made.centre_mm_lps
        shown = replace(looked, heat=Heat(made.volume, _words(made)), focus_mm_lps=focus)
        values["html"] = str(write_page(shown, html))
    return values


def _check(classifier: LesionClassifier, looked: Looked, place: Any, settings: dict[str, Any]) -> dict[str, Any]:
    import torch

    from prostate_mim.saliency import cascade, crop_saliency, depends_on_weights

    batch = classifier.prepare(looked.volume, place, looked.masks)
    steps = cascade(
        classifier, batch, lambda model, crop: crop_saliency(model, crop, **settings), torch.Generator().manual_seed(0)
    )
    found = [{"shuffled": step.what, "rank": step.rank, "ssim": step.ssim} for step in steps]
    return {"check": found, "depends_on_weights": depends_on_weights(steps)}


def _words(made: Explanation) -> str:
    """What the page says of the map."""
    cell = " x ".join(f"{mm:g}" for mm in made.cell_mm_zyx[::-1])
    how = {"gradcam": "Grad-CAM, cells", "hirescam": "HiResCAM, cells"}.get(made.method, "Occlusion, boxes")
    found = f"probability {made.prediction.probability:.3f} by {made.prediction.model}"
    if made.empty:
        return f"Nothing in the crop speaks for label 1; {found}. {how} of {cell} mm."
    return f"What speaks for label 1; {found}. {how} of {cell} mm. Not an outline of a lesion."


def _lines(values: dict[str, Any]) -> list[str]:
    """For a person."""
    made = [
        f"probability: {values['probability']:.4f}  ({values['model']} {values['revision']}, spec {values['spec']})"
    ]
    if values["hottest_mm_lps"] is None:
        made.append("map: empty; nothing in the crop speaks for label 1")
    else:
        x, y, z = values["hottest_mm_lps"]
        near, even = values["share_within_10_mm"], values["even_share_within_10_mm"]
        made += [
            f"hottest: {x:.1f} {y:.1f} {z:.1f} mm LPS, {values['distance_mm']:.1f} mm from the centre of the crop",
            f"near: {near:.0%} of the map within 10 mm of the centre; {even:.0%} if it were even",
            f"above half: {values['half_ml']:.2f} ml, told apart by {_cell(values['cell_mm_zyx'])} mm (z y x)",
        ]
    if values["in_padding"] >= 0.01:
        made.append(f"padding: {values['in_padding']:.0%} of the map lay outside of the image, and was left out")
    if "check" in values:
        last = values["check"][-1]
        said = "it depends on the model" if values["depends_on_weights"] else "do not read it: it shows the image alone"
        made.append(f"check: with all weights shuffled, rank {last['rank']:.2f}, SSIM {last['ssim']:.2f}; {said}")
    return made + [f"{name}: {values[name]}" for name in ("out", "html") if name in values]


def _cell(cell: list[float]) -> str:
    return " x ".join(f"{mm:g}" for mm in cell)
