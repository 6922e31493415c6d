"""One model in a process of its own, which the service may kill at any time: lines of JSON in, lines of JSON out.

    serving_worker.py MODEL DEVICE THREADS MAX_VOXELS MEMORY_BYTES

The first line out says what was opened, or the error and its exit code. Then, for each line in, ``{"folder", "study",
"masks", "positions"}``: ``{"begun"}`` at once, and ``{"predictions", "read_ms", "predict_ms"}`` or ``{"status", "kind",
"error"}``.
It ends when its input does, so it never outlives the service.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import IO, Any

from run_study import predictions

from prostate_mim.errors import ManifestError, ProstateMimError, ResourceError, UsageError, VolumeError

_OURS = re.compile(r"^(?:study|gland|lesion|zone)(?:\.nii\.gz|\.nii|\.mha|\.nrrd)?: ")
_SLICE = re.compile(r"\bstudy/0*(\d+)\.dcm")
_KINDS = {"gland": "gland mask: ", "lesion": "lesion mask: ", "zone": "zone mask: ", "study": ""}


def main(argv: list[str]) -> int:
    """Serve until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):  # what libraries print may repeat a header
        os.dup2(silence, stream)
    path, device, threads, max_voxels, memory = argv[0], argv[1], *map(int, argv[2:])
    try:
        model = _opened(path, device, threads)
    except ImportError as error:
        _say(answers, {"error": str(error), "exit_code": 6})
        return 6
    except ProstateMimError as error:
        _say(answers, {"error": str(error), "exit_code": error.exit_code})
        return error.exit_code
    _limit_memory(memory, model.device)
    _say(answers, _description(model))
    for line in sys.stdin:
        _say(answers, {"begun": True})
        _say(answers, _answer(model, json.loads(line), max_voxels))
    return 0


def _say(answers: IO[str], values: dict[str, Any]) -> None:
    answers.write(json.dumps(values) + "\n")
    answers.flush()


def _opened(path: str, device: str, threads: int) -> Any:
    from prostate_mim.deploy.runtime import RuntimeOptions
    from prostate_mim.deploy.session import OnnxClassifier

    return OnnxClassifier(path, device, RuntimeOptions(threads=threads, warm_up=(1,)))


def _description(model: Any) -> dict[str, Any]:
    return {
        "model": model.name,
        "revision": model.revision,
        "spec": model.spec.fingerprint,
        "input": model.spec.to_dict(),
        "masks": list(model.spec.masks),
        "device": model.device,
        "reason": model.reason,
        "replay_difference": model.replay_difference,
    }


def _limit_memory(more_bytes: int, device: str) -> None:
    """Let this process take so much more than it has now: what is larger becomes an error here, not of the machine.

    CUDA reserves what it likes, so a process that uses it is not limited.
    """
    if not sys.platform.startswith("linux") or device.startswith(("CUDA", "Tensorrt", "TensorRT")):
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack
    limit = pages * os.sysconf("SC_PAGE_SIZE") + more_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _answer(model: Any, job: dict[str, Any], max_voxels: int) -> dict[str, Any]:
    """Never raises; what cannot be explained names the type of the exception alone."""
    try:
        os.chdir(job["folder"])  # so that messages hold no path but names of our own
        return _predicted(model, job, max_voxels)
    except (VolumeError, ManifestError) as error:
        text = str(error)
        status, kind = (413, "size") if f"at most {max_voxels} allowed" in text else (422, type(error).__name__)
        return {"status": status, "kind": kind, "error": public(text)}
    except UsageError as error:
        return {"status": 422, "kind": "UsageError", "error": public(str(error))}
    except (ResourceError, MemoryError):
        return {"status": 413, "kind": "memory", "error": "needs more memory than one study may have; crop it"}
    except Exception as error:
        return {"status": 500, "kind": type(error).__name__, "error": "the model failed; tell the operator"}
    finally:
        os.chdir("/")


def _predicted(model: Any, job: dict[str, Any], max_voxels: int) -> dict[str, Any]:
    from prostate_mim.studies import read_masks
    from prostate_mim.volume import read_volume

    start = time.perf_counter()
    volume = read_volume(job["study"], max_voxels=max_voxels)
    masks = read_masks(job["masks"], volume)
    read = time.perf_counter()
    rows = predictions(model, volume, [(x, y, z) for x, y, z in job["positions"]], masks)
    done = time.perf_counter()
    return {"predictions": rows, "read_ms": round(1e3 * (read - start), 1), "predict_ms": round(1e3 * (done - read), 1)}


def public(message: str) -> str:
    """A message of the library for the client: names of our own files become words it knows.

    >>> public("study/0012.dcm: truncated DICOM file")
    'file 12: truncated DICOM file'
    >>> public("gland.nii.gz: the mask is empty")
    'gland mask: the mask is empty'
    """
    found = _OURS.match(message)
    if found:
        message = _KINDS[re.split(r"[.:]", found.group())[0]] + message[found.end() :]
    return _SLICE.sub(lambda match: f"file {match.group(1)}", message)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
