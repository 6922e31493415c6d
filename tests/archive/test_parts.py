"""Parts made in this process: equal to the one-process path, and refused when foreign, damaged or incomplete."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prostate_mim.archive import read_archive, run_archive
from prostate_mim.archive.driver import _journal, _raise_ours, _verify
from prostate_mim.archive.job import Job
from prostate_mim.archive.parts import check_part
from prostate_mim.archive.worker import ShardWorker
from prostate_mim.errors import BackendError, IntegrityError, NotFoundError, UsageError
from prostate_mim.manifest import read_manifest

Make = Callable[..., Job]
Rows = list[dict[str, str]]
Edit = Callable[[Path, Callable[[Rows], Rows]], Path]


@pytest.fixture(scope="module")
def made(make_parts: Make, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The cohort in parts of five rows; not to be touched."""
    return make_parts(cohort, tmp_path_factory.mktemp("archive") / "out")


@pytest.fixture
def archive(made: Job, tmp_path: Path) -> Job:
    """A copy to break."""
    shutil.copytree(made.out, tmp_path / "out")
    return replace(made, out=str(tmp_path / "out"), journal=str(tmp_path / "out" / ".attempts-test"))


def again(job: Job, **changed: object) -> object:
    """The call that made (or resumes) an archive."""
    arguments = {"task": job.task, "model": job.folder, "manifest": Path(job.manifest), "out": Path(job.out)}
    return run_archive(**{**arguments, "shard_rows": job.shard_rows, **changed})  # type: ignore[arg-type]


def test_embeddings_equal_one_process(archive: Job, cohort: Path, small_encoder: Path) -> None:
    """Every bit, in the manifest's order, with ids, revision and spec."""
    from prostate_mim.loading import load_encoder
    from prostate_mim.prediction import embed_manifest

    encoder = load_encoder(small_encoder)
    expected = embed_manifest(encoder, cohort)
    table = read_archive(archive.out)
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), np.float32), expected.embedding)
    assert table["study_id"].to_pylist() == expected.study_id.tolist()
    assert table["lesion_id"].to_pylist() == expected.lesion_id.tolist()
    assert table["row"].to_pylist() == list(range(1, len(expected.study_id) + 1))
    assert set(table["revision"].to_pylist()) == {encoder.revision}
    assert set(table["spec"].to_pylist()) == {encoder.spec.fingerprint}
    assert set(table["status"].to_pylist()) == {"ok"}


def test_predictions_equal_one_process(
    make_parts: Make, cohort: Path, small_encoder: Path, archive: Job, tmp_path: Path
) -> None:
    """A classifier's probabilities; and an encoder cannot predict, which is said before any work."""
    import torch

    from prostate_mim.classifier import LesionClassifier
    from prostate_mim.encoder import PreMIM
    from prostate_mim.prediction import predict_manifest

    classifier = LesionClassifier(PreMIM.from_pretrained(small_encoder))
    torch.nn.init.normal_(classifier.head.linear.weight, generator=torch.Generator().manual_seed(0))
    release = classifier.save_pretrained(tmp_path / "classifier")
    job = make_parts(cohort, tmp_path / "predicted", task="predict", model=release)
    expected = predict_manifest(LesionClassifier.from_pretrained(release), cohort)
    table = read_archive(job.out)
    assert table["probability"].to_pylist() == [made.prediction.probability for made in expected]
    assert len(set(table["probability"].to_pylist())) > 1
    assert table["device"].to_pylist() == [made.prediction.device for made in expected]
    assert table["flags"].to_pylist() == [list(made.flags) for made in expected]
    with pytest.raises(UsageError, match="this release is 'encoder'"):
        again(job, model=str(small_encoder))


