"""That a home's node and its clients stand for each other, signed by both keys: `HOME/kin`.

In: a home. Out: what a client shows to nodes it owes, so that what its node does for them stands
against that, and what others signed that its node did for them speaks for it. The paper is made
once, by the first client that can read both keys without asking anybody.
"""

import logging
from typing import TYPE_CHECKING

from protocol.clock import wall_ms
from protocol.errors import ManyhandsError
from protocol.key_files import is_encrypted, read_key
from protocol.owing import Showing
from protocol.signing import Envelope

if TYPE_CHECKING:
    from manyhands.home import Home
    from protocol.identity import Identity

log = logging.getLogger(__name__)

FILE_NAME = "kin"
MAX_KIN_BYTES = 1024
MAX_MERITS = 6  # of what others signed, the most


def shown_to_creditors(home: "Home", client: "Identity", swarm_id: bytes) -> Showing:
    """Nothing, where there is no node, or its key is not ours to read."""
    from ledger.tallies import FILE_NAME as TALLIES
    from ledger.tallies import Tallies
    from ledger.tally import open_kin

    kin = _kin_of(home, client, swarm_id)
    if not kin or not (home.node / TALLIES).is_file():
        return Showing(kin=kin)
    try:
        node = open_kin(Envelope.decode(kin), swarm_id).node
        with Tallies.open(home.node, swarm_id) as tallies:
            return Showing(kin=kin, tallies=tuple(tallies.merits(node, MAX_MERITS)))
    except ManyhandsError as error:
        log.info("no tallies to show", extra={"error": str(error)})
        return Showing(kin=kin)


def _kin_of(home: "Home", client: "Identity", swarm_id: bytes) -> bytes:
    """Empty: there is no node here, or its key is not ours to read."""
    from ledger.homes import KEY_NAME
    from ledger.store import write_whole
    from ledger.tally import Kin, open_kin

    path, key_path = home.root / FILE_NAME, home.node / KEY_NAME
    try:
        if path.is_file():
            with path.open("rb") as file:
                held = bytes.fromhex(file.read(2 * MAX_KIN_BYTES).decode("ascii").strip())
            if open_kin(Envelope.decode(held), swarm_id).client == client.public_key:
                return held
        if not key_path.is_file() or is_encrypted(key_path):
            return b""
        node = read_key(key_path)
        kin = Kin(node=node.public_key, client=client.public_key, issued_ms=wall_ms())
        made = kin.seal(swarm_id, node, client.key).encode()
        write_whole(path, made.hex() + "\n")
        return made
    except (ManyhandsError, OSError, ValueError) as error:
        log.info("no kin to show", extra={"error": str(error)})
        return b""
