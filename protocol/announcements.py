"""What a node says about itself to the whole swarm: one signed record that expires.

In: what a node measured and offers. Out: canonical, signed bytes that anybody may pass on and
nobody can alter, and back. Which of several records counts is left to `announcement_table.py`, how
they spread to `anti_entropy.py` and to the sources that implement `AnnouncementSource`.

A record without a span is a tombstone: the node left properly, and no older record brings it back.
It may name the blocks that its peer loads, and will serve: nobody can use them yet, but a newcomer
that chooses its own counts them. Older peers see the tombstone, and pass it on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

from protocol.adapter_names import MAX_ADAPTERS, is_pinned
from protocol.address import Address
from protocol.canonical import Field, NotCanonical, decode
from protocol.config_limits import MAX_BLOCKS
from protocol.errors import BadSignature, UsageError
from protocol.heartbeats import Heartbeats
from protocol.identity import PeerId, peer_id_from_public_key, public_key_from_peer_id
from protocol.measured import NOT_MEASURED, Measured
from protocol.messages import Span, require
from protocol.path import Path
from protocol.reachability import NOTHING_KNOWN, Reach
from protocol.signing import Envelope, SigningKey, open_envelope, seal

TYPE = "mh/announcement/1"
VERSION = 1
MAX_RECORD_BYTES = 8 * 1024
MAX_LIFETIME_MS = 600_000
MAX_ADDRESSES, MAX_LINKS, MAX_EXTRAS = 8, 16, 32
_RELAYED = {"circuits": Path.RELAYED, "tunnels": Path.CIRCUIT}  # extras with more addresses
MAX_TEXT_CHARS = 128
MAX_OFFER_BYTES = 4 * 1024
MAX_MEMBERSHIP_BYTES = 1024
MANIFEST_BYTES = 32


@dataclass(frozen=True, slots=True, order=True)
class Link:
    """The measured round trip from the announcing peer to another one."""

    peer_id: PeerId
    rtt_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """One peer at one moment. The stamp (sequence, issued, expires) is the peer's own clock.

    A draft has no stamp yet (sequence 0); `stamped` makes the record that is signed.
    """

    peer_id: PeerId
    addresses: tuple[Address, ...]  # best first
    model: str  # a name for people; the manifest's digest is what counts
    manifest: bytes
    n_blocks: int  # of the whole model
    span: Span | None  # None: this peer is leaving
    profile: str  # how the span is executed, a `protocol.profile.Profile` as text
    decode_us: int  # one decode step through the whole span; 0 is not measured
    prefill_us_per_row: int
    kv_free_bytes: int
    max_positions: int
    n_sessions: int = 0
    region: str = ""
    software: str = ""
    offer: bytes = b""  # an encoded envelope of the ledger, or empty: free
    links: tuple[Link, ...] = ()
    adapters: tuple[str, ...] = ()  # name@digest of those that sessions may ask for
    measured: Measured = NOT_MEASURED
    heartbeats: Heartbeats | None = None  # signs of life that prolong this record
    membership: bytes = b""  # by what right it serves: its certificate, in a swarm that has them
    reach: Reach = NOTHING_KNOWN  # whether strangers can dial it
    loading: Span | None = None  # without a span: what it will serve, once that is loaded
    sequence: int = 0
    issued_ms: int = 0
    expires_ms: int = 0

    def __post_init__(self) -> None:
        try:
            public_key_from_peer_id(self.peer_id)
        except UsageError as error:
            require(False, f"an announcement names a peer: {error}")
        self._check_span()
        for name in ("model", "profile", "region", "software"):
            text = getattr(self, name)
            # It ends up on people's terminals: no control characters.
            require(len(text) <= MAX_TEXT_CHARS and text.isprintable(), f"{name} is not plain text")
        require(len(self.manifest) == MANIFEST_BYTES, "a manifest digest has 32 bytes")
        require(len(self.offer) <= MAX_OFFER_BYTES, "the offer is too large")
        require(len(self.membership) <= MAX_MEMBERSHIP_BYTES, "the certificate is too large")
        require(len(self.links) <= MAX_LINKS, f"more than {MAX_LINKS} links")
        require(len({link.peer_id for link in self.links}) == len(self.links), "a link twice")
        require(len(self.adapters) <= MAX_ADAPTERS, f"more than {MAX_ADAPTERS} adapters")
        require(all(map(is_pinned, self.adapters)), "an adapter is a name and a digest")
        require(len(set(self.adapters)) == len(self.adapters), "an adapter twice")
        for count in (self.decode_us, self.prefill_us_per_row, self.kv_free_bytes):
            require(count >= 0, "a measurement cannot be negative")
        require(self.max_positions >= 0 and self.n_sessions >= 0, "a count cannot be negative")
        require(self.reach.n_confirmed <= len(self.addresses), "it confirms what it does not name")
        require(0 <= self.lifetime_ms <= MAX_LIFETIME_MS, "it expires before, or long after, issue")

    def _check_span(self) -> None:
        require(1 <= self.n_blocks <= MAX_BLOCKS, f"a model of {self.n_blocks} blocks")
        require(len(self.addresses) <= MAX_ADDRESSES, f"more than {MAX_ADDRESSES} addresses")
        require(
            all(address.peer_id == self.peer_id for address in self.addresses),
            "a peer announces its own addresses only",
        )
        ranks = [address.path.rank for address in self.addresses]
        require(ranks == sorted(ranks), "addresses of its own come before a relay's")
        if self.span is not None:
            require(self.span.stop <= self.n_blocks, f"span {self.span} is outside the model")
            require(bool(self.addresses), "a peer that serves has an address")
        if self.loading is not None:
            require(self.loading.stop <= self.n_blocks, f"{self.loading} is outside the model")

    @property
    def to_dial(self) -> tuple[Address, ...]:
        """Its addresses in the order in which to try them: those of its own that by its own word
        strangers cannot dial come last, except what somebody has confirmed, a neighbour perhaps."""
        if self.reach.is_dialable:
            return self.addresses
        n_sure = self.reach.n_confirmed
        rest = sorted(self.addresses[n_sure:], key=lambda each: each.path is Path.DIRECT)
        return (*self.addresses[:n_sure], *rest)

    @property
    def ways(self) -> tuple[Address, ...]:
        """An address of each kind, for who asks many peers at once: its own, and a relay's."""
        return tuple({address.path: address for address in reversed(self.to_dial)}.values())[::-1]

    @property
    def lifetime_ms(self) -> int:
        return self.expires_ms - self.issued_ms

    @property
    def is_leaving(self) -> bool:
        return self.span is None

    def stamped(
        self,
        sequence: int,
        issued_ms: int,
        lifetime_ms: int,
        links: Sequence[Link] = (),
        heartbeats: Heartbeats | None = None,
    ) -> Self:
        """This draft as the record that is valid from `issued_ms` on."""
        return replace(
            self,
            sequence=sequence,
            issued_ms=issued_ms,
            expires_ms=issued_ms + lifetime_ms,
            links=tuple(links),
            heartbeats=heartbeats,
        )

    def tombstone(self) -> Self:
        """This draft as a proper leave."""
        return replace(
            self,
            span=None,
            addresses=(),
            offer=b"",
            links=(),
            adapters=(),
            n_sessions=0,
            measured=NOT_MEASURED,
            heartbeats=None,
            reach=NOTHING_KNOWN,
            loading=None,
        )


