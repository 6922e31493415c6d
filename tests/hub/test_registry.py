"""models.json: what is published, under which terms, and that nothing else is loaded under its name."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prostate_mim import PreMIM, list_models
from prostate_mim.errors import IntegrityError, NotFoundError
from prostate_mim.files import sha256_of
from prostate_mim.hub import available_models, resolve
from prostate_mim.hub.registry import read_registry
from prostate_mim.hub.release import read_release, verify_sums, write_sums

WEIGHTS = "model.safetensors"


def written(path: Path, folder: Path, **changed: Any) -> Path:
    """A models.json of one model, ``resenc-s.test``, with the files of a folder."""
    files = {name: [(folder / name).stat().st_size, digest] for name, digest in verify_sums(folder).items()}
    entry = {
        "kind": "encoder", "architecture": "resenc-s", "recipe": "test", "parameters": 1, "spec_fingerprint": "0" * 16,
        "license": "Apache-2.0", "data": [], "repository": "", "revision": "", "files": files,
    }  # fmt: skip
    path.write_text(json.dumps({"format": 1, "models": {"resenc-s.test": entry | changed}}))
    return path


# ----------------------------------------------------------------------------------------------------- what there is


def test_every_model_is_what_it_says() -> None:
    """Of all that lie here: bytes, architecture and input contract are those of models.json."""
    assert available_models()
    for name in available_models():
        entry, release = read_registry()[name], read_release(resolve(name))
        assert (release.name, release.kind, release.architecture) == (name, entry.kind, entry.architecture)
        assert release.spec.fingerprint == entry.spec_fingerprint
        assert {file: (one.size, one.sha256) for file, one in entry.files.items()} == {
            file: ((release.folder / file).stat().st_size, digest) for file, digest in release.sums.items()
        }


@pytest.mark.parametrize("name", available_models())
def test_a_loaded_model_is_not_a_fresh_one(name: str) -> None:
    """At least 99 % of all parameters differ from those of a newly built network; keys are exactly its keys."""
    torch.manual_seed(0)
    loaded, fresh = PreMIM.from_pretrained(name), PreMIM(read_registry()[name].architecture)
    own, other = loaded.encoder.state_dict(), fresh.encoder.state_dict()
    assert own.keys() == other.keys()
    learnt = [key for key, _ in fresh.encoder.named_parameters()]
    differ = sum(int((own[key] != other[key]).sum()) for key in learnt)
    assert differ >= 0.99 * sum(own[key].numel() for key in learnt)
    assert read_registry()[name].parameters == sum(own[key].numel() for key in learnt)
    assert loaded.load_report.source in ("bundled", "checkout") and not loaded.load_report.notes


def test_lists_are_filtered() -> None:
    """By part of the name, by a pattern, by the licence of the weights, and by those of all their data."""
    everything = list_models()
    assert everything == sorted(read_registry())
    assert "resenc-s.mim-t2w" in list_models("resenc") and "resenc-s.mim-t2w" in list_models("*-t2w")
    assert list_models("resnet18") == [] == list_models(license="MIT")
    assert list_models(license="licenseref-*") == everything
    assert list_models(data_license=("CC-BY-3.0",)) == [], "PROMISE12 is under terms of its own"
    assert list_models(data_license="*") == everything


# --------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    "change",
    [
        {"files": {WEIGHTS: [1, "abc"]}},
        {"files": {WEIGHTS: ["1", "0" * 64]}},
        {"architecture": "resnet10"},
        {"kind": "segmenter"},
        {"revision": "main", "repository": "org/m"},
        {"revision": "0" * 40},
        {"repository": "org/m"},
        {"repository": "../m", "revision": "0" * 40},
        {"surplus": 1},
        {"data": [{"name": "PROMISE12"}]},
        {"parameters": True},
    ],
)
def test_a_damaged_list_is_refused(releases: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    """Every value has its form, and a hosted model has a commit, not a branch."""
    read_registry(written(tmp_path / "good.json", releases / "encoder16"))
    with pytest.raises(IntegrityError, match="the list of models is damaged"):
        read_registry(written(tmp_path / "bad.json", releases / "encoder16", **change))


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"format": 2, "models": {}}', "[" * 100_000])
def test_what_is_no_list(tmp_path: Path, text: str) -> None:
    """Anything else than the table is refused in one line."""
    (tmp_path / "models.json").write_text(text)
    with pytest.raises(IntegrityError, match="reinstall"):
        read_registry(tmp_path / "models.json")


@pytest.fixture
def listed(releases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put the release ``encoder16`` in the place of a bundled model and list it; returns its folder."""

    def put(**changed: Any) -> Path:
        folder = Path(shutil.copytree(releases / "encoder16", tmp_path / "weights" / "resenc-s.test"))
        entries = read_registry(written(tmp_path / "models.json", folder, **changed))
        modules = [importlib.import_module(f"prostate_mim.hub.{name}") for name in ("resolve", "registry", "weights")]
        for module in modules:  # the package itself has a function named resolve
            monkeypatch.setattr(module, "read_registry", lambda: entries)
        monkeypatch.setattr(modules[0], "BUNDLED", tmp_path / "weights")
        return folder

    return put


