"""One hop's account in a session, from both sides, with bounded exposure.

In: meters as work goes on, envelopes as they arrive, the time. Out: envelopes to send, and whether
to go on. No clock, no I/O, no database: the caller sends what is made and saves `receipt()`.

The provider's one rule: run a step only if its price is within what is promised plus the credit
window (the first window also lends the admitted prompt). The client's one rule: promise the price
of work it has seen the fruit of, plus the agreed prepayment, never more. So the provider's loss is
at most one window, the client's at most the prepayment, whoever stops, lies or vanishes when.
Where an allotment pays, neither goes beyond the tab's part of it (`limit`), window or not.
Vouchers are cumulative and the highest counts: losing, repeating or reordering them is harmless.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ledger.errors import BadObject
from ledger.meter import Meter, most_rows
from ledger.objects import NO_OBJECT, Offer, Statement, Terms, Voucher
from ledger.receipts import NOTHING, Receipt, open_bond, open_statement, open_voucher
from protocol.signing import Envelope, SigningKey

STATE_SHARE, PAY_SHARE = 4, 2  # state at 1/4 of the window, promise at 1/2: decode never waits
STATE_POSITIONS, PAY_POSITIONS = 256, 512  # and at the latest then, so that free work is on record
MAX_FAULTS = 8
Limit = Callable[[int], bool]  # whether a tab may come to so many ncr in all
MAX_SKEW_MS = 86_400_000  # of two clocks: what is signed dates the line that a tab ends as


def no_limit(_: int) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Fault:
    """Two signed objects that one honest signer cannot both have made."""

    kind: str
    evidence: tuple[Envelope, Envelope]


class _Tab:
    """What both sides of a tab hold: the bond, and the latest statement and voucher."""

    def __init__(self, offer: Envelope, terms: Envelope, key: SigningKey, swarm_id: bytes) -> None:
        self.offer: Offer
        self.terms: Terms
        self.offer, self.terms = open_bond(offer, terms, swarm_id)
        self.statement: Statement | None = None
        self.voucher: Voucher | None = None
        self.faults: list[Fault] = []
        self._offer_envelope, self._terms_envelope = offer, terms
        self._statement_envelope: Envelope | None = None
        self._voucher_envelope: Envelope | None = None
        self.terms_oid = terms.object_id(swarm_id)
        self._key, self._swarm_id = key, swarm_id

    @property
    def promised(self) -> int:
        """What the payer has signed for, in ncr."""
        return self.voucher.amount if self.voucher else 0

    def receipt(self) -> Receipt:
        """The tab as it would close now."""
        return Receipt(
            offer=self._offer_envelope,
            terms=self._terms_envelope,
            statement=self._statement_envelope,
            voucher=self._voucher_envelope,
        )

    def _record_fault(self, kind: str, held: Envelope | None, other: Envelope) -> None:
        if held and len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(kind, (held, other)))

    def _lags(self, seen: Meter, covered: Meter, share: int, positions: int) -> bool:
        """Whether work beyond `covered` has grown to this share of the window, or these rows."""
        ncr = self.offer.price(seen) - self.offer.price(covered)
        rows = _work(seen) - _work(covered)
        n_blocks = self.terms.layer_hi - self.terms.layer_lo
        return (ncr > 0 and ncr * share >= self.terms.credit_window) or rows >= positions * n_blocks


class ProviderTab(_Tab):
    """The payee's side: does the work, states it, and stops when it is not paid.

    lent_ncr: what the first window lends for the admitted prompt (see `opening.lend_prompt`).
    """

    def __init__(
        self,
        offer: Envelope,
        terms: Envelope,
        key: SigningKey,
        swarm_id: bytes,
        *,
        lent_ncr: int = 0,
        limit: Limit = no_limit,
    ) -> None:
        super().__init__(offer, terms, key, swarm_id)
        if self.terms.payee_key != key.public_key:
            raise BadObject("the terms pay another key than ours")
        self._lent_ncr, self._limit = lent_ncr, limit

    def may_run(self, after: Meter) -> bool:
        """Whether a step may run that brings the meter to `after`; if not, say `unpaid`."""
        if (secured := self.secured_ncr) < 0:
            return False
        cost = self.offer.price(after)
        return cost <= secured and self._limit(cost)

    @property
    def secured_ncr(self) -> int:
        """What all work may cost until more is promised; -1: not even nothing."""
        if self.promised < self.terms.prepaid:
            return -1  # what was agreed on ahead comes first
        return max(self.promised, self._lent_ncr) + self.terms.credit_window

    def rows_to_run(self, meter: Meter, dearest: int, limit_ncr: int) -> int:
        """How many more rows surely may run, if the tab's part of an allotment is `limit_ncr`.

        dearest: what one costs at most, see `ledger.meter.dearest_row`.
        """
        return most_rows(self.offer.rates, meter, min(self.secured_ncr, limit_ncr), dearest)

    def rows_to_state(self, meter: Meter, dearest: int) -> int:
        """How many more rows surely make no statement due; below 0: it may be now."""
        stated = self.statement.meter if self.statement else NOTHING
        quiet_ncr = max(0, (self.terms.credit_window - 1) // STATE_SHARE)
        limit_ncr = self.offer.price(stated) + quiet_ncr
        n_blocks = self.terms.layer_hi - self.terms.layer_lo
        quiet = STATE_POSITIONS * n_blocks - 1 - (_work(meter) - _work(stated))
        return min(quiet // n_blocks, most_rows(self.offer.rates, meter, limit_ncr, dearest))

    def statement_due(self, meter: Meter) -> bool:
        stated = self.statement.meter if self.statement else NOTHING
        return self._lags(meter, stated, STATE_SHARE, STATE_POSITIONS)

    def make_statement(
        self,
        meter: Meter,
        *,
        epoch: int,
        last_step: int,
        in_root: bytes,
        out_root: bytes,
        now_ms: int,
        fp_root: bytes | None = None,
    ) -> Envelope:
        """Sign what was done so far; meters only grow. `fp_root`: where the terms want one."""
        if self.statement and not self.statement.meter <= meter:
            raise ValueError("a meter never runs backwards")
        held = self._voucher_envelope
        self.statement = Statement(
            session_id=self.terms.session_id,
            terms_oid=self.terms_oid,
            seq=self.statement.seq + 1 if self.statement else 1,
            epoch=epoch,
            last_step=last_step,
            meter=meter,
            in_root=in_root,
            out_root=out_root,
            fp_root=fp_root,
            voucher_oid_held=held.object_id(self._swarm_id) if held else None,
            issued_ms=now_ms,
        )
        self._statement_envelope = self.statement.seal(self._swarm_id, self._key)
        return self._statement_envelope

    def accept_voucher(self, envelope: Envelope, *, now_ms: int) -> bool:
        """Take a voucher in; true if it raised what is promised, or covers more work.

        An older or repeated one changes nothing. Two with one number are a fault of the payer's;
        the higher counts.

        Raises:
            IntegrityError: not the payer's, of another tab, or its amount, meter, date or form is
                wrong.
        """
        if envelope == self._voucher_envelope:
            return False
        voucher = open_voucher(envelope, self.offer, self.terms, self.terms_oid, self._swarm_id)
        stated = self.statement.meter if self.statement else NOTHING
        if not voucher.meter <= stated:
            raise BadObject("the voucher is for more work than we stated")
        if self.voucher and voucher.seq == self.voucher.seq:
            self._record_fault("two vouchers, one number", self._voucher_envelope, envelope)
        if self.voucher and (voucher.amount, voucher.seq) <= (self.promised, self.voucher.seq):
            return False
        _check_date("voucher", voucher.issued_ms, now_ms)
        self.voucher, self._voucher_envelope = voucher, envelope
        return True


class PayerTab(_Tab):
    """The client's side: checks statements against its own derivation and signs vouchers."""

    def __init__(
        self,
        offer: Envelope,
        terms: Envelope,
        key: SigningKey,
        swarm_id: bytes,
        *,
        limit: Limit = no_limit,
    ) -> None:
        super().__init__(offer, terms, key, swarm_id)
        self._limit = limit
        if self.terms.payer_key != key.public_key:
            raise BadObject("the terms are paid by another key than ours")
        self._statement_oid = NO_OBJECT

    def check_statement(self, envelope: Envelope, *, now_ms: int) -> bool:
        """Take a statement in; true if it is news. Being signed does not make it owed.

        Raises:
            IntegrityError: not the payee's, of another tab, of another day, or it takes back an
                earlier one.
        """
        if envelope == self._statement_envelope:
            return False
        statement = open_statement(envelope, self.terms, self.terms_oid, self._swarm_id)
        if self.statement and statement.seq == self.statement.seq:
            self._record_fault("two statements, one number", self._statement_envelope, envelope)
        if self.statement and statement.seq <= self.statement.seq:
            return False
        if self.statement and not self.statement.meter <= statement.meter:
            raise BadObject("the statement takes back work that an earlier one claimed")
        if self.terms.fp_profile and statement.fp_root is None:
            raise BadObject("the statement commits to no fingerprints, which the terms agree on")
        _check_date("statement", statement.issued_ms, now_ms)
        self.statement, self._statement_envelope = statement, envelope
        self._statement_oid = envelope.object_id(self._swarm_id)
        return True

    def owed(self, derived: Meter) -> Meter:
        """The work both sides see: ours, derived from prompt and events, and theirs, as stated."""
        return derived.smaller(self.statement.meter) if self.statement else NOTHING

    def voucher_due(self, derived: Meter) -> bool:
        covered = self.voucher.meter if self.voucher else NOTHING
        return self._lags(self.owed(derived), covered, PAY_SHARE, PAY_POSITIONS)

    def make_voucher(self, derived: Meter, *, now_ms: int, final: bool = False) -> Envelope:
        """Promise the price of what both sides see (and, until the end, the prepayment).

        With nothing new to promise, the voucher at hand is given again.
        """
        held = self.voucher
        meter = self.owed(derived)
        amount = self.offer.price(meter) + (0 if final else self.terms.prepaid)
        if not self._limit(amount):  # more than is set aside for this tab: what was signed stands
            meter = held.meter if held else NOTHING
            amount = self.offer.price(meter)
        if held and self._voucher_envelope and not self._adds(held, meter, amount, final):
            return self._voucher_envelope
        self.voucher = Voucher(
            session_id=self.terms.session_id,
            terms_oid=self.terms_oid,
            seq=held.seq + 1 if held else 0,
            meter=meter,
            amount=max(amount, self.promised),
            statement_oid=self._statement_oid,
            issued_ms=now_ms,
            final=final,
        )
        self._voucher_envelope = self.voucher.seal(self._swarm_id, self._key)
        return self._voucher_envelope

    @staticmethod
    def _adds(held: Voucher, meter: Meter, amount: int, final: bool) -> bool:
        return held.meter <= meter and (
            meter != held.meter or amount > held.amount or final > held.final
        )


def _check_date(what: str, issued_ms: int, now_ms: int) -> None:
    if abs(issued_ms - now_ms) > MAX_SKEW_MS:
        raise BadObject(
            f"the {what} is dated more than a day from now",
            hint="compare the clocks of both machines: date -u",
        )


def _work(meter: Meter) -> int:
    return meter.prefill_tl + meter.decode_tl + meter.cached_tl
