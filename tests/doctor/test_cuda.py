"""CUDA that is listed and dead: on this machine as it is, and with a driver and libraries that a compiler makes."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from throw_away import Environment, Told, installed_files

from prostate_mim.doctor.child import Answer
from prostate_mim.doctor.cuda import LIBRARIES, check_generation, check_libraries, check_session
from prostate_mim.doctor.driver import Driver, check_driver, read_driver
from prostate_mim.doctor.elf import needed
from prostate_mim.doctor.finding import Finding
from prostate_mim.doctor.wheels import Wheel

PROVIDER = "onnxruntime/capi/libonnxruntime_providers_cuda.so"
# A driver as programs see it. What it says comes from the environment; it has no GPU behind it.
DRIVER = r"""
#include <stdio.h>
#include <stdlib.h>
static int given(const char *name, int otherwise) { char *text = getenv(name); return text ? atoi(text) : otherwise; }
int cuInit(unsigned flags) { return given("STAND_IN_INIT", 0); }
int cuDriverGetVersion(int *version) { *version = given("STAND_IN_CUDA", 13000); return 0; }
int cuDeviceGetCount(int *count) { *count = given("STAND_IN_DEVICES", 1); return 0; }
int cuDeviceGetName(char *name, int length, int device) { snprintf(name, length, "Stand-in GPU"); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 80000000000; return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) { *value = which == 75 ? 8 : 6; return 0; }
int cuGetErrorName(int code, const char **name) { *name = code == 100 ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_X";
  return 0; }
"""


def compiled(folder: Path, name: str, code: str = "", *needs: str) -> Path:
    """A shared library; without a compiler the test is skipped."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a stand-in library with")
    source, made = folder / f"{name}.c", folder / name
    source.write_text(code)
    links = [f"-Wl,--no-as-needed,-l:{one}" for one in needs]
    command = [compiler, "-shared", "-fPIC", "-o", str(made), f"-Wl,-soname,{name}", str(source), f"-L{folder}", *links]
    subprocess.run(command, check=True, timeout=60)
    return made


@pytest.fixture
def with_driver(gpu_only: Environment, tmp_path: Path) -> Callable[..., Told]:
    """(environment variables) -> the doctor with a driver in its way, and the libraries that lie in ``tmp_path``."""
    compiled(tmp_path, "libcuda.so.1", DRIVER)

    def ask(**env: str) -> Told:
        return gpu_only.doctor("--json", env={"LD_LIBRARY_PATH": str(tmp_path), **env})

    return ask


def test_listed_and_dead_without_a_gpu(gpu_only: Environment) -> None:
    """This machine: CUDA is listed and a session gets the CPU, a warning; what is missing is said, and no fault."""
    told = gpu_only.doctor("--json")
    if told["nvidia-driver"]["state"] != "not applicable":
        pytest.skip("this machine has an NVIDIA GPU or its driver")
    assert told.code == 0 and told.states() == {"cuda-session": "warning", "torch": "warning"}
    assert "lists CUDA, but a session that asks for it gets CPUExecutionProvider" in told["cuda-session"]["found"]
    assert "no NVIDIA driver" in told["cuda-session"]["found"] and told["cuda-session"]["fix"]
    assert "CUDA" in told["onnxruntime"]["found"]
    libraries = told["cuda-libraries"]
    assert libraries["state"] == "not applicable"
    for name in ("libcublas.so.", "libcurand.so.10", "libcudnn.so.9", "libcufft.so."):
        assert name in libraries["found"]


def test_gpu_without_libraries(with_driver: Callable[..., Told]) -> None:
    """A driver and a GPU, none of CUDA's libraries: a fault, and one command that brings them."""
    told = with_driver()
    assert told.code == 6
    assert told["nvidia-driver"] == {
        "name": "nvidia-driver", "state": "ok", "fix": "",
        "found": "CUDA up to 13.0, 1 GPU: Stand-in GPU (8.6, 80 GB)",
    }  # fmt: skip
    assert told["cuda-libraries"]["state"] == told["cuda-session"]["state"] == "fault"
    assert "onnxruntime-gpu[cuda,cudnn]==" in told["cuda-libraries"]["fix"] == told["cuda-session"]["fix"]
    assert told["cuda-generation"]["state"] == "ok"


