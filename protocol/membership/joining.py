"""Redeeming an invite: what a registrar checks and gives, and what who joins makes of it.

In: a redemption as a stranger sent it, the swarm's state, a memory of earlier uses. Out: the
founding policy, a certificate for each key that joins, and the state as of now; or a refusal, whose
reason the transport keeps from the stranger. The same keys may ask again, if the answer was lost:
that counts once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from protocol.errors import IntegrityError, ManyhandsError, NotAMember
from protocol.identity import PeerId, peer_id_from_public_key
from protocol.membership.certificates import MAX_SKEW_MS, Certificate, Verdict
from protocol.membership.invites import Grant, Invite, Redemption, is_within
from protocol.membership.roles import Role
from protocol.membership.state import SwarmState, framed, frames
from protocol.signing import Envelope, SigningKey


class Uses(Protocol):
    """Who redeemed what, as one registrar remembers it."""

    def of(self, grant_id: bytes) -> Sequence[frozenset[bytes]]:
        """The keys of each home that joined by this grant."""

    def add(self, grant_id: bytes, certificates: Sequence[Certificate]) -> None:
        """Remember another one; it is on the disk when this returns."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What an invite brought: the swarm, and a credential for each key."""

    state: SwarmState
    credentials: dict[PeerId, bytes]


def redeem(
    state: SwarmState, request: bytes, registrar: SigningKey, uses: Uses, now_ms: int
) -> bytes:
    """What to answer a redemption with.

    Raises:
        NotAMember: it gives no right to join, or no longer.
        IntegrityError: it proves nothing.
    """
    redemption, grant = Redemption.open(request, state.swarm_id)
    _check(state.policy.may_admit(registrar.public_key), "this node may not admit anybody")
    _check_grant(state, redemption, grant, registrar.public_key, now_ms)
    for key in redemption.keys:
        held = state.rulings.get(key)
        if held is not None and held.ruling.verdict is not Verdict.ALLOWED:
            is_denied = held.ruling.verdict is Verdict.DENIED
            is_later = grant.issued_ms > held.ruling.stamp_ms
            _check(is_later and not is_denied, "it was sent away after this invite was made")
    certificates = [
        Certificate(
            peer=key,
            roles=roles,
            issued_ms=now_ms,
            expires_ms=now_ms + grant.lifetime_ms,
            invite=redemption.grant_id,
            groups=grant.groups if Role.PROVIDE in roles else frozenset(),
        )
        for key, roles in redemption.members
    ]
    known = uses.of(redemption.grant_id)
    if frozenset(redemption.keys) not in known:
        _check(not grant.n_uses or len(known) < grant.n_uses, "the invite is used up")
        uses.add(redemption.grant_id, certificates)
    sealed = [certificate.seal(state.swarm_id, registrar) for certificate in certificates]
    return b"".join(framed(part.encode()) for part in (state.founding, *sealed)) + state.encode()


def _check_grant(
    state: SwarmState, redemption: Redemption, grant: Grant, registrar: bytes, now_ms: int
) -> None:
    _check(state.policy.may_admit(redemption.grant.signers[0]), "nobody who may made this invite")
    _check(now_ms < grant.expires_ms, "the invite has expired")
    _check(grant.issued_ms <= now_ms + MAX_SKEW_MS, "the invite begins later")
    _check(grant.registrar in (b"", registrar), "another registrar counts the uses of this invite")
    within = all(is_within(roles, grant.roles) for _, roles in redemption.members)
    _check(within, "it asks for more than the invite gives")
    held = state.rulings.get(grant.token)
    _check(held is None or held.ruling.verdict is Verdict.ALLOWED, "the invite was revoked")


def accept(answer: bytes, invite: Invite, keys: Sequence[bytes], now_ms: int) -> Joined:
    """What a registrar answered, believed as far as the invite vouches for it.

    Raises:
        IntegrityError: it is of another swarm, or gives these keys nothing.
    """
    parts = list(frames(answer))
    if len(parts) < 1 + len(keys):
        raise IntegrityError("the answer lacks a policy or certificates")
    state = SwarmState(Envelope.decode(parts[0]))
    if state.swarm_id != invite.swarm_id:
        raise IntegrityError("that is the policy of another swarm than the invite's")
    state.merge(b"".join(map(framed, parts[1 + len(keys) :])))
    credentials = {}
    for key, credential in zip(keys, parts[1:], strict=False):
        peer_id = peer_id_from_public_key(key)
        try:
            state.roles(peer_id, credential, now_ms)
        except ManyhandsError as error:
            raise IntegrityError(f"the certificate is worth nothing: {error}") from error
        credentials[peer_id] = credential
    return Joined(state, credentials)


def _check(holds: bool, complaint: str) -> None:
    if not holds:
        raise NotAMember("", complaint)
