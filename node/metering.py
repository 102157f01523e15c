"""One tab at the hop that earns it: what was run, what may run, what is stated and paid.

In: rows as the engine runs them, frames as they pass, vouchers as they come. Out: statements, and
at the end the receipt. The arithmetic and the signatures are the ledger's; this keeps the counts.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ledger.escrow import Escrow, Hold
from ledger.meter import Usage, head_rows
from ledger.objects import Offer
from ledger.opening import Wanted, check_accepted, lend_prompt, propose_terms
from ledger.receipts import Receipt
from ledger.roots import FrameRoot
from ledger.tab import ProviderTab
from node.credit import Credit
from protocol.clock import wall_ms
from protocol.messages import TOKEN_BYTES, Reserve
from protocol.signing import Envelope, SigningKey


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
        """hold: what an allotment sets aside for this tab, see `funding.py`."""
        self._till, self.hold = till, hold
        self._row_bytes = TOKEN_BYTES if reserve.is_first else row_bytes
        self._is_last = reserve.is_last
        self.offer = till.offer()
        self.proposed = propose_terms(
            self.offer,
            Wanted(
                chain_id=reserve.session,
                payer=payer,
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
        )
        self.usage = Usage.opened(len(reserve.span), reserve.capacity, reserve.budget_ms / 1000)
        self.tab: ProviderTab | None = None
        self._is_free = Offer.open(self.offer, till.swarm_id, till.key.public_key).rates.is_free
        self._in: FrameRoot | None = None
        self._out: FrameRoot | None = None
        self._epoch = 0
        self._pushed: list[tuple[int, bytes]] = []  # not yet in the root of what was sent

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
        self.usage = self.usage.after_cached(0 if is_handed_over else cached)
        prompt = self.usage.after(cached, n, n, self._row_bytes, head_rows=heads).meter()
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

    def begin_epoch(self, epoch: int, salt: bytes) -> None:
        """Roots begin anew with every epoch."""
        self._epoch = epoch
        self._in, self._out = FrameRoot(salt), FrameRoot(salt)

    def saw_in(self, step: int, rows: bytes | memoryview) -> None:
        if self._in is not None:
            self._in.add(step, rows)

    def will_see_out(self, step: int, rows: bytes) -> None:
        """Rows that leave now: they are hashed by `see_out`, when nobody waits for them."""
        self._pushed.append((step, rows))

    def see_out(self) -> None:
        pushed, self._pushed = self._pushed, []
        for step, rows in pushed:
            if self._out is not None:
                self._out.add(step, rows)

    @property
    def promised_ncr(self) -> int:
        """What the client has signed for so far."""
        return self.tab.promised if self.tab is not None else 0

    # --- protocol.actions.Tab ---------------------------------------------------------------------

    def may_run(self, start: int, rows: int, prefill_until: int) -> bool:
        if self._is_free or self.tab is None:
            return True
        heads = head_rows(start, start + rows, prefill_until) if self._is_last else 0
        after = self.usage.after(
            start, start + rows, prefill_until, self._row_bytes, head_rows=heads
        )
        return self.tab.may_run(after.meter())

    def count(self, start: int, rows: int, prefill_until: int, heads: int) -> None:
        self.usage = self.usage.after(
            start, start + rows, prefill_until, self._row_bytes, head_rows=heads
        )

    # --- statements and vouchers ------------------------------------------------------------------

    def statement_due(self) -> bool:
        return self.tab is not None and self.tab.statement_due(self.usage.meter())

    def has_unstated(self) -> bool:
        """Whether work was done that no statement covers yet, so that nobody could pay for it."""
        if self.tab is None:
            return False
        stated = self.tab.statement
        return stated is None or stated.meter != self.usage.meter()

    def statement(self) -> bytes:
        """Sign what was done so far (encoded envelope)."""
        self.see_out()
        assert self.tab is not None
        assert self._in is not None
        assert self._out is not None
        envelope = self.tab.make_statement(
            self.usage.meter(),
            epoch=self._epoch,
            last_step=self._in.last_step,
            in_root=self._in.root,
            out_root=self._out.root,
            now_ms=wall_ms(),
        )
        return envelope.encode()

    def pay(self, voucher: bytes) -> bool:
        """Take a voucher; true when it promises more than the one before.

        Raises:
            IntegrityError: it is not this client's voucher for this tab.
        """
        if self.tab is None:
            return False
        return self.tab.accept_voucher(Envelope.decode(voucher), now_ms=wall_ms())

    def receipt(self) -> Receipt | None:
        """The tab as it stands; None when nothing was agreed."""
        return self.tab.receipt() if self.tab is not None else None
