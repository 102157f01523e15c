"""Links of any kind between network namespaces: every packet passes a process that we wrote.

In: how many places, ways between them. Out: a host for each, and one for the client, whose only
way to another one is a TUN device; what is sent there is read here, dropped, queued, held back as
`ways.Way` says, in order, and written to the device of whom it is for. TCP is the kernel's own and
meets real loss: its windows, timers and retransmissions are not a model. It needs root and
`/dev/net/tun`, not netem (which this needs not have), and some processor time: about 100 Mbit/s.

    with Cloud(4) as cloud:
        links = await cloud.open_links()
        await links.tell(Orders(ways={(0, 1): Way(25, loss=0.01)}))
        cloud.hosts[0].start("any", "program")        # `tests.namespaces.lab.Host`
        cloud.enter_as_client()                       # this thread, and those that it starts

`python -m benchmarks.linklab.tun` is that process, told what to do as `control.py` says.
"""

import asyncio
import fcntl
import heapq
import os
import socket
import struct
import sys
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.linklab.control import OUTSIDE, Links, Orders, obey, punctual_loop
from benchmarks.linklab.node_program import enter, enter_again
from benchmarks.linklab.priority import LINKS, put_first
from benchmarks.linklab.swarm import LabSwarm
from benchmarks.linklab.ways import Ground, Sums
from manyhands.local import LocalNode
from protocol.address import Address
from protocol.errors import ConfigError
from tests.namespaces import lab

NETWORK = "203.0.113"  # RFC 5737, TEST-NET-3
DEVICE = b"lab0"
QUEUE_S = 0.2  # what would wait longer before a line is dropped, as a router's queue does
AT_ONCE = 64  # packets of one device, before others are looked at
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def why_not() -> str:
    """What keeps this machine from it; empty if nothing does."""
    if missing := lab.why_not():
        return missing
    return "" if Path("/dev/net/tun").exists() else "there is no /dev/net/tun"


def address_of(place: int) -> str:
    return f"{NETWORK}.{place - OUTSIDE + 1}"


class Cloud:
    """See the module. Leaving it ends all that was started on its hosts."""

    def __init__(self, n_places: int, tcp: str = "") -> None:
        """tcp: the congestion control on all hosts; empty: the machine's."""
        self._lab, self._n_places, self._tcp = lab.Lab(), n_places, tcp
        self.hosts: dict[int, lab.Host] = {}
        self._devices: dict[int, int] = {}
        self._outside: int | None = None  # where this thread was before it was a client

    def __enter__(self) -> Self:
        self._lab.__enter__()
        for place in (OUTSIDE, *range(self._n_places)):
            host = self._lab.host("client" if place == OUTSIDE else f"peer{place}")
            host.run("ip", "link", "delete", "wan")  # no way but ours
            self._devices[place] = host.inside(_open_device)
            commands = [
                f"ip addr add {address_of(place)}/24 dev {DEVICE.decode()}",
                f"ip link set {DEVICE.decode()} mtu 1500 up",
            ]
            if self._tcp:
                commands.append(f"sysctl -w net.ipv4.tcp_congestion_control={self._tcp}")
            for command in commands:
                ended = host.run(*command.split())
                if ended.code:
                    raise ConfigError(f"{command}: {ended.err}")
            self.hosts[place] = host
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._outside is not None:  # whoever is in there ends with it
            enter_again(self._outside)
            os.close(self._outside)
        for device in self._devices.values():
            os.close(device)
        self._lab.__exit__(kind, error, traceback)

    async def open_links(self) -> Links:
        """The process that carries packets; nothing passes before it runs."""
        devices = [f"{place}={device}" for place, device in self._devices.items()]
        fds = tuple(self._devices.values())
        return await Links.open("benchmarks.linklab.tun", *devices, fds=fds)

    def enter_as_client(self) -> None:
        """Before anything here starts a thread: those that run stay where they are."""
        self._outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        enter(self.hosts[OUTSIDE].namespace)


