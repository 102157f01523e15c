"""A session of an earlier version, byte by byte, and hops of today that are told it again.

`scripts/record_transcript.py` wrote it. What a client and a neighbour said is sent as it was, over
real sockets; only what answers to a hop's own words is made anew: the client's signature under the
terms that it proposes now, where its neighbours listen now, and what it is paid.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ledger.objects import Statement
from node.serving import Model
from protocol.address import Address
from protocol.announcements import read_announcement, seal_announcement
from protocol.anti_entropy import Record
from protocol.clock import wall_ms
from protocol.codec import data_message, to_client_message, to_hop_bytes, to_hop_message
from protocol.constraints import Constraints
from protocol.errors import ManyhandsError
from protocol.frames import Frame
from protocol.identity import Identity, PeerId
from protocol.messages import (
    Account,
    Close,
    Closed,
    Commit,
    Committed,
    Failure,
    Pay,
    Reserve,
    Reserved,
    ToClient,
    TokenEvent,
)
from protocol.pb import hop_pb2 as pb
from protocol.record_pages import write_records
from protocol.signing import OPEN_SWARM_ID, Envelope, SigningKey
from protocol.transport import Service, Stream
from protocol.transport.error_codec import decode_error
from protocol.transport.grpc import GrpcTransport
from scheduler.client_tab import ClientTab
from tests.local_swarm import LocalNode, Swarm

DIRECTORY = Path(__file__).parent / "transcripts"
FIRST, LAST, CLIENT = "first", "last", "client"
SPANS = {FIRST: (0, 3), LAST: (3, 6)}
PATIENCE_S = 60.0  # on a machine that others keep busy


@dataclass(frozen=True)
class Transcript:
    """`path`: of its file."""

    path: Path

    @cached_property
    def told(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())  # type: ignore[no-any-return]

    def identity(self, name: str) -> Identity:
        return Identity(SigningKey.from_seed(bytes.fromhex(self.told["seeds"][name])))

    def peer(self, name: str) -> PeerId:
        return self.identity(name).peer_id

    def restamped(self) -> Iterator[Record]:
        """The announcements, as if they were made now."""
        for data in map(bytes.fromhex, self.told["announcements"]):
            said, now_ms = read_announcement(data)[0], wall_ms()
            name = next(name for name in (FIRST, LAST) if self.peer(name) == said.peer_id)
            fresh = said.stamped(now_ms, now_ms, 30_000)
            yield Record(30_000, seal_announcement(fresh, OPEN_SWARM_ID, self.identity(name).key))

    @property
    def manifest(self) -> bytes:
        return bytes.fromhex(self.told["manifest"])

    def messages(self, method: str, one: str, other: str, way: str) -> list[bytes]:
        """What was `said` or `heard` by who opened these streams."""
        events = self.told["events"]
        streams = {
            event["stream"]
            for event in events
            if (event.get("open"), event.get("from"), event.get("to")) == (method, one, other)
        }
        return [
            bytes.fromhex(event[way])
            for event in events
            if event.get("stream") in streams and way in event
        ]

    def all_messages(self, method: str, way: str) -> list[bytes]:
        pairs = [(one, other) for one in (CLIENT, FIRST, LAST) for other in (FIRST, LAST)]
        return [m for one, other in pairs for m in self.messages(method, one, other, way)]

    def calls(self, method: str) -> list[tuple[bytes, bytes]]:
        """(request, answer)"""
        told = [event for event in self.told["events"] if event.get("call") == method]
        return [(bytes.fromhex(e["request"]), bytes.fromhex(e["answer"])) for e in told]


def transcripts() -> list[Transcript]:
    return [Transcript(path) for path in sorted(DIRECTORY.glob("*/session.json"))]


class Again(Swarm):
    """Nodes of today with the keys of the recorded ones, serving the model by its recorded name."""

    def __init__(self, transcript: Transcript, directory: Path, home: Path) -> None:
        super().__init__(directory, home, lambda who: GrpcTransport(who, OPEN_SWARM_ID))
        self.transcript = transcript
        self._next: list[Identity] = []

    def new_identity(self) -> Identity:
        return self._next.pop(0)

    def model(self, capacity_blocks: int = 0) -> Model:
        return replace(super().model(capacity_blocks), digest=self.transcript.manifest)

    async def start_as(self, name: str) -> LocalNode:
        self._next.append(self.transcript.identity(name))
        [local] = await self.start(SPANS[name], region="eu")
        return local


@asynccontextmanager
async def again(
    transcript: Transcript, model: Path, home: Path, *names: str
) -> AsyncIterator[dict[str, LocalNode]]:
    built = Again(transcript, model, home)
    try:
        yield {name: await built.start_as(name) for name in names}
    finally:
        await built.aclose()


# --- who speaks from the transcript ---------------------------------------------------------------


@dataclass
class Heard:
    """What a hop of today answered."""

    tokens: list[TokenEvent] = field(default_factory=list)
    closed: Closed | None = None
    is_committed: asyncio.Event = field(default_factory=asyncio.Event)


async def play_client(
    transcript: Transcript, name: str, where: str, next_address: str, heard: Heard
) -> None:
    """The client's whole control stream to one hop, at `where`, whose successor listens there."""
    client = transcript.identity(CLIENT)
    transport = GrpcTransport(client, OPEN_SWARM_ID)
    connection = await transport.dial(Address.parse(where))
    stream = await connection.open("control")
    said = transcript.messages("control", CLIENT, name, "said")
    reserve = to_hop_message(said[0])
    assert isinstance(reserve, Reserve)
    asked = Constraints.open(
        reserve.constraints, reserve.session, OPEN_SWARM_ID, client.public_key
    ).encode()
    tab = ClientTab(reserve, transcript.peer(name), client, OPEN_SWARM_ID, asked)
    closing = next(m for m in said if isinstance(to_hop_message(m), Close))
    n_tokens = len(transcript.told["token_ids"])
    try:
        stream.send(said[0])
        async with asyncio.timeout(PATIENCE_S):
            while heard.closed is None:
                message = to_client_message(await stream.receive())
                if isinstance(message, Reserved):
                    tab.proposed(message)
                    stream.send(_commit(transcript, said[1], tab.accept(), next_address))
                _answer(message, stream, tab, heard)
                if name == LAST and len(heard.tokens) == n_tokens and closing:
                    stream.send(closing)
                    closing = b""
    finally:
        await connection.aclose()


