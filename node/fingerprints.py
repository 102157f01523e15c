"""The fingerprints of what one session ran here, and those of sessions that are over.

In: rows as they were sent, in the order in which they were run. Out: the `fp_root` of a statement,
and windows under it for the payer who asks. Sketching waits until nobody waits for a token: rows
lie here, as the bytes that travel, until `work` has time for them, at the latest until the next
statement; those that go on to another hop are not copied for it, but read from the journal. What
was stated last is kept until its time is over or others need the room; then that is said. Nothing
is on disk: a node that starts anew has forgotten.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ledger.fingerprints import Opening, OpeningRequest, WindowTree, leaf_of, n_windows
from node.sent_rows import SentRows
from protocol.errors import IntegrityError, PeerMisbehaved, PeerRefused
from protocol.fingerprint import Sketches, sketch
from protocol.identity import PeerId
from protocol.journal import Journal
from protocol.signing import Envelope
from protocol.windows import BUCKETS, WINDOW, Window, windows_of
from protocol.wire import WireFormat, decode

AT_ONCE = 64  # rows that are sketched before others have their turn: about 0.5 ms at 4096 wide
SKETCH_BYTES = 4 * BUCKETS
FORGOTTEN = 4096  # tabs of which it is known that they were here


@dataclass(frozen=True, slots=True)
class Stated:
    """What one statement's root is about; `ids` from position `ids_from` on, of a last hop."""

    start: int
    stop: int
    sketches: bytes
    ids_from: int
    ids: tuple[int, ...]

    def window(self, start: int, stop: int) -> Window:
        at, end = ((p - self.start) * SKETCH_BYTES for p in (start, stop))
        first = max(start + 1, self.ids_from)
        drawn = self.ids[first - self.ids_from : max(0, stop + 1 - self.ids_from)]
        return Window(start, self.sketches[at:end], first if drawn else 0, drawn)

    def tree(self, salt: bytes, known: dict[int, tuple[int, bytes]] | None = None) -> WindowTree:
        """known: leaves of whole windows, with how many draws they have; others are added."""
        known = {} if known is None else known
        leaves: list[bytes] = []
        for start, stop in windows_of(self.start, self.stop):
            index, n_drawn = start // WINDOW, max(0, min(len(self.ids), stop + 1 - self.ids_from))
            held = known.get(index)
            if held is None or held[0] != n_drawn:
                held = n_drawn, leaf_of(self.window(start, stop).encode(), salt)
                if stop - start == WINDOW:
                    known[index] = held
            leaves.append(held[1])
        return WindowTree(self.start, self.stop, leaves)


class _Loose:
    """Rows that wait, one after the other, and that no journal has: a last hop's."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._parts: deque[tuple[int, bytes | memoryview]] = deque()

    def add(self, start: int, rows: bytes | memoryview) -> None:
        if len(rows) < WINDOW * self._width:  # more do not wait
            rows = bytes(rows)  # a view of them would keep the rows of all who ran beside them
        self._parts.append((start, rows))

    def cut(self, length: int) -> None:
        """Those from position `length` on do no more."""
        while self._parts and self._parts[-1][0] >= length:
            self._parts.pop()
        if self._parts:
            start, rows = self._parts[-1]
            self._parts[-1] = start, rows[: (length - start) * self._width]

    def view(self, start: int, stop: int) -> bytes | memoryview:
        """The first ones, `[start, stop)`; they wait no more."""
        taken: list[bytes | memoryview] = []
        while self._parts and self._parts[0][0] < stop:
            at, rows = self._parts.popleft()
            n_bytes = (stop - at) * self._width
            if n_bytes < len(rows):
                self._parts.appendleft((stop, rows[n_bytes:]))
            taken.append(rows[:n_bytes])
        return taken[0] if len(taken) == 1 else b"".join(taken)


class Fingerprints:
    """Of one session at this hop.

    wire: what its rows are. drawn: a last hop's ids, and from which on it drew them itself; of
    others, nothing. journal: what has all rows that are sent on, by their positions.
    """

    def __init__(
        self,
        wire: WireFormat,
        hidden_size: int,
        capacity: int,
        drawn: Callable[[], tuple[Sequence[int], int]] = lambda: ((), 0),
        journal: Journal | None = None,
    ) -> None:
        self._wire, self._hidden_size, self._drawn = wire, hidden_size, drawn
        self._width = wire.row_bytes(hidden_size)
        self._rows = journal if journal is not None else _Loose(self._width)
        self._loose = self._rows if isinstance(self._rows, _Loose) else None
        self._sketches: Sketches = np.zeros((capacity, BUCKETS), np.float32)
        self._start: int | None = None
        self._sketched = self._stop = 0  # rows between them wait
        self._leaves: dict[int, tuple[int, bytes]] = {}
        self._salt = b""
        self._stated: Stated | None = None

    def begin_epoch(self, salt: bytes, length: int) -> None:
        """Rows from `length` on are run again, or for the first time."""
        if salt != self._salt:
            self._leaves.clear()
        self._salt = salt
        if self._start is None:
            self._start = self._sketched = self._stop = length
        self._cut(length)
        self._start = min(self._start, length)

    def took(self, start: int, rows: bytes | memoryview) -> None:
        """Rows from position `start` on came out; those that stood there do no more."""
        if start < self._stop:
            self._cut(start)
        elif start > self._stop:  # what is between was run elsewhere
            while self.work():
                pass
            self._sketched = start
        self._stop = start + len(rows) // self._width
        if self._loose is not None:
            self._loose.add(start, rows)

    def _cut(self, length: int) -> None:
        if length < self._stop:
            self._stop = length
            self._sketched = min(self._sketched, length)
            self._leaves = {i: held for i, held in self._leaves.items() if i < length // WINDOW}
            if self._loose is not None:
                self._loose.cut(length)

    def work(self) -> bool:
        """Sketch some of what waits; whether more does."""
        start, stop = self._sketched, min(self._stop, self._sketched + AT_ONCE)
        if start < stop:
            rows = decode(self._wire, self._rows.view(start, stop), self._hidden_size)
            self._sketches[start:stop] = sketch(rows)
            self._sketched = stop
        return stop < self._stop

    @property
    def is_worth_while(self) -> bool:
        """Whether a window's worth waits, which may be begun on while nobody waits."""
        return self._stop - self._sketched >= WINDOW

    def use_rest(self) -> None:
        """Nobody waits now: begin on what waits here, if that is worth while."""
        if self.is_worth_while:
            self._go_on()

    def _go_on(self) -> None:
        if self.work():
            asyncio.get_running_loop().call_soon(self._go_on)

    def root(self) -> bytes:
        """For a statement that is made now."""
        while self.work():
            pass
        start = self._start or 0
        ids, drawn_from = self._drawn()
        ids_from = max(start + 1, drawn_from)
        told = tuple(ids[ids_from : self._stop + 1])
        stands = self._sketches[start : self._stop].astype("<f4").tobytes()
        self._stated = Stated(start, max(start, self._stop), stands, ids_from, told)
        return self._stated.tree(self._salt, self._leaves).root()

    def kept(self, payer: str, statement: Envelope) -> "Kept | None":
        """What may be asked for from now on, under the statement that was made last."""
        stated = self._stated
        if stated is None or stated.start == stated.stop:
            return None
        return Kept(payer, statement, self._salt, stated, dict(self._leaves))


