"""run_bench: a model's exported files in one folder, every engine opened from it, measured in turns."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from prostate_mim.bench.engines import EAGER, ENGINES, FULL, HALF, RELEASE, Engine, FloatArray, Network
from prostate_mim.bench.memory import peak_memory_mb
from prostate_mim.bench.record import Bench, Measured, Whole
from prostate_mim.bench.rounds import Steps, median_and_p90, timed
from prostate_mim.classifier import LesionClassifier
from prostate_mim.deploy.export import Size, export_onnx
from prostate_mim.deploy.runtime import RuntimeOptions
from prostate_mim.deploy.samples import phantom_inputs
from prostate_mim.deploy.session import OnnxClassifier
from prostate_mim.encoder import PreMIM, check_size
from prostate_mim.engine.seeding import derive_seed
from prostate_mim.errors import BackendError, ResourceError, UsageError, VerificationError
from prostate_mim.phantom import make_study
from prostate_mim.volume import read_volume, write_volume

Progress = Callable[[int, int, str], None]
ACCURATE = 1e-3  # logits: what may differ by more is not offered as the winner, however fast
_SEED = 20221229


def run_bench(
    model: PreMIM | LesionClassifier,
    *,
    batch: int = 1,
    size_zyx: Size | None = None,
    threads: int = 0,
    rounds: int = 10,
    memory: bool = True,
    progress: Progress | None = None,
) -> Bench:
    """Measure a classifier on every engine that is here.

    An encoder is measured with a lesion head of random weights: time does not depend on them, and differences show.

    Args:
        model: what is measured; it is copied.
        batch: lesions at once.
        size_zyx: of the crop, voxels; the spec's if None.
        threads: of the CPU; all of its cores if 0.
        rounds: turns of each engine.
        memory: also measure peak memory, each engine in a process of its own.
        progress: told (steps done, steps in all, what is done now).

    Raises:
        UsageError: a size that is no multiple of the stride, or counts below 1.
    """
    if min(batch, rounds) < 1 or threads < 0:
        raise UsageError(f"batch {batch} and rounds {rounds} are 1 or more, threads {threads} 0 or more")
    classifier = _classifier(model)
    used = threads or torch.get_num_threads()
    spec = classifier.spec if size_zyx is None else classifier.spec.with_size(size_zyx)
    check_size(spec, classifier.encoder.encoder.total_stride_zyx)
    voxels = np.concatenate([phantom_inputs(spec)] * (batch // 12 + 1))[:batch]
    before, steps = torch.get_num_threads(), Steps(2 + len(ENGINES) * (1 + rounds + memory), progress)
    try:
        with tempfile.TemporaryDirectory(prefix="prostate-mim-bench-") as name:
            folder = Path(name)
            steps.begin("exporting")
            gpu = _write(classifier, folder)
            networks, notes = _open(folder, used, voxels, gpu, steps)
            steps.leave_out(len(notes) * (rounds + memory))
            calls = {key: _call(run, voxels) for key, run in networks.items()}
            seconds = timed(calls, rounds, lambda name: steps.begin(f"timing {name}"))
            expected = networks[EAGER](voxels)
            differences = {key: float(np.abs(run(voxels) - expected).max()) for key, run in networks.items()}
            peaks = {}
            for one in ENGINES if memory else ():
                if one.name in networks:
                    steps.begin(f"memory of {one.name}")
                    peaks[one.name] = peak_memory_mb(one.name, folder / one.file, one.device, used, voxels.shape)
            rows = tuple(_row(engine, seconds, differences, peaks, notes) for engine in ENGINES)
            winner = _winner(rows)
            steps.begin(f"a whole study, {winner}")
            whole = _whole(folder, winner, classifier, used, rounds)
            steps.end()
    finally:
        torch.set_num_threads(before)
    return Bench(
        classifier.name, classifier.revision, tuple(voxels.shape), used, rounds, _hardware(), _versions(), rows, winner,
        whole,
    )  # fmt: skip


def _classifier(model: PreMIM | LesionClassifier) -> LesionClassifier:
    if isinstance(model, LesionClassifier):
        return model
    made = LesionClassifier(model)
    generator = torch.Generator().manual_seed(derive_seed(_SEED, "bench"))
    with torch.no_grad():
        made.head.linear.weight.normal_(std=0.05, generator=generator)
    return made.eval()


def _write(classifier: LesionClassifier, folder: Path) -> bool:
    """The release and its exported files; whether there is a GPU that wants the one in half precision."""
    classifier.save_pretrained(folder / RELEASE)
    export_onnx(classifier, folder / FULL)
    try:
        OnnxClassifier(folder / FULL, "cuda")
    except (BackendError, ResourceError, VerificationError):
        return torch.cuda.is_available()
    export_onnx(classifier, folder / HALF, half=True)
    return True


def _open(
    folder: Path, threads: int, voxels: FloatArray, gpu: bool, steps: Steps
) -> tuple[dict[str, Network], dict[str, str]]:
    """Every engine that is here, warm; and why the others are not."""
    networks, notes = {}, {}
    for engine in ENGINES:
        steps.begin(f"opening {engine.name}")
        try:
            if engine.gpu and not gpu:
                raise BackendError("no GPU here")
            network = engine.open(folder, threads)
            network(voxels)
            networks[engine.name] = network
        except (BackendError, ResourceError, VerificationError) as error:
            notes[engine.name] = str(error).removeprefix(f"{folder / FULL}: ").removeprefix(f"{folder / HALF}: ")
        except Exception as error:  # compilers fail in many ways, and none of them is the user's
            if not engine.name.startswith("torch"):
                raise
            notes[engine.name] = f"torch cannot: {' '.join(str(error).split())[:80]}"
    return networks, notes


def _call(network: Network, voxels: FloatArray) -> Callable[[], object]:
    return lambda: network(voxels)


def _row(
    engine: Engine,
    seconds: dict[str, list[float]],
    differences: dict[str, float],
    peaks: dict[str, float | None],
    notes: dict[str, str],
) -> Measured:
    if engine.name in notes:
        return Measured(engine.name, engine.how, note=notes[engine.name])
    median, p90 = median_and_p90(seconds[engine.name])
    speedup = median_and_p90(seconds[EAGER])[0] / median
    return Measured(
        engine.name, engine.how, median, p90, speedup, peaks.get(engine.name), differences[engine.name]
    )  # fmt: skip


def _winner(rows: tuple[Measured, ...]) -> str:
    good = [row for row in rows if row.how and row.median_ms is not None and (row.difference or 0) <= ACCURATE]
    return min(good, key=lambda row: row.median_ms or np.inf).engine


def _whole(folder: Path, winner: str, classifier: LesionClassifier, threads: int, rounds: int) -> Whole:
    """From a phantom's .nii.gz to a probability, on the winner, measured in turns with its parts."""
    path = folder / "study.nii.gz"
    study = make_study(_SEED, 0)
    write_volume(study.volume, path)
    engine = next(one for one in ENGINES if one.name == winner)
    position, options = study.lesions[0].position_mm_lps, RuntimeOptions(threads=threads)
    model = OnnxClassifier(folder / engine.file, engine.device, options) if engine.device else classifier
    batch = classifier.prepare(study.volume, position).numpy()
    network = engine.open(folder, threads)
    calls: dict[str, Callable[[], object]] = {
        "reading": lambda: read_volume(path),
        "network": lambda: network(batch),
        "all": lambda: model.predict(read_volume(path), position),
    }
    found = {name: median_and_p90(values)[0] for name, values in timed(calls, rounds).items()}
    return Whole(**found)


def _hardware() -> str:
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {os.cpu_count()} cores{gpu}"


def _versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "onnxruntime-gpu", "onnxruntime", "openvino", "tensorrt-cu13"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
