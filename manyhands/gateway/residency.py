"""Where the data of one request may go: by its class, by its key, and by what it asks itself.

In: the `manyhands` object of a request, whose key it came with, the policy. Out: limits for the
swarm, each as narrow as the narrowest of the three; or a refusal that names the rule. A request may
ask for less than its key and class allow, never for more.
"""

from collections.abc import Mapping

from manyhands.gateway.asked import Extension
from manyhands.gateway.faults import ApiError
from manyhands.gateway.grants import Caller, DataClass
from manyhands.gateway.policy import ClassRule, Policy, Upstream
from protocol.constraints import Group
from protocol.errors import SwarmIncomplete
from protocol.identity import PeerId
from protocol.regions import is_within
from scheduler.wanted import Constraint, Limits

RESIDENCY = {each.value for each in (Constraint.GROUP, Constraint.REGION, Constraint.DIRECT)}
RESIDENCY |= {Constraint.DOUBTED.value}


def class_of(more: Extension | None, caller: Caller) -> DataClass:
    """The stricter of what the request says and what its key has."""
    said = DataClass(more.data_class) if more and more.data_class else DataClass.PUBLIC
    return max(said, caller.grant.data_class, key=lambda each: each.rank)


def limits_of(more: Extension, caller: Caller, policy: Policy) -> Limits:
    """
    Raises:
        ApiError: data_residency_violation.
        UsageError: the words make no sense.
    """
    data = class_of(more, caller)
    rule = policy.rule_of(data) or ClassRule()
    if data is DataClass.RESTRICTED and not rule.groups:
        message = "rule restricted: no trust group is named to which restricted data may go"
        raise ApiError("data_residency_violation", message, param="manyhands.data_class")
    bounds = {"key regions": caller.grant.regions, f"class {data} regions": tuple(rule.regions)}
    regions = _common(bounds)
    for named, words in bounds.items():
        for region in more.regions if words else ():
            if not any(is_within(region, word) for word in words):
                raise _outside(named, f"served in {', '.join(words)}, not in {region}")
    if regions and more.believe_regions:
        why = f"{', '.join(regions)}, and a region that measurements contradict does not count"
        raise _outside("regions", why)
    return Limits(
        regions=tuple(more.regions) or regions,
        groups=_groups(more, rule, data),
        believe_regions=more.believe_regions,
        max_price=more.max_price,
        max_cost=more.max_cost,
        max_prepaid=more.max_prepaid,
        avoid=tuple(map(PeerId, more.avoid)),
        require=tuple(map(PeerId, more.require)),
        direct=more.no_relays or data is DataClass.RESTRICTED,
    )


def why_not(upstream: Upstream, data: DataClass, limits: Limits) -> str:
    """What keeps this data from an upstream, in words that are not the caller's; empty: nothing.

    Limits speak of peers. A region can be kept by somebody else, where the operator says so.
    """
    if not upstream.takes(data):
        return f"{data} data"
    bound = {
        "groups": limits.groups,
        "peers": limits.require,
        "a price": limits.max_price is not None,
        "a cost": limits.max_cost is not None,
        "direct ways": limits.direct,
        "regions": limits.regions and not _is_in(upstream.region, limits.regions),
    }
    named = [name for name, binds in bound.items() if binds]
    return f"data that is bound to {', '.join(named)}" if named else ""


def explained_here(error: ApiError, limits: Limits, data: DataClass) -> ApiError:
    """What the swarm's failure means where the data may go nowhere else: a rule, not a fault."""
    cause = error.__cause__
    if not isinstance(cause, SwarmIncomplete) or cause.constraint not in RESIDENCY:
        return error
    if data is DataClass.PUBLIC:
        return error
    allowed = [f"group {group.name}" for group in limits.groups]
    allowed += [f"region {region}" for region in limits.regions]
    allowed += ["no relays"] if limits.direct else []
    message = f"rule {data}: within {', '.join(allowed)} nobody serves it now: {error.message}"
    return ApiError("data_residency_violation", message)


def _is_in(region: str | None, words: tuple[str, ...]) -> bool:
    return region is not None and any(is_within(region, word) for word in words)


def _common(bounds: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """What lies within all that bound anything; nothing, where nothing does."""
    common: tuple[str, ...] = ()
    for rule, words in bounds.items():
        if not (common and words):
            common = common or words
            continue
        both = [each for each in words if any(is_within(each, other) for other in common)]
        both += [each for each in common if any(is_within(each, other) for other in words)]
        if not both:
            raise _outside(rule, f"{', '.join(words)}, and the key is for {', '.join(common)}")
        common = tuple(dict.fromkeys(both))
    return common


def _groups(more: Extension, rule: ClassRule, data: DataClass) -> tuple[Group, ...]:
    if not rule.groups:
        return tuple(Group(name) for name in more.groups)
    trusted = {group.name: group for group in rule.trusted}
    for name in more.groups:
        if name not in trusted:
            raise _outside(f"class {data} groups", f"{', '.join(trusted)}, not {name}")
    return tuple(trusted[name] for name in more.groups or trusted)


def _outside(rule: str, why: str) -> ApiError:
    return ApiError("data_residency_violation", f"rule {rule}: {why}", param="manyhands")
