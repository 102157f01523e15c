"""Statements as files that other programs read: CSV, JSON lines, and FOCUS 1.2 for FinOps tools.

In: a statement's lines. Out: text, piece by piece. Amounts are integers of nanocredits or exact
decimals, never floats. Text that came from a peer is kept from being a formula in a spreadsheet
(OWASP, CSV injection). FOCUS describes what one is charged, so it has what was spent and nothing
that was earned; its currency is XXX, which ISO 4217 has for no currency, unless the swarm's policy
or whoever exports says what a credit is worth.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import Any

from ledger.lines import Line, credits_text, meter_view, moment, peer_name
from ledger.meter import Meter
from ledger.worth import Worth

_TEXT_COLUMNS = """
account entry receipt tab session direction peer closed_utc epoch manifest layer_lo layer_hi
execution prefill_tl decode_tl cached_tl ctx_ktl kv_q act_kib head_tok token_layers asset
amount_ncr amount_credits kind
"""
_TEXT_FOCUS_COLUMNS = """
BilledCost BillingAccountId BillingAccountName BillingCurrency BillingPeriodEnd BillingPeriodStart
ChargeCategory ChargeClass ChargeDescription ChargeFrequency ChargePeriodEnd ChargePeriodStart
CommitmentDiscountCategory CommitmentDiscountId CommitmentDiscountName CommitmentDiscountStatus
CommitmentDiscountType ConsumedQuantity ConsumedUnit ContractedCost ContractedUnitPrice
EffectiveCost InvoiceId InvoiceIssuerName ListCost ListUnitPrice PricingCategory PricingCurrency
PricingCurrencyContractedUnitPrice PricingCurrencyEffectiveCost PricingCurrencyListUnitPrice
PricingQuantity PricingUnit ProviderName PublisherName RegionId RegionName ResourceId ResourceName
ResourceType ServiceCategory ServiceName ServiceSubcategory SkuId SkuPriceId SubAccountId
SubAccountName Tags x_AmountNcr x_Asset x_LayerHi x_LayerLo x_LogIndex x_Manifest x_ReceiptOid
x_TabId
"""
COLUMNS, FOCUS_COLUMNS = _TEXT_COLUMNS.split(), _TEXT_FOCUS_COLUMNS.split()
TAB, CREDIT_NOTE = "tab", "credit_note"  # kinds of rows; a row that says none is a tab
_OF_USAGE = (
    *("ConsumedQuantity", "ConsumedUnit", "PricingCategory", "PricingQuantity", "PricingUnit"),
    *("ListUnitPrice", "ContractedUnitPrice", "SkuId", "SkuPriceId"),
    *("PricingCurrencyListUnitPrice", "PricingCurrencyContractedUnitPrice"),
)
_IN_CREDITS = Worth()
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # how a spreadsheet's formulas begin
# Where a spreadsheet that splits lines at other signs than commas would begin another cell.
_NEXT_CELL = re.compile(r"([;|\t\r\n])(?=[\s\"']*[=+\-@])")


def sku_price_id(line: Line) -> str:
    """One for each list of rates under which a span's work is sold."""
    rates = "/".join(map(str, line.rates.to_fields()))
    return f"{line.manifest.hex()[:16]}/{line.execution}/{rates}"


def write_csv(lines: Iterable[Line], credited: Iterable[int] = ()) -> Iterator[str]:
    """credited: what credit notes take off each line, if anything is known of it."""
    return _csv(COLUMNS, (_row(line, off) for line, off in _rows(lines, credited)))


def write_jsonl(lines: Iterable[Line], credited: Iterable[int] = ()) -> Iterator[str]:
    for line, off in _rows(lines, credited):
        view: dict[str, Any] = {"account": peer_name(line.account), **line.to_json()}
        if off:
            nothing = dict.fromkeys(view["meter"], 0)
            view |= {"kind": CREDIT_NOTE, "meter": nothing, "amount_ncr": -off}
        yield json.dumps(view, separators=(",", ":")) + "\n"


def write_focus(
    lines: Iterable[Line],
    worth: Worth | None = None,
    credited: Iterable[int] = (),
    *,
    month: str = "",
) -> Iterator[str]:
    """month: `2026-11`, for which each provider's lines are an invoice; empty: not invoiced yet."""
    value = worth or Worth()
    rows = ((line, off) for line, off in _rows(lines, credited) if not line.earned)
    return _csv(
        FOCUS_COLUMNS,
        (
            _focus_note(line, off, value, month) if off else _focus_row(line, value, month)
            for line, off in rows
        ),
    )


def _rows(lines: Iterable[Line], credited: Iterable[int]) -> Iterator[tuple[Line, int]]:
    """Each line, with 0; and once more, with what is taken off it, where anything is."""
    for line, off in zip_longest(lines, credited, fillvalue=0):
        assert isinstance(line, Line), "nothing is taken off but lines"
        yield line, 0
        if off:
            yield line, int(off)


def invoice_id(month: str, payee: str, payer: str) -> str:
    """The same for both parties, who need not ask each other."""
    return f"MH-{month}-{payee[-10:]}-{payer[-10:]}"


class _Exact(str):
    """A decimal of our own making, which may begin with a minus."""

    __slots__ = ()


