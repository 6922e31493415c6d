"""What pretrain and finetune refuse before torch is imported: a full folder, a file that is not there, an option."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from prostate_mim.engine.run_folder import check_run_folder
from prostate_mim.errors import UsageError

# Calls of the command in one process; for each its exit code, its last line, and whether torch was imported by then.
_CALLS = """
import contextlib, io, json, sys
from prostate_mim import cli
for words in json.loads(sys.argv[1]):
    sys.argv, said, code = ["prostate-mim", *words], io.StringIO(), 0
    with contextlib.redirect_stderr(said):
        try: cli.main()
        except SystemExit as stop: code = stop.code
    heavy = {"torch", "monai"} & set(sys.modules)
    print(json.dumps([code, said.getvalue().strip().splitlines()[-1], bool(heavy)]))
"""


def calls(*commands: list[str]) -> list[tuple[int, str, bool]]:
    done = subprocess.run(
        [sys.executable, "-c", _CALLS, json.dumps(commands)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_refusals_that_need_no_torch(tmp_path: Path) -> None:
    """A folder with a run or a finished one, no such configuration, an option that is no number, each at once.

    The control is the last one: an empty folder and a manifest that is missing are looked at with torch.
    """
    begun, finished, empty = tmp_path / "begun", tmp_path / "finished", tmp_path / "empty"
    begun.mkdir()
    (begun / "metrics.jsonl").write_text("")
    (finished / "release").mkdir(parents=True)
    missing, said = str(tmp_path / "no.csv"), "holds a run already; go on with --resume, or choose a new --out"

    def words(verb: str, out: Path, *more: str) -> list[str]:
        return [verb, "--manifest", missing, "--out", str(out), *more]

    *refused, control = calls(
        words("pretrain", begun), words("finetune", begun), words("pretrain", finished, "--resume"),
        words("finetune", finished), words("pretrain", empty, "--config", str(tmp_path / "no.toml")),
        words("finetune", empty, "--size", "8 x 8"), words("pretrain", empty, "--set", "loop.batch"),
        words("pretrain", empty, "--device", "cpu"),
    )  # fmt: skip
    assert [code for code, _, _ in refused] == [2, 2, 2, 2, 3, 2, 2]
    assert [heavy for _, _, heavy in refused] == [False] * 7
    texts = [
        said,
        said,
        "this run is finished",
        "this run is finished",
        "no such configuration file",
        "--size",
        "--set",
    ]
    assert [text in line for text, (_, line, _) in zip(texts, refused, strict=True)] == [True] * 7, refused
    assert control[0] == 3 and "no such manifest" in control[1] and control[2]
    assert not empty.exists() and sorted(path.name for path in begun.iterdir()) == ["metrics.jsonl"]


def test_another_process_of_a_launcher_does_not_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one may have begun to write there already; the control: it does judge."""
    (tmp_path / "metrics.jsonl").write_text("")
    monkeypatch.setenv("RANK", "1")
    check_run_folder(tmp_path, resume=False)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UsageError, match="holds a run already"):
        check_run_folder(tmp_path, resume=False)
