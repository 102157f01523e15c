"""Who serves, as a client learns it: ask a few peers of the swarm for their tables, merge them.

In: addresses to begin at. Out: a `Directory` of verified announcements. A client announces nothing
and needs no open port. Which route to take is left to `routing.py`, waiting for missing blocks to
whoever wants the route.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from protocol.adapter_names import bare, is_pinned
from protocol.address import Address
from protocol.announcement_table import AnnouncementTable
from protocol.announcements import Announcement
from protocol.clock import wall_ms
from protocol.errors import (
    ManyhandsError,
    PeerError,
    PeerUnreachable,
    UsageError,
)
from protocol.gossip_rules import MAX_STEPS, METHOD, Exchange
from protocol.identity import PeerId
from protocol.path import Path
from protocol.path_book import Way
from protocol.transport import Connection, Transport
from protocol.transport.paths import paths_of
from scheduler.latency import Pair
from scheduler.refusal import incomplete
from scheduler.wanted import GroupsOf, Wanted

MAX_ASKED = 8
MAX_ROUNDS = 64  # answers are bounded: a large table comes in parts
MAX_RTTS, RTT_AGE_S = 16, 300.0  # of one pair; an older one says nothing about now
MAX_PAIRS = 1_000
GRACE_S = 0.2  # what the others get once the first has answered


@dataclass(slots=True)
class Directory:
    """What is known of a swarm, kept across fetches. One per client."""

    table: AnnouncementTable
    now_ms: Callable[[], int] = wall_ms
    groups_of: GroupsOf | None = None  # by certificates; None in a swarm that gives none
    heard: Callable[[float, Path], None] = lambda rtt_s, path: (
        None
    )  # of each round trip; may be set
    _rtts: dict[tuple[Pair, Path], deque[tuple[float, float]]] = field(
        default_factory=dict
    )  # (at_s, ms)
    _last: tuple[tuple[Announcement, ...], Wanted] | None = None  # judged by these records
    _met: tuple[Announcement, ...] = ()  # when somebody was live last

    @property
    def rtt_ms(self) -> dict[Pair, float]:
        """Round trips as this client measured them: the least of each pair's recent ones."""
        oldest_s = time.monotonic() - RTT_AGE_S
        least: dict[Pair, tuple[int, float]] = {}  # of the best path that was measured
        for (pair, path), seen in self._rtts.items():
            recent = [ms for at, ms in seen if at > oldest_s]
            if recent:
                found = (path.rank, min(recent))
                least[pair] = min(found, least.get(pair, found))
        return {pair: ms for pair, (_, ms) in least.items()}

    def note_rtt(self, pair: Pair, rtt_ms: float, path: Path = Path.DIRECT) -> None:
        self.heard(rtt_ms / 1000, path)
        seen = self._rtts.pop((pair, path), None) or deque(maxlen=MAX_RTTS)
        seen.append((time.monotonic(), rtt_ms))
        self._rtts[pair, path] = seen  # who was measured last stands last
        if len(self._rtts) > MAX_PAIRS:
            del self._rtts[next(iter(self._rtts))]

    def live(self) -> tuple[Announcement, ...]:
        live = self.table.live(self.now_ms())
        self._met = live or self._met
        return live

    def met(self) -> tuple[Announcement, ...]:
        """Who is live; after a time in which nobody was asked, who was when it began."""
        return self.live() or self._met

    def whom_to_ask(
        self, join: Sequence[Address], rng: random.Random, avoid: Collection[str] = ()
    ) -> list[Address]:
        """Those we were told of and those we heard of since, neither in the others' way.

        Peers come and go: of a swarm that a client knows for long, all it was told of may be gone.
        """
        known = [way for peer in self.met() if peer.peer_id not in avoid for way in peer.ways]
        told = [address for address in join if address.peer_id not in avoid]
        rng.shuffle(known)
        if len(told) > (room := max(MAX_ASKED // 2, MAX_ASKED - len(known))):
            told = rng.sample(told, room)
        return [*told, *known] or list(join)

    def loading(self) -> tuple[Announcement, ...]:
        """Who will serve, once it has loaded."""
        return self.table.loading(self.now_ms())

    def get(self, peer_id: PeerId) -> Announcement | None:
        return self.table.get(peer_id, self.now_ms())

    def hosts(self, manifest: bytes) -> tuple[Announcement, ...]:
        """Who serves some blocks of one model."""
        return tuple(peer for peer in self.live() if peer.manifest == manifest)

    def models(self) -> Mapping[bytes, tuple[Announcement, ...]]:
        """The hosts of every model, by the digest of its manifest."""
        manifests = dict.fromkeys(peer.manifest for peer in self.live())
        return {manifest: self.hosts(manifest) for manifest in manifests}

    def judged(self, wanted: Wanted) -> Wanted:
        """The same, by what this table shows of regions and groups."""
        limits, live = wanted.limits, self.live()
        if not limits.regions and not limits.groups:
            return wanted
        if self._last is None or self._last[0] is not live or self._last[1].limits != limits:
            self._last = live, wanted.judged(live, self.groups_of)
        last = self._last[1]
        return replace(wanted, doubted=last.doubted, members=last.members)

    def require_complete(self, wanted: Wanted, *, model: str = "") -> None:
        """Return if every block is served.

        Raises:
            SwarmIncomplete: naming the blocks that are not, and the constraint that leaves them so.
        """
        refusal = incomplete(self.live(), wanted, model=model)
        if refusal is not None:
            raise refusal

    def pin_adapter(self, manifest: bytes, name: str) -> str:
        """The one `name@digest` that hosts of this model announce; `name` itself if none does.

        Raises:
            UsageError: there are several, and nobody here knows which is meant.
        """
        if not name or is_pinned(name):
            return name
        found = {a for peer in self.hosts(manifest) for a in peer.adapters if bare(a) == name}
        if len(found) > 1:
            names = ", ".join(sorted(found)[:5])
            raise UsageError(
                f"peers serve {len(found)} adapters called {name}", hint=f"ask for one: {names}"
            )
        return found.pop() if found else name


async def fetch_directory(
    transport: Transport,
    addresses: Sequence[Address],
    directory: Directory,
    *,
    timeout_s: float = 5.0,
    connections: dict[PeerId, Connection] | None = None,
    at_hand: Mapping[str, Connection] | None = None,
) -> None:
    """Ask the first `MAX_ASKED` of `addresses` at once, and merge what they say.

    Returns soon after the first has answered: a dead address costs no waiting.

    Args:
        connections: used where it has one, and given those that were dialled; None closes them.
        at_hand: connections of others to some of these peers, used first, and left as they are.

    Raises:
        PeerUnreachable: nobody answered in time.
        PeerError: all failed otherwise; the reason of the first.
    """
    kept = {} if connections is None else connections
    asking = [
        asyncio.create_task(_ask(transport, address, directory, kept, at_hand or {}, timeout_s))
        for address in dict.fromkeys(addresses[:MAX_ASKED])
    ]
    try:
        failures = await _first_answer(asking, timeout_s)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        if connections is None:
            for connection in kept.values():
                await connection.aclose()
    if failures is not None:
        raise _why_nobody(failures, timeout_s)


async def _first_answer(
    asking: Sequence[asyncio.Task[None]], timeout_s: float
) -> list[ManyhandsError] | None:
    """None once somebody has answered, else why each of them did not."""
    pending = set(asking)
    deadline_s = time.monotonic() + timeout_s
    while pending and (left_s := deadline_s - time.monotonic()) > 0:
        done, pending = await asyncio.wait(
            pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
        )
        if any(task.exception() is None for task in done):
            if pending:
                await asyncio.wait(pending, timeout=GRACE_S)
            return None
    failures = []
    for task in asking:
        error = task.exception() if task.done() else None
        if isinstance(error, ManyhandsError):
            failures.append(error)
        elif error is not None:
            raise error  # a mistake of ours
    return failures


async def _ask(
    transport: Transport,
    address: Address,
    directory: Directory,
    connections: dict[PeerId, Connection],
    at_hand: Mapping[str, Connection],
    timeout_s: float,
) -> None:
    peer_id = address.peer_id
    lent = at_hand.get(peer_id)
    connection = lent or connections.get(peer_id)
    if connection is None:
        dialled = await transport.dial(address, timeout_s=timeout_s)
        paths_of(transport).book.worked(peer_id, Way(dialled.path, address))
        connection = connections.setdefault(peer_id, dialled)
        if connection is not dialled:  # reached meanwhile at another of its addresses
            await dialled.aclose()
    try:
        for _ in range(MAX_ROUNDS):
            if not await _compare(transport, connection, directory, timeout_s):
                return
    except ManyhandsError:
        if connection is not lent:
            connections.pop(peer_id, None)
            await connection.aclose()
        raise


async def _compare(
    transport: Transport, connection: Connection, directory: Directory, timeout_s: float
) -> int:
    """Learn what the other side has and we have not, as much as one exchange brings."""
    exchange, n_taken = Exchange(directory.table, gives=False), 0
    message, pair = exchange.question(directory.now_ms()), (transport.peer_id, connection.peer_id)
    for step in range(MAX_STEPS):
        began_s = time.monotonic()
        told = await connection.call(METHOD, message, timeout_s=timeout_s)
        if step == 0:  # later answers may be large
            directory.note_rtt(pair, (time.monotonic() - began_s) * 1000, connection.path)
        taken = exchange.take(told, sender=connection.peer_id, now_ms=directory.now_ms())
        n_taken += taken.n_taken
        message = taken.reply
        if not message:
            break
    return n_taken


def _why_nobody(failures: Sequence[ManyhandsError], timeout_s: float) -> ManyhandsError:
    hint = "check the --join addresses, and that a node is up: manyhands serve MODEL"
    others = [failure for failure in failures if not isinstance(failure, PeerUnreachable)]
    if others and len(others) == len(failures):
        return others[0]
    reasons = "; ".join(str(failure) for failure in failures)
    peer_id = failures[0].peer_id if failures and isinstance(failures[0], PeerError) else ""
    if len(failures) == 1:
        return PeerUnreachable(peer_id, _reason(failures[0]), hint=hint)
    return PeerUnreachable("", reasons or f"nobody answered within {timeout_s:g} s", hint=hint)


def _reason(failure: ManyhandsError) -> str:
    return failure.reason if isinstance(failure, PeerError) else str(failure)
