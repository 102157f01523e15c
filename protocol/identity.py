"""Who a peer is: one Ed25519 key, the libp2p peer id that names it, and the file that keeps it.

In: a key, or the path of a key file. Out: the peer id text (base58 of the identity multihash of
the key's libp2p protobuf, as the libp2p peer-ids spec has it) and back. A key file is PEM
PKCS #8 (RFC 8410), which `openssl genpkey -algorithm ed25519` also writes. What a key signs is
left to `signing.py`, what it proves on a connection to `tls.py`.
"""

import contextlib
import os
import stat
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NewType

import base58

from protocol.errors import BadSignature, ConfigError, InsecureHome, UsageError
from protocol.signing import PUBLIC_KEY_BYTES, SEED_BYTES, SigningKey, check_public_key

PeerId = NewType("PeerId", str)

# libp2p crypto.proto PublicKey{Type: Ed25519, Data: 32 bytes}, without the data
LIBP2P_ED25519_PREFIX = b"\x08\x01\x12\x20"
_PEER_ID_PREFIX = b"\x00\x24" + LIBP2P_ED25519_PREFIX  # multihash: identity, 36 bytes follow
_PEER_ID_CHARS = 52
_PEER_ID_HINT = "a peer id begins with 12D3Koo and has 52 characters"

# RFC 8410 section 7: version 0, id-Ed25519, and the seed in an octet string in an octet string
_PKCS8_PREFIX = bytes.fromhex("302e020100300506032b657004220420")
_PEM_BEGIN, _PEM_END = "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"
_MAX_KEY_FILE_BYTES = 4096
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


def load_identity(path: Path) -> Identity:
    """Read a key file.

    Raises:
        InsecureHome: others can read or change it.
        ConfigError: it is missing, cannot be read, or is not an Ed25519 key.
    """
    try:
        with path.open("rb") as file:
            _check_mode(path, os.fstat(file.fileno()).st_mode)
            text = file.read(_MAX_KEY_FILE_BYTES).decode("ascii")
    except FileNotFoundError as error:
        hint = "the first `manyhands serve` or `generate` on a home makes one"
        raise ConfigError(f"there is no key at {path}", hint=hint) from error
    except OSError as error:
        raise ConfigError(f"cannot read the key {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _corrupt(path) from error
    return Identity(SigningKey.from_seed(_read_pem(path, text)))


def load_or_create_identity(path: Path) -> Identity:
    """The identity kept at `path`, made now when there is none; of two who race, one key wins.

    Raises:
        InsecureHome, ConfigError: as `load_identity`, or the directory is not writable.
    """
    if path.exists():
        return load_identity(path)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_new(path, _pem(SigningKey.generate().seed))
    except OSError as error:
        hint = "choose a directory you can write with --home"
        raise ConfigError(f"cannot write the key {path}: {error.strerror}", hint=hint) from error
    return load_identity(path)


def _check_mode(path: Path, mode: int) -> None:
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        reason = f"others can read the key {path} (mode {stat.S_IMODE(mode):04o})"
        raise InsecureHome(reason, hint=f"chmod 600 {path}")


def _write_new(path: Path, text: str) -> None:
    """Appear whole or not at all, and never in place of a key that is already there."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(scratch, path)
    finally:
        scratch.unlink()


def _pem(seed: bytes) -> str:
    return f"{_PEM_BEGIN}\n{b64encode(_PKCS8_PREFIX + seed).decode()}\n{_PEM_END}\n"


def _read_pem(path: Path, text: str) -> bytes:
    match text.split():
        case ["-----BEGIN", "PRIVATE", "KEY-----", body, "-----END", "PRIVATE", "KEY-----"]:
            pass
        case _:
            raise _corrupt(path)
    try:
        der = b64decode(body, validate=True)
    except ValueError as error:
        raise _corrupt(path) from error
    if len(der) != len(_PKCS8_PREFIX) + SEED_BYTES or not der.startswith(_PKCS8_PREFIX):
        raise _corrupt(path)
    return der[len(_PKCS8_PREFIX) :]


def _corrupt(path: Path) -> ConfigError:
    hint = "restore it from a backup, or move it away to begin as a new peer"
    return ConfigError(f"{path} is not an Ed25519 private key in PEM", hint=hint)
