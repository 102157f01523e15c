"""Who takes the place of a hop that leaves, and whether it is handed what the leaver has run.

In: how much there is to hand over, how fast, what running it again takes, how long the answer still
goes on. Out: a decision. Copying goes on beside the answer, running again stops it; so copying may
take as long as running again would, and a little in any case.
"""

import enum
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from protocol.chain_actions import FindHeirs
from protocol.measured import ASSUMED_BYTES_PER_S
from protocol.messages import Leaving
from scheduler.route_cost import prefill_us
from scheduler.routing import Route

log = logging.getLogger(__name__)

LITTLE_S = 1.0


class Choice(enum.Enum):
    STAY = enum.auto()  # the answer is over before anything else would be
    HAND_OVER = enum.auto()
    RUN_AGAIN = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a change of hops takes.

    left_s: how long the leaver stays. rest_s: how long the answer still goes on.
    """

    copy_s: float
    run_again_s: float
    rest_s: float
    left_s: float

    @property
    def choice(self) -> Choice:
        if self.rest_s <= min(self.left_s, LITTLE_S):
            return Choice.STAY
        if self.copy_s <= min(self.left_s, max(self.run_again_s, LITTLE_S)):
            return Choice.HAND_OVER
        if self.rest_s <= min(self.left_s, self.run_again_s):
            return Choice.STAY
        return Choice.RUN_AGAIN


def estimate(
    routes: Sequence[Route], leaving: Leaving, *, n_rows: int, rest_s: float, left_s: float
) -> Estimate:
    """For heirs that take the leaver's blocks between them: each its own part, at the same time."""
    down = [
        hop.announcement.measured.down_bytes_per_s or ASSUMED_BYTES_PER_S
        for route in routes
        for hop in route.hops
    ]
    up = leaving.up_bytes_per_s or ASSUMED_BYTES_PER_S
    return Estimate(
        copy_s=n_rows * leaving.row_bytes / min(up, *down),
        run_again_s=n_rows * max(_prefill_s(route) for route in routes),
        rest_s=rest_s,
        left_s=left_s,
    )


def choose(routes: Sequence[Route], action: FindHeirs, rest_s: float) -> Choice:
    """What to do with these heirs, of whom there may be none."""
    if not routes:
        log.info("a hop leaves, and has no heir", extra={"peer": action.leaver.peer})
        return Choice.STAY
    found = estimate(
        routes, action.leaving, n_rows=action.n_rows, rest_s=rest_s, left_s=action.left_s
    )
    said = {"peer": action.leaver.peer, "choice": found.choice.name}
    log.info("a hop leaves", extra={**said, **asdict(found)})
    return found.choice


def _prefill_s(route: Route) -> float:
    """Seconds that one row takes in the slowest hop."""
    return max(len(hop.span) * prefill_us(hop.announcement) / 1e6 for hop in route.hops)
