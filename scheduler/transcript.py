"""What the caller of a generation hears: each route, each token, and the result.

In: what the session's rules know, at the moment it is worth telling. Out: events, in a queue that
None ends.
"""

import asyncio
import time
from collections.abc import Sequence

import numpy as np

from protocol.chain_actions import Deliver
from protocol.chain_hops import Hop
from protocol.chain_session import ChainSession
from protocol.errors import ManyhandsError, PeerMisbehaved
from protocol.logprobs import Logprobs, PromptLogprobs
from protocol.messages import TokenEvent
from scheduler.commitments import suspect_links
from scheduler.request import (
    Event,
    Finished,
    GenerationRequest,
    PromptRead,
    Routed,
    RouteStep,
    Token,
    Waiting,
)
from scheduler.route_watch import RouteWatch
from scheduler.settlement import Settled
from scheduler.timing import Stopwatch


class Transcript:
    """Of one session. The stopwatch runs from the start; `route_watch` sees what callers do."""

    def __init__(self, route_watch: RouteWatch, request: GenerationRequest) -> None:
        self._route_watch, self._request = route_watch, request
        self.events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._watch = Stopwatch()
        self._texts: list[str] = []
        self._logprobs: list[Logprobs] | None = None if request.logprobs is None else []
        self._read: dict[int, Logprobs] = {}  # of the prompt, by position
        self._vector = b""
        self._waits_for = ""
        self._found_s = 0.0

    def found(self) -> float:
        """Hops are chosen, and asked next; the time."""
        self._found_s = time.monotonic()
        return self._found_s

    def routed(self, hops: Sequence[Hop]) -> None:
        self._waits_for = ""
        self._route_watch.routed([hop.seat for hop in hops])
        self.events.put_nowait(Routed(_route(hops), self._found_s))

    def heard(self, peer: str, said: TokenEvent | PromptLogprobs, rules: ChainSession) -> None:
        """Before the rules hear it.

        Raises:
            PeerMisbehaved: that is no answer to what was asked.
        """
        if isinstance(said, TokenEvent):
            self._check(peer, said, rules)
        else:
            self._note(peer, said, rules)

    def _note(self, peer: str, told: PromptLogprobs, rules: ChainSession) -> None:
        """Parts of it come again after a disturbance, and say the same; of an earlier epoch where
        the hop that told them goes on."""
        asked = self._request.prompt_logprobs
        if asked is None or self._texts or not rules.hops or rules.hops[-1].peer != peer:
            return
        if told.epoch > rules.epoch or told.stop > rules.n_prompt:
            raise PeerMisbehaved(peer, "it told of a prompt that it was not given")
        # Fewer likeliest ids than asked for are all that a vocabulary has: the prompt's among them.
        is_all = max(self._request.prompt_ids) < told.n_top < asked
        if told.n_top != asked and not is_all:
            raise PeerMisbehaved(peer, f"it told {told.n_top} likeliest ids, of {asked} asked for")
        self._read.update(told.items())

    def _check(self, peer: str, event: TokenEvent, rules: ChainSession) -> None:
        """What the prompt is read for comes before its token."""
        if event.position != rules.n_prompt:
            return
        if self._request.pooling and not _is_vector(event.pooled, self._request.hidden_size):
            raise PeerMisbehaved(peer, "it was asked for a vector, and told none")
        n_wanted = 0 if self._request.prompt_logprobs is None else rules.n_prompt - 1
        if any(at not in self._read for at in range(1, 1 + n_wanted)):
            raise PeerMisbehaved(peer, "it drew a token before it had told of all the prompt")

    def token(self, delivered: Deliver, rules: ChainSession) -> None:
        event = delivered.event
        if not self._texts and self._request.prompt_logprobs is not None:
            self.events.put_nowait(PromptRead(self._prompt(rules.n_prompt)))
        self._vector = self._vector or event.pooled
        self._watch.token(rules.failovers)
        if delivered.begins_round:
            self._route_watch.token()
        self._texts.append(event.text)
        index = event.position - rules.n_prompt
        told = None
        if self._logprobs is not None:
            told = event.logprobs
            self._logprobs.append(told)
        self.events.put_nowait(Token(index, event.token_id, event.text, told))

    def _prompt(self, n_prompt: int) -> tuple[Logprobs, ...]:
        return tuple(self._read[at] for at in range(1, n_prompt))

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

    def finish(self, rules: ChainSession, finish_reason: str, settled: Settled) -> None:
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
            seed=self._request.sampling.seed,
            n_cached=rules.cached or 0,
            logprobs=None if self._logprobs is None else tuple(self._logprobs),
            prompt_logprobs=None
            if self._request.prompt_logprobs is None
            else self._prompt(rules.n_prompt),
            vector=self._vector,
            suspect_links=self._suspects(rules, finish_reason, settled),
        )
        self.events.put_nowait(Finished(result))

    def _suspects(
        self, rules: ChainSession, finish_reason: str, settled: Settled
    ) -> tuple[tuple[str, str], ...]:
        """When an answer is cut off, one hop may have taken drafts back before the next has."""
        if rules.most_drafts and finish_reason == "cancelled":
            return ()
        has_begun = rules.n > rules.n_prompt
        return suspect_links(rules.hops, settled.commitments, has_begun=has_begun)

    def end(self) -> None:
        self.events.put_nowait(None)


def _is_vector(data: bytes, size: int) -> bool:
    """size: 0 where nobody here knows it."""
    if not data or len(data) % 4 or size not in (0, len(data) // 4):
        return False
    return bool(np.isfinite(np.frombuffer(data, "<f4")).all())


def _route(hops: Sequence[Hop]) -> tuple[RouteStep, ...]:
    return tuple(RouteStep(hop.peer, hop.seat.span, hop.run_us / 1000) for hop in hops)
