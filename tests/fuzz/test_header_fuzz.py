"""The fuzzer's target: seeds, seeded mutations of them, and a few thousand guided executions."""

from __future__ import annotations

import random
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from figures import REFUSED, UNTYPED, show
from header_target import SUFFIXES, attempt

from prostate_mim.volume import dicom_slice

HERE = Path(__file__).resolve().parent
SEEDS = sorted((HERE / "corpus").iterdir())
BROKEN = {"nifti1-quaternion", "npz-offset"}


def test_seeds_are_read(tmp_path):
    """Every seed is a whole file of its format, but for those that once raised what they should not."""
    assert {path.read_bytes()[:1] for path in SEEDS} == set(SUFFIXES)
    assert sum(path.stat().st_size for path in SEEDS) < 20_000
    for path in SEEDS:
        expected = "refused" if path.name in BROKEN else "read"
        assert attempt(path.read_bytes(), tmp_path) == expected, path.name


def test_the_script_writes_the_corpus(tmp_path):
    """The committed seeds are what the script makes, byte for byte (but for compressors, which may change)."""
    pytest.importorskip("pydicom", reason="a seed is written by pydicom: pip install 'prostate-mim[datasets]'")
    made = runpy.run_path(str(HERE / "make_corpus.py"))["seeds"]()
    assert set(made) == {path.name for path in SEEDS}
    for name in ("nifti1", "nifti2-sform", "npy1", "mha", "nifti1-quaternion"):
        assert made[name] == (HERE / "corpus" / name).read_bytes()


def test_mutated_seeds(tmp_path, capsys):
    """100 seeded mutations of each seed (bits, bytes, cuts, doubled pieces): read or refused, 0 untyped."""
    counts: dict[str, Counter[str]] = {}
    for path in SEEDS:
        counts[path.name] = Counter()
        rng = random.Random(path.name)
        for _ in range(100):
            data = bytearray(path.read_bytes())
            for _ in range(rng.choice([1, 1, 2, 5])):
                at = rng.randrange(1, len(data))
                end = min(len(data), at + rng.choice([1, 2, 4, 16]))
                kind = rng.randrange(4)
                if kind == 0:
                    data[at] ^= 1 << rng.randrange(8)
                elif kind == 1:
                    data[at:end] = bytes([rng.choice([0, 1, 127, 255])]) * (end - at)
                elif kind == 2:
                    data[at:at] = data[at:end]
                else:
                    del data[at : rng.choice([end, len(data)])]
                if len(data) < 2:
                    break
            try:
                counts[path.name][attempt(bytes(data), tmp_path)] += 1
            except Exception:  # what the figures are for
                counts[path.name][UNTYPED] += 1
    total = show(capsys, "mutated headers", counts, extra=("read",))
    assert total[UNTYPED] == 0
    assert total[REFUSED] > 0.5 * total.total()


def test_a_broken_parser_is_found(tmp_path, monkeypatch):
    """Control: a parser that raises an error of its own is not taken for a refusal."""
    monkeypatch.setattr(dicom_slice, "_stored", lambda found: {}[found])
    with pytest.raises(KeyError):
        attempt((HERE / "corpus" / "dicom").read_bytes(), tmp_path)


def guided(tmp_path: Path, script: Path = HERE / "atheris_headers.py") -> subprocess.CompletedProcess[str]:
    """Run the fuzzer in a process of its own, on a copy of the seeds."""
    corpus = tmp_path / "corpus"
    shutil.copytree(HERE / "corpus", corpus)
    options = ["-runs=3000", "-seed=1", "-rss_limit_mb=500", "-max_len=4096"]
    return subprocess.run(
        [sys.executable, str(script), *options, str(corpus)], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )


def test_guided_executions(tmp_path):
    """T1.7 in small: 3,000 executions guided by coverage end well, under 500 MB."""
    pytest.importorskip("atheris", reason="the fuzzer is missing: pip install atheris")
    done = guided(tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Done 3000 runs" in done.stderr
    assert not list(tmp_path.glob("crash-*"))


def test_guided_executions_find_a_bug(tmp_path):
    """Control: a parser that breaks on one byte is found within as many executions."""
    pytest.importorskip("atheris", reason="the fuzzer is missing: pip install atheris")
    text = (HERE / "atheris_headers.py").read_text()
    planted = "\n\ndef attempt(data, folder):\n    {}[1] if data[5:6] == b'\\x00' and data[:1] == b'd' else None\n"
    support = 'Path(__file__).resolve().parents[1] / "support"'
    assert text.count("\n\ndef main()") == text.count(support) == 1
    text = text.replace("\n\ndef main()", f"{planted}\n\ndef main()").replace(
        support, repr(str(HERE.parent / "support"))
    )
    (script := tmp_path / "planted.py").write_text(text)
    done = guided(tmp_path, script)
    assert done.returncode != 0
    assert "KeyError" in done.stdout + done.stderr