class AnnouncementSource(Protocol):
    """A way that records reach this peer: gossip over gRPC today, a DHT or a LAN's mDNS later.

    A source fills the table it was made with, and spreads what that table holds.
    """

    async def run(self) -> None:
        """Exchange records with others until cancelled."""

    async def leave(self) -> None:
        """Tell the swarm that this peer goes, after `run` was cancelled."""


def seal_announcement(announcement: Announcement, swarm_id: bytes, key: SigningKey) -> bytes:
    """The signed bytes of a stamped announcement.

    Raises:
        PeerMisbehaved: it would be larger than others accept.
    """
    data = seal(TYPE, swarm_id, _to_fields(announcement), key).encode()
    require(len(data) <= MAX_RECORD_BYTES, f"an announcement of {len(data)} bytes is too large")
    return data


def read_announcement(data: bytes) -> tuple[Announcement, Envelope]:
    """What a record claims, before any signature is checked: see `verify_announcement`.

    Raises:
        NotCanonical, PeerMisbehaved: it is no announcement.
    """
    require(len(data) <= MAX_RECORD_BYTES, f"an announcement of {len(data)} bytes is too large")
    envelope = Envelope.decode(data)
    require(envelope.type == TYPE, f"expected {TYPE}, got {envelope.type[:40]!r}")
    return _from_fields(decode(envelope.payload)), envelope


def verify_announcement(announcement: Announcement, envelope: Envelope, swarm_id: bytes) -> None:
    """Return if the peer that `announcement` is about signed it, for this swarm.

    Raises:
        IntegrityError: it did not.
    """
    if envelope.signers != (public_key_from_peer_id(announcement.peer_id),):
        raise BadSignature("an announcement is signed by the peer it is about, and nobody else")
    open_envelope(envelope, TYPE, swarm_id, envelope.signers)


def _to_fields(announcement: Announcement) -> tuple[Field, ...]:
    span = announcement.span
    return (
        VERSION,
        public_key_from_peer_id(announcement.peer_id),
        announcement.sequence,
        announcement.issued_ms,
        announcement.expires_ms,
        tuple(str(address) for address in announcement.addresses if not address.relay),
        announcement.model,
        announcement.manifest,
        announcement.n_blocks,
        () if span is None else (span.start, span.stop),
        announcement.profile,
        announcement.decode_us,
        announcement.prefill_us_per_row,
        announcement.kv_free_bytes,
        announcement.max_positions,
        announcement.n_sessions,
        announcement.region,
        announcement.software,
        announcement.offer,
        tuple((public_key_from_peer_id(link.peer_id), link.rtt_us) for link in announcement.links),
        *_extras(announcement),
    )


