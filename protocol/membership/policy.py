"""The policy of a swarm: its name, who founded it, who may admit others, and where to begin.

In: a policy, a founder's key. Out: signed envelopes, and back. The hash of the first policy is the
swarm's id, to which every signature and every call is bound; what is said there of name, founders,
privacy and funding holds for ever. A founder may replace the rest by a policy with a higher
sequence. How sessions are paid for is the ledger's policy, whose bytes stand here unread.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

from protocol.address import Address
from protocol.canonical import Field, NotCanonical
from protocol.errors import IntegrityError, ManyhandsError
from protocol.membership.roles import NONE, Roles, read_roles, role_fields
from protocol.signing import (
    SWARM_ID_BYTES,
    Envelope,
    SigningKey,
    check_public_key,
    object_id,
    open_envelope,
    seal,
)

TYPE, VERSION = "mh/swarm/1", 1
BEFORE_ANY_SWARM = bytes(SWARM_ID_BYTES)  # what a founding policy is signed in
NONCE_BYTES = 16
MAX_NAME_CHARS, MAX_FOUNDERS, MAX_ADMINS, MAX_ADDRESSES = 64, 8, 64, 16
MAX_FUNDING_BYTES, MAX_WITNESSES, MAX_PLACE_CHARS = 16 * 1024, 64, 256


@dataclass(frozen=True, slots=True)
class GuestLimits:
    """What a node of an open swarm allows those who show no certificate; 0 sets no limit."""

    newcomers_per_min: int = 0  # that it has not seen for a while
    streams: int = 0  # of one guest at a time: sessions, and data of its sessions

    def __post_init__(self) -> None:
        if not (0 <= self.newcomers_per_min < 1 << 20 and 0 <= self.streams < 1 << 20):
            raise IntegrityError("a limit is a count below a million")


NO_LIMITS = GuestLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """See the module. Keys are Ed25519 public keys."""

    name: str
    nonce: bytes  # two swarms of one name and founder differ
    founders: tuple[bytes, ...]
    is_private: bool
    sequence: int = 0  # 0: the founding policy
    admins: tuple[bytes, ...] = ()  # may invite, admit and revoke, as founders may
    guests: Roles = NONE  # what those without a certificate may do; nothing in a private swarm
    limits: GuestLimits = NO_LIMITS
    addresses: tuple[Address, ...] = ()  # where newcomers begin, besides those of their invite
    funding: bytes = b""  # `mh/policy/1`, see `ledger.swarms`; empty: as in the swarm `open`
    witnesses: tuple[tuple[str, str], ...] = ()  # by name, where: a peer, an address or a URL

    def __post_init__(self) -> None:
        _check(is_name(self.name), "a swarm's name has 1 to 64 letters, digits and ._-")
        _check(len(self.nonce) == NONCE_BYTES, f"a nonce has {NONCE_BYTES} bytes")
        _check(1 <= len(self.founders) <= MAX_FOUNDERS, "a swarm has 1 to 8 founders")
        _check(len(self.admins) <= MAX_ADMINS, f"more than {MAX_ADMINS} admins")
        _check(len(self.addresses) <= MAX_ADDRESSES, f"more than {MAX_ADDRESSES} addresses")
        _check(self.sequence >= 0, "sequences count up from 0")
        _check(not (self.is_private and self.guests), "a private swarm has no guests")
        _check(len(self.funding) <= MAX_FUNDING_BYTES, "a policy of funding that is too long")
        _check(len(self.witnesses) <= MAX_WITNESSES, f"more than {MAX_WITNESSES} witnesses")
        _check(bool(self.funding) or not self.witnesses, "nothing here needs witnesses")
        for told in self.witnesses:
            plain = all(0 < len(text) <= MAX_PLACE_CHARS and text.isprintable() for text in told)
            _check(plain, "a witness has a name and a place")
        for keys in (self.founders, self.admins):
            _check(list(keys) == sorted(set(keys)), "keys stand in order, each once")
            for key in keys:
                check_public_key(key)

    def may_admit(self, key: bytes) -> bool:
        """Whether this key may sign certificates, rulings and invites."""
        return key in self.founders or key in self.admins

    def follows(self, founding: Self) -> bool:
        """Whether this can be a later policy of the swarm that `founding` founded."""
        return self.sequence > 0 and _lasting(self) == _lasting(founding)

    def with_admin(self, key: bytes) -> Self:
        admins = tuple(sorted({*self.admins, key}))
        return replace(self, admins=admins, sequence=self.sequence + 1)

    def without_admin(self, key: bytes) -> Self:
        admins = tuple(admin for admin in self.admins if admin != key)
        return replace(self, admins=admins, sequence=self.sequence + 1)

    def with_addresses(self, addresses: tuple[Address, ...]) -> Self:
        return replace(self, addresses=addresses, sequence=self.sequence + 1)

    def with_witnesses(self, witnesses: tuple[tuple[str, str], ...]) -> Self:
        return replace(self, witnesses=witnesses, sequence=self.sequence + 1)

    def seal(self, swarm_id: bytes, key: SigningKey) -> Envelope:
        """Signed by a founder. A founding policy is signed in no swarm."""
        return seal(TYPE, swarm_id if self.sequence else BEFORE_ANY_SWARM, self._fields(), key)

    def _fields(self) -> tuple[Field, ...]:
        funding = (self.funding, self.witnesses) if self.funding else ()
        return (
            VERSION,
            self.name,
            self.nonce,
            self.founders,
            self.is_private,
            self.sequence,
            self.admins,
            role_fields(self.guests),
            (self.limits.newcomers_per_min, self.limits.streams),
            tuple(map(str, self.addresses)),
            *funding,
        )


def is_name(text: str) -> bool:
    """Whether a swarm, and the directory of its home, may be called so."""
    plain = text.isascii() and all(c.isalnum() or c in "._-" for c in text)
    return plain and 0 < len(text) <= MAX_NAME_CHARS and text[0].isalnum()


def open_founding(envelope: Envelope) -> tuple[Policy, bytes]:
    """A founding policy, and the id of the swarm that it founds.

    Raises:
        IntegrityError: it is none, or a founder's signature is missing or does not hold.
    """
    policy = _read(_signed_by_a_founder(envelope, BEFORE_ANY_SWARM))
    _check(policy.sequence == 0, "a founding policy has sequence 0")
    _check(envelope.signers[0] in policy.founders, "a policy is signed by a founder")
    return policy, object_id(TYPE, BEFORE_ANY_SWARM, envelope.payload)


def open_update(envelope: Envelope, founding: Policy, swarm_id: bytes) -> Policy:
    """A later policy of a swarm.

    Raises:
        IntegrityError: it is none, of another swarm, or not signed by a founder of this one.
    """
    _check(envelope.signers[0] in founding.founders, "a policy is signed by a founder")
    policy = _read(_signed_by_a_founder(envelope, swarm_id))
    lasting = "name, founders, privacy and funding of a swarm never change"
    _check(policy.follows(founding), lasting)
    return policy


def _signed_by_a_founder(envelope: Envelope, swarm_id: bytes) -> list[Any]:
    _check(len(envelope.signers) == 1, "a policy has one signature")
    return open_envelope(envelope, TYPE, swarm_id, envelope.signers)


def _lasting(policy: Policy) -> tuple[object, ...]:
    return policy.name, policy.nonce, policy.founders, policy.is_private, policy.funding


def _read(fields: list[Any]) -> Policy:
    match fields:
        case [
            int() as version, str() as name, bytes() as nonce, [*founders], bool() as is_private,
            int() as sequence, [*admins], [*guests], [int() as newcomers, int() as streams],
            [*addresses], *funding,
        ] if type(version) is int and version == VERSION:  # fmt: skip
            _check(bool not in {*map(type, (sequence, newcomers, streams))}, "a flag for a number")
            _check(all(type(key) is bytes for key in (*founders, *admins)), "keys are bytes")
            _check(all(type(text) is str for text in addresses), "addresses are text")
        case _:
            raise NotCanonical("a policy has other fields")
    try:
        return Policy(
            name=name,
            nonce=nonce,
            founders=tuple(founders),
            is_private=is_private,
            sequence=sequence,
            admins=tuple(admins),
            guests=read_roles(guests),
            limits=GuestLimits(newcomers, streams),
            addresses=tuple(map(Address.parse, addresses)),
            **_read_funding(funding),
        )
    except IntegrityError:
        raise
    except ManyhandsError as error:  # an address that is none
        raise NotCanonical(f"a policy with a bad field: {error}") from error


def _read_funding(fields: list[Any]) -> dict[str, Any]:
    """The last two fields, which stand in a swarm that says how sessions are paid for."""
    match fields:
        case []:
            return {}
        case [bytes() as funding, [*witnesses]] if funding:
            pairs = tuple(tuple(each) if isinstance(each, list) else () for each in witnesses)
            are_text = all([*map(type, pair)] == [str, str] for pair in pairs)
            _check(are_text, "a witness has a name and a place")
            return {"funding": funding, "witnesses": pairs}
        case _:
            raise NotCanonical("a policy has other fields")


def _check(holds: bool, complaint: str) -> None:
    if not holds:
        raise IntegrityError(complaint)
