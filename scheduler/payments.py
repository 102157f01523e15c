"""What a session pays its hops, window by window: vouchers for work that it saw itself.

In: what hops state, which of them wait for a voucher, rows and tokens as they come. Out: vouchers,
each kept before it is sent. What a hop has run `protocol.chain_session` knows; what it may be
promised for that, the hop's tab (`client_tab.py`) and the session's budget (`settlement.py`).
"""

import time
from collections.abc import Callable, Sequence

from protocol.chain_actions import ChainAction
from protocol.chain_hops import Hop
from protocol.chain_session import ChainSession
from protocol.errors import ManyhandsError
from protocol.messages import Account, Pay
from scheduler.settlement import Settlement


class Payments:
    """Of one session. Sends with `send`; what the rules want of it then is done by `do`."""

    def __init__(
        self,
        rules: ChainSession,
        settlement: Settlement,
        send: Callable[[str, Pay], None],
        do: Callable[[Sequence[ChainAction]], None],
    ) -> None:
        self._rules, self._settlement = rules, settlement
        self._send, self._do = send, do
        self._owing: set[str] = set()  # hops that stand at their limit

    def stated(self, peer: str, message: Account) -> None:
        """A hop says what it did: pay for what of it is so, or go on without the hop."""
        try:
            tab, hop = self._settlement.tabs[peer], self.find_hop(peer)
            tab.hear(message.statement)
            if hop is not None:
                tab.check_claim(self._rules.stretches(hop), hop.cached)
        except ManyhandsError as error:
            self._do(self._rules.lost(peer, error, time.monotonic()))
            return
        self.pay(peer, final=message.final)

    def waits(self, peer: str) -> None:
        """A hop runs nothing more until it is paid."""
        self._do(self._rules.unpaid(peer, time.monotonic()))
        self._owing.add(peer)
        self.pay(peer, now=True)

    def pay_who_waits(self) -> None:
        """What came just now may be what a hop's voucher could not cover yet."""
        for peer in tuple(self._owing):
            self.pay(peer, now=True)

    def pay(self, peer: str, *, final: bool = False, now: bool = False) -> None:
        """Sign for what this hop has run, if a voucher is due, `now` or with its window."""
        tab, hop = self._settlement.tabs[peer], self.find_hop(peer)
        if hop is None:
            return
        most_ncr, ran = self._settlement.most_for(tab), self._rules.stretches(hop)
        promised_ncr = tab.promised_ncr
        voucher = tab.voucher(ran, cached=hop.cached, final=final, now=now, most_ncr=most_ncr)
        if voucher is None:
            return
        if tab.is_even and tab.promised_ncr > promised_ncr:
            self._owing.discard(peer)  # else what it waits for is work that it has not stated yet
        self._settlement.keep(tab)  # before it is sent: what others hold of us, we hold too
        self._send(peer, Pay(voucher=voucher))
        self._do(self._rules.paid(peer, time.monotonic()))

    def find_hop(self, peer: str) -> Hop | None:
        """Whoever is, is to be or was a hop, and so is owed something."""
        hops = (*self._rules.hops, *self._rules.succession.heirs, *self._rules.lost_hops)
        return next((hop for hop in hops if hop.peer == peer), None)