@dataclass(slots=True)
class Kept:
    """A tab that is over. leaves: of whole windows, so that an opening hashes no rows again."""

    payer: str
    statement: Envelope
    salt: bytes
    stated: Stated
    leaves: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    until_s: float = 0.0

    @property
    def n_bytes(self) -> int:
        return len(self.stated.sketches) + 8 * len(self.stated.ids) + 128 * len(self.leaves) + 1024


class FingerprintShelf:
    """Of one node, whatever it serves: what it ran lately. The handler of the call `METHOD`.

    sent: the rows that went with it, which are asked for after these, if at all.
    retain_s: how long a tab can be asked about once it is over. max_bytes: of all together.
    """

    def __init__(
        self,
        retain_s: float,
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        sent: SentRows | None = None,
    ) -> None:
        self.sent = sent or SentRows(0.0, 0)
        self._retain_s, self._max_bytes, self._clock = retain_s, max_bytes, clock
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self._gone: OrderedDict[bytes, str] = OrderedDict()
        self.n_bytes = 0

    @property
    def retained_bytes(self) -> int:
        """Of all that is kept of sessions that are over, so that their callers can audit them."""
        return self.n_bytes + self.sent.n_bytes

    def keep(self, terms_oid: bytes, kept: Kept) -> None:
        """From now on, until its time is over."""
        kept.until_s = self._clock() + self._retain_s
        self._kept[terms_oid] = kept
        self.n_bytes += kept.n_bytes
        self._evict()

    def _evict(self) -> None:
        now = self._clock()
        while self._kept:
            terms_oid, oldest = next(iter(self._kept.items()))
            if oldest.until_s > now and self.n_bytes <= self._max_bytes:
                return
            late = f"they were kept for {self._retain_s:g} s"
            self._gone[terms_oid] = late if oldest.until_s <= now else "others needed their room"
            self.n_bytes -= self._kept.pop(terms_oid).n_bytes
            if len(self._gone) > FORGOTTEN:
                self._gone.popitem(last=False)

    async def handle(self, peer_id: PeerId, request: bytes) -> bytes:
        """Windows of a tab that the caller paid for.

        Raises:
            PeerMisbehaved: that is no question.
            PeerRefused: none of its tabs, or no longer here, or not these windows.
        """
        try:
            asked = OpeningRequest.decode(request)
        except IntegrityError as error:
            raise PeerMisbehaved(peer_id, f"no question about fingerprints: {error}") from error
        self._evict()
        kept = self._kept.get(asked.terms_oid)
        if kept is None and asked.terms_oid in self._gone:
            raise PeerRefused("", f"fingerprints are gone: {self._gone[asked.terms_oid]}")
        if kept is None or kept.payer != peer_id:
            raise PeerRefused("", "no tab of yours that is over is known here by these terms")
        self.sent.looked_at(asked.terms_oid)
        return opened(kept, asked.windows).encode()


def opened(kept: Kept, windows: Sequence[int]) -> Opening:
    """Raises PeerRefused: there are no such windows."""
    stated = kept.stated
    parts = {
        start // WINDOW: (start, stop) for start, stop in windows_of(stated.start, stated.stop)
    }
    if missing := [index for index in windows if index not in parts]:
        raise PeerRefused("", f"this tab ran no window {missing[0]}")
    tree = stated.tree(kept.salt, kept.leaves)
    assert n_windows(stated.start, stated.stop) == len(parts)
    shown = {
        index: (stated.window(*parts[index]).encode(), tuple(tree.path(index))) for index in windows
    }
    return Opening(kept.statement, stated.start, stated.stop, tree.merkle_root(), shown)
