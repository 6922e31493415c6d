"""Fresh environments: interpreters of this machine, the wheel installed with newest and lowest dependencies, tried."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from release_requirements import NoLowestError, Plan, Refused, direct, lowest, pinned, plan
from release_rows import FAILED, NOT_RUN, OK, Row, run

VERSIONS = ("3.11", "3.12", "3.13")
_MARKERS = "import json; from pip._vendor.packaging.markers import default_environment as d; print(json.dumps(d()))"
_APART = 1e-4

# Import, list, load, embed a phantom, export, run the export: the wheel alone, in a folder without the source.
SMOKE = """
import json, sys
import numpy as np
import prostate_mim
from prostate_mim import LesionClassifier, OnnxClassifier, PreMIM, list_models
from prostate_mim.phantom import make_study
assert "site-packages" in prostate_mim.__file__, prostate_mim.__file__
encoder = PreMIM.from_pretrained("resenc-s.mim-t2w")
study = make_study(0, 0)
place = study.lesions[0].position_mm_lps
vector = encoder.embed(study.volume, place)
assert vector.shape == (encoder.embedding_size,) and np.isfinite(vector).all()
model = LesionClassifier(encoder, encoder.spec.with_size((8, 48, 48))).eval()
deployed = OnnxClassifier(model.export_onnx("smoke.onnx"), device="cpu")
assert abs(deployed.predict(study.volume, place).probability - model.predict(study.volume, place).probability) < 1e-5
print(json.dumps({"version": prostate_mim.__version__, "models": list_models(), "vector": vector[::64].tolist()}))
"""


def interpreters(asked: list[Path]) -> dict[str, Path | str]:
    """Python version -> an interpreter that runs and is that version, or why there is none.

    Looked at: what was asked for, ``pythonX.Y`` on the path, and installations beside that of this interpreter.
    """
    found: dict[str, Path | str] = {}
    for version in VERSIONS:
        on_path = shutil.which(f"python{version}")
        beside = sorted(Path(sys.base_prefix).parent.glob(f"{version}*/bin/python{version}"))
        given = [*asked, Path(sys.executable), *([Path(on_path)] if on_path else []), *beside]
        fitting = (path for path in given if version_of(path) == version)
        found[version] = next(fitting, f"python{version} is not on this machine; give one with --python")
    return found


def version_of(python: Path) -> str | None:
    """``3.12`` of an interpreter; None where it does not run (a pyenv shim without a version, for one)."""
    try:
        done = run([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], Path.cwd(), seconds=60)
    except OSError:
        return None
    return done.out.strip() if done.code == 0 else None


@dataclass
class Place:
    """A fresh environment.

    Attributes:
        python: its interpreter.
        folder: that it lies in.
        said: what its trial printed; empty before.
    """

    python: Path
    folder: Path
    said: dict[str, Any] = field(default_factory=dict)


def new_place(interpreter: Path, folder: Path) -> Place | str:
    """An empty environment with pip, or in one line why it could not be made."""
    done = run([interpreter, "-m", "venv", folder], folder.parent)
    python = folder / "bin" / "python"
    if done.code:
        return f"venv: {done.reason}"
    return Place(python, folder)


def markers(python: Path, work: Path) -> dict[str, str]:
    """What markers of requirements are compared with in an environment."""
    done = run([python, "-c", _MARKERS], work)
    values: dict[str, str] = json.loads(done.out)
    return {**values, "extra": ""}


def wanted(place: Place, wheel: Path, tree: Path, how: str) -> tuple[list[str], str]:
    """Words of ``pip install`` for the wheel with its newest or lowest direct dependencies, and a remark.

    torch is the pinned one in both: whatever else pip finds may be a CUDA build of several gigabytes.

    Raises:
        NoLowestError: a requirement has no lower bound, or torch is not pinned.
    """
    torch = [pinned(tree, "torch")] if any(one.name == "torch" for one in direct(tree)) else []
    if how == "newest":
        return [str(wheel), *torch], ""
    lines = lowest(direct(tree), markers(place.python, place.folder))
    own = lines.pop("torch", None)
    if own is None:
        return [str(wheel), *lines.values()], ""
    found = plan(place.python, [own, *lines.values()], place.folder)
    if isinstance(found, Plan) and not found.cuda:
        return [str(wheel), own, *lines.values()], f"with {own}"
    why = "is not to be had" if isinstance(found, Refused) else "is a CUDA build"
    return [str(wheel), *torch, *lines.values()], f"{torch[0]} in place of {own}, which {why} here"


def install(place: Place, wheel: Path, tree: Path, how: str, options: list[str]) -> tuple[str, str]:
    """Install the wheel: (status, one line).

    Args:
        place: where to.
        wheel: what.
        tree: the export, for setup.cfg and constraints.txt.
        how: ``newest`` or ``lowest``.
        options: further words for pip, such as ``--no-index``.
    """
    try:
        words, remark = wanted(place, wheel, tree, how)
    except NoLowestError as error:
        return FAILED, str(error)
    found = plan(place.python, [*options, *words], place.folder)
    if isinstance(found, Refused):
        return (NOT_RUN if found.offline else FAILED), f"pip: {found.reason}"
    if found.cuda:
        return (
            NOT_RUN,
            f"pip would install {len(found.cuda)} packages of CUDA; let PIP_EXTRA_INDEX_URL name a CPU index",
        )
    done = run(
        [place.python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *options, *words], place.folder
    )
    if done.code:
        return FAILED, f"pip: {done.reason}"
    return OK, f"{len(found.versions)} packages" + (f", {remark}" if remark else "")


def tried(place: Place, command: str | None, smoke: str, work: Path) -> str:
    """Run the trial and the command's help in an environment; the first thing that is wrong, or nothing.

    Args:
        place: where the wheel is installed; gets what the trial printed.
        command: the console script; none if None.
        smoke: Python whose last line is a JSON object.
        work: an empty folder.
    """
    checked = run([place.python, "-m", "pip", "check"], work)
    if checked.code:
        return f"pip check: {checked.reason}"
    done = run([place.python, "-I", "-c", smoke], work, more={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})
    if done.code:
        return f"trial: {done.reason}"
    place.said = json.loads(done.out.strip().splitlines()[-1])
    if command is not None:
        shown = run([place.folder / "bin" / command, "--help"], work)
        if shown.code or command not in shown.out:
            return f"{command} --help: {shown.reason}"
    return ""


def environment(
    interpreter: Path, wheel: Path, tree: Path, folder: Path, how: str, *, smoke: str = SMOKE,
    command: str | None = "prostate-mim", options: tuple[str, ...] = (),
) -> tuple[Row, Place | None]:  # fmt: skip
    """One fresh environment from nothing to a trial that passed; the place where it did, else None."""
    name = f"install, Python {version_of(interpreter)}, {how}"
    place = new_place(interpreter, folder)
    if isinstance(place, str):
        return Row(name, FAILED, place), None
    status, told = install(place, wheel, tree, how, list(options))
    if status != OK:
        return Row(name, status, told), None
    work = folder / "trial"
    work.mkdir()
    problem = tried(place, command, smoke, work)
    return (Row(name, FAILED, problem), None) if problem else (Row(name, OK, told), place)


def same_numbers(said: list[dict[str, Any]]) -> Row:
    """Whether all environments gave one vector, whatever their versions."""
    if len(said) < 2:
        return Row("same numbers", NOT_RUN, f"{len(said)} environments were installed; two are compared")
    first, *others = ([float(v) for v in one["vector"]] for one in said)
    apart = max(abs(a - b) for one in others for a, b in zip(first, one, strict=True))
    told = f"{len(said)} environments, {apart:.1e} apart at most"
    return Row("same numbers", OK if apart <= _APART else FAILED, told)
