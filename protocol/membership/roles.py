"""What a member may do, and which role each call of a node takes.

A call is open to whoever has one of the roles named here; one that is not named takes `provide`,
so that a call somebody adds later is closed to those who only look until that is decided.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from protocol.errors import IntegrityError
from protocol.measured import MAX_GROUP_CHARS


class Role(StrEnum):
    PROVIDE = "provide"  # announce and serve
    USE = "use"  # open sessions
    OBSERVE = "observe"  # see who serves
    RELAY = "relay"  # carry others' bytes


Roles = frozenset[Role]

GROUP = "group:"  # before the name of one, among roles
MAX_GROUPS = 8

NONE: Roles = frozenset()
ALL: Roles = frozenset(Role)
ANY: Roles = ALL  # of a member, whatever it may do
WORK: Roles = frozenset({Role.USE, Role.PROVIDE})
SERVE: Roles = frozenset({Role.PROVIDE})

# Of the caller, by the name of the call or stream.
ASKED: Mapping[str, Roles] = {
    "Hello": ANY,
    "ping": ANY,
    "gossip": ANY,  # what it brings along counts only if who made it may provide
    "status": ANY,
    "swarm": ANY,
    "control": frozenset({Role.USE}),
    "spare": frozenset({Role.USE}),
    "data": WORK,  # a client that holds the ends sends rows, too
    "load": WORK,
    "spend_log": ANY,  # whoever looks at balances checks them
    "spend_news": ANY,
    "spend_fault": ANY,
    "spend_publish": WORK,
    "witness": WORK,
    "reconcile": ANY,  # whoever looks at balances may see what was settled
    "objects": ANY,
    "settle": WORK,  # whoever paid, or shall be paid, for work here
    "faults": ANY,  # what convinces convinces, whoever tells it
    "fingerprints": frozenset({Role.USE}),  # whoever paid for what they are of
    "sent_rows": frozenset({Role.USE}),  # the same
    "file": WORK,
    "weights": WORK,
    "probe": WORK,
    "dial_back": SERVE,  # who serves wants to be dialled; clients are dialled by nobody
    "probe_up": SERVE,  # it asks for nothing but a figure for its announcement
    "handover": SERVE,
    "relay": SERVE,  # be carried
}
# Of whoever answers: prompts, tokens and hidden states go to those alone who may provide.
# Bytes are carried by those who may relay.
ANSWERED: Mapping[str, Roles] = {
    "control": SERVE,
    "data": SERVE,
    "spare": SERVE,
    "relay": frozenset({Role.RELAY}),
}


def asked_of(method: str) -> Roles:
    return ASKED.get(method, SERVE)


def answered_by(method: str) -> Roles:
    return ANSWERED.get(method, ANY)


def role_fields(roles: Iterable[Role], groups: Iterable[str] = ()) -> tuple[str, ...]:
    """Roles have one order, so that what is signed has one spelling.

    groups: of the same peer; they stand among its roles, where earlier versions pass them over.
    """
    return tuple(sorted([*(role.value for role in roles), *(GROUP + name for name in groups)]))


def is_group(name: str) -> bool:
    """Whether a group may be called so."""
    return 0 < len(name) <= MAX_GROUP_CHARS and name.isprintable()


def read_roles(value: Any) -> Roles:
    """Roles that a later version adds are passed over: who cannot name one cannot grant it.

    Raises:
        IntegrityError: these are no roles.
    """
    if not isinstance(value, list | tuple) or len(value) > 16:
        raise IntegrityError("roles are a few words")
    if not all(type(name) is str for name in value) or list(value) != sorted(set(value)):
        raise IntegrityError("roles are words in order, each once")
    known = {role.value: role for role in Role}
    return frozenset(known[name] for name in value if name in known)


def read_groups(value: Any) -> frozenset[str]:
    """The groups among what `read_roles` has found to be roles.

    Raises:
        IntegrityError: one has a name that none can have.
    """
    groups = frozenset(name.removeprefix(GROUP) for name in value if name.startswith(GROUP))
    if not all(map(is_group, groups)) or len(groups) > MAX_GROUPS:
        raise IntegrityError(f"a peer is in up to {MAX_GROUPS} groups, each with a plain name")
    return groups
