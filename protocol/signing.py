"""Keys, signatures, and the envelope every signed object travels in.

In: a type name, a swarm and fields. Out: an envelope whose signatures cover the type, the swarm and
the payload together, so that no signature can be replayed as another kind of object or in another
swarm. The payload is kept as the very bytes that were signed; nothing is re-serialised to verify.

Which Ed25519 signatures count is a rule of agreement, not a library's choice: two peers whose
libraries differ on odd points would compute different balances. `verify` refuses, before any
library is asked, encodings that are not canonical and points of small order, then checks the
cofactorless equation of RFC 8032 section 5.1.7, never in batches (those accept another set).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal, Self

from nacl.bindings import (
    crypto_core_ed25519_is_valid_point,
    crypto_sign,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import BadSignatureError
from nacl.utils import random as random_bytes

from protocol.canonical import Field, NotCanonical, decode, encode
from protocol.errors import BadSignature, IntegrityError

SEED_BYTES = PUBLIC_KEY_BYTES = SWARM_ID_BYTES = 32
SIGNATURE_BYTES = 64
MAX_SIGNATURES = 8

_DOMAIN = b"manyhands-sig-v1\x00"
_P = 2**255 - 19  # the field of the curve
_L = 2**252 + 27742317777372353535851937790883648493  # the order of its base point
# y of a point of order 8: 2y² = 1 − dy⁴
_Y8 = 0x5FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER_Y = frozenset({0, 1, _P - 1, _Y8, _P - _Y8})  # all eight points, sign bit ignored


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key, known by the 32-byte seed it grows from. The seed is never shown."""

    seed: bytes = field(repr=False)
    public_key: bytes = field(init=False, compare=False)
    _secret: bytes = field(
        init=False, repr=False, compare=False
    )  # seed and public key, as libsodium's

    def __post_init__(self) -> None:
        if type(self.seed) is not bytes or len(self.seed) != SEED_BYTES:
            raise ValueError(f"a key grows from {SEED_BYTES} bytes")
        public_key, secret = crypto_sign_seed_keypair(self.seed)
        object.__setattr__(self, "public_key", public_key)
        object.__setattr__(self, "_secret", secret)

    @classmethod
    def generate(cls) -> Self:
        return cls(random_bytes(SEED_BYTES))

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        return cls(seed)

    def sign(self, message: bytes) -> bytes:
        return crypto_sign(message, self._secret)[:SIGNATURE_BYTES]


def verify(
    public_key: bytes,
    message: bytes,
    signature: bytes,
    *,
    backend: Literal["pynacl", "cryptography"] = "pynacl",
) -> None:
    """Return if `signature` is `public_key`'s on `message`; both backends give the same verdict.

    Raises:
        BadSignature: it is not, or the key or signature is of a form nobody honest makes.
    """
    check_public_key(public_key)
    if len(signature) != SIGNATURE_BYTES:
        raise BadSignature(f"a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}")
    _check_point(signature[:32], "signature's point")
    if int.from_bytes(signature[32:], "little") >= _L:
        raise BadSignature("the signature's scalar is not reduced")
    if backend == "pynacl":
        try:
            crypto_sign_open(signature + message, public_key)
        except BadSignatureError as error:
            raise BadSignature("the signature does not match the key and the message") from error
    else:
        _verify_with_openssl(public_key, message, signature)


def check_public_key(public_key: bytes) -> None:
    """Refuse a key under which anybody could sign anything, or that has two spellings."""
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise BadSignature(f"a public key has {PUBLIC_KEY_BYTES} bytes, not {len(public_key)}")
    _check_point(public_key, "public key")


def can_be_made(public_key: bytes) -> bool:
    """Whether some seed gives this key: of bytes that were mistyped, one in sixteen passes.

    Stricter than `check_public_key`, and no rule of agreement: for what a person types.
    """
    return bool(crypto_core_ed25519_is_valid_point(public_key))


def signed_bytes(type: str, swarm_id: bytes, payload: bytes) -> bytes:
    """What a signature covers. Every part has its length, so two objects never share bytes."""
    name = type.encode("ascii")
    if not 0 < len(name) < 256 or len(swarm_id) != SWARM_ID_BYTES:
        raise ValueError("a signed object has a type name and a swarm")
    return b"".join(
        (_DOMAIN, bytes((len(name),)), name, swarm_id, len(payload).to_bytes(4, "big"), payload)
    )


def object_id(type: str, swarm_id: bytes, payload: bytes) -> bytes:
    """The name of an object. Signatures are left out: adding one does not rename it."""
    return sha256(signed_bytes(type, swarm_id, payload)).digest()