def _answer(message: ToClient, stream: Stream, tab: ClientTab, heard: Heard) -> None:
    match message:
        case Committed():
            heard.is_committed.set()
        case TokenEvent():
            heard.tokens.append(message)
        case Account(statement=statement, final=final):
            stream.send(_paid(tab, statement, final=final))
        case Closed():
            heard.closed = message
        case Failure(error=error):
            raise decode_error(error, "hop")
        case _:
            pass


def _commit(transcript: Transcript, recorded: bytes, terms: bytes, next_address: str) -> bytes:
    """The recorded one, but for what the hop of today proposed and where others listen today, and
    what is said of neighbours, which would have expired."""
    assert isinstance(to_hop_message(recorded), Commit)
    wire = pb.ToHop.FromString(recorded)
    wire.commit.terms = terms
    del wire.commit.next_addresses[:]
    wire.commit.next_addresses.append(next_address)
    if wire.commit.records:
        wire.commit.records = write_records(transcript.restamped())
    data: bytes = wire.SerializeToString()
    return data


def _paid(tab: ClientTab, statement: bytes, *, final: bool) -> bytes:
    tab.hear(statement)
    assert tab._tab is not None
    meter = Statement.open(
        Envelope.decode(statement), OPEN_SWARM_ID, Envelope.decode(statement).signers[0]
    ).meter
    voucher = tab._tab.make_voucher(meter, now_ms=wall_ms(), final=final)
    return to_hop_bytes(Pay(voucher=voucher.encode()))


class Neighbour:
    """A hop that says, on its data streams, what one said then."""

    def __init__(self, transcript: Transcript, name: str) -> None:
        other = FIRST if name == LAST else LAST
        self.identity = transcript.identity(name)
        self.transport = GrpcTransport(self.identity, OPEN_SWARM_ID)
        self.frames: list[Frame] = []  # that arrived
        self.is_whole = asyncio.Event()  # as many rows arrived as then
        self.then = frames_in(transcript.messages("data", other, name, "said"))
        self._said = transcript.messages("data", name, other, "said")

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        service = Service(streams={"data": self._hear})
        listener = await self.transport.listen("127.0.0.1", 0, service)
        try:
            yield str(listener.addresses[0])
        finally:
            await listener.aclose()

    async def _hear(self, stream: Stream) -> None:
        while True:
            message = data_message(await stream.receive())
            if isinstance(message, Frame):
                self.frames.append(message)
                if n_rows(self.frames) >= n_rows(self.then):
                    self.is_whole.set()

    async def speak(self, where: str, heard: Heard) -> None:
        """All it said then, once the session stands, until cancelled."""
        await heard.is_committed.wait()
        connection = await self.transport.dial(Address.parse(where))
        try:
            stream = await connection.open("data")
            for message in self._said:
                stream.send(message)
            while True:
                data_message(await stream.receive())
        except ManyhandsError:
            return
        finally:
            await connection.aclose()


def frames_in(messages: Sequence[bytes]) -> list[Frame]:
    return [one for one in map(data_message, messages) if isinstance(one, Frame)]


def n_rows(frames: Sequence[Frame]) -> int:
    return sum(group.rows for frame in frames for group in frame.groups)
