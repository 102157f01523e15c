"""What peers say to each other on connections that are open: control, rows, gossip, hand-overs."""

import asyncio
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from protocol.adapter_names import pinned
from protocol.address import Address
from protocol.announcement_table import AnnouncementTable
from protocol.announcements import read_announcement
from protocol.anti_entropy import GossipMessage
from protocol.codec import data_message, to_client_message, to_hop_message
from protocol.errors import ManyhandsError
from protocol.frames import Frame
from protocol.gossip_rules import Exchange, answer
from protocol.handover import BlockShape, Note, Part, read_request, request_bytes, session_of
from protocol.load import Load
from protocol.measured import State
from protocol.messages import SessionId, Span
from protocol.packing import LEAST_BYTES, pack, unpack
from protocol.reachability import Nat, Reach, Verdict
from protocol.record_pages import key_of_page, page_of, read_key, take, write_records
from protocol.sampling import SamplingParams
from protocol.signing import OPEN_SWARM_ID, Envelope
from protocol.spare import SpareNote, held_bytes, read_held
from protocol.transport.error_codec import decode_error, encode_error
from protocol.transport.interface import Counters
from protocol.transport.wire_stream import WireStream
from protocol.wire import FORMATS, decode
from tests.announcing import NOW_MS, key_of, peer_of, record
from tests.exchanging import beating, table_of
from tests.fuzz.harness import Target

GOLDEN = Path(__file__).parent.parent / "golden" / "wire.json"
SENDER = "sender"
HIDDEN = 96
_PLACE = {
    "session": SessionId(bytes(16)),
    "epoch": 3,
    "giver": key_of(1).public_key,
    "taker": key_of(2).public_key,
    "span": Span(2, 5),
}


def _golden(side: str) -> Callable[[], Sequence[bytes]]:
    def seeds() -> list[bytes]:
        messages = json.loads(GOLDEN.read_text())
        return [bytes.fromhex(data) for name, data in messages.items() if name.startswith(side)]

    return seeds


def _to_hop(data: bytes) -> None:
    message = to_hop_message(data)
    if (sampling := getattr(message, "sampling", None)) is not None:
        SamplingParams.of(sampling)


def _rows(data: bytes) -> None:
    """A data message, and its rows as numbers."""
    message = data_message(data)
    if isinstance(message, Frame):
        for wire in FORMATS.values():
            if message.row_bytes == wire.row_bytes(HIDDEN):
                with np.errstate(invalid="ignore", over="ignore"):
                    decode(wire, message.body, HIDDEN)


def _frames() -> list[bytes]:
    from protocol.codec import data_bytes
    from protocol.frames import RowGroup

    group = RowGroup(SessionId(bytes(16)), 1, 0, 3, 17, 2)
    made = [
        data_bytes(Frame((group,), wire.row_bytes(HIDDEN), bytes(2 * wire.row_bytes(HIDDEN))))
        for wire in FORMATS.values()
    ]
    return [*_golden("data")(), *made]


def _unpack(data: bytes) -> None:
    width = 2 + 2 * (data[:1] > b"\x7f")
    unpack(memoryview(data)[5:], width, int.from_bytes(data[1:5], "little") * width)


