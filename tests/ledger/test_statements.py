"""Statements and their exports: what they come to, and that they come back as they went."""

import csv
import io
import json
from dataclasses import replace
from datetime import date
from decimal import Decimal
from itertools import pairwise

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Meter, Rates, balances
from ledger.balances import Claim, Fold
from ledger.cli import ledger as ledger_commands
from ledger.exports import COLUMNS, FOCUS_COLUMNS, guarded, write_csv, write_focus, write_jsonl
from ledger.imports import read_export
from ledger.lines import Line, credits_text, peer_name
from ledger.noted import Noted
from ledger.policy import SETTLED
from ledger.statements import Choice, make_statement
from ledger.views import model_blocks, model_tokens
from ledger.worth import Worth
from protocol.errors import UsageError
from tests.ledger.parties import CLIENT, MANIFEST, PROVIDER, RATES, STRANGER
from tests.ledger.test_funding import POLICY

DAY_MS = 86_400_000
ME = CLIENT.public_key
OTHERS = (PROVIDER.public_key, STRANGER.public_key)
MODELS = (MANIFEST, bytes(32))


def line(index=0, *, amount=5, tab=0, other=PROVIDER.public_key, earned=False, day=0, **more):
    made = Line(
        account=ME,
        index=index,
        receipt_id=bytes([index]) * 32,
        tab_id=tab.to_bytes(16, "big"),
        chain_id=bytes(16),
        epoch=day,
        closed_ms=day * DAY_MS + 7,
        earned=earned,
        counterparty=other,
        manifest=MANIFEST,
        layer_lo=0,
        layer_hi=4,
        execution="float32",
        constraints={},
        meter=Meter(prefill_tl=3, decode_tl=4, cached_tl=5),
        rates=RATES,
        asset=b"",
        amount=amount,
    )
    return made._replace(**more)


lines = st.lists(
    st.builds(
        line,
        st.integers(0, 200),
        amount=st.integers(0, 2**40),
        tab=st.integers(0, 5),  # few, so that several receipts of one tab happen
        other=st.sampled_from(OTHERS),
        earned=st.booleans(),
        day=st.integers(0, 90),
        manifest=st.sampled_from(MODELS),
        execution=st.sampled_from(("float32", "bfloat16/int8 raw", "=1+1", 'a "quoted", one')),
        asset=st.sampled_from((b"", bytes(range(32)))),
        rates=st.just(Rates()),
    ),
    max_size=12,
)


def claims(made):
    return [
        Claim(x.tab_id, x.counterparty, ME, x.asset, x.amount)
        if x.earned
        else Claim(x.tab_id, ME, x.counterparty, x.asset, x.amount)
        for x in made
    ]


@settings(deadline=None, max_examples=30)
@given(lines)
def test_a_statement_of_everything_closes_at_the_balance(made):
    statement = make_statement(made)

    assert statement.closing == sum(row.net for row in balances(ME, claims(made)))
    assert statement.opening == 0
    for by in ("day", "month", "peer", "model"):
        assert sum(group["net_ncr"] for group in statement.groups(by)) == statement.closing


@settings(deadline=None, max_examples=30)
@given(lines, st.integers(1, 89), st.integers(1, 89))
def test_periods_that_follow_each_other_add_up_and_each_opens_where_the_last_one_closed(made, a, b):
    first, last = sorted((a, b))
    cuts = [Choice(last=first - 1), Choice(first=first)]
    if first < last:
        cuts = [cuts[0], Choice(first=first, last=last - 1), Choice(first=last)]

    parts = [make_statement(made, choice) for choice in cuts]

    assert sum(len(part.lines) for part in parts) == len(made)
    for part, following in pairwise(parts):
        assert following.opening == part.closing
    assert parts[-1].closing == make_statement(made).closing


