"""Who may read and write: users with tokens (kept as SHA-256 only), private and gated repositories."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prostate_mim.errors import IntegrityError, UsageError
from prostate_mim.files import file_lock, write_text
from prostate_mim.hub.names import checked_id

ACCESS = "access.json"
_PATIENCE_S = 20.0


@dataclass(frozen=True)
class User:
    """Whom a token stands for.

    Attributes:
        name: also the organisation that ``create_repo("name")`` puts a repository in.
        token_sha256: of the token; the token itself is written nowhere.
        may_write: create repositories and commit to any of them.
    """

    name: str
    token_sha256: str
    may_write: bool = False


@dataclass(frozen=True)
class Access:
    """Of a whole shelf; without users everybody reads what is public, and nobody writes.

    Attributes:
        users: all of them.
        private: repository -> names of those who see it; others are told that there is no such repository.
        gated: repository -> names of those who accepted its terms; others see it listed and get no file.
    """

    users: tuple[User, ...] = ()
    private: dict[str, tuple[str, ...]] = field(default_factory=dict)
    gated: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def user_of(self, token: str) -> User | None:
        """The user of a token; compared in constant time."""
        digest = hashlib.sha256(token.encode()).hexdigest()
        found = [user for user in self.users if hmac.compare_digest(user.token_sha256, digest)]
        return found[0] if found else None

    def sees(self, user: User | None, repository: str) -> bool:
        """Whether a repository exists for somebody; who may write sees all."""
        named = self.private.get(repository)
        return named is None or (user is not None and (user.may_write or user.name in named))

    def opens(self, user: User | None, repository: str) -> bool:
        """Whether somebody gets its files."""
        named = self.gated.get(repository)
        return named is None or (user is not None and (user.may_write or user.name in named))


def read_access(root: Path) -> Access:
    """Of a shelf; of one without ``access.json``, open for reading.

    Raises:
        IntegrityError: the file is not of this form.
    """
    path = root / ACCESS
    if not path.is_file():
        return Access()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        users = tuple(_user(one) for one in values["users"])
        private = {checked_id(name): _names(who) for name, who in values["private"].items()}
        gated = {checked_id(name): _names(who) for name, who in values["gated"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        raise IntegrityError(
            f"{path}: not of the form that 'prostate-mim hub token' writes ({error}); mend or remove it"
        ) from error
    return Access(users, private, gated)


def _user(values: Any) -> User:
    name, digest, may_write = values["name"], values["token_sha256"], values["may_write"]
    if not (isinstance(name, str) and isinstance(may_write, bool) and len(bytes.fromhex(digest)) == 32):
        raise ValueError(f"user {str(name)[:40]!r}")
    return User(name, digest, may_write)


def _names(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(name, str) for name in values):
        raise ValueError("a list of users' names was expected")
    return tuple(values)


def new_token(root: Path, name: str, *, may_write: bool) -> str:
    """Give a user a token, a new one where it has one, and return it; it can be read nowhere afterwards.

    Raises:
        UsageError: the name is not one of a user.
        IntegrityError: as ``read_access``.
    """
    checked_id(f"{name}/any")
    token = f"hf_{secrets.token_urlsafe(32)}"
    user = User(name, hashlib.sha256(token.encode()).hexdigest(), may_write)
    change_access(root, lambda old: replace(old, users=(*(one for one in old.users if one.name != name), user)))
    return token


def change_access(root: Path, change: Callable[[Access], Access]) -> None:
    """Write ``access.json`` anew: one change after the other, of whatever threads and processes.

    Raises:
        UsageError: another process changes it, and does not end.
        IntegrityError: as ``read_access``.
    """
    with file_lock(root / f".{ACCESS}.lock", _PATIENCE_S) as held:
        if not held:
            raise UsageError(f"{root / ACCESS}: another process is writing it; try again")
        _write(root, change(read_access(root)))


def _write(root: Path, access: Access) -> None:
    values = {
        "users": [
            {"name": user.name, "token_sha256": user.token_sha256, "may_write": user.may_write}
            for user in access.users
        ],
        "private": {name: list(who) for name, who in access.private.items()},
        "gated": {name: list(who) for name, who in access.gated.items()},
    }  # fmt: skip
    write_text(root / ACCESS, json.dumps(values, indent=1) + "\n")
