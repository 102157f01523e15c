"""Invites: what an admin hands to somebody so that they may become members, once or often.

In: a grant that an admin signed, the secret of its token, the keys of whoever joins. Out: one line
of text to pass on, `mh://…`, and the redemption that a joining home sends to a registrar.

The grant can be made offline; to redeem it somebody must remember. So a grant with a number of uses
names one registrar, an admin whose node is up, which counts in its home; one without is redeemed by
any admin. The token never travels: it signs the keys that join, and so do they, so that nobody who
sees a redemption can join by it.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from protocol.address import Address
from protocol.canonical import NotCanonical, decode, encode
from protocol.errors import IntegrityError, ManyhandsError, UsageError
from protocol.membership.policy import is_name
from protocol.membership.roles import Role, Roles, read_groups, read_roles, role_fields
from protocol.signing import (
    PUBLIC_KEY_BYTES,
    SEED_BYTES,
    SWARM_ID_BYTES,
    Envelope,
    SigningKey,
    check_public_key,
    open_envelope,
    seal,
)

METHOD = "redeem"
GRANT, REDEMPTION, VERSION = "mh/grant/1", "mh/redemption/1", 1
SCHEME = "mh://"
MAX_INVITE_CHARS, MAX_REQUEST_BYTES = 8192, 4096
MAX_MEMBERS, MAX_ADDRESSES = 4, 8
CLIENT_ROLES = frozenset({Role.USE, Role.OBSERVE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What whoever holds the token's secret may ask for."""

    token: bytes  # a public key
    roles: Roles
    n_uses: int  # 0: as many as come until it expires
    issued_ms: int
    expires_ms: int
    lifetime_ms: int  # of the certificates
    registrar: bytes = b""  # who counts the uses; empty: nobody need
    groups: frozenset[str] = frozenset()  # that the nodes which join by it are in

    def __post_init__(self) -> None:
        check_public_key(self.token)
        if not self.roles or self.lifetime_ms <= 0 or not 0 <= self.issued_ms < self.expires_ms:
            raise IntegrityError("an invite gives a role, for a time")
        if not 0 <= self.n_uses < 1 << 20 or len(self.registrar) not in (0, PUBLIC_KEY_BYTES):
            raise IntegrityError("an invite has a count of uses, and a registrar's key")
        if self.n_uses and not self.registrar:
            raise IntegrityError("who counts an invite's uses must be named in it")
        read_groups(role_fields((), self.groups))

    def seal(self, swarm_id: bytes, key: SigningKey) -> Envelope:
        roles = role_fields(self.roles, self.groups)
        times = (self.issued_ms, self.expires_ms, self.lifetime_ms)
        fields = (VERSION, self.token, roles, self.n_uses, *times, self.registrar)
        return seal(GRANT, swarm_id, fields, key)

    @classmethod
    def open(cls, envelope: Envelope, swarm_id: bytes) -> Self:
        """Whoever signed it: whether that key may, is for the caller to say.

        Raises:
            IntegrityError: it is none, of another swarm, or its signature does not hold.
        """
        _check(len(envelope.signers) == 1, "an invite has one signature")
        match open_envelope(envelope, GRANT, swarm_id, envelope.signers):
            case [
                int() as version, bytes() as token, [*roles], int() as n_uses, int() as issued_ms,
                int() as expires_ms, int() as lifetime_ms, bytes() as registrar,
            ] if version == VERSION and bool not in {
                *map(type, (version, n_uses, issued_ms, expires_ms, lifetime_ms))
            }:  # fmt: skip
                return cls(
                    token=token,
                    roles=read_roles(roles),
                    n_uses=n_uses,
                    issued_ms=issued_ms,
                    expires_ms=expires_ms,
                    lifetime_ms=lifetime_ms,
                    registrar=registrar,
                    groups=read_groups(roles),
                )
            case _:
                raise NotCanonical("an invite has other fields")


