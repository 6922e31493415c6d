"""No identifier leaves the manifest: not one of those planted is in any file that any command writes, nor in its words.

Every command runs on the same small cohort, whose headers, tags, file names, folders and manifest are full of them
(``planted.py``). Searched is every file that appeared or changed, packed or not (``searching.py``), its name, and what
was said on stdout and stderr. What is excepted, because the user asked for it by that name, stands beside the command.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import shlex
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from planted import EVERYTHING, FILE, FOLDER, HEADERS, IDS, PATHS, SLICE, STUDY, Planted, plant, plant_odd_manifests
from running import Command, Wrote, call, everything_drawn, everything_said, found
from searching import hits

MANIFEST = [*IDS, *PATHS]
TINY = "--size '8 32 32' --device cpu"


COMMANDS = [
    Command("prepare", "data prepare {lesions} --out {out}/store --size '8 40 40' --json"),
    Command("prepare-bad", "data prepare {bad} --out {out}/store --size '8 40 40' --skip-bad --json"),
    Command("prepare-refused", "data prepare {bad} --out {out}/store --size '8 40 40'", 9),
    Command("prepare-processes", "data prepare {bad} --out {out}/store --size '8 40 40' --skip-bad --workers 1"),
    Command(
        "pretrain",
        "pretrain --manifest {studies} --out {out} --steps 2 --batch 2 --health-every 2 --watch {lesions} "
        "--checkpoint-every 2 " + TINY,
    ),
    Command("pretrain-refused", "pretrain --manifest {bad} --out {out} --steps 1 --batch 2 " + TINY, 9),
    Command("report", "report {work}/pretrain"),
    Command("finetune", "finetune --manifest {lesions} --out {out} --model {encoder} --folds 2 --device cpu"),
    Command(
        "finetune-full",
        "finetune --manifest {lesions} --out {out} --model {encoder} --folds 2 --mode full --epochs 1 --batch 4 "
        "--device cpu --json",
    ),
    Command("finetune-refused", "finetune --manifest {bad} --out {out} --model {encoder} --folds 2 --device cpu", 9),
    Command("info", "info {work}/finetune --json"),
    Command("verify", "verify {work}/finetune"),
    Command("export", "export {work}/finetune --onnx --out {out}/classifier.onnx"),
    Command("predict", "predict --manifest {lesions} --model {work}/finetune"),
    Command("predict-json", "predict --manifest {lesions} --model {work}/finetune --json", 0, {"stdout": [STUDY]}),
    Command("predict-study", "predict {dicom} --model {work}/finetune --json"),
    Command("predict-refused", "predict --manifest {bad} --model {work}/finetune", 9),
    Command(
        "explain",
        "explain --manifest {lesions} --row 1 --model {work}/finetune --out {out}/map.nii.gz --html {out}/map.html",
    ),
    Command("explain-study", "explain {dicom} --model {work}/finetune --out {out}/map.nii.gz --json"),
    Command("study", "study {study} --out {out}/study --report --engine serial"),
    Command("study-overlap", "study {overlap} --out {out}/study", 9),
    Command("study-refused", "study {study_bad} --out {out}/study", 9),
    Command("embed", "embed --manifest {lesions} --model {encoder} --out {out}/e.npz", 0, {"e.npz": [STUDY]}),
    Command("embed-refused", "embed --manifest {bad} --model {encoder} --out {out}/e.npz", 9),
    Command("preview", "mask-preview --manifest {lesions} --row 1 --model {work}/pretrain --out {out}/a.png"),
    Command("preview-study", "mask-preview {dicom} --model {work}/pretrain --out {out}/a.png --json"),
    # A manifest is where identifiers belong; header fields are not copied even there.
    Command(
        "import", "data import folder {planted} --labels {bad} --out {out}/m.csv", 0,
        {"m.csv": MANIFEST, "m-skipped.csv": MANIFEST},
    ),
    Command("import-no-table", "data import folder {planted} --out {out}/m.csv --json", 0, {"m*.csv": MANIFEST}),
    Command("split", "data split {lesions} --out {out}/split.csv --folds 2", 0, {"split.csv": MANIFEST}),
    Command("check", "data check {bad} --out {out}/report.csv", 9),
    Command("check-json", "data check {lesions} --against {studies} --model {work}/pretrain --json", 9),
    Command("finetune-overlap", "finetune --manifest {lesions} --out {out} --model {work}/pretrain --folds 2", 9),
    Command(
        "finetune-allowed",
        "finetune --manifest {lesions} --out {out} --model {work}/pretrain --folds 2 --device cpu --allow-overlap",
    ),
    Command("sheet", "data sheet {lesions} --out {out}/sheet.png --json"),
    Command("sheet-bad", "data sheet {bad} --out {out}/sheet.png"),
    Command("view", "view --manifest {lesions} --row 1 --out {out}/page.html"),
    Command("view-study", "view {dicom} --mask {gland} --out {out}/page.html --json"),
    Command("view-meta", "view {meta} --out {out}/page.html"),
    # The caller's own argument may be named to the caller, and nothing from within the file.
    Command("predict-strict", "predict {dicom} --model {work}/finetune --strict", 9, {"stderr": PATHS}),
    Command("predict-cut", "predict {cut} --model {work}/finetune", 9, {"stderr": PATHS}),
    Command("view-gap", "view {gap} --out {out}/page.html", 9, {"stderr": PATHS}),
    # Manifests that are refused before any file is opened.
    Command("manifest-twice", "data prepare {twice} --out {out}/store", 9),
    Command("manifest-label", "data split {label} --out {out}/split.csv", 9),
    Command("manifest-missing", "data check {missing}", 3),
    Command("manifest-headless", "embed --manifest {headless} --model {encoder} --out {out}/e.npz", 9),
    Command("manifest-folds", "finetune --manifest {folds} --out {out} --model {encoder}", 9),
]  # fmt: skip


STUDY_TOML = """
seeds = [0]
architectures = ["resenc-s"]
device = "cpu"
pretraining_manifest = "{pretraining}"
[pretraining]
region_zyx = [8, 40, 40]
[pretraining.spec]
size_zyx = [8, 32, 32]
[pretraining.loop]
steps = 1
batch = 2
[[tasks]]
name = "lesions"
manifest = "{manifest}"
pretraining_scope = "{scope}"
folds = 2
[tasks.spec]
size_zyx = [8, 32, 32]
[[arms]]
name = "random"
initialisation = "random"
[[arms]]
name = "mim"
"""


@dataclass
class Work:
    """Everything happens in ``root``; ``planted`` is read only."""

    root: Path
    planted: Planted
    places: dict[str, str]
    elsewhere: list[str]
    done: dict[str, Wrote] = field(default_factory=dict)

    def run(self, command: Command) -> Wrote:
        """Run a command (once), in this process."""
        if command.name not in self.done:
            before = self._seen()
            out = self.root / "work" / command.name
            out.mkdir()
            words = shlex.split(command.words.format(out=out, **self.places))
            stdout, stderr = (self.root / "said" / f"{command.name}.{kind}" for kind in ("stdout", "stderr"))
            with everything_said(stdout, stderr), everything_drawn() as drawn:
                code = call(words)
            (out / "drawn").write_text("\n".join(drawn))
            after = self._seen()
            files = [path for path, state in after.items() if before.get(path) != state]
            self.done[command.name] = Wrote(code, stdout, stderr, files)
        return self.done[command.name]

    def _seen(self) -> dict[Path, tuple[int, int]]:
        found = [path for path in self.root.rglob("*") if path.is_file() and path.parent != self.root / "said"]
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in found}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, small_encoder: Path) -> Iterator[Work]:
    """Planted files, and a world in which home, caches and temporary files lie in one folder."""
    root = tmp_path_factory.mktemp("privacy")
    for name in ("work", "said", "home", "tmp"):
        (root / name).mkdir()
    planted = plant(tmp_path_factory.mktemp("planted"))
    rows = planted.rows
    places = {
        "lesions": planted.lesions, "studies": planted.studies, "bad": planted.bad, "encoder": small_encoder,
        "work": root / "work", "planted": planted.folder, "gland": planted.folder / rows[0]["gland_mask"],
        "meta": planted.folder / rows[2]["t2w"], "dicom": planted.folder / rows[3]["t2w"],
        "cut": planted.folder / FOLDER / f"{FILE}-cut.nii.gz", "gap": planted.folder / FOLDER / f"{FILE}-gap",
        **plant_odd_manifests(planted),
    }  # fmt: skip
    for name, manifest, scope in (
        ("study", planted.lesions, "per-fold"),
        ("overlap", planted.lesions, "external"),
        ("study_bad", planted.bad, "per-fold"),
    ):
        places[name] = root / f"{name}.toml"
        places[name].write_text(STUDY_TOML.format(manifest=manifest, pretraining=planted.studies, scope=scope))
    opened: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "MPLCONFIGDIR"):
            patch.setenv(name, str(root / "home"))
        patch.setenv("TMPDIR", str(root / "tmp"))
        patch.setattr("tempfile.tempdir", str(root / "tmp"))
        patch.chdir(root / "home")
        watching.append(opened)
        yield Work(root, planted, {name: str(path) for name, path in places.items()}, opened)
        watching.remove(opened)


watching: list[list[str]] = []


def _opened(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and watching and isinstance(arguments[0], str | os.PathLike):
        mode, flags = str(arguments[1]), arguments[2]
        if set(mode) & set("wax+") or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)):
            watching[-1].append(os.path.abspath(os.fspath(arguments[0])))


sys.addaudithook(_opened)


@pytest.mark.parametrize("command", COMMANDS, ids=[command.name for command in COMMANDS])
def test_no_identifier_leaves_the_manifest(work: Work, command: Command) -> None:
    """The command ends as expected, and nothing of what was planted is in what it wrote or said."""
    wrote = work.run(command)
    said = wrote.stderr.read_text(errors="replace")
    assert wrote.code == command.code, said[-3000:]
    assert found(wrote, command, work.root / "work" / command.name) == []


def test_nothing_was_written_elsewhere(work: Work) -> None:
    """The search above saw every file: what Python code opened for writing lies in the folders that were searched."""
    assert len(work.elsewhere) > 20
    roots = (f"{work.root}{os.sep}", "/dev/", "/proc/")
    assert sorted({path for path in work.elsewhere if not path.startswith(roots)}) == []


_KINDS = ("page.html", "a.png", "a.json", "a.nii.gz", "a.npz", "a.safetensors", "a.parquet", "a.b2nd", "a.zip")


def packings(folder: Path) -> dict[str, Path]:
    """One identifier, put into every kind of file that the commands write."""
    import blosc2
    import pyarrow
    import pyarrow.parquet
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo
    from safetensors.numpy import save_file

    secret, paths = HEADERS[0], {name: folder / name for name in _KINDS}
    info = PngInfo()
    info.add_text("note", f"of {secret}", zip=True)
    picture = io.BytesIO()
    Image.new("L", (4, 4)).save(picture, "PNG", pnginfo=info)
    page = base64.b64encode(picture.getvalue()).decode()
    paths["page.html"].write_text(f"<img src='data:image/png;base64,{page}'>")
    paths["a.png"].write_bytes(picture.getvalue())
    paths["a.json"].write_text(json.dumps({"path": f"/data/{secret.lower()}/t2w.mha"}))
    paths["a.nii.gz"].write_bytes(gzip.compress(secret.encode() * 2))
    np.savez_compressed(paths["a.npz"], study_id=np.array(["s1", f"x{secret}"]))
    save_file({"a": np.zeros(2)}, paths["a.safetensors"], metadata={"path": secret})
    table = pyarrow.table({"reason": [f"{secret}: cannot be read {number}" for number in range(40)]})
    pyarrow.parquet.write_table(table, paths["a.parquet"], compression="zstd")
    array = np.frombuffer(secret.encode() * 100, "u1")
    paths["a.b2nd"].write_bytes(blosc2.asarray(array, cparams=blosc2.CParams(clevel=9)).to_cframe())
    with zipfile.ZipFile(paths["a.zip"], "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner/page.gz", gzip.compress(page.encode()))
    return paths


@pytest.mark.parametrize("kind", _KINDS)
def test_the_search_finds_what_is_packed(tmp_path: Path, kind: str) -> None:
    """The control: a word that is in a file is found, however it is packed, and only that word."""
    path = packings(tmp_path)[kind]
    said = hits(path, EVERYTHING)
    assert said
    assert all(hit.startswith(HEADERS[0]) for hit in said)
    plain = {"a.json", "a.safetensors"}
    assert kind in plain or any(" > " in hit for hit in said), "found by unpacking, not by chance"


def test_the_planted_words_are_there(work: Work) -> None:
    """The control of the control: every planted word is in some file of the cohort, its name or its manifest."""
    everything = [path for path in work.planted.folder.rglob("*") if path.is_file()]
    names = " ".join(str(path) for path in everything)
    missing = [word for word in EVERYTHING if word not in names and not any(hits(path, [word]) for path in everything)]
    assert missing == []
    assert len(EVERYTHING) >= 12


def test_a_command_that_tells_is_found_out(work: Work) -> None:
    """The control of the whole: the same judgement of a command that copies a header, a name and a path."""
    out = work.root / "work" / "telling"
    out.mkdir()
    wrote = Wrote(0, out / "telling.stdout", out / "telling.stderr", [out / f"{SLICE}.txt"])
    wrote.stdout.touch()
    wrote.stderr.write_text(f"row 3: {FILE}.nii.gz is damaged")
    wrote.files[0].write_text(HEADERS[3])
    problems = {problem.split(" in ")[0] for problem in found(wrote, Command("telling", ""), out)}
    assert problems == {f"stderr: {FILE}", f"{SLICE}.txt: {HEADERS[3]}", f"the name {SLICE}.txt"}
    allowed = Command("telling", "", excepted={"stderr": [FILE]})
    assert f"stderr: {FILE}" not in {problem.split(" in ")[0] for problem in found(wrote, allowed, out)}
