"""Invites: the text that is passed on, who may redeem it, how often, and what comes back."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.address import Address
from protocol.errors import IntegrityError, NotAMember, UsageError
from protocol.membership.certificates import Certificate, Verdict
from protocol.membership.invites import Grant, Invite, Redemption, roles_of_home
from protocol.membership.joining import accept, redeem
from protocol.membership.roles import Role
from protocol.membership.state import SwarmState
from protocol.signing import Envelope
from tests.announcing import NOW_MS, key_of, peer_of
from tests.membership import FOUNDER, HOUR_MS, USES, WORKS, found, framed, rule

REGISTRAR, TOKEN, NODE, CLIENT = 700, 701, 1, 2


class Memory:
    """Uses in a dictionary."""

    def __init__(self) -> None:
        self.joined: list[tuple[bytes, tuple[Certificate, ...]]] = []

    def of(self, grant_id: bytes) -> list[frozenset[bytes]]:
        return [frozenset(one.peer for one in all_) for id, all_ in self.joined if id == grant_id]

    def add(self, grant_id: bytes, certificates: Sequence[Certificate]) -> None:
        self.joined.append((grant_id, tuple(certificates)))


def swarm() -> SwarmState:
    state = SwarmState(found())
    policy = state.policy.with_admin(key_of(REGISTRAR).public_key)
    state.learn(policy.seal(state.swarm_id, key_of(FOUNDER)))
    return state


GRANT = Grant(
    token=key_of(TOKEN).public_key,
    roles=WORKS,
    n_uses=1,
    issued_ms=NOW_MS,
    expires_ms=NOW_MS + HOUR_MS,
    lifetime_ms=10 * HOUR_MS,
    registrar=key_of(REGISTRAR).public_key,
)


def asked(
    state: SwarmState,
    grant: Grant = GRANT,
    *,
    by: int = FOUNDER,
    members: tuple[int, ...] = (NODE, CLIENT),
    token: int = TOKEN,
    roles: frozenset[Role] = WORKS,
) -> bytes:
    envelope = grant.seal(state.swarm_id, key_of(by))
    return Redemption.request(
        envelope, state.swarm_id, key_of(token), {key_of(n): roles for n in members}
    )


def redeemed(
    state: SwarmState,
    request: bytes,
    memory: Memory | None = None,
    *,
    at: int = REGISTRAR,
    now_ms: int = NOW_MS,
) -> bytes:
    return redeem(state, request, key_of(at), Memory() if memory is None else memory, now_ms)


def invite(state: SwarmState) -> Invite:
    return Invite(
        name="home",
        swarm_id=state.swarm_id,
        grant=GRANT.seal(state.swarm_id, key_of(FOUNDER)),
        secret=key_of(TOKEN).seed,
        addresses=(Address("127.0.0.1", 31400, peer_of(REGISTRAR)),),
    )


def test_an_invite_is_one_line_that_survives_being_pasted():
    written = invite(swarm())
    text = str(written)

    assert text.startswith("mh://")
    assert Invite.parse(f"  {text[:100]}\n  {text[100:]}\n") == written
    assert written.secret.hex() not in repr(written)


def test_an_invite_that_lost_its_end_is_none():
    text = str(invite(swarm()))

    for n_lost in (1, 2, 3, 10, 200):
        with pytest.raises(UsageError, match="cannot be read"):
            Invite.parse(text[:-n_lost])


@given(st.text(max_size=60))
def test_whatever_else_is_pasted_is_refused_in_words(text):
    with pytest.raises(UsageError):
        Invite.parse("mh://" + text)


def test_a_home_joins_with_both_its_keys():
    state = swarm()

    answer = redeemed(state, asked(state))
    joined = accept(answer, invite(state), sorted(key_of(n).public_key for n in (1, 2)), NOW_MS)

    assert joined.state.digest == state.digest
    assert {
        joined.state.roles(peer, shown, NOW_MS) for peer, shown in joined.credentials.items()
    } == {WORKS}
    assert set(joined.credentials) == {peer_of(NODE), peer_of(CLIENT)}


def test_an_invite_for_one_is_used_up_by_one():
    state, memory = swarm(), Memory()
    redeemed(state, asked(state), memory)

    with pytest.raises(NotAMember, match="used up"):
        redeemed(state, asked(state, members=(5, 6)), memory)


def test_who_lost_the_answer_may_ask_again():
    state, memory = swarm(), Memory()
    redeemed(state, asked(state), memory)

    assert redeemed(state, asked(state), memory)
    assert len(memory.joined) == 1


def test_an_invite_without_a_count_is_redeemed_by_any_admin():
    state, memory = swarm(), Memory()
    grant = replace(GRANT, n_uses=0, registrar=b"")

    for n in (1, 2, 3):
        assert redeemed(state, asked(state, grant, members=(n,)), memory, at=FOUNDER)


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ({"grant": replace(GRANT, expires_ms=NOW_MS + 1), "at_ms": NOW_MS + 1}, "expired"),
        ({"by": NODE}, "nobody who may"),
        ({"at": FOUNDER}, "another registrar"),
        ({"at": NODE, "grant": replace(GRANT, n_uses=0, registrar=b"")}, "may not admit"),
        ({"grant": replace(GRANT, roles=USES)}, "more than"),
    ],
)
def test_an_invite_gives_what_it_says_where_and_while_it_says(what, why):
    state = swarm()
    at, at_ms = what.pop("at", REGISTRAR), what.pop("at_ms", NOW_MS)

    with pytest.raises(NotAMember, match=why):
        redeemed(state, asked(state, **what), at=at, now_ms=at_ms)


def test_nobody_redeems_without_the_secret():
    state = swarm()

    with pytest.raises(IntegrityError, match="token and members"):
        redeemed(state, asked(state, token=8))


def test_nobody_joins_without_being_asked():
    """A redemption that names a key its owner did not sign with."""
    state = swarm()
    data = asked(state, members=(NODE,))
    theirs = data.replace(key_of(NODE).public_key, key_of(9).public_key)

    with pytest.raises(IntegrityError):
        redeemed(state, theirs)


def test_who_was_sent_away_needs_a_new_invite():
    state = swarm()
    state.learn(rule(state, NODE, Verdict.REVOKED, stamp_ms=NOW_MS + 5))

    with pytest.raises(NotAMember, match="sent away"):
        redeemed(state, asked(state), now_ms=NOW_MS + 9)
    later = replace(GRANT, issued_ms=NOW_MS + 6)
    assert redeemed(state, asked(state, later), now_ms=NOW_MS + 9)


def test_a_revoked_invite_lets_nobody_in():
    state = swarm()
    state.learn(rule(state, TOKEN, Verdict.REVOKED, stamp_ms=NOW_MS))

    with pytest.raises(NotAMember, match="revoked"):
        redeemed(state, asked(state))


def test_an_answer_of_another_swarm_is_not_believed():
    state, other = swarm(), SwarmState(found(name="other"))
    answer = framed(other.founding, *[GRANT.seal(other.swarm_id, key_of(FOUNDER))] * 2)

    with pytest.raises(IntegrityError, match="another swarm"):
        accept(answer, invite(state), [key_of(n).public_key for n in (1, 2)], NOW_MS)


def test_an_answer_without_certificates_is_not_believed():
    state = swarm()
    keys = [key_of(n).public_key for n in (1, 2)]

    with pytest.raises(IntegrityError, match="lacks"):
        accept(framed(state.founding), invite(state), keys, NOW_MS)
    with pytest.raises(IntegrityError, match="worth nothing"):
        accept(framed(state.founding, *[state.founding] * 2), invite(state), keys, NOW_MS)


@given(st.binary(max_size=300))
def test_junk_joins_nothing(junk):
    state = swarm()

    with pytest.raises(IntegrityError):
        redeemed(state, junk)
    with pytest.raises(IntegrityError):
        accept(junk, invite(state), [key_of(1).public_key], NOW_MS)


def test_clients_of_a_home_look_and_use_and_its_node_does_the_rest():
    assert roles_of_home(WORKS) == (WORKS, USES)
    assert roles_of_home(frozenset({Role.USE})) == (frozenset(), USES)
    assert roles_of_home(frozenset({Role.PROVIDE})) == (
        frozenset({Role.PROVIDE}),
        frozenset({Role.OBSERVE}),
    )


def test_an_envelope_that_holds_no_grant_is_no_invite():
    state = swarm()
    text = str(replace(invite(state), grant=Envelope.decode(state.founding.encode())))

    with pytest.raises(UsageError, match="cannot be read"):
        Invite.parse(text)