def test_other_weights_under_a_published_name(listed: Callable[..., Path], releases: Path) -> None:
    """A folder that is in itself whole, but is not what was published, is refused by its published name."""
    folder = listed()
    assert PreMIM.from_pretrained("resenc-s.test").load_report.source == "bundled"
    shutil.copy(releases / "other" / WEIGHTS, folder / WEIGHTS)
    write_sums(folder)
    with pytest.raises(IntegrityError, match=f"{WEIGHTS} is another file than 'resenc-s.test' was published with"):
        PreMIM.from_pretrained("resenc-s.test")
    loaded = PreMIM.from_pretrained(f"local-dir:{folder}")
    assert "published name" in loaded.load_report.notes[0], "by its path it is somebody's own, and the report says so"


def test_a_file_too_many(listed: Callable[..., Path], releases: Path) -> None:
    """A decoder that nobody published beside the weights."""
    folder = listed()
    shutil.copy(folder / WEIGHTS, folder / "decoder.safetensors")
    write_sums(folder)
    with pytest.raises(IntegrityError, match=r"decoder\.safetensors was never published"):
        PreMIM.from_pretrained("resenc-s.test")


def test_published_but_not_here(listed: Callable[..., Path]) -> None:
    """What is not in the wheel and not hosted: the message says where it is."""
    shutil.rmtree(listed())
    with pytest.raises(NotFoundError, match=r"hub_cards/resenc-s\.test"):
        PreMIM.from_pretrained("resenc-s.test")


# ---------------------------------------------------------------------------------------------------------- hosted


@pytest.fixture
def hosted(hub: Any, releases: Path, tmp_path: Path) -> tuple[str, str, str]:
    """(models.json, commit that it names, a newer commit on main) of a model that lies on a hub."""
    commit = hub.commit("org/hosted", releases / "encoder16")
    newer = hub.commit("org/hosted", releases / "other")
    file = written(tmp_path / "models.json", releases / "encoder16", repository="org/hosted", revision=commit)
    return str(file), commit, newer


def test_a_published_name_is_a_commit(
    hosted: tuple[str, str, str], hub: Any, releases: Path, start_client: Any, tmp_path: Path
) -> None:
    """By its name, and by its repository without a revision, exactly that commit; main is another, and warns."""
    file, commit, newer = hosted
    actions = [("published", f"{file} {name}") for name in ("resenc-s.test", "org/hosted", "org/hosted@main")]
    named, home, branch = start_client(tmp_path / "home", hub.url, actions).results()
    assert named["commit"] == home["commit"] == commit and not named["warned"] and not home["warned"]
    assert branch["commit"] == newer and len(branch["warned"]) == 1
    assert named["revision"] == sha256_of(releases / "encoder16" / WEIGHTS)[:16] != branch["revision"]


def test_other_weights_at_a_published_commit(hub: Any, releases: Path, start_client: Any, tmp_path: Path) -> None:
    """A hub that gives another release, whole in itself, under the published commit is not believed."""
    commit = hub.commit("org/swapped", releases / "other")
    file = written(tmp_path / "models.json", releases / "encoder16", repository="org/swapped", revision=commit)
    (answer,) = start_client(tmp_path / "home", hub.url, [("published", f"{file} resenc-s.test")]).results()
    assert answer["error"] == "IntegrityError" and "published with" in answer["message"]


# ----------------------------------------------------------------------------------------------------- the cache


def flip(home: Path, name: str) -> Path:
    """One bit in the middle of the cached weights."""
    (link,) = (home / "hub").glob(f"models--org--{name}/snapshots/*/{WEIGHTS}")
    data = bytearray(link.read_bytes())
    data[len(data) // 2] ^= 1
    link.resolve().write_bytes(bytes(data))
    return link


def test_a_flipped_bit_in_the_cache(hub: Any, releases: Path, start_client: Any, tmp_path: Path) -> None:
    """huggingface_hub trusts what lies there; here it is put apart, and fetched again, or explained where none can."""
    hub.commit("org/rotten", releases / "encoder16")
    home, good = tmp_path / "home", sha256_of(releases / "encoder16" / WEIGHTS)[:16]

    def ask(offline: bool = False) -> dict[str, Any]:
        return start_client(home, hub.url, [("open", "org/rotten@main")], offline).results()[0]  # type: ignore[no-any-return]

    assert ask()["revision"] == good
    link = flip(home, "rotten")
    offline = ask(offline=True)
    assert offline["error"] == "IntegrityError" and "quarantine" in offline["message"], offline
    assert "HF_HUB_OFFLINE" in offline["message"] and not link.exists()
    assert ask()["revision"] == good
    link = flip(home, "rotten")
    assert ask()["revision"] == good, "with a network, nobody notices"
    kept = list((home / "hub/models--org--rotten/quarantine").iterdir())
    assert len([path for path in kept if WEIGHTS in path.name]) == 2
    assert ask(offline=True)["revision"] == good, "and it is whole again without one"
