"""API keys of a gateway: made once, shown once, kept as hashes, revoked at any moment.

In: a file in the home. Out: for the headers of a request, who calls and what they may, or a
refusal. A key has 256 random bits, so one round of SHA-256 keeps it: there is nothing to guess
from. A gateway that runs reads the file again when it has changed.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from manyhands.gateway.faults import ApiError
from manyhands.gateway.grants import UNLIMITED, Caller, Grant
from manyhands.gateway.reloaded import Reloaded
from manyhands.home import Home
from manyhands.private_files import write_whole
from protocol.clock import wall_ms
from protocol.errors import ConfigError, UsageError

PREFIX, KEY_BYTES, ID_CHARS = "mh-", 32, 8
MAX_NAME_CHARS, MAX_KEYS = 64, 10_000
FIX = "move the file away to begin with no keys, or restore it"
OWN = "give it to the user that the gateway runs as: chown USER"


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of one. `id` names it to people: the hash's first digits."""

    name: str
    hash: str  # SHA-256 of the key, in hex
    made_ms: int
    revoked_ms: int = 0
    grant: Grant = UNLIMITED

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= MAX_NAME_CHARS or not self.name.isprintable():
            raise UsageError(f"a key's name has 1 to {MAX_NAME_CHARS} printable characters")
        if len(bytes.fromhex(self.hash)) != hashlib.sha256().digest_size:
            raise ValueError("not a SHA-256")

    @property
    def id(self) -> str:
        return self.hash[:ID_CHARS]

    @property
    def group(self) -> str:
        """Keys share nothing of what peers keep: not even by how soon an answer begins."""
        return hashlib.sha256(b"manyhands gateway group\0" + bytes.fromhex(self.hash)).hexdigest()

    @property
    def caller(self) -> Caller:
        return Caller(self.group, self.hash, self.name, self.grant)

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        """
        Raises:
            ValueError, TypeError, UsageError: it is none that this version can keep to.
        """
        more = dict(told)
        return cls(**more | {"grant": Grant.read(more.get("grant", {}))})

    def to_json(self) -> dict[str, Any]:
        told = {"name": self.name, "hash": self.hash, "made_ms": self.made_ms}
        return {**told, "revoked_ms": self.revoked_ms, "grant": self.grant.to_json()}


@dataclass(frozen=True, slots=True)
class Keys:
    """All keys of a home, the revoked ones too."""

    all: tuple[Key, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Self:
        """
        Raises:
            ConfigError: the file is not what this program writes.
        """
        try:
            listed = json.loads(path.read_bytes())
            return cls(tuple(Key.read(each) for each in listed["keys"]))
        except FileNotFoundError:
            return cls()
        except PermissionError as error:
            why = f"cannot read the keys in {path}: they are another's"
            raise ConfigError(why, hint=OWN) from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError, UsageError) as error:
            raise ConfigError(f"cannot read the keys in {path}", hint=FIX) from error

    def write(self, path: Path) -> None:
        write_whole(path, json.dumps({"keys": [key.to_json() for key in self.all]}).encode())

    @property
    def live(self) -> dict[str, Key]:
        """By hash."""
        return {key.hash: key for key in self.all if not key.revoked_ms}

    def made(self, name: str, grant: Grant = UNLIMITED) -> tuple[Self, str]:
        """With one more; and that key, which nobody can show again.

        Raises:
            UsageError: the name will not do.
        """
        if any(key.name == name for key in self.live.values()):
            raise UsageError(f"there is a key called {name}", hint="give it another --name")
        if len(self.all) >= MAX_KEYS:
            raise UsageError(f"a gateway has up to {MAX_KEYS} keys")
        text = PREFIX + secrets.token_urlsafe(KEY_BYTES)
        new = Key(name, digest_of(text), wall_ms(), grant=grant)
        return type(self)((*self.all, new)), text

    def revoked(self, which: str) -> Self:
        """Without the one of this name or id.

        Raises:
            UsageError: there is none.
        """
        return self._changed(which, revoked_ms=wall_ms())

    def limited(self, which: str, grant: Grant) -> Self:
        """With other limits for the one of this name or id.

        Raises:
            UsageError: there is none.
        """
        return self._changed(which, grant=grant)

    def _changed(self, which: str, **changes: Any) -> Self:
        found = [key for key in self.live.values() if which in (key.name, key.id)]
        if len(found) > 1:  # one key's name may be another's id
            named = ", ".join(f"{key.name} with id {key.id}" for key in found)
            hint = f"say the other of the two: {named}"
            raise UsageError(f"{len(found)} keys are called {which[:80]!r}", hint=hint)
        if not found:
            known = ", ".join(key.name for key in self.live.values()) or "none"
            raise UsageError(f"no live key is called {which[:80]!r}", hint=f"there are: {known}")
        return type(self)(
            tuple(replace(key, **changes) if key in found else key for key in self.all)
        )


class KeyFile:
    """The keys of a home, as they are now.

    Raises:
        ConfigError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._file = Reloaded(lambda: _read_live(path), path)

    @property
    def has_keys(self) -> bool:
        """Whether any was ever made: when all are revoked, nobody is let in, and neither is
        anybody while it cannot be told."""
        self._file.look()
        return self._file.error is not None or self._file.held[0]

    def admit(self, authorization: str) -> Caller:
        """Who sends this header.

        Raises:
            ApiError: it holds no live key, or nobody can tell.
        """
        self._file.look()
        if self._file.error is not None:
            message = "the gateway cannot read its keys, so it lets nobody in; its log says more"
            raise ApiError("keys_unreadable", message)
        scheme, _, text = authorization.partition(" ")
        _, live = self._file.held
        key = live.get(digest_of(text.strip())) if scheme.lower() == "bearer" else None
        if key is None:
            said = "send an API key: Authorization: Bearer mh-…"
            raise ApiError("invalid_api_key", "this API key is not valid" if text else said)
        return key.caller


def _read_live(path: Path) -> tuple[bool, dict[str, Key]]:
    """Whether any key was ever made, and those that live, by hash."""
    keys = Keys.read(path)
    return bool(keys.all), keys.live


def keys_path(home: Home) -> Path:
    return home.root / "gateway" / "keys.json"


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
