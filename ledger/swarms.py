"""Which swarm a home belongs to, by the policy that founded it, and how sessions are paid there.

In: a home, or the policy of a swarm with members. Out: the swarm's id, the bytes it is the hash of,
and the ledger's own policy (`policy.py`), which stands within them: who issues credit, who
witnesses logs. A home without a membership is of the open swarm, whose policy everybody knows.
"""

from dataclasses import replace
from pathlib import Path

from ledger.policy import OPEN_POLICY, Policy
from protocol.canonical import decode, encode
from protocol.errors import ConfigError, IntegrityError
from protocol.membership.policy import Policy as SwarmPolicy
from protocol.membership.policy import open_founding
from protocol.signing import OPEN_SWARM_ID, Envelope, object_id

FOUNDING = Path("membership", "founding")
MAX_POLICY_BYTES = 1 << 17


def funding_of(swarm: SwarmPolicy | None) -> Policy:
    """How sessions are paid for in a swarm; None: in the swarm `open`.

    Whoever has a `Membership` asks with `membership.state.policy`: what is said there of funding
    is part of what the swarm's id is the hash of, and never changes.

    Raises:
        IntegrityError: its founder wrote there what is no policy of this swarm.
    """
    if swarm is None:
        return OPEN_POLICY
    if not swarm.funding:
        return replace(OPEN_POLICY, name=swarm.name)
    policy = Policy.from_fields(decode(swarm.funding))
    if policy.name != swarm.name:
        raise IntegrityError(f"the funding of swarm {swarm.name} is that of another")
    return policy


def swarm_of(home: Path) -> tuple[bytes, bytes]:
    """
    Raises:
        ConfigError: its membership cannot be read.
    """
    founding = _founding(home)
    if founding is None:
        return OPEN_SWARM_ID, encode(OPEN_POLICY.to_fields())
    try:
        return read_policy(founding)[0], founding
    except IntegrityError as error:
        raise ConfigError(f"{home / FOUNDING} is no swarm's policy: {error}") from error


def policy_at(home: Path) -> Policy:
    """How sessions are paid for in the swarm of this home.

    Raises:
        ConfigError: its membership cannot be read.
    """
    founding = _founding(home)
    try:
        swarm = open_founding(Envelope.decode(founding))[0] if founding is not None else None
        return funding_of(swarm)
    except IntegrityError as error:
        raise ConfigError(f"{home / FOUNDING} is no swarm's policy: {error}") from error


def read_policy(policy: bytes) -> tuple[bytes, str]:
    """The id and name of the swarm whose policy this is.

    Raises:
        IntegrityError: it is none.
    """
    if object_id("mh/policy/1", bytes(32), policy) == OPEN_SWARM_ID:
        return OPEN_SWARM_ID, OPEN_POLICY.name
    founding, swarm_id = open_founding(Envelope.decode(policy))
    return swarm_id, founding.name


def _founding(home: Path) -> bytes | None:
    path = home / FOUNDING
    try:
        with path.open("rb") as file:
            return file.read(MAX_POLICY_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
