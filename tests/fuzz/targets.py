"""All targets by name."""

from tests.fuzz import (
    asked_targets,
    audit_targets,
    door_targets,
    funding_targets,
    governance_targets,
    hole_targets,
    ledger_targets,
    model_targets,
    owing_targets,
    reach_targets,
    relay_targets,
    router_targets,
    settling_targets,
    trust_targets,
    wire_targets,
)
from tests.fuzz.harness import Target

ALL: tuple[Target, ...] = (
    *wire_targets.TARGETS,
    *trust_targets.TARGETS,
    *model_targets.TARGETS,
    *governance_targets.TARGETS,
    *door_targets.TARGETS,
    *reach_targets.TARGETS,
    *router_targets.TARGETS,
    *relay_targets.TARGETS,
    *hole_targets.TARGETS,
    *ledger_targets.TARGETS,
    *funding_targets.TARGETS,
    *owing_targets.TARGETS,
    *settling_targets.TARGETS,
    *audit_targets.TARGETS,
    *asked_targets.TARGETS,
)
TARGETS = {target.name: target for target in ALL}
assert len(TARGETS) == len(ALL), "two targets of one name"