def _packed() -> list[bytes]:
    small = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    high = small.compress(bytes(64)) + small.flush()
    packed = pack(bytes(LEAST_BYTES), 2) or b""
    sized = (64).to_bytes(4, "little"), (LEAST_BYTES // 2).to_bytes(4, "little")
    return [b"\x00" + sized[0] + bytes(64) + high, b"\x00" + sized[1] + packed]


def _gossip() -> list[bytes]:
    ours, theirs = table_of(record(1), record(2)), table_of(record(3))
    exchange = Exchange(theirs, salt=bytes(8))
    question = exchange.question(NOW_MS)
    reply = answer(ours, question, sender=SENDER, now_ms=NOW_MS).reply
    further = exchange.take(reply, sender=SENDER, now_ms=NOW_MS).reply
    told, beats = beating(5)
    with_beats = GossipMessage(records=(told,), beats=tuple(beats[:3]), overdue=(bytes(16),))
    wants = GossipMessage(wanted=(bytes(16),), lacking=(b"ab",))
    made = (question, reply, further, with_beats.encode(), wants.encode())
    return [each for each in made if each and _is_gossip(each)]


def _is_gossip(data: bytes) -> bool:
    try:
        return bool(GossipMessage.decode(data, sender=SENDER))
    except ManyhandsError:
        return False


class _Table:
    """A table that strangers fill, made anew now and then: it would keep what they told."""

    def __init__(self) -> None:
        self._n, self._table = 0, table_of()

    def get(self) -> AnnouncementTable:
        self._n += 1
        if self._n % 64 == 1:
            told, _ = beating(5)
            self._table = table_of(record(1), record(2), told)
        return self._table


_told, _kept, _asking = _Table(), _Table(), _Table()


def _answered(data: bytes) -> None:
    answer(_told.get(), data, sender=SENDER, now_ms=NOW_MS)


def _taken(data: bytes) -> None:
    """As an answer to our own question, of a node and of a client."""
    for gives in (True, False):
        exchange = Exchange(_asking.get(), gives=gives, salt=bytes(8))
        exchange.question(NOW_MS)
        exchange.take(data, sender=SENDER, now_ms=NOW_MS)


def _page(data: bytes) -> None:
    take(_kept.get(), data, sender=SENDER, now_ms=NOW_MS)


def _announcement(data: bytes) -> None:
    claimed, _ = read_announcement(data)
    str(claimed.addresses)


def _announcements() -> list[bytes]:
    from protocol.measured import Measured

    carried = Measured(relay_slots=8, relayed=(key_of(1).public_key,))
    reach = Reach(verdict=Verdict.NAT, nat=Nat.SYMMETRIC)
    full = Measured(decode_steps_us=((1, 900), (4, 1500)), state=State.MOVING, group="friends")
    return [
        record(1).data,
        record(2, measured=full, adapters=(pinned("one", bytes(32)),), membership=b"m" * 40).data,
        record(3, addresses=_ways(3), measured=carried, reach=reach, loading=Span(0, 4)).data,
        beating(5)[0].data,
    ]


def _ways(n: int) -> tuple[Address, ...]:
    """Of every kind: its own, at a relay, in a tunnel."""
    own, host = peer_of(n), "203.0.113.5"
    at_relay = Address(host, 31402, own, peer_of(8))
    return Address("10.0.0.1", 31400, own), at_relay, Address(host, 31401, own, peer_of(9), True)


def _rows_asked(data: bytes) -> None:
    note, _ = read_request(data)
    session_of(note)
    client = key_of(3).public_key
    kind = SpareNote if Envelope.decode(note).type.startswith("mh/spare") else Note
    kind.open(note, OPEN_SWARM_ID, client)


def _rows_requests() -> list[bytes]:
    notes = Note(**_PLACE), SpareNote(**_PLACE, stop=200)  # type: ignore[arg-type]
    return [request_bytes(note.seal(OPEN_SWARM_ID, key_of(3)), 17) for note in notes]


def _parts() -> list[bytes]:
    blocks = (BlockShape(2, 2, 4, 2, 4), BlockShape(4, 1, 4, 1, 4))
    sizes = {"item_bytes": 4, "journal_row_bytes": 8, "journal_from": 3}
    body = bytes(3 * 16 * 4 + 1 * 8 * 4 + 16)
    place = {"start": 2, "stop": 5, "length": 9}
    profile = "float32/none/float32"
    return [Part(profile=profile, blocks=blocks, body=body, **place, **sizes).encode()]


class _Script:
    """A wire on which a stranger has said all it will."""

    def __init__(self, data: bytes) -> None:
        self._messages = data.split(b"|")

    async def read(self) -> bytes | None:
        return self._messages.pop(0) if self._messages else None

    async def write(self, message: bytes) -> None:
        pass

    async def finish(self) -> None:
        pass

    def abandon(self) -> None:
        pass


def _said() -> list[bytes]:
    error = encode_error(ManyhandsError("x"))
    return [b"hello||\x00|you||\x01", b"a|b||\x02" + error + b"|c"]


_loop = asyncio.new_event_loop()


def _stream(data: bytes) -> None:
    async def hear() -> None:
        stream = WireStream(_Script(data), peer_of(1), Counters())
        try:
            while True:
                await stream.receive()
        except ManyhandsError:
            pass
        finally:
            await stream.aclose()

    _loop.run_until_complete(hear())


def _load() -> list[bytes]:
    load = Load(
        n_sessions=1, queue_us=20, kv_free_bytes=2**30, state=State.SERVING, ticket=3
    ).encode()
    return [load]


def _keyed(data: bytes) -> None:
    read_key(OPEN_SWARM_ID, data, sender=SENDER)


TARGETS = (
    Target(name="control-to-hop", parse=_to_hop, seeds=_golden("to_hop")),
    Target(name="control-to-client", parse=to_client_message, seeds=_golden("to_client")),
    Target(name="rows", parse=_rows, seeds=_frames),
    Target(name="packed-rows", parse=_unpack, seeds=_packed),
    Target(
        name="stream",
        parse=_stream,
        seeds=_said,
        words=(b"||", b"|", b"|\x00|", b"|\x01|", b"|\x02{}", b"|\x07|"),
    ),
    Target(
        name="gossip",
        parse=lambda data: GossipMessage.decode(data, sender=SENDER),
        seeds=_gossip,
        shape="cbor",
    ),
    Target(name="gossip-answered", parse=_answered, seeds=_gossip, shape="cbor"),
    Target(name="gossip-taken", parse=_taken, seeds=_gossip, shape="cbor"),
    Target(name="announcement", parse=_announcement, seeds=_announcements, shape="cbor"),
    Target(
        name="record-page",
        parse=_page,
        seeds=lambda: [write_records([record(1)]), write_records([record(6), record(7)])],
        shape="cbor",
    ),
    Target(
        name="record-key",
        parse=_keyed,
        seeds=lambda: [key_of_page(OPEN_SWARM_ID, page_of(peer_of(1)))],
    ),
    Target(
        name="load", parse=lambda data: Load.decode(data, sender=SENDER), seeds=_load, shape="cbor"
    ),
    Target(name="rows-asked-for", parse=_rows_asked, seeds=_rows_requests, shape="cbor"),
    Target(name="rows-handed-over", parse=Part.decode, seeds=_parts),
    Target(name="rows-held", parse=read_held, seeds=lambda: [held_bytes(150)], shape="cbor"),
    Target(
        name="error",
        parse=lambda data: decode_error(data, SENDER),
        seeds=lambda: [
            encode_error(ManyhandsError("why", hint="do")),
            b'{"code":"swarm_incomplete","missing":[[0,2]],"model":"m"}',
            b'{"code":"chain_broken","message":"m","failures":[{"code":"peer_busy"}]}',
        ],
        shape="json",
    ),
)
