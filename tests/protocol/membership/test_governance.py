"""Which models a swarm lets in: releases and advisories that several people sign, and forgeries."""

from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import IntegrityError, NotPermitted
from protocol.membership import gathering, releases, rules
from protocol.membership.advisories import Advisory, Severity
from protocol.membership.governance import MAX_RELEASES
from protocol.membership.releases import Release
from protocol.membership.rules import Channel, Rules
from protocol.membership.state import SwarmState
from protocol.signing import Envelope, seal
from tests.announcing import MANIFEST, NOW_MS, key_of
from tests.membership import (
    FOUNDER,
    HOUR_MS,
    RELEASERS,
    WARNERS,
    advise,
    found,
    framed,
    govern,
    quorum,
    release,
    releasing,
    withdraw,
)

ANNA, BERT, CARL = RELEASERS
OTHER = bytes(32)


def ruled(**more: object) -> SwarmState:
    state = SwarmState(found())
    state.learn(govern(state, **more))
    return state


def refusal(state: SwarmState, manifest: bytes = MANIFEST, **more: object) -> str:
    given = {"model": "tiny", "now_ms": NOW_MS, **more}
    return state.governance.judge(manifest, **given).refused


def agree(*states: SwarmState) -> None:
    """As members do: each tells the others what it holds, until nobody hears news."""
    while any(one.merge(other.encode()) for one in states for other in states):
        pass


# --- releases -------------------------------------------------------------------------------------


def test_a_swarm_without_rules_judges_nothing_and_is_told_apart_by_nobody():
    state = SwarmState(found())

    assert not refusal(state)
    assert state.encode() == b""
    assert state.digest == sha256(sha256(found().encode()).digest()).digest()


def test_a_revision_may_be_served_once_enough_releasers_have_signed_wherever_they_did():
    one, other = ruled(), ruled()
    one.learn(release(one, ANNA))
    other.learn(release(other, CARL))
    assert "1 of 2 signatures" in refusal(one)

    agree(one, other)

    assert not refusal(one)
    assert not refusal(other)
    assert one.digest == other.digest
    assert refusal(one, OTHER)


def test_whoever_signs_twice_counts_once():
    state = ruled()
    state.learn(release(state, ANNA))
    state.learn(release(state, ANNA))
    state.learn(release(state, ANNA, notes="again"))

    assert "1 of 2 signatures" in refusal(state)


def test_a_signature_of_somebody_else_counts_for_nothing_and_is_no_offence():
    state = ruled()

    assert not state.merge(framed(release(state, 1, 2, 3)))
    state.merge(framed(release(state, ANNA, 1)))

    assert "1 of 2 signatures" in refusal(state)


@pytest.mark.parametrize("kind", [release, withdraw, advise])
def test_a_forged_signature_is_an_offence(kind):
    state = ruled()
    signer = WARNERS[0] if kind is advise else ANNA
    sound = kind(state, signer)
    ((key, signature),) = sound.signatures
    forged = Envelope(sound.type, sound.payload, ((key, signature[::-1]),))

    with pytest.raises(IntegrityError):
        state.merge(framed(forged))
    assert "has not released" in refusal(state)


def test_a_release_of_another_swarm_is_none_here():
    state, elsewhere = ruled(), SwarmState(found(name="other"))

    with pytest.raises(IntegrityError, match="does not match"):
        state.merge(framed(release(elsewhere, ANNA, BERT)))


def test_a_release_that_is_replayed_after_its_withdrawal_changes_nothing():
    state = ruled()
    first, end = release(state, ANNA, BERT), withdraw(state, BERT, CARL, stamp_ms=NOW_MS + 1)
    state.merge(framed(first, end))

    assert not state.merge(framed(first))
    assert not state.merge(framed(release(state, ANNA, BERT, CARL)))
    assert refusal(state)


def test_a_withdrawal_takes_as_many_signatures_as_a_release():
    state = ruled()
    state.merge(framed(release(state, ANNA, BERT), withdraw(state, ANNA, stamp_ms=NOW_MS + 1)))
    assert not refusal(state)

    state.merge(framed(withdraw(state, CARL, stamp_ms=NOW_MS + 1)))

    assert refusal(state)


def test_of_a_release_and_a_withdrawal_of_one_time_the_withdrawal_counts_everywhere():
    one, other = ruled(), ruled()
    both = release(one, ANNA, BERT), withdraw(one, BERT, CARL)
    one.merge(framed(*both))
    other.merge(framed(*reversed(both)))

    assert one.digest == other.digest
    assert refusal(one)


def test_of_two_revisions_released_at_once_everybody_takes_the_same_for_the_latest():
    one, other = ruled(), ruled()
    both = release(one, ANNA, BERT), release(one, BERT, CARL, manifest=OTHER)
    one.merge(framed(*both))
    other.merge(framed(*reversed(both)))

    stable = (Channel.STABLE,)
    latest = [state.governance.released(NOW_MS, stable)[-1].manifest for state in (one, other)]
    assert latest[0] == latest[1]
    assert not refusal(one)
    assert not refusal(one, OTHER)


