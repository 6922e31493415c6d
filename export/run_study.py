#!/usr/bin/env python3
"""One study and one .onnx -> one line of JSON for each lesion position. No torch, no network.

    python run_study.py --model classifier.onnx study.nii.gz --position "-12.5 34.0 8.0" --device auto
    python run_study.py --model classifier.onnx DICOM_FOLDER --position "-12.5 34.0 8.0" --sr report.dcm

Exit codes: 0 ok, 2 usage, 3 not found, 5 integrity, 6 backend, 7 memory, 8 verification failed, 9 input refused,
130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from prostate_mim.deploy.session import OnnxClassifier
    from prostate_mim.volume import Volume

# ONNX Runtime 1.31 collects events of use for its maker, and importing it writes an identifier of the machine into the
# home folder; calling its disable_telemetry_events() afterwards comes too late for that. This does not.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

Point = tuple[float, float, float]
INSTALL = "pip install -r requirements-cpu.txt (or -cuda) and the wheel"


class OneLineParser(argparse.ArgumentParser):
    """One line instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def position(text: str) -> Point:
    """``x y z`` or ``x,y,z`` -> three finite numbers.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    try:
        x, y, z = (float(part) for part in text.replace(",", " ").split())
    except ValueError:
        x = y = z = math.nan
    if not all(map(math.isfinite, (x, y, z))):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not three numbers 'x y z' in mm, LPS")
    return x, y, z


def predictions(
    model: OnnxClassifier, volume: Volume, positions: Sequence[Point], masks: dict[str, Volume]
) -> list[dict[str, Any]]:
    """What is printed: one dict for each position (x, y, z in mm, LPS), of the image centre if there is none.

    Raises:
        VolumeError: as ``OnnxClassifier.predict``.
    """
    return [dataclasses.asdict(one) for one in model.predict_many(volume, list(positions) or [None], masks)]


def missing(error: ImportError, install: str = INSTALL) -> int:
    """Say which package is not there, and return the exit code for it."""
    print(f"error: {error}; {install}", file=sys.stderr)
    return 6


def _arguments(argv: list[str] | None, devices: Sequence[str]) -> argparse.Namespace:
    parser = OneLineParser(description="Probability of a lesion, from an .onnx that prostate-mim exported.")
    parser.add_argument(
        "study", help="axial T2w series: .nii, .nii.gz, .mha, .mhd, .nrrd, or a folder of one DICOM series"
    )
    parser.add_argument("--model", required=True, help="classifier .onnx written by `prostate-mim export`")
    parser.add_argument(
        "--position", type=position, action="append", default=[], metavar="'X Y Z'",
        help="lesion centre in mm, LPS; repeatable, a line of JSON each; the image centre if left out",
    )  # fmt: skip
    parser.add_argument(
        "--mask", action="append", default=[], metavar="NAME=FILE",
        help="gland, lesion or zone (1 PZ, 2 TZ), for a model that looks at it; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--device", choices=devices, default="auto", help="any but auto fails if it is not what computes"
    )
    parser.add_argument(
        "--sr", type=Path, metavar="OUT.dcm", help="also a DICOM structured report; of a DICOM folder only"
    )
    return parser.parse_args(argv)


def _run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from prostate_mim.deploy.session import OnnxClassifier
    from prostate_mim.studies import mask_paths, read_masks
    from prostate_mim.volume import read_volume

    if arguments.sr is not None:
        import report_sr

        report_sr.check_request(arguments.sr, Path(arguments.study), arguments.position)
    model = OnnxClassifier(arguments.model, device=arguments.device)
    volume = read_volume(arguments.study)
    masks = read_masks(mask_paths(arguments.mask), volume)
    rows = predictions(model, volume, arguments.position, masks)
    if arguments.sr is not None:
        report_sr.write_report(arguments.sr, Path(arguments.study), rows)
    return rows


def main(argv: list[str] | None = None) -> int:
    """Print predictions as JSON on stdout, or one line on stderr; return the exit code."""
    try:
        return _main(argv)
    except KeyboardInterrupt:
        print("error: interrupted; nothing was written", file=sys.stderr)
        return 130


def _main(argv: list[str] | None) -> int:
    try:
        from prostate_mim.deploy.runtime import DEVICES
        from prostate_mim.errors import ProstateMimError
    except ImportError as error:
        return missing(error)
    arguments = _arguments(argv, DEVICES)
    try:
        rows = _run(arguments)
    except ImportError as error:
        return missing(error)
    except ProstateMimError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for row in rows:
        print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