def test_a_damaged_study_is_a_failure_row(make_parts: Make, edited: Edit, archive: Job, tmp_path: Path) -> None:
    """Cut off in the middle: its row says why without paths or patients; all others are as they were."""
    whole = read_archive(archive.out)
    rows: Rows = []

    def damage(found: Rows) -> Rows:
        rows.extend(found)
        data = Path(found[6]["t2w"]).read_bytes()
        suffix = "".join(Path(found[6]["t2w"]).suffixes)
        target = tmp_path / ("Surname_Forename" + suffix)
        target.write_bytes(data[: len(data) // 2])
        study = found[6]["study_id"]
        return [{**row, "t2w": str(target)} if row["study_id"] == study else row for row in found]

    table = read_archive(make_parts(edited(tmp_path / "m.csv", damage), tmp_path / "damaged").out)
    lost = [row["study_id"] == rows[6]["study_id"] for row in rows]
    assert table["status"].to_pylist() == ["failed" if bad else "ok" for bad in lost]
    for name in ("study_id", "lesion_id", "row"):
        assert table[name].to_pylist() == whole[name].to_pylist()
    for bad, number, vector, expected, reason in zip(
        lost, table["row"].to_pylist(), table["embedding"].to_pylist(), whole["embedding"].to_pylist(),
        table["reason"].to_pylist(), strict=True,
    ):  # fmt: skip
        assert vector == (None if bad else expected)
        assert (reason.startswith(f"row {number} ") and "\n" not in reason) if bad else reason == ""
        assert not any(word in reason for word in ("Surname", str(tmp_path), "/", rows[number - 1]["patient_id"]))


def test_a_finished_archive_needs_no_cluster(archive: Job) -> None:
    """The same call again reuses every part, without Ray, and changes no byte."""
    before = {path.name: path.read_bytes() for path in Path(archive.out).glob("*.parquet")}
    summary = again(archive)
    assert (summary.rows, summary.ok, summary.failed) == (archive.rows, archive.rows, 0)  # type: ignore[attr-defined]
    assert summary.reused_shards == archive.shards == len(before)  # type: ignore[attr-defined]
    assert {path.name: path.read_bytes() for path in Path(archive.out).glob("*.parquet")} == before


def test_parts_of_another_manifest_are_refused(archive: Job, edited: Edit, tmp_path: Path) -> None:
    """One more column is enough: its content is another. The message says what to do."""
    changed = edited(tmp_path / "changed.csv", lambda rows: [{**row, "note": "x"} for row in rows])
    with pytest.raises(UsageError, match=r"part-00000.*another manifest content; choose another --out, or remove"):
        again(archive, manifest=changed)


def test_parts_of_other_settings_are_refused(archive: Job, small_encoder: Path, tmp_path: Path) -> None:
    """Another shard size, and another revision of a model with the same name."""
    import torch

    from prostate_mim.encoder import PreMIM

    with pytest.raises(UsageError, match=r"another shard_rows \(5, now 4\)"):
        again(archive, shard_rows=4)
    model = PreMIM.from_pretrained(small_encoder)
    with torch.no_grad():
        next(model.encoder.parameters()).mul_(1.5)
    with pytest.raises(UsageError, match="another model revision"):
        again(archive, model=str(model.save_pretrained(tmp_path / "other")))


def test_foreign_files_are_refused(archive: Job) -> None:
    """A parquet file of somebody else in a part's place, and one beside the parts."""
    import pyarrow
    import pyarrow.parquet

    kept = archive.part(1).read_bytes()
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), archive.part(1))
    with pytest.raises(UsageError, match=r"part-00001.parquet: is not a part of an archive"):
        again(archive)
    with pytest.raises(UsageError, match="is not a part"):
        read_archive(archive.out)
    archive.part(1).write_bytes(kept)
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), Path(archive.out) / "mine.parquet")
    with pytest.raises(UsageError, match=r"mine.parquet: is not a part of this archive"):
        again(archive)


def test_a_moved_part_is_refused(archive: Job) -> None:
    """Part 0 under the name of part 1."""
    shutil.copyfile(archive.part(0), archive.part(1))
    with pytest.raises(UsageError, match=r"another shard number \(0, now 1\)"):
        again(archive)
    with pytest.raises(IntegrityError, match="part 1 is missing"):
        read_archive(archive.out)


def test_a_damaged_part_is_refused_or_equal(archive: Job, cohort: Path) -> None:
    """150 random bit flips and 20 cuts: refused by one of our errors, or nothing that is read has changed."""
    rows = archive.rows_of(read_manifest(cohort), 0)
    whole, kept = read_archive(archive.out), archive.part(0).read_bytes()
    chance, refused = random.Random(5), 0
    damaged = [kept[: chance.randrange(len(kept))] for _ in range(20)]
    for _ in range(150):
        data = bytearray(kept)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        damaged.append(bytes(data))
    for data in damaged:
        archive.part(0).write_bytes(data)
        try:
            check_part(archive, 0, rows)
            assert read_archive(archive.out).equals(whole)
        except (IntegrityError, UsageError) as error:
            refused += 1
            assert "part-00000.parquet" in str(error)
    assert refused > 120
    archive.part(0).write_bytes(kept)
    check_part(archive, 0, rows)


