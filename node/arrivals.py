"""What comes on a node's data streams, brought to the hops that it is for.

In: rows and questions of predecessors, acknowledgements of successors, news of the links to them
(`node.neighbours.Successors`). Out: hops that go on. What is for a session that is over is answered
`Gone`; what breaks a rule costs the session that it names, not the stream that others share.
"""

import logging
from collections.abc import Callable, Container, Mapping, Sequence

from node.hop import Hop
from protocol.actions import Action
from protocol.codec import data_bytes
from protocol.errors import PeerMisbehaved
from protocol.frames import Ack, Ask, Frame, Gone
from protocol.hop_session import HopSession
from protocol.messages import SessionId
from protocol.transport import Stream

log = logging.getLogger(__name__)


class Arrivals:
    """For the sessions of one span. over: those that ended lately; `flush` sends what is due."""

    def __init__(
        self,
        hops: Mapping[SessionId, Hop],
        over: Container[SessionId],
        flush: Callable[[], None],
    ) -> None:
        self._hops, self._over, self._flush = hops, over, flush

    def received(self, peer: str, message: Frame | Ask, stream: Stream) -> None:
        """Rows or a question from a predecessor, on its stream."""
        if isinstance(message, Ask):
            hop = self._hops.get(message.session)
            if hop is None:
                stream.send(data_bytes(Gone(message.session)))
            else:
                hop.heard_on(peer, stream)
                hop.do(hop.session.ask(peer, message))
            return
        at = 0
        for group in message.groups:
            rows = message.body[at : at + group.rows * message.row_bytes]
            at += len(rows)
            hop = self._hops.get(group.session)
            if hop is None:
                stream.send(data_bytes(Gone(group.session)))
                continue
            hop.heard_on(peer, stream)
            try:
                hop.frame(peer, group, message.row_bytes, rows)
            except PeerMisbehaved as error:
                # One bad group must not cost the pair's other sessions their stream.
                log.warning("a frame was refused", extra={"peer": peer, "error": str(error)})
                hop.session.dropped["refused"] += 1
                hop.refuse(error)  # what was to come in its place would be waited for in vain

    def client_returned(self, peer: str, message: Ack | Gone, stream: Stream) -> None:
        """From a client that holds the ends, and so is the last hop's successor.

        Raises:
            PeerMisbehaved: it has no such session here, and had none lately.
        """
        hop = self._hops.get(message.session)
        if hop is None and message.session in self._over:
            return
        if hop is None or hop.client != peer or not hop.is_bare:
            raise PeerMisbehaved(peer, "a predecessor sends rows or asks")
        hop.heard_on(peer, stream)
        self.returned(peer, message)

    # --- node.neighbours.Successors ---------------------------------------------------------------

    def returned(self, peer: str, message: Ack | Gone) -> None:
        hop = self._hops.get(message.session)
        if hop is None:
            return
        if isinstance(message, Ack):
            hop.do(hop.session.ack(peer, message))
        else:
            hop.do(hop.session.gone(peer))
        self._flush()

    def leads_to(self, peer: str) -> bool:
        return any(hop.successor == peer for hop in self._hops.values())

    def link_lost(self, peer: str) -> None:
        self._tell(lambda session: session.link_lost(peer))

    def link_back(self, peer: str) -> None:
        self._tell(lambda session: session.link_back(peer))

    def link_failed(self, peer: str, reason: str) -> None:
        self._tell(lambda session: session.link_failed(peer, reason))

    def _tell(self, news: Callable[[HopSession], Sequence[Action]]) -> None:
        for hop in list(self._hops.values()):
            hop.do(news(hop.session))
