"""A copy of what a hop has run, with the peer that would take its place (DESIGN 5a.20).

In: who may copy how much of whose rows. Out: a note that the client signs, and the answer to the
call `spare`. That call carries a `Reserve` as the client would send it to that peer if the hop were
lost now; its handover names the hop and has this note, its prefixes name the rows to be copied.
Without a handover it asks the peer to hold nothing of this session. The rows themselves travel as
in `handover.py`.
"""

from dataclasses import dataclass
from typing import Self

from protocol.canonical import NotCanonical, decode, encode
from protocol.checks import MAX_POSITIONS, require
from protocol.config_limits import MAX_BLOCKS
from protocol.messages import SessionId, Span
from protocol.signing import Envelope, SigningKey, open_envelope, seal

METHOD = "spare"
TYPE = "mh/spare/1"
PART_BYTES = 1 << 20  # of rows in one answer: answers go on between two of them


@dataclass(frozen=True, slots=True, kw_only=True)
class SpareNote:
    """The client lets `taker` copy rows `[0, stop)` of `span` from `giver`, which serves on.

    epoch: the one in which those rows are the client's history; in any other, nothing is given.
    """

    session: SessionId
    epoch: int
    giver: bytes  # public keys
    taker: bytes
    span: Span
    stop: int

    def seal(self, swarm_id: bytes, key: SigningKey) -> bytes:
        place = (self.giver, self.taker, self.span.start, self.span.stop)
        fields = (self.session, self.epoch, *place, self.stop)
        return seal(TYPE, swarm_id, fields, key).encode()

    @classmethod
    def open(cls, data: bytes, swarm_id: bytes, client: bytes) -> Self:
        """Raises IntegrityError, PeerMisbehaved: it is none, or not `client`'s."""
        match open_envelope(Envelope.decode(data), TYPE, swarm_id, (client,)):
            case [
                bytes() as session, int() as epoch, bytes() as giver, bytes() as taker,
                int() as first, int() as last, int() as stop,
            ] if epoch >= 0 and 0 <= first < last <= MAX_BLOCKS:  # fmt: skip
                require(0 < stop <= MAX_POSITIONS, "a copy out of range")
                return cls(
                    session=SessionId(session),
                    epoch=epoch,
                    giver=giver,
                    taker=taker,
                    span=Span(first, last),
                    stop=stop,
                )
            case _:
                raise NotCanonical("a spare's note has other fields")


def is_spare_note(data: bytes) -> bool:
    """Whether it says so; nothing is believed yet. Raises NotCanonical: it is no envelope."""
    return Envelope.decode(data).type == TYPE


def held_bytes(n_rows: int) -> bytes:
    return encode((n_rows,))


def read_held(data: bytes) -> int:
    """How many rows the spare holds now. Raises NotCanonical: that is no answer."""
    match decode(data):
        case [int() as n_rows] if 0 <= n_rows <= MAX_POSITIONS:
            return n_rows
        case _:
            raise NotCanonical("a spare answers with how many rows it holds")
