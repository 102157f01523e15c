"""A tab from both sides: what is owed, what is refused, and how little either can lose."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import (
    Meter,
    PayerTab,
    ProviderTab,
    Rates,
    RowRoot,
    differing_links,
    open_receipt,
)
from ledger.errors import BadObject, BadReceipt
from ledger.objects import Voucher
from ledger.opening import accept_terms, check_accepted, lend_prompt, propose_terms
from protocol.errors import IntegrityError, PeerRefused
from tests.ledger.parties import (
    CLIENT,
    NOW_MS,
    PROVIDER,
    STRANGER,
    SWARM,
    closed_receipt,
    make_bond,
    make_offer,
    make_wanted,
    open_tab,
    ran,
    settle,
    state,
)


def test_both_sides_close_a_tab_with_the_same_receipt():
    payer, provider = open_tab()
    meter = ran(20).meter()

    settle(payer, provider, meter)

    assert payer.receipt() == provider.receipt()
    closed = open_receipt(payer.receipt(), SWARM)
    assert closed.meter == meter
    assert closed.amount == payer.offer.price(meter) > 0


def test_a_hop_lost_before_its_first_window_still_leaves_a_receipt():
    payer, _ = open_tab()

    closed = open_receipt(payer.receipt(), SWARM)

    assert (closed.statement, closed.voucher, closed.amount) == (None, None, 0)
    assert closed.meter == Meter()


def test_free_work_is_on_record_too():
    payer, provider = open_tab(rates=Rates(), credit_window=0)
    meter = ran(600).meter()

    assert provider.may_run(meter)
    assert provider.statement_due(meter)
    payer.check_statement(state(provider, meter), now_ms=NOW_MS)
    assert payer.voucher_due(meter)
    assert provider.accept_voucher(payer.make_voucher(meter, now_ms=NOW_MS), now_ms=NOW_MS)
    closed = open_receipt(provider.receipt(), SWARM)
    assert (closed.amount, closed.meter) == (0, meter)


def test_a_voucher_is_due_before_the_window_is_used_up():
    payer, provider = open_tab()
    step, due_at, stop_at = 8, None, None
    while stop_at is None:
        step += 1
        meter = ran(step).meter()
        if not provider.may_run(meter):
            stop_at = step
        elif provider.statement_due(meter):
            payer.check_statement(state(provider, meter), now_ms=NOW_MS)
        if due_at is None and payer.voucher_due(meter):
            due_at = step

    assert due_at is not None
    assert due_at < stop_at


def test_the_first_window_lends_the_prompt_and_only_once():
    prompt = ran(8).meter()
    offer = open_tab()[0].offer
    lent = lend_prompt(offer, prompt, limit_ncr=10_000)
    payer, provider = open_tab(credit_window=10, lent_ncr=lent)

    assert provider.may_run(prompt)
    settle(payer, provider, prompt, final=False)
    assert provider.promised == lent
    assert not provider.may_run(ran(20).meter())


def test_a_prompt_beyond_what_the_provider_lends_is_refused_at_once():
    with pytest.raises(PeerRefused, match="lends at most"):
        lend_prompt(open_tab()[0].offer, ran(500).meter(), limit_ncr=5)


# --- attacks -------------------------------------------------------------------------------------


def test_34_an_inflated_statement_is_paid_as_far_as_the_client_saw_it():
    payer, provider = open_tab()
    seen = ran(12).meter()
    inflated = seen + Meter(decode_tl=1000)

    payer.check_statement(state(provider, inflated), now_ms=NOW_MS)
    provider.accept_voucher(payer.make_voucher(seen, now_ms=NOW_MS, final=True), now_ms=NOW_MS)

    closed = open_receipt(provider.receipt(), SWARM)
    assert closed.meter == seen
    assert closed.amount == payer.offer.price(seen)


def test_25_an_older_voucher_after_a_newer_one_changes_nothing():
    payer, provider = open_tab()
    older = settle(payer, provider, ran(10).meter(), final=False)
    newer = settle(payer, provider, ran(15).meter(), final=False)

    assert not provider.accept_voucher(older, now_ms=NOW_MS)
    assert not provider.accept_voucher(newer, now_ms=NOW_MS)
    assert provider.promised == payer.offer.price(ran(15).meter())
    assert provider.faults == []


def test_26_of_two_vouchers_with_one_number_the_higher_counts_and_the_pair_is_kept():
    payer, provider = open_tab()
    held = settle(payer, provider, ran(10).meter(), final=False)
    low = ran(9).meter()
    rival = Voucher(
        session_id=payer.terms.session_id,
        terms_oid=payer.voucher.terms_oid,
        seq=payer.voucher.seq,
        meter=low,
        amount=payer.offer.price(low),
        statement_oid=payer.voucher.statement_oid,
        issued_ms=NOW_MS,
    ).seal(SWARM, CLIENT)

    assert not provider.accept_voucher(rival, now_ms=NOW_MS)
    assert provider.promised == payer.offer.price(ran(10).meter())
    assert provider.faults[0].evidence == (held, rival)


def test_24_a_voucher_is_good_for_its_own_tab_swarm_and_payee_only():
    payer, provider = open_tab()
    voucher = settle(payer, provider, ran(10).meter())
    for other in (
        open_tab(nonce=b"d" * 16)[1],
        open_tab(provider=STRANGER)[1],
        ProviderTab(*make_bond(rates=Rates(decode_tl=1)), PROVIDER, SWARM),
    ):
        state(other, ran(10).meter())
        with pytest.raises(IntegrityError):
            other.accept_voucher(voucher, now_ms=NOW_MS)
    foreign = Voucher.open(voucher, SWARM, CLIENT.public_key).seal(bytes(32), CLIENT)
    with pytest.raises(IntegrityError):
        provider.accept_voucher(foreign, now_ms=NOW_MS)


@pytest.mark.parametrize("change", ["amount+1", "amount-1", "meter", "stranger", "tab"])
def test_a_voucher_that_does_not_add_up_is_refused(change):
    payer, provider = open_tab()
    meter = ran(10).meter()
    payer.check_statement(state(provider, meter), now_ms=NOW_MS)
    honest = payer.make_voucher(meter, now_ms=NOW_MS)
    fields = Voucher.open(honest, SWARM, CLIENT.public_key)
    values = {name: getattr(fields, name) for name in Voucher.__slots__}
    values |= {
        "amount+1": {"amount": fields.amount + 1},
        "amount-1": {"amount": fields.amount - 1},
        "meter": {"meter": ran(11).meter(), "amount": payer.offer.price(ran(11).meter())},
        "stranger": {},
        "tab": {"terms_oid": bytes(32)},
    }[change]
    signer = STRANGER if change == "stranger" else CLIENT

    with pytest.raises(IntegrityError):
        provider.accept_voucher(Voucher(**values).seal(SWARM, signer), now_ms=NOW_MS)
    assert provider.promised == 0


@pytest.mark.parametrize("now_ms", [0, NOW_MS + 2 * 86_400_000, NOW_MS - 2 * 86_400_000, 2**62])
def test_what_is_dated_more_than_a_day_from_now_is_refused_and_changes_nothing(now_ms):
    payer, provider = open_tab()
    meter = ran(10).meter()
    told = state(provider, meter, now_ms=now_ms)
    with pytest.raises(BadObject, match="a day from now"):
        payer.check_statement(told, now_ms=NOW_MS)
    payer.check_statement(told, now_ms=now_ms)
    voucher = payer.make_voucher(meter, now_ms=now_ms)

    with pytest.raises(BadObject, match="a day from now"):
        provider.accept_voucher(voucher, now_ms=NOW_MS)

    assert provider.promised == 0
    assert provider.accept_voucher(voucher, now_ms=now_ms - 86_400_000 * (now_ms > 0))


def test_a_statement_that_takes_back_work_is_refused():
    payer, provider = open_tab()
    payer.check_statement(state(provider, ran(10).meter()), now_ms=NOW_MS)
    again = ProviderTab(payer.receipt().offer, payer.receipt().terms, PROVIDER, SWARM)
    state(again, ran(4).meter())

    with pytest.raises(BadObject, match="takes back"):
        payer.check_statement(state(again, ran(5).meter()), now_ms=NOW_MS)


def test_26_two_statements_with_one_number_are_kept_as_evidence():
    payer, provider = open_tab()
    first = state(provider, ran(10).meter())
    twin = ProviderTab(payer.receipt().offer, payer.receipt().terms, PROVIDER, SWARM)
    other = state(twin, ran(11).meter())

    assert payer.check_statement(first, now_ms=NOW_MS)
    assert not payer.check_statement(other, now_ms=NOW_MS)
    assert payer.faults[0].evidence == (first, other)


def test_33_a_prepayment_is_all_that_a_client_can_lose():
    payer, provider = open_tab(prepaid=300, credit_window=0)

    ahead = payer.make_voucher(Meter(), now_ms=NOW_MS)
    provider.accept_voucher(ahead, now_ms=NOW_MS)

    assert provider.promised == 300
    assert open_receipt(provider.receipt(), SWARM).amount == 300


def test_what_is_agreed_on_ahead_is_promised_before_anything_is_run():
    payer, provider = open_tab(prepaid=300, credit_window=400, lent_ncr=100)

    assert not provider.may_run(ran(1).meter())
    provider.accept_voucher(payer.make_voucher(Meter(), now_ms=NOW_MS), now_ms=NOW_MS)
    assert provider.may_run(ran(1).meter())


# --- opening -------------------------------------------------------------------------------------


def test_the_provider_takes_back_only_its_own_proposal():
    offer, wanted = make_offer(), make_wanted()
    nonces = {"provider_nonce": b"p" * 16, "expires_ms": NOW_MS + 1}
    proposed = propose_terms(offer, wanted, PROVIDER, SWARM, **nonces)
    accepted = accept_terms(offer, proposed, wanted, CLIENT, SWARM, now_ms=NOW_MS)

    assert check_accepted(proposed, accepted, SWARM).payer == CLIENT.public_key
    cheaper = propose_terms(offer, wanted, PROVIDER, SWARM, **nonces, credit_window=1)
    with pytest.raises(IntegrityError):
        check_accepted(cheaper, accepted, SWARM)
    with pytest.raises(IntegrityError):
        check_accepted(proposed, proposed, SWARM)


@pytest.mark.parametrize("when_ms", [NOW_MS - 122_000, NOW_MS + 3_720_000])
def test_an_offer_is_taken_only_while_it_is_in_force(when_ms):
    offer, wanted = make_offer(), make_wanted()
    proposed = propose_terms(
        offer, wanted, PROVIDER, SWARM, provider_nonce=b"p" * 16, expires_ms=NOW_MS + 10**8
    )

    with pytest.raises(IntegrityError, match="in force"):
        accept_terms(offer, proposed, wanted, CLIENT, SWARM, now_ms=when_ms)


@pytest.mark.parametrize(
    "other", [{"nonce": b"x" * 16}, {"lo": 1}, {"hi": 3}, {"client": STRANGER}]
)
def test_a_client_signs_only_the_terms_it_asked_for(other):
    offer = make_offer()
    proposed = propose_terms(
        offer,
        make_wanted(**other),
        PROVIDER,
        SWARM,
        provider_nonce=b"p" * 16,
        expires_ms=NOW_MS + 1,
    )

    with pytest.raises(IntegrityError, match="another"):
        accept_terms(offer, proposed, make_wanted(), CLIENT, SWARM, now_ms=NOW_MS)


def test_a_client_signs_only_under_an_offer_to_run_what_the_chain_runs():
    offer = make_offer(exec_profile="bfloat16/nf4/bfloat16 manyhands/0.1.0")
    proposed = propose_terms(
        offer, make_wanted(), PROVIDER, SWARM, provider_nonce=b"p" * 16, expires_ms=NOW_MS + 1
    )

    for profile in ("bfloat16/nf4/bfloat16", "bfloat16/nf4/int8", ""):
        accept_terms(offer, proposed, make_wanted(), CLIENT, SWARM, now_ms=NOW_MS, profile=profile)
    with pytest.raises(IntegrityError, match=r"bfloat16/nf4.*float32/none"):
        accept_terms(
            offer,
            proposed,
            make_wanted(),
            CLIENT,
            SWARM,
            now_ms=NOW_MS,
            profile="float32/none/float32",
        )


def test_nobody_keeps_a_tab_of_somebody_else():
    bond = make_bond()

    with pytest.raises(IntegrityError):
        ProviderTab(*bond, STRANGER, SWARM)
    with pytest.raises(IntegrityError):
        PayerTab(*bond, STRANGER, SWARM)


def test_a_receipt_with_a_part_of_another_tab_names_the_part():
    mine, other = closed_receipt(), closed_receipt(nonce=b"d" * 16)
    parts = {name: getattr(mine, name) for name in ("offer", "terms", "statement", "voucher")}

    for part in ("terms", "statement", "voucher"):
        mixed = type(mine)(**(parts | {part: getattr(other, part)}))
        with pytest.raises(BadReceipt) as caught:
            open_receipt(mixed, SWARM)
        assert caught.value.part in (part, "statement")  # swapped terms orphan the statement


# --- exposure under any schedule -----------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_18_neither_side_loses_more_than_agreed_under_any_schedule(data):
    def pick(*options):
        return data.draw(st.sampled_from(options))

    window, prepaid = pick(0, 60, 400), pick(0, 250)
    lent = pick(0, 100)
    payer, provider = open_tab(credit_window=window, prepaid=prepaid, lent_ncr=lent)
    cost = payer.offer.price
    position, received = 0, 0
    to_payer, to_provider = [], []

    for _ in range(data.draw(st.integers(1, 25))):
        match pick("run", "run", "see", "state", "hear", "promise", "take", "lose", "replay"):
            case "run":
                rows = pick(1, 1, 3, 9)
                if provider.may_run(ran(position + rows).meter()):
                    position += rows
            case "see":
                received = pick(received, position)
            case "state":
                inflation = pick(Meter(), Meter(decode_tl=7))
                honest = ran(position).meter()
                held = provider.statement.meter if provider.statement else Meter()
                if held <= honest + inflation:
                    to_payer.append(state(provider, honest + inflation))
            case "hear" if to_payer:
                with suppress(BadObject):  # an honest one, after an inflated one
                    payer.check_statement(to_payer[pick(0, -1)], now_ms=NOW_MS)
            case "promise":
                to_provider.append(payer.make_voucher(ran(received).meter(), now_ms=NOW_MS))
            case "take" if to_provider:
                provider.accept_voucher(to_provider[pick(0, -1)], now_ms=NOW_MS)
            case "lose":
                del to_payer[:1], to_provider[:1]
            case "replay" if payer.voucher:
                to_provider.append(payer.receipt().voucher)

        worked, seen = cost(ran(position).meter()), cost(ran(received).meter())
        assert not position or provider.promised >= prepaid
        if position:
            assert worked - provider.promised <= window + max(0, lent - provider.promised)
        assert payer.promised - seen <= prepaid
        assert provider.promised <= payer.promised

    open_receipt(provider.receipt(), SWARM)


# --- roots ---------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5)), max_size=12),
    st.integers(0, 4),
)
def test_both_ends_of_a_link_come_to_the_same_root_however_rows_are_cut_and_sent_again(sent, start):
    rows = b"".join(bytes([n]) * 10 for n in range(20))
    once, again = RowRoot(b"salt", start), RowRoot(b"salt", start)
    once.add(0, rows, 10)
    for at, n in sent:
        again.add(at, rows[at * 10 : (at + n) * 10], 10)
    again.add(min(start, again.stop), memoryview(rows)[min(start, again.stop) * 10 :], 10)

    assert once.at(20) == again.at(20)
    assert once.at(10) == again.at(10)
    assert once.stop == again.stop == 20


@pytest.mark.parametrize("change", ["rows", "position", "salt", "order"])
def test_an_altered_row_changes_the_root(change):
    sent = RowRoot(b"salt")
    received = RowRoot(b"SALT" if change == "salt" else b"salt", int(change == "position"))
    sent.add(0, b"rowsmore", 4)
    rows = {"rows": b"Rowsmore", "order": b"morerows"}.get(change, b"rowsmore")
    received.add(received.start, rows, 4)

    assert sent.at(2) != received.at(received.stop)


def test_rows_that_were_taken_back_count_for_nothing():
    root, fresh = RowRoot(b"salt"), RowRoot(b"salt")
    root.add(0, b"rowslost", 4)
    root.add(1, b"kept", 4)
    fresh.add(0, b"rowskept", 4)

    assert root.at(2) == fresh.at(2)


@pytest.mark.parametrize("liar", [None, 0, 1, 2])
def test_35_and_36_a_hop_that_alters_or_invents_rows_is_localised_to_its_links(liar):
    """Four hops; hop `liar` sends on other rows than it says it sent."""
    statements, arriving = [], b"ids"
    for number in range(4):
        incoming, outgoing = RowRoot(b"salt"), RowRoot(b"salt")
        leaving = arriving + bytes([number])
        incoming.add(0, arriving, len(arriving)), outgoing.add(0, leaving, len(leaving))
        _, provider = open_tab()
        provider.make_statement(
            ran(9).meter(),
            epoch=0,
            last_step=0,
            in_root=incoming.at(1),
            out_root=outgoing.at(1),
            now_ms=NOW_MS,
        )
        statements.append(provider.statement)
        arriving = leaving + b"altered" if number == liar else leaving

    assert differing_links(statements) == ([] if liar is None else [liar])
