"""The licences of what is installed with the package: known and permissive, or looked at with a reason written down."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from release_rows import FAILED, NOT_RUN, OK, Row, run

# Run in the environment: what each distribution says of itself.
LIST = """
import json
from importlib.metadata import distributions
rows = {}
for one in distributions():
    meta = one.metadata
    rows[meta["Name"]] = {
        "version": meta["Version"], "expression": meta.get("License-Expression") or "",
        "text": (meta.get("License") or "").strip().split("\\n")[0],
        "classifiers": [c.split(" :: ")[-1] for c in meta.get_all("Classifier") or [] if c.startswith("License ::")],
    }
print(json.dumps(rows))
"""
_COPYLEFT = re.compile(
    r"\b(A?GPL|LGPL|MPL|EPL|CDDL|EUPL|OSL|CeCILL|SSPL|CC-BY-SA)|General Public|Mozilla Public|Eclipse"
)
_KNOWN = re.compile(
    r"\b(MIT|BSD|Apache|ISC|PSF|Python Software Foundation|Unlicense|Zlib|0BSD|HPND|CC0|BSL-1\.0|Public Domain)\b", re.I
)
REVIEWED = {
    "certifi": "MPL-2.0 asks for the source of changed files; it comes from the index, unchanged, and not in our wheel",
    "tqdm": "MPL-2.0 AND MIT asks for the source of changed files; it comes from the index unchanged, not in our wheel",
}
"""Name in lower case -> why it may be used as it is, although its licence is copyleft or not told by its metadata."""


@dataclass(frozen=True)
class Licence:
    """What a distribution says of its licence.

    Attributes:
        name, version: of the distribution.
        told: the licence in the distribution's words; empty where it says none.
        kind: ``permissive``, ``copyleft`` or ``unknown``.
    """

    name: str
    version: str
    told: str
    kind: str


def licence_of(name: str, values: dict[str, str | list[str]]) -> Licence:
    """Judge one distribution; an expression counts before classifiers, those before free text."""
    classifiers = ", ".join(values["classifiers"])
    told = str(values["expression"] or classifiers or values["text"])
    kind = "copyleft" if _COPYLEFT.search(told) else "permissive" if _KNOWN.search(told) else "unknown"
    return Licence(name, str(values["version"]), told[:80], kind)


def listed(python: Path, work: Path) -> list[Licence] | str:
    """Licences of everything installed in an environment, by name, or in one line why they cannot be listed."""
    done = run([python, "-I", "-c", LIST], work)
    if done.code:
        return done.reason
    return [
        licence_of(name, values) for name, values in sorted(json.loads(done.out).items(), key=lambda p: p[0].lower())
    ]


def licence_row(found: list[Licence] | str, reviewed: dict[str, str] | None = None) -> Row:
    """Fails where a licence is copyleft or unknown and nobody wrote down why that is all right."""
    if isinstance(found, str):
        return Row("licences", NOT_RUN, found)
    known = REVIEWED if reviewed is None else reviewed
    odd = [one for one in found if one.kind != "permissive"]
    bad = [f"{one.name}: {one.kind} ({one.told or 'says none'})" for one in odd if one.name.lower() not in known]
    if bad:
        return Row("licences", FAILED, "; ".join(bad))
    told = ", ".join(f"{one.name} ({one.told or 'says none'})" for one in odd)
    return Row("licences", OK, f"{len(found)} distributions, {len(odd)} reviewed" + (f": {told}" if odd else ""))
