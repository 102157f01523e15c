"""Which objects does the other one have that we lack, and which does it lack? By sums over ranges.

In: the ids that each of two parties holds, ordered by epoch and object id. Out: the difference, in
bytes that grow with it and not with what both have. Who asks sends a fingerprint of each sixteenth
of its ids; where the other's differs it answers with sixteenths of that range, and so on down to
lists (the idea of negentropy, D. Hoytink, 2023; A. Meyer, "Range-based set reconciliation", 2023).
Who answers keeps nothing between two messages, and each costs it no more than the message is long.

A fingerprint saves bytes and proves nothing: whoever lies with one hides what it holds, which it
could have done by silence. That an object is sound is asked of the object.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from hashlib import sha256
from itertools import accumulate, pairwise

from ledger.errors import BadObject
from ledger.range_words import (
    DIFF,
    END,
    IDS,
    KEY_BYTES,
    START,
    SUM,
    SUM_BYTES,
    Message,
    Range,
    keys_of,
    read_message,
)
from protocol.canonical import MAX_UINT

PARTS = 16
LISTED = 32  # ids of a range: so few are told one by one
MAX_MESSAGE_BYTES = 48 * 1024  # of what an object may take, 64 KiB: bounds are guessed, not counted
MAX_ROUNDS = 256  # of a message and its answer; ten differences in a million take three
MOST = 10_000  # found in one go; the rest the next time


def key_of(epoch: int, oid: bytes) -> bytes:
    """Where an object stands in the order that both sides keep.

    Raises:
        BadObject: there is no such epoch, or that is no object's id.
    """
    if not 0 <= epoch <= MAX_UINT or len(oid) != 32:
        raise BadObject("an object is named by its epoch and its id of 32 bytes")
    return epoch.to_bytes(8, "big") + oid


class IdSet:
    """Ids in order, with the fingerprint of any range of them in the time of two look-ups."""

    def __init__(self, ids: Iterable[tuple[int, bytes]]) -> None:
        """ids: epoch and object id of each, in any order, repeated or not."""
        self.keys = sorted({key_of(epoch, oid) for epoch, oid in ids})
        numbers = (int.from_bytes(key[8:], "big") for key in self.keys)
        self._sums = list(accumulate(numbers, initial=0))

    def __len__(self) -> int:
        return len(self.keys)

    def place(self, bound: bytes) -> int:
        """How many keys are below this bound."""
        return bisect_left(self.keys, bound)

    def fingerprint(self, start: int, stop: int) -> bytes:
        """SHA-256 of the sum of these places' object ids mod 2^256, and their count, cut short."""
        total = (self._sums[stop] - self._sums[start]) % (1 << 256)
        told = total.to_bytes(32, "big") + (stop - start).to_bytes(8, "big")
        return sha256(told).digest()[:SUM_BYTES]

    def bound(self, place: int) -> bytes:
        """The shortest that parts the key at this place from the one before it."""
        before, key = self.keys[place - 1], self.keys[place]
        length = next(i for i in range(KEY_BYTES) if before[i] != key[i]) + 1
        return key[:length]


class Answerer:
    """The side that is asked. It remembers nobody."""

    def __init__(self, ids: IdSet) -> None:
        self._ids = ids

    def answer(self, message: bytes) -> bytes:
        """
        Raises:
            IntegrityError: the message is none.
        """
        room, made = MAX_MESSAGE_BYTES, Message()
        for asked in read_message(message):
            answers = self._answers(asked, room)
            n_bytes = sum(each.n_bytes for each in answers)
            if n_bytes > room:
                break  # whoever asked sees how far this went, and asks on from there
            room -= n_bytes
            for each in answers:
                made.add(each)
            if answers[-1].upper != asked.upper:
                break
        return made.encode()

    def _answers(self, asked: Range, room: int) -> list[Range]:
        ids = self._ids
        if asked.kind == 0:
            return [asked]
        start, stop = ids.place(asked.lower), ids.place(asked.upper)
        if asked.kind == IDS:
            return [_difference(ids, asked, start, stop, room)]
        if asked.kind != SUM:
            raise BadObject("who asks does not tell differences")
        if ids.fingerprint(start, stop) == asked.told:
            return [Range(asked.lower, asked.upper)]
        return list(_described(ids, asked.lower, asked.upper))