@settings(deadline=None, max_examples=30)
@given(made=lines)
@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_focus])
def test_21_an_exported_statement_re_imports_to_identical_balances(tmp_path_factory, write, made):
    """FOCUS says what was spent, so that is what comes back."""
    spent = [x for x in made if write is not write_focus or not x.earned]
    file = tmp_path_factory.mktemp("export") / "statement"
    file.write_text("".join(write(made)), newline="")

    account, read = read_export(file)

    assert read == claims(spent)
    assert account == (ME if spent else None)
    assert balances(ME, read) == balances(ME, claims(spent))


def test_a_choice_is_by_day_peer_and_model():
    made = [line(0, day=1), line(1, day=2, other=OTHERS[1]), line(2, day=3, manifest=bytes(32))]

    def chosen(**given):
        choice = Choice.of(**{"since": None, "until": None, "peer": None, "model": None} | given)
        return [each.index for each in make_statement(made, choice).lines]

    assert chosen(since=date(1970, 1, 2), until=date(1970, 1, 3)) == [0, 1]
    assert chosen(until=date(1970, 1, 2)) == [0]
    assert chosen(peer=peer_name(OTHERS[1])) == [1]
    assert chosen(model="00000") == [2]
    assert chosen(model=MANIFEST.hex()[:6].upper()) == [0, 1]
    for wrong in ({"model": "tiny"}, {"since": date(2026, 2, 1), "until": date(2026, 1, 1)}):
        with pytest.raises(UsageError):
            chosen(**wrong)


@pytest.mark.parametrize(
    "text",
    ["=cmd|'/c calc'!A0", "+1", "-1", "@SUM(A1)", "\tx", "\r=1", "f;=1+1", "f; @A1", 'f;"-1'],
)
def test_no_cell_is_a_formula_and_numbers_stay_numbers(text):
    made = line(execution=text, amount=7)

    for written in (write_csv([made]), write_focus([made])):
        lines = "".join(written)
        rows = list(csv.DictReader(io.StringIO(lines, newline="")))

        assert not [cell for cell in rows[0].values() if cell.startswith(tuple("=+-@\t\r"))]
        for sign in ";|\t":  # as spreadsheets of other countries split lines
            cells = [cell.lstrip('" ') for cell in lines.split(sign)[1:]]
            assert not [cell for cell in cells if cell.startswith(tuple("=+-@"))]
    assert guarded("12") == "12"


def test_amounts_are_exact_decimals_whatever_their_size():
    assert credits_text(1) == "0.000000001"
    assert credits_text(-1_500_000_000) == "-1.5"
    assert credits_text(2**63 - 1) == "9223372036.854775807"
    long = Decimal("0.12345678901234567890123456789")  # more digits than the context keeps
    exact = 12345678901234567890123456789 * (2**63 - 1)
    assert Worth("EUR", long).of(2**63 - 1) == f"{exact // 10**38}.{exact % 10**38:038}"
    assert Worth("USD", Decimal("1.10")).of(10**9) == "1.1"
    assert Worth("USD", Decimal("1E+3")).of(1) == "0.000001"
    assert Worth("USD", Decimal(2)).of(10**10) == "20"
    for wrong in (("usd", 1), ("US", 1), ("USDX", 1), ("USD", -1), ("USD", "NaN"), ("USD", "1e99")):
        with pytest.raises(UsageError):
            Worth(wrong[0], Decimal(wrong[1]))


