"""A session at this node as a span of its client's trace: what its rows waited for, and how long.

In: what happens to the session, as it happens. Out: one span, with parts for admission, for each
run of the prompt's rows (in the queue, in the forward, on their way to the next hop's connection)
and one for all that came after, with sums. Only for clients that say which trace they keep: a node
begins none of its own, and where there is none to tell of, every call returns at once. What one
session can make it tell has a limit.
"""

import time
from typing import TYPE_CHECKING, Self

from protocol.hop_session import HopSession
from protocol.messages import Reserve
from protocol.tracing import TraceParent, Tracer, TraceSpan
from protocol.transport.error_codec import BY_CODE

if TYPE_CHECKING:
    from node.work import Done

TOLD_CHARS = 8  # of a peer id, which tell one from others
MAX_RUNS = 32  # of the prompt, that are told one by one
NS = 1_000_000_000
OURS = {"settled", "expired", "client gone", "abandoned", *BY_CODE}  # why a session is over
OF_CLIENTS = {"done", "stop", "length", "cancelled", "failed", "released"}  # of its `Close`


class HopTrace:
    """See the module. Times given are seconds on the performance counter."""

    def __init__(self, span: TraceSpan | None, began_ns: int) -> None:
        self._span = span
        self._began_ns = began_ns
        self._zero_ns = began_ns - round(time.perf_counter() * NS)
        self._n_runs = self._n_steps = self._n_rows = self._n_epochs = 0
        self._unsent: list[tuple[float, bool]] = []  # when rows were run, and whether that is told
        self._first_s = self._last_s = 0.0  # of the runs that are told as one
        self._queue_s = self._forward_s = self._send_s = 0.0

    @classmethod
    def of(cls, tracer: Tracer | None, reserve: Reserve, peer: str) -> Self:
        began_ns, span = time.time_ns(), None
        parent = TraceParent.parse(reserve.traceparent) if tracer and reserve.traceparent else None
        if tracer is not None and parent is not None and parent.is_sampled:
            blocks = f"{reserve.span.start}:{reserve.span.stop}"
            span = tracer.begin(
                "manyhands.hop", parent, began_ns=began_ns, peer=peer[-TOLD_CHARS:], blocks=blocks
            )
        return cls(span, began_ns)

    def reserved(self, n_here: int) -> None:
        """Room is set aside, and `n_here` rows were here already."""
        if self._span is not None:
            now_ns = time.time_ns()
            self._span.part("manyhands.reserve", self._began_ns, now_ns, rows_found=n_here)

    def agreed(self) -> None:
        """The client has committed to this hop, in a new epoch."""
        self._n_epochs += 1

    def ran(self, done: "Done", session: HopSession) -> None:
        """Rows were run; the session has not heard it yet."""
        if self._span is None:
            return
        agreed = session.commitment
        is_prompt = agreed is not None and session.length < agreed.n_prompt
        began_s, ended_s = done.began_s, done.began_s + done.run_us / 1e6
        is_told = is_prompt and self._n_runs < MAX_RUNS
        self._n_rows += done.rows
        self._unsent.append((ended_s, is_told))
        if is_told:
            self._n_runs += 1
            self._part("manyhands.queue", done.since_s, began_s)
            self._part("manyhands.forward", began_s, ended_s, rows=done.rows)
            return
        self._first_s = self._first_s or done.since_s
        self._n_steps += 1
        self._queue_s += max(0.0, began_s - done.since_s)
        self._forward_s += ended_s - began_s

    def sent(self) -> None:
        """All that ran is with the connection to the next hop, or with the client."""
        if self._span is None:
            return
        unsent, self._unsent = self._unsent, []
        now_s = time.perf_counter()
        for ran_s, is_told in unsent:
            if is_told:
                self._part("manyhands.send", ran_s, now_s)
            else:
                self._send_s += now_s - ran_s
                self._last_s = now_s

    def over(self, reason: str) -> None:
        if self._span is None:
            return
        if self._n_steps:
            self._span.part(
                "manyhands.decode",
                self._ns(self._first_s),
                self._ns(self._last_s),
                steps=self._n_steps,
                queue_ms=_ms(self._queue_s),
                forward_ms=_ms(self._forward_s),
                send_ms=_ms(self._send_s),
            )
        told = reason if reason in OURS | OF_CLIENTS else "other"  # no words of anybody's
        self._span.end(rows=self._n_rows, epochs=self._n_epochs, reason=told)

    def _part(self, name: str, began_s: float, ended_s: float, **told: int) -> None:
        assert self._span is not None
        self._span.part(name, self._ns(began_s), self._ns(ended_s), **told)

    def _ns(self, at_s: float) -> int:
        return self._zero_ns + round(at_s * NS)


def _ms(s: float) -> float:
    return round(1000 * s, 3)
