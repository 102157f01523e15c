"""The verdict on whether strangers can dial a node, from what peers who tried have said."""

from hypothesis import given, settings
from hypothesis import strategies as st

from node.reachability import MAX_AGE_S, Finding, Reachability, Sample, mapping_of
from protocol.address import Endpoint
from protocol.dialling_back import Answer, Outcome
from protocol.reachability import Nat, Verdict
from tests.announcing import peer_of

HOME, ROUTER, ELSEWHERE = "192.168.1.7", "203.0.113.5", "198.51.100.9"
PORT = 31400


def said(outcome, host=ROUTER, *, port=40123, reason=""):
    return Answer(outcome=outcome, seen=Endpoint(host, port), took_us=1500, reason=reason)


def found(*answers, own=(HOME,), n_dialers=9, n_silent=0, n_near=0, at_s=0.0, now_s=0.0):
    """After each (peer, answer, port) in turn."""
    known = Reachability()
    for n, answer, *port in answers:
        known.answered(peer_of(n), port[0] if port else PORT, answer, at_s=at_s)
    return known.finding(own, n_dialers, now_s, n_silent=n_silent, n_near=n_near)


def test_a_node_that_nobody_has_dialled_back_is_unknown():
    assert found() == Finding()
    assert found((1, said(Outcome.NOT_ASKED)), (2, said(Outcome.DECLINED))).verdict is (
        Verdict.UNKNOWN
    )


def test_two_peers_that_reach_its_own_address_make_it_direct():
    finding = found(
        (1, said(Outcome.REACHED)), (2, said(Outcome.REACHED)), own=(ROUTER,), at_s=5.0, now_s=6.0
    )

    assert finding.verdict is Verdict.DIRECT
    assert finding.nat is Nat.NONE
    assert finding.confirmed == (Endpoint(ROUTER, PORT),)
    assert finding.at_s == 5.0
    assert {each.peer_id for each in finding.witnesses} == {peer_of(1), peer_of(2)}
    assert finding.why == f"2 peers dialled {ROUTER}:{PORT} and reached this node"


def test_two_peers_that_reach_it_at_its_routers_address_make_it_mapped():
    finding = found((1, said(Outcome.REACHED)), (2, said(Outcome.REACHED)))

    assert finding.verdict is Verdict.MAPPED


def test_that_a_stranger_got_through_holds_until_the_node_is_seen_elsewhere():
    known = Reachability()
    known.let_in(ELSEWHERE, 0.0)
    assert known.finding((HOME,), 9, 0.0).stranger == ""  # at which of its addresses, nobody knows
    for n in (1, 2):
        known.answered(peer_of(n), PORT, said(Outcome.REACHED), at_s=1.0)
    assert known.finding((HOME,), 9, 1.0).is_doubtful

    known.let_in(ELSEWHERE, 2.0)
    assert not known.finding((HOME,), 9, 2.0).is_doubtful
    assert known.finding((HOME,), 9, 2.0).stranger == ELSEWHERE
    for n in (1, 2):
        known.answered(peer_of(n), PORT, said(Outcome.REACHED, "203.0.113.77"), at_s=3.0)

    assert known.finding((HOME,), 9, 3.0).is_doubtful


def test_two_peers_that_dial_the_address_they_see_in_vain_put_it_behind_a_nat():
    finding = found((1, said(Outcome.TIMED_OUT)), (2, said(Outcome.REFUSED)))

    assert finding.verdict is Verdict.NAT
    assert finding.refuted == (Endpoint(ROUTER, PORT),)
    assert "in vain: timed out (1), refused (1)" in finding.why


def test_two_peers_that_dial_its_own_address_in_vain_find_a_firewall():
    finding = found((1, said(Outcome.TIMED_OUT)), (2, said(Outcome.TIMED_OUT)), own=(ROUTER,))

    assert finding.verdict is Verdict.FIREWALLED
    assert finding.nat is Nat.NONE


