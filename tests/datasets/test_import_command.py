"""``data import`` and ``data sets`` as a person types them: what is printed, what is written, and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_series import write_dicom_series
from small_volumes import t2w_volume, write_csv

from prostate_mim import cli
from prostate_mim.datasets import DATASETS
from prostate_mim.errors import ManifestError
from prostate_mim.manifest import read_manifest

Outcome = tuple[int, str, str]
Run = Callable[..., Outcome]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """One patient of PROSTATEx with two findings, of which one lies outside."""
    root = tmp_path / "down loaded"
    write_dicom_series(
        root / "ProstateX-0000" / "07-07-2011" / "4.0-t2tsetra-1", t2w_volume(), patient_id="ProstateX-0000"
    )
    write_csv(
        root / "ProstateX-Findings-Train.csv",
        "ProxID,fid,pos,zone,ClinSig\nProstateX-0000,1,0 0 0,PZ,TRUE\nProstateX-0000,2,0 0 99,PZ,FALSE",
    )
    return root


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr("sys.argv", ["prostate-mim", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call


def test_a_person_reads_counts_reasons_licence_and_citation(tree: Path, tmp_path: Path, run: Run) -> None:
    """All on stdout; the list of what was left out is where the text says."""
    code, out, err = run("data", "import", "prostatex", tree, "--out", tmp_path / "m.csv")
    dataset = DATASETS["prostatex"]
    assert (code, err) == (0, "")
    assert "1 study of 1 patient, 1 lesion\n" in out
    assert "labels: 1 positive, 0 negative\n" in out
    assert "  1  finding whose position lies outside the patient's axial T2w series\n" in out
    assert f"left out: 1 (which: {tmp_path / 'm-skipped.csv'})" in out and (tmp_path / "m-skipped.csv").is_file()
    assert f"licence: {dataset.licence}\n" in out and f"cite: {dataset.citation}\n" in out
    assert "label source: ProstateX-Findings-Train.csv\n" in out and "note: PI-CAI" in out
    assert len(read_manifest(tmp_path / "m.csv").rows) == 1


def test_nothing_left_out_is_said(tree: Path, tmp_path: Path, run: Run) -> None:
    """And no list is written."""
    table = tree / "ProstateX-Findings-Train.csv"
    table.write_text("".join(table.read_text().splitlines(True)[:2]))
    code, out, _ = run("data", "import", "prostatex", tree, "--out", tmp_path / "m.csv")
    assert code == 0 and "left out: none\n" in out
    assert not (tmp_path / "m-skipped.csv").exists()


def test_a_program_reads_json(tree: Path, tmp_path: Path, run: Run) -> None:
    """The same figures, by name."""
    code, out, _ = run("data", "import", "prostatex", tree, "--out", tmp_path / "m.csv", "--json")
    found = json.loads(out)
    assert code == 0
    assert {name: found[name] for name in ("studies", "patients", "lesions", "positives", "negatives")} == {
        "studies": 1,
        "patients": 1,
        "lesions": 1,
        "positives": 1,
        "negatives": 0,
    }
    assert sum(found["skipped"].values()) == 1 and found["manifest"] == str(tmp_path / "m.csv")


def test_nothing_printed_names_a_patient(tree: Path, tmp_path: Path, run: Run) -> None:
    """Who was left out is in the list beside the manifest only."""
    _, out, _ = run("data", "import", "prostatex", tree, "--out", tmp_path / "m.csv")
    assert "ProstateX-0000" not in out
    assert "ProstateX-0000 finding 2" in (tmp_path / "m-skipped.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("prostatx",), 2, "data set 'prostatx' is unknown; did you mean prostatex?"),
        (("zzz",), 2, "data set 'zzz' is unknown; choose "),
        (("prostatex", "--label-source", "mine"), 2, "label source 'mine' is unknown for prostatex; leave it out"),
        (("prostatex", "--labels", "nowhere"), 3, "nowhere: not there; --labels of prostatex is a folder"),
    ],
)
def test_a_mistake_is_one_line_with_what_to_do(
    tree: Path, tmp_path: Path, run: Run, arguments: tuple[str, ...], code: int, message: str
) -> None:
    """The nearest name, or the choice; no manifest is written."""
    name, *options = arguments
    found, out, err = run("data", "import", name, tree, "--out", tmp_path / "m.csv", *options)
    assert (found, out) == (code, "")
    assert err.startswith(f"error: {message}") and err.count("\n") == 1
    assert not list(tmp_path.glob("m*"))


def test_an_existing_manifest_is_not_overwritten(tree: Path, tmp_path: Path, run: Run) -> None:
    """A second import needs another name; the first file keeps its bytes."""
    write_csv(tmp_path / "m.csv", "kept")
    code, _, err = run("data", "import", "prostatex", tree, "--out", tmp_path / "m.csv")
    assert (code, (tmp_path / "m.csv").read_text(encoding="utf-8")) == (2, "kept\n")
    assert "nothing is overwritten" in err


def test_sets_lists_every_one_with_its_licence(run: Run) -> None:
    """As text and as JSON; sorted by name."""
    code, out, _ = run("data", "sets")
    assert code == 0
    for dataset in DATASETS.values():
        assert f"{dataset.name}: {dataset.title}\n    licence: {dataset.licence}\n" in out
        assert not dataset.labels_help or f"    --labels: {dataset.labels_help}" in out
    listed = json.loads(run("data", "sets", "--json")[1])
    assert [item["name"] for item in listed] == sorted(DATASETS)
    assert next(item for item in listed if item["name"] == "prostate-zones")["label_sources"] == "R1, R2"


def test_every_set_says_what_its_terms_ask() -> None:
    """No importer of somebody else's data without licence, citation and origin."""
    for name, dataset in DATASETS.items():
        assert name == dataset.name == name.lower() and " " not in name
        if name not in ("bids", "folder"):  # layouts for one's own data
            assert dataset.licence and dataset.citation and dataset.url.startswith(("https://", "http://"))


