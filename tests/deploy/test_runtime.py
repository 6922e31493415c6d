"""Engines: the one that was asked for or an error, the reason in every result, and the same numbers from all."""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from prostate_mim.classifier import LesionClassifier
from prostate_mim.deploy import available, ort, providers
from prostate_mim.deploy.available import CPU, CUDA, TENSORRT
from prostate_mim.deploy.container import Container, read_container
from prostate_mim.deploy.contract import Header
from prostate_mim.deploy.export import export_onnx
from prostate_mim.deploy.ort import OnnxRuntime
from prostate_mim.deploy.runtime import DEFAULTS, RuntimeOptions, open_runtime, tolerance
from prostate_mim.deploy.session import OnnxClassifier, OnnxEncoder
from prostate_mim.deploy.verify import verify_onnx
from prostate_mim.errors import BackendError, UsageError, VerificationError
from prostate_mim.volume import Volume

NO_CUDA = available.why_no_cuda(onnxruntime)
HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="needs openvino: pip install openvino")
needs_gpu = pytest.mark.skipif(NO_CUDA is not None, reason=f"needs an NVIDIA GPU: {NO_CUDA}")
ENGINES = ["cpu", pytest.param("openvino", marks=needs_openvino)]
Reseal = Callable[[onnx.ModelProto], Path]


