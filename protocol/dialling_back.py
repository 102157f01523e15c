"""A peer is asked to dial the asker's port, and says whether it got through and what it saw.

The asker names a port and nothing else: whoever is asked dials the address that the question came
from, so that nobody can be made to dial a third one. Port 0 asks only how the asker is seen: from
which address and port, which behind a NAT are its router's (as STUN does it, RFC 8489, but between
peers who have proven who they are). Dialling is AutoNAT's idea in libp2p, over the port that
matters here.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from protocol.address import Endpoint
from protocol.canonical import NotCanonical, decode, encode
from protocol.checks import require
from protocol.errors import PeerMisbehaved, UsageError

METHOD = "dial_back"
VERSION = 1
MAX_REASON_CHARS = 200
MAX_TOOK_US = 60_000_000


class Outcome(StrEnum):
    """What became of it."""

    NOT_ASKED = "not asked"  # only how the asker is seen
    REACHED = "reached"  # and whoever answered there proved to be the asker
    REFUSED = "refused"  # no connection, said at once: nobody listens there, or a firewall objects
    TIMED_OUT = "timed out"  # nothing came back at all
    WRONG_PEER = "wrong peer"  # somebody else answers there
    DECLINED = "declined"  # it was not tried; the reason says why

    @property
    def was_tried(self) -> bool:
        return self not in (Outcome.NOT_ASKED, Outcome.DECLINED)


@dataclass(frozen=True, slots=True)
class Question:
    """Of whom the transport has proven; `port` is where it listens, as others would dial it."""

    port: int = 0

    def __post_init__(self) -> None:
        require(0 <= self.port <= 65535, f"no port: {self.port}")

    def encode(self) -> bytes:
        return encode([VERSION, self.port])

    @classmethod
    def decode(cls, data: bytes, *, sender: str) -> Self:
        """Fields that a later version adds are passed over.

        Raises:
            PeerMisbehaved: it is none.
        """
        match _fields(data, sender):
            case [int() as version, int() as port, *_] if bool not in (type(version), type(port)):
                return cls(port)
            case _:
                raise PeerMisbehaved(sender, "a question has other fields")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Of one peer. seen: from where the question came; None: from no address of a network."""

    outcome: Outcome
    seen: Endpoint | None = None
    took_us: int = 0  # until the asker had proven itself
    reason: str = ""

    def __post_init__(self) -> None:
        require(0 <= self.took_us <= MAX_TOOK_US, "that took too long")
        plain = len(self.reason) <= MAX_REASON_CHARS and self.reason.isprintable()
        require(plain, "a reason is a line of plain text")

    def encode(self) -> bytes:
        seen = (self.seen.host, self.seen.port) if self.seen else ()
        return encode([VERSION, self.outcome.value, seen, self.took_us, self.reason])

    @classmethod
    def decode(cls, data: bytes, *, sender: str) -> Self:
        """Outcomes of a later version count as declined; fields that it adds are passed over.

        Raises:
            PeerMisbehaved: it is none.
        """
        match _fields(data, sender):
            case [int(), str() as word, [*seen], int() as took_us, str() as reason, *_] if (
                type(took_us) is int
            ):
                outcome = Outcome(word) if word in [*Outcome] else Outcome.DECLINED
                found = _read_endpoint(seen, sender)
                return cls(outcome=outcome, seen=found, took_us=took_us, reason=reason)
            case _:
                raise PeerMisbehaved(sender, "an answer has other fields")


def as_reason(text: str) -> str:
    """Fit to be sent."""
    return "".join(c if c.isprintable() else " " for c in text)[:MAX_REASON_CHARS]


def _fields(data: bytes, sender: str) -> list[object]:
    try:
        return decode(data)
    except NotCanonical as error:
        raise PeerMisbehaved(sender, f"no part of a dial-back: {error}") from error


def _read_endpoint(seen: list[object], sender: str) -> Endpoint | None:
    match seen:
        case []:
            return None
        case [str() as host, int() as port] if type(port) is int:
            try:
                return Endpoint(host, port)
            except UsageError as error:
                raise PeerMisbehaved(sender, f"seen from nowhere: {error}") from error
        case _:
            raise PeerMisbehaved(sender, "an endpoint is a host and a port")
