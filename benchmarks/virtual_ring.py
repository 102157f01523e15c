"""One session on a ring of hops that compute for so long and lie so far apart: in virtual time.

In: links, what a step and a row take a hop, and who guesses. Out: tokens per second. The rules are
those of nodes (`protocol.hop_session`, `node.drafting`), the hops are not: a step takes its time
and computes nothing, and each hop has a machine of its own. So a figure takes a second, is the same
in every run, and is of any machines; what sockets, processes and shared cores do is not in it.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from node.drafting import Drafting, Source
from node.work import RowCost
from protocol.actions import Action, Push, Return, Run, Tell
from protocol.codec import ids_to_bytes
from protocol.draws import Drawn
from protocol.frames import Ack, Ask, Gone
from protocol.hop_session import HopSession
from protocol.messages import Commit, Reserve, SessionId, Span, TokenEvent

SESSION, ROW_BYTES, CLIENT = SessionId(b"session-of-a-lab"), 8, "client"
PROMPT = (1, 2, 3, 4)
N_IDS = 1000


@dataclass(frozen=True, slots=True)
class Ring:
    """Of `n_hops`, alike. All in seconds; a link's is one way."""

    n_hops: int
    link_s: float
    step_s: float
    row_s: float

    @property
    def ring_s(self) -> float:
        """What one row takes around it."""
        return self.n_hops * (self.link_s + self.step_s + self.row_s)

    def bound(self, acceptance: float) -> float:
        """Tokens per second that no guesses get above: only misses pay for distance, and each
        token is a row at the busiest hop, beside so many others that its step costs nothing."""
        return 1 / ((1 - acceptance) * self.ring_s + acceptance * self.row_s)


def truth(position: int) -> int:
    return position * 7919 % N_IDS


class Oracle:
    """A `protocol.actions.Drafter`, each of whose guesses is right with this probability."""

    def __init__(self, acceptance: float, seed: int) -> None:
        self._acceptance, self._seed = acceptance, seed

    def guess(self, ids: Sequence[int], most: int) -> Sequence[int]:
        return [self._of(position) for position in range(len(ids), len(ids) + most)]

    def _of(self, position: int) -> int:
        is_right = random.Random(position << 16 | self._seed).random() < self._acceptance
        return truth(position) if is_right else truth(position) + 1


class Unlimited:
    """A tab whose client always pays."""

    def may_run(self, start: int, rows: int, prefill_until: int) -> bool:
        return True

    def count(self, *what: object) -> None:
        pass


class Endless:
    """An answer that stops nowhere."""

    def add(self, token_id: int) -> tuple[str, str]:
        return "", ""


class _Hop:
    """A machine with a queue, around the rules."""

    def __init__(self, lab: "_Lab", session: HopSession) -> None:
        self.lab, self.session = lab, session
        self._queue: deque[Run] = deque()
        self._is_busy = False
        self._latest = -1, -1  # drawn: position, id

    def do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Run():
                    self._queue.append(action)
                case Push(peer, group, row_bytes, body):
                    self.lab.send(
                        lambda hop, at_s, sent=(group, row_bytes, body): hop.do(
                            hop.session.frame(self.name, *sent, at_s)
                        ),
                        peer,
                    )
                case Return(peer, message):
                    self.lab.send(lambda hop, at_s, m=message: hop.hear(self.name, m), peer)
                case Tell(TokenEvent()):
                    self.lab.n_tokens += 1
        self._begin()

    @property
    def name(self) -> str:
        return str(self.session.reserve.span.start)

    def hear(self, peer: str, message: Ack | Ask | Gone) -> None:
        assert isinstance(message, Ack)
        self.do(self.session.ack(peer, message))

    def _begin(self) -> None:
        while self._queue and not self.session.is_current(self._queue[0].ticket):
            self._queue.popleft()  # given up while it waited: never run
        if self._is_busy or not self._queue:
            return
        run, ring = self._queue.popleft(), self.lab.ring
        self._is_busy = True
        self.lab.n_rows += run.rows if self.session.reserve.is_first else 0
        self.lab.after(ring.step_s + run.rows * ring.row_s, lambda: self._ran(run))

    def _ran(self, run: Run) -> None:
        self._is_busy = False
        is_last = self.session.reserve.is_last
        drawn = self._drawn(run) if is_last and run.sample else ()
        output = b"" if is_last else bytes(run.rows * ROW_BYTES)
        self.do(self.session.ran(run.ticket, run.rows, output, drawn))

    def _drawn(self, run: Run) -> tuple[Drawn, ...]:
        """As `protocol.drawing` judges."""
        at, line = run.start + 1, run.line
        if line is None:
            at += run.rows - 1
            self._latest = at, truth(at)
            return (Drawn(truth(at)),)
        known, token_id = self._latest
        if at > line.start and not (at - 1 == known and line.at(known) == token_id):
            return ()
        drawn = []
        for position in range(at, at + run.rows):
            self._latest = position, truth(position)
            drawn.append(Drawn(truth(position)))
            if line.at(position) != truth(position):
                break
        return tuple(drawn)