def test_another_machine_that_answers_at_the_address_is_as_good_as_nobody():
    finding = found((1, said(Outcome.WRONG_PEER)), (2, said(Outcome.WRONG_PEER)))

    assert finding.verdict is Verdict.NAT
    assert "wrong peer" in finding.why


def test_one_peer_decides_nothing_unless_there_is_only_one():
    for outcome in (Outcome.REACHED, Outcome.TIMED_OUT):
        assert found((1, said(outcome))).verdict is Verdict.UNKNOWN
        assert "one peer is too few" in found((1, said(outcome))).why

        assert found((1, said(outcome))).is_undecided
        assert not found((1, said(outcome)), own=(ROUTER,)).is_undecided  # nothing is between
    assert not found().is_undecided

    assert found((1, said(Outcome.REACHED)), n_dialers=1).verdict is Verdict.MAPPED
    assert found((1, said(Outcome.TIMED_OUT)), n_dialers=1).verdict is Verdict.NAT


def test_the_only_peer_that_can_be_asked_may_say_that_a_node_is_hidden_but_not_that_it_is_public():
    """Behind routers, all wait for each other's word; that one is public takes two as ever."""
    for outcome, verdict in (
        (Outcome.TIMED_OUT, Verdict.NAT),
        (Outcome.REACHED, Verdict.UNKNOWN),
    ):
        assert found((1, said(outcome)), n_dialers=4, n_silent=3).verdict is verdict
        assert found((1, said(outcome)), n_dialers=4, n_silent=2).verdict is Verdict.UNKNOWN


def test_one_peer_that_says_otherwise_changes_nothing():
    reached = [(1, said(Outcome.REACHED)), (2, said(Outcome.REACHED))]
    failed = [(1, said(Outcome.TIMED_OUT)), (2, said(Outcome.TIMED_OUT))]

    assert found(*reached, (3, said(Outcome.TIMED_OUT))).verdict is Verdict.MAPPED
    assert found(*failed, (3, said(Outcome.REACHED))).verdict is Verdict.NAT


def test_one_liar_cannot_make_it_announce_an_address_of_its_choice():
    honest = [(n, said(Outcome.REACHED, HOME)) for n in (1, 2)]

    finding = found(*honest, (3, said(Outcome.REACHED, ELSEWHERE)))

    assert finding.verdict is Verdict.DIRECT
    assert finding.confirmed == (Endpoint(HOME, PORT),)


def test_that_neighbours_get_through_says_nothing_about_strangers():
    neighbours = [(n, said(Outcome.REACHED, HOME)) for n in (1, 2)]
    strangers = [(n, said(Outcome.TIMED_OUT)) for n in (3, 4)]

    finding = found(*neighbours, *strangers)

    assert finding.verdict is Verdict.NAT
    assert finding.confirmed == (Endpoint(HOME, PORT),)  # for the neighbours
    assert found(*neighbours).verdict is Verdict.DIRECT


def test_where_all_but_one_are_neighbours_that_one_decides_about_strangers():
    near = (1, said(Outcome.REACHED, HOME))
    for outcome, verdict in ((Outcome.TIMED_OUT, Verdict.NAT), (Outcome.REACHED, Verdict.MAPPED)):
        far = (2, said(outcome))

        assert found(near, far, n_dialers=2, n_near=1).verdict is verdict
        assert found(near, far, n_dialers=3, n_near=1).verdict is Verdict.UNKNOWN


def test_neighbours_are_those_who_see_it_at_an_address_of_its_own_network():
    known = Reachability()
    known.answered(peer_of(1), PORT, said(Outcome.DECLINED, HOME), at_s=0.0)
    known.answered(peer_of(2), PORT, said(Outcome.TIMED_OUT, ROUTER), at_s=0.0)

    assert known.neighbours({peer_of(n) for n in (1, 2, 3)}) == {peer_of(1)}


def test_the_port_that_gets_through_is_the_one_that_counts():
    tried = [(n, said(outcome), port) for n in (1, 2) for port, outcome in
             ((PORT, Outcome.TIMED_OUT), (40_001, Outcome.REACHED))]  # fmt: skip

    finding = found(*tried)

    assert finding.verdict is Verdict.MAPPED
    assert finding.confirmed == (Endpoint(ROUTER, 40_001),)
    assert finding.refuted == (Endpoint(ROUTER, PORT),)


