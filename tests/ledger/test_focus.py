"""The FOCUS export against what FOCUS 1.2 asks of its columns: a table of our own, written from the
specification (focus.finops.org, version 1.2, columns and attributes)."""

import csv
import io
import re
from datetime import datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Meter
from ledger.exports import FOCUS_COLUMNS, write_focus
from ledger.noted import Noted
from ledger.statements import make_statement
from ledger.worth import Worth
from tests.ledger.test_statements import line

MANDATORY = [
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
]
KNOWN = [
    "AvailabilityZone",
    "BillingAccountType",
    "CapacityReservationId",
    "CapacityReservationStatus",
    "ChargeFrequency",
    "CommitmentDiscountCategory",
    "CommitmentDiscountId",
    "CommitmentDiscountName",
    "CommitmentDiscountQuantity",
    "CommitmentDiscountStatus",
    "CommitmentDiscountType",
    "CommitmentDiscountUnit",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedUnitPrice",
    "InvoiceId",
    "ListUnitPrice",
    "PricingCategory",
    "PricingCurrency",
    "PricingCurrencyContractedUnitPrice",
    "PricingCurrencyEffectiveCost",
    "PricingCurrencyListUnitPrice",
    "RegionId",
    "RegionName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceDetails",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "SubAccountType",
    "Tags",
]
NEVER_NULL = [
    "BilledCost",
    "BillingAccountId",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingCurrencyEffectiveCost",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
]
NEVER_NULL_OF_USAGE = [
    "ContractedUnitPrice",
    "ListUnitPrice",
    "PricingCategory",
    "PricingQuantity",
    "PricingUnit",
    "SkuId",
    "SkuPriceId",
    "PricingCurrencyListUnitPrice",
    "PricingCurrencyContractedUnitPrice",
]
ONLY_OF_USAGE = ["ConsumedQuantity", "ConsumedUnit"]
ALLOWED = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"", "Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "PricingCategory": {"", "Standard", "Dynamic", "Committed", "Other"},
    "ServiceCategory": {"AI and Machine Learning"},  # one of nineteen
    "ServiceSubcategory": {
        "AI Platforms",
        "Bots",
        "Generative AI",
        "Machine Learning",
        "Natural Language Processing",
        "Other (AI and Machine Learning)",
    },
}
DECIMALS = [name for name in MANDATORY + KNOWN if re.search("Cost$|Price$|Quantity$", name)]
TIMES = [name for name in MANDATORY if re.search("Period(Start|End)$", name)]
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?(E[+-]?[0-9]+)?")  # NumericFormat
TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")  # DateTimeFormat


def check(row: dict[str, str]) -> None:
    """What one charge breaks of the table, if anything."""
    is_usage = row["ChargeCategory"] == "Usage"
    filled = {name for name, cell in row.items() if cell}
    assert set(NEVER_NULL) <= filled
    assert not is_usage or set(NEVER_NULL_OF_USAGE) <= filled
    assert is_usage or filled.isdisjoint(ONLY_OF_USAGE)
    assert bool(row["ConsumedQuantity"]) == bool(row["ConsumedUnit"])
    assert bool(row["PricingQuantity"]) == bool(row["PricingUnit"])
    for name, allowed in ALLOWED.items():
        assert row[name] in allowed, name
    for name in filled.intersection(DECIMALS):
        assert NUMBER.fullmatch(row[name]), name
    for name in TIMES:
        assert TIME.fullmatch(row[name]), name
    begin, end = (datetime.fromisoformat(row[f"ChargePeriod{x}"]) for x in ("Start", "End"))
    first, last = (datetime.fromisoformat(row[f"BillingPeriod{x}"]) for x in ("Start", "End"))
    assert first <= begin < end <= last
    assert re.fullmatch("[A-Z]{3}", row["BillingCurrency"])
    assert is_usage or Decimal(row["BilledCost"]) < 0  # a credit is in the payer's favour
    if is_usage:
        for what in ("List", "Contracted"):
            product = Decimal(row[f"{what}UnitPrice"]) * Decimal(row["PricingQuantity"])
            cost = Decimal(row[f"{what}Cost"])
            assert abs(product - cost) <= Decimal("1e-12") * max(1, Decimal(row["PricingQuantity"]))


def test_columns_are_those_of_focus_1_2_or_begin_with_x():
    assert set(MANDATORY) <= set(FOCUS_COLUMNS)
    assert len(set(FOCUS_COLUMNS)) == len(FOCUS_COLUMNS)
    ours = [name for name in FOCUS_COLUMNS if name not in MANDATORY + KNOWN]
    assert all(name.startswith("x_") for name in ours)


@settings(deadline=None, max_examples=60)
@given(
    amounts=st.lists(st.integers(0, 2**40), min_size=1, max_size=5),
    work=st.sampled_from([Meter(), Meter(prefill_tl=3, decode_tl=7), Meter(kv_q=5)]),
    day=st.integers(19_000, 25_000),
    off=st.integers(0, 2**41),
    worth=st.sampled_from([None, Worth("USD", Decimal("0.5")), Worth("EUR", Decimal("3e-7"))]),
    month=st.sampled_from(["", "2026-11"]),
)
def test_every_charge_keeps_to_the_table(amounts, work, day, off, worth, month):
    lines = [line(n, tab=n, amount=amount, day=day, meter=work) for n, amount in enumerate(amounts)]
    noted = Noted(lines[0].account, {(lines[0].counterparty, lines[0].tab_id): off})
    made = make_statement(lines, noted=noted)

    text = "".join(write_focus(made.lines, worth, made.credited, month=month))
    rows = list(csv.DictReader(io.StringIO(text, newline="")))

    for row in rows:
        check(row)
    assert len(rows) == len(lines) + bool(min(off, amounts[0]))
    assert sum(int(row["x_AmountNcr"]) for row in rows) == made.within.spent


@pytest.mark.parametrize("spoilt", ["BilledCost", "ServiceSubcategory", "PricingUnit", "SkuId"])
def test_the_table_finds_what_is_missing(spoilt):
    (row,) = csv.DictReader(io.StringIO("".join(write_focus([line(day=20_000)])), newline=""))
    check(row)
    with pytest.raises(AssertionError):
        check({**row, spoilt: ""})