def guarded(text: str) -> str:
    """A cell that no spreadsheet computes."""
    text = _NEXT_CELL.sub(r"\1'", text)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """RFC 4180; cells of our own making are numbers and hexadecimal, the others are guarded."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(columns)
    for row in rows:
        cells = (row.get(name, "") for name in columns)  # what we know nothing of is null
        writer.writerow([guarded(cell) if type(cell) is str else cell for cell in cells])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def _row(line: Line, off: int = 0) -> dict[str, Any]:
    """off: of a credit note, what it takes off; it is about no work."""
    if off:
        line = line._replace(amount=-off, meter=Meter())
    return {
        "account": peer_name(line.account),
        "entry": line.index,
        "receipt": line.receipt_id.hex(),
        "tab": line.tab_id.hex(),
        "session": line.chain_id.hex(),
        "direction": "earned" if line.earned else "spent",
        "peer": peer_name(line.counterparty),
        "closed_utc": _time(line.closed_ms),
        "epoch": line.epoch,
        "manifest": line.manifest.hex(),
        "layer_lo": line.layer_lo,
        "layer_hi": line.layer_hi,
        "execution": line.execution,
        **meter_view(line.meter),
        "token_layers": line.token_layers,
        "asset": line.asset.hex(),
        "amount_ncr": line.amount,
        "amount_credits": _Exact(credits_text(line.amount)),
        "kind": CREDIT_NOTE if off else TAB,
    }


def _focus_note(line: Line, off: int, worth: Worth, month_name: str) -> dict[str, Any]:
    """What a provider takes off, which is about no quantity and has no price."""
    row = _focus_row(line, worth, month_name)
    cost = _Exact(worth.of(-off))
    costs = dict.fromkeys(("BilledCost", "ContractedCost", "EffectiveCost", "ListCost"), cost)
    costs["PricingCurrencyEffectiveCost"] = _Exact(credits_text(-off))
    nothing = dict.fromkeys(_OF_USAGE, "")
    more = {"ChargeCategory": "Credit", "ChargeFrequency": "One-Time", "x_AmountNcr": -off}
    return {**row, **nothing, **costs, **more, "ChargeDescription": "credit note of the provider"}


def _focus_row(line: Line, worth: Worth, month_name: str) -> dict[str, Any]:
    cost, model = worth.of(line.amount), line.manifest.hex()[:16]
    # What took room and no work is priced by the tab: usage has a quantity and a price.
    n, per = (line.token_layers, "Token-layers") if line.token_layers else (1, "Tabs")
    unit, in_credits = worth.each(line.amount, n), _IN_CREDITS.each(line.amount, n)
    payer, payee = peer_name(line.account), peer_name(line.counterparty)
    closed = moment(line.closed_ms)
    month = closed.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    blocks = f"{line.layer_lo}:{line.layer_hi}"
    return {
        "BilledCost": cost,
        "BillingAccountId": payer,
        "BillingAccountName": payer,
        "BillingCurrency": worth.currency,
        "BillingPeriodEnd": _stamp(_month_after(month)),
        "BillingPeriodStart": _stamp(month),
        "ChargeCategory": "Usage",
        "ChargeDescription": f"blocks {blocks} of model {model}, {line.execution}",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": _stamp(_hour_after(closed)),
        "ChargePeriodStart": _stamp(closed.replace(minute=0, second=0, microsecond=0)),
        "ConsumedQuantity": f"{line.token_layers}.0",  # decimals, even when they are whole
        "ConsumedUnit": "Token-layers",
        "ContractedCost": cost,
        "ContractedUnitPrice": unit,
        "EffectiveCost": cost,
        "InvoiceId": invoice_id(month_name, payee, payer) if month_name else "",
        "InvoiceIssuerName": payee,
        "ListCost": cost,
        "ListUnitPrice": unit,
        "PricingCategory": "Standard",
        "PricingCurrency": "Credits",
        "PricingCurrencyContractedUnitPrice": in_credits,
        "PricingCurrencyEffectiveCost": credits_text(line.amount),
        "PricingCurrencyListUnitPrice": in_credits,
        "PricingQuantity": f"{n}.0",
        "PricingUnit": per,
        "ProviderName": payee,
        "PublisherName": payee,
        "ResourceId": f"{line.manifest.hex()}/{blocks}",
        "ResourceType": "Model span",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "Manyhands",
        "ServiceSubcategory": "Generative AI",
        "SkuId": f"{model}/{line.execution}",
        "SkuPriceId": sku_price_id(line),
        "x_AmountNcr": line.amount,
        "x_Asset": line.asset.hex(),
        "x_LayerHi": line.layer_hi,
        "x_LayerLo": line.layer_lo,
        "x_LogIndex": line.index,
        "x_Manifest": line.manifest.hex(),
        "x_ReceiptOid": line.receipt_id.hex(),
        "x_TabId": line.tab_id.hex(),
    }


def _time(time_ms: int) -> str:
    return f"{_stamp(moment(time_ms))[:-1]}.{time_ms % 1000:03}Z"


def _stamp(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _hour_after(when: datetime) -> datetime:
    return when.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)


def _month_after(month: datetime) -> datetime:
    return (month + timedelta(days=32)).replace(day=1)
