"""What two peers say to each other about a session, as values.

A value that exists is a value that is valid: every message checks itself in `__post_init__`, so
code that holds one never asks again. `codec.py` turns these into protobuf and back; the rules of
the conversation live in `hop_session.py` and `chain_session.py`. DESIGN 5a names the rules.

Control stream (client dials hop):   Reserve · Raise · Commit · Pay · Close · Resume  →
                                     ←  Reserved · Raised · Committed · TokenEvent · Progress
                                        · Account · Unpaid · LinkDown · Failure · Closed
Data stream (a pair of peers):       Frame · Ask →            ← Ack · Gone
"""

from dataclasses import dataclass, field
from typing import NewType, Self

from protocol.errors import PeerMisbehaved

SessionId = NewType("SessionId", bytes)

MAX_POSITIONS = 1 << 24
MAX_GROUPS = 4096
MAX_STOPS, MAX_STOP_CHARS = 16, 256
MAX_HOPS = 512
TOKEN_BYTES = 4  # a token id on the wire: unsigned, little-endian


def require(condition: bool, complaint: str) -> None:
    """Refuse a message that breaks a rule: whoever sent it is at fault."""
    if not condition:
        raise PeerMisbehaved("", complaint)


def require_id(value: bytes, name: str, size: int = 16) -> None:
    require(len(value) == size, f"{name} must have {size} bytes, got {len(value)}")


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A run of transformer blocks `[start, stop)` that one node serves."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"a span runs forward, got [{self.start}, {self.stop})")

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"

    def continues(self, earlier: Self) -> bool:
        """Whether this span picks up exactly where `earlier` left off."""
        return self.start == earlier.stop

    def holds(self, other: Self) -> bool:
        """Whether every block of `other` is in this span."""
        return self.start <= other.start and other.stop <= self.stop
