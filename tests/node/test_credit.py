"""Who is lent how much over all sessions, by rule: no sockets and no clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.debts import Debts, Passed
from ledger.meter import Rates
from ledger.tally import Kin, Tally
from node.credit import DAY_MS, Credit, Limits, Today, is_idle
from protocol.errors import ConfigError, InDebt, PeerBusy
from tests.ledger.parties import CLIENT, PROVIDER, STRANGER

RATES = Rates(prefill_tl=500_000, decode_tl=1_000_000)  # one ncr for a token-layer of an answer
US, THEM, OTHER = PROVIDER.public_key, CLIENT.public_key, STRANGER.public_key
NOON_MS = 20_000 * DAY_MS + DAY_MS // 2
LIMITS = Limits(payment=1000, disconnect=2000, newcomer=100)


def credit(debts=None, *, rates=RATES, limits=LIMITS, **more):
    return Credit(debts or Debts([US], {}), limits, rates, Today(), **more)


def admit(rules, client=THEM, *, running=0, is_idle=True, now_ms=NOON_MS):
    return rules.admit(client, running, is_idle=is_idle, now_ms=now_ms)


def test_free_work_is_refused_to_nobody():
    rules = credit(Debts([US], {THEM: Passed(earned=10**15)}), rates=Rates())

    assert admit(rules, is_idle=False) is False
    assert rules.overdrawn(THEM, 10**15, is_guest=True, now_ms=NOON_MS) is None


def test_a_newcomer_gets_a_little_each_day_of_what_is_left_over():
    rules = credit()

    assert admit(rules) is True
    with pytest.raises(PeerBusy, match="left over"):
        admit(rules, is_idle=False)
    rules.ended(THEM, 100, NOON_MS)
    with pytest.raises(InDebt, match="newcomers a little") as caught:
        admit(rules)
    assert (caught.value.owed_ncr, caught.value.limit_ncr) == (100, 0)
    assert "manyhands ledger paid 12D3Koo" in caught.value.hint
    assert admit(rules, OTHER) is True, "nobody pays for somebody else's day"
    assert admit(rules, now_ms=NOON_MS + DAY_MS) is True


def test_whoever_was_worth_something_gets_as_much_on_credit_and_the_room_that_all_have():
    rules = credit(Debts([US], {THEM: Passed(earned=300, spent=200)}))

    assert admit(rules, is_idle=False) is False
    assert admit(rules, running=99, is_idle=False) is False
    with pytest.raises(InDebt, match="for what you did or settled so far"):
        admit(rules, running=100)


def test_a_debtor_settles_first_and_who_settled_is_lent_again():
    debts = Debts([US], {THEM: Passed(earned=1001)})
    rules = credit(debts)

    with pytest.raises(InDebt, match="you owe 1001 ncr here, and this node lends 1000"):
        admit(rules)
    debts.take(Tally(payer=THEM, payee=US, served=1001, settled=1001, issued_ms=0))
    assert admit(rules, is_idle=False) is False


def test_what_a_counterparty_does_for_our_clients_stands_against_its_debt():
    debts = Debts([US, OTHER], {THEM: Passed(earned=1500)})
    node = bytes([7]) * 32
    debts.of_clients = {node: Passed(spent=1200)}
    rules = credit(debts)

    with pytest.raises(InDebt):
        admit(rules)
    debts.introduce(Kin(node=node, client=THEM, issued_ms=0))
    assert debts.with_(THEM).owes == debts.with_(node).owes == 300
    assert admit(rules, is_idle=False) is False


@pytest.mark.parametrize("papers", ["AB CA DC", "CA AB DC", "DC AB CA", "AB CA DC AD"])
def test_kin_of_kin_are_one_counterparty_and_what_they_did_counts_once(papers):
    keys = {name: name.encode() * 32 for name in "ABCD"}
    debts = Debts([US], {keys["B"]: Passed(earned=400)})
    debts.of_clients = {keys["A"]: Passed(spent=1000)}
    for node, client in papers.split():
        debts.introduce(Kin(node=keys[node], client=keys[client], issued_ms=0))

    pairs = [debts.with_(key) for key in keys.values()]

    assert {(pair.owes, pair.worth) for pair in pairs} == {(-600, 1000)}
    assert sum(debts.edges().values()) == 1000
    assert len({debts.keys_of(key) for key in keys.values()}) == 1


def test_a_session_ends_where_the_debt_passes_the_second_threshold():
    rules = credit(Debts([US], {THEM: Passed(earned=1900, spent=950)}))

    assert rules.overdrawn(THEM, 1050, is_guest=False, now_ms=NOON_MS) is None
    assert isinstance(rules.overdrawn(THEM, 1051, is_guest=False, now_ms=NOON_MS), InDebt)


def test_a_guest_is_cut_where_its_day_ends():
    rules = credit()

    assert rules.overdrawn(THEM, 100, is_guest=True, now_ms=NOON_MS) is None
    assert rules.overdrawn(THEM, 101, is_guest=True, now_ms=NOON_MS) is not None
    assert rules.overdrawn(THEM, 101, is_guest=False, now_ms=NOON_MS) is None


def test_the_word_of_others_is_credit_and_no_more_than_the_threshold():
    rules = credit(vouched=lambda key, most: min(most, 5000 if key == THEM else 0))

    assert rules.credit(THEM) == 1000
    assert admit(rules, running=999, is_idle=False) is False
    assert rules.credit(OTHER) == 0


def test_thresholds_that_contradict_each_other_are_an_error_of_configuration():
    with pytest.raises(ConfigError, match="would end sessions"):
        Limits(payment=2, disconnect=1)


def test_idle_is_half_the_room_free_and_no_line():
    assert is_idle(100, 60, 10, 0.0)
    assert not is_idle(100, 60, 11, 0.0)
    assert not is_idle(100, 100, 10, 1.5)


@given(
    st.lists(
        st.tuples(st.sampled_from(["work", "settle", "serve", "day"]), st.integers(1, 400)),
        max_size=40,
    )
)
def test_nobody_owes_more_than_the_threshold_and_one_session(steps):
    """Whatever it does: who is let in owes at most `payment`, and a session adds what it may."""
    debts = Debts([US], {})
    rules, now_ms, settled = credit(debts), NOON_MS, 0
    for what, ncr in steps:
        match what:
            case "work":
                try:
                    is_guest = admit(rules, now_ms=now_ms)
                except (InDebt, PeerBusy):
                    continue
                used = ncr
                while rules.overdrawn(THEM, used, is_guest=is_guest, now_ms=now_ms):
                    used -= 1  # it was cut before
                rules.ended(THEM, used, now_ms)
            case "settle":
                settled += ncr
                debts.take(Tally(payer=THEM, payee=US, served=0, settled=settled, issued_ms=0))
            case "serve":
                before = debts.of_node.get(THEM, Passed())
                debts.of_node[THEM] = before._replace(spent=before.spent + ncr)
            case "day":
                now_ms += DAY_MS
        assert debts.with_(THEM).owes <= max(rules.payment + 400, 0)