class Asker:
    """The side that wants to know. Send `message`, hand what comes back to `take`, until `is_over`.

    lacking, unknown: what we lack, and what the other side does, as (epoch, oid).
    """

    def __init__(
        self, ids: IdSet, most: int = MOST, *, passed_over: Collection[bytes] = ()
    ) -> None:
        """passed_over: objects, by their ids, that are not lacking where we have them not."""
        self.lacking: set[tuple[int, bytes]] = set()
        self.unknown: set[tuple[int, bytes]] = set()
        self.n_rounds = 0
        self._ids, self._most, self._passed_over = ids, most, frozenset(passed_over)
        self._open = list(_described(ids, START, END))
        self._asked: list[Range] = []

    @property
    def is_over(self) -> bool:
        """All of it was compared, or as much was found as one go shall find."""
        return not self._open or self._is_full

    @property
    def is_whole(self) -> bool:
        return not self._open

    @property
    def _is_full(self) -> bool:
        return max(len(self.lacking), len(self.unknown)) >= self._most

    def message(self) -> bytes:
        """What to ask next; as many open ranges as one message has room for."""
        room, made, self._asked = MAX_MESSAGE_BYTES, Message(), []
        for each in self._open:
            if (room := room - each.n_bytes - len(each.lower) - 12) < 0:
                break
            made.add(each)
            self._asked.append(each)
        return made.encode()

    def take(self, answer: bytes) -> None:
        """
        Raises:
            IntegrityError: it is no answer, or this will not end.
        """
        self.n_rounds += 1
        if self.n_rounds > MAX_ROUNDS:
            raise BadObject(f"two sets are not compared within {MAX_ROUNDS} rounds")
        told = read_message(answer)
        reached = told[-1].upper
        if not self._asked[0].lower < reached <= self._asked[-1].upper:
            raise BadObject("an answer that goes nowhere, or beyond what was asked")
        rest = self._open[len(self._asked) :]
        again: list[Range] = []
        for each in told:
            again += self._heard(each)
        for asked in self._asked:
            if asked.upper > reached:
                again += _described(self._ids, max(asked.lower, reached), asked.upper)
        self._open = again + rest

    def _heard(self, told: Range) -> list[Range]:
        """Note what this says; what of it is still open."""
        ids = self._ids
        if told.kind == 0:
            return []
        start, stop = ids.place(told.lower), ids.place(told.upper)
        if told.kind == SUM:
            if ids.fingerprint(start, stop) == told.told:
                return []
            return list(_described(ids, told.lower, told.upper))
        theirs = keys_of(told.told)
        ours = {key for key in theirs if _holds(ids, key)}
        self._note(self.lacking, (key for key in theirs if key not in ours))
        if told.kind == DIFF:
            self._note(self.unknown, (key for key in keys_of(told.wanted) if _holds(ids, key)))
        else:
            own = (ids.keys[place] for place in range(start, stop))
            self._note(self.unknown, (key for key in own if key not in ours))
        return []

    def _note(self, found: set[tuple[int, bytes]], keys: Iterable[bytes]) -> None:
        for key in keys:
            if len(found) >= self._most:
                return
            if key[8:] not in self._passed_over:
                found.add((int.from_bytes(key[:8], "big"), key[8:]))


def _holds(ids: IdSet, key: bytes) -> bool:
    place = ids.place(key)
    return place < len(ids) and ids.keys[place] == key


def _described(ids: IdSet, lower: bytes, upper: bytes) -> Iterator[Range]:
    """What we have in a range: one by one if it is little, else by the sums of its parts."""
    start, stop = ids.place(lower), ids.place(upper)
    if stop - start <= LISTED:
        yield Range(lower, upper, IDS, b"".join(ids.keys[start:stop]))
        return
    cuts = [start + (stop - start) * part // PARTS for part in range(PARTS + 1)]
    for begin, end in pairwise(cuts):
        bound = upper if end == stop else ids.bound(end)
        yield Range(lower, bound, SUM, ids.fingerprint(begin, end))
        lower = bound


def _difference(ids: IdSet, asked: Range, start: int, stop: int, room: int) -> Range:
    """What a list lacks of ours and we of it, up to where the answer is full."""
    theirs = keys_of(asked.told)
    listed = set(theirs)
    missing: list[bytes] = []
    upper = asked.upper
    room -= len(asked.told) + 64  # we may want all of it
    for place in range(start, stop):
        key = ids.keys[place]
        if key in listed:
            continue
        if room < (len(missing) + 1) * KEY_BYTES:
            upper = key  # from here on it has to ask again
            break
        missing.append(key)
    wanted = [key for key in theirs if key < upper and not _holds(ids, key)]
    if not missing and not wanted and upper == asked.upper:
        return Range(asked.lower, upper)
    return Range(asked.lower, upper, DIFF, b"".join(missing), b"".join(wanted))