def test_one_library_is_missing(with_driver: Callable[..., Told], gpu_only: Environment, tmp_path: Path) -> None:
    """Without curand alone, as with torch from PyPI since 2.15: it is named, and no other; with it, none."""
    linked = [name for name in needed(gpu_only.site / PROVIDER) if name.startswith(("libcu", "libnv"))]
    assert "libcurand.so.10" in linked and "libcuda.so.1" in linked
    others = [name for name in linked if name != "libcuda.so.1"] + ["libcudnn.so.9"]
    for name in others:
        if name != "libcurand.so.10":
            compiled(tmp_path, name)
    told = with_driver()
    assert told["cuda-libraries"]["state"] == "fault"
    assert "libcurand.so.10" in told["cuda-libraries"]["found"] and "cublas" not in told["cuda-libraries"]["found"]

    compiled(tmp_path, "libcurand.so.10")
    told = with_driver()
    assert told["cuda-libraries"]["state"] == "warning" and "libcufft" in told["cuda-libraries"]["found"]
    generation = told["cuda-generation"]["found"].partition("CUDA ")[2].partition(".")[0]
    compiled(tmp_path, "libcufft.so.12" if generation == "13" else "libcufft.so.11")
    told = with_driver()
    assert told["cuda-libraries"]["state"] == "ok"
    # They are empty: a session does not get CUDA, and that alone decides.
    assert told["cuda-session"]["state"] == "fault" and told.code == 6


def test_library_that_itself_lacks_one(with_driver: Callable[..., Told], tmp_path: Path) -> None:
    """It is there and cannot be loaded: the reason is said, not only its name."""
    compiled(tmp_path, "libgone.so.1")
    compiled(tmp_path, "libcudnn.so.9", "", "libgone.so.1")
    (tmp_path / "libgone.so.1").unlink()
    assert "libcudnn.so.9 (libgone.so.1: cannot open" in with_driver()["cuda-libraries"]["found"]


def test_driver_of_another_generation(with_driver: Callable[..., Told]) -> None:
    """A wheel for CUDA 13 on a driver that goes up to 12.4; the control is above, up to 13.0."""
    told = with_driver(STAND_IN_CUDA="12040")
    if "is for CUDA 13" not in told["cuda-generation"]["found"]:
        pytest.skip("the wheel that is installed here is not for CUDA 13")
    assert told["cuda-generation"]["state"] == "fault"
    assert "the driver goes up to CUDA 12.4" in told["cuda-generation"]["found"]
    assert "driver" in told["cuda-generation"]["fix"]


def test_driver_that_gives_no_gpu(with_driver: Callable[..., Told]) -> None:
    """CUDA_VISIBLE_DEVICES hides it; or the driver itself fails."""
    told = with_driver(STAND_IN_INIT="100", CUDA_VISIBLE_DEVICES="")
    assert told["nvidia-driver"]["state"] == "warning"
    assert "CUDA_VISIBLE_DEVICES=''" in told["nvidia-driver"]["found"]
    assert told["nvidia-driver"]["fix"] == "unset CUDA_VISIBLE_DEVICES"
    told = with_driver(STAND_IN_INIT="804")
    assert told["nvidia-driver"]["state"] == "warning"
    assert "CUDA_ERROR_X (804)" in told["nvidia-driver"]["found"] and told["nvidia-driver"]["fix"]


# ------------------------------------------------------------------------------------ readings, without a machine


def test_gpu_on_the_bus_without_driver(tmp_path: Path) -> None:
    """The PCI bus knows the GPU, no library of the driver is there: a fault. A sound card of NVIDIA is no GPU."""
    for slot, vendor, kind in (("a", "0x8086", "0x030000"), ("b", "0x10de", "0x040300")):
        (tmp_path / slot).mkdir()
        (tmp_path / slot / "vendor").write_text(f"{vendor}\n")
        (tmp_path / slot / "class").write_text(f"{kind}\n")
    answer = Answer({"library": False, "why": "libcuda.so.1: cannot open shared object file"})
    driver = read_driver(answer, tmp_path)
    assert not driver.gpu and check_driver(driver, {}).state == "not applicable"
    (tmp_path / "b" / "class").write_text("0x030200\n")
    driver = read_driver(answer, tmp_path)
    finding = check_driver(driver, {})
    assert driver.gpu and finding.state == "fault" and "libcuda.so.1" in finding.found and finding.fix
    assert read_driver(answer, tmp_path / "no such folder") == Driver(False, error=driver.error)


GPU = Driver(True, (13, 0), ("A GPU (9.0, 141 GB)",))
FINE = Finding(LIBRARIES, "ok", "")
LISTED = {"listed": True, "provider": "CUDAExecutionProvider", "convolution": "CUDAExecutionProvider", "right": True}


