"""One line of a statement: what one entry of a log says, in full, to people and to programs.

In: an entry and the tab its receipt gives. Out: a value, and it as JSON. What many lines come to is
left to `statements.py`.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self

from ledger.entries import LogEntry
from ledger.meter import Meter, Rates
from ledger.receipts import ClosedTab
from protocol.constraints import Constraints
from protocol.errors import UsageError
from protocol.identity import peer_id_from_public_key

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_S = (datetime(9999, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(seconds=1)
CREDIT_DECIMALS = 9  # ncr, nanocredits, are what amounts are kept in


class Line(NamedTuple):
    """What an account earned or spent on one tab. A tuple, since a statement makes thousands."""

    account: bytes
    index: int  # type: ignore[assignment]  # of the entry; nobody looks for things in a line
    receipt_id: bytes
    tab_id: bytes
    chain_id: bytes  # the session that the tab was part of
    epoch: int
    closed_ms: int
    earned: bool
    counterparty: bytes
    manifest: bytes
    layer_lo: int
    layer_hi: int
    execution: str
    constraints: dict[str, Any]
    meter: Meter
    rates: Rates
    asset: bytes
    amount: int  # ncr

    @classmethod
    def of(cls, account: bytes, entry: LogEntry, tab: ClosedTab) -> Self:
        terms = tab.terms
        earned = terms.payee == account
        return cls(
            account=account,
            index=entry.index,
            receipt_id=entry.receipt_id,
            tab_id=terms.session_id,
            chain_id=terms.chain_id,
            epoch=entry.epoch,
            closed_ms=tab.closed_ms,
            earned=earned,
            counterparty=terms.payer if earned else terms.payee,
            manifest=terms.manifest,
            layer_lo=terms.layer_lo,
            layer_hi=terms.layer_hi,
            execution=tab.offer.exec_profile,
            constraints=Constraints.decode(terms.constraints).to_json(),
            meter=tab.meter,
            rates=tab.offer.rates,
            asset=terms.asset,
            amount=tab.amount,
        )

    @property
    def line(self) -> Self:
        """Itself, where `statements.Kept` reads a line."""
        return self

    @property
    def token_layers(self) -> int:
        return self.meter.prefill_tl + self.meter.decode_tl + self.meter.cached_tl

    def to_json(self) -> dict[str, Any]:
        return {
            "entry": self.index,
            "receipt": self.receipt_id.hex(),
            "tab": self.tab_id.hex(),
            "session": self.chain_id.hex(),
            "direction": "earned" if self.earned else "spent",
            "peer": peer_name(self.counterparty),
            "closed_ms": self.closed_ms,
            "epoch": self.epoch,
            "manifest": self.manifest.hex(),
            "span": [self.layer_lo, self.layer_hi],
            "execution": self.execution,
            "constraints": self.constraints,
            "meter": meter_view(self.meter),
            "rates": meter_view(self.rates),
            "asset": self.asset.hex(),
            "amount_ncr": self.amount,
        }


def meter_view(meter: Meter) -> dict[str, int]:
    return dict(zip(Meter.__slots__, meter.to_fields(), strict=True))


def peer_name(account: bytes) -> str:
    """The peer id of an account; its hex, when it is not even a key any more."""
    try:
        return peer_id_from_public_key(account)
    except UsageError:
        return account.hex()


def moment(time_ms: int) -> datetime:
    """When that was, in UTC. A signer's clock may say anything: beyond 9998 it is the year 9999."""
    return _EPOCH + timedelta(seconds=min(time_ms // 1000, _LATEST_S))


def credits_text(ncr: int) -> str:
    """An amount in credits as an exact decimal: never a float, never an exponent."""
    whole, rest = divmod(abs(ncr), 10**CREDIT_DECIMALS)
    decimals = f".{rest:0{CREDIT_DECIMALS}}".rstrip("0") if rest else ""
    return f"{'-' if ncr < 0 else ''}{whole}{decimals}"