@pytest.fixture(scope="module")
def static_file(classifier: LesionClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(classifier, tmp_path_factory.mktemp("onnx") / "static.onnx", static_zyx=(8, 64, 48))


@pytest.fixture(scope="module")
def half_file(classifier: LesionClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(classifier, tmp_path_factory.mktemp("onnx") / "half.onnx", half=True)


# What auto takes, and why


def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)


@pytest.mark.skipif(NO_CUDA is None, reason="this machine has an NVIDIA driver")
def test_auto_says_where_it_ran_and_why(
    classifier_file: Path, make_volume: Callable[..., Volume], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_openvino(monkeypatch)
    model = OnnxClassifier(classifier_file)
    made = model.predict(make_volume())
    assert model.device == made.device == CPU
    assert made.reason == model.reason
    assert (
        "no CUDA (there is no NVIDIA driver" in made.reason and "no OpenVINO (OpenVINO is not installed)" in made.reason
    )
    assert OnnxClassifier(classifier_file, device="cpu").reason == "asked for"


@needs_openvino
@pytest.mark.skipif(NO_CUDA is None, reason="this machine has an NVIDIA driver")
def test_auto_takes_openvino_where_it_is_installed(classifier_file: Path) -> None:
    model = OnnxClassifier(classifier_file)
    assert model.device == "OpenVINO:CPU"
    assert model.reason.startswith("auto: it works here; no CUDA (")


@needs_openvino
@pytest.mark.parametrize("quiet", [True, False])
def test_openvino_reports_to_nobody(quiet: bool, classifier_file: Path, tmp_path: Path) -> None:
    """Its own import hands an event to its reporter, which is the control; here the reporter prints it.

    The suite's guard sees anything that is sent by another way.
    """
    ours = f"from prostate_mim import OnnxClassifier; OnnxClassifier({str(classifier_file)!r}, device='openvino')"
    code = (
        "from openvino_telemetry.utils.sender import TelemetrySender;"
        "TelemetrySender.send = lambda *_: print('event');"
        f"{ours if quiet else 'import openvino'}"
    )
    # In a CI job, and where the user declined once, OpenVINO is mute by itself, which would show nothing of ours.
    asked = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    asked |= {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], env=asked, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout.split(), ran.stderr) == (0, [] if quiet else ["event"], "")


@needs_openvino
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGUSR1")
def test_closed_models_leave_signals_alone(classifier_file: Path) -> None:
    """Closed in the order in which they were opened; the next signal (Ctrl-C, SLURM's) is handled, and kills nobody."""
    code = (
        "import os, signal; from prostate_mim import OnnxClassifier;"
        f"models = [OnnxClassifier({str(classifier_file)!r}, device='openvino') for _ in range(3)];"
        "del models[0], models[0], models[0];"
        "signal.signal(signal.SIGUSR1, lambda *_: print('handled'));"
        "os.kill(os.getpid(), signal.SIGUSR1)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "handled\n", "")


@needs_openvino
def test_threads_that_open_the_first_model_share_one_core(classifier_file: Path) -> None:
    """A process of its own, as the core is made once; the import is slow, so unlocked threads would each make one."""
    code = (
        "import threading; from prostate_mim.deploy import openvino;"
        "found, gate = [], threading.Barrier(8);"
        "work = lambda: (gate.wait(), found.append(openvino._core()));"
        "threads = [threading.Thread(target=work) for _ in range(8)];"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads];"
        "print(len(found), len(set(map(id, found))))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "8 1\n", "")


@needs_openvino
def test_auto_passes_over_an_engine_with_other_numbers(classifier_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prostate_mim.deploy.openvino import OpenVino

    honest = OpenVino.run
    monkeypatch.setattr(OpenVino, "run", lambda self, x: {k: v + np.float32(1) for k, v in honest(self, x).items()})
    model = OnnxClassifier(classifier_file)
    assert model.device in (CPU, CUDA)
    if model.device == CPU:
        assert "no OpenVINO (OpenVINO:CPU differs from torch by" in model.reason
    with pytest.raises(VerificationError, match="OpenVINO:CPU differs"):
        OnnxClassifier(classifier_file, device="openvino")


def test_unknown_device(classifier_file: Path) -> None:
    with pytest.raises(UsageError, match="'gpu' is none of auto, cpu, cuda, tensorrt, openvino"):
        OnnxClassifier(classifier_file, device="gpu")


def test_openvino_missing_is_named(classifier_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_openvino(monkeypatch)
    with pytest.raises(BackendError, match="OpenVINO is not installed; pip install openvino"):
        OnnxClassifier(classifier_file, device="openvino")


# A GPU that is asked for and not there


@pytest.mark.skipif(NO_CUDA is None, reason="this machine has an NVIDIA driver; the GPU test covers it")
@pytest.mark.parametrize("stage", ["driver", "libraries"])
@pytest.mark.parametrize(("device", "title"), [("cuda", "CUDA"), ("tensorrt", "TensorRT")])
def test_gpu_without_gpu_raises_quietly(
    device: str,
    title: str,
    stage: str,
    classifier_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if stage == "libraries":  # go past the driver check, to ONNX Runtime's own silent fallback
        monkeypatch.setattr(ort, "why_no_cuda", lambda _: None)
        monkeypatch.setattr(ort, "why_no_tensorrt", lambda _: None)
    with pytest.raises(BackendError, match=f"{title} was asked for") as caught:
        OnnxClassifier(classifier_file, device=device)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(NO_CUDA is None, reason="this machine has an NVIDIA driver")
def test_missing_tensorrt_library_is_named() -> None:
    assert "libnvinfer" in (available.why_no_tensorrt(onnxruntime) or "") or "built without" in str(
        available.why_no_tensorrt(onnxruntime)
    )


def test_cpu_wheel_is_named(tiny: onnx.ModelProto, reseal: Reseal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    with pytest.raises(BackendError, match="built without it; pip uninstall"):
        OnnxClassifier(reseal(tiny), device="cuda")


def test_empty_shell_is_named(tiny: onnx.ModelProto, reseal: Reseal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both wheels installed, then one removed: the import works and nothing is in it."""
    monkeypatch.delattr(onnxruntime, "InferenceSession")
    with pytest.raises(BackendError, match="empty shell"):
        OnnxClassifier(reseal(tiny), device="cpu")


def test_convolutions_on_cpu_do_not_count_as_cuda(classifier_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session whose first provider is CUDA while every convolution was given to the CPU."""
    container = read_container(classifier_file)
    assert OnnxRuntime(container, "cpu", "f", DEFAULTS).convolutions == {CPU: 18}
    monkeypatch.setattr(ort, "_gpu_session", lambda module, data, *_: ort._session(module, data, [CPU], DEFAULTS))
    with pytest.raises(BackendError, match="none of the 18 convolutions"):
        OnnxRuntime(container, "cuda", "f", DEFAULTS)


# Options


def header_of(path: Path) -> Header:
    return read_container(path).header


def test_algorithm_search_is_never_default(classifier_file: Path, static_file: Path) -> None:
    options = RuntimeOptions(tf32=True, memory_limit_mb=512)
    dynamic, static = (providers.cuda_options(header_of(path), options) for path in (classifier_file, static_file))
    assert dynamic["cudnn_conv_algo_search"] == "HEURISTIC" and "enable_cuda_graph" not in dynamic
    assert static["cudnn_conv_algo_search"] == "EXHAUSTIVE" and static["enable_cuda_graph"] == "1"
    assert dynamic["use_tf32"] == "1" and dynamic["gpu_mem_limit"] == str(512 << 20)
    assert providers.cuda_options(header_of(classifier_file), DEFAULTS)["use_tf32"] == "0"
    assert "enable_cuda_graph" not in dict(providers.providers_for(header_of(static_file), "tensorrt", DEFAULTS)[1][1])


def test_provider_options_are_ones_that_onnx_runtime_knows(classifier_file: Path, static_file: Path) -> None:
    """It refuses unknown keys before it looks for a GPU; the control is one that does not exist."""
    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu")
    data = read_container(classifier_file).data
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4

    def accepted(chosen: dict[str, str]) -> bool:
        try:
            onnxruntime.InferenceSession(data, options, providers=[(CUDA, chosen), CPU], enable_fallback=0)
        except Exception as error:
            return "Unknown provider option" not in str(error)
        return True

    asked = RuntimeOptions(memory_limit_mb=100)
    assert all(accepted(providers.cuda_options(header_of(path), asked)) for path in (classifier_file, static_file))
    if NO_CUDA is None:
        assert not accepted({"no_such_option": "1"})


def test_tolerance_says_what_is_rounded(classifier_file: Path, half_file: Path) -> None:
    full, half = header_of(classifier_file), header_of(half_file)
    assert tolerance(full, "cuda", DEFAULTS) == tolerance(full, "cpu", RuntimeOptions(tf32=True)) == 1e-4
    assert tolerance(full, "cuda", RuntimeOptions(tf32=True)) == tolerance(full, "tensorrt", DEFAULTS) == 5e-3
    assert tolerance(half, "cpu", DEFAULTS) == 2e-2


@pytest.mark.parametrize("wrong", [{"threads": -1}, {"memory_limit_mb": -5}, {"warm_up": (0,)}, {"threads": 1.5}])
def test_bad_options_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="whole numbers"):
        RuntimeOptions(**wrong)


@pytest.mark.parametrize("device", ENGINES)
def test_threads_and_warm_up(device: str, classifier_file: Path) -> None:
    model = OnnxClassifier(classifier_file, device, RuntimeOptions(threads=1, warm_up=(1, 2)))
    assert model.settings["threads"] == "1"
    assert OnnxClassifier(classifier_file, device).settings["threads"] == "all"


# The same numbers


@pytest.mark.parametrize("device", ENGINES)
@pytest.mark.parametrize("shape", [(1, 1, 8, 64, 64), (3, 1, 4, 32, 48), (5, 1, 12, 16, 80)])
def test_engines_equal_torch(
    device: str, shape: tuple[int, ...], classifier: LesionClassifier, classifier_file: Path, encoder_file: Path
) -> None:
    batch = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    with torch.inference_mode():
        logit, stages = classifier(batch).numpy(), classifier.encoder(batch)
    np.testing.assert_allclose(OnnxClassifier(classifier_file, device).run(batch.numpy())["logit"], logit, atol=2e-5)
    found = OnnxEncoder(encoder_file, device).run(batch.numpy())
    np.testing.assert_allclose(found["embedding"], classifier.encoder.pool(stages).detach().numpy(), atol=2e-5)
    np.testing.assert_allclose(found["features"], stages[-1].numpy(), rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("device", ENGINES)
def test_many_lesions_equal_one_at_a_time(
    device: str, classifier_file: Path, make_volume: Callable[..., Volume]
) -> None:
    """Eleven lesions: a full batch and a part of one."""
    model, volume = OnnxClassifier(classifier_file, device), make_volume()
    x, y, z = (float(v) for v in volume.centre_mm_lps)
    positions = [(x + dx, y + dy, z) for dx, dy in itertools.product((-6, -2, 0, 5), (-4, 1, 4))][:11]
    many = model.predict_many(volume, positions)
    assert len({made.probability for made in many}) == 11
    for made, position in zip(many, positions, strict=True):
        alone = model.predict(volume, position)
        assert made.probability == pytest.approx(alone.probability, abs=1e-6)
        assert (made.device, made.flags, made.reason) == (alone.device, alone.flags, alone.reason)
    assert model.predict_many(volume, []) == []


@pytest.mark.parametrize("device", ENGINES)
def test_eight_threads_share_one_session(device: str, classifier_file: Path) -> None:
    """Different inputs and sizes at once; every answer is that of its own input."""
    model = OnnxClassifier(classifier_file, device, RuntimeOptions(threads=1))
    rng = np.random.default_rng(0)
    sizes = [(8, 32, 32), (4, 32, 48), (8, 16, 64)]
    batches = [rng.normal(size=(1, 1, *sizes[n % 3])).astype(np.float32) for n in range(24)]
    expected = [model.run(batch)["logit"] for batch in batches]
    start = threading.Barrier(8)

    def work(worker: int) -> list[np.ndarray]:
        start.wait()
        return [model.run(batch)["logit"] for batch in batches[worker:] + batches[:worker]]

    with ThreadPoolExecutor(8) as pool:
        for worker, found in enumerate(pool.map(work, range(8))):
            np.testing.assert_allclose(found, expected[worker:] + expected[:worker], atol=1e-6)


@pytest.mark.parametrize("device", ENGINES)
def test_tensors_are_taken_where_they_are(device: str, classifier_file: Path) -> None:
    model = OnnxClassifier(classifier_file, device)
    batch = torch.randn(2, 1, 8, 32, 32)
    found = model.run_tensor(batch)
    np.testing.assert_allclose(torch.from_dlpack(found["logit"]).numpy(), model.run(batch.numpy())["logit"], atol=1e-6)
    with pytest.raises(UsageError, match="expected float32"):
        model.run_tensor(batch.double())
    with pytest.raises(UsageError, match="no multiple of the stride"):
        model.run_tensor(torch.zeros(1, 1, 8, 30, 32))


def test_a_bound_tensor_is_not_copied() -> None:
    """Negative control of the above: ONNX Runtime's value has the tensor's own address."""
    batch = torch.randn(1, 1, 8, 32, 32)
    assert onnxruntime.OrtValue.from_dlpack(batch).data_ptr() == batch.data_ptr()
    assert onnxruntime.OrtValue.ortvalue_from_numpy(batch.numpy().copy()).data_ptr() != batch.data_ptr()


# One size, and half precision


def test_fixed_size(static_file: Path, classifier: LesionClassifier, make_volume: Callable[..., Volume]) -> None:
    model = OnnxClassifier(static_file, "cpu")
    assert model.size_zyx == model.spec.size_zyx == (8, 64, 48)
    shape = onnx.load(static_file).graph.input[0].type.tensor_type.shape.dim
    assert [axis.dim_value or axis.dim_param for axis in shape] == ["batch", 1, 8, 64, 48]
    assert len(model.predict_many(make_volume(), [None, None, None])) == 3
    with pytest.raises(UsageError, match=r"takes \(8, 64, 48\) voxels only"):
        model.run(np.zeros((1, 1, 8, 64, 64), np.float32))
    with pytest.raises(UsageError, match="no multiple of the stride"):
        export_onnx(classifier, static_file.with_name("b.onnx"), static_zyx=(8, 60, 64))


def test_half_precision(half_file: Path, classifier_file: Path, classifier: LesionClassifier) -> None:
    header = header_of(half_file)
    assert header.precision == "float16"
    assert half_file.stat().st_size < 0.55 * classifier_file.stat().st_size
    types = {item.data_type for item in onnx.load(half_file).graph.initializer if np.prod(item.dims) > 100}
    assert types == {onnx.TensorProto.FLOAT16}
    batch = torch.randn(2, 1, 8, 64, 64)
    with torch.inference_mode():
        expected = classifier(batch).numpy()
    found = OnnxClassifier(half_file, "cpu").run(batch.numpy())["logit"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-2)
    assert np.abs(found - expected).max() > 1e-6  # the control: it really is another precision


# verify


def test_verify_replays_every_engine(classifier_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = verify_onnx(classifier_file)
    states = {one["device"]: one for one in found["replays"]}
    assert list(states) == ["cpu", "cuda", "tensorrt", "openvino"]
    assert states["cpu"]["provider"] == CPU and states["cpu"]["difference"] < 1e-5
    if NO_CUDA is not None:
        assert states["cuda"]["difference"] is None and "CUDA was asked for" in states["cuda"]["note"]
    if HAS_OPENVINO:
        assert states["openvino"]["difference"] < 1e-4
    assert capfd.readouterr() == ("", "")


def test_verify_fails_where_one_engine_differs(classifier_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = OnnxRuntime.run
    monkeypatch.setattr(
        OnnxRuntime, "run", lambda self, x: {k: v + np.float32(1e-2) for k, v in honest(self, x).items()}
    )
    with pytest.raises(VerificationError, match=r"CPUExecutionProvider by 1\.00e-02") as caught:
        verify_onnx(classifier_file)
    assert caught.value.exit_code == 8


# On a GPU


@pytest.mark.gpu
@needs_gpu
def test_cuda_equals_torch(
    classifier: LesionClassifier, classifier_file: Path, static_file: Path, make_volume: Callable[..., Volume]
) -> None:
    model = OnnxClassifier(classifier_file, device="cuda")
    found = model.predict(make_volume())
    assert found.device == CUDA
    assert found.probability == pytest.approx(classifier.predict(make_volume()).probability, abs=1e-4)
    captured, plain = OnnxClassifier(static_file, device="cuda"), OnnxClassifier(static_file, device="cpu")
    assert captured.settings["enable_cuda_graph"] == "1"
    for count in (1, 3, 1, 1):
        batch = np.random.default_rng(count).normal(size=(count, 1, 8, 64, 48)).astype(np.float32)
        np.testing.assert_allclose(captured.run(batch)["logit"], plain.run(batch)["logit"], atol=1e-4)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs torch with CUDA")
def test_cuda_tensors_stay_there(classifier_file: Path) -> None:
    model = OnnxClassifier(classifier_file, device="cuda")
    batch = torch.randn(2, 1, 8, 32, 32)
    found = torch.from_dlpack(model.run_tensor(batch.cuda())["logit"])
    assert found.is_cuda
    np.testing.assert_allclose(found.cpu().numpy(), model.run(batch.numpy())["logit"], atol=1e-4)
    with pytest.raises(UsageError, match="computes on 'cuda'"):
        model.run_tensor(batch)


def test_tensorrt_plans_for_a_range_of_batches(classifier_file: Path) -> None:
    chosen = providers.tensorrt_options(header_of(classifier_file), DEFAULTS)
    assert chosen["trt_profile_max_shapes"] == "voxels:8x1x8x64x64"
    assert [entry[0] for entry in providers.providers_for(header_of(classifier_file), "tensorrt", DEFAULTS)[:2]] == [
        TENSORRT, CUDA,
    ]  # fmt: skip


def test_open_runtime_refuses_auto(classifier_file: Path) -> None:
    container: Container = read_container(classifier_file)
    with pytest.raises(UsageError, match="none of"):
        open_runtime(container, "auto", "f")