def test_a_release_holds_for_its_time():
    state = ruled()
    times = {"begins_ms": NOW_MS, "expires_ms": NOW_MS + HOUR_MS}
    state.merge(framed(release(state, ANNA, BERT, **times)))

    assert refusal(state, now_ms=NOW_MS - 1)
    assert not refusal(state, now_ms=NOW_MS)
    assert refusal(state, now_ms=NOW_MS + HOUR_MS)


def test_nodes_serve_the_channels_of_the_rules_and_clients_take_theirs_and_safer_ones():
    state = ruled(releases=(releasing(channel=Channel.CANDIDATE), releasing()))
    state.merge(framed(release(state, ANNA, BERT, channel=Channel.CANDIDATE)))

    assert "but in candidate" in refusal(state)
    assert not refusal(state, channels=Channel.CANDIDATE.and_safer)
    assert not refusal(state, channels=Channel.DEV.and_safer)
    assert refusal(state, channels=Channel.STABLE.and_safer)


def test_who_may_release_some_names_releases_nothing_under_another_name():
    state = ruled(releases=(releasing("llama-*"),))
    state.merge(framed(release(state, ANNA, BERT), release(state, ANNA, BERT, model="llama-3")))

    assert not refusal(state, model="llama-3")
    assert "released as llama-3" in refusal(state)


def test_when_a_releaser_is_removed_its_signatures_count_no_more_and_the_others_stay():
    state = ruled()
    other = bytes(range(1, 33))
    state.merge(framed(release(state, ANNA, BERT), release(state, BERT, CARL, manifest=other)))
    fewer = replace(releasing(), quorum=quorum((ANNA, BERT), 2))

    state.learn(govern(state, sequence=2, releases=(fewer,)))

    assert not refusal(state)
    assert "1 of 2 signatures" in refusal(state, other)
    assert not state.merge(framed(release(state, CARL, manifest=other)))


def test_rules_are_a_founders_and_older_ones_change_nothing():
    state = ruled(sequence=5)
    before = state.digest

    assert not state.merge(framed(govern(state, sequence=4, releases=())))
    with pytest.raises(IntegrityError, match="founder"):
        state.merge(framed(govern(state, sequence=6, by=ANNA)))
    with pytest.raises(IntegrityError):
        state.merge(framed(govern(SwarmState(found(name="other")), sequence=6)))
    assert state.digest == before


def test_of_two_rules_with_one_sequence_everybody_takes_the_same():
    one, other = ruled(), SwarmState(found())
    other.learn(govern(other, asks_licence=True))

    agree(one, other)

    assert one.governance.rules == other.governance.rules


def test_a_record_that_is_too_long_is_refused_before_it_is_read():
    state = ruled()
    long = seal(releases.TYPE, state.swarm_id, ["x" * gathering.MAX_RECORD_BYTES], key_of(ANNA))

    with pytest.raises(IntegrityError, match="bytes"):
        state.merge(framed(long))


def test_one_releaser_alone_fills_few_places_and_keeps_nobody_from_releasing():
    state = ruled()
    for n in range(3 * gathering.MAX_PENDING):
        state.learn(release(state, ANNA, manifest=sha256(bytes((n,))).digest()))

    assert len([*state.governance.releases]) == gathering.MAX_PENDING
    state.merge(framed(release(state, BERT, CARL, stamp_ms=1)))
    assert not refusal(state)


def test_of_what_is_released_the_latest_are_kept():
    state, n_more = ruled(), 3
    for n in range(MAX_RELEASES + n_more):
        digest = sha256(n.to_bytes(2, "big")).digest()
        state.learn(release(state, ANNA, BERT, manifest=digest, stamp_ms=NOW_MS + n))

    assert len([*state.governance.releases]) == MAX_RELEASES
    assert refusal(state, sha256((n_more - 1).to_bytes(2, "big")).digest())
    assert not refusal(state, sha256((n_more).to_bytes(2, "big")).digest())


# --- advisories -----------------------------------------------------------------------------------


def test_an_advisory_stops_a_revision_and_lifting_it_lets_it_go_on():
    state = ruled(releases=())
    state.merge(framed(advise(state, WARNERS[0])))
    assert "A-1 (stop): weights were poisoned" in refusal(state)
    assert not refusal(state, OTHER)

    state.merge(framed(advise(state, WARNERS[1], severity=Severity.LIFTED, stamp_ms=NOW_MS + 1)))

    assert not refusal(state)


def test_a_flag_is_told_and_stops_nothing():
    state = ruled(releases=())
    state.merge(framed(advise(state, WARNERS[0], severity=Severity.FLAG)))

    judgement = state.governance.judge(MANIFEST, "tiny", NOW_MS)

    judgement.require("tiny")
    assert [advisory.id for advisory in judgement.flags] == ["A-1"]


