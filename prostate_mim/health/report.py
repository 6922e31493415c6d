"""write_report: one page about a run, finished or going, from what lies in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prostate_mim._version import __version__
from prostate_mim.engine.records import without_paths
from prostate_mim.files import write_text
from prostate_mim.health.drawing import curves_svg, reconstructions_png
from prostate_mim.health.page import Card, Page, inline, render
from prostate_mim.health.panels import SECTIONS, Panel
from prostate_mim.health.run_folder import RunFolder, read_pictures, read_run
from prostate_mim.health.verdict import baseline_of, verdict_of

NAME = "report.html"
PICTURED_STEPS = 5
_EVERYWHERE = ("health/error", "health/loss")  # drawn only where inside and outside are not known


def write_report(run: Path, *, state: str | None = None) -> Path:
    """Write ``run/report.html``: self-contained, without a script.

    Args:
        run: a run folder. What is missing or still being written is left out.
        state: ``running``, ``finished`` or ``stopped``; None judges by the folder.

    Returns:
        Path of the page.

    Raises:
        UsageError: the folder cannot be written.
        ResourceError: the disk is full.
    """
    path = Path(run) / NAME
    write_text(path, render(make_page(Path(run), state)))
    return path


def make_page(run: Path, state: str | None = None) -> Page:
    """What the page says; see ``write_report``."""
    folder = read_run(run)
    total, verdict = _at(folder.config, "loop", "steps"), verdict_of(folder)
    sections = [
        (heading, line, [_card(panel, folder) for panel in panels if _shown(panel, folder)])
        for heading, line, panels in SECTIONS
    ]
    return Page(
        title=f"Pretraining {folder.config.get('name') or run.resolve().name}",
        state=state or folder.state,
        subtitle=_subtitle(folder, total),
        progress=folder.last_step / total if isinstance(total, int) and total > 0 else None,
        tiles=_tiles(folder),
        verdict=None if verdict is None else (f"{verdict.subject.capitalize()}: {verdict.text}.", verdict.restored),
        warnings=folder.warnings(),
        looked=bool(folder.health()),
        sections=sections,
        pictures=_pictures(run),
        tables=(
            ("Data", _data(folder)),
            ("Run", _run(folder)),
            ("Hardware", flat(_dict(folder.record.get("hardware")))),
            ("Code and packages", flat({key: _dict(folder.record.get(key)) for key in ("code", "packages")})),
            ("Configuration", flat(folder.config)),
        ),
    )


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values under dotted names, as text; what looks like a path is replaced."""
    found: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found.update(flat(value, f"{name}."))
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for number, each in enumerate(value, 1):
                found.update(flat(each, f"{name}.{number}."))
        elif value is not None:
            found[name] = _text(value, key)
    return found


def _card(panel: Panel, folder: RunFolder) -> Card:
    svg = curves_svg(panel, folder.curve, folder.last_step)
    _, values = folder.curve(panel.keys[0])
    now = format(values[-1], panel.form) if len(values) else ""
    alt = f"{panel.title} over training steps, now {now}" if now else f"{panel.title} over training steps"
    way = {"lower": "↓ lower is better", "higher": "↑ higher is better"}.get(panel.better, "")
    return Card(panel.title, inline(svg, "svg+xml"), alt, panel.text, now, way)


def _shown(panel: Panel, folder: RunFolder) -> bool:
    if panel.keys[0] in _EVERYWHERE and len(folder.curve(f"{panel.keys[0]}_gland")[0]):
        return False
    return any(len(folder.curve(key)[0]) for key in panel.keys)


