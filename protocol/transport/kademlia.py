"""The distributed hash table as this peer speaks it: Kademlia on libp2p streams, on trio.

In: a py-libp2p host, and a keeper to ask for values. Out: walks towards a key, and answers to those
of others. The messages and distances are libp2p's kad-dht specification, the table of peers is
py-libp2p's with its limit of peers per subnet. Its own handlers are not used: they let one stream
wait for ever and keep up to 50,000 values of a megabyte. Here a value is the keeper's affair, keys
of others are refused before anything is parsed further, providers are not kept at all, and every
request costs its sender a token and has a deadline.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio
import varint
from libp2p.custom_types import TProtocol
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.kad_dht.routing_table import RoutingTable
from libp2p.kad_dht.utils import sort_peer_ids_by_distance
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.utils.varint import read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

from protocol.identity import PeerId
from protocol.rate_limits import Limit, RateLimit
from protocol.record_pages import MAX_PUT_BYTES, MAX_VALUE_BYTES
from protocol.transport.control_plane import CLOSEST, PlaneLimits

log = logging.getLogger(__name__)

PROTOCOL = TProtocol("/ipfs/kad/1.0.0")
ALPHA = 4  # requests of one walk at once
BETA = 3  # the closest so many have to answer before a walk that looks for peers ends
MAX_WALK = 3 * CLOSEST  # peers asked in one walk
MAX_KEY_BYTES = 64
MAX_REQUEST_BYTES = MAX_PUT_BYTES + 2048
MAX_ANSWER_BYTES = MAX_VALUE_BYTES + 64 * 1024
MAX_CLOSER, MAX_ADDRESSES = 20, 4
MAX_REQUESTS_PER_STREAM = 64
MAX_KNOWN = 500  # peers whose addresses and keys the host remembers
NEAR_S, SMALL_NEAR_S = 300.0, 30.0  # who is closest to a key is asked again after that
_IDS = ("FIND_NODE", "GET_VALUE", "PUT_VALUE", "PING")
FIND_NODE, GET_VALUE, PUT_VALUE, PING = (Message.MessageType.Value(name) for name in _IDS)

Keep = Callable[[PeerId, bytes, bytes], Awaitable[bool]]
Kept = Callable[[PeerId, bytes], Awaitable[bytes]]
Admits = Callable[[PeerId], bool]


@dataclass(slots=True)
class _Near:
    """Who was closest to a key, and until when that is believed."""

    peers: list[ID]
    infos: dict[ID, PeerInfo]
    until_s: float


@dataclass(slots=True)
class _Walk:
    """What one walk has heard so far."""

    key: bytes
    candidates: list[ID]
    infos: dict[ID, PeerInfo] = field(default_factory=dict)
    asked: set[ID] = field(default_factory=set)
    answered: list[ID] = field(default_factory=list)
    told: list[tuple[ID, bytes]] = field(default_factory=list)

    def closest(self, n: int) -> list[ID]:
        """Of those heard of, and that have not failed."""
        failed = self.asked - set(self.answered)
        alive = [peer for peer in dict.fromkeys(self.candidates) if peer not in failed]
        return list(sort_peer_ids_by_distance(self.key, alive))[:n]

    def next(self, n: int) -> list[ID]:
        """Whom to ask now: those of the closest that were not asked yet."""
        return [peer for peer in self.closest(n) if peer not in self.asked][:ALPHA]


class Kademlia:
    """Both sides, over one host. All of it on trio."""

    def __init__(
        self, host: Any, keep: Keep, kept: Kept, admits: Admits, limits: PlaneLimits
    ) -> None:
        self.refused: Counter[str] = Counter()
        self.table = RoutingTable(host.get_id(), host)
        self._host, self._keep, self._kept, self._limits = host, keep, kept, limits
        self._admits = admits
        self._requests = RateLimit(Limit(limits.requests_per_s, limits.requests_burst))
        self._near: dict[bytes, _Near] = {}
        host.set_stream_handler(PROTOCOL, self.handle)

    # --- asking -----------------------------------------------------------------------------------

    async def find(self, key: bytes, n_peers: int) -> list[tuple[ID, bytes]]:
        """What up to `n_peers` of those closest to `key` keep there."""
        request = Message(type=GET_VALUE, key=key)
        walk = await self._walk(key, request, n_peers)
        return walk.told

    async def publish(self, key: bytes, value: bytes) -> int:
        """Have those closest to `key` keep `value`; how many took it."""
        request = Message(type=PUT_VALUE, key=key)
        request.record.key, request.record.value = key, value
        taken: list[ID] = []

        async def put(peer: ID) -> None:
            answer = await self._request(peer, request, near.infos.get(peer))
            if answer is not None and answer.type == PUT_VALUE and answer.key == key:
                taken.append(peer)

        near = await self._closest(key)
        async with trio.open_nursery() as nursery:
            for peer in near.peers:
                nursery.start_soon(put, peer)
        return len(taken)

    async def meet(self, connected: Iterable[ID]) -> None:
        """Take those who are connected and speak Kademlia into the table."""
        for peer in connected:
            if not self.table.peer_in_table(peer) and _speaks_kademlia(self._host, peer):
                await self.table.add_peer(peer, skip_server_mode_check=True)

    def forget(self, connected: Iterable[ID]) -> None:
        """Keep the host's book of peers small.

        The library never tidies it by itself, and when a thousand are in it throws out whom it
        finds without addresses first, our own keys among them.
        """
        book = self._host.get_peerstore()
        known = book.peer_ids()
        if len(known) > MAX_KNOWN:
            kept = {self._host.get_id(), *connected, *self.table.get_peer_ids()}
            for peer in known:
                if peer not in kept:
                    book.clear_peerdata(peer)

    async def settle(self) -> None:
        """Find those who are closest to ourselves, so that we know them and they know us."""
        own = self._host.get_id().to_bytes()
        await self._walk(own, Message(type=FIND_NODE, key=own), CLOSEST)

    async def _closest(self, key: bytes) -> _Near:
        near = self._near.get(key)
        if near is not None and trio.current_time() < near.until_s and near.peers:
            return near
        walk = await self._walk(key, Message(type=FIND_NODE, key=key), BETA)
        peers = walk.closest(CLOSEST)
        # A small neighbourhood is still growing.
        lasts_s = NEAR_S if len(peers) >= CLOSEST else SMALL_NEAR_S
        self._near[key] = _Near(peers, walk.infos, trio.current_time() + lasts_s)
        return self._near[key]

    async def _walk(self, key: bytes, request: Any, n: int) -> _Walk:
        """Ask ever closer peers, until the `n` closest that answer have answered."""
        known = self.table.find_local_closest_peers(key, MAX_CLOSER)
        walk = _Walk(key, [*known, *self._host.get_connected_peers()])
        while len(walk.asked) < MAX_WALK and (batch := walk.next(n)):
            walk.asked.update(batch)
            async with trio.open_nursery() as nursery:
                for peer in batch:
                    nursery.start_soon(self._step, walk, peer, request)
        return walk

    async def _step(self, walk: _Walk, peer: ID, request: Any) -> None:
        answer = await self._request(peer, request, walk.infos.get(peer))
        if answer is None:
            return
        walk.answered.append(peer)
        if answer.HasField("record") and answer.record.key == walk.key and answer.record.value:
            walk.told.append((peer, answer.record.value))
        for each in answer.closerPeers[:MAX_CLOSER]:
            info = _read_peer(each)
            if info is not None and info.peer_id != self._host.get_id():
                walk.infos.setdefault(info.peer_id, info)
                walk.candidates.append(info.peer_id)

    async def _request(self, peer: ID, request: Any, info: PeerInfo | None = None) -> Any:
        """An answer, or None: whoever fails us is forgotten until it is heard of again."""
        stream = None
        with trio.move_on_after(self._limits.timeout_s):
            try:
                if info is not None and info.addrs:
                    await self._host.connect(info)
                stream = await self._host.new_stream(peer, [PROTOCOL])
                answer = await self._ask(stream, request)
                await self.table.add_peer(peer, skip_server_mode_check=True)
                return answer
            except Exception as error:  # of a library with many kinds, about a stranger
                log.debug("a request failed", extra={"peer": str(peer), "reason": repr(error)})
            finally:
                if stream is not None:
                    await _end(stream)
        self.table.remove_peer(peer)
        return None

    async def _ask(self, stream: Any, request: Any) -> Any:
        await _write(stream, request)
        data = await read_varint_prefixed_bytes_limited(stream, MAX_ANSWER_BYTES)
        answer = Message()
        answer.ParseFromString(data)
        return answer

    # --- answering --------------------------------------------------------------------------------

    async def handle(self, stream: Any) -> None:
        """One stream of another peer: requests and their answers, until it or our patience ends."""
        peer = stream.muxed_conn.peer_id
        is_clean = False
        try:
            await self.table.add_peer(peer, skip_server_mode_check=True)
            for _ in range(MAX_REQUESTS_PER_STREAM):
                with trio.move_on_after(self._limits.timeout_s) as deadline:
                    is_clean = not await self._answer_one(peer, stream)
                if deadline.cancelled_caught:
                    self.refused["stalled"] += 1
                if deadline.cancelled_caught or is_clean:
                    break
        except _Refused as refused:
            self.refused[refused.reason] += 1
        except Exception as error:  # the connection ended, or bytes that are no message
            log.debug("a stream ended badly", extra={"peer": str(peer), "reason": repr(error)})
        with trio.move_on_after(1.0, shield=True), contextlib.suppress(Exception):
            await (stream.close() if is_clean else stream.reset())

    async def _answer_one(self, peer: ID, stream: Any) -> bool:
        """Whether there may be another request."""
        data = await _read_request(stream)
        if not data:
            return False
        if not self._requests.take(str(peer), 1.0, trio.current_time()):
            raise _Refused("too many")
        if not self._admits(PeerId(str(peer))):
            raise _Refused("peer not admitted")
        request = Message()
        try:
            request.ParseFromString(data)
        except Exception as error:
            raise _Refused("malformed") from error
        await _write(stream, await self._answer(peer, request))
        return True

    async def _answer(self, peer: ID, request: Any) -> Any:
        if request.type == PING:
            return Message(type=PING)
        if request.type not in (FIND_NODE, GET_VALUE, PUT_VALUE):
            raise _Refused("unsupported")  # providers among them
        if not 0 < len(request.key) <= MAX_KEY_BYTES:
            raise _Refused("bad key")
        answer = Message(type=request.type, key=request.key)
        if request.type == PUT_VALUE:
            record = request.record
            if record.key != request.key or not record.value:
                raise _Refused("malformed")
            if not await self._keep(PeerId(str(peer)), request.key, record.value):
                raise _Refused("not kept")
            answer.record.key, answer.record.value = record.key, record.value
            return answer
        if request.type == GET_VALUE:
            value = await self._kept(PeerId(str(peer)), request.key)
            if value:
                answer.record.key, answer.record.value = request.key, value
        near = self.table.find_local_closest_peers(request.key, MAX_CLOSER)
        if request.type == FIND_NODE:  # the one peer that was asked for, and we ourselves
            near = [ID(request.key), *(each for each in near if each.to_bytes() != request.key)]
        for each in near:
            if each != peer:
                self._describe(answer, each)
        return answer

    def _describe(self, answer: Any, peer: ID) -> None:
        addresses = self._addresses_of(peer)
        if addresses:
            told = answer.closerPeers.add()
            told.id = peer.to_bytes()
            told.addrs.extend(each.to_bytes() for each in addresses)

    def _addresses_of(self, peer: ID) -> Sequence[Any]:
        if peer == self._host.get_id():
            return list(self._host.get_addrs())[:MAX_ADDRESSES]
        try:
            return list(self._host.get_peerstore().addrs(peer))[:MAX_ADDRESSES]
        except Exception:  # not known
            return ()


class _Refused(Exception):
    """What was asked is not answered; `reason` is counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def _read_request(stream: Any) -> bytes:
    """The next one; nothing when there is none."""
    from libp2p.io.exceptions import IncompleteReadError, MessageTooLarge

    try:
        return bytes(await read_varint_prefixed_bytes_limited(stream, MAX_REQUEST_BYTES))
    except IncompleteReadError as error:
        if error.received_bytes:
            raise _Refused("malformed") from error
        return b""
    except MessageTooLarge as error:
        raise _Refused("too large") from error


async def _write(stream: Any, message: Any) -> None:
    data = message.SerializeToString()
    await stream.write(varint.encode(len(data)) + data)


async def _end(stream: Any) -> None:
    with trio.move_on_after(1.0, shield=True), contextlib.suppress(Exception):
        await stream.close()


def _speaks_kademlia(host: Any, peer: ID) -> bool:
    """By its own word, once it was asked."""
    try:
        return str(PROTOCOL) in host.get_peerstore().get_protocols(peer)
    except Exception:  # it was not asked yet
        return False


def _read_peer(told: Any) -> PeerInfo | None:
    """A peer that another one told us of; addresses that are none are left out."""
    addresses = []
    for data in told.addrs[:MAX_ADDRESSES]:
        with contextlib.suppress(Exception):  # a stranger's bytes
            address = Multiaddr(data)
            if str(address).startswith(("/ip4/", "/ip6/", "/dns4/")) and "/tcp/" in str(address):
                addresses.append(address)
    if not told.id or len(told.id) > MAX_KEY_BYTES:
        return None
    return PeerInfo(ID(told.id), addresses)
