"""Dialling back whoever asks for it: the asked side.

In: a peer, from where its question came, and a port. Out: what came of a fresh connection to that
very address, and how the asker is seen. What a stranger could make of us is bounded: we dial the
address its own connection comes from and no other, a few times a minute, for moments; and addresses
of this machine only where this node listens on nothing else, since what comes from there may have
come through a relay, and its real origin is unknown.
"""

import logging
import time
from collections.abc import Callable, Sequence

from protocol.address import Address, Endpoint
from protocol.dialling_back import MAX_TOOK_US, Answer, Outcome, Question, as_reason
from protocol.errors import ManyhandsError, PeerError, PeerMisbehaved, PeerRefused, VersionMismatch
from protocol.identity import PeerId
from protocol.rate_limits import Limit, RateLimit
from protocol.reachability import Scope, scope_of
from protocol.transport import Transport

log = logging.getLogger(__name__)

DIAL_S = 4.0  # three round trips of a long way, and the retry of a lost first packet
AT_ONCE = 8
BY_PEER = Limit(per_s=0.1, burst=8)
BY_HOST = Limit(per_s=0.5, burst=24)  # many nodes may share one router
BY_ALL = Limit(per_s=4.0, burst=64)
EVERYBODY = ""


class DiallingBack:
    """`now_s` is of one monotonic clock; `own` are the addresses this node listens on."""

    def __init__(
        self,
        transport: Transport,
        own: Callable[[], Sequence[Address]],
        *,
        now_s: Callable[[], float] = time.monotonic,
        dial_s: float = DIAL_S,
    ) -> None:
        self._transport, self._own, self._now_s, self._dial_s = transport, own, now_s, dial_s
        self._by_peer, self._by_host, self._by_all = map(RateLimit, (BY_PEER, BY_HOST, BY_ALL))
        self._n_dialling = 0
        self.n_dialled = self.n_declined = 0

    async def handle(self, peer_id: PeerId, seen: Endpoint | None, request: bytes) -> bytes:
        """Answer another peer's call of the method "dial_back".

        Raises:
            PeerMisbehaved: it is no question.
        """
        question = Question.decode(request, sender=peer_id)
        if question.port == 0:
            return Answer(outcome=Outcome.NOT_ASKED, seen=seen).encode()
        why_not = self._why_not(peer_id, seen)
        if why_not or seen is None:
            self.n_declined += 1
            return Answer(outcome=Outcome.DECLINED, seen=seen, reason=why_not).encode()
        self.n_dialled += 1
        self._n_dialling += 1
        try:
            answer = await self._dial(Address(seen.host, question.port, peer_id), seen)
        finally:
            self._n_dialling -= 1
        log.debug("dialled back", extra={"peer": peer_id, "outcome": answer.outcome.value})
        return answer.encode()

    def _why_not(self, peer_id: PeerId, seen: Endpoint | None) -> str:
        if seen is None:
            return "your connection comes from no address that could be dialled"
        is_own = scope_of(seen.host) is Scope.MACHINE
        if is_own and any(scope_of(each.host) is not Scope.MACHINE for each in self._own()):
            return "your connection comes from this machine, perhaps through a relay"
        now_s = self._now_s()
        budgets = ((self._by_peer, peer_id), (self._by_host, seen.host), (self._by_all, EVERYBODY))
        if self._n_dialling >= AT_ONCE or not all(
            limit.take(who, 1.0, now_s) for limit, who in budgets
        ):
            return "enough dialled for now: ask again in a minute"
        return ""

    async def _dial(self, address: Address, seen: Endpoint) -> Answer:
        began_s = self._now_s()
        outcome, reason = Outcome.REACHED, ""
        try:
            connection = await self._transport.dial(address, timeout_s=self._dial_s)
            await connection.aclose()
        except (PeerRefused, VersionMismatch) as error:  # who says so has proven itself first
            reason = error.reason
        except PeerMisbehaved as error:
            outcome, reason = Outcome.WRONG_PEER, error.reason
        except ManyhandsError as error:
            was_silent = self._now_s() - began_s >= 0.9 * self._dial_s
            outcome = Outcome.TIMED_OUT if was_silent else Outcome.REFUSED
            reason = error.reason if isinstance(error, PeerError) else str(error)
        took_us = min(MAX_TOOK_US, round((self._now_s() - began_s) * 1e6))
        return Answer(outcome=outcome, seen=seen, took_us=took_us, reason=as_reason(reason))