def test_rows_are_counted(archive: Job, cohort: Path) -> None:
    """The last check of a call: it holds, and finds a lost part and a doubled one."""
    listed, kept = read_manifest(cohort), archive.part(0).read_bytes()
    _verify(archive, listed)
    archive.part(0).unlink()
    with pytest.raises(IntegrityError, match=r"\[1, 2, 3, 4, 5\] are missing and \[\] appear too often"):
        _verify(archive, listed)
    archive.part(0).write_bytes(kept)
    archive.part(90).write_bytes(kept)
    with pytest.raises(IntegrityError, match=r"\[\] are missing and \[1, 2, 3, 4, 5\] appear too often"):
        _verify(archive, listed)


def test_an_unfinished_archive_is_not_read(archive: Job, tmp_path: Path) -> None:
    """The last part is missing; or all are."""
    archive.part(archive.shards - 1).unlink()
    with pytest.raises(IntegrityError, match=r"run the same command to resume"):
        read_archive(archive.out)
    with pytest.raises(NotFoundError, match="holds no archive"):
        read_archive(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task": "guess"}, "task 'guess' is unknown"),
        ({"engine": "dask"}, "engine 'dask' is unknown"),
        ({"workers": 0}, "workers is 0"),
        ({"shard_rows": 0}, "shard_rows is 0"),
        ({"attempts": -1}, "attempts is -1"),
    ],
)
def test_arguments_are_checked(archive: Job, changed: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        again(archive, **changed)


@pytest.mark.parametrize("module", ["ray", "pyarrow"])
def test_a_missing_package_is_named(archive: Job, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """None in sys.modules makes an import fail as a missing package does."""
    archive.part(0).unlink()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError, match=r"pip install 'prostate-mim\[ray\]'"):
        again(archive)


def test_a_worker_answers_with_our_errors(archive: Job, cohort: Path) -> None:
    """What a worker cannot mend travels as values and is raised by the driver: a manifest that changed, a full disk."""
    for broken, kind, message in (
        (replace(archive, digest="0" * 64), UsageError, "changed since the command began"),
        (replace(archive, revision="0" * 16), IntegrityError, "a worker found revision"),
        (replace(archive, journal=str(Path(archive.out) / "gone")), UsageError, "cannot be written"),
    ):
        Path(broken.journal).parent.mkdir(exist_ok=True)
        if not broken.journal.endswith("gone"):
            Path(broken.journal).mkdir(exist_ok=True)
        answer = {name: values[0] for name, values in ShardWorker(broken)({"shard": np.array([0])}).items()}
        with pytest.raises(kind, match=message):
            _raise_ours(answer)
    _raise_ours({"error": ""})


def test_a_row_that_kills_is_given_up(archive: Job) -> None:
    """A journal of three deaths at row 2, as killed workers leave it: that row fails, its neighbours do not."""
    Path(archive.journal).mkdir()
    archive.part(0).unlink()
    (Path(archive.journal) / "part-00000.log").write_text("start 1\nrow 1\nrow 2\n" * 3)
    answer = ShardWorker(archive)({"shard": np.array([0])})
    assert (answer["failed"], answer["error"]) == ([1], [""])
    table = read_archive(archive.out)
    assert table["status"].to_pylist()[:5] == ["ok", "failed", "ok", "ok", "ok"]
    assert table["reason"].to_pylist()[1] == "row 2: killed its worker 3 times; is it too large?"


def test_part_names_keep_their_order(archive: Job) -> None:
    """Beyond 99,999 parts the names are longer, not equal."""
    assert [archive.part(n).name for n in (7, 99999, 100000)] == [
        "part-00007.parquet", "part-99999.parquet", "part-100000.parquet",
    ]  # fmt: skip


def test_leavings_of_killed_calls_are_removed(archive: Job) -> None:
    """A journal and a half-written part of an earlier call go; parts stay, and this call's journal lives as long."""
    out = Path(archive.out)
    parts = sorted(out.iterdir())
    (out / ".attempts-earlier").mkdir()
    (out / ".attempts-earlier" / "part-00000.log").write_text("start 1\n")
    (out / ".part-00001.parquet.x7.tmp.parquet").write_bytes(b"half")
    with _journal(archive):
        assert sorted(out.iterdir()) == sorted([Path(archive.journal), *parts])
    assert sorted(out.iterdir()) == parts