def _extras(announcement: Announcement) -> tuple[Field, ...]:
    """What was added to version 1: named, and left out where there is nothing to say."""
    named: list[tuple[str, Any]] = list(announcement.measured.extras())
    # Older peers read the first field and know of no relays: one such address would spoil it.
    for name, path in _RELAYED.items():
        if relayed := tuple(str(each) for each in announcement.addresses if each.path is path):
            named.append((name, relayed))
    if announcement.adapters:
        named.append(("adapters", announcement.adapters))
    if (beats := announcement.heartbeats) is not None:
        named.append(("beats", (beats.anchor, beats.n_beats, beats.interval_ms)))
    if announcement.membership:
        named.append(("member", announcement.membership))
    named.extend(announcement.reach.extras())
    if (loading := announcement.loading) is not None:
        named.append(("loading", (loading.start, loading.stop)))
    return (tuple(named),) if named else ()


def _from_fields(fields: list[Any]) -> Announcement:
    match fields:
        case [
            int() as version, bytes() as public_key, int() as sequence, int() as issued_ms,
            int() as expires_ms, [*addresses], str() as model, bytes() as manifest,
            int() as n_blocks, [*span], str() as profile, int() as decode_us,
            int() as prefill_us_per_row, int() as kv_free_bytes, int() as max_positions,
            int() as n_sessions, str() as region, str() as software, bytes() as offer, [*links],
            *extras,
        ] if len(extras) <= 1:  # fmt: skip
            require(version == VERSION, f"an announcement of version {version}")
            require(not any(type(field) is bool for field in fields), "a flag for a number")
        case _:
            raise NotCanonical("an announcement has other fields")
    added = _read_extras(extras)
    try:
        return Announcement(
            peer_id=peer_id_from_public_key(public_key),
            addresses=_read_addresses(addresses, added),
            model=model,
            manifest=manifest,
            n_blocks=n_blocks,
            span=_read_span(span),
            profile=profile,
            decode_us=decode_us,
            prefill_us_per_row=prefill_us_per_row,
            kv_free_bytes=kv_free_bytes,
            max_positions=max_positions,
            n_sessions=n_sessions,
            region=region,
            software=software,
            offer=offer,
            links=tuple(_read_link(link) for link in links),
            adapters=_read_adapters(added),
            measured=Measured.read(added),
            heartbeats=_read_heartbeats(added),
            membership=_read_membership(added),
            reach=Reach.read(added),
            loading=_read_span(added.get("loading", [])),
            sequence=sequence,
            issued_ms=issued_ms,
            expires_ms=expires_ms,
        )
    except (UsageError, ValueError) as error:  # a stranger's address, key or span: not our mistake
        raise NotCanonical(f"an announcement with a bad field: {error}") from error


def _read_addresses(direct: list[Any], extras: dict[str, Any]) -> tuple[Address, ...]:
    """Its own first; where a list holds one of another kind, the record is refused."""
    found: list[Address] = []
    for path, texts in (
        (Path.DIRECT, direct),
        *((path, extras.get(name, [])) for name, path in _RELAYED.items()),
    ):
        require(isinstance(texts, list), "addresses are a list")
        read = [Address.parse(_text(text)) for text in texts]
        require(all(each.path is path for each in read), "an address of another kind")
        found += read
    return tuple(found)


def _text(value: object) -> str:
    if type(value) is not str:
        raise NotCanonical("an address is text")
    return value


def _read_extras(extras: list[Any]) -> dict[str, Any]:
    """By name; those that a later version added stay unread."""
    named: dict[str, Any] = {}
    for pairs in extras:
        require(isinstance(pairs, list) and len(pairs) <= MAX_EXTRAS, "extras are a few pairs")
        for pair in pairs:
            match pair:
                case [str() as name, value] if name not in named:
                    named[name] = value
                case _:
                    raise NotCanonical("an extra is a name, once, and a value")
    return named


def _read_adapters(extras: dict[str, Any]) -> tuple[str, ...]:
    match extras.get("adapters", []):
        case [*names] if all(type(name) is str for name in names):
            return tuple(names)
        case _:
            raise NotCanonical("adapters are named in text")


def _read_heartbeats(extras: dict[str, Any]) -> Heartbeats | None:
    match extras.get("beats"):
        case None:
            return None
        case [bytes() as anchor, int() as n_beats, int() as interval_ms] if bool not in {
            type(n_beats), type(interval_ms)
        }:  # fmt: skip
            return Heartbeats(anchor, n_beats, interval_ms)
        case _:
            raise NotCanonical("heartbeats are an anchor, how many, and how often")


def _read_membership(extras: dict[str, Any]) -> bytes:
    match extras.get("member", b""):
        case bytes() as certificate:
            return certificate
        case _:
            raise NotCanonical("a certificate is bytes")


def _read_span(span: Any) -> Span | None:
    match span:
        case []:
            return None
        case [int() as start, int() as stop]:
            return Span(start, stop)
        case _:
            raise NotCanonical("a span is empty, or a start and a stop")


def _read_link(link: object) -> Link:
    match link:
        case [bytes() as public_key, int() as rtt_us]:
            return Link(peer_id_from_public_key(public_key), rtt_us)
        case _:
            raise NotCanonical("a link is a peer's key and a round trip")
