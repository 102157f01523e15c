"""Which swarm a home belongs to, by the policy that founded it.

In: a home. Out: the swarm's id, and the bytes it is the hash of. A home without a membership is of
the open swarm, whose policy everybody knows.
"""

from pathlib import Path

from ledger.policy import OPEN_POLICY
from protocol.canonical import encode
from protocol.errors import ConfigError, IntegrityError
from protocol.membership.policy import open_founding
from protocol.signing import OPEN_SWARM_ID, Envelope, object_id

FOUNDING = Path("membership", "founding")
MAX_POLICY_BYTES = 1 << 17


def swarm_of(home: Path) -> tuple[bytes, bytes]:
    """
    Raises:
        ConfigError: its membership cannot be read.
    """
    path = home / FOUNDING
    try:
        with path.open("rb") as file:
            policy = file.read(MAX_POLICY_BYTES)
        return read_policy(policy)[0], policy
    except FileNotFoundError:
        return OPEN_SWARM_ID, encode(OPEN_POLICY.to_fields())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except IntegrityError as error:
        raise ConfigError(f"{path} is no swarm's policy: {error}") from error


def read_policy(policy: bytes) -> tuple[bytes, str]:
    """The id and name of the swarm whose policy this is.

    Raises:
        IntegrityError: it is none.
    """
    if object_id("mh/policy/1", bytes(32), policy) == OPEN_SWARM_ID:
        return OPEN_SWARM_ID, OPEN_POLICY.name
    founding, swarm_id = open_founding(Envelope.decode(policy))
    return swarm_id, founding.name