def _tiles(folder: RunFolder) -> list[tuple[str, str]]:
    by_gland = bool(len(folder.curve("health/error_gland")[0]))
    region, where = ("_gland", "inside the gland") if by_gland else ("", "on hidden tissue")
    guess = baseline_of(folder.config)
    corrected = ", mean corrected" if guess == "interpolation_centred" else ""
    names = (
        ("loss", "loss", ".3f"),
        (f"health/error{region}", f"error {where}", ".3f"),
        (f"health/{guess}{region}", f"interpolation's error there{corrected}", ".3f"),
        (f"health/block_mean{region}", "the block mean's error there", ".3f"),
        ("health/views_matched", "views matched", ".3f"),
        ("health/gland_auroc", "gland probe, AUROC", ".3f"),
        ("health/linear_auroc", "lesion probe, AUROC", ".3f"),
        ("health/rank", "effective rank", ".1f"),
        ("studies_per_second", "crops per second", ".1f"),
    )
    found = [(folder.curve(key)[1], name, form) for key, name, form in names]
    return [(format(values[-1], form), name) for values, name, form in found if len(values)]


def _subtitle(folder: RunFolder, total: object) -> str:
    parts = [f"step {folder.last_step}" + (f" of {total}" if isinstance(total, int) else "")]
    if folder.record.get("started"):
        parts.append(f"started {_text(folder.record['started'])}")
    if folder.record.get("finished"):
        parts.append(f"finished {_text(folder.record['finished'])}")
    resumed = folder.record.get("resumed")
    if isinstance(resumed, list) and resumed:
        parts.append(f"resumed {len(resumed)} times" if len(resumed) > 1 else "resumed once")
    parts.append(f"page written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    return " · ".join(parts)


def _pictures(run: Path) -> Card | None:
    pictures = read_pictures(run, PICTURED_STEPS)
    if not pictures:
        return None
    return Card(
        "The same studies over time",
        inline(reconstructions_png(pictures), "png"),
        "One slice of each pictured study: as it is, with hidden blocks in blue, and reconstructed at several steps",
        "One slice of each study. Blue blocks are hidden from the encoder, in all slices of the block; the columns to "
        "the right show what it makes of them as training goes on. With targets normalised by block, each block's "
        "mean and contrast are taken from the study.",
    )


def _data(folder: RunFolder) -> dict[str, str]:
    """Counts and sizes only: no name, no path, no identifier."""
    spec = _dict(folder.config.get("spec"))
    counts = {**_dict(folder.record.get("counts")), **_dict(folder.first.get("studies"))}
    rows = {name.replace("_", " "): str(n) for name, n in counts.items() if isinstance(n, int | float)}
    if "spacing_mm_zyx" in spec:
        rows["voxel size after resampling, mm (z, y, x)"] = _text(spec["spacing_mm_zyx"])
    if "size_zyx" in spec:
        rows["training crop, voxels (z, y, x)"] = _text(spec["size_zyx"])
    if folder.record.get("data_fingerprint"):
        rows["fingerprint of the prepared data"] = _text(folder.record["data_fingerprint"])
    return rows


def _run(folder: RunFolder) -> dict[str, str]:
    record = folder.record
    kept = {key: record.get(key) for key in ("task", "seed", "ranks", "started", "finished", "finished_step")}
    kept["SHA-256 of the weights"] = record.get("weights_sha256")
    command = record.get("command")
    if isinstance(command, list):
        kept["command"] = " ".join(str(word) for word in command)
    resumed = record.get("resumed")
    steps = [str(_dict(each).get("step")) for each in resumed] if isinstance(resumed, list) else []
    kept["resumed at step"] = ", ".join(steps) or None
    kept["report by"] = f"prostate-mim {__version__}"
    return {key.replace("_", " "): str(value) for key, value in kept.items() if value is not None}


def _dict(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _at(values: Mapping[str, Any], *keys: str) -> Any:
    found: Any = values
    for key in keys:
        found = _dict(found).get(key)
    return found


def _text(value: object, key: str = "") -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return " x ".join(_text(each) for each in value) if key.endswith("zyx") else ", ".join(map(_text, value))
    if isinstance(value, int) and key.endswith("_bytes"):
        return f"{value / 2**30:.1f} GiB"
    if isinstance(value, str) and key != "name":  # resenc-s.mim looks like a file
        return without_paths(value)
    return str(value)
