"""What a relay and the peers it carries bytes for agree on.

A peer that cannot be dialled keeps a stream `relay` open to one that can, the relay: that is its
reservation. A caller dials the relay's port and asks, in the TLS hello, for `<peer id>.peer`; the
relay says so on the stream, the peer connects to the same port and shows the token it was given,
and from then on the relay passes bytes on that it cannot read.

In and out: the words of that stream, the reservation as the relay signs it, and what either side
reads on a connection before it is spliced. RFC 8446 and 6066 give callers their refusals: an alert.
Sockets are `node.relay`'s and `node.reserving`'s.

On the stream: → [1, Asked]   ← [2, reservation]   ← [3, token]   → [4, token]: it cannot connect.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self

from protocol.address import Address
from protocol.canonical import NotCanonical, decode, encode
from protocol.errors import (
    IntegrityError,
    ManyhandsError,
    PeerBusy,
    PeerError,
    PeerMisbehaved,
    PeerUnreachable,
    UsageError,
)
from protocol.identity import PeerId, peer_id_from_public_key, public_key_from_peer_id
from protocol.messages import require
from protocol.signing import Envelope, SigningKey, open_envelope, seal
from protocol.tls import tls_name

METHOD = "relay"
TYPE = "mh/relay-reservation/1"
TOKEN_BYTES = 32
MAGIC = b"\x00mhb"  # begins a connection back; a TLS record begins with 22
PREAMBLE_BYTES = len(MAGIC) + TOKEN_BYTES
MAX_ADDRESSES = 4
MAX_LIFETIME_MS = 24 * 3_600_000
_NAME_SUFFIX = ".peer"


class Alert(IntEnum):
    """How a relay refuses a caller: fatal alerts of RFC 8446 section 6 and RFC 6066 section 3."""

    UNRECOGNIZED_NAME = 112  # that peer has no reservation here
    ACCESS_DENIED = 49  # its share of this relay is used up
    INTERNAL_ERROR = 80  # the peer did not connect back
    DECODE_ERROR = 50  # the hello is none

    @property
    def record(self) -> bytes:
        """As it is sent: an alert of level 2, fatal, in a record of its own."""
        return bytes((21, 3, 3, 0, 2, 2, self.value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a relay lets one peer have of it."""

    connections: int = 64  # at a time
    connection_s: int = 4 * 3600  # then one is cut, and dialled again by whoever needs it
    idle_s: int = 120  # without a byte; a connection that lives has a ping every 20 s
    bytes_per_s: int = 4 << 20  # in the long run, both ways together
    burst_bytes: int = 4 << 30  # on top, while unused

    def __post_init__(self) -> None:
        for value in self.numbers:
            require(0 < value < 1 << 60, "a share is of numbers above zero")
        require(self.burst_bytes >= self.bytes_per_s, "a burst is a second's bytes at least")

    @property
    def numbers(self) -> tuple[int, ...]:
        return (
            self.connections,
            self.connection_s,
            self.idle_s,
            self.bytes_per_s,
            self.burst_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A relay's promise to one peer. The stamp is the relay's own clock."""

    peer_id: PeerId
    relay: PeerId
    addresses: tuple[Address, ...]  # of the relay's port for callers
    share: Share
    issued_ms: int
    expires_ms: int

    def __post_init__(self) -> None:
        require(0 < len(self.addresses) <= MAX_ADDRESSES, "a relay has a few addresses")
        require(
            all(a.peer_id == self.relay and not a.relay for a in self.addresses),
            "a relay tells its own addresses, which nobody relays",
        )
        require(0 < self.lifetime_ms <= MAX_LIFETIME_MS, "a reservation lasts a day at most")

    @property
    def lifetime_ms(self) -> int:
        return self.expires_ms - self.issued_ms

    def relayed(self) -> tuple[Address, ...]:
        """Where the peer can be dialled, for as long as this holds."""
        return tuple(Address(a.host, a.port, self.peer_id, self.relay) for a in self.addresses)

    def sealed(self, swarm_id: bytes, key: SigningKey) -> bytes:
        fields = (
            1,
            public_key_from_peer_id(self.peer_id),
            public_key_from_peer_id(self.relay),
            tuple(map(str, self.addresses)),
            self.share.numbers,
            self.issued_ms,
            self.expires_ms,
        )
        return seal(TYPE, swarm_id, fields, key).encode()

    @classmethod
    def opened(cls, data: bytes, swarm_id: bytes, *, peer_id: PeerId, relay: PeerId) -> Self:
        """The promise of `relay` to `peer_id`.

        Raises:
            IntegrityError, PeerMisbehaved: it is none, or not of these two.
        """
        envelope = Envelope.decode(data)
        keys = (public_key_from_peer_id(relay),)
        match open_envelope(envelope, TYPE, swarm_id, keys):
            case [1, bytes() as peer, bytes() as carrier, [*texts], [*numbers], int() as issued_ms,
                  int() as expires_ms]:  # fmt: skip
                try:
                    reservation = cls(
                        peer_id=peer_id_from_public_key(peer),
                        relay=peer_id_from_public_key(carrier),
                        addresses=tuple(map(_address, texts)),
                        share=_share(numbers),
                        issued_ms=issued_ms,
                        expires_ms=expires_ms,
                    )
                except UsageError as error:
                    raise NotCanonical(f"a reservation with a bad field: {error}") from error
            case _:
                raise NotCanonical("a reservation has other fields")
        if (reservation.peer_id, reservation.relay) != (peer_id, relay):
            raise IntegrityError("a reservation of somebody else")
        return reservation


def _address(text: object) -> Address:
    if type(text) is not str:
        raise NotCanonical("an address is text")
    return Address.parse(text)


def _share(numbers: Sequence[Any]) -> Share:
    if len(numbers) != 5 or any(type(number) is not int for number in numbers):
        raise NotCanonical("a share is of five numbers")
    connections, connection_s, idle_s, bytes_per_s, burst_bytes = numbers
    return Share(
        connections=connections,
        connection_s=connection_s,
        idle_s=idle_s,
        bytes_per_s=bytes_per_s,
        burst_bytes=burst_bytes,
    )


# --- the words of the stream ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """The peer wants to be carried for so long; said again before that is over."""

    lifetime_ms: int

    def __post_init__(self) -> None:
        require(0 < self.lifetime_ms <= MAX_LIFETIME_MS, "a reservation lasts a day at most")


@dataclass(frozen=True, slots=True)
class Granted:
    """The relay's promise, sealed."""

    reservation: bytes


@dataclass(frozen=True, slots=True)
class Called:
    """Somebody asks for the peer: connect to the relay's port, and show this there."""

    token: bytes

    def __post_init__(self) -> None:
        require(len(self.token) == TOKEN_BYTES, "a token of another size")

    @property
    def preamble(self) -> bytes:
        return MAGIC + self.token


@dataclass(frozen=True, slots=True)
class Declined:
    """The peer does not connect for this token: let the caller go now."""

    token: bytes

    def __post_init__(self) -> None:
        require(len(self.token) == TOKEN_BYTES, "a token of another size")


ToRelay = Asked | Declined
ToPeer = Granted | Called


def to_bytes(message: ToRelay | ToPeer) -> bytes:
    match message:
        case Asked(lifetime_ms):
            return encode((1, lifetime_ms))
        case Granted(reservation):
            return encode((2, reservation))
        case Called(token):
            return encode((3, token))
        case Declined(token):
            return encode((4, token))


def from_bytes(data: bytes, *, sender: PeerId) -> ToRelay | ToPeer | None:
    """None: a word that a later version added.

    Raises:
        PeerMisbehaved: it is none.
    """
    try:
        match decode(data):
            case [1, int() as lifetime_ms, *_]:
                return Asked(lifetime_ms)
            case [2, bytes() as reservation, *_]:
                return Granted(reservation)
            case [3, bytes() as token, *_]:
                return Called(token)
            case [4, bytes() as token, *_]:
                return Declined(token)
            case [int() as kind, *_] if kind > 4:
                return None
    except ManyhandsError as error:
        raise PeerMisbehaved(sender, f"not a word of relaying: {error}") from error
    raise PeerMisbehaved(sender, "not a word of relaying")


# --- names and refusals ---------------------------------------------------------------------------


def name_of(peer_id: PeerId) -> str:
    """What callers ask for: as `tls_name`, without what all such names end with."""
    return tls_name(peer_id).removesuffix(_NAME_SUFFIX)


def asked_for(server_name: str) -> str:
    """The part of a server name that says which peer; empty: it is no peer's."""
    name = server_name.removesuffix(_NAME_SUFFIX)
    return name if name != server_name else ""


def refusal(address: Address, alert: Alert) -> PeerError:
    """What a caller makes of the relay's alert."""
    peer, where = address.peer_id, f"the relay at {address.target}"
    match alert:
        case Alert.UNRECOGNIZED_NAME:
            return PeerUnreachable(peer, f"{where} keeps no reservation of it")
        case Alert.ACCESS_DENIED:
            hint = "try again shortly, or dial it directly or through another relay"
            return PeerBusy(address.relay, f"{where}: {peer}'s share is used up", hint=hint)
        case Alert.INTERNAL_ERROR:
            return PeerUnreachable(peer, f"it did not answer the call of {where}")
        case Alert.DECODE_ERROR:
            return PeerMisbehaved(address.relay, f"{where} takes our TLS hello for none")
