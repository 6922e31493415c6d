"""A name -> a local release folder: bundled with the package, a folder on disk, or org/name@revision on a hub."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from prostate_mim.errors import NetworkError, NotFoundError
from prostate_mim.hub.release import CONFIG, FILES

BUNDLED = Path(__file__).resolve().parent.parent / "weights"
BUNDLED_DEFAULT = "resenc-s.mim-t2w"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?")


def list_models() -> list[str]:
    """Names that ``from_pretrained`` loads without a network."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{CONFIG}"))


def resolve(name: str | Path) -> Path:
    """Find the folder a name means; its contents are verified by ``read_release``, not here.

    A run folder stands for the release inside it. A folder on disk wins over a hub name.

    Raises:
        NotFoundError: nothing has that name; the nearest bundled name is suggested.
        NetworkError: a hub name, and the hub cannot be reached.
    """
    text = str(name)
    if text in list_models():
        return BUNDLED / text
    folder = Path(text).expanduser()
    if folder.is_dir():
        return folder if (folder / CONFIG).exists() or not (folder / "release").is_dir() else folder / "release"
    if folder.exists():
        raise NotFoundError(f"{text}: is a file; a model is a release folder, a bundled name or org/name@revision")
    if _HUB_NAME.fullmatch(text) and not text.startswith((".", "/")):
        return _from_hub(text)
    near = difflib.get_close_matches(text, list_models(), n=1, cutoff=0.0)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise NotFoundError(f"model {text!r}: no such bundled name or folder{hint} (prostate-mim list shows the names)")


def _from_hub(name: str) -> Path:
    """Fetch the fixed list of release files at one revision through huggingface_hub's cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES)))
    except GatedRepoError as error:
        raise NotFoundError(f"{name}: the repository is gated; accept its terms and log in first") from error
    except RevisionNotFoundError as error:
        raise NotFoundError(f"{name}: the repository exists, the revision {revision!r} does not") from error
    except RepositoryNotFoundError as error:
        raise NotFoundError(
            f"{name}: no such folder here, and no such repository on the hub, or it is private; check the spelling"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise NetworkError(
            f"{name}: no such folder here, and the hub did not answer ({type(error).__name__}); "
            "check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or copy the release folder here"
        ) from error
