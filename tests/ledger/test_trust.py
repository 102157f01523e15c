"""Strangers are worth what flows from them to us through work that others signed for (test 39)."""

from itertools import combinations, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.debts import Debts, Passed
from ledger.max_flow import Network
from ledger.tally import Tally
from ledger.trust import MAX_EDGES, Trust, edges_of, weigh

ME, ANN, BEN, EVE = (bytes([n]) * 32 for n in (1, 2, 3, 4))
MOST = 10**12
KEYS = [bytes([n]) * 32 for n in range(1, 9)]

graphs = st.dictionaries(
    st.tuples(st.sampled_from(KEYS), st.sampled_from(KEYS)), st.integers(0, 1_000), max_size=24
)


def test_a_friend_of_a_friend_is_worth_what_both_edges_bear():
    edges = {(ANN, ME): 100, (BEN, ANN): 40, (EVE, ANN): 500}

    def worth(key, most=MOST):
        return Trust(edges, ours=[ME]).lends(key, most)

    assert (worth(ANN), worth(BEN), worth(EVE), worth(EVE, 60)) == (100, 40, 100, 60)


def test_what_we_did_for_somebody_makes_it_worth_nothing():
    trust = Trust({(ME, ANN): 100, (ANN, BEN): 50}, ours=[ME])

    assert trust.lends(ANN, MOST) == trust.lends(BEN, MOST) == 0


def test_what_is_lent_already_uses_up_the_flow_it_was_lent_by():
    edges = {(ANN, ME): 100, (BEN, ANN): 80, (EVE, ANN): 80}

    assert Trust(edges, ours=[ME], owed={BEN: 70}).lends(EVE, MOST) == 30
    assert Trust(edges, ours=[ME], owed={EVE: 70}).lends(EVE, MOST) == 80, "its own is part of it"
    trust = Trust(edges, ours=[ME])
    assert (trust.lends(EVE, MOST), trust.lends(BEN, MOST), trust.lends(EVE, MOST)) == (80, 20, 80)


def test_kin_are_one_party():
    trust = Trust({(ANN, ME): 100}, ours=[ME], node_of={BEN: ANN})

    assert trust.lends(BEN, MOST) == 100


def test_39_a_wash_ring_of_100_accounts_gains_no_credit_and_no_trust():
    ring = [bytes([9, n]) * 16 for n in range(100)]
    signed = [
        Tally(payer=payer, payee=payee, served=10**15, settled=0, issued_ms=0)
        for payer, payee in zip(ring, ring[1:] + ring[:1], strict=True)
    ]
    honest = {(ANN, ME): 100, (BEN, ANN): 40}
    trust = Trust(edges_of(signed, [ME]) | honest, ours=[ME])
    debts = Debts([ME], {ANN: Passed(spent=100)})
    for tally in signed:
        debts.take(tally)

    assert [trust.lends(account, MOST) for account in ring] == [0] * 100
    assert all(debts.with_(account).worth == debts.with_(account).owes == 0 for account in ring)
    assert trust.lends(BEN, MOST) == 40


def test_39_made_up_edges_however_wide_and_many_take_no_place_of_an_honest_one():
    ring = [n.to_bytes(32, "big") for n in range(10**6, 10**6 + MAX_EDGES + 1)]
    between = dict.fromkeys(pairwise(ring), 2**62) | {(BEN, ANN): 40, (EVE, BEN): 50}
    client = bytes([7]) * 32
    between[KEYS[7], client] = 60

    def worth(key, edges=between):
        trust = weigh(edges, {(ANN, ME): 100}, frozenset([ME]), {client: EVE}, {})
        return trust.lends(key, MOST)

    assert [worth(key) for key in (ring[1], BEN, EVE, KEYS[7])] == [0, 40, 40, 40]
    joined = between | {(ring[0], BEN): 2**62}  # Ben is of the ring: it flows through what he did
    assert (worth(ring[0], joined), worth(BEN, joined)) == (40, 40)


def test_one_honest_edge_into_a_ring_is_lent_once_not_to_each_of_it():
    ring = KEYS[3:]
    edges = {(a, b): 10**9 for a in ring for b in ring if a != b} | {(ring[0], ANN): 30}
    owed: dict[bytes, int] = {}

    for account in ring:
        trust = Trust(edges | {(ANN, ME): 100}, ours=[ME], owed=owed)
        owed[account] = trust.lends(account, MOST)

    assert sum(owed.values()) == 30


@settings(max_examples=150, deadline=None)
@given(graphs, st.sets(st.sampled_from(KEYS[1:]), min_size=1), st.randoms())
def test_a_region_is_lent_no_more_than_its_cut_whatever_it_signs_within(edges, region, rng):
    cut = sum(ncr for (a, b), ncr in edges.items() if a in region and b not in region)
    accounts, owed = rng.sample(sorted(region), len(region)), dict[bytes, int]()

    for account in accounts:  # one after the other, as debts are seen to grow
        owed[account] = Trust(edges, ours=KEYS[:1], owed=owed).lends(account, MOST)
    at_once = Trust(edges, ours=KEYS[:1])

    assert sum(owed.values()) <= cut
    assert sum(at_once.lends(account, MOST) for account in accounts) <= cut


@settings(max_examples=50, deadline=None)
@given(graphs, st.integers(0, 40))
def test_a_flow_that_is_not_looked_for_to_the_end_is_no_more_than_all_of_it(edges, looks):
    whole, bounded = Network[bytes](), Network[bytes]()
    for (a, b), ncr in edges.items():
        if a != b:
            whole.add(a, b, ncr)
            bounded.add(a, b, ncr)
    some = bounded.push(KEYS[0], KEYS[1], MOST, looks=looks)

    assert some + bounded.push(KEYS[0], KEYS[1], MOST) == whole.push(KEYS[0], KEYS[1], MOST)


@settings(max_examples=100, deadline=None)
@given(graphs)
def test_the_flow_is_the_least_cut(edges):
    network: Network[bytes] = Network()
    for (a, b), ncr in edges.items():
        if a != b:
            network.add(a, b, ncr)
    source, sink, *others = KEYS

    sides = ({source, *some} for n in range(len(others) + 1) for some in combinations(others, n))
    least = min(
        sum(ncr for (a, b), ncr in edges.items() if a in side and b not in side) for side in sides
    )

    assert network.push(source, sink, MOST) == least
