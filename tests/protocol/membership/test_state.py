"""Who is a member, by what an admin signed and a clock says; and how members come to agree."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import IntegrityError, MembershipEnded, NotAMember
from protocol.membership.certificates import MAX_SKEW_MS, Verdict
from protocol.membership.roles import ALL, Role
from protocol.membership.state import SwarmState, frames
from tests.announcing import NOW_MS, key_of, peer_of
from tests.membership import FOUNDER, HOUR_MS, USES, WORKS, certify, found, framed, open_to, rule

ADMIN, PEER, OTHER = 800, 1, 2


def state() -> SwarmState:
    return SwarmState(found())


def with_admin() -> SwarmState:
    swarm = state()
    swarm.learn(
        swarm.policy.with_admin(key_of(ADMIN).public_key).seal(swarm.swarm_id, key_of(FOUNDER))
    )
    return swarm


def test_a_certificate_gives_its_roles_to_its_peer_alone():
    swarm = state()
    shown = certify(swarm, PEER, USES, now_ms=NOW_MS)

    assert swarm.roles(peer_of(PEER), shown, NOW_MS) == USES
    with pytest.raises(NotAMember, match="not its own"):
        swarm.roles(peer_of(OTHER), shown, NOW_MS)


def test_founders_and_admins_need_no_certificate():
    swarm = with_admin()

    assert swarm.roles(peer_of(FOUNDER), b"", NOW_MS) == ALL
    assert swarm.roles(peer_of(ADMIN), b"", NOW_MS) == ALL


def test_an_admins_certificates_count_and_a_members_do_not():
    swarm = with_admin()

    assert swarm.roles(peer_of(PEER), certify(swarm, PEER, now_ms=NOW_MS, by=ADMIN), NOW_MS)
    with pytest.raises(NotAMember, match="nobody who may"):
        swarm.roles(peer_of(PEER), certify(swarm, PEER, now_ms=NOW_MS, by=OTHER), NOW_MS)


def test_a_certificate_of_another_swarm_is_worth_nothing():
    elsewhere = SwarmState(found(name="other"))

    with pytest.raises(NotAMember):
        state().roles(peer_of(PEER), certify(elsewhere, PEER, now_ms=NOW_MS), NOW_MS)


def test_a_changed_certificate_is_worth_nothing():
    swarm = state()
    shown = certify(swarm, PEER, USES, now_ms=NOW_MS)

    with pytest.raises(NotAMember):
        swarm.roles(peer_of(PEER), shown.replace(b"use", b"usf"), NOW_MS)


@pytest.mark.parametrize(
    ("off_ms", "is_member"),
    [
        (0, True),
        (HOUR_MS - 1, True),
        (HOUR_MS, False),
        (-MAX_SKEW_MS, True),  # a clock that lags behind the issuer's
        (-MAX_SKEW_MS - 1, False),
    ],
)
def test_a_certificate_holds_for_its_time_by_clocks_that_differ_a_little(off_ms, is_member):
    swarm = state()
    shown = certify(swarm, PEER, now_ms=NOW_MS)

    if is_member:
        assert swarm.roles(peer_of(PEER), shown, NOW_MS + off_ms) == WORKS
    else:
        with pytest.raises(MembershipEnded, match="expired"):
            swarm.roles(peer_of(PEER), shown, NOW_MS + off_ms)


def test_revoking_ends_what_was_issued_and_not_what_comes_later():
    swarm = state()
    swarm.learn(rule(swarm, PEER, Verdict.REVOKED, stamp_ms=NOW_MS))

    with pytest.raises(MembershipEnded, match="revoked"):
        swarm.roles(peer_of(PEER), certify(swarm, PEER, now_ms=NOW_MS), NOW_MS)
    assert swarm.roles(peer_of(PEER), certify(swarm, PEER, now_ms=NOW_MS + 1), NOW_MS + 1)


def test_who_is_denied_is_out_whatever_it_shows():
    swarm = SwarmState(open_to(USES))
    swarm.learn(rule(swarm, PEER, Verdict.DENIED, stamp_ms=NOW_MS))

    with pytest.raises(MembershipEnded, match="denies"):
        swarm.roles(peer_of(PEER), certify(swarm, PEER, now_ms=NOW_MS + 1), NOW_MS + 1)


def test_who_is_allowed_needs_no_certificate():
    swarm = state()
    swarm.learn(rule(swarm, PEER, Verdict.ALLOWED, stamp_ms=NOW_MS, roles=USES))

    assert swarm.roles(peer_of(PEER), b"", NOW_MS) == USES


def test_the_guests_of_an_open_swarm_may_what_its_policy_says():
    swarm = SwarmState(open_to(USES))

    assert swarm.roles(peer_of(PEER), b"", NOW_MS) == USES
    assert swarm.is_guest(peer_of(PEER), b"", NOW_MS)
    assert not swarm.is_guest(peer_of(PEER), certify(swarm, PEER, now_ms=NOW_MS), NOW_MS)


def test_only_admins_rule():
    swarm = state()

    with pytest.raises(IntegrityError, match="only an admin"):
        swarm.learn(rule(swarm, PEER, Verdict.DENIED, by=OTHER))


def test_what_an_admin_did_counts_no_more_when_it_is_none():
    swarm = with_admin()
    shown = certify(swarm, PEER, now_ms=NOW_MS, by=ADMIN)
    ruling = rule(swarm, OTHER, Verdict.DENIED, stamp_ms=NOW_MS, by=ADMIN)
    swarm.learn(ruling)
    removed = swarm.policy.without_admin(key_of(ADMIN).public_key)

    swarm.learn(removed.seal(swarm.swarm_id, key_of(FOUNDER)))

    assert not swarm.rulings
    assert not swarm.merge(framed(ruling))  # from somebody who has not heard yet
    with pytest.raises(NotAMember):
        swarm.roles(peer_of(PEER), shown, NOW_MS)


VERDICTS = st.lists(
    st.tuples(
        st.integers(1, 3), st.sampled_from([*Verdict]), st.integers(0, 3), st.sampled_from([0, 1])
    ),
    max_size=8,
)


@settings(max_examples=40)
@given(VERDICTS, st.randoms())
def test_members_who_heard_the_same_agree_in_whatever_order_it_came(drawn, chance):
    one, other = with_admin(), with_admin()
    heard = [
        rule(
            one,
            n,
            verdict,
            stamp_ms=stamp,
            roles=USES if verdict is Verdict.ALLOWED else frozenset(),
            by=(FOUNDER, ADMIN)[by],
        )
        for n, verdict, stamp, by in drawn
    ]
    shuffled = [*heard, *heard[:2]]
    chance.shuffle(shuffled)

    one.merge(framed(*heard))
    other.merge(framed(*shuffled))

    assert one.digest == other.digest
    assert not one.merge(other.encode())


def test_a_state_survives_the_wire():
    one, other = with_admin(), state()
    one.learn(rule(one, PEER, Verdict.DENIED))

    assert other.merge(one.encode())
    assert other.digest == one.digest
    assert other.policy.admins == (key_of(ADMIN).public_key,)
    assert other.ruled(Verdict.DENIED) == (peer_of(PEER),)


@given(st.binary(max_size=200))
def test_junk_is_no_state(junk):
    swarm = state()
    before = swarm.digest

    try:
        swarm.merge(junk)
    except IntegrityError:
        pass
    else:
        assert not junk or not list(frames(junk))

    assert swarm.digest == before


def test_roles_of_a_later_version_are_passed_over():
    from protocol.membership.roles import read_roles

    assert read_roles(["teach", "use"]) == {Role.USE}