@pytest.mark.parametrize(
    ("values", "state", "word"),
    [
        (LISTED, "ok", "computed"),
        (LISTED | {"convolution": ""}, "ok", "computed"),  # before ONNX Runtime 1.24 nobody can tell
        (LISTED | {"convolution": "CPUExecutionProvider"}, "fault", "cuDNN"),
        (LISTED | {"right": False}, "fault", "wrong"),
        (LISTED | {"provider": "CPUExecutionProvider"}, "fault", "gets CPU"),
        ({"listed": False}, "warning", "without CUDA"),
    ],
)
def test_session_on_a_gpu(values: dict[str, object], state: str, word: str) -> None:
    """What a session on a machine with a GPU may turn out to be."""
    finding = check_session(None, Answer(values), GPU, FINE)
    assert (finding.state, bool(finding.fix)) == (state, state != "ok") and word in finding.found


def test_session_that_crashes() -> None:
    """A crash is a fault with a GPU, and a warning without."""
    crashed = Answer({}, "crashed: Segmentation fault")
    assert check_session(None, crashed, GPU, FINE).state == "fault"
    assert check_session(None, crashed, Driver(False), FINE).state == "warning"


@pytest.mark.parametrize(
    ("ort", "torch", "driver", "state"),
    [
        ("13.0", "13.0", GPU, "ok"),
        ("13.0", "13.2", GPU, "ok"),  # of one generation; the driver need not be as new
        ("13.0", "12.8", GPU, "warning"),
        ("12.8", "13.0", GPU, "warning"),
        ("", "13.0", GPU, "ok"),
        ("", None, GPU, "not applicable"),
        ("13.0", "12.8", Driver(True, (12, 8), ("A GPU",)), "fault"),
        ("", "13.0", Driver(True, (12, 8), ("A GPU",)), "fault"),
        ("12.8", "12.6", Driver(True, (13, 0), ("A GPU",)), "ok"),  # newer drivers run older programs
        ("13.0", None, Driver(False), "ok"),
    ],
)
def test_generations(tmp_path: Path, ort: str, torch: str | None, driver: Driver, state: str) -> None:
    """CUDA 12 or 13 of three parties."""
    capi = tmp_path / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    told = f"cuda_version = '{ort}'\n" if ort else ""
    (capi / "build_and_package_info.py").write_text(f"package_name = 'onnxruntime-gpu'\n{told}")
    wheel = Wheel("onnxruntime-gpu", "1.31.1", tmp_path)
    finding = check_generation(wheel, {"version": "2.13.0", "cuda": torch} if torch else {}, driver)
    assert (finding.state, bool(finding.fix)) == (state, state in ("fault", "warning"))


def test_libraries_are_no_question_of_a_cpu_wheel(tmp_path: Path) -> None:
    """Nothing is asked of a wheel without CUDA, nor without any wheel."""
    assert check_libraries(None, None, GPU).state == "not applicable"
    assert check_libraries(Wheel("onnxruntime", "1.32.0", tmp_path), None, GPU).state == "not applicable"


def test_needed_libraries_of_a_library(tmp_path: Path) -> None:
    """As the linker wrote them, in order."""
    compiled(tmp_path, "liba.so.1")
    compiled(tmp_path, "libb.so.2")
    made = compiled(tmp_path, "libc_test.so", "int x;", "liba.so.1", "libb.so.2")
    assert needed(made)[:2] == ["liba.so.1", "libb.so.2"]


def test_damaged_libraries_are_refused_not_believed(tmp_path: Path) -> None:
    """Truncated at many places, and with bytes changed: a list of names or ValueError, and no endless read."""
    made = compiled(tmp_path, "liba.so.1", "int x;").read_bytes()
    path, dice, refused = tmp_path / "damaged", random.Random(0), 0
    head = 64 + 56 * 12
    for number in range(300):
        data = bytearray(made[: dice.randrange(len(made))] if number % 2 else made)
        for _ in range(4 if number % 2 == 0 else 0):
            data[dice.randrange(head)] = dice.randrange(256)
        path.write_bytes(data)
        try:
            assert all(isinstance(name, str) for name in needed(path))
        except ValueError:
            refused += 1
    assert refused > 100
    path.write_bytes(b"MZ\x90\x00")
    with pytest.raises(ValueError, match="not a 64-bit"):
        needed(path)


def test_provider_is_the_file_that_is_read() -> None:
    """The name of the file in the wheel, which everything above depends on."""
    files = installed_files()
    if not files:
        pytest.skip("onnxruntime-gpu is not installed here")
    assert PROVIDER in files
