"""What any transport offers: proven peers, bounded calls, ordered streams of raw messages.

In: bytes for a peer id. Out: bytes from a peer id that the transport has proven, or one of the
errors of `protocol.errors`. What the bytes mean is left to the codec and the rooms above;
`grpc.py` carries them over mutual TLS, `memory.py` inside one process with scripted faults.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from protocol.address import Address, Endpoint
from protocol.errors import ManyhandsError
from protocol.guard import Guard
from protocol.identity import PeerId
from protocol.path import Path

PROTOCOL_VERSION = 1
MAX_MESSAGE_BYTES = 64 * 2**20
MAX_QUEUED_BYTES = 256 * 2**20


class Stream(Protocol):
    """Messages both ways with one peer, in order, until either side ends it."""

    @property
    def peer_id(self) -> PeerId:
        """The other side, as the transport has proven it."""

    def send(self, message: bytes) -> None:
        """Queue `message`; never blocks.

        Raises:
            PeerUnreachable: the stream is over.
            PeerBusy: more than `MAX_QUEUED_BYTES` already wait.
            UsageError: the message is larger than `MAX_MESSAGE_BYTES`.
        """

    async def receive(self) -> bytes:
        """The next message. Cancelling loses none. One receiver at a time.

        Raises:
            PeerUnreachable: the stream is over, closed by either side or lost.
            ManyhandsError: the error with which the other side ended it.
        """

    async def each(self, take: Callable[[bytes], None]) -> NoReturn:
        """Have `take` called with every message as it comes, at once, until the stream is over.
        Where many small ones come this costs less than to receive them; nothing holds them back.

        Raises:
            ManyhandsError: as `receive`.
            Exception: what `take` raises; no message is given to it after that.
        """

    async def drain(self) -> None:
        """Wait until everything queued is handed to the network.

        Raises:
            PeerUnreachable: the stream was over before that.
        """

    async def aclose(self, error: ManyhandsError | None = None) -> None:
        """End the stream after sending what is queued; `error` reaches the other side typed, and
        whoever still receives here."""


class Connection(Protocol):
    """A dialled peer."""

    @property
    def peer_id(self) -> PeerId: ...

    @property
    def path(self) -> Path:
        """How the bytes get there."""

    @property
    def features(self) -> frozenset[str]:
        """What it knows of what was added to the protocol's version, as it greeted us last."""

    async def call(self, method: str, request: bytes, *, timeout_s: float) -> bytes:
        """One request, one answer.

        Raises:
            PeerUnreachable: no connection, or no answer within `timeout_s`.
            ManyhandsError: the error that the other side's handler raised.
        """

    async def open(self, method: str, *, timeout_s: float = 5.0) -> Stream:
        """Start a stream; returns once the other side has accepted it."""

    async def aclose(self) -> None: ...


CallHandler = Callable[[PeerId, bytes], Awaitable[bytes]]

SeenCallHandler = Callable[[PeerId, Endpoint | None, bytes], Awaitable[bytes]]
"""Also told from where the caller's connection comes; None: from no address of a network."""

StreamHandler = Callable[[Stream], Awaitable[None]]
"""The stream ends when the handler returns; a `ManyhandsError` it raises reaches the caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What a listener answers, by method name.

    `open_calls` are answered to strangers, too: a gate does not stand before them. Whatever goes
    wrong in one looks to its caller like the refusal of a stranger.
    """

    guard: Guard | None = None
    """What one caller may take of us; without it, all it wants."""

    open_calls: Mapping[str, CallHandler] = field(default_factory=dict)
    calls: Mapping[str, CallHandler] = field(default_factory=dict)
    seen_calls: Mapping[str, SeenCallHandler] = field(default_factory=dict)
    streams: Mapping[str, StreamHandler] = field(default_factory=dict)
    is_starting: bool = False
    """What it does not offer it may offer shortly, and who asks for that is told so."""

    came: Callable[[PeerId, Endpoint], None] = lambda peer_id, seen: None
    """Told of each caller that is admitted, and of where its connection comes from; quick."""

    def offers(self, method: str) -> bool:
        calls = (self.open_calls, self.calls, self.seen_calls)
        return method in self.streams or any(method in each for each in calls)


class Gate(Protocol):
    """Who belongs to our swarm, and may ask or answer what; `protocol.membership` has one."""

    @property
    def is_private(self) -> bool:
        """Whether strangers shall learn nothing, not even why they are refused."""

    @property
    def credential(self) -> bytes:
        """What we show the other side of each connection."""

    def admit(self, caller: PeerId, credential: bytes, method: str, *, n_streams: int) -> None:
        """Return if `caller`, who has so many streams open here, may begin this.

        Raises:
            NotAMember, MembershipEnded: it does not belong to the swarm.
            PeerRefused, PeerBusy: it does, and may not, or not now.
        """

    def keep(self, caller: PeerId, credential: bytes, method: str) -> None:
        """Return if `caller` may go on with what it began; raises as `admit`."""

    def trust(self, listener: PeerId, credential: bytes, method: str) -> None:
        """Return if we may ask `listener` this; raises as `admit`."""

    def watch(self, changed: Callable[[], None]) -> None:
        """`changed` is called whenever `keep` and `trust` may answer otherwise than before."""


@dataclass(slots=True, kw_only=True)
class Counters:
    """What a transport turned away since it began."""

    malformed: int = 0  # messages that break the rules of the stream
    oversize: int = 0  # messages above MAX_MESSAGE_BYTES
    refused: int = 0  # callers of another version or swarm, or of a method we do not have
    handshakes_failed: int = 0  # identities that were claimed and not proven
    unexpected: int = 0  # handlers that failed with an error of ours


class Listener(Protocol):
    """An open port."""

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where others may dial it, best first."""

    def sweep(self) -> None:
        """End what may not go on: of members that are none any more, of peers that are banned."""

    async def aclose(self, grace_s: float = 0.5) -> None:
        """Stop accepting, end every call and stream within `grace_s`, and wait for handlers."""


class Transport(Protocol):
    """One identity on one network."""

    @property
    def peer_id(self) -> PeerId: ...

    @property
    def counters(self) -> Counters: ...

    async def listen(self, host: str, port: int, service: Service) -> Listener:
        """Serve on `host`; port 0 picks one.

        Raises:
            ConfigError: the port is in use, or the host is not ours.
        """

    async def dial(
        self, address: Address, *, timeout_s: float = 5.0, path: Path | None = None
    ) -> Connection:
        """Connect, and prove reach, identity, version and swarm now.

        path: of a tunnel this kind alone, PUNCHED or CIRCUIT; None: the best there is.

        Raises:
            PeerUnreachable: nobody answered in time.
            VersionMismatch: it speaks another protocol; the reason says who is older.
            PeerRefused: it belongs to another swarm.
            PeerMisbehaved: whoever answered there is not `address.peer_id`.
        """

    def hole_to(self, peer_id: PeerId) -> int:
        """The number of the hole in both routers that there is now to a peer; 0: none."""

    async def ask_openly(
        self, address: Address, method: str, request: bytes, *, timeout_s: float = 5.0
    ) -> bytes:
        """One of its open calls, from somebody who is no member; raises as `dial` and `call`."""
