"""The release folder: what is saved is what is loaded, and a folder that was touched is refused."""

from __future__ import annotations

import importlib
import json
import pickle
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from canaries import Canary
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prostate_mim.classifier import LesionClassifier
from prostate_mim.encoder import PreMIM
from prostate_mim.errors import (
    IntegrityError,
    NotFoundError,
    ProstateMimError,
    ResourceError,
    UsageError,
    VerificationError,
)
from prostate_mim.hub import read_release, resolve
from prostate_mim.hub.release import FILES, SUMS, write_sums
from prostate_mim.loading import verify_model

WEIGHTS = "model.safetensors"
Tensors = dict[str, Tensor]


@pytest.fixture
def release(releases: Path, tmp_path: Path) -> Path:
    """A copy of the float16 encoder release, to be damaged."""
    return Path(shutil.copytree(releases / "encoder16", tmp_path / "release"))


def edit_tensors(path: Path, change: Callable[[Tensors], object]) -> None:
    """Rewrite a safetensors file of a release, and its checksums, so that these cannot notice."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    write_sums(path.parent)


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite config.json, and the checksums."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    write_sums(folder)


# ---------------------------------------------------------------------------------------------- round trips


def test_encoder_round_trip_float32(releases: Path, encoder: PreMIM) -> None:
    """float32: bit for bit, name, spec and details kept, nothing adapted, in evaluation mode."""
    loaded = PreMIM.from_pretrained(releases / "encoder")
    for key, value in encoder.encoder.state_dict().items():
        assert torch.equal(loaded.encoder.state_dict()[key], value), key
    assert loaded.load_report.adapted == ()
    assert loaded.load_report.loaded == len(encoder.encoder.state_dict())
    assert (loaded.name, loaded.spec, loaded.details) == (encoder.name, encoder.spec, encoder.details)
    assert re.fullmatch(r"[0-9a-f]{16}", loaded.revision)
    assert not loaded.training


def test_encoder_round_trip_float16(releases: Path, encoder: PreMIM) -> None:
    """float16: exactly the rounded values, and every key is reported as adapted."""
    loaded = PreMIM.from_pretrained(releases / "encoder16")
    for key, value in encoder.encoder.state_dict().items():
        assert torch.equal(loaded.encoder.state_dict()[key], value.half().float()), key
    expected = sorted(f"{key}: float16 -> float32" for key in encoder.encoder.state_dict())
    assert sorted(loaded.load_report.adapted) == expected


@pytest.mark.parametrize("folder", ["classifier", "classifier16"])
def test_classifier_round_trip(releases: Path, classifier: LesionClassifier, folder: str) -> None:
    """Head (weights and standardisation) and encoder come back; float16 lists both parts as adapted."""
    loaded = LesionClassifier.from_pretrained(releases / folder)
    half = folder.endswith("16")
    for key, value in classifier.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value.half().float() if half else value), key
    adapted = loaded.load_report.adapted
    parts = {line.partition(".")[0] for line in adapted}
    assert (len(adapted), parts) == ((loaded.load_report.loaded, {"encoder", "head"}) if half else (0, set()))


def test_loaded_is_not_fresh(releases: Path) -> None:
    """With the generator where a fresh model would start, at least 99% of loaded convolution weights differ from it."""
    torch.manual_seed(0)
    fresh = PreMIM().encoder.state_dict()
    torch.manual_seed(0)
    again = PreMIM().encoder.state_dict()
    torch.manual_seed(0)
    loaded = PreMIM.from_pretrained(releases / "encoder").encoder.state_dict()
    convolutions = [key for key, value in fresh.items() if value.ndim == 5]
    assert len(convolutions) > 10
    assert all(torch.equal(fresh[key], again[key]) for key in convolutions), "the control: a fresh one is found out"
    differing = sum(int((fresh[key] != loaded[key]).sum()) for key in convolutions)
    assert differing >= 0.99 * sum(fresh[key].numel() for key in convolutions)


MANY_BATCHES = 70_001  # more than float16 can hold (65,504), and not a multiple of its steps there


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreMIM, Path]:
    """A batch-norm net that has seen many batches, and its float16 release."""
    torch.manual_seed(0)
    model = PreMIM("effnet-lite0", name="effnet-lite0.test").eval()
    for name, value in model.encoder.named_buffers():
        if name.endswith("num_batches_tracked"):
            value.fill_(MANY_BATCHES)
    return model, model.save_pretrained(tmp_path_factory.mktemp("counting") / "release", dtype="float16")


def test_whole_numbers_keep_their_type(counting: tuple[PreMIM, Path]) -> None:
    """In a float16 release counts are int64, exact above 65,504, and not among what was adapted."""
    model, folder = counting
    tensors = load_file(folder / WEIGHTS)
    counts = {key for key in tensors if key.endswith("num_batches_tracked")}
    assert len(counts) > 20
    for key, value in tensors.items():
        assert value.dtype == (torch.int64 if key in counts else torch.float16), key
        if key in counts:
            assert value.item() == MANY_BATCHES
    loaded = PreMIM.from_pretrained(folder)
    state = loaded.encoder.state_dict()
    assert all(state[key].item() == MANY_BATCHES and state[key].dtype == torch.int64 for key in counts)
    assert {line.partition(":")[0] for line in loaded.load_report.adapted} == tensors.keys() - counts
    assert torch.tensor(MANY_BATCHES).half().isinf()  # negative control: it would not have survived
    assert model.encoder.state_dict().keys() == tensors.keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda key, value: value.float() if key.endswith("tracked") else value, "says int64"),
        (lambda key, value: value.int() if key.endswith("tracked") else value, "says int64"),
        (lambda key, value: value.float() if key.endswith("weight") else value, "says float16"),
        (lambda key, value: value.long() if key.endswith("running_mean") else value, "says float16"),
    ],
    ids=["count as float", "count as int32", "weight as float32", "mean as int64"],
)
def test_wrong_types_are_refused(
    counting: tuple[PreMIM, Path], tmp_path: Path, change: Callable[[str, Tensor], Tensor], words: str
) -> None:
    """A count that is no int64, or a weight that is no float16, is refused by name; as they were, they load."""
    folder = Path(shutil.copytree(counting[1], tmp_path / "release"))
    edit_tensors(folder / WEIGHTS, lambda tensors: None)
    PreMIM.from_pretrained(folder)  # negative control
    edit_tensors(folder / WEIGHTS, lambda tensors: tensors.update({k: change(k, v) for k, v in tensors.items()}))
    with pytest.raises(IntegrityError, match=words):
        PreMIM.from_pretrained(folder)


def test_same_model_same_bytes(encoder: PreMIM, releases: Path, tmp_path: Path) -> None:
    """Saving twice gives the same files."""
    again = encoder.save_pretrained(tmp_path / "again", dtype="float16")
    assert (again / SUMS).read_bytes() == (releases / "encoder16" / SUMS).read_bytes()


def test_run_folder_stands_for_its_release(releases: Path, tmp_path: Path) -> None:
    """A folder with release/ inside resolves to that."""
    shutil.copytree(releases / "encoder16", tmp_path / "run/release")
    assert resolve(tmp_path / "run") == tmp_path / "run/release"


# ------------------------------------------------------------------------------- damage that checksums catch


@pytest.mark.parametrize("name", [name for name in FILES if name not in (SUMS, "decoder.safetensors")])
def test_flipped_bit_names_the_file(release: Path, name: str) -> None:
    """One flipped bit in any file is refused, naming it."""
    data = bytearray((release / name).read_bytes())
    data[len(data) // 2] ^= 0x01
    (release / name).write_bytes(data)
    with pytest.raises(IntegrityError, match=rf"{re.escape(name)}: sha256 is"):
        read_release(release)


@pytest.mark.parametrize("name", [name for name in FILES if name not in (SUMS, "decoder.safetensors", "config.json")])
def test_missing_file_is_named(release: Path, name: str) -> None:
    """A file that SHA256SUMS lists must be there."""
    (release / name).unlink()
    with pytest.raises(IntegrityError, match=f"{re.escape(name)} is missing"):
        read_release(release)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: None, "no SHA256SUMS"),
        (lambda text: "", "does not list config.json"),
        (lambda text: text.replace("golden.safetensors", "golden.bin"), "line .*golden.bin"),
        (lambda text: text + "0" * 64 + "  ../outside\n", r"line .*\.\./outside"),
        (lambda text: text + "0" * 64 + "  /etc/hostname\n", "line .*/etc/hostname"),
        (lambda text: text.replace("  model", " *model"), "line .*model"),
        (lambda text: text + text.splitlines()[0] + "\n", "line .*config.json"),
        (lambda text: "".join(f"{line}\n" for line in text.splitlines() if WEIGHTS not in line), f"not list {WEIGHTS}"),
        (lambda text: text.upper(), "line"),
        (lambda text: b"\xff\xfe\x00" + text.encode(), "line"),
    ],
)
def test_checksum_list_is_closed(release: Path, change: Callable[[str], str | bytes | None], message: str) -> None:
    """SHA256SUMS lists exactly the known files of this folder, once each, in one form."""
    text = change((release / SUMS).read_text())
    (release / SUMS).unlink()
    if text is not None:
        (release / SUMS).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(IntegrityError, match=message):
        read_release(release)


# --------------------------------------------------------------------------- damage that checksums cannot see


def _rename(tensors: Tensors, key: str) -> None:
    tensors["renamed"] = tensors.pop(key)


MUTATIONS: dict[str, tuple[Callable[[Tensors, str], object], str]] = {
    "rename": (_rename, r"missing {key}, unexpected renamed"),
    "add": (lambda tensors, key: tensors.update(added=torch.zeros(1).half()), r"missing none, unexpected added"),
    "drop": (lambda tensors, key: tensors.pop(key), r"missing {key}, unexpected none"),
    "dtype": (lambda tensors, key: tensors.update({key: tensors[key].float()}), r"{key} is torch.float32.*float16"),
    "shape": (lambda tensors, key: tensors.update({key: tensors[key][:-1].clone()}), r"{key} has shape"),
    "nan": (lambda tensors, key: tensors[key].view(-1)[0].fill_(float("nan")), r"{key} holds values that are not fin"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_strict_comparison(release: Path, mutation: str) -> None:
    """Right checksums, one wrong tensor: each kind of difference has its own message, which names the tensor."""
    change, _ = MUTATIONS[mutation]
    key = sorted(load_file(release / WEIGHTS))[3]
    edit_tensors(release / WEIGHTS, lambda tensors: None)
    PreMIM.from_pretrained(release)  # the control: rewritten, unchanged
    edit_tensors(release / WEIGHTS, lambda tensors: change(tensors, key))
    read_release(release)  # the checksums are right
    with pytest.raises(IntegrityError) as caught:
        PreMIM.from_pretrained(release)
    patterns = {name: pattern.format(key=re.escape(key)) for name, (_, pattern) in MUTATIONS.items()}
    assert [name for name, pattern in patterns.items() if re.search(pattern, str(caught.value))] == [mutation]
    assert WEIGHTS in str(caught.value)


def test_weights_of_another_network(release: Path) -> None:
    """Weights of some other convolutional network are called that."""
    other = nn.Sequential(nn.Conv3d(1, 8, 3), nn.ReLU(), nn.Conv3d(8, 8, 3)).half()
    save_file(other.state_dict(), release / WEIGHTS)
    write_sums(release)
    with pytest.raises(IntegrityError, match="another architecture"):
        PreMIM.from_pretrained(release)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.update(surprise=1), "surprise"),
        (lambda config: config.pop("details"), "expected exactly the keys"),
        (lambda config: config.update(format=1), "release of format 1; this version of prostate-mim reads format 2"),
        (lambda config: config.update(format=3, library_version="9.9"), "written by prostate-mim 9.9"),
        (lambda config: config.update(format="2"), "release of format '2'"),
        (lambda config: config.update(kind="segmenter"), "segmenter"),
        (lambda config: config.update(name=None), "not of this version"),
        (lambda config: config.update(details=[]), "not of this version"),
        (lambda config: config.update(weights_dtype="int8"), "weights_dtype 'int8'"),
        (lambda config: config.update(weights_dtype="float32"), "config.json says float32"),
        (lambda config: config["spec"].update(surprise=1), "surprise"),
        (lambda config: config["spec"].pop("version"), "version"),
        (lambda config: config["spec"].update(orientation="axial-RAS"), "orientation"),
        (lambda config: config["spec"].update(spacing_mm_zyx=[3.0, 0.5]), "spacing_mm_zyx"),
        (lambda config: config["spec"].update(size_zyx=[16, 96, "96"]), "size_zyx"),
        (lambda config: config["spec"].update(size_zyx=[16, 96, float("inf")]), "size_zyx"),
        (lambda config: config["spec"].update(spacing_mm_zyx=[3.0, 0.5, float("nan")]), "spacing_mm_zyx"),
        (lambda config: config.update(spec=None), "not a JSON object"),
    ],
)
def test_config_is_a_closed_schema(release: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    """An unknown, missing or mistyped key of config.json or its spec is refused by name."""
    edit_config(release, change)
    with pytest.raises(IntegrityError, match=message):
        PreMIM.from_pretrained(release)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "\x00"])
def test_config_that_is_no_object(release: Path, text: str) -> None:
    """Anything but a JSON object is refused, however deep."""
    (release / "config.json").write_text(text)
    write_sums(release)
    with pytest.raises(IntegrityError, match=r"config\.json"):
        read_release(release)


def test_unknown_architecture_suggests_one(release: Path) -> None:
    """A release of an architecture this version does not have names the nearest."""
    edit_config(release, lambda config: config.update(architecture="resenc-x"))
    with pytest.raises(NotFoundError, match="did you mean 'resenc-s'"):
        PreMIM.from_pretrained(release)


# ------------------------------------------------------------------------------------------- hostile weights


@pytest.mark.parametrize("writer", ["pickle", "torch", "torch-legacy"])
def test_pickle_is_never_unpickled(release: Path, tmp_path: Path, writer: str) -> None:
    """A pickle in the place of the weights is refused before its code runs."""
    canary, hostile = tmp_path / "canary", release / WEIGHTS
    if writer == "pickle":
        hostile.write_bytes(pickle.dumps(Canary(canary)))
    else:
        torch.save({"weights": Canary(canary)}, hostile, _use_new_zipfile_serialization=writer == "torch")
    write_sums(release)
    with pytest.raises(IntegrityError, match="not a readable safetensors file"):
        PreMIM.from_pretrained(release)
    assert not canary.exists()
    revealed = hostile.rename(tmp_path / "weights.pt")  # torch.load, too, goes by the suffix .safetensors
    torch.load(revealed, weights_only=False) if writer != "pickle" else pickle.loads(revealed.read_bytes())  # noqa: S301
    assert canary.exists(), "the control: the canary is alive"


# --------------------------------------------------------------------------------------------- wrong requests


def test_encoder_is_no_classifier(releases: Path) -> None:
    """A release of the other kind is a usage error that says what to do."""
    with pytest.raises(UsageError, match="finetune it first"):
        LesionClassifier.from_pretrained(releases / "encoder16")
    with pytest.raises(UsageError, match=r"LesionClassifier\.from_pretrained"):
        PreMIM.from_pretrained(releases / "classifier16")


def test_unknown_name_suggests_the_nearest(releases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt bundled name brings the nearest one, from the folder of bundled models."""
    shutil.copytree(releases / "encoder16", tmp_path / "bundled/resenc-s.mim-t2w")
    module = importlib.import_module("prostate_mim.hub.resolve")  # its package has a function of that name
    monkeypatch.setattr(module, "BUNDLED", tmp_path / "bundled")
    assert resolve("resenc-s.mim-t2w") == tmp_path / "bundled/resenc-s.mim-t2w"
    with pytest.raises(NotFoundError, match=r"did you mean 'resenc-s\.mim-t2w'"):
        PreMIM.from_pretrained("resenc-s.mim-t2")


