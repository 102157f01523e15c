"""A node's place in a swarm with members, from what its home keeps: what `serve` needs of it.

In: the command line, read, and who we are. Out: whom to join, and what `node.belonging` runs with.
"""

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from manyhands.home import Home
from manyhands.membership import keep_state, known_addresses, register_path
from manyhands.party import Party
from manyhands.preparing import Wanted
from protocol.errors import UsageError

if TYPE_CHECKING:
    from node.belonging import Place
    from protocol.membership.gate import Membership
    from protocol.path_book import Met
    from protocol.transport.grpc import GrpcTransport


def check_discovery(wanted: Wanted, party: Party) -> None:
    """
    Raises:
        UsageError: strangers would be told who serves.
    """
    if party.membership is not None and (wanted.libp2p or wanted.bootstrap):
        raise UsageError(
            "a swarm with members is not looked for over libp2p: anybody could look there",
            hint="leave out --libp2p and --bootstrap; --join finds its members, --lan those nearby",
        )


def joining(wanted: Wanted, home: Home) -> Wanted:
    """Whom to join: who was named, else whom this home met in its swarm."""
    return wanted if wanted.join else replace(wanted, join=known_addresses(home))


def place_in_swarm(home: Home, party: Party, transport: "GrpcTransport") -> "Place | None":
    from node.belonging import Place
    from node.registrar import Registrar

    membership = party.membership
    if membership is None:
        return None

    async def keep(membership: "Membership", met: "Met") -> None:
        await asyncio.to_thread(keep_state, home, membership.state, met)

    registrar = Registrar(membership, party.identity.key, register_path(home))
    return Place(membership=membership, transport=transport, registrar=registrar, keep=keep)