@dataclass(frozen=True, slots=True)
class Envelope:
    """An object as it travels and is stored: its type, its payload bytes, and who signed them.

    Signatures stand in the order of their keys, one per key, so that an envelope has one encoding.
    """

    type: str
    payload: bytes
    signatures: tuple[tuple[bytes, bytes], ...]  # (public key, signature)
    _data: bytes = field(default=b"", init=False, repr=False, compare=False)  # once it was encoded

    def __post_init__(self) -> None:
        keys = [key for key, _ in self.signatures]
        if not self.type.isascii() or not 0 < len(self.type) < 256:
            raise NotCanonical("an envelope's type is a short ASCII name")
        if not 0 < len(keys) <= MAX_SIGNATURES or keys != sorted(set(keys)):
            raise NotCanonical("an envelope has one signature per key, in the order of the keys")

    @property
    def signers(self) -> tuple[bytes, ...]:
        return tuple(key for key, _ in self.signatures)

    def object_id(self, swarm_id: bytes) -> bytes:
        return object_id(self.type, swarm_id, self.payload)

    def encode(self) -> bytes:
        if not self._data:
            self._encoded_as(encode((self.type, self.payload, self.signatures)))
        return self._data

    def _encoded_as(self, data: bytes) -> Self:
        """There is one encoding, and this was found to be it."""
        object.__setattr__(self, "_data", data)
        return self

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read an envelope's shape. Nothing is believed yet: see `open_envelope`.

        Raises:
            NotCanonical: the bytes are no envelope, or not the canonical spelling of one.
        """
        match decode(data):
            case [str() as type, bytes() as payload, [*signatures]]:
                read = tuple(_read_signature(pair) for pair in signatures)
                return cls(type, payload, read)._encoded_as(bytes(data))
            case _:
                raise NotCanonical("an envelope is a type, a payload and signatures")


def seal(type: str, swarm_id: bytes, fields: Sequence[Field], *keys: SigningKey) -> Envelope:
    """Encode an object and sign it with each of `keys`."""
    payload = encode(fields)
    message = signed_bytes(type, swarm_id, payload)
    signatures = sorted((key.public_key, key.sign(message)) for key in keys)
    return Envelope(type, payload, tuple(signatures))


def add_signature(envelope: Envelope, swarm_id: bytes, key: SigningKey) -> Envelope:
    """The same object with one more signer. Signing twice with one key changes nothing."""
    signature = key.sign(signed_bytes(envelope.type, swarm_id, envelope.payload))
    signatures = {**dict(envelope.signatures), key.public_key: signature}
    return Envelope(envelope.type, envelope.payload, tuple(sorted(signatures.items())))


def open_envelope(
    envelope: Envelope, type: str, swarm_id: bytes, signers: Sequence[bytes]
) -> list[Any]:
    """The fields of an envelope that is of this type and signed by exactly these keys.

    The cheap checks come first, so that junk costs no elliptic curve.

    Raises:
        IntegrityError: another type, or other signers than asked for.
        BadSignature: a signature does not hold, in this swarm, for this type.
        NotCanonical: the payload is not canonical.
    """
    if envelope.type != type:
        raise IntegrityError(f"expected an object of type {type}, got {envelope.type}")
    if set(envelope.signers) != set(signers):
        raise IntegrityError(f"a {type} is not signed by exactly those who must sign it")
    fields = decode(envelope.payload)
    message = signed_bytes(type, swarm_id, envelope.payload)
    for public_key, signature in envelope.signatures:
        verify(public_key, message, signature)
    return fields


# The swarm of those without an invite. Its genesis policy names no founder, issuer or witness, so
# nothing is signed and these bytes are the whole of it (ledger/policy.py gives the fields names).
OPEN_POLICY_FIELDS: tuple[Field, ...] = (
    1,  # version
    "open",  # name
    "bilateral",  # mode: pairwise claims, no issuer
    (),  # assets
    (),  # issuers
    (),  # witnesses
    0,  # quorum_k
    86_400,  # epoch_s
    1,  # grace_epochs
    30,  # retain_epochs
    120_000,  # max_skew_ms
    10_000,  # audit_ppm
    1,  # holdback_epochs
    1,  # min_version
)
OPEN_SWARM_ID = object_id("mh/policy/1", bytes(SWARM_ID_BYTES), encode(OPEN_POLICY_FIELDS))


def _read_signature(pair: object) -> tuple[bytes, bytes]:
    match pair:
        case [bytes() as public_key, bytes() as signature]:
            return public_key, signature
        case _:
            raise NotCanonical("a signature is a public key and its signature")


def _check_point(encoded: bytes, what: str) -> None:
    y = int.from_bytes(encoded, "little") & (2**255 - 1)  # the top bit is the sign of x
    if y >= _P:
        raise BadSignature(f"the {what} is not in canonical form")
    if y in _SMALL_ORDER_Y:
        raise BadSignature(f"the {what} has small order: anybody could have made it")


def _verify_with_openssl(public_key: bytes, message: bytes, signature: bytes) -> None:
    from cryptography.exceptions import InvalidSignature  # only who asks for it loads OpenSSL
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise BadSignature("the signature does not match the key and the message") from error
