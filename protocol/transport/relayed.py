"""Why a peer could not be reached through its relay: the relay's own answer to a TLS hello.

In: a relayed address that gRPC could not connect to, which says no more than that. Out: the error
that the relay's alert means, or another; `protocol.relaying` gives the alerts their meaning.
"""

import contextlib

from protocol.address import Address
from protocol.errors import IntegrityError, PeerError, PeerMisbehaved, PeerUnreachable
from protocol.relaying import Alert, refusal
from protocol.transport.reach import who_answers

# As OpenSSL names the alerts that it is sent, in what it raises.
_NAMES = {f"_{alert.name}": alert for alert in Alert}


async def why_not_relayed(address: Address, *, timeout_s: float) -> PeerError | None:
    """None: there is no reason any more; what failed was the connection that was tried."""
    reasons: list[str] = []
    found = None
    with contextlib.suppress(IntegrityError):
        found = await who_answers(address, timeout_s=timeout_s, alerts=reasons)
    for name, alert in _NAMES.items():
        if any(reason.endswith(name) for reason in reasons):
            return refusal(address, alert)
    if found is None:
        return PeerUnreachable(address.peer_id, f"no relay answers at {address.target}")
    if found != address.peer_id:
        return PeerMisbehaved(address.relay, f"it carries to peer {found} who asks for another")
    return None