@pytest.mark.parametrize("name", ["a" * 300, "x/" + "y" * 300 + "@", "nul\0byte", "~nobody-here/x/y", "../nowhere"])
def test_impossible_names(name: str) -> None:
    """Names that no file system or hub has are not found, whatever is wrong with them."""
    with pytest.raises(NotFoundError):
        resolve(name)


def test_file_is_no_model(releases: Path) -> None:
    """The weights file itself is not a model name."""
    with pytest.raises(NotFoundError, match="is a file"):
        PreMIM.from_pretrained(releases / "encoder16" / WEIGHTS)


def test_folder_without_release(tmp_path: Path) -> None:
    """An ordinary folder is not a release."""
    with pytest.raises(NotFoundError, match="not a release folder"):
        PreMIM.from_pretrained(tmp_path)


# --------------------------------------------------------------------------------------------------- writing


def test_full_folder_is_left_alone(encoder: PreMIM, tmp_path: Path) -> None:
    """An output folder that holds something is refused, and stays as it was."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        encoder.save_pretrained(tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "notes.txt"]
    assert (tmp_path / "out/notes.txt").read_text() == "mine"


def test_empty_folder_is_filled(encoder: PreMIM, tmp_path: Path) -> None:
    """An empty output folder is used; the files can be read by others."""
    (tmp_path / "out").mkdir()
    out = encoder.save_pretrained(tmp_path / "out", dtype="float16")
    assert {path.name for path in out.iterdir()} == {*FILES} - {"decoder.safetensors"}
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o644}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("place", ["/proc/release", "file/release", "x" * 300])
def test_unwritable_place(encoder: PreMIM, tmp_path: Path, place: str) -> None:
    """A place that cannot be written is a usage error, and nothing appears."""
    (tmp_path / "file").write_text("a file, not a folder")
    with pytest.raises(UsageError, match="cannot be written"):
        encoder.save_pretrained(tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow over ``size`` bytes: the kernel's own refusal (EFBIG), as a full disk would give ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [100, 100_000, 5_000_000], ids=["config", "golden", "weights"])
def test_full_disk_leaves_nothing(encoder: PreMIM, tmp_path: Path, size: int) -> None:
    """A disk that fills up is a resource error, and no temporary folder stays."""
    with pytest.raises(ResourceError, match="no space left"), largest_file(size):
        encoder.save_pretrained(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    """A weight over float16's range is refused before anything is written; so is a dtype that is not published."""
    model = PreMIM()
    with torch.no_grad():
        next(model.encoder.parameters()).view(-1)[0] = 1e6
    with pytest.raises(IntegrityError, match="does not fit float16"):
        model.save_pretrained(tmp_path / "out", dtype="float16")
    with pytest.raises(UsageError, match="int8"):
        model.save_pretrained(tmp_path / "out", dtype="int8")
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------------- golden samples


