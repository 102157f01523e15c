"""Meeting the swarm about credit: its nodes for news of logs, its witnesses for signatures.

In: a party of a home, whom to ask first. Out: connections, made as they are needed and kept; what
nodes know, in our books; our own log, told to a few of them. Where a witness is found the swarm's
policy says: a node by its peer id, an address, or a URL.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ledger.spend_books import SpendBooks
from ledger.spend_learning import Learner
from ledger.spend_log import SpendLog
from ledger.spend_words import WITNESS, Known, Since, decode_answer
from ledger.witness_http import ADD_CHECKPOINT, Answer
from manyhands.crediting.panel import ANSWER_S, Ask, Panel
from manyhands.party import Party
from manyhands.swarm_funding import UNKNOWN
from protocol.address import Address
from protocol.errors import ManyhandsError, NoQuorum, PeerRefused, PeerUnreachable
from protocol.identity import PeerId

if TYPE_CHECKING:
    from protocol.transport import Connection, Transport

DIAL_S = 5.0
MAX_ANSWER_BYTES = 64 * 1024  # of a witness: some cosignatures
ENOUGH = 3  # nodes that are told of our log: the rest hear it from them


class Meeting:
    """Use `aclose` in the end."""

    def __init__(self, party: Party, transport: "Transport", addresses: Sequence[Address]) -> None:
        """addresses: where to begin, the likeliest first."""
        self._party, self._transport = party, transport
        self._addresses = sorted(addresses, key=lambda each: each.peer_id == party.peer_id)
        self._connections: dict[PeerId, Connection] = {}
        self._looked = False
        self._lock = asyncio.Lock()
        self._dialling: defaultdict[PeerId, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def aclose(self) -> None:
        for connection in self._connections.values():
            await connection.aclose()

    # --- witnesses --------------------------------------------------------------------------------

    def panel(self) -> Panel:
        """Of the swarm's witnesses."""
        membership = self._party.membership
        places = membership.state.policy.witnesses if membership else ()
        asks = {name: self._ask_at(where) for name, where in places if where != UNKNOWN}
        return Panel(self._party.policy.quorum(), asks)

    def _ask_at(self, where: str) -> Ask:
        if where.startswith(("http://", "https://")):
            return lambda request: ask_over_http(where, request)

        async def ask(request: bytes) -> Answer:
            if where.startswith("/"):
                address = Address.parse(where)
                connection = await self._dial(address.peer_id, (address,))
            else:
                connection = await self._peer(PeerId(where))
            answered = await connection.call(WITNESS, request, timeout_s=ANSWER_S)
            return decode_answer(answered)

        return ask

    # --- nodes ------------------------------------------------------------------------------------

    async def hear(self, books: SpendBooks) -> PeerId:
        """Learn what a node of the swarm knows; who that was.

        Raises:
            PeerUnreachable: nobody answers.
        """
        from node.hearing import hear

        learner = Learner(books)
        for connection in await self._nodes():
            try:
                await hear(connection, learner, Since())
                return connection.peer_id
            except ManyhandsError as error:
                failure = error
        raise failure

    async def publish(self, log: SpendLog) -> dict[PeerId, Known]:
        """Tell a few nodes of our log; who was told, and what they know of it.

        Raises:
            PeerUnreachable, PeerRefused: none would hear it.
        """
        from node.hearing import publish

        told: dict[PeerId, Known] = {}
        failure: ManyhandsError = PeerUnreachable("", "no node of the swarm answers")
        for connection in (await self._nodes())[:ENOUGH]:
            try:
                told[connection.peer_id] = await publish(connection, log)
            except ManyhandsError as error:
                failure = error
        if not told:
            raise failure
        return told

    async def peer(self, peer_id: PeerId) -> "Connection":
        """A connection to this node, kept for the next time.

        Raises:
            PeerUnreachable: nobody announces it, or it does not answer.
        """
        try:
            return await self._peer(peer_id)
        except NoQuorum as error:
            raise PeerUnreachable(peer_id, "nobody announces it: does it run?") from error

    async def _nodes(self) -> "list[Connection]":
        """Some that serve, each of them dialled.

        Raises:
            PeerUnreachable: nobody answers.
        """
        await self._look()
        known = {address.peer_id: [address] for address in self._addresses}
        known |= {peer.peer_id: list(peer.to_dial) for peer in self._directory.live()}
        found = []
        failure: ManyhandsError = PeerUnreachable(
            "",
            "no node of the swarm is known here",
            hint="name one that runs: --join ADDR",
        )
        for peer_id, addresses in known.items():
            try:
                found.append(await self._dial(peer_id, addresses))
            except ManyhandsError as error:
                failure = error
            if len(found) == ENOUGH:
                break
        if not found:
            raise failure
        return found

    async def _peer(self, peer_id: PeerId) -> "Connection":
        """A node that we know by its id alone."""
        at = [address for address in self._addresses if address.peer_id == peer_id]
        if not at:
            await self._look()
            announced = self._directory.get(peer_id)
            at = list(announced.to_dial) if announced else []
        if not at:
            raise NoQuorum(f"nobody announces the node {peer_id}: does it run?")
        return await self._dial(peer_id, at)

    async def _look(self) -> None:
        """Ask who serves, once."""
        from scheduler.directory import fetch_directory

        async with self._lock:
            if self._looked:
                return
            self._directory = self._party.directory()
            try:
                await fetch_directory(
                    self._transport,
                    self._addresses,
                    self._directory,
                    connections=self._connections,
                    timeout_s=DIAL_S,
                )
            except ManyhandsError:
                if not self._connections:
                    raise
            self._looked = True

    async def _dial(self, peer_id: PeerId, addresses: Sequence[Address]) -> "Connection":
        from protocol.transport.paths import paths_of

        async with self._dialling[peer_id]:  # of each peer: one that hangs holds no other up
            if (known := self._connections.get(peer_id)) is not None:
                return known
            dialled = await paths_of(self._transport).dial(peer_id, addresses, timeout_s=DIAL_S)
            self._connections[peer_id] = dialled
            return dialled


async def ask_over_http(url: str, request: bytes) -> Answer:
    """
    Raises:
        PeerUnreachable: nobody answers there.
        PeerRefused: what answers is no witness.
    """
    import httpx2

    try:
        async with (
            httpx2.AsyncClient(timeout=ANSWER_S) as client,
            client.stream("POST", url.rstrip("/") + ADD_CHECKPOINT, content=request) as answered,
        ):
            body = b""
            async for piece in answered.aiter_bytes():
                body += piece
                if len(body) > MAX_ANSWER_BYTES:
                    raise PeerRefused("", f"what answers at {url} is no witness")
    except httpx2.HTTPError as error:
        raise PeerUnreachable("", f"no witness answers at {url}: {error}") from error
    return Answer(answered.status_code, answered.headers.get("content-type", ""), body)
