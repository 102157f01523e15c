"""A swarm's founder and its members, for tests: real keys, grown from small numbers."""

from collections.abc import Callable

from protocol.clock import wall_ms
from protocol.identity import Identity, PeerId
from protocol.membership.certificates import Certificate, Ruling, Verdict
from protocol.membership.gate import Membership
from protocol.membership.policy import GuestLimits, Policy
from protocol.membership.roles import NONE, Role, Roles
from protocol.membership.state import SwarmState
from protocol.signing import Envelope
from tests.announcing import key_of, peer_of

FOUNDER = 900
HOUR_MS = 3_600_000
WORKS = frozenset({Role.PROVIDE, Role.USE, Role.OBSERVE})
USES = frozenset({Role.USE, Role.OBSERVE})


def found(
    *, name: str = "home", is_private: bool = True, founder: int = FOUNDER, **more: object
) -> Envelope:
    policy = Policy(
        name=name,
        nonce=bytes(16),
        founders=(key_of(founder).public_key,),
        is_private=is_private,
        **more,  # type: ignore[arg-type]  # fields of the policy, as the test wants them
    )
    return policy.seal(b"", key_of(founder))


def open_to(guests: Roles, limits: GuestLimits | None = None) -> Envelope:
    return found(is_private=False, guests=guests, limits=limits or GuestLimits())


def certify(
    state: SwarmState,
    n: int,
    roles: Roles = WORKS,
    *,
    now_ms: int | None = None,
    lasts_ms: int = HOUR_MS,
    by: int = FOUNDER,
) -> bytes:
    """What peer `n` shows."""
    issued_ms = wall_ms() if now_ms is None else now_ms
    certificate = Certificate(
        peer=key_of(n).public_key, roles=roles, issued_ms=issued_ms, expires_ms=issued_ms + lasts_ms
    )
    return certificate.seal(state.swarm_id, key_of(by)).encode()


def rule(
    state: SwarmState,
    n: int,
    verdict: Verdict,
    *,
    stamp_ms: int | None = None,
    roles: Roles = NONE,
    by: int = FOUNDER,
) -> Envelope:
    stamp_ms = wall_ms() if stamp_ms is None else stamp_ms
    ruling = Ruling(peer=key_of(n).public_key, verdict=verdict, stamp_ms=stamp_ms, roles=roles)
    return ruling.seal(state.swarm_id, key_of(by))


def framed(*envelopes: Envelope) -> bytes:
    """As they travel."""
    parts = [envelope.encode() for envelope in envelopes]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def member(
    founding: Envelope,
    n: int,
    roles: Roles = WORKS,
    *,
    now_ms: Callable[[], int] = wall_ms,
    credential: bytes | None = None,
) -> Membership:
    state = SwarmState(founding)
    shown = certify(state, n, roles) if credential is None else credential
    return Membership(state, shown, now_ms=now_ms)


def identity_of(n: int) -> Identity:
    return Identity(key_of(n))


def name_of(n: int) -> PeerId:
    return peer_of(n)
