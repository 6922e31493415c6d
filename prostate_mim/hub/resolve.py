"""A name -> a local release folder: a published name, a folder on disk, or org/name@revision on a hub."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prostate_mim.errors import NotFoundError, UsageError, nearest
from prostate_mim.hub.cache import fetch
from prostate_mim.hub.names import COMMIT, checked_id, checked_revision
from prostate_mim.hub.registry import Entry, read_registry, select
from prostate_mim.hub.release import CONFIG, Release, read_release

PACKAGE = Path(__file__).resolve().parent.parent
BUNDLED = PACKAGE / "weights"
PUBLISHED = PACKAGE.parent / "hub_cards"
"""Where a checkout holds the models that are too large for the wheel; no such folder in an installation."""
BUNDLED_DEFAULT = "resenc-s.mim-t2w"
LOCAL = "local-dir:"
_HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w.-]+))?")


class UnpinnedRevisionWarning(UserWarning):
    """A branch or tag was loaded: the same name may give other weights tomorrow."""


@dataclass(frozen=True)
class Located:
    """Where a name led.

    Attributes:
        folder: the release folder; ``read_release`` verifies it.
        source: ``bundled``, ``checkout``, ``folder`` or ``hub``.
        entry: what was published under that name; None for a folder, and for what others publish.
        commit: 40 hex digits; of a hub only.
    """

    folder: Path
    source: str
    entry: Entry | None = None
    commit: str = ""


def list_models(
    filter: str = "", *, license: str | Sequence[str] = "", data_license: str | Sequence[str] = ""
) -> list[str]:
    """Names of published models, as ``from_pretrained`` takes them, in alphabetical order.

    Args:
        filter: part of the name, or a pattern with ``*``, such as ``resenc*``.
        license: of the weights, one or several, with ``*``: ``LicenseRef-research-only``.
        data_license: every data set that the weights were made of is under one of these, such as
            ``("CC-BY-*", "Apache-2.0")``. Phantoms are nobody's data.
    """
    return [entry.name for entry in select(filter, license, data_license)]


def available_models() -> list[str]:
    """Those among ``list_models()`` that need no network: with the package, or in the checkout it is run from."""
    return [name for name in read_registry() if _at_hand(name) is not None]


def open_release(name: str | Path, *, kind: str | None = None) -> Release:
    """The verified release that a name means.

    Args:
        kind: refuse anything but ``encoder`` or ``classifier``.

    Raises:
        NotFoundError, NetworkError, UsageError: as ``locate``.
        IntegrityError: a file is not what was published, or what the release was made of.
    """
    located = locate(name)
    return read_release(
        located.folder, kind=kind, entry=located.entry, source=located.source, commit=located.commit
    )  # fmt: skip


def resolve(name: str | Path) -> Path:
    """The folder of ``locate``."""
    return locate(name).folder


def locate(name: str | Path) -> Located:
    """Find what a name means.

    A published name; ``local-dir:PATH`` or a path that exists (a run folder stands for the release inside it); or
    ``org/name@revision``, where the revision is a commit of 40 hex digits. A branch or a tag is loaded with an
    ``UnpinnedRevisionWarning``, and has to be asked for: ``org/name@main``. A folder on disk wins over a hub's name.

    Raises:
        NotFoundError: nothing has that name, or it is a path of a folder that exists and holds no such model; the
            nearest model beside it, else the nearest published one, is suggested.
        UsageError: a hub's name without a revision.
        NetworkError: the hub cannot be reached.
        IntegrityError: the hub gave other bytes than the release was made of.
    """
    text = str(name)
    if text in read_registry():
        return _published(read_registry()[text])
    if text.startswith(LOCAL):
        return Located(_release_in(text.removeprefix(LOCAL)), "folder")
    folder = _on_disk(text)
    if folder is not None:
        return Located(_release_in(text), "folder")
    hub = _HUB_NAME.fullmatch(text)
    if hub is not None:
        return _on_hub(text, hub[1], hub[2] or "")
    near = nearest(text, read_registry()) or _near_folder(text) or nearest(text, read_registry(), 0.3)
    hint = f"; did you mean {near!r}?" if near else ""
    raise NotFoundError(f"model {text!r}: no such published name or folder{hint} (prostate-mim list shows the names)")


def _at_hand(name: str) -> Located | None:
    for source, home in (("bundled", BUNDLED), ("checkout", PUBLISHED)):
        if (home / name / CONFIG).is_file():
            return Located(home / name, source, read_registry()[name])
    return None


def _published(entry: Entry) -> Located:
    found = _at_hand(entry.name)
    if found is not None:
        return found
    if entry.repository:
        folder = fetch(entry.repository, entry.revision)
        return Located(folder, "hub", entry, folder.name)
    raise NotFoundError(
        f"model {entry.name!r} is published in the project's repository, in hub_cards/{entry.name}, and is not part of "
        f"the installed package ({entry.size / 1e6:.0f} MB); copy that folder here and load it by its path"
    )


def _on_disk(text: str) -> Path | None:
    try:
        folder = Path(text).expanduser()
        return folder if folder.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long for a path, no such home folder, a NUL inside
        return None


def _near_folder(text: str) -> str:
    """The model beside a folder that is not there: called alike, or in the folder that was named the only one."""
    above, in_folder = _on_disk(str(Path(text).parent)), "/" in text or "\\" in text
    try:
        inside = [] if above is None else [path for path in above.iterdir() if (_inner(path) / CONFIG).is_file()]
    except OSError:  # a file, or a folder that may not be listed
        return ""
    names = [path.name for path in inside]
    near = nearest(Path(text).name, names) or (names[0] if in_folder and len(names) == 1 else "")
    return str(Path(text).parent / near) if near else ""


def _release_in(text: str) -> Path:
    folder = _on_disk(text)
    if folder is None:
        raise NotFoundError(f"{text}: no such folder; give a release or run folder")
    if not folder.is_dir():
        raise NotFoundError(f"{text}: is a file; a model is a release folder, a published name or org/name@revision")
    return _inner(folder)


def _inner(folder: Path) -> Path:
    """A release folder itself, or the one inside a run folder."""
    return folder if (folder / CONFIG).exists() or not (folder / "release").is_dir() else folder / "release"


def _on_hub(text: str, repository: str, revision: str) -> Located:
    if not revision:
        known = [entry for entry in read_registry().values() if entry.repository == repository]
        if not known and _on_disk(repository.partition("/")[0]) is not None:
            near = _near_folder(repository)
            raise NotFoundError(
                f"{text}: no such folder here{f'; did you mean {near}?' if near else ''} (a model on a hub needs its "
                f"revision: {repository}@<commit>)"
            )
        if not known:
            raise UsageError(
                f"{text}: no such folder here; a model on a hub is named with its revision: {repository}@<commit> of "
                f"40 hex digits loads the same bytes for ever, {repository}@main what is newest"
            )
        return _published(known[0])
    try:
        checked_id(repository), checked_revision(revision)  # an HTTP client makes org/name@.. another address
    except UsageError as error:
        raise NotFoundError(f"{text}: no such folder here, and not a name that a hub allows ({error})") from error
    folder = fetch(repository, revision)
    if not COMMIT.fullmatch(revision):
        warnings.warn(
            f"{text}: {revision!r} is a branch or tag and may move; today it is {repository}@{folder.name}",
            UnpinnedRevisionWarning,
            stacklevel=2,
        )
    return Located(folder, "hub", _entry_at(repository, folder.name), folder.name)


def _entry_at(repository: str, commit: str) -> Entry | None:
    """A published model that is named by its home."""
    for entry in read_registry().values():
        if (entry.repository, entry.revision) == (repository, commit):
            return entry
    return None
