"""The file that keeps a key: PEM, readable by its owner alone, and encrypted when asked.

In: a path, and for an encrypted key a passphrase. Out: the seed. A plain key is PKCS #8 (RFC 8410),
which `openssl genpkey -algorithm ed25519` also writes. An encrypted one says its public key, so
that only who signs needs the passphrase: scrypt (RFC 7914) makes a key of that, AES-256-GCM
encrypts the seed under it, and everything else in the file is authenticated with it. We do not use
encrypted PKCS #8: what the library writes there derives its key by too few rounds. Where a
passphrase comes from is left to `passphrases.py`; on Windows the file's mode means nothing, and its
directory's permissions protect it.
"""

import contextlib
import os
import stat
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path

from protocol.canonical import decode, encode
from protocol.errors import ConfigError, InsecureHome, IntegrityError, WrongPassphrase
from protocol.signing import PUBLIC_KEY_BYTES, SEED_BYTES, SigningKey

Unlock = Callable[[Path], bytes]
"""The passphrase of the key file at a path; it raises ConfigError where there is none."""

# RFC 8410 section 7: version 0, id-Ed25519, and the seed in an octet string in an octet string
_PKCS8_PREFIX = bytes.fromhex("302e020100300506032b657004220420")
_PLAIN, _SEALED = "PRIVATE KEY", "MANYHANDS ENCRYPTED KEY"
_MAX_KEY_FILE_BYTES = 4096
LOG2_N, _R, _P = 15, 8, 3  # 32 MiB: of those settings that OWASP recommends for scrypt
_MAX_LOG2_N = 17  # of a file somebody handed us: 128 MiB, and all passes together about a second
_SALT_BYTES = 16


def read_key(path: Path, unlock: Unlock | None = None, *, may_be_read: bool = False) -> SigningKey:
    """
    may_be_read: an encrypted one may be readable by others, as all is on a stick whose file system
        keeps no modes; a plain one never.

    Raises:
        InsecureHome: others can read or change the file.
        WrongPassphrase: it is encrypted, and this does not open it.
        ConfigError: it is missing, cannot be read, is no Ed25519 key, or needs a passphrase.
    """
    kind, body = _read_pem(path, may_be_read)
    if kind == _PLAIN:
        return SigningKey.from_seed(_seed_of(path, body))
    if unlock is None:
        raise ConfigError(
            f"the key {path} is encrypted",
            hint="set MANYHANDS_PASSPHRASE_FILE to a file with its passphrase",
        )
    return SigningKey.from_seed(_unseal(path, body, unlock(path)))


def read_public_key(path: Path, *, may_be_read: bool = False) -> bytes:
    """The public half; needs no passphrase.

    Raises:
        InsecureHome, ConfigError: as `read_key`.
    """
    kind, body = _read_pem(path, may_be_read)
    if kind == _PLAIN:
        return SigningKey.from_seed(_seed_of(path, body)).public_key
    return _fields_of(path, body)[0]


def is_encrypted(path: Path, *, may_be_read: bool = False) -> bool:
    return _read_pem(path, may_be_read)[0] == _SEALED


def write_new_key(
    path: Path, key: SigningKey, passphrase: bytes | None = None, *, log2_n: int = LOG2_N
) -> None:
    """Make the file, whole or not at all, and never in place of one that is already there.

    log2_n: what scrypt costs, each step twice as much; less is for tests.

    Raises:
        OSError: it cannot be written.
    """
    scratch = _write_beside(path, _text(key, passphrase, log2_n))
    try:
        with contextlib.suppress(FileExistsError):
            try:
                os.link(scratch, path)
            except FileExistsError:
                raise
            except OSError:  # the file system of a stick, which knows no links
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def rewrite_key(path: Path, key: SigningKey, passphrase: bytes | None) -> None:
    """The same key, kept another way: encrypted with this passphrase, or plain with None.

    The new file replaces the old one at once. What the disk still holds of the old one is beyond
    us: whoever fears that reads the disk makes a new key.

    Raises:
        ConfigError: it cannot be written; the old file still stands.
    """
    try:
        owner = path.stat()
        scratch = _write_beside(path, _text(key, passphrase, LOG2_N))
        try:
            if hasattr(os, "geteuid") and os.geteuid() == 0:
                os.chown(scratch, owner.st_uid, owner.st_gid)  # it may be a service's, not root's
            scratch.replace(path)
        except OSError:
            scratch.unlink()
            raise
    except OSError as error:
        raise ConfigError(f"cannot write the key {path}: {error.strerror}") from error


# --- what is in the file -------------------------------------------------------------------------


