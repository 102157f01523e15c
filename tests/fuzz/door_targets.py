"""What is read before anybody is known: addresses, greetings, answers on a LAN, chats, the DHT."""

import importlib.util
import json
from collections.abc import Callable

from protocol.address import Address
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.greeting import Greeting
from protocol.transport.lan import read_told
from tests.announcing import peer_of
from tests.fuzz.harness import Target


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


class NotJson(Exception):
    """As the framework refuses a body, before anything of ours reads it."""


def read_json(data: bytes) -> object:
    """Only here may a ValueError be the input's fault: behind it one is a 500, and a mistake."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NotJson from error


def _asked(data: bytes) -> object:
    """As the framework does, and then as the gateway explains what is wrong."""
    from pydantic import ValidationError

    from manyhands.gateway.asked import ChatAsked
    from manyhands.gateway.complaints import invalid
    from manyhands.gateway.refusals import require_supported

    given = read_json(data)
    try:
        asked = ChatAsked.model_validate(given)
    except ValidationError as error:
        raise invalid(error.errors()) from error
    require_supported(asked)
    return [message.plain() for message in asked.messages], asked.limit, asked.ignored()


def _chats() -> list[bytes]:
    said = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    more = {"stop": ["a", "b"], "stream_options": {"include_usage": True}, "seed": 7, "n": 2}
    ours = {"manyhands": {"regions": ["eu"], "max_price": 5, "wait_s": 1.5}, "tools": []}
    plain = {"model": "tiny", "messages": said}
    return [json.dumps(each).encode() for each in (plain, plain | more, plain | ours)]


def errors_of_api() -> tuple[type[BaseException], ...]:
    from manyhands.gateway.faults import ApiError

    return (ApiError, NotJson)


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
    Target(name="chat-body", parse=_asked, seeds=_chats, shape="json", errors=errors_of_api()),
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
