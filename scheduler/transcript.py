"""What the caller of a generation hears: each route, each token, and the result.

In: what the session's rules know, at the moment it is worth telling. Out: events, in a queue that
None ends.
"""

import asyncio
from collections.abc import Sequence

from protocol.chain_hops import Hop
from protocol.chain_session import ChainSession
from protocol.errors import ManyhandsError
from protocol.logprobs import Logprobs
from protocol.messages import TokenEvent
from scheduler.request import Event, Finished, Routed, RouteStep, Token, Waiting
from scheduler.route_watch import RouteWatch
from scheduler.settlement import Settled
from scheduler.timing import Stopwatch


class Transcript:
    """Of one session. The stopwatch runs from the start; `route_watch` sees what callers do."""

    def __init__(self, route_watch: RouteWatch, *, tells_logprobs: bool = False) -> None:
        self._route_watch = route_watch
        self.events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._watch = Stopwatch()
        self._texts: list[str] = []
        self._logprobs: list[Logprobs] | None = [] if tells_logprobs else None
        self._waits_for = ""

    def routed(self, hops: Sequence[Hop]) -> None:
        self._waits_for = ""
        self._route_watch.routed([hop.seat for hop in hops])
        self.events.put_nowait(Routed(_route(hops)))

    def token(self, event: TokenEvent, rules: ChainSession) -> None:
        self._watch.token(rules.failovers)
        self._route_watch.token()
        self._texts.append(event.text)
        index = event.position - rules.n_prompt
        told = None
        if self._logprobs is not None:
            told = event.logprobs
            self._logprobs.append(told)
        self.events.put_nowait(Token(index, event.token_id, event.text, told))

    def waiting(self, error: ManyhandsError) -> None:
        """Nothing goes on until this has changed."""
        if str(error) != self._waits_for:
            self._waits_for = str(error)
            self.events.put_nowait(Waiting(str(error), error.code))

    def rest_s(self, max_tokens: int) -> float:
        return self._watch.rest_s(max_tokens)

    def complete(self) -> None:
        """The answer is; what follows is settlement."""
        self._watch.stop()
        self._route_watch.ended()

    def finish(
        self, rules: ChainSession, *, finish_reason: str, seed: int, settled: Settled
    ) -> None:
        result = self._watch.result(
            text="".join(self._texts),
            token_ids=tuple(rules.ids[rules.n_prompt :]),
            finish_reason=finish_reason,
            n_prompt=rules.n_prompt,
            route=_route(rules.hops),
            failovers=rules.failovers,
            handovers=rules.handovers,
            receipts=settled.receipts,
            cost_ncr=settled.cost_ncr,
            seed=seed,
            n_cached=rules.cached or 0,
            logprobs=None if self._logprobs is None else tuple(self._logprobs),
        )
        self.events.put_nowait(Finished(result))

    def end(self) -> None:
        self.events.put_nowait(None)


def _route(hops: Sequence[Hop]) -> tuple[RouteStep, ...]:
    return tuple(RouteStep(hop.peer, hop.seat.span, hop.run_us / 1000) for hop in hops)
