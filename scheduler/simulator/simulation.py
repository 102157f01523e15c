"""One run: a trace, a rule, a seed; out comes a report.

The same arguments give the same report, on every machine.
"""

import random

from scheduler.simulator.announcing import Announcer
from scheduler.simulator.answers import Answers
from scheduler.simulator.events import Events
from scheduler.simulator.fleet import Fleet
from scheduler.simulator.policies import Policy
from scheduler.simulator.rates import Rates
from scheduler.simulator.report import Report, report_of
from scheduler.simulator.state import Settings
from scheduler.simulator.traces import Trace
from scheduler.simulator.world import World


def simulate(
    world: World, trace: Trace, policy: Policy, *, seed: int = 0, settings: Settings | None = None
) -> Report:
    """Let `trace` happen to a swarm that follows `policy`."""
    settings = settings or Settings()
    events, rates = Events(), Rates(len(world.peers), settings.precision)
    announcer = Announcer(world, rates, settings, admits=policy.admits)
    rng = random.Random(f"{seed} {trace.name}")
    fleet = Fleet(world, policy, events, random.Random(rng.random()), settings, announcer)
    answers = Answers(fleet, policy, events, random.Random(rng.random()), settings, rates)
    fleet.plan(trace.presences)
    answers.plan(trace.requests)
    events.run(trace.horizon_s)
    answers.close()
    return report_of(policy.name, trace, answers, fleet)
