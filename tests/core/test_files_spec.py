"""Writing files: complete or not at all. InputSpec: a closed contract with a stable fingerprint."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prostate_mim.errors import IntegrityError, UsageError, nearest
from prostate_mim.files import (
    append_line,
    atomic_path,
    make_folder,
    sha256_of,
    whole_folder,
    write_bytes,
    write_text,
)
from prostate_mim.spec import CHANNELS, SINGLE_SLICE, InputSpec


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file(tmp_path, error):
    """A body that fails halfway leaves the old file as it was and nothing beside it."""
    path = tmp_path / "a.nii.gz"
    write_bytes(path, b"old")
    with pytest.raises(error), atomic_path(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".nii.gz")  # writers choose the format by it
        temporary.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_success_replaces_the_file(tmp_path):
    """A body that succeeds replaces the file and leaves nothing beside it."""
    path = tmp_path / "a.json"
    write_text(path, "old")
    write_text(path, "nëw")
    assert path.read_bytes() == "nëw".encode()
    assert list(tmp_path.iterdir()) == [path]
    write_text(path, "abc")
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_folder_appears_whole_or_not_at_all(tmp_path, error):
    """A body that fails leaves nothing, not even an empty folder; one that succeeds leaves all; what is full stays."""
    folder = tmp_path / "new" / "folder"
    with pytest.raises(error), whole_folder(folder) as temporary:
        (temporary / "half").write_text("half")
        raise error
    assert list((tmp_path / "new").iterdir()) == []
    with whole_folder(folder) as temporary:
        (temporary / "all").write_text("all")
        assert not folder.exists()
    assert [path.name for path in folder.iterdir()] == ["all"]
    with pytest.raises(UsageError, match="not empty"), whole_folder(folder):
        pass
    assert [path.name for path in folder.iterdir()] == ["all"]
    assert list(folder.parent.iterdir()) == [folder]


def test_nearest_name():
    """The likest name from a likeness on; at 0 there is always one, unless nothing is known."""
    assert nearest("stpes", ["steps", "batch"]) == "steps"
    assert nearest("xyz", ["steps", "batch"]) == ""
    assert nearest("xyz", ["steps", "batch"], 0) in ("steps", "batch")
    assert nearest("steps", {}, 0) == ""


def test_disk_full(tmp_path):
    """With no space left (a limit on file size) the error is ResourceError, the old file whole, nothing beside it."""
    write_bytes(tmp_path / "a.bin", b"old")
    code = (
        "import resource, signal, sys\n"
        "from prostate_mim.files import append_line, write_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))\n"
        "write_bytes(sys.argv[1] + '/small.bin', b'x' * 10000)\n"  # negative control: what fits is written
        "for name in ('a.bin', 'new.bin'):\n"
        "    try: write_bytes(sys.argv[1] + '/' + name, b'x' * 200000)\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
        "try: append_line(sys.argv[1] + '/small.bin', 'one more')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith("ResourceError")
        assert "no space left" in line
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "small.bin"]


def test_unwritable_folder(tmp_path):
    """A file where a folder should be, or no folder at all, is a UsageError naming the path as given."""
    write_text(tmp_path / "file", "x")
    for path in (tmp_path / "file" / "a.bin", tmp_path / "none" / "a.bin"):
        with pytest.raises(UsageError, match=r"a\.bin: cannot be written"):
            write_bytes(path, b"x")
        with pytest.raises(UsageError, match="cannot be written"):
            append_line(path, "x")
    with pytest.raises(UsageError, match="cannot be written"):
        make_folder(tmp_path / "file" / "out")
    with pytest.raises(UsageError, match="cannot be written"):
        write_bytes(make_folder(tmp_path / "deep" / "out"), b"x")  # a folder where a file should be
    assert make_folder(tmp_path / "deep" / "out").is_dir()
    assert not list((tmp_path / "deep" / "out").iterdir())


def test_kill_leaves_a_complete_file(tmp_path):
    """SIGKILL at 15 moments of a loop of writes: the file is always one whole write, 400,000 equal bytes."""
    path = tmp_path / "a.bin"
    code = (
        "import sys\nfrom prostate_mim.files import write_bytes\nprint('ready', flush=True)\nn = 0\n"
        "while True:\n    n = n % 250 + 1\n    write_bytes(sys.argv[1], bytes([n]) * 400000)\n"
    )
    seen = set()
    rng = np.random.default_rng(0)
    for _ in range(15):
        with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            time.sleep(0.02 + float(rng.uniform(0, 0.05)))
            writer.send_signal(signal.SIGKILL)
        if path.exists():
            data = path.read_bytes()
            assert len(data) == 400000
            assert len(set(data)) == 1
            seen.add(data[0])
    assert seen


SPECS = st.builds(
    InputSpec,
    st.tuples(*[st.floats(0.1, 10)] * 3),
    st.tuples(*[st.integers(1, 1024)] * 3),
    clip_percentiles=st.tuples(st.floats(0, 49), st.floats(50, 100)),
    single_slice=st.sampled_from(SINGLE_SLICE),
    channels=st.lists(st.sampled_from(CHANNELS[1:]), unique=True).map(lambda masks: ("t2w", *masks)),
)


@settings(max_examples=200, deadline=None)
@given(SPECS)
def test_json_round_trip(spec):
    """JSON gives back an equal spec with an equal fingerprint."""
    found = InputSpec.from_dict(json.loads(spec.to_json()))
    assert found == spec
    assert found.to_json() == spec.to_json()
    assert found.fingerprint == spec.fingerprint


def test_fingerprint_is_stable():
    """The fingerprint in published files is that of the canonical JSON, for ever."""
    assert InputSpec().to_json() == (
        '{"clip_percentiles":[0.5,99.5],"interpolation":"linear-antialiased","normalisation":"zscore-before-padding",'
        '"orientation":"axial-LPS","size_zyx":[16,96,96],"spacing_mm_zyx":[3.0,0.5,0.5],"version":1}'
    )
    assert InputSpec().fingerprint == "94a40a308d420200"


def test_equal_specs_have_equal_fingerprints():
    """3 and 3.0, list and tuple, numpy and Python numbers: the same contract, the same fingerprint."""
    same = [
        InputSpec((3, 0.5, 0.5), (16, 96, 96)),
        InputSpec([3.0, 0.5, 0.5], [16, 96, 96], clip_percentiles=[0.5, 99.5]),
        InputSpec(np.array([3.0, 0.5, 0.5]), tuple(np.array([16, 96, 96]))),
        InputSpec().with_size((8, 8, 8)).with_size((16, 96, 96)),
    ]
    for spec in same:
        assert spec == InputSpec()
        assert spec.fingerprint == InputSpec().fingerprint
    assert InputSpec().size_mm_zyx == (48.0, 48.0, 48.0)


CHANGES = {
    "spacing_mm_zyx": [(3.0, 0.5, 0.500001), (3.1, 0.5, 0.5)],
    "size_zyx": [(16, 96, 97), (15, 96, 96)],
    "clip_percentiles": [(0.0, 99.5), (0.5, 99.0)],
}


def test_fingerprint_changes_with_any_field():
    """Each changed number gives another fingerprint; a changed rule or version is refused outright."""
    specs = [dataclasses.replace(InputSpec(), **{name: v}) for name, values in CHANGES.items() for v in values]
    assert len({InputSpec().fingerprint, *(spec.fingerprint for spec in specs)}) == 1 + len(specs)
    rest = {field.name for field in dataclasses.fields(InputSpec)} - set(CHANGES)
    assert rest == {"orientation", "normalisation", "interpolation", "version", "single_slice", "channels"}
    for name in rest:
        with pytest.raises(IntegrityError, match=name):
            dataclasses.replace(InputSpec(), **{name: 3 if name == "version" else "other"})


WIDER = InputSpec(single_slice="repeat", channels=("t2w", "gland"))


def test_contracts_that_use_nothing_new_stay_version_1():
    """Both new fields are left out, and version is 1, exactly while both have their defaults."""
    for spec in (WIDER, InputSpec(single_slice="repeat"), InputSpec(channels=["t2w", "pz"])):
        values = spec.to_dict()
        assert values["version"] == spec.version == 2
        assert {"single_slice", "channels"} <= set(values)
        assert InputSpec.from_dict(values) == spec
        assert InputSpec.from_dict(json.loads(spec.to_json())).fingerprint == spec.fingerprint
    plain = dataclasses.replace(WIDER, single_slice="pad", channels=("t2w",))
    assert plain == InputSpec()
    assert plain.to_json() == InputSpec().to_json()
    assert len({InputSpec().fingerprint, WIDER.fingerprint, WIDER.with_channels("t2w").fingerprint}) == 3
    assert WIDER.fingerprint == "f312c3b2e5e29964"
    assert WIDER.masks == ("gland",)
    assert InputSpec().masks == ()


BAD_CHANNELS = [(), ("gland",), ("gland", "t2w"), ("t2w", "t2w"), ("t2w", "adc"), "t2w", ("t2w", 1), None]


@pytest.mark.parametrize("channels", BAD_CHANNELS, ids=str)
def test_impossible_channels(channels):
    """The image comes first, each channel is known and comes once."""
    with pytest.raises(IntegrityError, match="channels"):
        InputSpec(channels=channels)
    with pytest.raises(IntegrityError, match="channels"):
        InputSpec.from_dict({**WIDER.to_dict(), "channels": channels})


def test_versions_and_fields_must_fit():
    """A file cannot say version 1 with the new fields, nor version 2 with nothing new: one contract, one text."""
    with pytest.raises(IntegrityError, match="channels"):
        InputSpec.from_dict({**WIDER.to_dict(), "version": 1})
    with pytest.raises(IntegrityError, match="version"):
        InputSpec.from_dict({**WIDER.to_dict(), "single_slice": "pad", "channels": ["t2w"]})
    for missing in ("single_slice", "channels"):
        with pytest.raises(IntegrityError, match=missing):
            InputSpec.from_dict({key: value for key, value in WIDER.to_dict().items() if key != missing})


@pytest.mark.parametrize("name", sorted(WIDER.to_dict()))
def test_missing_and_unknown_fields_are_refused(name):
    """Each missing field, and an unknown one, is refused by name."""
    values = WIDER.to_dict()
    if name in InputSpec().to_dict():
        values = InputSpec().to_dict()
    assert InputSpec.from_dict(values).to_dict() == values
    with pytest.raises(IntegrityError, match=name):
        InputSpec.from_dict({key: value for key, value in values.items() if key != name})
    with pytest.raises(IntegrityError, match=f"{name}_2"):
        InputSpec.from_dict({**values, f"{name}_2": values[name]})


NAN, INF = float("nan"), float("inf")
WRONG = [
    *[("spacing_mm_zyx", v) for v in (3, None, "333", [3, 0.5], [3, 0.5, "0.5"], [3, 0.5, NAN], [3, 0.5, INF])],
    *[("spacing_mm_zyx", v) for v in ([3, 0.5, 0.05], [30, 0.5, 0.5], [3, True, 0.5], [10**400, 1, 1], {"a": 1})],
    *[("size_zyx", v) for v in ([16, 96], [16, 96, 96.5], [16, 96, 96.0], [16, 96, NAN], [16, 96, INF], "abc", 16)],
    *[("size_zyx", v) for v in ([16, 96, 0], [16, 96, -1], [16, 96, 1025], [16, 96, True], [16, 96, None])],
    *[("clip_percentiles", v) for v in ([0.5], [0.5, 1, 2], [99.5, 0.5], [-1, 99], [1, 101], [NAN, 99], ["0", "1"])],
    *[("orientation", v) for v in ("axial-RAS", None, 1, ["axial-LPS"])],
    *[("normalisation", v) for v in ("zscore", None, 0)],
    *[("interpolation", v) for v in ("cubic", None, 1)],
    *[("version", v) for v in (0, 3, "1", 1.0, True, None, [1])],
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=str)
def test_wrong_values_are_refused(name, value):
    """Each value of a wrong type or out of range is refused by the field's name, also the ones equal to 1."""
    with pytest.raises(IntegrityError, match=f"InputSpec.{name}"):
        InputSpec.from_dict({**InputSpec().to_dict(), name: value})


@pytest.mark.parametrize("values", [None, [], "x", 1])
def test_what_is_no_object_is_refused(values):
    """JSON that is not an object is refused."""
    with pytest.raises(IntegrityError, match="not a JSON object"):
        InputSpec.from_dict(values)
