"""A page's blocks, run in order: Python in one namespace, commands with real files in one folder."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from block_tables import Ends, NotRun, Tables
from block_values import check_toml, difference, objects, run_command
from block_world import GIVEN, World, first_place
from blocks import PYTHON, ROOT, SHELL, Block, BlockError, Line, check_line, commands_of, shell_lines, words_of

PROGRAMS = {"prostate-mim", "python", "curl", "export", "cd", "cat", "ls", "mkdir", "cp", "echo"}
"""That a line may start; any other needs a reason not to be run."""
SERVERS = {
    "prostate-mim hub serve": "models at http",
    "python service.py": '"listening"',
}
"""Beginning of a line that does not end by itself -> what it prints when it is ready. Ctrl-C ends it, with 130."""
WAIT_S = 180.0
_OUT = re.compile(r"--out[ =]([\w./-]+)")
_QUOTED, _OPERATOR = re.compile(r"'[^']*'|\"[^\"]*\""), re.compile(r"[|&;<>$*]")
_TOKEN = re.compile(r"\bhf_[\w-]{8,}")


class Page:
    """One page in one folder.

    Attributes:
        name: path from the repository's root.
        folder: where its commands run.
        names: of its Python blocks.
        printed: what its commands wrote on stdout so far.
    """

    def __init__(self, name: str, blocks: list[Block], folder: Path, world: World, tables: Tables) -> None:
        self.name, self.blocks, self.folder, self.world, self.tables = name, blocks, folder, world, tables
        self.names: dict[str, Any] = {"__name__": "page"}
        self.printed: list[str] = []
        self.place = first_place("".join(block.text for block in blocks))
        self.servers: list[tuple[Line, subprocess.Popen[str]]] = []
        self.scripts = frozenset(name for name in GIVEN if name.endswith(".py"))
        self.bin = folder.parent / f"{folder.name}-bin"

    def run(self) -> None:
        """Every block, then what is claimed of the end.

        Raises:
            BlockError: a block that does not do what it should; or that is of an unknown kind.
        """
        self._begin()
        with contextlib.chdir(self.folder):
            for block in self.blocks:
                try:
                    self._run(block)
                finally:
                    self._stop_servers()
            for claim in self.tables.claims.get(self.name, ()):
                if not eval(claim, self.names):  # noqa: S307 - of our own table
                    raise BlockError(f"{self.name}: {claim} is not so at the end")

    def _begin(self) -> None:
        self.folder.mkdir()
        self.bin.mkdir()
        for name, command in (("prostate-mim", "-m prostate_mim "), ("python", "")):
            (self.bin / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {command}"$@"\n')
            (self.bin / name).chmod(0o755)
        start = self.tables.starts.get(self.name)
        for path in (ROOT / start).iterdir() if start else ():
            (self.folder / path.name).symlink_to(path)
        with contextlib.chdir(self.folder):
            prelude = self.tables.names.get(self.name, "")
            self._give(prelude)
            self._give_configuration()
            exec(compile(prelude, f"names of {self.name}", "exec"), self.names)  # noqa: S102 - our own table

    def _run(self, block: Block) -> None:
        if self.not_run(block.text, block=True):
            if block.language in SHELL:
                for line in shell_lines(block):
                    check_line(line, self.scripts)
        elif block.language in PYTHON:
            self._clear(_outputs(block))
            self._python(block)
        elif block.language in SHELL:
            lines = shell_lines(block)
            self._clear({out for line in lines if "--resume" not in line.text for out in _OUT.findall(line.text)})
            for line in lines:
                check_line(line, self.scripts)
                if not self.not_run(line.text):
                    self._line(line)
        elif block.language == "toml":
            self._toml(block)
        elif block.language == "json":
            self._json(block)
        elif block.language == "text":
            self._text(block)
        elif not block.language.startswith("{"):  # a directive of Sphinx, which tests/docs/test_build.py runs
            raise BlockError(
                f"{block}: a block of {block.language or 'no language'} is not known; run it, or give a reason"
            )

    def not_run(self, text: str, *, block: bool = False) -> NotRun | None:
        """The entry of the table, if the line or block is not to be run."""
        entries = (one for one in self.tables.not_run if one.block == block and fnmatch(self.name, one.page))
        return next((one for one in entries if text.startswith(one.start)), None)

    def smaller(self, text: str) -> str:
        """A block's text as it is run."""
        for one in self.tables.smaller:
            if fnmatch(self.name, one.page) and one.old in text:
                new = one.new.replace("{port}", str(self.port)) if "{port}" in one.new else one.new
                text = text.replace(one.old, new)
        return text

    @cached_property
    def port(self) -> int:
        """A free one of this machine, the same for the whole page."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return int(free.getsockname()[1])

    def _ends(self, text: str) -> Ends | None:
        found = (one for one in self.tables.ends if fnmatch(self.name, one.page) and text.startswith(one.start))
        entry = next(found, None)
        return None if entry is not None and entry.unless == "cuda" and _cuda() else entry

    # ------------------------------------------------------------------------------------------------------- files
    def _clear(self, outputs: set[str]) -> None:
        """Examples use names again: what a block writes is not there when it begins."""
        for path in (self.folder / output for output in outputs):
            if path.is_symlink() or path.is_file():
                path.unlink()
            elif path.is_dir():
                shutil.rmtree(path)

    def _give(self, text: str, outputs: set[str] | frozenset[str] = frozenset()) -> None:
        """Put in place what a text names and nobody has made."""
        for name, make in GIVEN.items():
            named = re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w.-])", text)
            if named and name not in outputs and not (self.folder / name).exists():
                (self.folder / name).parent.parent.mkdir(parents=True, exist_ok=True)
                if not name.endswith(("/manifest.csv", "/studies.csv")):  # whose folder is a link
                    (self.folder / name).parent.mkdir(exist_ok=True)
                make(self.world, self.folder / name, self.place)

    # ------------------------------------------------------------------------------------------------------ Python
    def _python(self, block: Block) -> None:
        """Statement by statement, with the page's own line numbers."""
        text = "\n" * (block.line - 1) + self.smaller(block.text)
        self._give(text, _outputs(block))
        for statement in ast.parse(text, block.page).body:
            source = ast.get_source_segment(text, statement) or ""
            expected = self._ends(source)
            out = io.StringIO()
            try:
                with contextlib.redirect_stdout(out):
                    code = compile(ast.Module([statement], []), block.page, "exec")
                    exec(code, self.names)  # noqa: S102 - our own page
            except Exception as error:
                if expected is None or type(error).__name__ != expected.how:
                    told = "".join(traceback.format_exception(error)[-4:])
                    raise BlockError(f"{block.page}:{statement.lineno}: {source}\n{told}") from error
            else:
                if expected is not None:
                    raise BlockError(f"{block.page}:{statement.lineno}: no {expected.how}")
            self.printed.append(out.getvalue())

    # ------------------------------------------------------------------------------------------------------- shell
    def _line(self, line: Line) -> None:
        text = self.smaller(line.text)
        unknown = [words[0] for words in commands_of(text) if words[0] not in PROGRAMS]
        if unknown:
            raise BlockError(f"{line.where}: {unknown[0]} is not run by tests; give a reason in block_tables.py")
        self._give(text, set(_OUT.findall(text)))
        if any(text.startswith(start) for start in SERVERS):
            self._serve(line, text)
            return
        words = words_of(text)
        if words[0] == "prostate-mim" and not _OPERATOR.search(_QUOTED.sub("", text.split("#")[0])):
            code, out, err = run_command([*words[1:], *self._more(words[1:])])
        else:
            code, out, err = self._process(text)
        self.printed.append(out)
        expected = self._ends(line.text)
        if code != (expected.how if expected else 0):
            raise BlockError(f"{line.where}: exit code {code}\n{text}\n{out[-1000:]}{err[-3000:]}")

    def _more(self, words: list[str]) -> tuple[str, ...]:
        """Options that make a command smaller."""
        return self.tables.appended.get(words[0], ())

    def _environment(self, text: str) -> dict[str, str]:
        own = dict(os.environ)
        if "HF_ENDPOINT=" in text:  # the page's own hub; nobody else is reached
            own = {key: value for key, value in own.items() if not key.startswith(("HF_", "HUGGING"))}
        own |= {"PATH": f"{self.bin}{os.pathsep}{own['PATH']}", "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
        home = self.folder.parent / f"{self.folder.name}-hub"
        return own | {"HF_HOME": str(home), "BROWSER": "true", "DISPLAY": ""}  # a page is made, and not opened

    def _process(self, text: str) -> tuple[int, str, str]:
        """By bash, in a group of its own that is ended after a while."""
        token = _TOKEN.findall("".join(self.printed))
        text = text.replace("hf_...", token[-1]) if token else text
        made = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", text], cwd=self.folder, env=self._environment(text), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            out, err = made.communicate(timeout=WAIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(made.pid, signal.SIGKILL)
            out, err = made.communicate()
            err += "\nstill running: a server? see SERVERS in block_running.py"
        return made.returncode, out, err

    def _serve(self, line: Line, text: str) -> None:
        """In the background until the block ends."""
        ready = next(said for start, said in SERVERS.items() if text.startswith(start))
        log = self.folder.parent / f"{self.folder.name}-server-{len(self.printed)}.log"
        self._stop_servers()
        with log.open("w") as stream:
            made = subprocess.Popen(
                ["bash", "-c", f"exec {text}"], cwd=self.folder, stdout=stream, stderr=subprocess.STDOUT, text=True,
                env=self._environment(text) | {"PYTHONUNBUFFERED": "1"}, preexec_fn=_foreground,
            )  # fmt: skip
        self.servers.append((line, made))
        until = time.monotonic() + WAIT_S
        while ready not in log.read_text():
            if made.poll() is not None or time.monotonic() > until:
                raise BlockError(f"{line.where}: it did not get ready\n{log.read_text()[-3000:]}")
            time.sleep(0.05)

    def _stop_servers(self) -> None:
        for line, made in self.servers:
            made.send_signal(signal.SIGINT)
            try:
                code = made.wait(30)
            except subprocess.TimeoutExpired:
                made.kill()
                made.wait()
                code = -signal.SIGKILL
            self.servers = []
            if code != 130 and sys.exc_info()[0] is None:
                raise BlockError(f"{line.where}: Ctrl-C ended it with {code}, not 130")

    # ------------------------------------------------------------------------------------------------------ values
    def _toml(self, block: Block) -> None:
        found = [entry for page, entry in self.tables.configurations.items() if fnmatch(self.name, page)]
        if not found:
            raise BlockError(f"{block}: no schema is known for this TOML; see CONFIGURATIONS in block_tables.py")
        ((_, schema),) = found
        check_toml(block, self.folder, schema)

    def _give_configuration(self) -> None:
        """The page's TOML block, made smaller, under the name that its commands use."""
        for page, (name, _) in self.tables.configurations.items():
            for block in self.blocks:
                if fnmatch(self.name, page) and block.language == "toml":
                    self._give(block.text)
                    (self.folder / name).write_text(self.smaller(block.text), encoding="utf-8")

    def _text(self, block: Block) -> None:
        """Every line is one that an earlier block of the page printed."""
        printed = {" ".join(line.split()) for out in self.printed for line in out.splitlines()}
        for number, row in enumerate(block.text.splitlines(), block.line):
            if " ".join(row.split()) not in printed:
                raise BlockError(f"{block.page}:{number}: nothing on the page printed {row!r}")

    def _json(self, block: Block) -> None:
        """An object that an earlier command of the page printed looks like it."""
        try:
            shown = json.loads(block.text)
        except ValueError as error:
            raise BlockError(f"{block}: {error}") from error
        real = list(objects("".join(self.printed)))
        reasons = [difference(shown, one) for one in real]
        if not real or all(reasons):
            raise BlockError(f"{block}: no command of the page printed this: {reasons or 'nothing was printed'}")


def _outputs(block: Block) -> set[str]:
    """What a Python block writes: ``out="..."``."""
    try:
        tree = ast.parse("\n" * (block.line - 1) + block.text, block.page)
    except SyntaxError as error:
        raise BlockError(f"{block.page}:{error.lineno}: {error.msg}") from error
    keywords = (node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "out")
    return {node.value.value for node in keywords if isinstance(node.value, ast.Constant)}


def _foreground() -> None:
    """Shells let what they start in the background ignore Ctrl-C; children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _cuda() -> bool:
    import onnxruntime

    from prostate_mim.deploy.available import why_no_cuda

    return why_no_cuda(onnxruntime) is None
