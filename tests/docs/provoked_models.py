"""Models, hubs, exported files and devices that are refused: see provoking.py."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from provoking import command, provokes, saved

BUNDLED = Path(__file__).resolve().parents[2] / "prostate_mim" / "weights" / "resenc-s.mim-t2w"

# ------------------------------------------------------------------ models, hubs, integrity


@provokes
def misspelt_model(folder: Path) -> None:
    command("info", "resenc-s.mim-t2")


@provokes
def hub_name_without_revision(folder: Path) -> None:
    command("info", "clinic/lesions")


@provokes
def hub_cannot_be_reached(folder: Path) -> None:
    """The tests have no network, and HF_HUB_OFFLINE is set: nothing is asked."""
    command("info", f"clinic/lesions@{'0' * 40}")


@provokes
def no_release_folder(folder: Path) -> None:
    command("info", folder)


@provokes
def encoder_for_a_classifier(folder: Path) -> None:
    command("predict", saved(folder), "--model", "resenc-s.mim-t2w")


@provokes
def another_spacing(folder: Path) -> None:
    from prostate_mim import PreMIM

    PreMIM.from_pretrained("resenc-s.mim-t2w", spacing_mm_zyx=(3.0, 0.3, 0.3))


def copied_release(folder: Path) -> Path:
    made = folder / "release"
    made.mkdir()
    for path in BUNDLED.iterdir():
        (made / path.name).write_bytes(path.read_bytes())
    return made


def list_sums(release: Path) -> None:
    """Make SHA256SUMS right again, as somebody would who edits a release on purpose."""
    names = [line.split()[1] for line in (release / "SHA256SUMS").read_text().splitlines()]
    lines = [f"{hashlib.sha256((release / name).read_bytes()).hexdigest()}  {name}" for name in names]
    (release / "SHA256SUMS").write_text("\n".join(lines) + "\n")


@provokes
def damaged_weights(folder: Path) -> None:
    release = copied_release(folder)
    data = bytearray((release / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (release / "model.safetensors").write_bytes(data)
    command("info", release)


@provokes
def other_golden_sample(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    release = copied_release(folder)
    golden = load_file(release / "golden.safetensors")
    save_file(
        {name: value + 0.1 * (name == "embedding") for name, value in golden.items()}, release / "golden.safetensors"
    )
    list_sums(release)
    command("verify", release)


# ------------------------------------------------------------------ exported files and engines


def tiny_onnx(folder: Path, shift: float = 0.0) -> Path:
    """A sealed file of four nodes; ``shift`` is by how much its golden sample is off."""
    import onnx
    from tiny_model import sealed_tiny

    from prostate_mim import InputSpec

    path = folder / "classifier.onnx"
    path.write_bytes(sealed_tiny(InputSpec(size_zyx=(8, 64, 64)), shift))
    onnx.checker.check_model(onnx.load_model(path))
    return path


@provokes
def no_onnx_file(folder: Path) -> None:
    tiny_onnx(folder)
    command("verify", folder / "clasifier.onnx")


@provokes
def edited_onnx(folder: Path) -> None:
    path = tiny_onnx(folder)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"Sigmoid", b"Softmax", 1).replace(np.array([3], "<f4").tobytes(), b"\0\0\x80@", 1))
    command("verify", path)


@provokes
def foreign_onnx(folder: Path) -> None:
    import onnx

    model = onnx.load_model(tiny_onnx(folder))
    del model.metadata_props[:]
    onnx.save_model(model, folder / "foreign.onnx")
    command("verify", folder / "foreign.onnx")


@provokes
def onnx_gives_other_numbers(folder: Path) -> None:
    command("verify", tiny_onnx(folder, shift=0.01))


@provokes
def cuda_for_onnx(folder: Path) -> None:
    from prostate_mim import OnnxClassifier

    OnnxClassifier(tiny_onnx(folder), device="cuda")


@provokes
def cuda_for_training(folder: Path) -> None:
    from prostate_mim.engine.distributed import pick_device

    pick_device("cuda")
