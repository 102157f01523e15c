"""Where one session's rows go from here, and where whoever sends it rows is answered.

In: rows and words for a neighbour, by peer id. Out: the same on the right stream: the one to a
successor, the one that a predecessor opened, or a client's own, whom no node could dial. A hop
that is its own neighbour is no business of this.
"""

import logging
from collections.abc import Sequence

from node.neighbours import Neighbours
from protocol.codec import data_bytes
from protocol.errors import ManyhandsError
from protocol.frames import Ack, Ask, Gone, RowGroup
from protocol.transport import Stream

log = logging.getLogger(__name__)


class DataPaths:
    """Of one session. `is_bare`: the client holds the ends, and is a neighbour itself.

    inbound: data streams that predecessors opened to us, by peer.
    """

    __slots__ = ("_client", "_inbound", "_is_bare", "_neighbours", "_own", "successor")

    def __init__(
        self, neighbours: Neighbours, inbound: dict[str, Stream], client: str, *, is_bare: bool
    ) -> None:
        self._neighbours, self._inbound = neighbours, inbound
        self._client, self._is_bare = client, is_bare
        self._own: Stream | None = None  # the client's
        self.successor = ""  # another node, or nobody yet

    def lead_to(self, peer: str, addresses: Sequence[str]) -> None:
        """Rows go to that node from now on; its stream is opened if it is not."""
        self.successor = peer
        self._neighbours.expect(peer, addresses)

    def heard_on(self, peer: str, stream: Stream) -> None:
        """A client has this session on that stream; processes that share its key have others."""
        if self._is_bare and peer == self._client:
            self._own = stream

    def push(self, peer: str, group: RowGroup, row_bytes: int, rows: bytes) -> None:
        """Rows for the successor. Nobody dials a client: without its stream they are let go."""
        if peer != self._client:
            self._neighbours.push(peer, group, row_bytes, rows)
        elif self._own is not None:
            self._neighbours.push(peer, group, row_bytes, rows, self._own)

    def answer(self, peer: str, message: Ack | Ask | Gone) -> None:
        """A word about rows: questions go where rows go, the rest to where they came from."""
        if isinstance(message, Ask):
            self._neighbours.send(peer, message)
            return
        is_own = self._is_bare and peer == self._client
        stream = self._own if is_own else self._inbound.get(peer)
        if stream is not None:
            send_on(stream, data_bytes(message))


def send_on(stream: Stream, message: bytes) -> None:
    """Send if the stream still stands; whoever listens on it sees its end."""
    try:
        stream.send(message)
    except ManyhandsError as error:
        log.debug("a stream ended under a message", extra={"error": str(error)})
