"""Every fenced code block of every page is run, or has its reason in ``block_tables.py``."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import tempfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
from block_running import Page
from block_tables import TABLES, Ends, NotRun, Smaller, Tables
from block_world import GIVEN, World
from blocks import ROOT, SHELL, Block, BlockError, check_line, find_blocks, find_pages, shell_lines, words_of

PAGES = [page for page in find_pages() if find_blocks(page)]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What commands leave in the temporary folder goes with the test."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))


def run(text: str, world: World, tmp_path: Path, tables: Tables = TABLES, page: str = "docs/made-up.md") -> Page:
    """Run a page that is not there."""
    made = Page(page, find_blocks(page, text), tmp_path / "page", world, tables)
    made.run()
    return made


def fenced(language: str, text: str) -> str:
    return f"# A page\n\n```{language}\n{text}\n```\n"


@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(page: str, world: World, tmp_path: Path) -> None:
    """In order, in one folder; the message of a failure names page and line."""
    for module in TABLES.needs.get(page, ()):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed, which this page's commands need")
    Page(page, find_blocks(page), tmp_path / "page", world, TABLES).run()


# ------------------------------------------------------------------------------------------------------- the tables
def blocks_of(pattern: str) -> list[Block]:
    return [block for page in PAGES if fnmatch(page, pattern) for block in find_blocks(page)]


def stale(tables: Tables) -> list[str]:
    """Entries that match nothing on any page."""
    found = [f"not_run {one.page}: {one.start!r}" for one in tables.not_run if not _matches(one)]
    found += [
        f"smaller {one.page}: {one.old!r}"
        for one in tables.smaller
        if not any(one.old in block.text for block in blocks_of(one.page))
    ]
    found += [f"ends {one.page}: {one.start!r}" for one in tables.ends if not _ends(one)]
    run_words = [words_of(line.text) for page in PAGES for line in _run_lines(page, tables)]
    for command in tables.appended:
        if not any(words[:2] == ["prostate-mim", command] for words in run_words):
            found.append(f"appended: {command}")
    for what in ("names", "claims", "starts", "needs", "configurations"):
        found += [f"{what}: {page}" for page in getattr(tables, what) if not blocks_of(page)]
    return found


def _matches(one: NotRun) -> bool:
    blocks = blocks_of(one.page)
    if one.block:
        return any(block.text.startswith(one.start) for block in blocks)
    lines = (line for block in blocks if block.language in SHELL for line in shell_lines(block))
    return any(line.text.startswith(one.start) for line in lines)


def _ends(one: Ends) -> bool:
    return any(row.strip().startswith(one.start) for block in blocks_of(one.page) for row in block.text.splitlines())


def _run_lines(page: str, tables: Tables) -> list[object]:
    """The commands of a page that are run."""
    made = Page(page, [], Path("nowhere"), World(Path("nowhere")), tables)
    shell = [
        block for block in find_blocks(page) if block.language in SHELL and not made.not_run(block.text, block=True)
    ]
    return [line for block in shell for line in shell_lines(block) if not made.not_run(line.text)]


def test_no_entry_is_stale() -> None:
    """Every entry of every table is of use to some page; names that are given are named."""
    assert stale(TABLES) == []
    text = "".join(block.text for page in PAGES for block in find_blocks(page)) + "".join(TABLES.names.values())
    assert [name for name in GIVEN if not re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w.-])", text)] == []


def test_reasons_are_good() -> None:
    """Each says why; a test that is named is there."""
    for reason in (*(one.reason for one in TABLES.not_run), *(one.why for one in TABLES.ends)):
        assert len(reason) > 8
        for path in re.findall(r"run by ((?:tests/|\.ci/)\S+?)(?:[;,]|$)", reason):
            assert (ROOT / path).exists(), reason


# ----------------------------------------------------------------------------------------------- controls: must fail
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (fenced("python", "a = 1\nraise ValueError(a)"), r"docs/made-up.md:5: raise ValueError.*ValueError: 1"),
        (fenced("python", "from prostate_mim import PreMIN"), "docs/made-up.md:4.*PreMIN"),
        (fenced("python", "\nif True\n    pass"), "made-up.md:5: expected ':'"),
        (fenced("bash", "prostate-mim list --jsn"), "docs/made-up.md:4: .*--jsn"),
        (fenced("bash", "prostate-mim lst"), "made-up.md:4: .*'lst'"),
        (fenced("bash", "prostate-mim phantom --out p --studies few"), "made-up.md:4: .*--studies"),
        (fenced("bash", "# a comment\n\nprostate-mim info no-such-model"), "made-up.md:6: exit code 3"),
        (fenced("bash", "python -c 'import sys; sys.exit(7)'"), "made-up.md:4: exit code 7"),
        (fenced("bash", "pip install prostate-mim"), "pip is not run by tests; give a reason"),
        (fenced("json", '{"a": 1,}'), "made-up.md:4"),
        (fenced("json", '{"a": 1}'), "no command of the page printed this"),
        (fenced("text", "a line"), "made-up.md:4: nothing on the page printed 'a line'"),
        (fenced("toml", "steps = 1"), "no schema is known"),
        (fenced("rust", "fn main() {}"), "a block of rust is not known"),
        (fenced("", "words"), "a block of no language is not known"),
        ("```python\na = 1\n", "made-up.md:1: nothing closes the fence"),
    ],
    ids=[
        "raises", "import", "syntax", "option", "command", "value", "exit-code", "process", "program", "json", "keys",
        "output", "toml", "language", "none", "fence",
    ],
)  # fmt: skip
def test_what_is_wrong_is_noticed(text: str, says: str, world: World, tmp_path: Path) -> None:
    """Blocks that raise, misspelt names, options and values, exit codes, unknown kinds; with page and line."""
    with pytest.raises(BlockError) as caught:
        run(text, world, tmp_path)
    assert re.search(says, str(caught.value), re.S), str(caught.value)


def test_what_is_not_run_is_checked(world: World, tmp_path: Path) -> None:
    """A reason hides no misspelling: names and options of commands, targets, extras and files of others."""
    why = Tables(not_run=(NotRun("docs/made-up.md", "", "no reason at all"),))
    for line, says in (
        ("torchrun --nproc-per-node 8 -m prostate_mim pretrain --manifest a.csv --out b --stps 3", "--stps"),
        ("torchrun --nprc-per-node 8 -m prostate_mim pretrain --manifest a.csv --out b", "--nprc-per-node"),
        ("HF_TOKEN=x prostate-mim hub push runs/a", "'name'"),
        ("make demos", "no demos"),
        ("pip install 'prostate-mim[trian]'", "trian"),
        ("pip install -r requirements-cpus.txt", "requirements-cpus.txt"),
        ("docker build -f export/Dockerfile.gpu .", "Dockerfile.gpu"),
        ("python tests/bench/mim.py --profile --tabel", "--tabel"),
        ("python tests/bench/min.py", "no such script"),
        ("python docs/recipes/own_network.py pretrain --manifset a.csv", "--manifset"),
    ):
        block = find_blocks("docs/made-up.md", fenced("bash", line))[0]
        with pytest.raises(BlockError, match=rf"docs/made-up.md:4: .*{re.escape(says)}"):
            check_line(shell_lines(block)[0])
    run(
        fenced("bash", "torchrun --nproc-per-node 8 -m prostate_mim pretrain --manifest a.csv --out b"),
        world,
        tmp_path,
        why,
    )


def test_stale_entries_are_noticed() -> None:
    """Of every table."""
    wrong = Tables(
        not_run=(NotRun("README.md", "make tea", "r"), NotRun("docs/*.md", "no such text", "r", block=True)),
        smaller=(Smaller("README.md", "--studies 41", "--studies 3"), Smaller("docs/hubs.md", "models", "m")),
        ends=(Ends("README.md", "prostate-mim cure", 1, "r"),), appended={"cure": ()}, names={"docs/a.md": ""},
        claims={"docs/b.md": ()}, configurations={"docs/c.md": ("a", "b")}, starts={"docs/d.md": ""}, needs={"e": ()},
    )  # fmt: skip
    entries = sum(len(getattr(wrong, field.name)) for field in dataclasses.fields(wrong))
    assert len(stale(wrong)) == entries == 11


def test_an_end_that_was_promised_must_come(world: World, tmp_path: Path) -> None:
    """A failure that the table expects, and that does not happen, fails; so does another one."""
    page = "docs/made-up.md"
    for start, how, says in (("int('3')", "ValueError", "no ValueError"), ("int('a')", "TypeError", "ValueError: inv")):
        (tmp_path / how).mkdir()
        with pytest.raises(BlockError, match=says):
            run(fenced("python", start), world, tmp_path / how, Tables(ends=(Ends(page, start, how, "r"),)))
    (tmp_path / "right").mkdir()
    run(
        fenced("python", "int('a')"),
        world,
        tmp_path / "right",
        Tables(ends=(Ends(page, "int('a')", "ValueError", "r"),)),
    )
    with pytest.raises(BlockError, match="is not so at the end"):
        run(fenced("python", "a = 1"), world, tmp_path, Tables(claims={page: ("a == 2",)}))


def test_blocks_are_found_as_renderers_find_them() -> None:
    """Longer fences, tildes, lists, directives; the line is the page's."""
    text = (
        "- a list\n\n  ```bash\n  one \\\n    two  # three\n  # four\n\n  $five\n  ```\n"
        "~~~python title\n```\n~~~\n````{code-block} json\n```\n````\n```{toctree}\na\n```\n"
    )
    first, second, third, fourth = find_blocks("p.md", text)
    assert (first.language, first.line, first.text) == ("bash", 4, "one \\\n  two  # three\n# four\n\n$five\n")
    assert [(line.where, line.text) for line in shell_lines(first)] == [
        ("p.md:4", "one two  # three"), ("p.md:8", "$five"),
    ]  # fmt: skip
    assert [(one.language, one.text) for one in (second, third, fourth)] == [
        ("python", "```\n"), ("json", "```\n"), ("{toctree}", "a\n"),
    ]  # fmt: skip
    console = Block("p.md", 1, "console", "$ one\nits output\n$ cat <<END\nthree\nEND\n")
    assert [line.text for line in shell_lines(console)] == ["one", "cat <<END\nthree\nEND"]


# ------------------------------------------------------------------------------------------------------ other blocks
def test_the_doctors_table_names_every_check() -> None:
    """The output that docs/doctor.md shows has a row for each check, and no other."""
    from prostate_mim.doctor.run import CHECKS

    (shown,) = (block for block in find_blocks("docs/doctor.md") if block.language == "text")
    rows = re.findall(r"^ (?:fault|ok|n/a|warning)\s+([a-z-]+)  ", shown.text, re.M)
    assert sorted(rows) == sorted(name for name, _ in CHECKS)
