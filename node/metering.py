"""One tab at the hop that earns it: what was run, what may run, what is stated and paid.

In: rows as the engine runs them, frames as they pass, vouchers as they come. Out: statements, and
at the end the receipt. The arithmetic and the signatures are the ledger's; this keeps the counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ledger.escrow import Escrow, Hold
from ledger.judging import faults_of
from ledger.meter import Meter, Tally, Usage, dearest_row, head_rows
from ledger.objects import Offer
from ledger.opening import Wanted, check_accepted, lend_prompt, propose_terms
from ledger.receipts import Receipt
from ledger.roots import RowRoot
from ledger.spending import Fault
from ledger.tab import ProviderTab
from node.credit import Credit
from node.fingerprints import Fingerprints, FingerprintShelf
from protocol.canonical import MAX_UINT
from protocol.clock import wall_ms
from protocol.hop_session import HopSession
from protocol.journal import Journal
from protocol.messages import TOKEN_BYTES, Commit, Reserve
from protocol.profile import Profile
from protocol.signing import Envelope, SigningKey
from protocol.wire import WireFormat, wire_format

HASHED_BYTES = 64 * 1024  # of rows that wait to be hashed together: alone, each costs twice as much


@dataclass(frozen=True, slots=True)
class Till:
    """What a provider brings to every tab."""

    key: SigningKey
    swarm_id: bytes
    offer: Callable[[], Envelope]  # the one in force
    lend_limit_ncr: int  # what is lent for an admitted prompt, to anybody
    escrow: Escrow | None = None  # in a swarm where allotments pay
    credit: Credit | None = None  # who may owe how much over all sessions; None: nobody counts it


class SessionMeter:
    """See `protocol.actions.Tab`, which this is: may these rows run? these rows were run."""

    def __init__(
        self,
        till: Till,
        reserve: Reserve,
        payer: bytes,
        row_bytes: int,
        nonce: bytes,
        constraints: bytes = b"",
        hold: Hold | None = None,
    ) -> None:
        """payer: the client's key, which may pay for another account: the one of `hold`, which is
        what an allotment sets aside for this tab, see `funding.py`.
        """
        self._till, self.hold = till, hold
        self._row_bytes = TOKEN_BYTES if reserve.is_first else row_bytes
        self._out_bytes = TOKEN_BYTES if reserve.is_last else row_bytes
        self._is_last = reserve.is_last
        self.offer = till.offer()
        offered = Offer.open(self.offer, till.swarm_id, till.key.public_key)
        self.proposed = propose_terms(
            self.offer,
            Wanted(
                chain_id=reserve.session,
                payer=hold.payer if hold else payer,
                payer_key=payer,
                mandate=hold.lent.mandate if hold and hold.lent else b"",
                payee=till.key.public_key,
                manifest=reserve.manifest,
                layer_lo=reserve.span.start,
                layer_hi=reserve.span.stop,
                salt_commit=reserve.salt_commit,
                client_nonce=reserve.client_nonce,
                constraints=constraints,
                allot_oid=hold.oid if hold else None,
                payer_checkpoint_hash=hold.checkpoint_hash if hold else None,
            ),
            till.key,
            till.swarm_id,
            provider_nonce=nonce,
            expires_ms=wall_ms() + reserve.budget_ms + 60_000,
            prepaid=offered.max_prepaid,
        )
        opened = Usage.opened(len(reserve.span), reserve.capacity, reserve.budget_ms / 1000)
        self._tally = Tally(opened, self._row_bytes)
        self._capacity = reserve.capacity
        self._dearest = dearest_row(
            offered.rates, len(reserve.span), reserve.capacity, self._row_bytes
        )
        self._runs_to = self._quiet_to = -1  # up to how many rows in all the tab need not be asked
        self.may_owe_word = True  # whether `statement_due` is worth asking
        self.tab: ProviderTab | None = None
        self._is_free, self._makes_fingerprints = offered.rates.is_free, bool(offered.fp_profile)
        self._fingerprints: Fingerprints | None = None
        self._in: RowRoot | None = None
        self._out: RowRoot | None = None
        self._ran = 0
        self._let_run = 0, 0  # rows that may run, of which those before the first are counted
        self._epoch = 0
        self._drawn_from = 0  # ids before it were another hop's draws, or the prompt
        self._taken: list[tuple[int, bytes | memoryview]] = []  # not yet in the roots
        self._pushed: list[tuple[int, bytes | memoryview]] = []
        self._unseen_bytes = 0  # of both

    def accept(
        self, terms: Envelope, n: int, *, cached: int = 0, is_handed_over: bool = False
    ) -> None:
        """The client signed our terms; of `n` ids, all but the `cached` are admitted on credit.

        Rows that the hop before this one in the same session handed over were billed by it.

        Raises:
            IntegrityError: these are not the terms we proposed, or not signed by both.
            PeerRefused: the prompt costs more than we lend.
        """
        check_accepted(self.proposed, terms, self._till.swarm_id)
        offer = Offer.open(self.offer, self._till.swarm_id, self._till.key.public_key)
        heads = 1 if self._is_last else 0
        usage = self.usage.after_cached(0 if is_handed_over else cached)
        self._tally = Tally(usage, self._row_bytes)
        prompt = usage.after(cached, n, n, self._row_bytes, head_rows=heads).meter()
        lent = lend_prompt(offer, prompt, self._till.lend_limit_ncr)
        self.tab = ProviderTab(
            self.offer,
            terms,
            self._till.key,
            self._till.swarm_id,
            lent_ncr=lent,
            limit=self._covers,
        )

    def _covers(self, cost: int) -> bool:
        """Whether the allotment has so much for this tab."""
        hold, escrow = self.hold, self._till.escrow
        if hold is None or escrow is None or cost <= hold.amount:
            return True
        return escrow.raise_to(hold, cost)

    def close(self) -> None:
        """The tab is over: what was not promised is free again. Waits for the disk."""
        if self.hold is not None and self._till.escrow is not None and self.tab is not None:
            tab = self.tab
            self._till.escrow.close(self.hold, tab.terms.session_id, tab.promised)

    def drop(self) -> None:
        """Nothing was ever agreed."""
        if self.hold is not None and self._till.escrow is not None:
            self._till.escrow.drop(self.hold)

    def begin_fingerprints(
        self, session: HopSession, profile: Profile, hidden_size: int
    ) -> WireFormat | None:
        """If the offer says so; what rows that end here are then wanted as."""
        if not self._makes_fingerprints:
            return None
        end_wire = wire_format(profile.dtype)  # nobody is sent them, so nothing need be lost
        wire = end_wire if self._is_last else wire_format(profile.wire)

        def drawn() -> tuple[Sequence[int], int]:
            return (session.draws.ids, self._drawn_from) if self._is_last else ((), 0)

        journal = None if self._is_last else session.journal
        room = session.reserve.capacity
        self._fingerprints = Fingerprints(wire, hidden_size, room, drawn, journal)
        return end_wire

    def begin_epoch(self, commit: Commit) -> None:
        """Roots begin anew with every epoch, at the first row that all hops run in it: but while
        no token is there, at that which this hop lacks.
        """
        self._epoch, self._ran = commit.epoch, commit.length
        self._let_run = commit.length, commit.length
        self._drawn_from = commit.n if commit.history else min(self._drawn_from, commit.n)
        begin = commit.length if commit.n == commit.n_prompt else commit.n - 1
        self._pushed.clear()
        self._taken.clear()
        self._unseen_bytes = 0
        self._in, self._out = RowRoot(commit.salt, begin), RowRoot(commit.salt, begin)
        if self._fingerprints is not None:
            self._fingerprints.begin_epoch(commit.salt, commit.length)

    def will_see_in(self, start: int, rows: bytes | memoryview) -> None:
        """Rows that the engine has now: hashed as those that leave."""
        if len(rows) < HASHED_BYTES:
            rows = bytes(rows)  # a view of them would keep the whole frame they came in
        self._taken.append((start, rows))
        self._unseen_bytes += len(rows)

    def will_see_out(self, start: int, rows: bytes) -> None:
        """Rows that leave now: they are hashed by `see_out`, when nobody waits for them."""
        self._pushed.append((start, rows))
        self._unseen_bytes += len(rows)

    def see_out(self) -> None:
        """Hash what waits for it, once that is worth while; all of it does before a statement."""
        if self._unseen_bytes >= HASHED_BYTES:
            self._hash()

    def _hash(self) -> None:
        for seen, root, width in (
            (self._taken, self._in, self._row_bytes),
            (self._pushed, self._out, self._out_bytes),
        ):
            for start, rows in seen:
                if root is not None:
                    root.add(start, rows, width)
            seen.clear()
        self._unseen_bytes = 0

    def use_rest(self) -> None:
        """Nobody waits for anything now."""
        if self._fingerprints is not None and self._fingerprints.is_worth_while:
            self._fingerprints.use_rest()

    @property
    def promised_ncr(self) -> int:
        """What the client has signed for so far."""
        return self.tab.promised if self.tab is not None else 0

    # --- protocol.actions.Tab ---------------------------------------------------------------------

    def may_run(self, start: int, rows: int, prefill_until: int) -> bool:
        if self._is_free or self.tab is None:
            return True
        begin, until = self._let_run  # from `begin` on they may run already, and are not counted
        stop = start + rows
        if not begin <= start <= until:
            begin = start
        is_sure = self._tally.n_rows + stop - begin <= self._runs_to and stop <= self._capacity
        if not is_sure and not self._may_go(begin, stop, prefill_until, self.tab):
            return False
        self._let_run = begin, stop
        return True

    def _may_go(self, start: int, stop: int, prefill_until: int, tab: ProviderTab) -> bool:
        heads = head_rows(start, stop, prefill_until) if self._is_last else 0
        usage = self.usage
        limit_ncr = self.hold.amount if self.hold and self._till.escrow else MAX_UINT
        sure = tab.rows_to_run(usage.meter(), self._dearest, limit_ncr)
        self._runs_to = self._tally.n_rows + sure
        after = usage.after(start, stop, prefill_until, self._row_bytes, head_rows=heads)
        return tab.may_run(after.meter())

    def count(
        self,
        start: int,
        rows: int,
        prefill_until: int,
        heads: int,
        output: bytes | memoryview = b"",
    ) -> None:
        self._ran = start + rows
        self._let_run = self._ran, max(self._ran, self._let_run[1])
        if self._fingerprints is not None:
            self._fingerprints.took(start, output)
        self._tally.add(start, start + rows, prefill_until, heads)
        self.may_owe_word = self._tally.n_rows > self._quiet_to

    @property
    def usage(self) -> Usage:
        """What was run so far."""
        return self._tally.usage

    # --- statements and vouchers ------------------------------------------------------------------

    def statement_due(self) -> bool:
        if self.tab is None or self._tally.n_rows <= self._quiet_to:
            return False
        meter = self.usage.meter()
        return not self._is_quiet(self.tab, meter) and self.tab.statement_due(meter)

    def _is_quiet(self, tab: ProviderTab, meter: Meter) -> bool:
        """Whether no statement is due at this meter, for so many more rows."""
        sure = tab.rows_to_state(meter, self._dearest)
        self._quiet_to = self._tally.n_rows + sure
        return sure >= 0

    def has_unstated(self) -> bool:
        """Whether work was done that no statement covers yet, so that nobody could pay for it."""
        if self.tab is None:
            return False
        stated = self.tab.statement
        return stated is None or stated.meter != self.usage.meter()

    def statement(self) -> bytes:
        """Sign what was done so far (encoded envelope)."""
        self._hash()
        assert self.tab is not None
        assert self._in is not None
        assert self._out is not None
        length = min(self._in.stop, self._ran if self._is_last else self._out.stop)
        meter = self.usage.meter()
        envelope = self.tab.make_statement(
            meter,
            epoch=self._epoch,
            last_step=length,
            in_root=self._in.at(length),
            out_root=self._out.at(self._out.stop if self._is_last else length),
            fp_root=self._fingerprints.root() if self._fingerprints else None,
            now_ms=wall_ms(),
        )
        self._is_quiet(self.tab, meter)
        return envelope.encode()

    def pay(self, voucher: bytes) -> bool:
        """Take a voucher; true when it promises more than the one before.

        Raises:
            IntegrityError: it is not this client's voucher for this tab.
        """
        if self.tab is None:
            return False
        return self.tab.accept_voucher(Envelope.decode(voucher), now_ms=wall_ms())

    def faults(self) -> list[Fault]:
        """What the client signed that nobody honest signs."""
        return faults_of(self.tab, self._till.swarm_id) if self.tab is not None else []

    def receipt(self) -> Receipt | None:
        """The tab as it stands; None when nothing was agreed."""
        return self.tab.receipt() if self.tab is not None else None

    def shelve(self, client: str, journal: Journal | None, shelf: FingerprintShelf) -> None:
        """The tab is over: its payer may ask for fingerprints, and for what was sent."""
        statement = self.tab.receipt().statement if self.tab is not None else None
        if self._fingerprints is None or statement is None or self.tab is None:
            return
        if (kept := self._fingerprints.kept(client, statement)) is not None:
            shelf.keep(self.tab.terms_oid, kept)
            if journal is not None:
                shelf.sent.keep(self.tab.terms_oid, client, journal)
