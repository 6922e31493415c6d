"""Coverage-guided fuzzing of the header parsers.

    python tests/fuzz/atheris_headers.py -runs=2000000 -rss_limit_mb=500 NEW_INPUTS tests/fuzz/corpus

An exception that is not one of ours, or over 500 MB (``-rss_limit_mb=500``), stops the run and leaves the input as
``crash-*``. The options are libFuzzer's; inputs that reach new code are kept in the first folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
with atheris.instrument_imports(include=["prostate_mim.volume", "header_target"]):
    from header_target import attempt

    import prostate_mim.volume.arrays
    import prostate_mim.volume.dicom_slice
    import prostate_mim.volume.metaimage
    import prostate_mim.volume.nifti
    import prostate_mim.volume.nrrd  # noqa: F401


FOLDER = "PROSTATE_MIM_FUZZ_FOLDER"


def main() -> int:
    """Run until -runs is reached or something breaks, in a child: libFuzzer leaves without any cleaning up."""
    if FOLDER not in os.environ:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as made:
            return subprocess.run([sys.executable, *sys.argv], env={**os.environ, FOLDER: made}).returncode
    folder = Path(os.environ[FOLDER])
    atheris.Setup(sys.argv, lambda data: attempt(data, folder) and None)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