def _text(key: SigningKey, passphrase: bytes | None, log2_n: int) -> str:
    if passphrase is None:
        kind, body = _PLAIN, _PKCS8_PREFIX + key.seed
    else:
        kind, body = _SEALED, _seal(key, passphrase, log2_n)
    return f"-----BEGIN {kind}-----\n{b64encode(body).decode()}\n-----END {kind}-----\n"


def _seal(key: SigningKey, passphrase: bytes, log2_n: int) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(12)
    head = (1, key.public_key, log2_n, _R, _P, salt, nonce)
    cipher = AESGCM(_derive(passphrase, salt, log2_n, _R, _P))
    return encode((*head, cipher.encrypt(nonce, key.seed, encode(head))))


def _unseal(path: Path, body: bytes, passphrase: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    public_key, log2_n, r, p, salt, nonce, sealed = _fields_of(path, body)
    cipher = AESGCM(_derive(passphrase, salt, log2_n, r, p))
    head = encode((1, public_key, log2_n, r, p, salt, nonce))
    try:
        seed = cipher.decrypt(nonce, sealed, head)
    except InvalidTag as error:
        raise WrongPassphrase(
            f"this passphrase does not open the key {path} (or the file was changed)",
            hint="check MANYHANDS_PASSPHRASE or the file in MANYHANDS_PASSPHRASE_FILE",
        ) from error
    if len(seed) != SEED_BYTES or SigningKey.from_seed(seed).public_key != public_key:
        raise _corrupt(path)
    return seed


def _derive(passphrase: bytes, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    return Scrypt(salt=salt, length=32, n=1 << log2_n, r=r, p=p).derive(passphrase)


def _fields_of(path: Path, body: bytes) -> tuple[bytes, int, int, int, bytes, bytes, bytes]:
    """Public key, scrypt's cost, salt, nonce and what is sealed: in sizes that cost no more than
    we allow, whoever wrote them."""
    try:
        fields = decode(body)
    except IntegrityError as error:
        raise _corrupt(path) from error
    match fields:
        case [
            1,
            bytes(public_key),
            int(log2_n),
            int(r),
            int(p),
            bytes(salt),
            bytes(nonce),
            bytes(sealed),
        ]:
            within = r == _R and 0 < log2_n <= _MAX_LOG2_N and 0 < p <= 1 << (_MAX_LOG2_N - log2_n)
            sizes = (len(public_key), len(salt), len(nonce), len(sealed))
            if within and sizes == (PUBLIC_KEY_BYTES, _SALT_BYTES, 12, SEED_BYTES + 16):
                return public_key, log2_n, r, p, salt, nonce, sealed
    raise _corrupt(path)


def _seed_of(path: Path, der: bytes) -> bytes:
    if len(der) != len(_PKCS8_PREFIX) + SEED_BYTES or not der.startswith(_PKCS8_PREFIX):
        raise _corrupt(path)
    return der[len(_PKCS8_PREFIX) :]


# --- the file ------------------------------------------------------------------------------------


def _read_pem(path: Path, may_be_read: bool = False) -> tuple[str, bytes]:
    """Which kind of key it is, and its bytes."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_KEY_FILE_BYTES)
        if not (may_be_read and f"-----BEGIN {_SEALED}-----".encode() in data):
            _check_mode(path, mode)
        text = data.decode("ascii")
        for kind in (_PLAIN, _SEALED):
            begin, end = f"-----BEGIN {kind}-----".split(), f"-----END {kind}-----".split()
            words = text.split()
            if words[: len(begin)] == begin and words[len(begin) + 1 :] == end:
                return kind, b64decode(words[len(begin)], validate=True)
    except FileNotFoundError as error:
        hint = "the first `manyhands serve` or `generate` on a home makes one"
        raise ConfigError(f"there is no key at {path}", hint=hint) from error
    except OSError as error:
        raise ConfigError(f"cannot read the key {path}: {error.strerror}") from error
    except ValueError as error:  # neither ASCII nor base64
        raise _corrupt(path) from error
    raise _corrupt(path)


def _check_mode(path: Path, mode: int) -> None:
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        reason = f"others can read the key {path} (mode {stat.S_IMODE(mode):04o})"
        raise InsecureHome(reason, hint=f"chmod 600 {path}")


def _write_beside(path: Path, text: str) -> Path:
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        scratch.unlink()
        raise
    return scratch


def _corrupt(path: Path) -> ConfigError:
    hint = "restore it from a backup, or move it away to begin as a new peer"
    return ConfigError(f"{path} is not an Ed25519 private key in PEM", hint=hint)
