"""Which trace work belongs to, and how a span of it is told: what node and client both need of it.

In: the text of a `traceparent` (W3C Trace Context, level 1, section 3.2), from a caller or a peer.
Out: a value, or None for whatever is no such text: then nothing is traced. Who keeps spans is
behind two interfaces; `manyhands.tracing` has OpenTelemetry behind them, and without it there is
nobody, which costs nothing. A span holds counts, times and names of ours: never a prompt, a token
or a key.
"""

import re
from dataclasses import dataclass
from typing import Protocol, Self

FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
SAMPLED = 1

Told = str | int | float | bool | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TraceParent:
    """The span that other work is a part of. is_sampled: its owner keeps it."""

    trace_id: str
    span_id: str
    is_sampled: bool

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None: that is none. Later versions may have more at the end, which is passed over."""
        matched = FORM.fullmatch(text)
        if matched is None:
            return None
        version, trace_id, span_id, flags, more = matched.groups()
        if version == "ff" or (version == "00" and more):
            return None
        if not (int(trace_id, 16) and int(span_id, 16)):
            return None
        return cls(trace_id, span_id, bool(int(flags, 16) & SAMPLED))

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{SAMPLED if self.is_sampled else 0:02x}"


class TraceSpan(Protocol):
    """A span that has begun. Names without a dot are Manyhands' own."""

    @property
    def parent(self) -> TraceParent:
        """What is said to whoever does a part of it elsewhere."""

    def part(self, name: str, began_ns: int, ended_ns: int, **told: Told) -> None:
        """A part of it that is over."""

    def end(self, error: str = "", **told: Told) -> None:
        """error: the code of what failed."""


class Tracer(Protocol):
    """Who keeps spans."""

    def begin(
        self,
        name: str,
        parent: TraceParent | None,
        *,
        began_ns: int,
        caller: TraceParent | None = None,
        **told: Told,
    ) -> TraceSpan | None:
        """What is done for one who asked; None: it is not kept. Times are Unix nanoseconds.

        caller: what somebody who is no peer of ours says to be a part of; the operator says what
        that means.
        """
