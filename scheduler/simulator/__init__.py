"""A swarm on paper: thousands of peers that come and go, under the real scheduler or another rule.

Discrete events; the same arguments give the same report on every machine. Placement and routing
are not modelled but called (`manyhands_rule.py`). Rows do not run one by one: between two events
every session runs at a speed that its nodes' cost curves and its company give (`rates.py`).
"""

from scheduler.simulator.bound import clairvoyant_tokens_per_s
from scheduler.simulator.manyhands_rule import Manyhands
from scheduler.simulator.parallax_rule import Parallax
from scheduler.simulator.petals import Petals
from scheduler.simulator.policies import Policy
from scheduler.simulator.report import Report
from scheduler.simulator.simple_rules import EvenSplit, RandomRule
from scheduler.simulator.simulation import simulate
from scheduler.simulator.state import Settings
from scheduler.simulator.traces import Asking, Churn, Presence, Request, Trace, make_trace
from scheduler.simulator.world import ModelShape, PeerSpec, World, volunteers

__all__ = [
    "Asking",
    "Churn",
    "EvenSplit",
    "Manyhands",
    "ModelShape",
    "Parallax",
    "PeerSpec",
    "Petals",
    "Policy",
    "Presence",
    "RandomRule",
    "Report",
    "Request",
    "Settings",
    "Trace",
    "World",
    "clairvoyant_tokens_per_s",
    "make_trace",
    "simulate",
    "volunteers",
]
