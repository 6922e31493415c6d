"""The release folder: config.json, weights, card, golden sample, studies.json, SHA256SUMS. One writer, one reader."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prostate_mim.errors import IntegrityError, NotFoundError, UsageError
from prostate_mim.files import sha256_of, whole_folder, write_bytes, write_text
from prostate_mim.hub.registry import Entry, check_registered
from prostate_mim.hub.studies import STUDIES, Studies, read_studies
from prostate_mim.spec import InputSpec

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2  # 1: embeddings pooled around the middle of cells, not around where they look
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
DECODER = "decoder.safetensors"
GOLDEN = "golden.safetensors"
CARD = "README.md"
SUMS = "SHA256SUMS"
REQUIRED_FILES = (CONFIG, WEIGHTS, GOLDEN, CARD)
FILES = (*REQUIRED_FILES, DECODER, STUDIES, SUMS)
KINDS = ("encoder", "classifier")
_UNKNOWN = Studies()
_CONFIG_KEYS = {"format", "kind", "name", "architecture", "spec", "weights_dtype", "library_version", "details"}


@dataclass(frozen=True)
class Release:
    """A verified release folder.

    Attributes:
        folder: where it lies.
        kind: ``encoder`` or ``classifier``.
        name: e.g. ``resenc-s.mim-t2w``.
        architecture: key of ``nets.ARCHITECTURES``.
        spec: the input contract.
        weights_dtype: ``float16`` or ``float32``, as stored.
        details: plain values of the producer (head, masking); see the classes that read them.
        revision: first 16 hex digits of the SHA-256 of the weights file.
        studies: which studies the weights have seen, where the release says so.
        sums: SHA-256 of every file, as verified.
        source: ``bundled``, ``checkout``, ``folder`` or ``hub``.
        commit: 40 hex digits, of a hub only.
        published: its files are those that models.json has under its name.
    """

    folder: Path
    kind: str
    name: str
    architecture: str
    spec: InputSpec
    weights_dtype: str
    details: dict[str, Any]
    revision: str
    studies: Studies = _UNKNOWN
    sums: Mapping[str, str] = field(default_factory=dict)
    source: str = "folder"
    commit: str = ""
    published: bool = False


def write_release(
    folder: str | Path,
    *,
    config: Mapping[str, Any],
    card: str,
    weights: Mapping[str, Tensor],
    golden: Mapping[str, Tensor],
    decoder: Mapping[str, Tensor] | None = None,
    studies: Studies = _UNKNOWN,
) -> Path:
    """Write a release folder: everything into a temporary folder beside it, then one rename.

    Args:
        folder: must not exist yet, or be empty.
        config: kind, name, architecture, spec, weights_dtype, details.
        card: the model card in Markdown.
        weights: tensors in their published dtype.
        golden: ``input`` and what the model gives for it, float32.
        decoder: the reconstruction decoder, where the model has one.
        studies: which studies the weights have seen; no file where nothing is known.

    Raises:
        UsageError: the folder holds something already, or cannot be written.
        ResourceError: no space is left; nothing is left behind.
    """
    from safetensors.torch import save

    from prostate_mim._version import __version__

    with whole_folder(folder) as temporary:
        full = {"format": FORMAT, "library_version": __version__, **config}
        write_text(temporary / CONFIG, json.dumps(full, indent=2, sort_keys=True) + "\n")
        write_bytes(temporary / WEIGHTS, save(_contiguous(weights)))
        write_bytes(temporary / GOLDEN, save(_contiguous(golden)))
        if decoder is not None:
            write_bytes(temporary / DECODER, save(_contiguous(decoder)))
        if studies.known:
            write_text(temporary / STUDIES, studies.to_text())
        write_text(temporary / CARD, card)
        write_sums(temporary)
    return Path(folder)


def copy_release(source: str | Path, folder: str | Path) -> Path:
    """A verified copy of a release folder; what is listed in its SHA256SUMS and nothing else.

    Raises:
        IntegrityError: the source, or what was read of it, is damaged.
        UsageError, ResourceError: as ``write_release``; nothing is left behind.
    """
    with whole_folder(folder) as temporary:
        for name in (*verify_sums(Path(source)), SUMS):
            write_bytes(temporary / name, (Path(source) / name).read_bytes())
        verify_sums(temporary)
    return Path(folder)


def write_sums(folder: Path) -> None:
    """(Re)write SHA256SUMS of the release files in ``folder``, in sha256sum's format."""
    names = [name for name in FILES if name != SUMS and (folder / name).exists()]
    write_text(folder / SUMS, "".join(f"{sha256_of(folder / name)}  {name}\n" for name in names))


