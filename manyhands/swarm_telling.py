"""An admin's word to the swarm, from a command: whoever is told passes it on.

In: a home that knows something new. Out: the peers that know it now. The node that runs on this
home comes first, then whom it met last; a few are enough.
"""

from collections.abc import Sequence

from manyhands.home import Home
from manyhands.membership import known_addresses
from manyhands.party import Party, open_party
from manyhands.running import found_running
from manyhands.signals import interruptible
from protocol.address import Address
from protocol.errors import ManyhandsError

ENOUGH, TIMEOUT_S = 3, 3.0


async def learn_and_tell(home: Home, via: Sequence[Address] = ()) -> list[str]:
    """Exchange what is known with a few members; what they knew is kept here.

    Raises:
        ManyhandsError: those that were named cannot be reached.
    """
    party, told = open_party(home, "client"), list[str]()
    with interruptible():
        for address in candidates(home, via):
            try:
                await _exchange(party, address)
                told.append(address.peer_id)
            except ManyhandsError:
                if address in via:
                    raise
            if len(told) >= max(ENOUGH, len(via)):
                break
    party.remember()
    return told


def candidates(home: Home, via: Sequence[Address]) -> list[Address]:
    """Whom to ask, in order."""
    running = [text for record in found_running(home) for text in record.addresses]
    return list(dict.fromkeys((*via, *map(Address.parse, running), *known_addresses(home))))


async def _exchange(party: Party, address: Address) -> None:
    from protocol.membership.exchange import exchange

    assert party.membership is not None
    connection = await party.transport().dial(address, timeout_s=TIMEOUT_S)
    try:
        await exchange(connection, party.membership, timeout_s=TIMEOUT_S)
    finally:
        await connection.aclose()