def _open_device() -> int:
    """A TUN device in the namespace of this thread."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", DEVICE, _IFF_TUN | _IFF_NO_PI))
    return device


class TunSwarm(LabSwarm):
    """A lab's swarm on the hosts of a cloud. Set `cloud` and `carrier` on a class of your own."""

    program = (str(Path(__file__).with_name("node_program.py")),)
    cloud: Cloud
    carrier: Links

    async def _make_links(self) -> Links:
        for node in self.nodes:
            old = node.address
            node.address = Address(address_of(node.index), old.port, old.peer_id)
        await self.carrier.tell(Orders(ways=self._ways, uplinks=self._uplinks))
        return self.carrier

    async def _leave_links(self) -> None:
        """Others go on."""

    async def _learn_pids(self, links: Links) -> None:
        """Packets say where they come from."""

    def _where(self, node: LocalNode) -> tuple[str, ...]:
        namespace = self.cloud.hosts[node.index].namespace
        here = f"{node.address.host}:{node.address.port}"
        return ("--listen", here, "--lab-namespace", namespace, *self._more)


class Carrier:
    """Reads packets from all devices, and writes each to the one it is for in its time."""

    def __init__(self, devices: dict[int, int], ground: Ground) -> None:
        self._devices, self._ground = devices, ground
        self._places = {socket.inet_aton(address_of(place)): place for place in devices}
        self._loop = asyncio.get_running_loop()
        self._waiting: list[
            tuple[float, int, tuple[int, int], bytes]
        ] = []  # when, for order, where
        self._last_s: dict[tuple[int, int], float] = {}
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None
        for place, device in devices.items():
            self._loop.add_reader(device, partial(self._read, place, device))

    def _read(self, place: int, device: int) -> None:
        for _ in range(AT_ONCE):
            try:
                packet = os.read(device, 65536)
            except BlockingIOError:
                break
            to = self._places.get(packet[16:20]) if packet[0] >> 4 == 4 else None
            if to is not None:
                self._carry(place, to, packet)
        self._write()

    def _carry(self, a: int, b: int, packet: bytes) -> None:
        ground, now_s = self._ground, self._loop.time()
        way, lines = ground.way(a, b), ground.lines(a, b)
        is_full = any(line.queued_s(now_s) > QUEUE_S for line in lines)
        is_lost = is_full or ground.rng.random() < way.loss
        ground.count((a, b), Sums(n_bytes=len(packet), n_lost=int(is_lost)))
        if is_lost:
            return
        left_s = now_s
        for line in lines:
            left_s = line.takes(left_s, len(packet))
        comes_s = max(self._last_s.get((a, b), 0.0), left_s + way.delay_s(ground.rng))
        self._last_s[a, b] = comes_s
        heapq.heappush(self._waiting, (comes_s, next(self._numbers), (a, b), packet))

    def _write(self) -> None:
        """What is due, and wait for what is next."""
        now_s = self._loop.time()
        while self._waiting and self._waiting[0][0] <= now_s:
            due_s, _, pair, packet = heapq.heappop(self._waiting)
            self._ground.count(pair, Sums(n_came=1, late_s=now_s - due_s))
            with suppress(OSError):  # the device is full, or its host is gone: the packet is lost
                os.write(self._devices[pair[1]], packet)
        if self._timer is not None:
            self._timer.cancel()
        due_s = self._waiting[0][0] if self._waiting else None
        self._timer = None if due_s is None else self._loop.call_at(due_s, self._write)


async def _serve(devices: dict[int, int]) -> None:
    ground = Ground({}, {}, seed=1)
    Carrier(devices, ground)

    async def follow(orders: Orders) -> None:
        if orders.ways is not None:
            ground.lay(orders.ways, orders.uplinks)

    await obey(follow, ground)


if __name__ == "__main__":
    put_first(LINKS)  # where it may; else links are later than asked, and say so
    pairs = (argument.split("=") for argument in sys.argv[1:])
    given = {int(place): int(device) for place, device in pairs}
    with asyncio.Runner(loop_factory=punctual_loop) as runner:
        runner.run(_serve(given))
