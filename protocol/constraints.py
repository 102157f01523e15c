"""What a session's client asks of whoever runs or sees its rows, signed, so that every hop knows.

In: regions, trust groups, peers to avoid or to require, whether relays may carry rows. Out: bytes
under the client's signature, for each hop of one session, and back; and for a peer's announcement,
the first constraint that it breaks. The client routes by the same rules; hops check their
neighbours by them before a row leaves, and the terms of each tab say them, so that a receipt shows
what was asked for.

A constraint is a kind and values. Unlike elsewhere, one of an unknown kind is refused by name: to
pass it over would be to break it.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from protocol.announcements import MAX_TEXT_CHARS, Announcement
from protocol.canonical import Field, NotCanonical, decode, encode
from protocol.checks import require
from protocol.errors import UsageError, VersionMismatch
from protocol.identity import PeerId, peer_id_from_public_key, public_key_from_peer_id
from protocol.measured import MAX_GROUP_CHARS
from protocol.messages import SessionId
from protocol.regions import is_within
from protocol.signing import Envelope, SigningKey, open_envelope, seal

TYPE, VERSION = "mh/constraints/1", 1
MAX_NAMED, MAX_GROUPS = 64, 8
MAX_BYTES = 8 * 1024


@dataclass(frozen=True, slots=True)
class Group:
    """A named set of peers.

    members: as the client lists them. Nobody listed: those whose certificate names the group; in
    a swarm that gives none, those who announce it, which anybody may.
    """

    name: str
    members: tuple[PeerId, ...] = ()

    def holds(self, peer: Announcement, certified: Collection[str] | None) -> bool:
        """certified: the groups in the peer's certificate; None: this swarm gives none."""
        if peer.measured.group not in ("", self.name):
            return False  # it serves another group alone
        if self.members:
            return peer.peer_id in self.members
        return self.name in ((peer.measured.group,) if certified is None else certified)