@pytest.mark.parametrize("kind", ["encoder16", "classifier16", "classifier"])
def test_golden_sample_is_recomputed(releases: Path, tmp_path: Path, kind: str) -> None:
    """Verify passes on what was saved, and fails when the golden output says 0.1 more."""
    folder = Path(shutil.copytree(releases / kind, tmp_path / "release"))
    output = "logit" if kind.startswith("classifier") else "embedding"
    found = verify_model(folder)
    assert found["golden_difference"] == pytest.approx(0, abs=1e-5)
    assert found["kind"] == kind.removesuffix("16")
    edit_tensors(folder / "golden.safetensors", lambda tensors: tensors[output].add_(0.1))
    with pytest.raises(VerificationError, match=r"differs by 1\.0e-01"):
        verify_model(folder)


def test_golden_sample_finds_other_weights(releases: Path, tmp_path: Path) -> None:
    """Weights exchanged for another model's of the same shapes, with right checksums, do not verify."""
    folder = Path(shutil.copytree(releases / "encoder16", tmp_path / "release"))
    shutil.copy(releases / "other" / WEIGHTS, folder / WEIGHTS)
    write_sums(folder)
    with pytest.raises(VerificationError):
        verify_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_golden_sample_is_finite(release: Path, value: float) -> None:
    """A golden output that is not a number equals nothing."""
    edit_tensors(release / "golden.safetensors", lambda tensors: tensors["embedding"].fill_(value))
    with pytest.raises((VerificationError, IntegrityError)):
        verify_model(release)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.update(surprise=torch.zeros(1)),
        lambda tensors: tensors.update(input=torch.zeros(1, 1, 3, 5, 7)),
        lambda tensors: tensors.update(input=torch.zeros(2, 2)),
        lambda tensors: tensors.update(input=tensors["input"].double()),
        lambda tensors: tensors.update(embedding=torch.zeros(1, 7)),
    ],
    ids=["key", "size", "rank", "dtype", "output"],
)
def test_golden_sample_of_another_form(release: Path, change: Callable[[Tensors], object]) -> None:
    """A golden sample of other keys, shapes or types is an error of ours, never a traceback of torch."""
    edit_tensors(release / "golden.safetensors", change)
    with pytest.raises(ProstateMimError):
        verify_model(release)
