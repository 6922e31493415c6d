#!/usr/bin/env python3
"""Is this commit fit to be released? A table of what is ok, what failed and what could not be run here, and why.

    make release-check                                    # HEAD, an hour at most, mostly pip
    python tests/release/check.py --only build contents   # parts of it; --list names them
    python tests/release/check.py --working-tree --json   # what a commit of the working tree would hold

Exit code 0 where nothing failed. What could not be run (no network, no such Python) is said and does not fail.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from release_agreement import citation, citation_problems, model_problems, version_problems
from release_build import ROOT, BuildError, build, changed, commit_time, differences, export
from release_contents import sdist_problems, wheel_problems
from release_licences import licence_row, listed
from release_places import Place, environment, interpreters, same_numbers
from release_rows import FAILED, NOT_RUN, OK, Ran, Row, exit_code, judged, run, table

PACKAGE = "prostate_mim"
NEEDED = (
    "prostate_mim/py.typed", "prostate_mim/hub/models.json", "prostate_mim/modality/reference.safetensors",
    "prostate_mim/weights/resenc-s.mim-t2w/model.safetensors", "prostate_mim/looking/niivue/niivue.umd.js",
)  # fmt: skip
TOOLS = ("build", "setuptools", "wheel", "twine", "pip-audit")


@dataclass
class State:
    """What the parts hand on to each other.

    Attributes:
        work: a folder of this run.
        tree: the export.
        epoch: seconds since 1970 that archives get.
        pythons: interpreters that were asked for.
        tag: of git, or None.
        tools: an interpreter with the tools of ``TOOLS``, or in one line why there is none.
        built: sdist and wheel; empty before they are.
        kept: an environment with the newest dependencies, for audit and licences.
    """

    work: Path
    tree: Path
    epoch: int
    pythons: list[Path] = field(default_factory=list)
    tag: str | None = None
    tools: Path | str | None = None
    built: list[Path] = field(default_factory=list)
    kept: Place | None = None

    @property
    def wheel(self) -> Path | None:
        """The wheel, once it is built."""
        return next((path for path in self.built if path.suffix == ".whl"), None)


def versions(state: State) -> Iterator[Row]:
    """One version, and a valid citation."""
    yield judged("citation", citation_problems(citation(state.tree)), "valid Citation File Format 1.2.0")
    problems = version_problems(state.tree, wheel=state.wheel, tag=state.tag)
    yield judged(
        "one version", problems, "_version.py, CHANGELOG.md, CITATION.cff" + (", wheel" if state.wheel else "")
    )


def models(state: State) -> Iterator[Row]:
    """Models are those of the list."""
    problems, told = model_problems(state.tree)
    yield judged("model hashes", problems, told)


def built(state: State) -> Iterator[Row]:
    """Wheel and sdist, twice."""
    python = _tools(state)
    if isinstance(python, str):
        yield Row("build", NOT_RUN, python)
        return
    try:
        state.built = build(python, state.tree, state.work / "dist", state.epoch)
        again = build(python, state.tree, state.work / "again", state.epoch)
    except BuildError as error:
        yield Row("build", FAILED, str(error))
        return
    yield Row("build", OK, ", ".join(f"{path.name} {path.stat().st_size / 1e6:.1f} MB" for path in state.built))
    found = [line for one, two in zip(state.built, again, strict=True) for line in differences(one, two)]
    yield judged("reproducible", found, "two builds are equal byte for byte")


def contents(state: State) -> Iterator[Row]:
    """What is in them."""
    if state.wheel is None:
        yield Row("contents", NOT_RUN, "nothing was built")
        return
    problems = wheel_problems(state.wheel, state.tree, PACKAGE, NEEDED)
    for path in state.built:
        problems += sdist_problems(path, state.tree, PACKAGE) if path != state.wheel else []
    yield judged("contents", problems, f"{PACKAGE} and its metadata only, weights included")


def twine(state: State) -> Iterator[Row]:
    """Will an index take them?"""
    python = _tools(state)
    if isinstance(python, str) or not state.built:
        yield Row("twine check", NOT_RUN, python if isinstance(python, str) else "nothing was built")
        return
    done = run([python, "-m", "twine", "check", "--strict", *state.built], state.work, seconds=300)
    missing = "No module named" in done.error
    status = NOT_RUN if missing else FAILED if done.code else OK
    yield Row("twine check", status, done.reason if done.code else f"--strict, {len(state.built)} files passed")


def installed(state: State) -> Iterator[Row]:
    """Fresh environments on every Python that is here."""
    if state.wheel is None:
        yield Row("install", NOT_RUN, "nothing was built")
        return
    said = []
    for version, python in interpreters(state.pythons).items():
        if isinstance(python, str):
            yield Row(f"install, Python {version}", NOT_RUN, python)
            continue
        for how in ("newest", "lowest"):
            folder = state.work / f"python{version}-{how}"
            row, place = environment(python, state.wheel, state.tree, folder, how)
            yield row
            said += [place.said] if place else []
            if place is not None and state.kept is None and how == "newest":
                state.kept = place
            else:
                shutil.rmtree(folder, ignore_errors=True)
    yield same_numbers(said)


def audit(state: State) -> Iterator[Row]:
    """Known vulnerabilities of what the newest environment holds."""
    python = _tools(state)
    if isinstance(python, str) or state.kept is None:
        yield Row("pip-audit", NOT_RUN, python if isinstance(python, str) else "no environment was installed")
        return
    packages = next((state.kept.folder / "lib").glob("python*/site-packages"))
    command = [python, "-m", "pip_audit", "--path", packages, "--format", "json", "--progress-spinner", "off"]
    yield audit_row(run(command, state.work, seconds=600))


def audit_row(done: Ran) -> Row:
    """What pip-audit found; ``not run`` with its reason where it could not ask."""
    try:
        found = json.loads(done.out)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return Row("pip-audit", NOT_RUN, done.reason)
    asked = [one for one in found if "skip_reason" not in one]
    bad = [
        f"{one['name']} {one['version']}: {', '.join(v['id'] for v in one['vulns'])}" for one in asked if one["vulns"]
    ]
    if not asked:
        return Row("pip-audit", NOT_RUN, f"none of {len(found)} packages could be asked about: {_skipped(found)}")
    skipped = f", {len(found) - len(asked)} not on the index" if len(asked) < len(found) else ""
    return judged("pip-audit", bad, f"{len(asked)} packages without known vulnerability{skipped}")


def _skipped(found: list[dict[str, str]]) -> str:
    """Why the first of the packages was skipped."""
    return next((" ".join(one["skip_reason"].split())[:200] for one in found), "nothing is installed")


def licences(state: State) -> Iterator[Row]:
    """Licences of what the newest environment holds."""
    if state.kept is None:
        yield Row("licences", NOT_RUN, "no environment was installed")
        return
    yield licence_row(listed(state.kept.python, state.work))


PARTS: dict[str, Callable[[State], Iterator[Row]]] = {
    "models": models, "build": built, "contents": contents, "twine": twine, "versions": versions,
    "install": installed, "audit": audit, "licences": licences,
}  # fmt: skip
"""In the order in which they run; later ones use what earlier ones made."""


def _tools(state: State) -> Path | str:
    """The tools in an environment of their own, pinned, made when first needed."""
    if state.tools is None:
        state.tools = _new_tools(state)
    return state.tools


def _new_tools(state: State) -> Path | str:
    folder = state.work / "tools"
    done = run([sys.executable, "-m", "venv", folder], state.work)
    python = folder / "bin" / "python"
    if done.code == 0:
        pins = state.tree / "constraints.txt"
        done = run([python, "-m", "pip", "install", "--quiet", "-c", pins, *TOOLS], state.work)
    return f"tools cannot be installed: {done.reason}" if done.code else python


def checked(state: State, only: list[str]) -> Iterator[Row]:
    """Rows as they come, of the parts that were asked for, or of all."""
    for name, part in PARTS.items():
        if not only or name in only:
            yield from part(state)


def main(argv: list[str] | None = None) -> int:
    """Check; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ref", default="HEAD", help="commit that is checked")
    parser.add_argument("--working-tree", action="store_true", help="what a commit of the working tree would hold")
    parser.add_argument(
        "--python", type=Path, action="append", default=[], help="a further interpreter; may be repeated"
    )
    parser.add_argument("--tag", help="tag of the release, which must be that of the version")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=[], metavar="PART")
    parser.add_argument("--list", action="store_true", help="name the parts")
    parser.add_argument("--out", type=Path, help="folder for wheel and sdist, which is created")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    if given.list:
        print("\n".join(f"{name:<10} {(part.__doc__ or '').splitlines()[0]}" for name, part in PARTS.items()))
        return 0
    try:
        with tempfile.TemporaryDirectory(prefix="release-") as scratch:
            return _check(given, Path(scratch))
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _check(given: argparse.Namespace, work: Path) -> int:
    tree = export(ROOT, work / "tree", given.ref, working_tree=given.working_tree)
    state = State(work, tree, commit_time(ROOT, given.ref), given.python, given.tag)
    rows = [_source(given)]
    for row in checked(state, given.only):
        rows.append(row)
        print(f"{row.name}: {row.status}", file=sys.stderr, flush=True)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        for path in state.built:
            shutil.copy2(path, given.out / path.name)
    found = [row.to_dict() for row in rows]
    print(json.dumps({"exit_code": exit_code(rows), "rows": found}, indent=2) if given.json else table(rows))
    return exit_code(rows)


def _source(given: argparse.Namespace) -> Row:
    """Which source is looked at."""
    others = changed(ROOT)
    if given.working_tree:
        return Row("source", OK, f"the working tree, {others} files not as in HEAD")
    return Row(
        "source", OK, given.ref + (f"; {others} changed files of the working tree are not in it" if others else "")
    )


if __name__ == "__main__":
    sys.exit(main())
