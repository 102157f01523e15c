"""What clients owe over all their sessions, beside the sessions that a node has open just now.

In: who wants to begin, who is here, which tabs end. Out: leave to begin, sessions that end because
their client owes too much, and the day's figures for `credit.py`, whose rules these are.
"""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from node.credit import Credit
from protocol.clock import wall_ms
from protocol.identity import public_key_from_peer_id

if TYPE_CHECKING:
    from node.hop import Hop
    from protocol.messages import SessionId

log = logging.getLogger(__name__)


class Lending:
    """Of one span that is served. credit: None where nothing is asked for, or others vouch."""

    def __init__(self, credit: Credit | None, hops: "Mapping[SessionId, Hop]") -> None:
        self._credit = None if credit is None or credit.is_free else credit
        self._hops = hops

    def admit(self, client: str, *, is_idle: bool) -> bool:
        """Whether its session is a guest's.

        Raises:
            InDebt, PeerBusy: it does not begin now.
        """
        if self._credit is None:
            return False
        payer, running = public_key_from_peer_id(client), self._running(client)
        return self._credit.admit(payer, running, is_idle=is_idle, now_ms=wall_ms())

    def paid(self, client: str) -> None:
        """It signed for more: end its sessions if it owes too much by now."""
        if self._credit is None:
            return
        payer, running = public_key_from_peer_id(client), self._running(client)
        for hop in [hop for hop in self._hops.values() if hop.client == client]:
            guest, now_ms = hop.is_guest, wall_ms()
            why = self._credit.overdrawn(payer, running, is_guest=guest, now_ms=now_ms)
            if why is not None and hop.is_serving:
                log.warning("a client owes too much", extra={"client": client})
                hop.refuse(why)

    def ended(self, hop: "Hop") -> None:
        """Its tab is closed."""
        if self._credit is not None:
            payer = public_key_from_peer_id(hop.client)
            self._credit.ended(payer, hop.meter.promised_ncr, wall_ms())

    def _running(self, client: str) -> int:
        """What it has signed for in sessions that are open here."""
        return sum(hop.meter.promised_ncr for hop in self._hops.values() if hop.client == client)
