"""Hops and a client around the session rules, in a world whose every accident is drawn from a die.

The "model" is that of `hash_span.py`. Messages wait in one queue per link and direction; the die
decides which queue moves next, and what is lost, doubled, killed, frozen, drained or paid late.
"""

import random
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from protocol import chain_actions as chain
from protocol.actions import Action, Over, Push, Return, Run, Settle, Tell
from protocol.asking import Handover
from protocol.chain_actions import Seat
from protocol.chain_session import ChainSession
from protocol.codec import ids_from_bytes, ids_to_bytes
from protocol.draws import Drawn
from protocol.errors import (
    ManyhandsError,
    PeerBusy,
    PeerMisbehaved,
    PeerUnreachable,
    SwarmIncomplete,
)
from protocol.frames import Ack, Ask, Frame, Gone
from protocol.hop_session import HopSession
from protocol.hop_state import State
from protocol.messages import (
    Commit,
    Leaving,
    LinkDown,
    Progress,
    Raised,
    Reserve,
    Reserved,
    SessionId,
    Span,
    TokenEvent,
    Unpaid,
)
from tests.protocol.hash_span import ID_BYTES, ROW_BYTES, HashSpan, draw, undisturbed

SESSION = SessionId(b"session-of-tests")


@dataclass
class LimitedTab:
    """Lets `limit` more rows run before it wants a voucher."""

    limit: int
    rows: int = 0
    heads: int = 0

    def may_run(self, start: int, rows: int, prefill_until: int) -> bool:
        return start < prefill_until or self.rows + rows <= self.limit

    def count(
        self,
        start: int,
        rows: int,
        prefill_until: int,
        heads: int,
        output: bytes | memoryview = b"",
    ) -> None:
        self.rows += rows
        self.heads += heads


@dataclass
class CountedEnding:
    left: int

    def add(self, token_id: int) -> tuple[str, str]:
        self.left -= 1
        return f"<{token_id}>", "" if self.left else "length"


@dataclass
class Node:
    peer: str
    span: Span
    alive: bool = True
    session: HopSession | None = None
    model: HashSpan | None = None
    tab: LimitedTab | None = None
    begins_at: int = 0  # rows it had before the session
    draining: bool = False
    stuck: bool = False  # it lives and reports, and runs nothing any more
    frozen: bool = False  # it hears and says nothing any more, and its connections stand
    garbles: bool = False  # what it sends has another shape
    takes_from: str = ""  # the leaver whose rows it takes over now
    queue: deque[Run] = field(default_factory=deque)
    over: str = ""
    latest: tuple[int, int] = (-1, -1)  # that it drew: the position, and what it was


@dataclass
class OracleOf:
    """A drafter that knows the answer, and tells it as often as it likes."""

    die: random.Random
    truth: Sequence[int]
    acceptance: float
    most: int
    lateness: float = 0.0  # how often it has to think first
    is_thinking: bool = False
    at_once: int = 0

    def guess(self, ids: Sequence[int], most: int) -> Sequence[int]:
        self.at_once = self.die.randint(0, 3)
        self.is_thinking = self.die.random() < self.lateness
        if self.is_thinking:
            return ()
        n = self.die.randint(0, min(self.most, max(0, most)))
        truth = self.truth[len(ids) : len(ids) + n]
        return [i if self.die.random() < self.acceptance else 999 - i for i in truth]