def test_a_stop_outweighs_every_release_and_expires():
    state = ruled()
    expires_ms = NOW_MS + HOUR_MS
    state.merge(
        framed(release(state, ANNA, BERT), advise(state, WARNERS[0], expires_ms=expires_ms))
    )

    with pytest.raises(NotPermitted, match="poisoned"):
        state.governance.judge(MANIFEST, "tiny", NOW_MS).require("tiny")
    assert not refusal(state, now_ms=expires_ms)


def test_an_advisory_may_be_about_names():
    state = ruled(releases=())
    state.merge(framed(advise(state, WARNERS[0], models="ti*")))

    assert refusal(state)
    assert not refusal(state, model="large")


def test_releasers_do_not_warn_and_below_its_quorum_a_warning_warns_nobody():
    state = ruled(releases=(), advisories=quorum(WARNERS, 2))
    state.merge(framed(advise(state, ANNA, BERT), advise(state, WARNERS[0])))

    assert not refusal(state)


# --- whatever comes -------------------------------------------------------------------------------

HEARD = st.lists(
    st.tuples(
        st.sampled_from([release, withdraw]),
        st.sampled_from([(ANNA,), (BERT,), (ANNA, CARL), (BERT, CARL), (ANNA, BERT, CARL)]),
        st.integers(0, 3),
        st.sampled_from([MANIFEST, OTHER]),
    ),
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(HEARD, st.randoms())
def test_members_who_heard_the_same_agree_in_whatever_order_it_came(drawn, chance):
    one, other = ruled(), ruled()
    heard = [kind(one, *by, stamp_ms=at, manifest=of) for kind, by, at, of in drawn]
    shuffled = [*heard, *heard[:2]]
    chance.shuffle(shuffled)

    one.merge(framed(*heard))
    other.merge(framed(*shuffled))

    assert one.digest == other.digest
    assert refusal(one) == refusal(other)
    assert not one.merge(other.encode())


def test_what_is_said_of_models_survives_the_wire_and_comes_in_an_order_that_is_understood():
    one, other = (
        ruled(trusted=(b"key",), asks_signature=True, asks_licence=True),
        SwarmState(found()),
    )
    one.merge(framed(release(one, ANNA, BERT, notes="n"), advise(one, WARNERS[0], id="B-2")))

    assert other.merge(one.encode())

    assert other.digest == one.digest
    assert other.governance.rules == one.governance.rules
    assert refusal(other) == refusal(one) != ""


def test_what_a_later_version_says_is_passed_over():
    state = ruled()
    later = seal("mh/prophecy/1", state.swarm_id, [1, "?"], key_of(FOUNDER))

    assert not state.merge(framed(later))


FIELDS = st.lists(
    st.one_of(st.integers(), st.binary(max_size=40), st.text(max_size=8), st.booleans(), st.none()),
    max_size=10,
)


@given(FIELDS, st.sampled_from([rules.TYPE, releases.TYPE, "mh/advisory/1"]))
def test_whatever_else_is_signed_as_one_of_these_is_refused(fields, type):
    state = ruled()
    before = state.digest
    try:
        envelope = seal(type, state.swarm_id, fields, key_of(FOUNDER))
    except IntegrityError:
        return  # it has no encoding at all

    with pytest.raises(IntegrityError):
        state.merge(framed(envelope))
    assert state.digest == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"manifest": b"short"},
        {"model": ""},
        {"model": "two\nlines"},
        {"notes": "x" * 201},
        {"begins_ms": 5, "expires_ms": 5},
        {"stamp_ms": -1},
    ],
)
def test_a_release_that_makes_no_sense_cannot_be_made(wrong):
    sound = {"model": "m", "manifest": MANIFEST, "channel": Channel.STABLE, "stamp_ms": 0}

    with pytest.raises(IntegrityError):
        Release(**{**sound, **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "no spaces"},
        {"models": "also*"},
        {"manifest": b""},
        {"manifest": b"", "models": "[a-z]"},
        {"reason": ""},
        {"reason": "\x1b[31m"},
    ],
)
def test_an_advisory_that_makes_no_sense_cannot_be_made(wrong):
    sound = {"id": "A", "severity": Severity.FLAG, "reason": "r", "stamp_ms": 0}

    with pytest.raises(IntegrityError):
        Advisory(**{**sound, "manifest": MANIFEST, **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"releases": (releasing(),) * 17},
        {"serves": (Channel.STABLE, Channel.DEV)},
        {"acceptable_use": "x" * 16_385},
        {"trusted": (b"b", b"a")},
        {"asks_signature": True},
        {"sequence": -1},
    ],
)
def test_rules_that_make_no_sense_cannot_be_made(wrong):
    with pytest.raises(IntegrityError):
        Rules(**wrong)


@pytest.mark.parametrize("needs", [0, 4])
def test_a_quorum_needs_one_of_its_keys_or_more(needs):
    with pytest.raises(IntegrityError):
        quorum(RELEASERS, needs)
