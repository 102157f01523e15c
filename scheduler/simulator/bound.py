"""What no rule can beat: a clairvoyant who moves blocks for nothing.

In: a world and a trace. Out: the most tokens of answers that any placement and any routing could
have made in it. At every moment each peer that is there spends all of its time on full batches of
whatever blocks are wanted, on weights that it has at once; no link takes any time, nobody is lost.
What is left is the sum of all speeds over the number of blocks, and that an answer cannot be made
before it was asked for: served by t is the least over s of asked by s plus what can be made
from s to t.

Speeds are those for the trace's mean mix of prompt and answer rows.
"""

from collections.abc import Sequence

from scheduler.simulator.traces import Request, Trace
from scheduler.simulator.world import World


def clairvoyant_tokens_per_s(world: World, trace: Trace) -> float:
    """An upper bound of goodput over the whole trace."""
    changes: list[tuple[float, float, float]] = []  # (when, more speed, more asked)
    speeds = _tokens_per_s(world, trace.requests)
    for presence in trace.presences:
        speed = speeds[world.index[presence.peer_id]]
        changes.append((presence.join_s, speed, 0.0))
        changes.append((min(presence.leave_s, trace.horizon_s), -speed, 0.0))
    changes += [(request.at_s, 0.0, float(request.n_answer)) for request in trace.requests]
    now_s = speed = backlog = served = 0.0
    for at_s, more_speed, more_asked in [*sorted(changes), (trace.horizon_s, 0.0, 0.0)]:
        made = min(backlog, max(0.0, speed) * (at_s - now_s))
        served, backlog = served + made, backlog - made + more_asked
        now_s, speed = at_s, speed + more_speed
    return served / trace.horizon_s


def _tokens_per_s(world: World, requests: Sequence[Request]) -> list[float]:
    """What each peer adds to the swarm's tokens per second, at best."""
    n_prompt = sum(request.n_prompt for request in requests)
    n_answer = max(1, sum(request.n_answer for request in requests))
    ratio, n_blocks = n_prompt / n_answer, world.model.n_blocks
    return [peer.blocks_per_s(ratio) / n_blocks for peer in world.peers]
