"""Which patient ids are one person: the table of PROSTATEx and PI-CAI."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from prostate_mim.errors import ManifestError, NotFoundError

# Where the PI-CAI authors' label repository keeps the table, and a CSV made of it.
_MAPPINGS = ("additional_resources/ProstateX-mapping.json", "ProstateX-mapping.json")
_TABLES = ("prostatex_to_picai.csv", "clinical_information/prostatex_to_picai.csv")
_PICAI = "picai"


def read_aliases(picai_labels: Path) -> dict[str, str]:
    """Which patients of PROSTATEx and PI-CAI are one person, from the user's copy of the picai_labels repository.

    Its ``additional_resources/ProstateX-mapping.json`` maps ``ProstateX-0000_07-07-2011`` (patient, date of the study)
    to ``11373_1001396`` (patient, study). Patients are joined, not studies: the dates of the two sets differ. A
    CSV ``prostatex_to_picai.csv`` with columns ``ProxID`` and ``picai_id`` serves as well.

    Args:
        picai_labels: the folder, or one of the two files.

    Returns:
        Patient id -> person (the PI-CAI patient id), for both sets' ids; those of PI-CAI also as ``picai-11373``.

    Raises:
        NotFoundError: no such table is there.
        ManifestError: the table is not of this form.
    """
    table = _find_table(Path(picai_labels))
    pairs = _json_pairs(table) if table.suffix == ".json" else _csv_pairs(table)
    person: dict[str, str] = {}
    for number, (prostatex, picai) in enumerate(pairs, 1):
        patient, study = prostatex.partition("_")[0], picai.partition("_")[0]
        if not patient.lower().startswith("prostatex") or not study.isdigit():
            raise ManifestError(
                f"{table.name}: entry {number} is not a ProstateX id and a PI-CAI 'patient_study'; get the file again"
            )
        known = person.get(patient, study)
        if known != study:  # one PROSTATEx patient under two PI-CAI numbers: one person throughout
            person = {name: known if own == study else own for name, own in person.items()}
        person[patient] = known
        person[study] = person[f"{_PICAI}-{study}"] = known
    return person


def _find_table(source: Path) -> Path:
    if source.is_file():
        return source
    for name in (*_MAPPINGS, *_TABLES):
        if (source / name).is_file():
            return source / name
    raise NotFoundError(f"{source}: holds no {_MAPPINGS[0]}; give the folder of the picai_labels repository")


def _json_pairs(table: Path) -> list[tuple[str, str]]:
    try:
        values = json.loads(table.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ManifestError(f"{table.name}: cannot be read as JSON; get the file again") from error
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise ManifestError(f"{table.name}: is no table of ProstateX -> PI-CAI ids; get the file again")
    return list(values.items())


def _csv_pairs(table: Path) -> list[tuple[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{table.name}: cannot be read as a UTF-8 CSV") from error
    if not rows or not {"ProxID", "picai_id"} <= set(rows[0]):
        raise ManifestError(f"{table.name}: needs the columns ProxID and picai_id")
    return [(row["ProxID"] or "", row["picai_id"] or "") for row in rows]


def persons(aliases: Mapping[str, str]) -> Callable[[str], str]:
    """A function patient id -> person; ids that nobody joined are kept apart from the names of persons."""
    known = {_letters(patient): person for patient, person in aliases.items()}

    def person_of(patient: str) -> str:
        person = known.get(_letters(patient))
        return f"alone {patient}" if person is None else f"joined {person}"

    return person_of


def _letters(patient: str) -> str:
    return "".join(letter for letter in patient.casefold() if letter.isalnum())
