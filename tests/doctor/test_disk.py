"""The cache and the temporary folder: without permission, full, read-only, somebody else's, and in order."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from throw_away import Environment, Told, ask_doctor

from prostate_mim.doctor.disk import cache_folder, check_cache, check_temporary

# Root may write everywhere, until it gives that up.
PLAIN = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if sys.platform == "linux" and os.geteuid() == 0 else ()
ROOM = {"HF_HOME": "", "TMPDIR": ""}


def mounted(environment: Environment, folder: Path, options: str, *, touch: str = "", **env: str) -> Told:
    """The doctor in a mount namespace of its own, with a small disk at ``folder``; nothing of it is left."""
    # dd ends with an error once the disk is full, which is what it is for.
    fill = f"dd if=/dev/zero of={folder}/{touch} bs=64k 2>/dev/null; " if touch else ""
    line = f'mount -t tmpfs -o size=2m none {folder} && {{ {fill}mount -o remount,{options} {folder}; }} && exec "$@"'
    probe = subprocess.run(["unshare", "-m", "sh", "-c", line, "sh", "true"], capture_output=True, check=False) if (
        shutil.which("unshare")
    ) else None  # fmt: skip
    if probe is None or probe.returncode:
        pytest.skip("no small disk can be mounted here (needs Linux, root and unshare)")
    before = ("unshare", "-m", "sh", "-c", line, "sh")
    return ask_doctor(environment.python, environment.folder, "--json", env=env, before=before)


def test_in_order(bare: Environment, tmp_path: Path) -> None:
    """The control: folders of one's own; a cache that is not made yet is not made by looking."""
    told = bare.doctor("--json", env={"HF_HOME": str(tmp_path / "new"), "TMPDIR": str(tmp_path)})
    if {told["cache-folder"]["state"], told["temporary-folder"]["state"]} != {"ok"}:
        pytest.skip("this machine's own disk has no room")
    assert "not made yet" in told["cache-folder"]["found"] and list(tmp_path.iterdir()) == []
    (tmp_path / "new" / "hub" / "models--a--b" / "blobs").mkdir(parents=True)
    told = bare.doctor("--json", env={"HF_HOME": str(tmp_path / "new")})
    assert told["cache-folder"] == {
        "name": "cache-folder", "state": "ok", "found": told["cache-folder"]["found"], "fix": ""
    }  # fmt: skip
    assert "free" in told["cache-folder"]["found"] and "not made" not in told["cache-folder"]["found"]


