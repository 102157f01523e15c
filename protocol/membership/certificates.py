"""What an admin signs about one peer: that it is a member, or that it no longer is.

In: a peer's key, roles, times. Out: signed envelopes, and back. A certificate travels with its
peer, who shows it on each connection; a ruling travels to everybody, and the latest one of a peer
counts (`state.py`). Both are bound to the swarm they were signed in.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from protocol.canonical import NotCanonical
from protocol.errors import IntegrityError
from protocol.membership.roles import NONE, Roles, read_groups, read_roles, role_fields
from protocol.signing import Envelope, SigningKey, check_public_key, open_envelope, seal

CERTIFICATE, RULING, VERSION = "mh/member/1", "mh/ruling/1", 1
INVITE_ID_BYTES = 32
MAX_CERTIFICATE_BYTES = 1024
MAX_SKEW_MS = 600_000  # how far two members' clocks may differ


class Verdict(StrEnum):
    ALLOWED = "allowed"  # a member, with these roles, without a certificate
    REVOKED = "revoked"  # certificates issued until then count no more; a later one does
    DENIED = "denied"  # whatever it shows


_SEVERITY = (Verdict.ALLOWED, Verdict.REVOKED, Verdict.DENIED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """That `peer`, a public key, is a member, and of which trust groups of the swarm."""

    peer: bytes
    roles: Roles
    issued_ms: int
    expires_ms: int
    invite: bytes = b""  # the id of the invite it was got by
    groups: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        check_public_key(self.peer)
        if not self.roles or not 0 <= self.issued_ms < self.expires_ms:
            raise IntegrityError("a certificate gives a role, for a time")
        read_groups(role_fields((), self.groups))
        if len(self.invite) not in (0, INVITE_ID_BYTES):
            raise IntegrityError("an invite's id has 32 bytes")

    def is_valid(self, now_ms: int) -> bool:
        """By a clock that may be off: it may have been issued a little later than now."""
        return self.issued_ms - MAX_SKEW_MS <= now_ms < self.expires_ms

    def seal(self, swarm_id: bytes, key: SigningKey) -> Envelope:
        roles = role_fields(self.roles, self.groups)
        fields = (VERSION, self.peer, roles, self.issued_ms, self.expires_ms, self.invite)
        return seal(CERTIFICATE, swarm_id, fields, key)

    @classmethod
    def open(cls, envelope: Envelope, swarm_id: bytes) -> Self:
        """Whoever signed it: whether that key may, is for the caller to say.

        Raises:
            IntegrityError: it is none, of another swarm, or its signature does not hold.
        """
        match _opened(envelope, CERTIFICATE, swarm_id):
            case [
                int(), bytes() as peer, [*roles], int() as issued_ms, int() as expires_ms,
                bytes() as invite,
            ]:  # fmt: skip
                return cls(
                    peer=peer,
                    roles=read_roles(roles),
                    issued_ms=issued_ms,
                    expires_ms=expires_ms,
                    invite=invite,
                    groups=read_groups(roles),
                )
            case _:
                raise NotCanonical("a certificate has other fields")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What an admin decided about one peer. Later ones replace it."""

    peer: bytes
    verdict: Verdict
    stamp_ms: int
    roles: Roles = NONE  # of an allowed peer

    def __post_init__(self) -> None:
        check_public_key(self.peer)
        if bool(self.roles) != (self.verdict is Verdict.ALLOWED) or self.stamp_ms < 0:
            raise IntegrityError("a ruling has a time, and roles exactly if it allows")

    @property
    def order(self) -> tuple[int, int, tuple[str, ...]]:
        """The highest of a peer's rulings counts; of two at one time the stricter one."""
        return self.stamp_ms, _SEVERITY.index(self.verdict), role_fields(self.roles)

    def seal(self, swarm_id: bytes, key: SigningKey) -> Envelope:
        fields = (VERSION, self.peer, self.verdict.value, role_fields(self.roles), self.stamp_ms)
        return seal(RULING, swarm_id, fields, key)

    @classmethod
    def open(cls, envelope: Envelope, swarm_id: bytes) -> Self:
        """As `Certificate.open`."""
        match _opened(envelope, RULING, swarm_id):
            case [int(), bytes() as peer, str() as verdict, [*roles], int() as stamp_ms] if (
                verdict in [*Verdict]
            ):
                return cls(
                    peer=peer, verdict=Verdict(verdict), roles=read_roles(roles), stamp_ms=stamp_ms
                )
            case _:
                raise NotCanonical("a ruling has other fields")


def _opened(envelope: Envelope, kind: str, swarm_id: bytes) -> list[Any]:
    if len(envelope.signers) != 1:
        raise IntegrityError(f"a {kind} has one signature")
    fields = open_envelope(envelope, kind, swarm_id, envelope.signers)
    numbers = [field for field in fields if isinstance(field, int)]
    if not fields or bool in map(type, numbers) or fields[0] != VERSION:
        raise NotCanonical(f"a {kind} of another version")
    return fields
