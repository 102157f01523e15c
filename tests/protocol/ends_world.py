"""The world of `session_world.py` with a client that holds the ends: rows in, rows out, rollbacks.

The client plays a script of forwards, each some rows from a position on; streams break, with all
that was on its way. Frames are not lost on a stream that lives: transports are ordered.
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from protocol import chain_actions as chain
from protocol.actions import Push, Return
from protocol.chain_actions import Seat
from protocol.ends_session import EndsSession
from protocol.errors import PeerUnreachable
from protocol.frames import Ack, Frame, Gone
from protocol.hop_state import State
from protocol.messages import Reserve, Span
from tests.protocol.hash_span import ROW_BYTES, HashSpan, digest
from tests.protocol.session_world import SESSION, World

Script = Sequence[tuple[int, Sequence[bytes]]]


def undisturbed_rows(spans: Sequence[Span], script: Script) -> list[list[bytes]]:
    """The reference: every forward's rows through the same spans, one hop after the other."""
    hops, out = [HashSpan(span) for span in spans], []
    for start, rows in script:
        for hop in hops:
            rows = hop.run(start, rows)
        out.append(list(rows))
    return out


def random_script(die: random.Random, n_forwards: int) -> Script:
    """Forwards that mostly go on, and now and then come back to an earlier position."""
    script, length = [], 0
    for number in range(n_forwards):
        start = length if die.random() < 0.6 else die.randint(0, length)
        count = die.randint(1, 5)
        script.append((start, [digest(bytes([number, i])) for i in range(count)]))
        length = start + count
    return script


class EndsWorld(World):
    """`run` plays until every forward is answered and all hops are closed."""

    def __init__(
        self, die: random.Random, spans: Sequence[Span], script: Script, *, breaks: int, **what: int
    ) -> None:
        super().__init__(die, spans, prompt=[1], max_tokens=200, **what)
        self.script, self.breaks_left = deque(script), breaks
        self.capacity = 200
        self.ends = EndsSession(
            SESSION, "client", self.n_blocks, row_bytes=ROW_BYTES, capacity=self.capacity
        )
        self.client = self.ends
        self.answers: list[list[bytes]] = []
        self.asked = (0, 0)
        self._feed()

    def _feed(self) -> None:
        """The next forward, once the one before is answered."""
        if not self.script:
            self._do_client(self.ends.finish())
            return
        start, rows = self.script.popleft()
        self.asked = (start, len(rows))
        self.answers.append([])
        self._do_client(self.ends.send(start, b"".join(rows), self.now))

    def _do_client(self, actions: Sequence[chain.ChainAction]) -> None:
        for action in actions:
            match action:
                case Push(peer, group, row_bytes, body):
                    self._send_data("client", peer, Frame((group,), row_bytes, body))
                case Return(peer, message):
                    self._send_data("client", peer, message)
                case chain.Take(start, rows, body):
                    self._take(start, rows, bytes(body))
                case _:
                    super()._do_client([action])

    def _take(self, start: int, rows: int, body: bytes) -> None:
        first, count = self.asked
        for i in range(rows):
            if start + i >= first:
                assert start + i == first + len(self.answers[-1]), "rows come back in order"
                self.answers[-1].append(body[i * ROW_BYTES : (i + 1) * ROW_BYTES])
        if len(self.answers[-1]) == count and self.ends.received == self.ends.inputs.length:
            self._feed()

    def _reserve(self, seat: Seat, epoch: int) -> Reserve:
        return replace(super()._reserve(seat, epoch), client_ends=True, capacity=self.capacity)

    def _deliver_data(self, sender: str, receiver: str) -> None:
        if self.breaks_left and self.die.random() < 0.05:
            self._break(sender, receiver)
            return
        if receiver != "client":
            super()._deliver_data(sender, receiver)
            return
        match self.data[sender, receiver].popleft():
            case Frame(groups, row_bytes, body):
                self._do_client(self.ends.frame(sender, groups[0], row_bytes, body, self.now))
            case Ack() as ack:
                self._do_client(self.ends.ack(sender, ack))
            case Gone():
                gone = PeerUnreachable(sender, "the session is over there")
                self._do_client(self.ends.lost(sender, gone, self.now))

    def _break(self, one: str, other: str) -> None:
        """A stream ends with everything on it, and is opened again."""
        self.breaks_left -= 1
        for link in ((one, other), (other, one)):
            self.data.get(link, deque()).clear()
        for sender, receiver in ((one, other), (other, one)):
            if sender == "client":
                self.ends.link_lost(receiver)
                self._do_client(self.ends.link_back(receiver))
            elif receiver != "client":
                node = self.nodes[sender]
                if node.alive and node.session is not None:
                    self._do_hop(node, node.session.link_lost(receiver))
                    self._do_hop(node, node.session.link_back(receiver))

    def _busy(self) -> bool:
        return super()._busy()


__all__ = ["EndsWorld", "State", "random_script", "undisturbed_rows"]
