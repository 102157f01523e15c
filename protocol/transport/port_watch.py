"""The connections at a listener's port: who has not proven anything goes first, and soon.

In: the sockets of this process, word of each that is accepted, and of those on which somebody was
admitted. Out: sockets shut down. gRPC accepts by itself, as fast as it can, and knows no limit per
address: a flood of connections that say nothing would take all file descriptors for ten seconds at
a time. This looks
at what was accepted, once a second while there is anything new. Connections of who was admitted are
never touched. Of the others each address has a few, for a while; where there are too many, the
oldest goes: whoever is honest behind the same address is through with its handshake before it is
the oldest. What relays and tunnels bring comes from this machine, and counts by who brings it
(`origins`).

Nothing is banned by address, and no byte passes through here: see DECISIONS.md for what a proxy in
front would cost. Where a process cannot see its own descriptors, nothing is done.
"""

import asyncio
import os
import socket
import stat
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from protocol.transport.origins import brought_by

UNPROVEN_S = 15.0  # what a handshake and the first call may take
PER_ADDRESS, IN_ALL = 64, 1024  # connections that have proven nothing
LOOK_S, BUSY_LOOK_S = 1.0, 0.2  # between two looks; while there is much to close
SHARED_S = 0.1  # for how long what one listener saw is true for another
_FOLDERS = ("/proc/self/fd", "/dev/fd")
Endpoint = tuple[str, int]


@dataclass(slots=True)
class Arrival:
    """An accepted connection."""

    inode: int
    descriptor: int
    remote: Endpoint
    since_s: float
    is_proven: bool = False
    by: str = ""  # who brought it, if not its address

    @property
    def network(self) -> str:
        """Of one customer, as far as an address can tell: a host, or an IPv6 network of 64 bits."""
        if self.by:
            return self.by
        address = ip_address(self.remote[0])
        if isinstance(address, IPv6Address):
            return str(int(address) >> 64)
        return str(address)


def overdue(arrivals: Iterable[Arrival], now_s: float) -> list[Arrival]:
    """Which connections to close now. Pure."""
    waiting = sorted((each for each in arrivals if not each.is_proven), key=lambda a: a.since_s)
    late = [each for each in waiting if now_s - each.since_s > UNPROVEN_S]
    fresh = deque(waiting[len(late) :])
    by_network = Counter(each.network for each in fresh)
    crowded: list[Arrival] = []
    kept: list[Arrival] = []
    for each in fresh:
        if by_network[each.network] > PER_ADDRESS:
            by_network[each.network] -= 1
            crowded.append(each)
        else:
            kept.append(each)
    return [*late, *crowded, *kept[: max(0, len(kept) - IN_ALL)]]


class PortWatch:
    """Of one port. `look` now and then; all of it on the listener's event loop."""

    def __init__(
        self, port: int, host: str = "", now_s: Callable[[], float] = time.monotonic
    ) -> None:
        """`host`: where the listener listens, if that is one address."""
        self.n_closed = 0
        self._port, self._host, self._now_s = port, _address(host), now_s
        self._arrivals: dict[int, Arrival] = {}  # by inode, which no other socket has meanwhile
        self._others: set[int] = set()  # inodes that are none of ours
        self._proven: set[Endpoint] = set()  # since the last look, or still there
        self._has_news = True
        self._folder = next((each for each in _FOLDERS if os.path.isdir(each)), "")

    def __len__(self) -> int:
        return len(self._arrivals)

    @property
    def n_unproven(self) -> int:
        return sum(not each.is_proven for each in self._arrivals.values())

    async def run(self) -> None:
        """Look while there is something to see, until cancelled."""
        while True:
            is_busy = bool((self._has_news or self.n_unproven) and self.look())
            await asyncio.sleep(BUSY_LOOK_S if is_busy else LOOK_S)

    def accepted(self) -> None:
        """There is a new connection. From any thread."""
        self._has_news = True

    def prove(self, remote: Endpoint) -> None:
        """Somebody was admitted on the connection from there."""
        self._proven.add((_plain(remote[0]), remote[1]))

    def look(self) -> int:
        """How many connections were closed."""
        self._has_news = False
        self._find()
        doomed = overdue(self._arrivals.values(), self._now_s())
        for each in doomed:
            _shut(each)
            del self._arrivals[each.inode]
        self.n_closed += len(doomed)
        return len(doomed)

    def _find(self) -> None:
        """Bring what is known up to date."""
        seen = _sockets(self._folder)
        for inode in self._arrivals.keys() - seen.keys():
            del self._arrivals[inode]
        self._others &= seen.keys()
        now_s = self._now_s()
        for inode in seen.keys() - self._arrivals.keys() - self._others:
            with _copied(seen[inode], inode) as copy:
                if copy is None:  # it is over, or was seen under a number that it had for a moment
                    continue
                remote = self._remote(copy)
            if remote is None:
                self._others.add(inode)
            else:
                self._arrivals[inode] = Arrival(inode, seen[inode], remote, now_s)
        for each in self._arrivals.values():
            each.is_proven = each.is_proven or each.remote in self._proven
            each.by = each.by or brought_by(each.remote)
        self._proven &= {each.remote for each in self._arrivals.values()}

    def _remote(self, connection: socket.socket) -> Endpoint | None:
        """The other end, if this is a connection that came to our port."""
        if connection.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        try:
            ours, theirs = connection.getsockname(), connection.getpeername()
        except OSError:  # it listens, or is over
            return None
        if ours[1] != self._port or (self._host and _plain(ours[0]) != self._host):
            return None
        return _plain(theirs[0]), theirs[1]


def _sockets(folder: str) -> dict[int, int]:
    """Descriptors of this process's sockets by inode; many listeners of one process look once."""
    global _found
    now_s = time.monotonic()
    if now_s - _found[0] >= SHARED_S:
        _found = now_s, dict(_each_socket(folder) if folder else ())
    return _found[1]


_found: tuple[float, dict[int, int]] = (float("-inf"), {})


def _each_socket(folder: str) -> Iterator[tuple[int, int]]:
    for name in os.listdir(folder):
        try:
            found = os.fstat(int(name))
        except (OSError, ValueError):  # closed meanwhile: the one that listed, for instance
            continue
        if stat.S_ISSOCK(found.st_mode):
            yield found.st_ino, int(name)


def _shut(arrival: Arrival) -> None:
    """End a connection under the hands of whoever owns it, who reads its end and closes it."""
    with _copied(arrival.descriptor, arrival.inode) as copy, suppress(OSError):
        if copy is not None:
            copy.shutdown(socket.SHUT_RDWR)


@contextmanager
def _copied(descriptor: int, inode: int) -> Iterator[socket.socket | None]:
    """Another descriptor of that socket, for as long as it is looked at.

    None: the number means something else by now. Whoever owned it has closed it, and the number was
    given to a file, or to another socket.
    """
    try:
        copy = os.dup(descriptor)
    except OSError:
        yield None
        return
    found = os.fstat(copy)
    if found.st_ino != inode or not stat.S_ISSOCK(found.st_mode):
        os.close(copy)
        yield None
        return
    with socket.socket(fileno=copy) as copied:
        yield copied


def _address(host: str) -> str:
    try:
        return _plain(host)
    except ValueError:  # a name
        return ""


def _plain(host: str) -> str:
    """An IPv4 address that came over an IPv6 socket is one all the same."""
    address = ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
