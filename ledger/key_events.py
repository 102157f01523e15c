"""How an account's keys begin, change and end: the events that its owner signs, one after another.

An account that begins with an inception is named by it, `account = SHA-256(bytes signed)`, and so
outlives each of its keys. Every event that sets a key also commits to the hash of the one after it
(pre-rotation, as in KERI, Smith 2019): whoever steals a key cannot replace it, its owner can. The
root key only signs events; what is signed day by day is signed by keys to which it delegates some
scopes, until some epoch, for so much. What a chain of events says is left to `key_state.py`.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, ClassVar, Self

from ledger.errors import BadObject
from ledger.fields import Id32, MaybeId32, SignedObject, Text, Uint, check_bytes, check_uint
from protocol.canonical import Field
from protocol.errors import BadSignature
from protocol.signing import Envelope, SigningKey, check_public_key

SCOPES = ("log", "pay", "serve", "witness")
INCEPT, ROTATE, DELEGATE, REVOKE = "incept", "rotate", "delegate", "revoke"
NO_ID = bytes(32)  # in an inception, which has no account and no event before it


def check_key(value: Any) -> None:
    check_bytes(32)(value)
    try:
        check_public_key(value)
    except BadSignature as error:
        raise BadObject(str(error)) from error


@dataclass(frozen=True, slots=True)
class Delegation:
    """What a key may do for an account.

    max_exposure: ncr that it may have promised to one counterparty and that are not settled yet:
    what a thief of the key can take there.
    """

    key: bytes
    scopes: tuple[str, ...]
    not_after_epoch: int
    max_exposure: int

    def __post_init__(self) -> None:
        check_key(self.key)
        known = tuple(scope for scope in SCOPES if scope in self.scopes)
        if not self.scopes or self.scopes != known:
            raise BadObject(f"scopes are some of {', '.join(SCOPES)}, each once, in this order")
        check_uint(self.not_after_epoch)
        check_uint(self.max_exposure)

    def to_fields(self) -> tuple[Field, ...]:
        return (self.key, self.scopes, self.not_after_epoch, self.max_exposure)

    @classmethod
    def from_fields(cls, values: Any) -> Self:
        match values:
            case [key, [*scopes], not_after_epoch, max_exposure]:
                return cls(key, tuple(scopes), not_after_epoch, max_exposure)
        raise BadObject("a delegation is a key, scopes, an epoch and an amount")


def check_keys(value: Any) -> None:
    if type(value) is not tuple or len(value) > 1:
        raise BadObject("an event sets or ends one key, several together are reserved")
    for key in value:
        check_key(key)


def check_delegation(value: Any) -> None:
    if value is not None and type(value) is not Delegation:
        raise BadObject("expected a delegation")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEvent(SignedObject):
    """One event in the life of an account's keys. `prev_oid` chains it to the one before.

    keys: the new root key of an inception or rotation, the key that a revocation ends.
    next_key_hash: of the root key that the next rotation will bring.
    """

    TYPE: ClassVar[str] = "mh/keyevent/1"

    account: Id32
    seq: Uint
    prev_oid: Id32
    op: Text
    keys: Annotated[tuple[bytes, ...], check_keys] = ()
    next_key_hash: MaybeId32 = None
    delegate: Annotated[Delegation | None, check_delegation] = None

    def __post_init__(self) -> None:
        SignedObject.__post_init__(self)
        holds = (bool(self.keys), self.next_key_hash is not None, self.delegate is not None)
        if holds != _HOLDS.get(self.op):
            raise BadObject(f"these are not the fields of the key event {self.op[:16]!r}")
        begins = self.op == INCEPT
        if begins != (self.seq == 0) or begins != (self.prev_oid == NO_ID):
            raise BadObject("an inception, and nothing else, is the first event of an account")
        if begins != (self.account == NO_ID):
            raise BadObject("an inception, and nothing else, names no account: it makes its name")

    def to_fields(self) -> list[Field]:
        told = super(KeyEvent, self).to_fields()
        told[-1] = self.delegate.to_fields() if self.delegate else None
        return told

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        if name == "keys":
            return tuple(value) if type(value) is list else value
        if name == "delegate" and value is not None:
            return Delegation.from_fields(value)
        return value


_HOLDS = {  # op: has keys, a commitment, a delegation
    INCEPT: (True, True, False),
    ROTATE: (True, True, False),
    DELEGATE: (False, False, True),
    REVOKE: (True, False, False),
}


def commitment(public_key: bytes) -> bytes:
    """What an event says of a key that is kept for later."""
    return sha256(public_key).digest()


def incept(root: SigningKey, next_key: bytes, swarm_id: bytes) -> tuple[bytes, Envelope]:
    """A new account, and the event that its name is the hash of."""
    event = KeyEvent(
        account=NO_ID,
        seq=0,
        prev_oid=NO_ID,
        op=INCEPT,
        keys=(root.public_key,),
        next_key_hash=commitment(next_key),
    ).seal(swarm_id, root)
    return event.object_id(swarm_id), event
