"""Sessions that run at this moment: how fast each is, and which is through its rows next.

In: sessions with a load. Out: a call for each that has run all rows of its phase. Speeds are worked
out for all of them together (`rates.py`), at most every `rates_s`; between two such moments each
runs at its own.
"""

import heapq
from collections.abc import Callable

from scheduler.simulator.events import Events
from scheduler.simulator.rates import Rates
from scheduler.simulator.state import Session


class Running:
    """See the module."""

    def __init__(
        self, events: Events, rates: Rates, rates_s: float, on_end: Callable[[Session], None]
    ) -> None:
        self._events, self._rates, self._rates_s, self._on_end = events, rates, rates_s, on_end
        self._sessions: dict[int, Session] = {}
        self._settled_s: dict[int, float] = {}  # when each session's rows were last counted
        self._ends: list[tuple[float, int, int]] = []  # (when, session, its ticket)
        self._planned_s = float("inf")  # the next of them, as an event
        self._solved_s, self._is_dirty = -float("inf"), False

    def start(self, session: Session) -> None:
        """From now on it runs `session.load`; the others notice within `rates_s`."""
        assert session.load is not None
        session.row_s = self._rates.estimate(session.load)
        self._sessions[session.id] = session
        self._settled_s[session.id] = self._events.now_s
        self._push(session)
        self._plan_end()
        self._plan_solve()

    def stop(self, session: Session) -> None:
        """It runs no more for the moment; what it did counts, and what was planned is void."""
        self.settle(session)
        session.ticket += 1
        if self._sessions.pop(session.id, None) is not None:
            session.row_s = 0.0
            self._plan_solve()

    def settle(self, session: Session) -> None:
        """Count the rows that it ran up to now."""
        if session.id in self._sessions:
            session.run((self._events.now_s - self._settled_s[session.id]) / session.row_s)
            self._settled_s[session.id] = self._events.now_s

    def _plan_solve(self) -> None:
        if not self._is_dirty:
            self._is_dirty = True
            self._events.at(self._solved_s + self._rates_s, self._solve)

    def _solve(self) -> None:
        elapsed_s = self._events.now_s - self._solved_s
        self._is_dirty, self._solved_s = False, self._events.now_s
        sessions = list(self._sessions.values())
        loads = [session.load for session in sessions if session.load is not None]
        keys = [session.id for session in sessions]
        row_s = self._rates.solve(loads, keys, elapsed_s=elapsed_s)
        self._ends = []
        for session, seconds in zip(sessions, row_s, strict=True):
            self.settle(session)
            session.row_s = float(seconds)
            self._push(session)
        self._plan_end()

    def _push(self, session: Session) -> None:
        end_s = self._events.now_s + session.rows_left * session.row_s
        heapq.heappush(self._ends, (end_s, session.id, session.ticket))

    def _plan_end(self) -> None:
        if self._ends and self._ends[0][0] != self._planned_s:
            at_s = self._planned_s = self._ends[0][0]
            self._events.at(at_s, lambda: self._end(at_s))

    def _end(self, at_s: float) -> None:
        if at_s != self._planned_s:
            return  # another one comes before, or speeds were worked out anew
        self._planned_s = float("inf")
        while self._ends and self._ends[0][0] <= self._events.now_s:
            _, session_id, ticket = heapq.heappop(self._ends)
            session = self._sessions.get(session_id)
            if session is not None and session.ticket == ticket:
                session.run(session.rows_left)
                self._settled_s[session_id] = self._events.now_s
                self.stop(session)
                self._on_end(session)
        self._plan_end()
