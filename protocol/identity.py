"""Who a peer is: one Ed25519 key, the libp2p peer id that names it, and how its key is loaded.

In: a key, or the path of a key file. Out: the peer id text (base58 of the identity multihash of
the key's libp2p protobuf, as the libp2p peer-ids spec has it) and back. What is in a key file is
left to `key_files.py`, what a key signs to `signing.py`, what it proves on a connection to
`tls.py`.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NewType

import base58

from protocol.errors import BadSignature, ConfigError, UsageError
from protocol.key_files import Unlock, read_key, read_public_key, write_new_key
from protocol.signing import PUBLIC_KEY_BYTES, SigningKey, check_public_key

PeerId = NewType("PeerId", str)

# libp2p crypto.proto PublicKey{Type: Ed25519, Data: 32 bytes}, without the data
LIBP2P_ED25519_PREFIX = b"\x08\x01\x12\x20"
_PEER_ID_PREFIX = b"\x00\x24" + LIBP2P_ED25519_PREFIX  # multihash: identity, 36 bytes follow
_PEER_ID_CHARS = 52
_PEER_ID_HINT = "a peer id begins with 12D3Koo and has 52 characters"

_REMEMBERED = 20_000  # base58 is slow, and a directory spells the same peers again and again


@lru_cache(_REMEMBERED)
def peer_id_from_public_key(public_key: bytes) -> PeerId:
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise UsageError(f"an Ed25519 public key has 32 bytes, got {len(public_key)}")
    return PeerId(base58.b58encode(_PEER_ID_PREFIX + public_key).decode())


@lru_cache(_REMEMBERED)
def public_key_from_peer_id(peer_id: str) -> bytes:
    """The 32 bytes that `peer_id` spells.

    Raises:
        UsageError: it is not the text of an Ed25519 peer id, or of one that anybody could claim.
    """
    if len(peer_id) != _PEER_ID_CHARS:
        raise UsageError(f"not a peer id: {peer_id[:60]!r}", hint=_PEER_ID_HINT)
    try:
        raw = bytes(base58.b58decode(peer_id))
    except ValueError as error:
        raise UsageError(f"not a peer id: {peer_id!r}", hint=_PEER_ID_HINT) from error
    if len(raw) != len(_PEER_ID_PREFIX) + PUBLIC_KEY_BYTES or not raw.startswith(_PEER_ID_PREFIX):
        raise UsageError(f"not an Ed25519 peer id: {peer_id!r}", hint=_PEER_ID_HINT)
    public_key = raw[len(_PEER_ID_PREFIX) :]
    try:
        check_public_key(public_key)
    except BadSignature as error:
        raise UsageError(f"nobody can own the peer id {peer_id}: {error}") from error
    return public_key


@dataclass(frozen=True, slots=True)
class Identity:
    """A key and the peer id it proves. The key stays in this process."""

    key: SigningKey = field(repr=False)
    peer_id: PeerId = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "peer_id", peer_id_from_public_key(self.key.public_key))

    @property
    def public_key(self) -> bytes:
        return self.key.public_key


def load_identity(path: Path, unlock: Unlock | None = None) -> Identity:
    """Read a key file; `unlock` gives the passphrase, should it be encrypted.

    Raises:
        InsecureHome: others can read or change it.
        WrongPassphrase: it is encrypted, and this does not open it.
        ConfigError: it is missing, cannot be read, is not an Ed25519 key, or needs a passphrase.
    """
    return Identity(read_key(path, unlock))


def load_peer_id(path: Path) -> PeerId:
    """Whom a key file proves to be; needs no passphrase.

    Raises:
        InsecureHome, ConfigError: as `load_identity`.
    """
    return peer_id_from_public_key(read_public_key(path))


def load_or_create_identity(
    path: Path, unlock: Unlock | None = None, passphrase: bytes | None = None
) -> Identity:
    """The identity kept at `path`, made now when there is none; of two who race, one key wins.

    passphrase: a key that is made now is encrypted with it.

    Raises:
        InsecureHome, ConfigError: as `load_identity`, or the directory is not writable.
    """
    if path.exists():
        return load_identity(path, unlock)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_new_key(path, SigningKey.generate(), passphrase)
    except OSError as error:
        hint = "choose a directory you can write with --home"
        raise ConfigError(f"cannot write the key {path}: {error.strerror}", hint=hint) from error
    return load_identity(path, unlock)