def test_focus_has_its_mandatory_columns_and_what_a_credit_is_worth():
    names = """BilledCost BillingAccountId BillingAccountName BillingCurrency BillingPeriodEnd
    BillingPeriodStart ChargeCategory ChargeClass ChargeDescription ChargePeriodEnd
    ChargePeriodStart ContractedCost EffectiveCost InvoiceIssuerName ListCost PricingQuantity
    PricingUnit ProviderName PublisherName ServiceCategory ServiceName"""
    made = [line(amount=1_500_000_000, day=20_000), line(1, earned=True)]

    plain, worth = (
        list(csv.DictReader(io.StringIO("".join(write_focus(made, value)), newline="")))
        for value in (None, Worth("USD", Decimal("0.50")))
    )

    assert set(names.split()) <= set(FOCUS_COLUMNS)
    assert len(plain) == 1  # what was earned is nobody's cost
    assert (plain[0]["BillingCurrency"], plain[0]["BilledCost"]) == ("XXX", "1.5")
    assert (worth[0]["BillingCurrency"], worth[0]["BilledCost"]) == ("USD", "0.75")
    assert plain[0]["x_AmountNcr"] == "1500000000"
    assert plain[0]["PricingQuantity"] == plain[0]["ConsumedQuantity"] == "12.0"
    assert plain[0]["BillingPeriodStart"] == "2024-10-01T00:00:00Z"
    assert plain[0]["BillingPeriodEnd"] == "2024-11-01T00:00:00Z"
    assert plain[0]["ChargePeriodStart"] == "2024-10-04T00:00:00Z"


def test_a_signers_absurd_clock_breaks_no_export():
    made = [line(closed_ms=2**63 - 1, epoch=2**50)]
    in_the_last_days_of_all = [line(closed_ms=253402300799_000 - days * DAY_MS) for days in (0, 40)]

    for write in (write_csv, write_jsonl, write_focus):
        assert "".join(write(made + in_the_last_days_of_all))
    assert make_statement(made).groups("month")


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\n1,2\n",
        b"{}\n",
        b'{"account": 1}\n',
        b"[" * 5000,
        b"{" * 70_000,
        b"\xff\xfe",
        ",".join(COLUMNS).encode() + b"\n1,2\n",
        ",".join(COLUMNS).encode() + b"\n" + b"," * (len(COLUMNS) - 1) + b"\n",
        ",".join(COLUMNS).encode() + b'\n"never closed\n',
    ],
)
def test_a_file_that_is_no_statement_is_a_usage_error(tmp_path, content):
    file = tmp_path / "statement"
    file.write_bytes(content)

    with pytest.raises(UsageError):
        read_export(file)


@pytest.mark.parametrize(
    "change",
    [
        {"amount_ncr": "-1"},
        {"amount_ncr": float("inf")},
        {"amount_ncr": 1.5},
        {"amount_ncr": True},
        {"peer": ["a"]},
        {"peer": ["a"] * 52},
        {"direction": "x"},
        {"tab": "00"},
    ],
)
def test_a_line_that_no_receipt_gives_is_refused_and_named(tmp_path, change):
    view = json.loads("".join(write_jsonl([line()]))) | change
    file = tmp_path / "statement"
    file.write_text("".join(write_jsonl([line()])) + json.dumps(view) + "\n")

    with pytest.raises(UsageError, match="line 2"):
        read_export(file)


def test_two_accounts_in_one_file_have_no_balance(tmp_path):
    file = tmp_path / "statement"
    file.write_text("".join(write_jsonl([line(), line(account=OTHERS[1])])))

    with pytest.raises(UsageError, match="another account"):
        read_export(file)


def test_balance_of_a_file_is_a_command(tmp_path):
    file = tmp_path / "statement.csv"
    file.write_text("".join(write_csv([line(amount=9), line(1, tab=1, amount=4, earned=True)])))

    ended = CliRunner().invoke(ledger_commands, ["balance", "--file", str(file), "--json"])

    (view,) = json.loads(ended.stdout)["ledgers"]
    assert (view["role"], view["spent_ncr"], view["earned_ncr"], view["entries"]) == (
        "file",
        9,
        4,
        2,
    )


