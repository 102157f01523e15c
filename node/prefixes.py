"""Rows that several sessions share: system prompts, the turns of a chat (DESIGN 5a.8).

In: sessions with names for their first rows, those that begin, and the need for room. Out: rows to
begin with, copied from another session, live or over. Names are the client's: digests that
bind the ids and the hops before this one under a salt that no hop knows. Model and profile are this
node's; span, adapter, wire form and, unless a client shares, its peer id are added here, so that
nobody finds out from a hit what others asked.

Rows of sessions that are over are only ever kept in room that nobody needs: the longest unused go
first, before any live session is refused. So are copies of what another node runs (5a.20, made by
`sparing.py`); they go before all others, and never take the room of anything.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from node.batching import Batcher
from node.engine import Lease, ShardEngine
from protocol.asking import PrefixNames
from protocol.errors import ManyhandsError
from protocol.hop_session import HopSession
from protocol.journal import Journal
from protocol.messages import Reserve, SessionId

log = logging.getLogger(__name__)

IDLE_S = 600.0
MAX_RETAINED = 256
COPY_IDLE_S = 60.0  # of copies: their clients ask again sooner, as long as an answer runs
MAX_COPIES, MAX_COPIES_OF_CLIENT = 256, 64
CLIENT_SHARE = 0.5  # of the room, that the copies of one client may take
PIECE_BYTES = 16 << 20  # of a copy between two steps: who decodes waits some milliseconds
MIN_PIECE = 64  # rows
PATIENCE_S = 1.0  # then the rest is copied at once: a client waits for this
WAIT_S = 2.0  # for a step to end; who cannot have that runs the rows again, behind that step


class Name(NamedTuple):
    """What must be equal for one session's rows to be another's. `owner` is "" when shared."""

    owner: str
    entry: int
    exit: int
    adapter: str
    row_bytes: int
    client_ends: bool
    digest: bytes


@dataclass(eq=False, slots=True)
class Rows:
    """What one session has run here, and with `ended_at` what is left of it."""

    client: str
    reserve: Reserve
    lease: Lease
    journal: Journal  # where the model ends there are no rows in it
    session: HopSession | None  # while it lives
    names: dict[int, Name] = field(default_factory=dict)
    left: int = 0
    n_bytes: int = 0
    ended_at: float | None = None

    @property
    def length(self) -> int:
        return self.left if self.session is None else self.session.length

    @property
    def longest(self) -> int:
        """The longest prefix that has a name; 0 if none has."""
        return max((position for position in self.names if position <= self.length), default=0)

    def has(self, position: int) -> bool:
        is_whole = not self.journal.start  # else a hop that left has run the first rows
        return is_whole and self.lease.floor <= position <= self.length


@dataclass(frozen=True, slots=True)
class Found:
    """The first `length` rows of `source` are what a new session asks for."""

    source: Rows
    length: int

    async def copied_to(self, lease: Lease, journal: Journal, batcher: Batcher) -> int:
        """Begin an empty lease and journal with these rows; how many they are now.

        None when they are replaced meanwhile, or of a kind that cannot be cut there.
        """
        try:
            await copy_rows(self.source, self.length, lease, journal, batcher)
        except (ManyhandsError, ValueError, RuntimeError) as error:  # torch's own, the last one
            log.warning("a prefix could not be copied", extra={"error": str(error)})
            journal.cut(0)
            return 0
        return self.length


class Prefixes:
    """All rows of a node that have a name."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.hits = 0  # sessions that began with rows of another
        self.positions = 0  # rows they did not have to run
        self.retained_bytes = 0
        self._clock = clock
        self._named: dict[Name, dict[Rows, None]] = {}  # newest last
        self._retained: dict[Rows, None] = {}  # longest unused first
        self._copies: dict[Rows, None] = {}  # likewise

    @property
    def n_retained(self) -> int:
        return len(self._retained)

    @property
    def n_copies(self) -> int:
        return len(self._copies)

    @property
    def n_kept(self) -> int:
        """Retained rows and copies."""
        return len(self._retained) + len(self._copies)

    # --- sessions that live -----------------------------------------------------------------------

    def name(self, rows: Rows, names: PrefixNames) -> None:
        """From now on these rows have these names and no others."""
        self._unname(rows)
        for position, name in _names(names, rows.client, rows.reserve, rows.journal.row_bytes):
            rows.names[position] = name
            self._named.setdefault(name, {})[rows] = None

    def cut(self, rows: Rows) -> None:
        """A client that holds the ends went back: what follows may be other rows than it named."""
        self._unname(rows, beyond=rows.length)

    def find(self, reserve: Reserve, client: str, row_bytes: int) -> Found | None:
        """The longest prefix of a session that begins that another one has run."""
        for position, name in reversed(_names(reserve.prefixes, client, reserve, row_bytes)):
            for rows in reversed(self._named.get(name, {})):
                if rows.names.get(position) == name and rows.has(position):
                    self._touch(rows)
                    return Found(rows, position)
        return None

    def used(self, length: int) -> None:
        """A session was committed to begin with this many rows of another."""
        self.hits += 1
        self.positions += length

    def drop(self, rows: Rows) -> None:
        """Forget rows: their session is over, or their room is needed."""
        self._unname(rows)
        for kept in (self._retained, self._copies):
            if rows in kept:
                del kept[rows]
                self.retained_bytes -= rows.n_bytes

    # --- sessions that are over -------------------------------------------------------------------

    def retain(self, rows: Rows, n_bytes: int, room_bytes: int) -> bool:
        """Keep what a session leaves, if it has a name and all that is kept stays within the room.

        Earlier turns of the same chat, which it continues, are given up.
        """
        longest = rows.longest
        if not longest or n_bytes > room_bytes:
            self.drop(rows)
            return False
        for position, name in rows.names.items():
            for other in list(self._named[name]):
                if other is not rows and other in self._retained and other.longest == position:
                    self.drop(other)
        self.give_way(n_bytes, room_bytes)
        while len(self._retained) >= MAX_RETAINED:
            self.drop(next(iter(self._retained)))
        rows.left, rows.session = rows.length, None  # with its texts and tokens
        rows.n_bytes, rows.ended_at = n_bytes, self._clock()
        self._retained[rows] = None
        self.retained_bytes += n_bytes
        return True

    def give_way(self, n_bytes: int, room_bytes: int) -> None:
        """Let go of the longest unused rows until `n_bytes` more fit into the room."""
        while self.n_kept and self.retained_bytes + n_bytes > room_bytes:
            self.drop(next(iter(self._copies or self._retained)))

    def shrunk(self, rows: Rows, lease: Lease, journal: Journal, n_bytes: int) -> None:
        """What is kept was copied to where it needs less room."""
        if rows in self._retained:
            self.retained_bytes += n_bytes - rows.n_bytes
            rows.lease, rows.journal, rows.n_bytes = lease, journal, n_bytes

    def expire(self) -> None:
        """Let go of what nobody asked for in IDLE_S."""
        now = self._clock()
        for kept, idle_s in ((self._retained, IDLE_S), (self._copies, COPY_IDLE_S)):
            for rows in list(kept):
                if rows.ended_at is not None and now - rows.ended_at >= idle_s:
                    self.drop(rows)

    def clear(self) -> None:
        for rows in (*self._retained, *self._copies):
            self.drop(rows)

    # --- copies of what another node runs ---------------------------------------------------------

    def copies(self, client: str, session: SessionId) -> list[Rows]:
        """What is held here for this session of this client."""
        return [r for r in self._copies if (r.client, r.reserve.session) == (client, session)]

    def may_copy(self, client: str, n_bytes: int, room_bytes: int) -> bool:
        """Whether there is room for one more that costs nobody anything."""
        theirs = [rows for rows in self._copies if rows.client == client]
        taken = sum(rows.n_bytes for rows in theirs)
        return (
            len(self._copies) < MAX_COPIES
            and len(theirs) < MAX_COPIES_OF_CLIENT
            and self.retained_bytes + n_bytes <= room_bytes
            and taken + n_bytes <= room_bytes * CLIENT_SHARE
        )

    def add_copy(self, rows: Rows, n_bytes: int) -> None:
        """An empty one, to be filled, after `may_copy`."""
        rows.n_bytes, rows.ended_at = n_bytes, self._clock()
        self._copies[rows] = None
        self.retained_bytes += n_bytes

    def copied(self, rows: Rows, length: int) -> bool:
        """It has so many rows now; False when it was dropped meanwhile."""
        rows.left = length
        self._touch(rows)
        return rows in self._copies

    # --- inside -----------------------------------------------------------------------------------

    def _touch(self, rows: Rows) -> None:
        for kept in (self._retained, self._copies):
            if rows in kept:
                rows.ended_at = self._clock()
                kept[rows] = kept.pop(rows)

    def _unname(self, rows: Rows, beyond: int = 0) -> None:
        kept = {at: name for at, name in rows.names.items() if at <= beyond}
        for name in set(rows.names.values()).difference(kept.values()):
            holders = self._named[name]
            del holders[rows]
            if not holders:
                del self._named[name]
        rows.names = kept


