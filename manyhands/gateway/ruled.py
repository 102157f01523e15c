"""Whether what a policy file says can hold at this gateway; found out before it answers anybody."""

from typing import Protocol, TypeVar

from manyhands.gateway.catalogue import Catalogue
from manyhands.gateway.grants import DataClass
from manyhands.gateway.policy import Policy
from protocol.errors import ConfigError


def require_known(policy: Policy, catalogue: Catalogue) -> None:
    """
    Raises:
        ConfigError: `manyhands/auto` leads to a model that is not served here.
    """
    if policy.auto is not None and policy.auto.model not in catalogue.names:
        hint = f"auto.model is one of: {', '.join(catalogue.names)}"
        raise ConfigError(f"no model here is called {policy.auto.model[:100]!r}", hint=hint)


class Certifies(Protocol):
    @property
    def certifies_groups(self) -> bool:
        """Whether certificates show who is in a trust group."""


Shown = TypeVar("Shown", bound=Certifies)


def require_proof(client: Shown, policy: Policy) -> Shown:
    """The client, or the home's party, if what the policy trusts can be shown to it.

    Raises:
        ConfigError: in this swarm a group's name is a label that any peer may put on.
    """
    rules = [rule for each in DataClass if (rule := policy.rule_of(each)) is not None]
    for group in [group for rule in rules for group in rule.trusted]:
        if not group.members and not client.certifies_groups:
            raise ConfigError(
                f"nobody certifies group {group.name} in this swarm: any peer could say so",
                hint=f'list its peers: groups = ["{group.name}=PEER,PEER"]',
            )
    return client