@dataclass(frozen=True, slots=True)
class Redemption:
    """Who joins by a grant: the keys of one home, and what each of them wants to be."""

    grant: Envelope
    grant_id: bytes
    members: tuple[tuple[bytes, Roles], ...]

    @property
    def keys(self) -> tuple[bytes, ...]:
        return tuple(key for key, _ in self.members)

    @classmethod
    def request(
        cls,
        grant: Envelope,
        swarm_id: bytes,
        token: SigningKey,
        members: Mapping[SigningKey, Roles],
    ) -> bytes:
        """The bytes to send, signed by the token and by everybody who joins."""
        named = sorted((key.public_key, role_fields(roles)) for key, roles in members.items())
        fields = (VERSION, grant.object_id(swarm_id), tuple(named))
        redemption = seal(REDEMPTION, swarm_id, fields, token, *members)
        return encode((grant.encode(), redemption.encode()))

    @classmethod
    def open(cls, request: bytes, swarm_id: bytes) -> tuple[Self, Grant]:
        """What a stranger sent, as far as it proves itself; who granted it is not checked here.

        Raises:
            IntegrityError: it proves nothing.
        """
        _check(len(request) <= MAX_REQUEST_BYTES, "a redemption is short")
        match decode(request):
            case [bytes() as granted, bytes() as redeemed]:
                grant_envelope, envelope = Envelope.decode(granted), Envelope.decode(redeemed)
            case _:
                raise NotCanonical("a redemption has other fields")
        grant, grant_id = Grant.open(grant_envelope, swarm_id), grant_envelope.object_id(swarm_id)
        fields = open_envelope(envelope, REDEMPTION, swarm_id, envelope.signers)
        match fields:
            case [int() as version, bytes() as named, [*members]] if version == VERSION:
                _check(named == grant_id, "a redemption is of the invite beside it")
            case _:
                raise NotCanonical("a redemption has other fields")
        read = tuple(_read_member(member) for member in members)
        _check(1 <= len(read) <= MAX_MEMBERS, "a few keys of one home join")
        signers = {grant.token, *(key for key, _ in read)}
        _check(set(envelope.signers) == signers, "token and members sign, and nobody else")
        return cls(grant_envelope, grant_id, read), grant


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """What is passed on to whoever shall join."""

    name: str  # of the swarm, for people
    swarm_id: bytes
    grant: Envelope
    secret: bytes = field(repr=False)  # of the token
    addresses: tuple[Address, ...]  # of registrars

    def __post_init__(self) -> None:
        _check(is_name(self.name) and len(self.swarm_id) == SWARM_ID_BYTES, "an invite to a swarm")
        _check(len(self.secret) == SEED_BYTES, "an invite has a secret")
        _check(1 <= len(self.addresses) <= MAX_ADDRESSES, "an invite says where to redeem it")

    @property
    def token(self) -> SigningKey:
        return SigningKey.from_seed(self.secret)

    def __str__(self) -> str:
        where = tuple(map(str, self.addresses))
        fields = (VERSION, self.name, self.swarm_id, self.grant.encode(), self.secret, where)
        return SCHEME + urlsafe_b64encode(encode(fields)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what somebody pasted.

        Raises:
            UsageError: it is no invite, or not whole.
        """
        hint = "copy the whole line that begins with mh://"
        text = "".join(text.split())
        if not text.startswith(SCHEME) or len(text) > MAX_INVITE_CHARS:
            raise UsageError(f"not an invite: {text[:40]!r}", hint=hint)
        body = text.removeprefix(SCHEME)
        try:
            data = urlsafe_b64decode(body + "=" * (-len(body) % 4))
            return cls._read(decode(data))
        except (NotBase64, ValueError, ManyhandsError) as error:
            raise UsageError("the invite cannot be read: it is not whole", hint=hint) from error

    @classmethod
    def _read(cls, fields: list[Any]) -> Self:
        match fields:
            case [
                int() as version, str() as name, bytes() as swarm_id, bytes() as grant,
                bytes() as secret, [*addresses],
            ] if version == VERSION and all(type(one) is str for one in addresses):  # fmt: skip
                envelope = Envelope.decode(grant)
                Grant.open(envelope, swarm_id)  # a damaged one is noticed before anybody is asked
                return cls(
                    name=name,
                    swarm_id=swarm_id,
                    grant=envelope,
                    secret=secret,
                    addresses=tuple(map(Address.parse, addresses)),
                )
            case _:
                raise NotCanonical("it has other fields, perhaps of a later version")


def roles_of_home(granted: Roles) -> tuple[Roles, Roles]:
    """What a home's node and its clients get of what was granted: clients look, and may use."""
    serves = bool(granted & {Role.PROVIDE, Role.RELAY})
    return granted if serves else frozenset(), (granted & CLIENT_ROLES) | {Role.OBSERVE}


def is_within(wanted: Roles, granted: Roles) -> bool:
    """Whether a grant covers these roles: all members may look."""
    return bool(wanted) and wanted <= granted | {Role.OBSERVE}


def _read_member(member: object) -> tuple[bytes, Roles]:
    match member:
        case [bytes() as key, [*roles]]:
            check_public_key(key)
            return key, read_roles(roles)
        case _:
            raise NotCanonical("a member is a key and roles")


def _check(holds: bool, complaint: str) -> None:
    if not holds:
        raise IntegrityError(complaint)
