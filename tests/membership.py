"""A swarm's founder and its members, for tests: real keys, grown from small numbers."""

from collections.abc import Callable, Sequence
from typing import Any

from protocol.clock import wall_ms
from protocol.identity import Identity, PeerId
from protocol.membership.advisories import Advisory, Severity
from protocol.membership.certificates import Certificate, Ruling, Verdict
from protocol.membership.gate import Membership
from protocol.membership.policy import GuestLimits, Policy
from protocol.membership.releases import Release, Standing
from protocol.membership.roles import NONE, Role, Roles
from protocol.membership.rules import Channel, Quorum, ReleaseRule, Rules
from protocol.membership.state import SwarmState
from protocol.signing import Envelope
from tests.announcing import MANIFEST, NOW_MS, key_of, peer_of

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
    key = key_of(n).public_key
    return certify_key(state, key, roles, now_ms=now_ms, lasts_ms=lasts_ms, by=by)


def certify_key(
    state: SwarmState,
    key: bytes,
    roles: Roles = WORKS,
    *,
    now_ms: int | None = None,
    lasts_ms: int = HOUR_MS,
    by: int = FOUNDER,
) -> bytes:
    """What the peer of this key shows."""
    issued_ms = wall_ms() if now_ms is None else now_ms
    certificate = Certificate(
        peer=key, roles=roles, issued_ms=issued_ms, expires_ms=issued_ms + lasts_ms
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


RELEASERS = (901, 902, 903)  # two of whom release
WARNERS = (904, 905)


def quorum(ns: Sequence[int], needs: int) -> Quorum:
    return Quorum.of([key_of(n).public_key for n in ns], needs)


def releasing(models: str = "*", channel: Channel = Channel.STABLE) -> ReleaseRule:
    return ReleaseRule(models, channel, quorum(RELEASERS, 2))


def govern(state: SwarmState, *, sequence: int = 1, by: int = FOUNDER, **more: Any) -> Envelope:
    """Rules of which two releasers of three let a model in, and one of two warns."""
    demands: dict[str, Any] = {"releases": (releasing(),), "advisories": quorum(WARNERS, 1)}
    return Rules(sequence=sequence, **{**demands, **more}).seal(state.swarm_id, key_of(by))


def release(
    state: SwarmState,
    *by: int,
    manifest: bytes = MANIFEST,
    model: str = "tiny",
    channel: Channel = Channel.STABLE,
    stamp_ms: int = NOW_MS,
    **more: Any,
) -> Envelope:
    record = Release(model=model, manifest=manifest, channel=channel, stamp_ms=stamp_ms, **more)
    return record.seal(state.swarm_id, *map(key_of, by))


def withdraw(state: SwarmState, *by: int, **more: Any) -> Envelope:
    return release(state, *by, standing=Standing.WITHDRAWN, **more)


def advise(
    state: SwarmState,
    *by: int,
    id: str = "A-1",
    severity: Severity = Severity.STOP,
    stamp_ms: int = NOW_MS,
    **more: Any,
) -> Envelope:
    about = more if "models" in more else {"manifest": MANIFEST, **more}
    record = Advisory(
        id=id, severity=severity, reason="weights were poisoned", stamp_ms=stamp_ms, **about
    )
    return record.seal(state.swarm_id, *map(key_of, by))