class _Lab:
    def __init__(self, ring: Ring, drafter: Callable[[Callable[[], float]], Drafting] | None):
        self.ring, self.now_s, self.n_tokens, self.n_rows = ring, 0.0, 0, 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        make = (lambda commit: drafter(lambda: self.now_s)) if drafter is not None else None
        self.hops = {str(i): _Hop(self, _session(ring.n_hops, i, make)) for i in range(ring.n_hops)}

    def after(self, s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_s + s, next(self._order), what))

    def send(self, what: Callable[[_Hop, float], None], peer: str) -> None:
        self.after(self.ring.link_s, lambda: what(self.hops[peer], self.now_s))

    def play(self, n_tokens: int) -> None:
        n = self.ring.n_hops
        for i, hop in enumerate(self.hops.values()):
            first, last = i == 0, i == n - 1
            commit = Commit(
                epoch=0,
                length=0,
                next_length=0,
                n=len(PROMPT),
                n_prompt=len(PROMPT),
                previous=str((i - 1) % n),
                next=str((i + 1) % n),
                next_addresses=(),
                route=b"",
                salt=bytes(32),
                ids=ids_to_bytes(PROMPT) if first else b"",
                history=ids_to_bytes(PROMPT) if last else b"",
            )
            hop.do(hop.session.commit(commit, 0.0))
        while self.n_tokens < n_tokens:
            self.now_s, _, what = heapq.heappop(self._events)
            what()


def _session(n_hops: int, index: int, drafter: Callable[[Commit], Drafting] | None) -> HopSession:
    reserve = Reserve(
        session=SESSION,
        epoch=0,
        manifest=bytes(32),
        span=Span(index, index + 1),
        n_blocks=n_hops,
        capacity=1 << 20,
        max_tokens=(1 << 20) - len(PROMPT),
        budget_ms=1 << 30,
        client_nonce=bytes(16),
        salt_commit=bytes(32),
    )
    session = HopSession(
        reserve,
        row_bytes=ROW_BYTES,
        tab=Unlimited(),
        ending=lambda ids, n_prompt: Endless(),
        now=0.0,
        drafter=drafter if index == n_hops - 1 else None,
    )
    session.begin_at(0, 0.0)
    return session


def tokens_per_s(ring: Ring, acceptance: float | None, n_tokens: int, *, seed: int = 0) -> float:
    """Of one session; acceptance None: nobody guesses."""
    costs = RowCost(ring.row_s, 1, ring.step_s)

    def drafting(clock: Callable[[], float]) -> Drafting:
        assert acceptance is not None
        oracle = Source(Oracle(acceptance, seed))
        return Drafting([oracle], lambda position: costs, ring.n_hops, frozenset(), clock)

    lab = _Lab(ring, drafting if acceptance is not None else None)
    lab.play(n_tokens)
    return lab.n_tokens / lab.now_s