def test_file_in_its_place(bare: Environment, tmp_path: Path) -> None:
    """A file where the cache should be, or above it; a dead link."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "dead").symlink_to(tmp_path / "nowhere")
    for place, word in (("file", "is a file"), ("file/hub/deeper", "is a file"), ("dead", "is a dead link")):
        told = bare.doctor("--json", env={"HF_HUB_CACHE": str(tmp_path / place)})
        assert told.code == 6 and told["cache-folder"]["state"] == "fault" and word in told["cache-folder"]["found"]
        assert told["cache-folder"]["fix"].startswith("rm ") and "# or: export HF_HOME=" in told["cache-folder"]["fix"]
    assert (tmp_path / "file").read_text() == "x"


def test_without_permission(bare: Environment, tmp_path: Path) -> None:
    """A folder that may not be written; the same folder once it may."""
    if PLAIN and shutil.which(PLAIN[0]) is None:
        pytest.skip("root without setpriv: nothing is forbidden")
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o500)
    for place in (folder, folder / "hub"):
        told = ask_doctor(bare.python, tmp_path, "--json", env={"HF_HUB_CACHE": str(place)}, before=PLAIN)
        assert told.code == 6 and told["cache-folder"]["state"] == "fault"
        assert f"{folder}: cannot be written (Permission denied)" in told["cache-folder"]["found"]
    offline = {"HF_HUB_CACHE": str(folder), "HF_HUB_OFFLINE": "1"}  # reading is enough
    told = ask_doctor(bare.python, tmp_path, "--json", env=offline, before=PLAIN)
    assert told["cache-folder"]["state"] == "ok" and "offline" in told["cache-folder"]["found"]
    folder.chmod(0o700)
    told = ask_doctor(bare.python, tmp_path, "--json", env={"HF_HUB_CACHE": str(folder)}, before=PLAIN)
    assert told["cache-folder"]["state"] != "fault"


def test_of_somebody_else(tmp_path: Path) -> None:
    """One model in it was fetched by another user, as after sudo: a warning, and the command that takes it back."""
    if sys.platform == "win32" or os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    folder = tmp_path / "hub"
    (folder / "models--a--b" / "blobs").mkdir(parents=True)
    before = check_cache(folder)
    os.chown(folder / "models--a--b" / "blobs", 12345, -1)
    finding = check_cache(folder)
    assert before.state != "fault" and "models--a--b" not in before.found
    assert finding.state == "warning" and "models--a--b/blobs" in finding.found
    assert finding.fix == f'sudo chown -R "$(id -u)" {folder}'
    subprocess.run(["sh", "-c", finding.fix.removeprefix("sudo ")], check=True)
    assert check_cache(folder) == before


def test_full_disk(bare: Environment, tmp_path: Path) -> None:
    """2 MB, and nothing of it free: both are faults, with the figure and the limit."""
    told = mounted(bare, tmp_path, "rw", touch="filled", HF_HOME=str(tmp_path / "hf"), TMPDIR=str(tmp_path))
    assert told.code == 6
    assert told["cache-folder"]["state"] == "fault"
    assert "0 MB free, less than 200 MB" in told["cache-folder"]["found"]
    assert told["temporary-folder"]["state"] in ("fault", "warning") and told["temporary-folder"]["fix"]


def test_small_disk(bare: Environment, tmp_path: Path) -> None:
    """2 MB free is not enough for a model either."""
    told = mounted(bare, tmp_path, "rw", HF_HOME=str(tmp_path / "hf"), TMPDIR=str(tmp_path))
    for name in ("cache-folder", "temporary-folder"):
        assert told[name]["state"] == "fault" and "2 MB free, less than 200 MB" in told[name]["found"]


def test_read_only_disk(bare: Environment, tmp_path: Path) -> None:
    """A cache on a disk mounted for reading; a temporary folder there is passed over by Python, and it is said."""
    told = mounted(bare, tmp_path, "ro", HF_HOME=str(tmp_path / "hf"), TMPDIR=str(tmp_path))
    assert told.code == 6 and "Read-only file system" in told["cache-folder"]["found"]
    assert (
        told["temporary-folder"]["state"] == "warning" and "is taken in its place" in told["temporary-folder"]["found"]
    )


def test_temporary_folder_that_is_not_there(bare: Environment, tmp_path: Path) -> None:
    """Python takes another without a word."""
    told = bare.doctor("--json", env={"TMPDIR": str(tmp_path / "none")})
    assert told["temporary-folder"]["state"] == "warning" and "cannot be written" in told["temporary-folder"]["found"]
    assert check_temporary({}).state == check_temporary({"TMPDIR": ""}).state


@pytest.mark.parametrize(
    "environ",
    [
        {}, {"HF_HOME": "/a"}, {"HF_HOME": "~/b"}, {"HF_HUB_CACHE": "/c/d"}, {"HUGGINGFACE_HUB_CACHE": "/e"},
        {"XDG_CACHE_HOME": "/f"}, {"HF_HOME": "/a", "XDG_CACHE_HOME": "/f"}, {"HF_HOME": ""}, {"HF_HUB_CACHE": ""},
        {"HF_HOME": "$HOME/g"}, {"HF_HUB_CACHE": "~/h", "HF_HOME": "/a"},
    ],
)  # fmt: skip
def test_cache_folder_is_huggingface_hubs(bare: Environment, environ: dict[str, str]) -> None:
    """The same folder as the client itself says, for every variable."""
    code = "from huggingface_hub import constants; import sys; sys.stdout.write(constants.HF_HUB_CACHE)"
    env = {"HOME": os.environ.get("HOME", "/"), **environ}
    done = subprocess.run([bare.python, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert cache_folder(environ) == Path(done.stdout)


def test_relative_cache(bare: Environment) -> None:
    """HF_HOME set and empty makes a cache in whichever folder one is in."""
    told = bare.doctor("--json", env={"HF_HOME": ""})
    assert told["cache-folder"]["state"] == "warning" and "relative" in told["cache-folder"]["found"]
