"""What somebody is told whose invite leads to no membership: whose fault it is, and what to do."""

import pytest

from manyhands.redeeming import redeem
from protocol.address import Address
from protocol.clock import wall_ms
from protocol.errors import NotAMember, PeerUnreachable
from protocol.identity import Identity
from protocol.membership.gate import Membership
from protocol.membership.invites import Grant, Invite
from protocol.membership.state import SwarmState
from protocol.signing import SigningKey
from protocol.transport import Service
from protocol.transport.grpc import GrpcTransport
from tests.announcing import key_of
from tests.doctor.peers import nobody
from tests.membership import FOUNDER, HOUR_MS, USES, certify, found

STATE = SwarmState(found())


def invite(*addresses: Address, ends_ms: int = HOUR_MS) -> str:
    """ends_ms: from now."""
    token, now_ms = SigningKey.generate(), wall_ms()
    grant = Grant(
        token=token.public_key,
        roles=USES,
        n_uses=0,
        issued_ms=now_ms - 2 * HOUR_MS,
        expires_ms=now_ms + ends_ms,
        lifetime_ms=HOUR_MS,
    )
    made = Invite(
        name="den",
        swarm_id=STATE.swarm_id,
        grant=grant.seal(STATE.swarm_id, key_of(FOUNDER)),
        secret=token.seed,
        addresses=addresses,
    )
    return str(made)


async def test_where_nobody_redeems_it_the_one_who_invited_must_run_a_node(tmp_path):
    with pytest.raises(PeerUnreachable, match="redeems this invite does not answer") as caught:
        await redeem(invite(nobody(2)), None, tmp_path)

    assert "whoever invited you" in caught.value.hint
    assert "manyhands serve" in caught.value.hint


@pytest.mark.parametrize(
    ("ends_ms", "told"), [(-HOUR_MS, "the invite ended on 20"), (HOUR_MS, "used up, revoked")]
)
async def test_an_invite_that_ended_says_so_itself_where_the_registrar_tells_nobody(
    tmp_path, ends_ms, told
):
    gate = Membership(STATE, certify(STATE, 1))
    transport = GrpcTransport(Identity(key_of(1)), STATE.swarm_id, gate=gate)
    listener = await transport.listen("127.0.0.1", 0, Service(calls={}, streams={}))
    try:
        there = (listener.addresses[0], nobody(1))  # that nobody answers there tells less
        with pytest.raises(NotAMember, match=told) as caught:
            await redeem(invite(*there, ends_ms=ends_ms), None, tmp_path)
    finally:
        await listener.aclose()

    assert "ask for another one" in caught.value.hint
