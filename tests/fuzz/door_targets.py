"""What is read before anybody is known: addresses, greetings, answers on a LAN, HTTP, the DHT."""

import asyncio
import importlib.util
from collections.abc import Callable

from manyhands.health import _respond
from protocol.address import Address
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.greeting import Greeting
from protocol.transport.lan import read_told
from tests.announcing import peer_of
from tests.fuzz.harness import Target

_loop = asyncio.new_event_loop()


def _address(data: bytes) -> object:
    address = Address.parse(data.decode(errors="surrogateescape"))
    return str(address), address.target, address.is_far


def _addresses() -> list[bytes]:
    hosts = (("ip4", "203.0.113.5"), ("ip6", "2001:db8::1"), ("dns4", "a.example"))
    plain = [f"/{kind}/{host}/tcp/31400/p2p/{peer_of(1)}" for kind, host in hosts]
    relayed = f"{plain[0]}/p2p-circuit/p2p/{peer_of(2)}"
    return [each.encode() for each in (*plain, relayed, f"{relayed}/tunnel")]


def _greeting(data: bytes) -> object:
    """Metadata as it comes: keys are text, values text or bytes."""
    pairs = [part.partition(b"=") for part in data.split(b"\n")]
    metadata: list[tuple[str, str | bytes]] = []
    for key, _, value in pairs:
        name = key.decode("latin-1")
        metadata.append((name, value if name.endswith("-bin") else value.decode("latin-1")))
    return Greeting.read(metadata)


def _greetings() -> list[bytes]:
    made = Greeting(1, OPEN_SWARM_ID, b"c" * 40)
    pairs = [(k.encode(), v if isinstance(v, bytes) else v.encode()) for k, v in made.metadata]
    return [b"\n".join(k + b"=" + v for k, v in pairs)]


def _told(data: bytes) -> object:
    name, _, value = data.partition(b"=")
    return read_told([(name, value), (b"dnsaddr", data)])


def _request(data: bytes) -> object:
    async def ask() -> bytes:
        reader = asyncio.StreamReader(limit=4096)
        reader.feed_data(data)
        reader.feed_eof()
        return await _respond(reader, lambda: "")

    return _loop.run_until_complete(ask())


def _kademlia() -> Callable[[bytes], object]:
    from libp2p.kad_dht.pb.kademlia_pb2 import Message

    from protocol.transport.kademlia import _read_peer

    def parse(data: bytes) -> object:
        message = Message()
        message.ParseFromString(data)
        return [_read_peer(each) for each in message.closerPeers]

    return parse


def _kademlia_messages() -> list[bytes]:
    from libp2p.kad_dht.pb.kademlia_pb2 import Message
    from multiaddr import Multiaddr

    message = Message(type=Message.MessageType.Value("GET_VALUE"), key=b"/mh/x/00")
    message.record.key, message.record.value = b"/mh/x/00", b"value"
    told = message.closerPeers.add()
    told.id = bytes(38)
    told.addrs.append(Multiaddr("/ip4/203.0.113.5/tcp/4001").to_bytes())
    return [message.SerializeToString()]


HAS_LIBP2P = importlib.util.find_spec("libp2p") is not None


def _errors_of_protobuf() -> tuple[type[BaseException], ...]:
    from google.protobuf.message import DecodeError

    return (DecodeError,)


TARGETS = (
    Target(name="address", parse=_address, seeds=_addresses),
    Target(name="greeting", parse=_greeting, seeds=_greetings),
    Target(
        name="lan-answer", parse=_told, seeds=lambda: [b"dnsaddr=" + each for each in _addresses()]
    ),
    Target(
        name="http-request",
        parse=_request,
        seeds=lambda: [
            b"GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n",
            b"HEAD /health?x=1 HTTP/1.0\r\n\r\n",
        ],
        errors=(asyncio.IncompleteReadError,),
    ),
    *(
        (
            Target(
                name="kademlia",
                parse=_kademlia(),
                seeds=_kademlia_messages,
                errors=_errors_of_protobuf(),
            ),
        )
        if HAS_LIBP2P
        else ()
    ),
)