class Broken(NamedTuple):
    """Which constraint, as a person calls it, and how."""

    constraint: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """The defaults ask for nothing. Of several regions or groups, one is enough.

    profile: of execution, where the client asked for one. believes_regions: a region counts also
    where measurements contradict it. direct: of peers alone that are dialled without a relay.
    """

    regions: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()
    avoid: tuple[PeerId, ...] = ()
    require: tuple[PeerId, ...] = ()
    profile: str = ""
    believes_regions: bool = False
    direct: bool = False

    def __post_init__(self) -> None:
        named = max(len(self.regions), len(self.avoid), len(self.require))
        require(named <= MAX_NAMED, f"more than {MAX_NAMED} peers or regions in a constraint")
        require(len(self.groups) <= MAX_GROUPS, f"more than {MAX_GROUPS} groups")
        for group in self.groups:
            require(len(group.members) <= MAX_NAMED, f"more than {MAX_NAMED} members of a group")
            require(_is_word(group.name, MAX_GROUP_CHARS), "a group's name is not plain text")
        for text in (*self.regions, *((self.profile,) if self.profile else ())):
            require(_is_word(text, MAX_TEXT_CHARS), "a region or profile is not plain text")

    def __bool__(self) -> bool:
        """Whether they say who may serve; how, each hop is asked by itself."""
        return bool(self.regions or self.groups or self.avoid or self.require or self.direct)

    # --- who keeps to them ------------------------------------------------------------------------

    def broken_by(
        self, peer: Announcement, *, certified: Collection[str] | None = None, doubt: str = ""
    ) -> Broken | None:
        """The first that a peer of the chain breaks, by what it says and shows.

        doubt: why it is not in the region that it announces, if measurements say so.
        """
        if (outside := self.broken_by_id(peer.peer_id)) is not None:
            return outside
        if self.profile and peer.profile != self.profile:
            return Broken("profile", f"it runs {peer.profile}")
        if self.groups and not any(group.holds(peer, certified) for group in self.groups):
            names = " or ".join(group.name for group in self.groups)
            return Broken("group", f"nothing shows that it is in group {names}")
        if self.regions and not any(is_within(peer.region, region) for region in self.regions):
            where = f"in region {peer.region}" if peer.region else "in no region that it names"
            return Broken("region", f"it is {where}")
        if self.regions and doubt and not self.believes_regions:
            return Broken("region", doubt)
        if self.direct and (why := why_relayed(peer)):
            return Broken("direct", why)
        return None

    def broken_by_id(self, peer_id: PeerId) -> Broken | None:
        """As far as that shows without its announcement."""
        if peer_id in self.avoid:
            return Broken("avoid", "it is to be avoided")
        listed = {peer for group in self.groups for peer in group.members}
        if self.groups and all(group.members for group in self.groups) and peer_id not in listed:
            return Broken("group", "it is not among those who were listed")
        return None

    def missing_from(self, route: Collection[PeerId]) -> PeerId | None:
        """A required peer that is in no hop of a whole route."""
        return next((peer for peer in self.require if peer not in route), None)

    # --- as bytes ---------------------------------------------------------------------------------

    def encode(self) -> bytes:
        """As they stand in terms; nothing, where nothing is asked for."""
        return encode(self._fields()) if self else b""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """
        Raises:
            NotCanonical, PeerMisbehaved: these are none.
            VersionMismatch: they hold one that this version does not know.
        """
        require(len(data) <= MAX_BYTES, "constraints are too large")
        return cls._read(decode(data)) if data else cls()

    def seal(self, session: SessionId, swarm_id: bytes, key: SigningKey) -> bytes:
        """For the hops of one session; nothing, where nothing is asked for.

        Raises:
            UsageError: more than hops would read.
        """
        if len(self.encode()) > MAX_BYTES:
            raise UsageError("too many peers are named in what is asked of hops")
        if not self:
            return b""
        return seal(TYPE, swarm_id, (VERSION, session, self._fields()), key).encode()

    @classmethod
    def open(cls, data: bytes, session: SessionId, swarm_id: bytes, client: bytes) -> Self:
        """
        Raises:
            IntegrityError, PeerMisbehaved: they are not `client`'s, for this session.
            VersionMismatch: they hold one that this version does not know.
        """
        if not data:
            return cls()
        match open_envelope(Envelope.decode(data), TYPE, swarm_id, (client,)):
            case [int() as version, bytes() as named, [*fields]] if version == VERSION:
                require(named == session, "the constraints are those of another session")
                return cls._read(fields)
            case _:
                raise NotCanonical("constraints have other fields")

    def to_json(self) -> dict[str, Any]:
        """What is asked for, for people and scripts."""
        told = {
            "regions": list(self.regions),
            "groups": {group.name: list(group.members) for group in self.groups},
            "avoid": list(self.avoid),
            "require": list(self.require),
            "profile": self.profile,
            "believes_regions": self.believes_regions,
            "direct": self.direct,
        }
        return {name: value for name, value in told.items() if value}

    def _fields(self) -> tuple[tuple[Field, ...], ...]:
        told: list[tuple[Field, ...]] = []
        if self.regions:
            told.append(("regions", *self.regions))
        told += [("group", group.name, *_keys(group.members)) for group in self.groups]
        for name in ("avoid", "require"):
            if peers := getattr(self, name):
                told.append((name, *_keys(peers)))
        if self.profile:
            told.append(("profile", self.profile))
        if self.believes_regions:
            told.append(("believe-regions",))
        if self.direct:
            told.append(("direct",))
        return tuple(told)

    @classmethod
    def _read(cls, fields: Iterable[Any]) -> Self:
        values: dict[str, Any] = {}
        value: Any
        for field in fields:
            match field:
                case ["group", str() as name, *keys]:
                    values["groups"] = (*values.get("groups", ()), Group(name, _peers(keys)))
                    continue
                case ["regions", *regions] if regions and all(type(r) is str for r in regions):
                    name, value = "regions", tuple(regions)
                case [("avoid" | "require") as name, *keys] if keys:
                    value = _peers(keys)
                case ["profile", str() as profile] if profile:
                    name, value = "profile", profile
                case ["believe-regions"]:
                    name, value = "believes_regions", True
                case ["direct"]:
                    name, value = "direct", True
                case [str() as kind, *_] if kind not in KINDS:
                    raise VersionMismatch(
                        "", f"it knows no constraint {kind[:40]!r}", hint="update Manyhands there"
                    )
                case _:
                    raise NotCanonical("a constraint is a kind and values")
            if name in values:
                raise NotCanonical(f"the constraint {name} twice")
            values[name] = value
        return cls(**values)


KINDS = ("regions", "group", "avoid", "require", "profile", "believe-regions", "direct")
NONE = Constraints()


def why_relayed(peer: Announcement) -> str:
    """Why somebody else might carry what goes to `peer`; "" where it is dialled itself.

    Whoever has no relay's address among its own is reached through none.
    """
    if any(address.relay for address in peer.addresses):
        return "relays carry what goes to it"
    if not peer.reach.is_dialable:
        return "nobody can dial it without a relay"
    return ""


def _is_word(text: str, most: int) -> bool:
    return 0 < len(text) <= most and text.isprintable()


def _keys(peers: Iterable[PeerId]) -> Iterator[bytes]:
    return (public_key_from_peer_id(peer) for peer in peers)


def _peers(keys: Iterable[Any]) -> tuple[PeerId, ...]:
    try:
        peers = tuple(peer_id_from_public_key(key) for key in keys)
        for peer in peers:
            public_key_from_peer_id(peer)  # no key that anybody could claim
        return peers
    except (UsageError, TypeError, ValueError) as error:
        raise NotCanonical(f"peers are named by their keys: {error}") from error
