"""Meeting the swarm once for all checks: who answers at which address, and what they tell.

In: the addresses that were given or that this home remembers. Out: for each what came of dialling
it, the table of announcements that those who answered hold, and what was dropped from it.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manyhands.running import join_addresses
from protocol.address import Address
from protocol.errors import ManyhandsError, PeerUnreachable
from protocol.identity import PeerId

if TYPE_CHECKING:
    from manyhands.doctor.case import Case
    from protocol.transport import Connection
    from scheduler.directory import Directory

MAX_DIALLED = 16
DIAL_S = 5.0


@dataclass(frozen=True, slots=True)
class Met:
    """dialled: by address, milliseconds to it and back, or why nobody answered there."""

    dialled: Mapping[Address, float | ManyhandsError]
    directory: "Directory"

    @property
    def n_answered(self) -> int:
        return sum(isinstance(came, float) for came in self.dialled.values())


async def meet(case: "Case") -> Met:
    """
    Raises:
        ManyhandsError: our key or membership cannot be used.
    """
    party = await case.party()
    try:
        addresses = join_addresses(case.home, case.asked.join)
    except PeerUnreachable:
        addresses = ()
    directory, transport = party.directory(), party.transport()

    async def dial(address: Address) -> float | ManyhandsError:
        from scheduler.directory import fetch_directory

        try:
            connection = await transport.dial(address, timeout_s=DIAL_S)
            connections: dict[PeerId, Connection] = {address.peer_id: connection}
            try:
                began_s = time.monotonic()
                await connection.call("ping", b"", timeout_s=DIAL_S)
                took_ms = (time.monotonic() - began_s) * 1000
                await fetch_directory(
                    transport, (address,), directory, timeout_s=DIAL_S, connections=connections
                )
            finally:
                await connection.aclose()
        except ManyhandsError as error:
            return error
        return took_ms

    chosen = addresses[:MAX_DIALLED]
    came = await asyncio.gather(*map(dial, chosen))
    return Met(dict(zip(chosen, came, strict=True)), directory)