def test_what_a_peer_said_last_is_what_it_says():
    first = [(n, said(Outcome.TIMED_OUT)) for n in (1, 2)]

    assert found(*first, *((n, said(Outcome.REACHED)) for n in (1, 2))).verdict is Verdict.MAPPED


def test_evidence_ages_and_a_move_forgets_it():
    known = Reachability()
    for n in (1, 2):
        known.answered(peer_of(n), PORT, said(Outcome.TIMED_OUT), at_s=10.0)
    known.sampled([Sample("a", Endpoint(ROUTER, 1)), Sample("b", Endpoint(ROUTER, 1))], at_s=10.0)

    before = known.finding((HOME,), 9, 10.0 + MAX_AGE_S - 1)
    after = known.finding((HOME,), 9, 10.0 + MAX_AGE_S)
    known.moved()

    assert (before.verdict, before.nat) == (Verdict.NAT, Nat.ENDPOINT_INDEPENDENT)
    assert after == known.finding((HOME,), 9, 11.0) == Finding()


answers = st.builds(
    Answer,
    outcome=st.sampled_from(Outcome),
    seen=st.none() | st.builds(Endpoint, st.ip_addresses().map(str), st.integers(0, 65535)),
)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 40), answers, st.integers(1, 9)), max_size=200))
def test_whatever_peers_say_memory_is_bounded_and_a_verdict_has_two_witnesses(told):
    known = Reachability()
    for n, answer, port in told:
        known.answered(peer_of(n), port, answer, at_s=1.0)
    finding = known.finding((HOME,), 40, 1.0)

    assert len(known._tried) <= 16
    assert len(known._seen) <= 16
    if finding.verdict is not Verdict.UNKNOWN:
        assert len({each.peer_id for each in finding.witnesses}) >= 2
    assert not set(finding.confirmed) & set(finding.refuted)


# --- the kind of NAT ------------------------------------------------------------------------------


def samples(*seen, host=ROUTER):
    return [Sample(f"203.0.{n}.1", Endpoint(host, port)) for n, port in enumerate(seen)]


def test_one_port_that_several_see_as_one_is_mapped_independently_of_the_endpoint():
    assert mapping_of(samples(40_123, 40_123, 40_123)) is Nat.ENDPOINT_INDEPENDENT
    assert mapping_of(samples(40_123, 40_123, 50_000)) is Nat.ENDPOINT_INDEPENDENT  # one may lie


def test_one_port_that_everybody_sees_as_another_is_symmetric():
    assert mapping_of(samples(40_123, 40_124)) is Nat.SYMMETRIC


def test_one_place_to_look_from_tells_nothing():
    one_place = [Sample("203.0.113.1", Endpoint(ROUTER, 40_123))] * 2

    assert mapping_of([]) is mapping_of(one_place) is Nat.UNKNOWN
    assert mapping_of(samples(40_123)) is Nat.UNKNOWN


def test_neighbours_and_the_other_address_family_are_not_compared_with_strangers():
    near = [Sample("192.168.1.9", Endpoint(HOME, 31_999))]
    six = [Sample("2001:db8::1", Endpoint("2001:db8:1::7", 31_999))]

    assert mapping_of([*near, *six, *samples(40_123)]) is Nat.UNKNOWN
    assert mapping_of([*near, *six, *samples(40_123, 40_123)]) is Nat.ENDPOINT_INDEPENDENT


def test_without_translation_there_is_no_nat_whatever_the_ports_say():
    known = Reachability()
    known.sampled(samples(1, 2), at_s=0.0)
    known.answered(peer_of(1), PORT, said(Outcome.NOT_ASKED), at_s=0.0)

    assert known.finding((ROUTER,), 9, 0.0).nat is Nat.NONE
    assert known.finding((HOME,), 9, 0.0).nat is Nat.SYMMETRIC