def test_only_rows_for_fine_tuning(tree: Path, tmp_path: Path, run: Run) -> None:
    """A second patient without a finding is a row, refused by fine-tuning; --labelled-only leaves it out, counted."""
    write_dicom_series(
        tree / "ProstateX-0001" / "07-08-2011" / "6.0-t2tsetra-2", t2w_volume(), patient_id="ProstateX-0001"
    )
    assert run("data", "import", "prostatex", tree, "--out", tmp_path / "all.csv")[0] == 0
    assert len(read_manifest(tmp_path / "all.csv").rows) == 2
    with pytest.raises(ManifestError, match="label is empty"):
        read_manifest(tmp_path / "all.csv", labels=True)
    code, out, _ = run("data", "import", "prostatex", tree, "--out", tmp_path / "some.csv", "--labelled-only")
    assert code == 0 and "  1  without a label\n" in out
    assert [row.label for row in read_manifest(tmp_path / "some.csv", labels=True).rows] == [1]


def test_a_failed_import_leaves_nothing(tmp_path: Path, run: Run) -> None:
    """A 4-D file is split, then no row is left: the piece goes too. With a manifest it stays."""
    images = tmp_path / "Task05_Prostate" / "imagesTr"
    images.mkdir(parents=True)
    voxels = np.random.default_rng(0).integers(0, 900, (32, 32, 6, 2)).astype("int16")
    nib.Nifti1Image(voxels, np.diag([-0.6, -0.6, 3.6, 1.0])).to_filename(images / "prostate_00.nii.gz")
    (images.parent / "dataset.json").write_text(
        '{"modality": {"0": "T2", "1": "ADC"}, "training": [{"image": "./imagesTr/prostate_00.nii.gz"}]}'
    )
    arguments = ("data", "import", "msd", images.parent, "--out", tmp_path / "m.csv")
    code, _, err = run(*arguments, "--labelled-only")
    assert code == 9 and err.count("\n") == 1 and "1 without a label" in err
    assert [path.name for path in tmp_path.iterdir()] == ["Task05_Prostate"]
    assert run(*arguments)[0] == 0
    assert (tmp_path / "m.csv").is_file() and any((tmp_path / "m-files").iterdir())
