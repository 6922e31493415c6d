"""Many clients at once, and a server that is killed while it writes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prostate_mim.hub.serving import Shelf, new_token, read_access


def test_64_clients_read_no_wrong_byte(place: Any) -> None:
    """Whole files and parts of them, while another client commits: every answer is of one commit."""
    rng = random.Random(0)
    contents = [os.urandom(300_000 + n) for n in range(4)]
    place.shelf.create("org/m")
    first = place.shelf.commit("org/m", "main", {f"{n}.bin": c for n, c in enumerate(contents)}, title="", author="a")
    newer = os.urandom(300_000)

    def read(_: int) -> int:
        wrong = 0
        for _ in range(6):
            which = rng.randrange(4)
            begin = rng.randrange(300_000)
            path = f"/org/m/resolve/{first.sha}/{which}.bin"
            status, headers, body = place.ask("GET", path, headers={"Range": f"bytes={begin}-"})
            wrong += status != 206 or body != contents[which][begin:]
            status, headers, body = place.ask("GET", "/org/m/resolve/main/0.bin")
            wrong += status != 200 or hashlib.sha256(body).hexdigest() != headers["etag"].strip('"')
            wrong += body not in (contents[0], newer)
        return wrong

    with ThreadPoolExecutor(64) as pool:
        counts = [pool.submit(read, number) for number in range(64)]
        place.shelf.commit("org/m", "main", {"0.bin": newer}, title="", author="a")
        assert sum(count.result() for count in counts) == 0


def test_commits_at_once_lose_nothing(place: Any) -> None:
    """Sixteen threads add a file each: sixteen commits in a row, and every file."""
    place.shelf.create("org/m")
    with ThreadPoolExecutor(16) as pool:
        adding = [
            pool.submit(place.shelf.commit, "org/m", "main", {f"{n}.txt": b"x"}, title=str(n), author="a")
            for n in range(16)
        ]
        assert len({one.result().sha for one in adding}) == 16
    repository = place.shelf.open("org/m")
    assert len(repository.at("main").files) == 16
    assert len(list(repository.history(repository.at("main")))) == 16


def test_tags_and_commits_at_once_lose_nothing(place: Any) -> None:
    """Eight threads tag while eight commit: every tag and every commit is kept."""
    place.shelf.create("org/m")
    first = place.shelf.commit("org/m", "main", {"first.txt": b"x"}, title="", author="a")

    def change(number: int) -> None:
        for turn in range(5):
            name = f"{number}-{turn}"
            if number % 2:
                place.shelf.name_commit("org/m", "tags", name, first.sha)
            else:
                place.shelf.commit("org/m", "main", {f"{name}.txt": b"x"}, title="", author="a")

    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(change, number) for number in range(16)]:
            done.result()
    repository = place.shelf.open("org/m")
    assert len(repository.tags) == 40
    assert len(repository.at("main").files) == 41


def test_private_repositories_made_at_once_are_all_private(place: Any) -> None:
    """Sixteen at once, while tokens are made: none is forgotten, as it would be public."""

    def make(number: int) -> int:
        if number % 4 == 0:
            new_token(place.root, f"user{number}", may_write=False)
        return int(place.as_writer("POST", "/api/repos/create", {"name": f"m{number}", "private": True})[0])

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(make, range(16))) == {200}
    found = read_access(place.root)
    assert len(found.private) == 16
    assert len(found.users) == 6
    assert json.loads(place.ask("GET", "/api/models")[2]) == []


WRITING = """
import sys
from prostate_mim.hub.serving import Shelf
shelf = Shelf(sys.argv[1])
print("ready", flush=True)
for number in range(10_000):
    files = {"n.txt": str(number).encode(), f"{number % 7}.bin": bytes(200_000)}
    shelf.commit("org/m", "main", files, title="", author="a")
"""


def test_killed_while_writing(tmp_path: Path) -> None:
    """Twelve times kill -9: the next server finds whole commits only, in one row, and goes on."""
    shelf = Shelf(tmp_path)
    shelf.create("org/m")
    rng = random.Random(1)
    for _ in range(12):
        process = subprocess.Popen([sys.executable, "-c", WRITING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        repository = Shelf(tmp_path).open("org/m")
        for commit in repository.commits.values():
            for path, file in commit.files.items():
                assert hashlib.sha256((commit.folder / path).read_bytes()).hexdigest() == file.sha256
    before = len(repository.commits)
    assert before > 0
    made = shelf.commit("org/m", "main", {"last.txt": b"x"}, title="", author="a")
    assert not list(tmp_path.rglob(".new.*"))  # what was killed half-written is gone
    history = list(shelf.open("org/m").history(made))
    assert len(history) == before + 1
