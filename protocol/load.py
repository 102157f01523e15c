"""How busy a peer is at this moment: a question without words and its short answer.

Announcements say it too, but seconds old, and many clients that read the same old word herd onto
one peer. A client asks the few peers it is about to choose among. Unsigned: the transport proves
who answers, and it is about nobody else. The ticket counts the questions a peer was asked: clients
that come at the same moment, before any of them is a session, take turns by it.
"""

from dataclasses import dataclass, replace
from typing import Self

from protocol.announcements import Announcement
from protocol.canonical import NotCanonical, decode, encode
from protocol.errors import PeerMisbehaved
from protocol.measured import State

METHOD = "load"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Of one peer."""

    n_sessions: int
    queue_us: int
    kv_free_bytes: int
    state: State
    ticket: int

    @property
    def is_open(self) -> bool:
        """Whether it takes new sessions."""
        return self.state is State.SERVING

    def encode(self) -> bytes:
        numbers = (self.n_sessions, self.queue_us, self.kv_free_bytes)
        return encode([VERSION, *numbers, self.state.value, self.ticket])

    @classmethod
    def decode(cls, data: bytes, *, sender: str) -> Self:
        """Read an answer; fields that a later version adds are passed over.

        Raises:
            PeerMisbehaved: it is none.
        """
        try:
            fields = decode(data)
        except NotCanonical as error:
            raise PeerMisbehaved(sender, f"no load: {error}") from error
        match fields:
            case [int(), *numbers, str() as state, int() as ticket] if [*map(type, numbers)] == [
                int
            ] * 3:
                n_sessions, queue_us, kv_free_bytes = numbers
                known = State(state) if state in [*State] else State.DRAINING
                return cls(
                    n_sessions=n_sessions,
                    queue_us=queue_us,
                    kv_free_bytes=kv_free_bytes,
                    state=known,
                    ticket=ticket,
                )
            case _:
                raise PeerMisbehaved(sender, "a load has other fields")

    def brings_up_to_date(self, announced: Announcement) -> Announcement:
        """What the peer would announce now."""
        measured = replace(announced.measured, queue_us=self.queue_us, state=self.state)
        return replace(
            announced,
            n_sessions=self.n_sessions,
            kv_free_bytes=self.kv_free_bytes,
            measured=measured,
        )