def test_a_statement_of_a_few_days_reads_the_receipts_of_these_days_alone():
    class Unread:
        """A line that notes that it was read."""

        def __init__(self, line):
            self._line, self.was_read = line, False

        def __getattr__(self, name):
            return getattr(self._line, name)

        @property
        def line(self):
            self.was_read = True
            return self._line

    kept = [Unread(line(n, tab=n, day=n)) for n in range(9)]

    made = make_statement(kept, Choice(first=3, last=5))

    assert [each.was_read for each in kept] == [False] * 3 + [True] * 3 + [False] * 3
    assert (made.opening, made.closing) == (-15, -30)


def test_a_month_is_an_invoice_of_each_provider_in_the_currency_of_the_swarm():
    policy = replace(POLICY, mode=SETTLED, currency="EUR", credit_micros=2_500_000)
    spent = line(amount=400_000_000)

    text = "".join(write_focus([spent], Worth.by(policy), month="2026-09"))
    (row,) = csv.DictReader(io.StringIO(text, newline=""))

    payer, payee = peer_name(spent.account), peer_name(spent.counterparty)
    assert (row["BilledCost"], row["BillingCurrency"]) == ("1", "EUR")
    assert row["InvoiceId"] == f"MH-2026-09-{payee[-10:]}-{payer[-10:]}"
    assert Worth.by(POLICY) is None


def test_credit_notes_are_taken_off_sums_and_are_rows_of_their_own_in_exports(tmp_path):
    """What is exported comes to the balances that the ledger has, notes and all."""
    first, again, other = line(amount=60), line(1, amount=100), line(2, tab=1, amount=30)
    earned = line(3, tab=2, amount=50, earned=True)
    noted = Noted(
        first.account,
        {
            (first.counterparty, first.tab_id): 20,
            (other.counterparty, other.tab_id): 99,  # more than it came to
            (first.account, earned.tab_id): 5,
        },
    )
    lines = [first, again, other, earned]

    made = make_statement(lines, noted=noted)

    assert made.credited == [20, 0, 30, 5]
    assert (made.within.spent, made.within.earned, made.closing) == (80, 45, -35)
    assert make_statement(lines[1:2], noted=noted).within.spent == 80
    claims = [Claim(each.tab_id, *parties_of(each), each.asset, each.amount) for each in lines]
    ours = balances(first.account, noted.less(claims))
    fold = Fold(first.account)
    for claim in claims:
        fold.add(claim)
    assert fold.balances(noted.off) == ours
    for writer in (write_csv, write_jsonl):
        file = tmp_path / "statement"
        file.write_text("".join(writer(lines, made.credited)))
        account, read = read_export(file)
        assert balances(account, read) == ours
    assert sum(each.net for each in ours) == -35

    text = "".join(write_focus(lines, None, made.credited))
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    notes = [row for row in rows if row["ChargeCategory"] == "Credit"]
    assert [row["BilledCost"] for row in notes] == ["-0.00000002", "-0.00000003"]
    assert {row["ConsumedQuantity"] + row["SkuId"] for row in notes} == {""}
    file.write_text(text)
    account, read = read_export(file)
    assert sum(each.spent for each in balances(account, read)) == 80


def parties_of(each):
    return (each.counterparty, each.account) if each.earned else (each.account, each.counterparty)


def test_work_is_told_as_tokens_of_whole_models_where_the_last_block_is_seen():
    head = Meter(prefill_tl=20, decode_tl=4, head_tok=3)
    first = line(layer_lo=0, layer_hi=4, meter=Meter(prefill_tl=30, decode_tl=6))
    last = line(1, tab=1, layer_lo=4, layer_hi=12, meter=head)
    other = line(2, manifest=bytes(32), layer_hi=7)
    blocks = model_blocks([first, last, other])

    assert blocks == {MANIFEST: 12}
    assert model_tokens([first, last], blocks) == "5"
    assert model_tokens([first], blocks) == "3"
    assert model_tokens([last._replace(meter=Meter(decode_tl=1))], blocks) == "0.083"
    assert model_tokens([first, other], blocks) is None
    assert model_tokens([], {}) == model_tokens([other._replace(meter=Meter())], {}) == "0"