def read_release(
    folder: str | Path,
    *,
    kind: str | None = None,
    entry: Entry | None = None,
    source: str = "folder",
    commit: str = "",
) -> Release:
    """Verify a release folder and read its config. No tensor is loaded yet.

    Args:
        kind: refuse anything else.
        entry: what was published under the name that led here; every file must be of it.
        source: where it is from; see ``Release``.
        commit: see ``Release``.

    Raises:
        NotFoundError: it is not a release folder.
        IntegrityError: a file is missing, or differs from SHA256SUMS, or the config is not of this format.
        UsageError: it is a release of another kind.
    """
    root = Path(folder)
    if not (root / CONFIG).is_file():
        raise NotFoundError(f"{root}: not a release folder (no {CONFIG}); a run folder keeps its own in release/")
    sums = verify_sums(root)
    if entry is not None:
        check_registered(entry, sums, str(root))
    config = _read_config(root / CONFIG)
    if kind is not None and config["kind"] != kind:
        name = entry.name if entry else root
        other = (
            f"finetune it first: prostate-mim finetune --model {name} --manifest LESIONS.csv --out RUN"
            if kind == "classifier" else "use LesionClassifier.from_pretrained"
        )  # fmt: skip
        raise UsageError(f"{name}: this release is {config['kind']!r}, not {kind!r}; {other}")
    return Release(
        folder=root,
        kind=config["kind"],
        name=config["name"],
        architecture=config["architecture"],
        spec=InputSpec.from_dict(config["spec"]),
        weights_dtype=config["weights_dtype"],
        details=config["details"],
        revision=sums[WEIGHTS][:16],
        studies=read_studies(root / STUDIES) if STUDIES in sums else _UNKNOWN,
        sums=sums,
        source=source,
        commit=commit,
        published=entry is not None,
    )


def verify_sums(root: Path) -> dict[str, str]:
    """Compare every listed file with its SHA-256; returns name -> digest.

    Raises:
        IntegrityError: naming the file.
    """
    sums = _read_sums(root)
    for name in REQUIRED_FILES:
        if name not in sums:
            raise IntegrityError(f"{root}: {SUMS} does not list {name}; the release is incomplete, fetch it again")
    if STUDIES not in sums and (root / STUDIES).exists():
        raise IntegrityError(f"{root}: {SUMS} does not list {STUDIES}, which is there; fetch the release again")
    for name, expected in sums.items():
        if not (root / name).is_file():
            raise IntegrityError(f"{root}: {name} is missing; fetch the release again")
        found = sha256_of(root / name)
        if found != expected:
            raise IntegrityError(
                f"{root / name}: sha256 is {found[:16]}..., expected {expected[:16]}...; "
                "the file was damaged or edited, fetch the release again"
            )
    return sums


def damaged_files(root: Path) -> list[str]:
    """Names of the files that are not what SHA256SUMS says, and then itself, which may be what is damaged.

    A file that is missing is not among them, nor anything of a folder without SHA256SUMS.
    """
    if not (root / SUMS).is_file():
        return []
    try:
        sums = _read_sums(root)
    except IntegrityError:
        return [SUMS]
    wrong = [name for name, digest in sums.items() if (root / name).is_file() and sha256_of(root / name) != digest]
    return [*wrong, SUMS] if wrong else []


def _read_sums(root: Path) -> dict[str, str]:
    path = root / SUMS
    if not path.is_file():
        raise IntegrityError(f"{root}: no {SUMS}; the release cannot be verified, fetch it again")
    sums: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or name not in FILES or name in sums:
            raise IntegrityError(f"{path}: line {line[:80]!r} is not 'sha256  name' of a known release file")
        sums[name] = digest
    return sums


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(config, dict) or set(config) != _CONFIG_KEYS:
        found = sorted(config) if isinstance(config, dict) else type(config).__name__
        raise IntegrityError(f"{path}: expected exactly the keys {sorted(_CONFIG_KEYS)}, found {found}")
    texts = ("kind", "name", "architecture", "weights_dtype", "library_version")
    typed = all(isinstance(config[key], str) for key in texts) and isinstance(config["details"], dict)
    if config["format"] != FORMAT:
        raise IntegrityError(
            f"{path}: a release of format {config['format']!r}; this version of prostate-mim reads format {FORMAT}. "
            f"It was written by prostate-mim {str(config['library_version'])[:40]}: load it there, or get it made anew"
        )
    if config["kind"] not in KINDS or not typed:
        raise IntegrityError(f"{path}: kind {config['kind']!r} or the type of another value is not of this version")
    return config


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
