"""Records that several people sign, one after the other, on machines that never meet.

In: envelopes with some of the signatures, in any order and however often, from anybody; by rule,
whose signatures count and how many it takes. Out: the records that stand, and those that still
lack signatures: everybody is told of these, too, so that the next signer needs nothing but the
swarm. Signatures of one record are united; a record that stands puts an end to all earlier ones of
its slot. So a replay changes nothing, and of two records that contradict each other everybody
chooses the same: the later one, and of one time the stricter one.

All is bounded: who may sign alone fills no more than `MAX_PENDING` places, and of what stands the
latest are kept. What a key signed that the rules do not name is passed over, not complained of:
the sender may know other rules. Pure, and no clock.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from protocol.canonical import decode
from protocol.errors import IntegrityError
from protocol.membership.rules import Quorum
from protocol.signing import Envelope, open_envelope

MAX_PENDING = 8  # records that one key signed and that do not stand
MAX_RECORD_BYTES = 1536

Slot = tuple[Any, ...]
Order = tuple[int, int, bytes]


class Record(Protocol):
    """What is signed."""

    @property
    def slot(self) -> Slot:
        """Of all records of one slot, one stands."""

    @property
    def order(self) -> Order:
        """The highest of a slot counts."""


R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Gathered(Generic[R]):
    """A record with all signatures that are known of those whose signatures count."""

    record: R
    envelope: Envelope
    needs: int

    @property
    def stands(self) -> bool:
        return len(self.envelope.signers) >= self.needs


class Gathering(Generic[R]):
    """See the module. `read` makes a record of a payload's fields, or raises IntegrityError."""

    def __init__(
        self,
        type: str,
        swarm_id: bytes,
        read: Callable[[list[Any]], R],
        quorum_of: Callable[[R], Quorum | None],
        *,
        max_standing: int,
    ) -> None:
        self.type, self._swarm_id = type, swarm_id
        self._read, self._quorum_of, self._max_standing = read, quorum_of, max_standing
        self._held: dict[bytes, Gathered[R]] = {}  # by payload
        self._standing: dict[Slot, Gathered[R]] = {}

    def __iter__(self) -> Iterator[Gathered[R]]:
        """In an order that all share."""
        return iter(sorted(self._held.values(), key=_order))

    def standing(self) -> Iterator[Gathered[R]]:
        return (gathered for gathered in self if gathered.stands)

    def pending(self) -> Iterator[Gathered[R]]:
        return (gathered for gathered in self if not gathered.stands)

    def in_slot(self, slot: Slot) -> Sequence[Gathered[R]]:
        """What stands there, if anything, then what may come after it."""
        return [gathered for gathered in self if gathered.record.slot == slot]

    def learn(self, envelope: Envelope) -> bool:
        """Take in a record, or more signatures of one; whether it was news.

        Raises:
            IntegrityError: it is none, or a signature that would count does not hold.
        """
        held = self._held.get(envelope.payload)
        if held is not None and held.envelope == envelope:
            return False
        if len(envelope.payload) > MAX_RECORD_BYTES:
            raise IntegrityError(f"a record of {len(envelope.payload)} bytes")
        record = held.record if held else self._read(decode(envelope.payload))
        quorum, known = self._quorum_of(record), dict(held.envelope.signatures if held else ())
        if quorum is None or self._is_past(record):
            return False
        # Of two good signatures of one key the lesser is kept: everybody ends with the same.
        fresh = {
            key: signature
            for key, signature in envelope.signatures
            if key in quorum.keys and (key not in known or signature < known[key])
        }
        if not fresh:
            return False
        proving = Envelope(self.type, envelope.payload, tuple(sorted(fresh.items())))
        open_envelope(proving, self.type, self._swarm_id, proving.signers)
        united = tuple(sorted((known | fresh).items()))
        merged = Envelope(self.type, envelope.payload, united)
        self._put(Gathered(record, merged, quorum.needs))
        self._bound()
        return True

    def judge_again(self) -> None:
        """The rules have changed: whose signatures count no more takes them along."""
        held, self._held, self._standing = self._held, {}, {}
        for gathered in held.values():
            quorum = self._quorum_of(gathered.record)
            if quorum is not None and not self._is_past(gathered.record):
                self._keep(gathered, frozenset(quorum.keys), quorum.needs)
        self._bound()

    def _keep(self, gathered: Gathered[R], keys: frozenset[bytes], needs: int) -> None:
        """With the signatures of these keys alone, if there are any."""
        left = tuple(pair for pair in gathered.envelope.signatures if pair[0] in keys)
        if left:
            envelope = Envelope(self.type, gathered.envelope.payload, left)
            self._put(Gathered(gathered.record, envelope, needs))
        else:
            self._drop(gathered)

    def _put(self, gathered: Gathered[R]) -> None:
        """Hold it; if it stands, whatever came before it in its slot is over."""
        record = gathered.record
        self._held[gathered.envelope.payload] = gathered
        if gathered.stands:
            self._standing[record.slot] = gathered
            for other in list(self._held.values()):
                if other.record.slot == record.slot and other.record.order < record.order:
                    self._held.pop(other.envelope.payload, None)

    def _drop(self, gathered: Gathered[R]) -> None:
        self._held.pop(gathered.envelope.payload, None)
        if self._standing.get(gathered.record.slot) is gathered:
            del self._standing[gathered.record.slot]

    def _is_past(self, record: R) -> bool:
        stands = self._standing.get(record.slot)
        return stands is not None and record.order < stands.record.order

    def _bound(self) -> None:
        """Drop the oldest of what is too much."""
        if len(self._standing) > self._max_standing:
            for gathered in list(self.standing())[: -self._max_standing]:
                self._drop(gathered)
        if len(self._held) - len(self._standing) <= MAX_PENDING:
            return
        pending: dict[bytes, int] = {}
        for gathered in reversed(list(self.pending())):
            for key in gathered.envelope.signers:
                pending[key] = pending.get(key, 0) + 1
            left = [key for key in gathered.envelope.signers if pending[key] <= MAX_PENDING]
            if len(left) < len(gathered.envelope.signers):
                self._keep(gathered, frozenset(left), gathered.needs)


def _order(gathered: Gathered[Any]) -> Order:
    order: Order = gathered.record.order
    return order
