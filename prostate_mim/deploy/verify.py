"""verify: does every engine of this machine reproduce an exported file's golden sample? No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prostate_mim.deploy.container import Container, read_container
from prostate_mim.deploy.runtime import DEFAULTS, DEVICES, open_runtime, tolerance
from prostate_mim.errors import BackendError, ResourceError, VerificationError


@dataclass(frozen=True)
class Replay:
    """One engine and the golden sample.

    Attributes:
        device: as ``OnnxClassifier`` takes it.
        provider: what computed; empty where nothing could.
        difference: largest difference from torch's outputs, in units of max(1, largest expected value); None where the
            engine is not there.
        allowed: what it may be.
        note: why the engine is not there; empty if it is.
    """

    device: str
    provider: str
    difference: float | None
    allowed: float
    note: str = ""

    @property
    def good(self) -> bool | None:
        """Whether it is within what is allowed; None where the engine is not there."""
        return None if self.difference is None else self.difference <= self.allowed


def verify_onnx(path: str | Path) -> dict[str, Any]:
    """Check a file's digest and contract, and replay its golden sample on every engine that is here.

    Returns:
        name, kind, revision, weights_sha256, license, precision, the largest difference (``golden_difference``), and
        ``replays``: a dict for each engine of ``Replay``'s attributes.

    Raises:
        NotFoundError, IntegrityError: as ``read_container``.
        VerificationError: an engine gives other numbers than torch; it says which and by how much.
        BackendError: no engine is here at all.
    """
    container = read_container(path)
    header = container.header
    replays = [_replay(container, device, str(path)) for device in DEVICES[1:]]
    here = [one for one in replays if one.difference is not None]
    if not here:
        raise BackendError(f"{path}: no engine works here ({replays[0].note}); pip install onnxruntime")
    wrong = [f"{one.provider} by {one.difference:.2e} (allowed {one.allowed:g})" for one in here if not one.good]
    if wrong:
        raise VerificationError(
            f"{path}: differs from torch on the golden sample: {', '.join(wrong)}; do not use it there, export "
            "it again or use another version of it"
        )
    return {
        "name": header.name, "kind": header.kind, "revision": header.revision,
        "weights_sha256": header.weights_sha256, "license": header.license, "precision": header.precision,
        "golden_difference": max(float(one.difference or 0) for one in here),
        "replays": [one.__dict__ for one in replays],
    }  # fmt: skip


def _replay(container: Container, device: str, where: str) -> Replay:
    allowed = tolerance(container.header, device, DEFAULTS)
    try:
        runtime = open_runtime(container, device, where)
        found = runtime.run(container.golden.voxels, **container.golden.place)
    except (BackendError, ResourceError) as error:
        return Replay(device, "", None, allowed, str(error).removeprefix(f"{where}: "))
    return Replay(device, runtime.provider, container.golden.difference(found), allowed)
