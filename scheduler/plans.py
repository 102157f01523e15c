"""Plans of several moves, for swarms so small that all can be weighed.

In: the table of members, and who may move. Out: the first step of the best plan that pays. It often
takes several moves to gain anything, and some cost flow that later ones bring back: a beam search.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from protocol.identity import PeerId
from protocol.messages import Span
from scheduler.board import Board, Shifts, Trial
from scheduler.flow import Changes, Floats, Ints
from scheduler.placement_table import Table

MAX_DEPTH = 4  # moves in a plan
ROUNDING = 1e-6

Move = tuple[PeerId, Span]


def first_of_plan(table: Table, peers: Sequence[PeerId], width: int, toll: float) -> Move | None:
    """The first step of the best few moves that together are worth more than they cost.

    No step leaves a block without a host, but one may cost flow that a later one brings back. A
    plan is worth what the swarm makes in its end, less a toll on that for each step. What the way
    there makes does not enter, so that with every step taken the rest is worth more: as long as the
    same peers plan (and as far as the search follows them), no step is taken back, and nobody need
    remember the plan. Of several orders of the same steps the one that never makes little is taken.

    Args:
        width: of the beam: how many plans are followed at each depth.
        toll: of a step, as a part of what the swarm is expected to make in the end.
    """
    if not peers:
        return None
    steps = _Steps.of(table, peers)
    plans, least = np.zeros((1, 0), int), np.full(1, np.inf)
    best: int | None = None
    best_worth = table.board.expected()
    for depth in range(1, MAX_DEPTH + 1):
        plans, least = steps.longer(table.board, plans, least)
        if not len(plans):
            break
        values = table.board.weigh_shifts(steps.shifts(plans))
        order = values.order()
        worth = float(values.expected[order[0]]) * (1 - depth * toll)
        if worth > best_worth * (1 + ROUNDING):
            best, best_worth = int(plans[order[0], 0]), worth
        plans, least = plans[order[:width]], np.minimum(least, values.expected)[order[:width]]
    if best is None:
        return None
    return peers[steps.peers[best]], Span(int(steps.starts[best]), int(steps.stops[best]))


class _Steps(NamedTuple):
    """Every move that anybody may make, and whence. Plans are rows of indices into these."""

    peers: Ints  # [steps], as they were given
    starts: Ints
    stops: Ints
    was: Ints  # [peers, 2], start and stop
    speeds: Floats  # [peers]
    logs: Floats  # [peers], of the chance that each leaves soon

    @classmethod
    def of(cls, table: Table, peers: Sequence[PeerId]) -> Self:
        members = [table.members[peer] for peer in peers]
        places = [
            (n, place.span.start, place.span.stop)
            for n, peer in enumerate(peers)
            for place in table.places(peer)
            if place != members[n]
        ]
        owners, starts, stops = np.array(places, int).reshape(-1, 3).T
        was = np.array([(one.span.start, one.span.stop) for one in members], int).reshape(-1, 2)
        shifts = Shifts.of([Trial((), (member,)) for member in members])
        return cls(owners, starts, stops, was, shifts.changes.speeds[:, 0], shifts.logs[:, 0])

    def longer(self, board: Board, plans: Ints, least: Floats) -> tuple[Ints, Floats]:
        """Each with one step more, of a peer whose blocks others hold by then.

        Args:
            least: [plans], what the swarm makes on the way of each where it makes least.
        """
        order = np.argsort(-least, kind="stable")
        plans, least = plans[order], least[order]
        may = ~self._holds_alone(board, plans)  # [plans, peers]
        np.put_along_axis(may, self.peers[plans], values=False, axis=1)
        which, step = np.nonzero(may[:, self.peers])
        longer = np.column_stack((plans[which], step))
        # The same steps in another order are the same plan; the first has the better way.
        keys = np.sort(longer, axis=1) @ (len(self.peers) ** np.arange(longer.shape[1]))
        _, firsts = np.unique(keys, return_index=True)
        firsts.sort()
        return longer[firsts], least[which[firsts]]

    def _holds_alone(self, board: Board, plans: Ints) -> NDArray[np.bool_]:
        """[plans, peers]: whether a block would be left without a host."""
        counts = board.counts_after(self.shifts(plans))
        alone = np.zeros((len(plans), board.n_blocks + 1), int)
        np.cumsum(counts <= 1, axis=1, out=alone[:, 1:])
        holds: NDArray[np.bool_] = alone[:, self.was[:, 1]] > alone[:, self.was[:, 0]]
        return holds

    def shifts(self, plans: Ints) -> Shifts:
        """As the board weighs them: everybody who moves is taken away, and put there."""
        owners = self.peers[plans]  # [plans, depth]
        signs = np.ones_like(plans)
        return Shifts(
            Changes(
                np.hstack((self.was[owners, 0], self.starts[plans])),
                np.hstack((self.was[owners, 1], self.stops[plans])),
                np.hstack((-self.speeds[owners], self.speeds[owners])),
            ),
            np.hstack((-signs, signs)),
            np.hstack((-self.logs[owners], self.logs[owners])),
        )
