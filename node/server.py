"""What a node answers: control streams of clients, data streams of predecessors, gossip, files.

In: streams and calls from peers the transport has proven. Out: hops that live their own lives in
`sessions.py`. Whatever a stranger sends is checked here or below; the worst it gets is a typed
error on its own stream.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from node.funding import hold_for
from node.hop import Hop
from node.pacing import Throttle
from node.sessions import Sessions
from node.spreading import Spreading
from protocol.address import Endpoint
from protocol.codec import data_message, to_client_bytes, to_hop_message
from protocol.errors import (
    IntegrityError,
    ManyhandsError,
    MembershipEnded,
    PeerMisbehaved,
    PeerUnreachable,
)
from protocol.frames import Ask, Frame
from protocol.guard import Guard
from protocol.identity import PeerId
from protocol.messages import Failure, Reserve, Resume
from protocol.transport import CallHandler, SeenCallHandler, Service, Stream, StreamHandler
from protocol.transport.error_codec import encode_error

log = logging.getLogger(__name__)

OPENING_S = 10.0  # to send the first message of a control stream


class Server:
    """The handlers of a node's `Service`.

    `sessions` are those of the span that is served now: a node that moves has others afterwards.
    """

    def __init__(
        self,
        sessions: Callable[[], Sessions],
        inbound: Throttle,
        spreading: Spreading | None = None,
    ) -> None:
        """spreading: of spend logs, where these are paid from."""
        self._sessions, self._inbound, self._spreading = sessions, inbound, spreading

    def service(
        self,
        calls: Mapping[str, CallHandler],
        streams: Mapping[str, StreamHandler],
        open_calls: Mapping[str, CallHandler],
        seen_calls: Mapping[str, SeenCallHandler],
        guard: Guard | None = None,
        came: Callable[[PeerId, Endpoint], None] = lambda peer_id, seen: None,
    ) -> Service:
        """What a node answers besides, whatever it serves; `open_calls` to strangers, too."""
        return Service(
            guard=guard,
            came=came,
            open_calls=dict(open_calls),
            calls=dict(calls),
            seen_calls=dict(seen_calls),
            streams={"control": self.control, "data": self.data, **streams},
        )

    async def control(self, stream: Stream) -> None:
        """One session of one client, from its reserve (or resume) to its receipt."""
        try:
            async with asyncio.timeout(OPENING_S):
                first = to_hop_message(await stream.receive())
        except TimeoutError:
            raise PeerMisbehaved(stream.peer_id, "a control stream begins with a message") from None
        hop = await self._open(first, stream)
        if hop is None:
            return
        try:
            await self._converse(hop, stream)
        finally:
            hop.control_lost(stream)

    async def _open(self, first: object, stream: Stream) -> Hop | None:
        try:
            match first:
                case Reserve():
                    return await self._admit(first, stream)
                case Resume():
                    return self._sessions().resume(first, stream.peer_id, stream)
            raise PeerMisbehaved(stream.peer_id, "a control stream begins with reserve or resume")
        except ManyhandsError as error:
            log.info("session refused", extra={"client": stream.peer_id, "reason": str(error)})
            epoch = first.epoch if isinstance(first, Reserve | Resume) else 0
            stream.send(to_client_bytes(Failure(epoch=epoch, error=encode_error(error))))
            await stream.drain()
            return None

    async def _admit(self, reserve: Reserve, stream: Stream) -> Hop:
        sessions, client = self._sessions(), stream.peer_id
        hold = None
        if self._spreading is not None:
            hold = await hold_for(reserve, client, sessions, self._spreading.catch_up)
        try:
            return sessions.admit(reserve, client, stream, hold)
        except BaseException:
            if hold is not None and sessions.till.escrow is not None:
                sessions.till.escrow.drop(hold)
            raise

    async def _converse(self, hop: Hop, stream: Stream) -> None:
        """Hear the client until it goes or the session's receipt is filed."""
        over = asyncio.create_task(hop.filing.done.wait())
        hearing: asyncio.Task[bytes] | None = None
        try:
            while not over.done():
                hearing = asyncio.create_task(stream.receive())
                await asyncio.wait((hearing, over), return_when=asyncio.FIRST_COMPLETED)
                if not hearing.done():
                    break
                self._hear(hop, hearing.result())
            await stream.drain()
        except PeerUnreachable as error:
            log.debug("control stream ended", extra={"client": hop.client, "error": str(error)})
        except MembershipEnded as error:  # the transport has told the client: nothing more is run
            log.info("a client was sent away", extra={"client": hop.client, "error": str(error)})
            hop.give_up()
        finally:  # also when this handler is cancelled: nobody else knows of these two
            ours = [over, hearing] if hearing is not None else [over]
            for task in ours:
                task.cancel()
            await asyncio.gather(*ours, return_exceptions=True)

    def _hear(self, hop: Hop, message: bytes) -> None:
        try:
            hop.hear(to_hop_message(message))
        except (PeerMisbehaved, IntegrityError) as error:
            log.warning("client broke a rule", extra={"client": hop.client, "error": str(error)})
            hop.refuse(error)
        except ManyhandsError as error:  # a refusal, such as a prompt beyond what we lend
            hop.refuse(error)
        hop.flush()

    async def data(self, stream: Stream) -> None:
        """Everything one predecessor sends us, for all its sessions.

        A client that holds the ends is a successor, too: here it acknowledges what it was sent.
        """
        inbound, peer = self._sessions().around.inbound, stream.peer_id
        inbound[peer] = stream
        try:
            if self._inbound.bucket is None:
                await stream.each(lambda message: self._heard(peer, message, stream))
            while True:
                message = await stream.receive()
                self._heard(peer, message, stream)
                await self._inbound.passed(len(message))
        except PeerUnreachable as error:
            log.debug("data stream ended", extra={"peer": peer, "error": str(error)})
        finally:
            if inbound.get(peer) is stream:
                del inbound[peer]

    def _heard(self, peer: PeerId, data: bytes, stream: Stream) -> None:
        came_s, message, sessions = time.perf_counter(), data_message(data), self._sessions()
        if isinstance(message, Frame | Ask):
            batcher = sessions.around.batcher
            batcher.arriving(came_s)
            try:
                sessions.arrivals.received(peer, message, stream)
            finally:
                batcher.arrived()
            sessions.around.neighbours.flush()
        else:
            sessions.arrivals.client_returned(peer, message, stream)