def _names(
    names: PrefixNames, client: str, reserve: Reserve, row_bytes: int
) -> list[tuple[int, Name]]:
    """The client's names, made this node's; in ascending order."""
    owner = "" if names.shared else client
    span, adapter = reserve.span, reserve.extensions.adapter
    of_chain = (span.start, span.stop, adapter, row_bytes, reserve.client_ends)
    return [(position, Name(owner, *of_chain, digest)) for position, digest in names.items()]


async def smaller(
    rows: Rows, engine: ShardEngine, batcher: Batcher
) -> tuple[Lease, Journal] | None:
    """A copy of what is kept that takes no more room than it needs; None: it cannot be made."""
    span, length = rows.reserve.span, rows.length
    journal = Journal(rows.journal.row_bytes, 0 if rows.reserve.is_last else length)
    try:
        lease = engine.open(length, entry=span.start, exit=span.stop)
        await copy_rows(rows, length, lease, journal, batcher)
    except (ManyhandsError, ValueError, RuntimeError) as error:  # then they stay as they are
        log.debug("rows were not copied", extra={"error": str(error)})
        return None
    return lease, journal


async def copy_rows(
    source: Rows,
    length: int,
    lease: Lease,
    journal: Journal,
    batcher: Batcher,
    *,
    piece_bytes: int = PIECE_BYTES,
    patience_s: float = PATIENCE_S,
) -> None:
    """The first rows into an empty lease and journal: where the engine is, piece by piece.

    Raises:
        ManyhandsError, ValueError: they were not, and what was copied is of no use.
        RuntimeError: there is no memory for them.
    """
    name, held, began_s = source.names.get(length), source.lease, time.monotonic()
    n_rows = max(MIN_PIECE, piece_bytes * held.capacity // max(1, held.n_bytes))
    start = 0
    while start < length:
        if source.session is not None and source.names.get(length) != name:
            raise ValueError("its session went back and has other rows now")
        # What is left of a beginning belongs together; and steps may be long here.
        at_once = held.floor > 0 or time.monotonic() - began_s >= patience_s
        stop = length if at_once else min(start + n_rows, length)

        piece = _Piece(source, lease, journal, start, stop)
        done = batcher.between_steps(piece.copy)
        await asyncio.wait((done,), timeout=WAIT_S)
        if not done.done():
            piece.is_wanted = False
            if piece.has_begun:
                await done
            raise ValueError("steps take too long here to wait for one")
        done.result()
        start = stop


@dataclass(slots=True)
class _Piece:
    """Positions `[start, stop)` of a copy, which may be given up until it has begun."""

    source: Rows
    lease: Lease
    journal: Journal
    start: int
    stop: int
    is_wanted: bool = True
    has_begun: bool = False

    def copy(self) -> None:
        self.has_begun = True  # set before the look: who gives up sets the other first
        if not self.is_wanted:
            return
        self.lease.load(self.source.lease.export(self.start, self.stop))
        if not self.source.reserve.is_last:
            self.journal.extend_from(self.source.journal, self.stop)
