"""What comes to a relay's port from anybody, in pieces, and what a node tells of itself on request.

Of a relay's port the whole door is tried, with the relay behind it: hellos, tokens, and what is
none of them, in as many pieces as a stranger likes.
"""

import asyncio
import json
from typing import Any

from manyhands import own_words
from node.relay import Relay
from node.relay_door import Door
from protocol.errors import PeerUnreachable
from protocol.identity import Identity, PeerId
from protocol.relaying import MAGIC, TOKEN_BYTES
from protocol.signing import OPEN_SWARM_ID
from tests.announcing import key_of, peer_of
from tests.fuzz.harness import Target
from tests.fuzz.reach_targets import hello

_loop = asyncio.new_event_loop()


class _Socket:
    """What a door writes is let go; it notices only that it is closed."""

    def get_extra_info(self, name: str) -> Any:
        return ("203.0.113.9", 40_000) if name in ("peername", "sockname") else None

    def set_write_buffer_limits(self, high: int) -> None: ...

    def write(self, data: bytes) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...

    abort = close


class _Reserved:
    """The stream of a peer that holds a place."""

    peer_id: PeerId = peer_of(1)

    def send(self, message: bytes) -> None:
        if len(message) % 2:
            raise PeerUnreachable(self.peer_id, "it has just gone")


def _door(data: bytes) -> None:
    """The first byte says how large the pieces are."""

    async def come() -> None:
        relay = Relay(Identity(key_of(5)), OPEN_SWARM_ID)
        relay._streams["12d3koo"] = _Reserved()  # type: ignore[assignment]
        size = 1 + (data[0] if data else 0) * 8
        door = Door(relay)
        door.connection_made(_Socket())  # type: ignore[arg-type]
        for at in range(1, len(data), size):
            door.data_received(data[at : at + size])
            assert len(door.head) <= 2 * 16 * 1024
        door.connection_lost(None)
        assert not relay._strangers, "it is forgotten"
        assert not relay._calls, "nobody waits for it"

    _loop.run_until_complete(come())


def _doors() -> list[bytes]:
    heads = (hello("12d3koo.peer"), hello("nobody.peer"), MAGIC + bytes(TOKEN_BYTES) + b"rows")
    return [b"\xff" + each for each in heads]


def _words() -> list[bytes]:
    told = {
        "reach": {
            "why": "two peers",
            "nat": "symmetric",
            "port_mapping": {"protocol": "PCP", "external": "203.0.113.5:31400", "problem": ""},
        },
        "held": "",
        "relay": {"peers": {"a": {}}, "bytes": 5, "reservations": 1, "connections": 2},
        "via": [{"relay": str(peer_of(2)), "expires_ms": 2**41}],
        "tunnels": {
            "streams": 1,
            "punched": 1,
            "carried_bytes": 9,
            "relaying": {"carried_bytes": 3},
            "relays": [str(peer_of(2))],
        },
    }
    return [json.dumps(told).encode()]


def _own_words(data: bytes) -> None:
    json.dumps(own_words.carrying_view(own_words.read(data)))


TARGETS = (
    Target(name="relay-door", parse=_door, seeds=_doors),
    Target(name="own-words", parse=_own_words, seeds=_words, shape="json"),
)
