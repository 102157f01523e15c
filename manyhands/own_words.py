"""What a node says of itself when it is asked for its `status`: more than it announces to all.

In: a connection to a node, or its answer. Out: the parts that people are shown, each only if it is
what it should be: the answer is JSON from whoever runs there.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from protocol.errors import ManyhandsError

if TYPE_CHECKING:
    from protocol.transport import Connection

STATUS_S = 3.0
MAX_CHARS, MAX_LISTED = 300, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Carries:
    """What a relay carries for others. `n_peers` and `n_bytes` are sums over all its starts."""

    n_peers: int
    n_bytes: int
    n_reserved: int  # peers that hold a place now
    n_open: int  # connections now


@dataclass(frozen=True, slots=True)
class Place:
    """A reservation that the node holds at a relay."""

    relay: str
    expires_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelSums:
    """Of libp2p. `n_streams` are open; `n_bytes` went through, `n_carried_bytes` for others."""

    n_streams: int
    n_punched: int
    n_bytes: int
    n_carried_bytes: int
    relays: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether there is anything to tell."""
        return any((self.n_streams, self.n_punched, self.n_bytes, self.n_carried_bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class PortAsked:
    """What came of asking the router for a port: where others dial it, or what is wrong."""

    protocol: str
    external: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnWords:
    """Of one node. What it does not say is empty, or None."""

    why: str = ""  # how it came to its verdict on who reaches it
    nat: str = ""
    held: str = ""  # why its swarm lets it serve nobody
    port: PortAsked | None = None
    carries: Carries | None = None
    places: tuple[Place, ...] = ()
    tunnels: TunnelSums | None = None


def carrying_view(own: OwnWords) -> dict[str, Any]:
    """Of relays and tunnels, for scripts and tables: what there is of it."""
    view: dict[str, Any] = {}
    if own.carries is not None:
        view["relay"] = asdict(own.carries)
    if own.places:
        view["via"] = [asdict(place) for place in own.places]
    if own.tunnels:
        view["tunnels"] = asdict(own.tunnels)
    return view


async def fetch_own_words(connection: "Connection") -> OwnWords:
    """What the node at the other end says; nothing where it does not answer."""
    with suppress(ManyhandsError):
        return read(await connection.call("status", b"", timeout_s=STATUS_S))
    return OwnWords()


def read(answer: bytes) -> OwnWords:
    try:
        told = _fields(json.loads(answer))
    except (ValueError, RecursionError):
        return OwnWords()
    reach = _fields(told.get("reach"))
    return OwnWords(
        why=_text(reach.get("why")),
        nat=_text(reach.get("nat")),
        held=_text(told.get("held")),
        port=_port(_fields(reach.get("port_mapping"))),
        carries=_carries(_fields(told.get("relay"))),
        places=tuple(
            Place(relay, _count(each.get("expires_ms")))
            for each in map(_fields, _listed(told.get("via")))
            if (relay := _text(each.get("relay")))
        ),
        tunnels=_tunnels(_fields(told.get("tunnels"))),
    )


def _port(told: Mapping[str, Any]) -> PortAsked | None:
    protocol, external = _text(told.get("protocol")), _text(told.get("external"))
    problem = _text(told.get("problem"))
    if not problem and not external:
        return None
    return PortAsked(protocol=protocol, external=external, problem=problem)


def _carries(told: Mapping[str, Any]) -> Carries | None:
    if not told:
        return None
    return Carries(
        n_peers=len(_fields(told.get("peers"))),
        n_bytes=_count(told.get("bytes")),
        n_reserved=_count(told.get("reservations")),
        n_open=_count(told.get("connections")),
    )


def _tunnels(told: Mapping[str, Any]) -> TunnelSums | None:
    if not told:
        return None
    return TunnelSums(
        n_streams=_count(told.get("streams")),
        n_punched=_count(told.get("punched")),
        n_bytes=_count(told.get("carried_bytes")),
        n_carried_bytes=_count(_fields(told.get("relaying")).get("carried_bytes")),
        relays=tuple(filter(None, map(_text, _listed(told.get("relays"))))),
    )


def _fields(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _listed(value: object) -> list[Any]:
    return value[:MAX_LISTED] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value[:MAX_CHARS] if isinstance(value, str) and value.isprintable() else ""


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value < 1 << 63 else 0