class World:
    """One session, its hops and the accidents; `run` plays until the client is done."""

    def __init__(
        self,
        die: random.Random,
        spans: Sequence[Span],
        *,
        prompt: Sequence[int],
        max_tokens: int,
        spares: int = 1,
        loss: float = 0.0,
        duplication: float = 0.0,
        kills: int = 0,
        window: int = 10_000,
        cancel_at: int | None = None,
        prefixes: Sequence[int] = (),
        drains: int = 0,
        stalls: int = 0,
        garblers: int = 0,
        freezes: int = 0,
        busy: float = 0.0,
        broken_handovers: float = 0.0,
        drafts: int = 0,
        acceptance: float = 0.5,
        lateness: float = 0.0,
    ) -> None:
        """
        drafts: at most so many behind a token, each of them right with `acceptance`; with
            `lateness` they come when the token's row is on its way, or back.
        prefixes: of each new hop the die picks one as the rows it has already.
        freezes: how often some hops, one or all at once, are stopped as by SIGSTOP.
        busy: how often a hop refuses. broken_handovers: how often one ends before it has all.
        """
        self.die, self.loss, self.duplication = die, loss, duplication
        self.kills_left, self.window, self.cancel_at = kills, window, cancel_at
        self.drains_left, self.stalls_left, self.garblers_left = drains, stalls, garblers
        self.busy, self.broken_handovers, self.freezes_left = busy, broken_handovers, freezes
        self.inherited: dict[str, int] = {}  # rows that heirs had from leavers
        self.n_blocks, self.max_tokens = spans[-1].stop, max_tokens
        self.nodes = {
            f"{span}#{copy}": Node(f"{span}#{copy}", span)
            for span in spans
            for copy in range(1 + spares)
        }
        self.spans = list(spans)
        self.now = 0.0
        self.client = ChainSession(prompt, self.n_blocks, most_drafts=drafts)
        self.drafts = drafts
        truth = undisturbed(prompt, spans, max_tokens)
        self._guesser = OracleOf(die, truth, acceptance, drafts, lateness)
        self.delivered: list[TokenEvent] = []
        self.ended: chain.Done | None = None
        self.control: dict[tuple[str, str], deque[object]] = {}
        self.data: dict[tuple[str, str], deque[object]] = {}
        self.vouchers: list[str] = []
        self.prefixes = prefixes or (0,)

    # --- the client's shell -----------------------------------------------------------------------

    def run(self) -> None:
        self._do_client(self.client.begin())
        for _ in range(20_000):
            if self.ended is not None and not self._busy():
                return
            if not self._step():
                self.now += 0.5
                self._tick()
        raise AssertionError("the session neither ended nor failed")

    def _do_client(self, actions: Sequence[chain.ChainAction]) -> None:
        for action in actions:
            match action:
                case chain.SendReserve(seat, epoch, leaver):
                    reserve = self._reserve(seat, epoch)
                    if leaver is not None:
                        note = Handover(peer=leaver.peer, note=b"n")
                        reserve = replace(reserve, handover=note)
                    self._to_hop(seat.peer, reserve)
                case chain.SendRaise(peer, epoch):
                    self._to_hop(peer, ("raise", epoch))
                case chain.SendCommit():
                    self._to_hop(action.peer, _commit(action, self.client.n_prompt))
                case chain.Release(peer):
                    self._to_hop(peer, ("close", "released"))
                case chain.FindRoute(epoch, missing, _, avoid):
                    self._route(epoch, missing, avoid)
                case chain.FindHeirs(epoch=epoch, leaver=leaver, avoid=avoid):
                    seats = self._cover(leaver.span, avoid) or []
                    seats = seats if isinstance(seats, list) else []
                    hand_over = self.die.random() < 0.8
                    self._do_client(self.client.heirs(epoch, seats, self.now, hand_over=hand_over))
                case chain.Deliver(event):
                    self.delivered.append(event)
                    if self.cancel_at == len(self.delivered):
                        self._do_client(self.client.cancel())
                case chain.Done():
                    self.ended = action
                    for hop in self.client.hops:
                        self._to_hop(hop.peer, ("close", "done"))

    def _reserve(self, seat: Seat, epoch: int) -> Reserve:
        return Reserve(
            session=SESSION,
            epoch=epoch,
            manifest=b"m" * 32,
            span=seat.span,
            n_blocks=self.n_blocks,
            capacity=self.client.n_prompt + self.max_tokens,
            max_tokens=self.max_tokens,
            budget_ms=10_000_000,
            client_nonce=b"n" * 16,
            salt_commit=b"s" * 32,
        )

    def _route(self, epoch: int, missing: Sequence[Span], avoid: Collection[str]) -> None:
        seats: list[Seat] = []
        for gap in missing:
            found = self._cover(gap, {*avoid, *(seat.peer for seat in seats)})
            if isinstance(found, SwarmIncomplete):
                return self._do_client(self.client.no_route(epoch, found))
            seats += found
        return self._do_client(self.client.routed(epoch, seats, self.now))

    def _cover(self, gap: Span, avoid: Collection[str]) -> list[Seat] | SwarmIncomplete:
        """Seats for a run of blocks, entering mid-span where the die says so."""
        taken = {*avoid, *(hop.peer for hop in self.client.hops)}
        seats: list[Seat] = []
        at = gap.start
        while at < gap.stop:
            free = [n for n in self.nodes.values() if n.peer not in taken]
            able = [node for node in free if node.span.start <= at < node.span.stop]
            if not able:
                starts = [node.span.start for node in free if node.span.start > at]
                return SwarmIncomplete([(at, min([gap.stop, *starts]))])
            node = self.die.choice(able)
            seats.append(Seat(node.peer, Span(at, min(node.span.stop, gap.stop))))
            taken.add(node.peer)
            at = seats[-1].span.stop
        return seats

    def _to_hop(self, peer: str, message: object) -> None:
        self.control.setdefault(("client", peer), deque()).append(message)

    # --- the nodes' shells ------------------------------------------------------------------------

    def _do_hop(self, node: Node, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Run():
                    node.queue.append(action)
                case Push(peer, group, row_bytes, body):
                    self._send_data(node.peer, peer, Frame((group,), row_bytes, body))
                case Return(peer, message):
                    self._send_data(node.peer, peer, message)
                case Tell(message):
                    self.control.setdefault((node.peer, "client"), deque()).append(message)
                case Settle():
                    assert node.session is not None
                    self._do_hop(node, node.session.settled())
                case Over(reason):
                    node.over = reason
                    node.queue.clear()
                    if reason == "expired" and node.session is not None:  # its stream ends
                        self._do_hop_message(node, ("expired", node.session.epoch))

    def _send_data(self, sender: str, receiver: str, message: object) -> None:
        if isinstance(message, Frame) and sender in self.nodes and self.nodes[sender].garbles:
            message = replace(message, row_bytes=16, body=b"?" * 16 * message.groups[0].rows)
        queue = self.data.setdefault((sender, receiver), deque())
        if self.die.random() < self.loss:
            return
        queue.append(message)
        if self.die.random() < self.duplication:
            queue.append(message)

    def _handle_control(self, node: Node, message: object) -> None:
        if node.frozen:
            return None
        if isinstance(message, Reserve):
            if node.draining or self.die.random() < self.busy:
                busy = PeerBusy(node.peer, "no room")
                return self._do_hop_message(node, ("failure", busy))
            if node.session is not None and node.session.state is not State.OVER:
                if node.session.epoch >= message.epoch:
                    return None
                self._do_hop(node, node.session.abandon())
            node.tab, node.model = LimitedTab(self.window), HashSpan(message.span)
            node.over = ""
            node.queue.clear()
            node.session = HopSession(
                message,
                row_bytes=ROW_BYTES,
                tab=node.tab,
                ending=lambda ids, n_prompt: CountedEnding(self.max_tokens + n_prompt - len(ids)),
                now=self.now,
                drafter=(lambda commit: self._guesser) if self.drafts else None,
            )
            node.latest = -1, -1
            node.takes_from = message.handover.peer
            if node.takes_from:
                return None
            node.begins_at = self._begin_at(node, node.session, node.model)
            return self._reserved(node)
        if node.session is None:
            return None
        match message:
            case ("raise", int(epoch)):
                return self._do_hop(node, node.session.raise_(epoch, self.now))
            case Commit():
                try:
                    done = node.session.commit(message, self.now)
                except PeerMisbehaved as error:  # rows that came before it
                    return self._blame(node, error)
                return self._do_hop(node, done)
            case ("close", str(reason)):
                return self._do_hop(node, node.session.close(reason, self.now))
            case "voucher":
                assert node.tab is not None
                node.tab.limit = node.tab.rows + self.window
                return self._do_hop(node, node.session.paid(self.now))
        return None

    def _do_hop_message(self, node: Node, message: object) -> None:
        self.control.setdefault((node.peer, "client"), deque()).append(message)

    def _reserved(self, node: Node) -> None:
        assert node.session is not None
        reserved = Reserved(
            epoch=node.session.epoch,
            terms=b"",
            offer=b"",
            row_bytes=ROW_BYTES,
            profile="",
            prefix_length=node.begins_at,
            journal_from=node.session.journal.start,
        )
        self._do_hop(node, [Tell(reserved)])

    def _take_over(self, node: Node) -> None:
        """Some more rows from the leaver; the last ones, if the die or the leaver says so."""
        session, model, leaver = node.session, node.model, self.nodes[node.takes_from]
        assert session is not None
        assert model is not None
        length, giver = model.length, leaver.session
        can_give = (
            leaver.alive
            and not leaver.frozen
            and giver is not None
            and giver.state is State.RUNNING
        )
        if can_give and giver is not None and giver.epoch < session.epoch:
            firm = max(giver.length - self.drafts, min(giver.length, giver.n))  # others are guesses
            stop = min(firm, length + self.die.randint(1, 4))
            assert leaver.model is not None
            if stop > length and self.die.random() >= self.broken_handovers:
                model.take_over(leaver.model, length, stop)
                if giver.reserve.span.stop == model.span.stop and not session.reserve.is_last:
                    first = min(max(length, giver.journal.start), stop)
                    if session.journal.is_empty:
                        session.journal.begin(first)
                    if first < stop:
                        session.journal.append(giver.journal.rows(first, stop))
                return
        node.takes_from, node.begins_at = "", length
        if session.begin_at(length, self.now):
            self.inherited[node.peer] = length
            self._reserved(node)

    def _begin_at(self, node: Node, session: HopSession, model: HashSpan) -> int:
        """What an earlier session with this prompt has left at the node."""
        length = self.die.choice(self.prefixes)
        rows = [ids_to_bytes([i]) for i in self.client.ids[:length]]
        for span in self.spans:
            if span.stop <= node.span.start:
                rows = HashSpan(span).run(0, rows)
        for row in model.run(0, rows):
            if not session.reserve.is_last:
                session.journal.append(row)
        assert session.begin_at(length, self.now)
        return length

    def _handle_data(self, node: Node, sender: str, message: object) -> None:
        if node.session is None or node.frozen:
            return
        match message:
            case Frame(groups, row_bytes, body):
                try:
                    done = node.session.frame(sender, groups[0], row_bytes, body, self.now)
                except PeerMisbehaved as error:
                    self._blame(node, error)
                else:
                    self._do_hop(node, done)
            case Ack():
                self._do_hop(node, node.session.ack(sender, message))
            case Ask():
                self._do_hop(node, node.session.ask(sender, message))
            case Gone():
                self._do_hop(node, node.session.gone(sender))

    def _blame(self, node: Node, error: PeerMisbehaved) -> None:
        """What the shells make of bad rows: the hop ends, and tells the client whose they were."""
        assert node.session is not None
        self._do_hop(node, node.session.close("refused", self.now))
        self._do_hop_message(node, ("failure", error))

    def _failed(self, peer: str, error: ManyhandsError) -> None:
        accused = error.peer_id if isinstance(error, PeerMisbehaved) else peer
        for one in dict.fromkeys((accused, peer)):
            self._do_client(self.client.lost(one, error, self.now))

    def _handle_client(self, peer: str, message: object) -> None:
        match message:
            case ("failure", PeerBusy() | PeerMisbehaved() as error):
                self._failed(peer, error)
            case ("expired", int(epoch)):
                serves = {hop.peer: hop.agreed_epoch for hop in self.client.hops}
                if serves.get(peer) == epoch:
                    lost = PeerUnreachable(peer, "it closed the stream")
                    self._do_client(self.client.lost(peer, lost, self.now))
            case Leaving():
                self._do_client(self.client.leaving(peer, message, self.now))
            case Reserved():
                self._do_client(self.client.reserved(peer, message, self.now))
            case Raised():
                self._do_client(self.client.raised(peer, message, self.now))
            case TokenEvent():
                self._do_client(self.client.token(peer, message, self.now))
            case Progress():
                self._do_client(self.client.progress(peer, message, self.now))
            case Unpaid():
                self._do_client(self.client.unpaid(peer, self.now))
                self.vouchers.append(peer)
            case LinkDown():
                self._do_client(self.client.link_down(peer, message.peer, message.epoch, self.now))

    def _compute(self, node: Node) -> None:
        run = node.queue.popleft()
        assert node.session is not None
        assert node.model is not None
        if not node.session.is_current(run.ticket):
            return
        if node.stuck:
            return
        width = ID_BYTES if node.session.reserve.is_first else ROW_BYTES
        rows = [bytes(run.payload[i * width : (i + 1) * width]) for i in range(run.rows)]
        chunk = self.die.randint(1, run.rows)
        out = node.model.run(run.start, rows[:chunk])
        drawn: list[Drawn] = []
        if run.line is not None and run.sample:
            drawn = self._judged(node, run, out)
        elif run.sample and chunk == run.rows:
            node.latest = run.start + run.rows, draw(out[-1], run.start + run.rows)
            drawn = [Drawn(node.latest[1])]
        output = b"" if node.session.reserve.is_last else b"".join(out)
        if chunk < run.rows:
            rest = Run(
                run.ticket,
                run.start + chunk,
                run.rows - chunk,
                run.payload[chunk * width :],
                run.sample,
                run.line,
            )
            node.queue.appendleft(rest)
        self._do_hop(node, node.session.ran(run.ticket, chunk, output, drawn))

    def _judged(self, node: Node, run: Run, out: Sequence[bytes]) -> list[Drawn]:
        """A draw behind each row, as long as it is as drafted."""
        assert run.line is not None
        is_known = node.latest == (run.start, run.line.at(run.start))
        if run.start >= run.line.start and not is_known:
            return []
        drawn: list[Drawn] = []
        for position, row in enumerate(out, run.start + 1):
            drawn.append(Drawn(draw(row, position)))
            node.latest = position, drawn[-1].token_id
            if drawn[-1].token_id != run.line.at(position):
                break
        return drawn

    # --- the die ----------------------------------------------------------------------------------

    def _busy(self) -> bool:
        return any(self.control.values()) or any(
            node.alive
            and not node.frozen
            and node.session is not None
            and node.session.state is not State.OVER
            for node in self.nodes.values()
        )

    def _step(self) -> bool:
        """Move one message, or run one step, or hand over one late voucher."""
        moves: list[tuple[str, object]] = [
            *(("control", link) for link, queue in self.control.items() if queue),
            *(("data", link) for link, queue in self.data.items() if queue),
            *(("compute", node) for node in self.awake() if node.queue),
            *(("pay", peer) for peer in self.vouchers),
            *(("take", node) for node in self.awake() if node.takes_from),
            *(("guess", node) for node in self.awake() if self._thinks(node)),
        ]
        if not moves:
            return False
        if self.kills_left and self.die.random() < 0.02:
            self._kill()
        if self.drains_left and self.die.random() < 0.02:
            self._drain()
        if self.stalls_left and self.die.random() < 0.01:
            self.stalls_left -= self._spoil("stuck")
        if self.freezes_left and self.die.random() < 0.02:
            self.freezes_left -= 1
            for _ in range(self.die.randint(1, len(self.spans))):
                self._spoil("frozen")
        if self.garblers_left and self.die.random() < 0.01:
            self.garblers_left -= self._spoil("garbles")
        kind, what = self.die.choice(moves)
        if kind == "control":
            assert isinstance(what, tuple)
            self._deliver_control(*what)
        elif kind == "data":
            assert isinstance(what, tuple)
            self._deliver_data(*what)
        elif kind == "compute":
            assert isinstance(what, Node)
            if what.alive and not what.frozen and what.queue:
                self._compute(what)
        elif kind == "take":
            assert isinstance(what, Node)
            if what.takes_from and not what.frozen:
                self._take_over(what)
        elif kind == "guess":
            assert isinstance(what, Node)
            self._guesser.is_thinking = False  # it says once that it thought, used or not
            if what.session is not None:
                self._do_hop(what, what.session.guessed())
        else:
            assert isinstance(what, str)
            self.vouchers.remove(what)
            self._do_client(self.client.paid(what, self.now))
            self._to_hop(what, "voucher")
        return True

    def _thinks(self, node: Node) -> bool:
        session = node.session
        if session is None or not session.reserve.is_last:
            return False
        return self._guesser.is_thinking and session.draws.line is None

    def _deliver_data(self, sender: str, receiver: str) -> None:
        queue = self.data[sender, receiver]
        message = queue.popleft() if queue else None
        if message is not None and self.nodes[receiver].alive:
            self._handle_data(self.nodes[receiver], sender, message)

    def _deliver_control(self, sender: str, receiver: str) -> None:
        if not (queue := self.control.get((sender, receiver))):
            return
        message = queue.popleft()
        if receiver == "client":
            self._handle_client(sender, message)
        elif self.nodes[receiver].alive:
            self._handle_control(self.nodes[receiver], message)
        else:
            lost = PeerUnreachable(receiver, "connection lost")
            self._do_client(self.client.lost(receiver, lost, self.now))

    def _kill(self) -> None:
        """SIGKILL for a hop of the chain, but never for the last holder of a span."""
        node = self._victim()
        if node is None:
            return
        node.alive = False
        self.kills_left -= 1
        self.control.pop((node.peer, "client"), None)
        lost = PeerUnreachable(node.peer, "connection lost")
        self._do_client(self.client.lost(node.peer, lost, self.now))

    def _victim(self) -> Node | None:
        """A sound node of the chain whose blocks another one could take."""
        in_chain = [self.nodes[hop.peer] for hop in self.client.hops]
        doomed = [
            node
            for node in in_chain
            if self._is_sound(node)
            and any(
                other is not node and self._is_sound(other) and other.span.holds(node.span)
                for other in self.nodes.values()
            )
        ]
        return self.die.choice(doomed) if doomed else None

    def _is_sound(self, node: Node) -> bool:
        spoilt = node.draining or node.stuck or node.garbles or node.frozen
        return node.alive and not spoilt and node.peer not in self.client.avoid

    def _spoil(self, how: str) -> int:
        node = self._victim()
        if node is not None:
            setattr(node, how, True)
        return 0 if node is None else 1

    def _drain(self) -> None:
        """SIGTERM for a hop of the chain: it takes nobody new and tells its clients."""
        node = self._victim()
        if node is None:
            return
        node.draining = True
        self.drains_left -= 1
        session = node.session
        if session is not None and session.state in (State.RUNNING, State.RAISED):
            leaving = Leaving(epoch=session.epoch, left_ms=30_000, row_bytes=8)
            self._do_hop(node, [Tell(leaving)])

    def _tick(self) -> None:
        self._do_client(self.client.tick(self.now))
        for node in self.awake():
            if node.session is not None:
                self._do_hop(node, node.session.tick(self.now))

    def awake(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.alive and not node.frozen]


def _commit(action: chain.SendCommit, n_prompt: int) -> Commit:
    return Commit(
        epoch=action.epoch,
        length=action.length,
        next_length=action.next_length,
        n=action.n,
        n_prompt=n_prompt,
        previous=action.previous,
        next=action.next.peer,
        next_addresses=(),
        route=b"",
        salt=b"s" * 32,
        ids=ids_to_bytes(action.ids),
        history=ids_to_bytes(action.history),
    )


__all__ = ["World", "ids_from_bytes"]
