#!/usr/bin/env python3
"""One study and one .onnx -> one line of JSON. No torch, no network.

    python run_study.py --model classifier.onnx study.nii.gz --position "-12.5 34.0 8.0" --device auto

Exit codes: 0 ok, 2 usage, 3 not found, 5 integrity, 6 backend, 7 memory, 8 verification failed, 9 input refused.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import NoReturn


class _Parser(argparse.ArgumentParser):
    """One line instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def _position(text: str) -> tuple[float, float, float]:
    try:
        x, y, z = (float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers 'x y z' in mm, LPS") from None
    return x, y, z


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = _Parser(description="Probability of a lesion, from an .onnx that prostate-mim exported.")
    parser.add_argument(
        "study", help="axial T2w series: .nii, .nii.gz, .mha, .mhd, .nrrd, or a folder of one DICOM series"
    )
    parser.add_argument("--model", required=True, help="classifier .onnx written by `prostate-mim export`")
    parser.add_argument(
        "--position", type=_position, help="lesion centre 'x y z' in mm, LPS; the image centre if left out"
    )
    parser.add_argument(
        "--mask", action="append", default=[], metavar="NAME=FILE",
        help="gland, lesion or zone (1 PZ, 2 TZ), for a model that looks at it; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="cuda fails if it is not used"
    )
    return parser.parse_args(argv)


def _missing(error: ImportError) -> int:
    print(f"error: {error}; pip install -r requirements-cpu.txt (or -cuda) and the wheel", file=sys.stderr)
    return 6


def main(argv: list[str] | None = None) -> int:
    """Print the prediction as JSON on stdout, or one line on stderr; return the exit code."""
    arguments = _arguments(argv)
    try:
        from prostate_mim.errors import ProstateMimError
    except ImportError as error:
        return _missing(error)
    try:
        from prostate_mim.deploy.session import OnnxClassifier
        from prostate_mim.studies import mask_paths, read_masks
        from prostate_mim.volume import read_volume

        model = OnnxClassifier(arguments.model, device=arguments.device)
        volume = read_volume(arguments.study)
        masks = read_masks(mask_paths(arguments.mask), volume)
        prediction = model.predict(volume, arguments.position, masks)
    except ImportError as error:
        return _missing(error)
    except ProstateMimError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(dataclasses.asdict(prediction)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
